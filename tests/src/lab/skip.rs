//! Whether this machine can run a test, and what happens when it cannot.
//!
//! A skipped test says why on stderr and returns; with `REQUIRE_ALL=1` it fails instead, so that a machine meant
//! to run everything cannot turn green by skipping.

use std::path::Path;

use super::{bpffs, sys};

/// Something a test needs of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// To be root.
    Root,
    /// Network namespaces.
    Namespaces,
    /// A BPF file system, mounted or mountable.
    BpfFs,
    /// A program in `PATH`, and the Debian package that brings it.
    Program(&'static str, &'static str),
}

/// What every lab needs.
pub const LAB: &[Need] = &[Need::Root, Need::Namespaces, Need::BpfFs];
/// The web server.
pub const NGINX: Need = Need::Program("nginx", "nginx-light");
/// The web client.
pub const CURL: Need = Need::Program("curl", "curl");
/// The front end of nftables.
pub const NFT: Need = Need::Program("nft", "nftables");

impl Need {
    /// Why it is not met, if it is not.
    fn missing(self) -> Option<String> {
        match self {
            Self::Root => (!sys::is_root()).then(|| "needs root (run the tests with sudo)".into()),
            Self::Namespaces => (!Path::new("/proc/self/ns/net").exists())
                .then(|| "the kernel has no network namespaces".into()),
            Self::BpfFs => bpffs::mount_if_missing().err().map(|e| format!("{e:#}")),
            Self::Program(name, package) => find_program(name)
                .is_none()
                .then(|| format!("{name} is not installed (apt-get install {package})")),
        }
    }
}

/// Full path of a program, looked for in `PATH` and in the places where root's tools are.
#[must_use]
pub fn find_program(name: &str) -> Option<std::path::PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|directory| directory.join(name))
        .find(|candidate| candidate.is_file())
}

/// Why the first of `needs` that is not met is not, if any.
#[must_use]
pub fn first_missing(needs: &[Need]) -> Option<String> {
    needs.iter().find_map(|need| need.missing())
}

/// Whether all `needs` are met. If not: says which on stderr, for a test that then returns.
///
/// # Panics
/// With `REQUIRE_ALL=1` when something is missing.
#[must_use]
pub fn can_run(needs: &[Need]) -> bool {
    let Some(why) = first_missing(needs) else { return true };
    say(&why);
    false
}

/// Says on stderr why a test does not run here.
///
/// # Panics
/// With `REQUIRE_ALL=1`.
pub fn say(why: &str) {
    let test = std::thread::current().name().unwrap_or("test").to_owned();
    let required = std::env::var_os("REQUIRE_ALL").is_some_and(|v| v == "1");
    assert!(!required, "{test} cannot run here and REQUIRE_ALL=1: {why}");
    eprintln!("SKIP {test}: {why}");
}
