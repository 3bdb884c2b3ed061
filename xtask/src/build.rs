//! `cargo xtask build`: the workspace's default members. `xdp-lb/build.rs` builds the BPF objects on the way.

use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::command::{cargo, search_path};
use crate::workspace;

/// A cargo command in the workspace's root, with the tools of set-up on its path.
#[must_use]
pub fn cargo_command<S: AsRef<std::ffi::OsStr>>(arguments: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(cargo());
    command.args(arguments).current_dir(workspace::root()).env("PATH", search_path());
    // Set by `cargo run` for xtask itself; build scripts that watch them would run again.
    for name in ["CARGO_MANIFEST_DIR", "CARGO_MANIFEST_PATH"] {
        command.env_remove(name);
    }
    command
}

/// Runs it to its end. No limit: a person sees cargo at work, CI has its own.
///
/// # Errors
/// It cannot be started or fails.
pub fn succeed(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("start {}", command.get_program().display()))?;
    if !status.success() {
        let arguments: Vec<_> = command.get_args().map(|a| a.to_string_lossy()).collect();
        bail!("cargo {} failed ({status})", arguments.join(" "));
    }
    Ok(())
}

/// Builds all default members.
///
/// # Errors
/// cargo fails.
pub fn run(release: bool) -> Result<()> {
    succeed(&mut cargo_command(arguments(release)))
}

fn arguments(release: bool) -> Vec<&'static str> {
    let mut arguments = vec!["build", "--locked"];
    if release {
        arguments.push("--release");
    }
    arguments
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_lock_file_is_never_changed() {
        assert_eq!(super::arguments(false), ["build", "--locked"]);
        assert_eq!(super::arguments(true), ["build", "--locked", "--release"]);
    }
}
