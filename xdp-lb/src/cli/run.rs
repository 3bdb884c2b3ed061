//! `xdp-lb run`: the balancer on an edge node.

use std::{path::PathBuf, process::ExitCode};

use clap::ValueEnum;

use super::Node;
use crate::{
    agent::{self, Role, RunOptions, log},
    file,
    intake::Offer,
};

/// Arguments of `run`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Configuration file, or directory of files (*.yaml, *.yml) in the order of their names
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
pub(super) fn run(args: Args, node: Node) -> anyhow::Result<ExitCode> {
    let Args { config, on_exit, replace, allow_moves } = args;
    let Node { bpffs, socket, state } = node;
    let (role, on_exit) = (Role::Balancer, on_exit.into());
    daemon(RunOptions { role, config, bpffs, on_exit, replace, allow_moves, state, socket })
}

/// Runs either side's daemon; its log begins with what the file asks for.
pub(super) fn daemon(options: RunOptions) -> anyhow::Result<ExitCode> {
    let texts = file::texts(&options.config)?;
    let checked = texts.check()?;
    log::init(&checked.desired.log);
    super::runtime()?.block_on(agent::run(&options, Offer { texts, checked }))?;
    Ok(ExitCode::SUCCESS)
}

impl From<OnExit> for agent::OnExit {
    fn from(what: OnExit) -> Self {
        match what {
            OnExit::Keep => Self::Keep,
            OnExit::Detach => Self::Detach,
        }
    }
}
