//! `xdp-lb load`: program and maps, filled and pinned, attached to nothing. For test runs and for bpftool.

use std::{path::PathBuf, process::ExitCode};

use crate::{agent, config::Checked, dataplane::BpffsRoot};

/// Arguments of `load`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Configuration file, or directory of files (*.yaml, *.yml) in the order of their names
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Directory on a BPF file system that gets `prog` and `maps/`
    #[arg(long, value_name = "DIR")]
    pin: PathBuf,
}

/// Loads, fills, pins.
pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let Args { config, pin } = args;
    let Checked { desired, .. } = crate::file::read(&config)?;
    super::runtime()?.block_on(agent::load(desired, &BpffsRoot::new(pin)))?;
    Ok(ExitCode::SUCCESS)
}
