//! Decides which Rust toolchain builds the BPF programs.
//!
//! `xtask setup` and `xtask check` call it, and `xdp-lb/build.rs` may include this very file
//! (`#[path]`), so that what set-up promised is what the build takes. Standard library only.
//!
//! BPF is a tier 3 target: `core` is built from its sources (`-Z build-std=core`), which takes a nightly
//! or `RUSTC_BOOTSTRAP=1`. And bpf-linker must know rustc's bitcode: rustc's LLVM may not be newer than
//! bpf-linker's.
//!
//! | order | toolchain | `RUSTC_BOOTSTRAP` |
//! |---|---|---|
//! | 1 | rustup `nightly-DATE`, the one set-up installs where nothing else fits | no |
//! | 2 | rustup `nightly` | no |
//! | 3 | Debian's `rustc-web cargo-web rust-web-src`, under `/usr` | yes |
//! | 4 | the rustup toolchain in use, if new enough | yes |
//!
//! `XDP_LB_BPF_TOOLCHAIN` (a rustup toolchain's name or a sysroot) overrules the order.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// LLVM that set-up builds bpf-linker with: Debian 12 and 13 carry it, and their rustc 1.96 is built on it.
pub const LLVM: u32 = 22;

/// A nightly with that LLVM, for machines whose packages bring no suitable rustc.
pub const NIGHTLY: &str = "nightly-2026-05-20";

/// The workspace's `rust-version`: (major, minor).
pub const OLDEST_RUSTC: (u32, u32) = (1, 95);

/// Overrules the order: a rustup toolchain's name or a sysroot.
pub const OVERRIDE: &str = "XDP_LB_BPF_TOOLCHAIN";

/// A place where a toolchain may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Name for people.
    pub name: String,
    /// Its name in rustup, if it is rustup's.
    pub rustup: Option<String>,
    /// Holds `bin/` and `lib/rustlib/`.
    pub sysroot: PathBuf,
}

/// A toolchain that can build for BPF.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Toolchain {
    /// Where it is.
    pub at: Candidate,
    /// What its rustc is.
    pub rustc: RustcVersion,
}

/// What a candidate turned out to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probe {
    /// It can build for BPF.
    Complete(Toolchain),
    /// It could if it had core's sources.
    NoSources(Toolchain),
    /// Its rustc is too old, or newer than bpf-linker's LLVM.
    Unfit(Candidate, String),
    /// There is none.
    Absent(Candidate),
}

/// The lines of `rustc -vV` that matter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RustcVersion {
    /// As printed: `1.96.0` or `1.97.0-nightly`.
    pub release: String,
    /// (major, minor).
    pub number: (u32, u32),
    /// Major version of its LLVM.
    pub llvm: u32,
}

impl RustcVersion {
    /// Reads the output of `rustc -vV`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let field = |name| text.lines().find_map(|l| l.strip_prefix(name)).map(str::trim);
        let release = field("release:")?.to_owned();
        let mut numbers = release.split('.').map(str::parse);
        let number = (numbers.next()?.ok()?, numbers.next()?.ok()?);
        let llvm = field("LLVM version:")?.split('.').next()?.parse().ok()?;
        Some(Self { release, number, llvm })
    }

    /// Whether unstable features need `RUSTC_BOOTSTRAP=1`.
    #[must_use]
    pub fn needs_bootstrap(&self) -> bool {
        !self.release.contains("nightly") && !self.release.contains("dev")
    }

    /// Why it cannot serve beside a bpf-linker with the given LLVM (`None`: unknown), if it cannot.
    #[must_use]
    pub fn unfit(&self, linker_llvm: Option<u32>) -> Option<String> {
        let (major, minor) = OLDEST_RUSTC;
        if self.number < OLDEST_RUSTC {
            return Some(format!("rustc {} is older than {major}.{minor}", self.release));
        }
        match linker_llvm {
            Some(linker) if self.llvm > linker => Some(format!(
                "rustc {} writes LLVM {} bitcode, bpf-linker reads up to LLVM {linker}",
                self.release, self.llvm
            )),
            _ => None,
        }
    }
}

impl Toolchain {
    /// A command of this toolchain (`cargo`, `rustc`), without what an outer cargo handed down.
    ///
    /// Build scripts and `cargo run` see `RUSTC`, `RUSTFLAGS`, `CARGO_*` and `RUSTUP_TOOLCHAIN` of the host
    /// build; an inner cargo that inherits them builds with the wrong compiler or for the wrong target.
    #[must_use]
    pub fn command(&self, tool: &str) -> Command {
        let bin = self.at.sysroot.join("bin");
        let mut command = Command::new(bin.join(tool));
        for (name, _) in env::vars_os() {
            if name.to_str().is_some_and(handed_down) {
                command.env_remove(name);
            }
        }
        let mut path = vec![bin.clone()];
        path.extend(env::split_paths(&env::var_os("PATH").unwrap_or_default()));
        command.env("PATH", env::join_paths(path).unwrap_or_else(|_| OsString::from(&bin)));
        command.env("RUSTC", bin.join("rustc"));
        if self.rustc.needs_bootstrap() {
            command.env("RUSTC_BOOTSTRAP", "1");
        }
        command
    }

    /// Whether this toolchain has clippy.
    #[must_use]
    pub fn has_clippy(&self) -> bool {
        ["cargo-clippy", "clippy-driver"].iter().all(|tool| self.at.sysroot.join("bin").join(tool).exists())
    }
}

/// Whether an environment variable belongs to the outer cargo's build rather than to the user's settings
/// (`CARGO_HOME`, `CARGO_NET_*`, `CARGO_HTTP_*`, `CARGO_REGISTR*` stay).
fn handed_down(name: &str) -> bool {
    const EXACT: [&str; 14] = [
        "CARGO",
        "CARGO_BUILD_RUSTFLAGS",
        "CARGO_BUILD_TARGET",
        "CARGO_ENCODED_RUSTFLAGS",
        "HOST",
        "LD_LIBRARY_PATH",
        "OUT_DIR",
        "PROFILE",
        "RUSTDOC",
        "RUSTDOCFLAGS",
        "RUSTFLAGS",
        "RUSTUP_TOOLCHAIN",
        "TARGET",
        "NUM_JOBS",
    ];
    const PREFIXES: [&str; 8] = [
        "CARGO_BIN_",
        "CARGO_CFG_",
        "CARGO_CRATE_",
        "CARGO_FEATURE_",
        "CARGO_MANIFEST_",
        "CARGO_PKG_",
        "CARGO_TARGET_",
        "RUSTC",
    ];
    EXACT.contains(&name) || PREFIXES.iter().any(|prefix| name.starts_with(prefix))
}

/// Where toolchains may be, best first.
#[must_use]
pub fn candidates() -> Vec<Candidate> {
    let rustup = env::var_os("RUSTUP_HOME")
        .map(PathBuf::from)
        .or_else(|| env::var_os("HOME").map(|home| Path::new(&home).join(".rustup")))
        .map(|home| home.join("toolchains"));
    let in_use = env::var("RUSTUP_TOOLCHAIN").unwrap_or_else(|_| "stable".to_owned());
    listed(rustup.as_deref(), &in_use, env::var(OVERRIDE).ok().as_deref())
}

fn listed(rustup: Option<&Path>, in_use: &str, only: Option<&str>) -> Vec<Candidate> {
    let in_rustup = |name: &str| {
        let host = format!("-{}-unknown-linux-gnu", env::consts::ARCH);
        let folder = if name.ends_with(&host) { name.to_owned() } else { format!("{name}{host}") };
        let short = name.strip_suffix(&host).unwrap_or(name).to_owned();
        let linked = rustup?.join(&short);
        let sysroot = if linked.exists() { linked } else { rustup?.join(folder) };
        Some(Candidate { name: format!("rustup's {short}"), rustup: Some(short), sysroot })
    };
    let at = |sysroot: &str, name: String| Candidate { name, rustup: None, sysroot: PathBuf::from(sysroot) };
    if let Some(only) = only {
        return if only.starts_with('/') {
            vec![at(only, format!("the toolchain in {only}"))]
        } else {
            in_rustup(only).into_iter().collect()
        };
    }
    let mut all: Vec<Candidate> = [NIGHTLY, "nightly"].into_iter().filter_map(in_rustup).collect();
    all.push(at("/usr", "Debian's rustc".to_owned()));
    all.extend(in_rustup(in_use).filter(|c| !all.contains(c)));
    all
}

/// Looks at one candidate.
#[must_use]
pub fn probe(at: Candidate, linker_llvm: Option<u32>) -> Probe {
    let rustc = at.sysroot.join("bin/rustc");
    if !rustc.exists() || !at.sysroot.join("bin/cargo").exists() {
        return Probe::Absent(at);
    }
    // Not through rustup's proxies: they may download a toolchain that is merely named.
    let output = Command::new(&rustc).arg("-vV").stdin(Stdio::null()).stderr(Stdio::null()).output();
    let version = output.ok().and_then(|o| RustcVersion::parse(&String::from_utf8_lossy(&o.stdout)));
    let Some(version) = version else {
        return Probe::Unfit(at, format!("{} -vV does not answer", rustc.display()));
    };
    if let Some(why) = version.unfit(linker_llvm) {
        return Probe::Unfit(at, why);
    }
    let sources = at.sysroot.join("lib/rustlib/src/rust/library/core/src/lib.rs").exists();
    let toolchain = Toolchain { at, rustc: version };
    if sources { Probe::Complete(toolchain) } else { Probe::NoSources(toolchain) }
}

/// The toolchain to build with, or what was found instead, best first.
///
/// # Errors
/// None is complete.
pub fn find(linker_llvm: Option<u32>) -> Result<Toolchain, Vec<Probe>> {
    let mut seen = Vec::new();
    for candidate in candidates() {
        match probe(candidate, linker_llvm) {
            Probe::Complete(toolchain) => return Ok(toolchain),
            other => seen.push(other),
        }
    }
    Err(seen)
}

/// Major version of the LLVM that a dynamically linked bpf-linker asks for; `None` when it carries its own.
#[must_use]
pub fn llvm_of_linker(binary: &[u8]) -> Option<u32> {
    [&b"libLLVM.so."[..], b"libLLVM-"].iter().find_map(|mark| {
        let at = binary.windows(mark.len()).position(|w| w == *mark)? + mark.len();
        let digits: Vec<u8> = binary[at..].iter().copied().take_while(u8::is_ascii_digit).collect();
        String::from_utf8(digits).ok()?.parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEBIAN: &str = "rustc 1.96.0 (ac68faa20 2026-05-25)\nhost: x86_64-unknown-linux-gnu\nrelease: 1.96.0\nLLVM version: 22.1.8\n";

    #[test]
    fn rustc_version_is_read() {
        let version = RustcVersion::parse(DEBIAN).unwrap();
        assert_eq!((version.number, version.llvm), ((1, 96), 22));
        assert!(version.needs_bootstrap());
        let nightly = RustcVersion::parse("release: 1.97.0-nightly\nLLVM version: 22.1.4").unwrap();
        assert!(!nightly.needs_bootstrap());
        assert_eq!(RustcVersion::parse("rustc: command not found"), None);
    }

    #[test]
    fn rustc_must_not_be_newer_than_the_linker_nor_older_than_the_workspace() {
        let mut version = RustcVersion::parse(DEBIAN).unwrap();
        assert_eq!(version.unfit(Some(22)), None);
        assert_eq!(version.unfit(Some(23)), None);
        assert_eq!(version.unfit(None), None);
        assert!(version.unfit(Some(21)).unwrap().contains("LLVM 22"));
        version.number = (1, 63);
        assert!(version.unfit(Some(22)).is_some());
    }

    #[test]
    fn order_of_candidates() {
        let names = |only| -> Vec<String> {
            let host = format!("stable-{}-unknown-linux-gnu", env::consts::ARCH);
            listed(Some(Path::new("/none")), &host, only).into_iter().map(|c| c.name).collect()
        };
        let pinned = format!("rustup's {NIGHTLY}");
        assert_eq!(names(None), [pinned.as_str(), "rustup's nightly", "Debian's rustc", "rustup's stable"]);
        assert_eq!(names(Some("/opt/rust")), ["the toolchain in /opt/rust"]);
        assert_eq!(names(Some("beta")), ["rustup's beta"]);
        assert_eq!(listed(None, "stable", None).len(), 1, "without rustup there is /usr alone");
        assert_eq!(listed(Some(Path::new("/none")), "nightly", None).len(), 3, "nightly is not listed twice");
    }

    #[test]
    fn linker_llvm_is_read_from_what_it_links() {
        assert_eq!(llvm_of_linker(b"\0libc.so.6\0libLLVM.so.22.1\0"), Some(22));
        assert_eq!(llvm_of_linker(b"\0libLLVM-19.so.1\0"), Some(19));
        assert_eq!(llvm_of_linker(b"\x7fELF static"), None);
    }

    #[test]
    fn users_settings_stay() {
        assert!(
            ["RUSTFLAGS", "RUSTC_WRAPPER", "CARGO_TARGET_DIR", "CARGO_PKG_NAME"].into_iter().all(handed_down)
        );
        assert!(
            !["CARGO_HOME", "CARGO_HTTP_CAINFO", "CARGO_NET_OFFLINE", "PATH", "HOME"]
                .into_iter()
                .any(handed_down)
        );
    }
}
