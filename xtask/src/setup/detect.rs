//! Looks at this machine: which rows of the table are there. Changes nothing.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::requirements::{DEBIAN_KEYS, Item, REQUIREMENTS, Requirement};
use crate::command::{finish, search_path, which};
use crate::toolchain::{self, Probe};

/// What was found of one item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// It is there: what, for people.
    Present(String),
    /// It is not, or not the right one: why.
    Missing(String),
}

/// Everything that the plan depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// State of each item.
    pub items: Vec<(Item, State)>,
    /// Whether there is a rustup to ask.
    pub rustup: bool,
    /// A rustup toolchain that lacks nothing but the sources.
    pub teachable: Option<String>,
    /// Whether an LLVM for bpf-linker is installed at [`LLVM_PREFIX`].
    pub llvm: bool,
    /// Whether systemd runs, and would start a freshly installed server.
    pub systemd: bool,
    /// Release of the running kernel.
    pub kernel: String,
}

/// Where Debian and apt.llvm.org put LLVM 22.
pub const LLVM_PREFIX: &str = "/usr/lib/llvm-22";

impl Facts {
    /// A machine with rustup's stable toolchain and nothing else.
    #[must_use]
    pub fn fresh() -> Self {
        let missing = || State::Missing("not there".to_owned());
        Self {
            items: REQUIREMENTS.iter().map(|row| (row.item, missing())).collect(),
            rustup: true,
            teachable: Some("stable".to_owned()),
            llvm: false,
            systemd: true,
            kernel: kernel(),
        }
    }

    /// Looks at this machine, at the given items only.
    #[must_use]
    pub fn of(rows: &[&Requirement]) -> Self {
        let linker = linker();
        // Without a linker, or with a wrong one, the plan brings one with this LLVM.
        let (rust, teachable) = bpf_rust(linker.as_ref().map_or(Some(toolchain::LLVM), |linker| linker.llvm));
        let state = |row: &Requirement| match row.item {
            Item::BpfRust => rust.clone(),
            Item::BpfLinker => match &linker {
                Ok(linker) => State::Present(linker.to_string()),
                Err(why) => State::Missing(why.clone()),
            },
            Item::Bpffs => bpffs(&std::fs::read_to_string("/proc/mounts").unwrap_or_default()),
            Item::DebianKeys => file(DEBIAN_KEYS),
            Item::Cc
            | Item::Curl
            | Item::Iproute2
            | Item::Bpftool
            | Item::Nginx
            | Item::Nftables
            | Item::Promtool
            | Item::Frr
            | Item::Bird
            | Item::Qemu
            | Item::Xz => tool(row.probe.0, row.probe.1),
        };
        Self {
            items: rows.iter().map(|row| (row.item, state(row))).collect(),
            rustup: which("rustup").is_some(),
            teachable,
            llvm: Path::new(LLVM_PREFIX).join("bin/llvm-config").exists(),
            systemd: Path::new("/run/systemd/system").exists(),
            kernel: kernel(),
        }
    }
}

/// A tool is there when it is on the path and answers: Ubuntu's bpftool is a wrapper that may have nothing to wrap.
fn tool(program: &str, argument: &str) -> State {
    let Some(path) = which(program) else {
        return State::Missing(format!("no {program} on the path"));
    };
    let mut command = Command::new(&path);
    command.arg(argument).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    match finish(command, Duration::from_secs(20)) {
        Ok(()) => State::Present(path.display().to_string()),
        Err(error) => State::Missing(format!("{} {argument} fails: {error:#}", path.display())),
    }
}

fn file(path: &str) -> State {
    if Path::new(path).is_file() {
        State::Present(path.to_owned())
    } else {
        State::Missing(format!("no {path}"))
    }
}

struct Linker {
    path: String,
    version: String,
    llvm: Option<u32>,
}

impl std::fmt::Display for Linker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}, {}", self.path, self.version)?;
        self.llvm.map_or(Ok(()), |llvm| write!(f, ", LLVM {llvm}"))
    }
}

fn linker() -> Result<Linker, String> {
    let path = which("bpf-linker").ok_or("no bpf-linker on the path")?;
    let output =
        Command::new(&path).arg("--version").env("PATH", search_path()).stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("{} does not start: {error}", path.display()))?;
    let version = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if !right_linker(&version) {
        // Also what a linker says whose libLLVM has gone: nothing.
        return Err(format!("{} is {version:?}, not bpf-linker 0.13", path.display()));
    }
    let llvm = toolchain::llvm_of_linker(&std::fs::read(&path).unwrap_or_default());
    if let Some(old) = too_old(llvm) {
        return Err(format!(
            "{} is linked with LLVM {old}, older than rustc's {}",
            path.display(),
            toolchain::LLVM
        ));
    }
    Ok(Linker { path: path.display().to_string(), version, llvm })
}

/// The linker is what set-up can build anew; no rustc on a distribution's archive is as old as some linkers are.
fn too_old(llvm: Option<u32>) -> Option<u32> {
    llvm.filter(|llvm| *llvm < toolchain::LLVM)
}

fn right_linker(version: &str) -> bool {
    version.strip_prefix("bpf-linker ").is_some_and(|number| number.starts_with("0.13."))
}

fn bpf_rust(linker_llvm: Option<u32>) -> (State, Option<String>) {
    let seen = match toolchain::find(linker_llvm) {
        Ok(found) => {
            let text = format!("{}, {} on LLVM {}", found.at.name, found.rustc.release, found.rustc.llvm);
            return (State::Present(text), None);
        }
        Err(seen) => seen,
    };
    let teachable = seen.iter().find_map(|probe| match probe {
        Probe::NoSources(toolchain) => toolchain.at.rustup.clone(),
        _ => None,
    });
    let told = seen.into_iter().map(|probe| match probe {
        Probe::Complete(t) => format!("{} is complete", t.at.name),
        Probe::NoSources(t) => format!("{} lacks rust-src", t.at.name),
        Probe::Unfit(at, why) => format!("{}: {why}", at.name),
        Probe::Absent(at) => format!("{} is not installed", at.name),
    });
    (State::Missing(told.collect::<Vec<_>>().join("; ")), teachable)
}

fn bpffs(mounts: &str) -> State {
    let mounted = mounts.lines().any(|line| {
        let mut fields = line.split(' ').skip(1);
        fields.next() == Some("/sys/fs/bpf") && fields.next() == Some("bpf")
    });
    if mounted { State::Present("mounted".to_owned()) } else { State::Missing("not mounted".to_owned()) }
}

fn kernel() -> String {
    std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bpffs_is_read_from_mounts() {
        assert!(matches!(bpffs("bpf /sys/fs/bpf bpf rw,nosuid 0 0\n"), State::Present(_)));
        assert!(matches!(bpffs("sysfs /sys sysfs rw 0 0\n"), State::Missing(_)));
        assert!(matches!(bpffs("tmpfs /sys/fs/bpf tmpfs rw 0 0\n"), State::Missing(_)));
    }

    #[test]
    fn the_linkers_version_counts() {
        assert!(right_linker("bpf-linker 0.13.4"));
        assert!(!right_linker("bpf-linker 0.9.15"));
        assert!(!right_linker("bpf-linker 0.130.0"));
        assert!(!right_linker(""));
        assert_eq!(too_old(Some(21)), Some(21));
        assert_eq!([too_old(Some(22)), too_old(Some(23)), too_old(None)], [None; 3]);
    }

    #[test]
    fn a_tool_that_does_not_answer_is_missing() {
        assert!(matches!(tool("true", "--version"), State::Present(_)));
        assert!(matches!(tool("false", "--nothing"), State::Missing(_)));
        assert!(matches!(tool("xdp-lb-no-such-tool", ""), State::Missing(_)));
    }
}
