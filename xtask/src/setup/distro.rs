//! Which distribution this is: it decides the names of packages.

use std::fmt;
use std::str::FromStr;

/// A distribution whose package names are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Distro {
    /// Debian 12 "bookworm".
    Debian12,
    /// Debian 13 "trixie".
    Debian13,
    /// Ubuntu 22.04 "jammy".
    Ubuntu2204,
    /// Ubuntu 24.04 "noble".
    Ubuntu2404,
    /// Anything else: what is missing is named, but not installed.
    Other,
}

impl Distro {
    /// Those whose package names are known.
    pub const KNOWN: [Self; 4] = [Self::Debian12, Self::Debian13, Self::Ubuntu2204, Self::Ubuntu2404];

    /// Reads `/etc/os-release`. Debian testing and the like have no `VERSION_ID` and are [`Distro::Other`].
    #[must_use]
    pub fn from_os_release(text: &str) -> Self {
        let field = |name: &str| {
            text.lines().find_map(|line| line.strip_prefix(name)).map(|value| value.trim().trim_matches('"'))
        };
        let (id, version) = (field("ID=").unwrap_or_default(), field("VERSION_ID=").unwrap_or_default());
        format!("{id}-{version}").parse().unwrap_or(Self::Other)
    }

    /// The distribution of this machine.
    #[must_use]
    pub fn here() -> Self {
        Self::from_os_release(&std::fs::read_to_string("/etc/os-release").unwrap_or_default())
    }

    /// Whether its own archive carries LLVM 22 and a rustc built on it.
    #[must_use]
    pub fn has_llvm_and_rustc(self) -> bool {
        matches!(self, Self::Debian12 | Self::Debian13)
    }

    /// The name its archive uses for the release.
    #[must_use]
    pub fn codename(self) -> &'static str {
        match self {
            Self::Debian12 => "bookworm",
            Self::Debian13 => "trixie",
            Self::Ubuntu2204 => "jammy",
            Self::Ubuntu2404 => "noble",
            Self::Other => "unknown",
        }
    }
}

impl fmt::Display for Distro {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Debian12 => "debian-12",
            Self::Debian13 => "debian-13",
            Self::Ubuntu2204 => "ubuntu-22.04",
            Self::Ubuntu2404 => "ubuntu-24.04",
            Self::Other => "other",
        })
    }
}

impl FromStr for Distro {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let all = Self::KNOWN.into_iter().chain([Self::Other]);
        all.into_iter().find(|distro| distro.to_string() == name).ok_or_else(|| {
            format!("{name} is none of debian-12, debian-13, ubuntu-22.04, ubuntu-24.04, other")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn os_release_is_read() {
        let read = Distro::from_os_release;
        assert_eq!(read("NAME=\"Debian GNU/Linux\"\nVERSION_ID=\"12\"\nID=debian\n"), Distro::Debian12);
        assert_eq!(read("ID=ubuntu\nID_LIKE=debian\nVERSION_ID=\"24.04\"\n"), Distro::Ubuntu2404);
        assert_eq!(read("ID=debian\nPRETTY_NAME=\"Debian GNU/Linux forky/sid\"\n"), Distro::Other);
        assert_eq!(read(""), Distro::Other);
    }
}
