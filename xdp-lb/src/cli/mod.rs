//! The command line: what can be said, how errors look, and which exit code follows. `main` calls [`main`].
//!
//! ```text
//!  arguments --clap--> Command --one file each--> exit code
//!                                    `--error--> stderr: what failed, on what, what to do
//! ```
//!
//! Data goes to stdout, in the form `-o` asks for; what went wrong goes to stderr. Exit codes: 0 done, 1 failed,
//! 2 bad usage, 3 a check says no.

mod bgp;
mod check;
mod completions;
#[cfg(feature = "kubernetes")]
mod controller;
#[cfg(feature = "kubernetes")]
mod crds;
mod decap;
mod detach;
mod doctor;
mod drain;
mod explain;
mod flows;
mod interfaces;
mod load;
mod man;
mod output;
mod plan;
mod rollback;
mod run;
mod status;
mod table;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::{CommandFactory as _, Parser, Subcommand, error::ErrorKind};

use crate::{
    admin::{SOCKET, client::Client},
    dataplane::BpffsRoot,
    file, keep,
};

/// Exit code of a failure.
pub const FAILED: u8 = 1;
/// Exit code of a check that says no.
pub const REFUSED: u8 = 3;

/// A direct-server-return layer-4 load balancer on XDP.
#[derive(Debug, Parser)]
#[command(name = "xdp-lb", version)]
#[command(after_help = "Exit codes: 0 done, 1 failed, 2 bad usage, 3 a check says no.")]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Directory of the pinned program, maps and links, on a BPF file system
    #[arg(long, global = true, value_name = "DIR", default_value = "/sys/fs/bpf/xdp-lb")]
    bpffs: PathBuf,
    /// Unix socket of the agent; for `run` it counts before the file's `admin.socket`
    #[arg(long, global = true, value_name = "PATH")]
    socket: Option<PathBuf>,
    /// Directory of what outlives the agent: drains by command, the history of configurations
    #[arg(long, global = true, value_name = "DIR", default_value = keep::DIRECTORY)]
    state: PathBuf,
}

/// Where the agent of this node is found.
#[derive(Clone, Debug)]
struct Node {
    /// Its pins.
    bpffs: BpffsRoot,
    /// Its socket, where the command line says so.
    socket: Option<PathBuf>,
    /// What outlives it.
    state: PathBuf,
}

impl Node {
    /// Who asks it.
    fn client(&self) -> Client {
        Client::new(self.socket.as_deref().unwrap_or(SOCKET.as_ref()))
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Balance: attach the program to the interfaces, fill the tables and keep them current
    Run(run::Args),
    /// Take tunnels off on a backend's node
    Decap(decap::Args),
    /// Validate a configuration: every error at once, each with line and path
    Check(check::Args),
    /// Say what a configuration would change on the balancer that runs here: services, backends, slots, live flows
    Plan(plan::Args),
    /// Load and fill the program without attaching it to any interface
    Load(load::Args),
    /// Show what the balancer does, from its pinned maps: works when the agent is down
    Status(status::Args),
    /// Say which backend a packet goes to, and why
    Explain(explain::Args),
    /// Show which flows are remembered, or have some forgotten
    Flows(flows::Args),
    /// Take a backend out for new flows on this node, and keep known ones; without a backend: show who drains
    Drain(drain::Args),
    /// Take a drain by command back
    Undrain(drain::UndrainArgs),
    /// Go back to an earlier configuration
    Rollback(rollback::Args),
    /// Say what this host does to packets of the balancer, and what to do about it
    Doctor(doctor::Args),
    /// Give addresses to Services of a Kubernetes cluster and write their status
    #[cfg(feature = "kubernetes")]
    Controller(controller::Args),
    /// Print the definitions of our Kubernetes resources, for `kubectl apply -f -`
    #[cfg(feature = "kubernetes")]
    Crds(crds::Args),
    /// Stop forwarding and remove every pin
    Detach,
    /// Print the completions of a shell
    #[command(hide = true)]
    Completions(completions::Args),
    /// Print the man page
    #[command(hide = true)]
    Man,
}

/// Reads the command line, does what it says and returns the exit code. Bad usage ends the process with 2.
#[must_use]
pub fn main() -> ExitCode {
    crate::heap::give_back();
    let Cli { command, bpffs, socket, state } = Cli::parse();
    let node = Node { bpffs: BpffsRoot::new(bpffs), socket, state };
    let bpffs = node.bpffs.clone();
    let done = match command {
        Command::Run(args) => run::run(args, node),
        Command::Decap(args) => decap::run(args, node),
        Command::Check(args) => check::run(&args),
        Command::Plan(args) => plan::run(&args, &node),
        Command::Load(args) => load::run(args),
        Command::Status(args) => status::run(&args, &node),
        Command::Explain(args) => explain::run(&args, &bpffs),
        Command::Flows(args) => flows::run(&args, &node),
        Command::Drain(args) => drain::run(&args, &node),
        Command::Undrain(args) => drain::undrain(&args, &node),
        Command::Rollback(args) => rollback::run(&args, &node),
        Command::Doctor(args) => doctor::run(&args, &node),
        #[cfg(feature = "kubernetes")]
        Command::Controller(args) => controller::run(args),
        #[cfg(feature = "kubernetes")]
        Command::Crds(args) => crds::run(&args),
        Command::Detach => detach::run(&bpffs),
        Command::Completions(args) => completions::run(&args),
        Command::Man => man::run(),
    };
    done.unwrap_or_else(|error| report(&error))
}

/// Ends the process as clap does for arguments it refuses itself: usage, and exit code 2.
fn bad_usage(command: &str, message: String) -> ! {
    let mut cli = Cli::command();
    cli.build();
    match cli.find_subcommand_mut(command) {
        Some(command) => command.error(ErrorKind::ValueValidation, message).exit(),
        None => cli.error(ErrorKind::ValueValidation, message).exit(),
    }
}

/// Runs a question to the kernel to its end on this thread, in whose network namespace it is asked.
fn wait_for<T>(question: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    // The kernel answers at once or never.
    runtime()?.block_on(async { tokio::time::timeout(Duration::from_secs(10), question).await })?
}

/// A runtime on this very thread: sockets belong to the network namespace of the thread that opens them.
fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().context("start a runtime")
}

/// Tells people what failed, and scripts by which exit code.
fn report(error: &anyhow::Error) -> ExitCode {
    if output::is_closed_pipe(error) {
        // Whoever read our output has seen enough.
        return ExitCode::SUCCESS;
    }
    if let Some(refused) = error.downcast_ref::<file::Refused>() {
        output::to_stderr(format_args!("{refused}"));
        return ExitCode::from(REFUSED);
    }
    output::to_stderr(format_args!("{}", told(error)));
    ExitCode::from(FAILED)
}

/// What failed, and a line for each cause that the line before does not name already, as many errors do.
fn told(error: &anyhow::Error) -> String {
    let mut text = format!("error: {error}");
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.ends_with(&cause) {
            text += &format!("\n  because: {cause}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_refused_file_is_three_whatever_is_said_around_it() {
        let refused = file::check("x.yaml", "version: 2\n").unwrap_err();
        let error = anyhow::Error::new(refused).context("start the balancer");
        assert_eq!(report(&error), ExitCode::from(REFUSED));
        assert_eq!(report(&anyhow::anyhow!("no")), ExitCode::from(FAILED));
    }

    #[test]
    fn a_cause_is_said_once() {
        let denied = || std::io::Error::from(std::io::ErrorKind::PermissionDenied);
        let write = crate::state::WriteError { map: "rings", key: 7, source: denied() };
        let error = anyhow::Error::new(write).context("apply the plan");
        assert_eq!(told(&error), "error: apply the plan\n  because: write rings[7]: permission denied");
        let error = anyhow::Error::new(denied()).context("open map rings");
        assert_eq!(told(&error), "error: open map rings\n  because: permission denied");
    }
}
