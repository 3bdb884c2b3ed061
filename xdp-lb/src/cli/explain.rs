//! `xdp-lb explain`: which backend, and why.

use std::{path::PathBuf, process::ExitCode};

/// Arguments of `explain`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Prints it.
pub fn run(_args: &Args, bpffs: PathBuf) -> anyhow::Result<ExitCode> {
    let _ = bpffs;
    anyhow::bail!("explain is not built in yet")
}
