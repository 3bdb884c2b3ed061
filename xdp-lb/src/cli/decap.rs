//! `xdp-lb decap`: the backend side on its own.

use std::{path::PathBuf, process::ExitCode};

use super::run::OnExit;
use crate::{
    agent::{Role, RunOptions},
    dataplane::BpffsRoot,
};

/// Arguments of `decap`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Configuration file, or directory of files (*.yaml, *.yml) in the order of their names
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// What becomes of the program and of VIPs on `lo` when the agent is told to end
    #[arg(long, value_name = "WHAT", default_value = "keep")]
    on_exit: OnExit,
    /// Take an interface over from an XDP program that is not ours
    #[arg(long)]
    replace: bool,
}

/// Takes tunnels off until it is told to end.
pub fn run(args: Args, bpffs: BpffsRoot) -> anyhow::Result<ExitCode> {
    let Args { config, on_exit, replace } = args;
    let role = Role::Decap;
    super::run::daemon(RunOptions {
        role,
        config,
        bpffs,
        on_exit: on_exit.into(),
        replace,
        allow_moves: false,
    })
}
