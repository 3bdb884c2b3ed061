//! `xdp-lb status`: what the balancer does.

use std::{path::PathBuf, process::ExitCode};

/// Arguments of `status`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Prints it.
pub fn run(_args: &Args, bpffs: PathBuf) -> anyhow::Result<ExitCode> {
    let _ = bpffs;
    anyhow::bail!("status is not built in yet")
}
