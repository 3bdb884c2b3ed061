//! Which kernel package is meant: the newest ABI of a series, or the newest of all, from the archive's package names.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

const PREFIX: &str = "linux-image-";
const SUFFIX: &str = "-cloud-amd64";

/// A kernel that somebody asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// The newest of a series: `6.1`.
    Series(String),
    /// The newest of all.
    Newest,
}

impl Wanted {
    /// What `cargo xtask vm-test` asks for by itself: what we promise, and what is to come.
    #[must_use]
    pub fn promised() -> Vec<Self> {
        let series = ["5.10", "6.1", "6.12"].map(|series| Self::Series(series.to_owned()));
        series.into_iter().chain([Self::Newest]).collect()
    }
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Series(series) => f.write_str(series),
            Self::Newest => f.write_str("newest"),
        }
    }
}

impl FromStr for Wanted {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let is_number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        let parts: Vec<&str> = text.split('.').collect();
        match text {
            "newest" => Ok(Self::Newest),
            _ if parts.len() == 2 && parts.iter().all(|part| is_number(part)) => {
                Ok(Self::Series(text.to_owned()))
            }
            _ => Err(format!("{text:?} is neither a kernel series like 6.1 nor \"newest\"")),
        }
    }
}

/// The release in the name of an image package with a kernel of its own: `6.1.0-56`, `7.3.4+deb13`. Packages without
/// three numbers stand for others, and unsigned ones for the same.
fn release(package: &str) -> Option<&str> {
    let release = package.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?;
    let mut numbers = release.split(['.', '-', '+']);
    let three = numbers.by_ref().take(3).filter(|part| part.parse::<u32>().is_ok()).count() == 3;
    three.then_some(release)
}

/// The package of the newest kernel that is `wanted`.
#[must_use]
pub fn pick<'a>(packages: impl IntoIterator<Item = &'a str>, wanted: &Wanted) -> Option<&'a str> {
    let fits = |release: &str| match wanted {
        Wanted::Series(series) => {
            release.strip_prefix(series.as_str()).is_some_and(|rest| rest.starts_with('.'))
        }
        Wanted::Newest => true,
    };
    packages
        .into_iter()
        .filter_map(|package| Some((package, release(package)?)))
        .filter(|(_, release)| fits(release))
        .max_by(|a, b| compare(a.1, b.1))
        .map(|(package, _)| package)
}

/// Compares numbers as numbers and what is between them as text.
fn compare(a: &str, b: &str) -> Ordering {
    parts(a).cmp(&parts(b))
}

/// Runs of digits and of anything else; a number sorts after text, so that `6.1.0-56` is newer than `6.1.0-0.deb11`.
fn parts(release: &str) -> Vec<(Option<u64>, &str)> {
    let mut found = Vec::new();
    let mut rest = release;
    while let Some(first) = rest.bytes().next() {
        let same = |c: char| c.is_ascii_digit() == first.is_ascii_digit();
        let end = rest.find(|c| !same(c)).unwrap_or(rest.len());
        let (part, tail) = rest.split_at(end);
        found.push((part.parse().ok(), if first.is_ascii_digit() { "" } else { part }));
        rest = tail;
    }
    found
}

/// A package and the version it must have, from the `Depends` of an image package: the parts of the kernel, where the
/// image is none itself.
#[must_use]
pub fn kernel_parts(depends: &str) -> Vec<(String, String)> {
    depends
        .split(',')
        .filter_map(|one| {
            let (name, version) = one.trim().split_once(" (= ")?;
            let version = version.strip_suffix(')')?;
            ["linux-binary-", "linux-modules-", "linux-image-"]
                .iter()
                .any(|prefix| name.starts_with(prefix))
                .then(|| (name.to_owned(), version.to_owned()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACKAGES: &str = "linux-image-5.10.0-9-cloud-amd64
linux-image-5.10.0-46-cloud-amd64
linux-image-5.10.0-46-cloud-amd64-unsigned
linux-image-6.1-cloud-amd64
linux-image-6.1.0-0.deb11.52-cloud-amd64
linux-image-6.1.0-9-cloud-amd64
linux-image-6.1.0-56-cloud-amd64
linux-image-6.12.100+deb12-cloud-amd64
linux-image-6.12.117+deb12-cloud-amd64
linux-image-6.12.117+deb13-cloud-amd64
linux-image-6.19.14+deb13-cloud-amd64
linux-image-7.2.12+deb13-cloud-amd64
linux-image-7.3.4+deb13-cloud-amd64
linux-image-8.0.1+deb13-amd64
linux-image-cloud-amd64";

    fn picked(wanted: &str) -> Option<&'static str> {
        pick(PACKAGES.lines(), &wanted.parse().unwrap())
    }

    #[test]
    fn the_newest_abi_of_a_series() {
        assert_eq!(picked("5.10"), Some("linux-image-5.10.0-46-cloud-amd64"));
        assert_eq!(picked("6.1"), Some("linux-image-6.1.0-56-cloud-amd64"));
        assert_eq!(picked("6.12"), Some("linux-image-6.12.117+deb13-cloud-amd64"));
        assert_eq!(picked("newest"), Some("linux-image-7.3.4+deb13-cloud-amd64"));
        assert_eq!(picked("6.6"), None);
        assert_eq!(picked("6.11"), None);
    }

    #[test]
    fn order_of_names_does_not_matter() {
        let backwards: Vec<&str> = PACKAGES.lines().rev().collect();
        for wanted in Wanted::promised() {
            assert_eq!(pick(backwards.iter().copied(), &wanted), pick(PACKAGES.lines(), &wanted), "{wanted}");
        }
    }

    #[test]
    fn what_is_no_series_is_refused() {
        for text in ["", "6", "6.1.0", "6.", "six", "Newest", "6.1-rc1"] {
            assert!(text.parse::<Wanted>().is_err(), "{text}");
        }
        assert_eq!("6.18".parse(), Ok(Wanted::Series("6.18".to_owned())));
    }

    #[test]
    fn an_image_without_a_kernel_names_its_parts() {
        let depends = "dracut | initramfs-tools (>= 0.120+deb8u2) | linux-initramfs-tool, \
                       linux-base-7.3.4+deb13-cloud-amd64 (= 7.3.4-1~bpo13+1), \
                       linux-binary-7.3.4+deb13-cloud-amd64 (= 7.3.4-1~bpo13+1), \
                       linux-modules-7.3.4+deb13-cloud-amd64 (= 7.3.4-1~bpo13+1)";
        let version = "7.3.4-1~bpo13+1".to_owned();
        assert_eq!(
            kernel_parts(depends),
            [
                ("linux-binary-7.3.4+deb13-cloud-amd64".to_owned(), version.clone()),
                ("linux-modules-7.3.4+deb13-cloud-amd64".to_owned(), version)
            ]
        );
        assert!(kernel_parts("kmod, linux-base (>= 4.3~)").is_empty());
    }
}
