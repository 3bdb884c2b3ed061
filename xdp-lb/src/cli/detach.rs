//! `xdp-lb detach`: forwarding ends and every pin goes.

use std::{path::PathBuf, process::ExitCode};

/// Detaches and unpins.
pub fn run(bpffs: PathBuf) -> anyhow::Result<ExitCode> {
    let _ = bpffs;
    anyhow::bail!("detach is not built in yet")
}
