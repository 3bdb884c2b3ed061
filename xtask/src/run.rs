//! `cargo xtask run`: the lab, or the balancer itself, in this process's place.
//!
//! The program is exec'd, not spawned: Ctrl-C reaches it once, and its exit code is ours.

use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::build;
use crate::command::{is_root, search_path};

/// Builds, then becomes the program that the arguments ask for.
///
/// # Errors
/// The build fails or the program cannot be started; otherwise this does not return.
pub fn run(release: bool, arguments: Vec<String>) -> Result<()> {
    build::run(release)?;
    let (program, arguments) = target(arguments);
    become_program(program, release, arguments)
}

/// Which binary, with which arguments: a configuration means this host, none means the lab.
fn target(mut arguments: Vec<String>) -> (&'static str, Vec<String>) {
    // `cargo xtask run -- --for 30s` is a habit from `cargo run`.
    if arguments.first().is_some_and(|first| first == "--") {
        arguments.remove(0);
    }
    if arguments.iter().any(|a| a == "--config" || a.starts_with("--config=")) {
        arguments.insert(0, "run".to_owned());
        ("xdp-lb", arguments)
    } else {
        ("xdp-lb-lab", arguments)
    }
}

/// Replaces this process by a binary of the workspace, as root.
///
/// # Errors
/// It was not built or cannot be started; otherwise this does not return.
pub fn become_program(program: &str, release: bool, arguments: Vec<String>) -> Result<()> {
    let own = std::env::current_exe().context("find the target folder")?;
    let path = beside(&own, release, program).context("xtask does not run from a target folder")?;
    if !path.exists() {
        bail!("{} was not built: this workspace has no binary {program}", path.display());
    }
    let mut command = if is_root() {
        Command::new(&path)
    } else {
        let mut sudo = Command::new("sudo");
        sudo.arg("-E").arg(&path);
        sudo
    };
    let error = command.args(arguments).env("PATH", search_path()).exec();
    Err(error).with_context(|| format!("start {}", command.get_program().display()))
}

/// xtask lies in `target/debug` or, with a target triple, `target/TRIPLE/debug`; so do the others.
fn beside(own: &Path, release: bool, program: &str) -> Option<PathBuf> {
    let profile = if release { "release" } else { "debug" };
    Some(own.parent()?.parent()?.join(profile).join(program))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(line: &str) -> (&'static str, String) {
        let (program, arguments) = target(line.split_whitespace().map(str::to_owned).collect());
        (program, arguments.join(" "))
    }

    #[test]
    fn a_configuration_means_this_host() {
        assert_eq!(shown(""), ("xdp-lb-lab", String::new()));
        assert_eq!(shown("-- --for 30s"), ("xdp-lb-lab", "--for 30s".to_owned()));
        assert_eq!(shown("--keep"), ("xdp-lb-lab", "--keep".to_owned()));
        assert_eq!(
            shown("--config a.yaml --replace"),
            ("xdp-lb", "run --config a.yaml --replace".to_owned())
        );
        assert_eq!(
            shown("--on-exit keep --config=b"),
            ("xdp-lb", "run --on-exit keep --config=b".to_owned())
        );
    }

    #[test]
    fn binaries_lie_beside_xtask() {
        let at = |own: &str, release| beside(Path::new(own), release, "xdp-lb").unwrap();
        assert_eq!(at("/w/target/debug/xtask", false), Path::new("/w/target/debug/xdp-lb"));
        assert_eq!(at("/w/target/debug/xtask", true), Path::new("/w/target/release/xdp-lb"));
        assert_eq!(at("/w/target/T/debug/xtask", true), Path::new("/w/target/T/release/xdp-lb"));
    }
}
