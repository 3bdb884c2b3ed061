//! `xdp-lb run`: the balancer on an edge node.

use std::{path::PathBuf, process::ExitCode};

use clap::ValueEnum;

use crate::dataplane::BpffsRoot;

/// Arguments of `run`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Configuration file
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// What becomes of the program when the agent is told to end: `keep` goes on forwarding
    #[arg(long, value_name = "WHAT", default_value = "keep")]
    on_exit: OnExit,
    /// Take an interface over from an XDP program that is not ours
    #[arg(long)]
    replace: bool,
    /// Carry out changes that move every flow of a live service (seed, table_size, affinity)
    #[arg(long)]
    allow_moves: bool,
}

/// `--on-exit`.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum OnExit {
    /// Program, maps and links stay: packets are forwarded as they were
    Keep,
    /// As `xdp-lb detach`: forwarding ends with the agent
    Detach,
}

/// Runs the balancer until it is told to end.
pub fn run(args: Args, bpffs: BpffsRoot) -> anyhow::Result<ExitCode> {
    let Args { config, on_exit, replace, allow_moves } = args;
    super::file::read(&config)?;
    // THE LEAD'S: agent::run(RunOptions { config, bpffs, on_exit, replace, allow_moves })
    let _ = (bpffs, on_exit, replace, allow_moves);
    anyhow::bail!("run is not built in yet")
}
