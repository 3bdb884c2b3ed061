//! `xdp-lb decap`: the backend side on its own.

use std::{path::PathBuf, process::ExitCode};

use super::{Node, run::OnExit};
use crate::agent::{Role, RunOptions};

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
pub(super) fn run(args: Args, node: Node) -> anyhow::Result<ExitCode> {
    let Args { config, on_exit, replace } = args;
    let Node { bpffs, socket, state } = node;
    let (role, on_exit, allow_moves) = (Role::Decap, on_exit.into(), false);
    super::run::daemon(RunOptions { role, config, bpffs, on_exit, replace, allow_moves, state, socket })
}
