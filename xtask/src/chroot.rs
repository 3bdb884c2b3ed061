//! `cargo xtask test chroot`: set-up itself under test, on fresh Debian 12 and 13. The work is in `chroot.sh`.

use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::workspace;

/// Runs it for the given suites, or for all. Bounded by the script.
///
/// # Errors
/// A set-up does not do what it promises, or there is no root or no debootstrap.
pub fn run(suites: &[String]) -> Result<()> {
    let script = workspace::root().join("xtask/chroot.sh");
    let status =
        Command::new(&script).args(suites).status().with_context(|| format!("start {}", script.display()))?;
    if !status.success() {
        bail!("set-up in a chroot failed ({status})");
    }
    Ok(())
}
