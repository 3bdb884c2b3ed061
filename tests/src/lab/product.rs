//! The product's own binary, run in a lab's namespace as an operator would run it.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::id::LabId;
use super::namespace::Namespace;
use super::process::{Process, Signal, Stream};

/// How long a daemon may take to be ready: it loads and verifies programs, on a busy machine of two cores.
pub const READY_BOUND: Duration = Duration::from_secs(30);
/// How long it may take to end.
pub const EXIT_BOUND: Duration = Duration::from_secs(15);
/// What a daemon says on stderr when it forwards, as a word of its own: `already` is another.
const READY: &str = "ready";
/// What it says when a reload is done.
const RELOADED: &str = "reloaded";
/// What it says when a reload is refused.
const REFUSED: &str = "reload failed";

/// Where the binary is: `XDP_LB_BIN`, or beside the running test (`target/<profile>/xdp-lb`).
///
/// # Errors
/// Names the places and the command that builds it.
pub fn binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("XDP_LB_BIN") {
        let path = PathBuf::from(path);
        if !path.is_file() {
            bail!("XDP_LB_BIN={} is no file; unset it or build there", path.display());
        }
        return Ok(path);
    }
    let own = std::env::current_exe().context("find the running executable")?;
    // Tests are in target/<profile>/deps, xtask in target/<profile>.
    let places: Vec<PathBuf> = own.ancestors().skip(1).take(2).map(|d| d.join("xdp-lb")).collect();
    places.iter().find(|p| p.is_file()).cloned().with_context(|| {
        format!(
            "there is no {}: build it with `cargo build -p xdp-lb`, or set XDP_LB_BIN",
            places.iter().map(|p| p.display().to_string()).collect::<Vec<_>>().join(" nor ")
        )
    })
}

/// Where the node whose pins are at `bpffs` has everything, as arguments: its socket and what outlives its agent are in
/// the lab's scratch directory.
#[must_use]
pub fn places(bpffs: &Path) -> [OsString; 6] {
    // The pins of a lab's nodes are in a directory that bears its name.
    let lab = bpffs.parent().and_then(Path::file_name).and_then(OsStr::to_str).and_then(LabId::parse);
    let scratch = lab.map_or_else(|| bpffs.to_owned(), |id| std::env::temp_dir().join(id.to_string()));
    let state = scratch.join(bpffs.file_name().unwrap_or_default()).with_extension("state");
    let socket = state.join("admin.sock");
    ["--bpffs".into(), bpffs.into(), "--state".into(), state.into(), "--socket".into(), socket.into()]
}

/// The two daemons of the product.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Daemon {
    /// `xdp-lb run`.
    Run,
    /// `xdp-lb decap`.
    Decap,
}

/// A running daemon of the product.
#[derive(Debug)]
pub struct Product {
    process: Process,
}

impl Product {
    /// Starts `xdp-lb run|decap --config CONFIG --bpffs BPFFS EXTRA...` in `ns` and waits until it is ready.
    ///
    /// # Errors
    /// When there is no binary, or it ends or is silent instead; the error shows its last lines.
    pub fn start(
        ns: &Namespace,
        daemon: Daemon,
        config: &Path,
        bpffs: &Path,
        extra: &[&str],
    ) -> Result<Self> {
        let mut product = Self::start_unready(ns, daemon, config, bpffs, extra)?;
        product.wait_ready()?;
        Ok(product)
    }

    /// Waits until it is ready.
    ///
    /// # Errors
    /// When it ends or is silent instead; the error shows its last lines.
    pub fn wait_ready(&mut self) -> Result<()> {
        let is_ready = |line: &str| line.split(|c: char| !c.is_alphanumeric()).any(|word| word == READY);
        self.process.wait_line_that(0, "that it is ready", READY_BOUND, is_ready).map(drop)
    }

    /// The same without waiting.
    ///
    /// # Errors
    /// When there is no binary.
    pub fn start_unready(
        ns: &Namespace,
        daemon: Daemon,
        config: &Path,
        bpffs: &Path,
        extra: &[&str],
    ) -> Result<Self> {
        Self::start_binary(&binary()?, ns, daemon, config, bpffs, extra)
    }

    /// The same of another binary than [`binary`].
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start_binary(
        binary: &Path,
        ns: &Namespace,
        daemon: Daemon,
        config: &Path,
        bpffs: &Path,
        extra: &[&str],
    ) -> Result<Self> {
        let verb = match daemon {
            Daemon::Run => "run",
            Daemon::Decap => "decap",
        };
        let mut command = Command::new(binary);
        command.arg(verb).arg("--config").arg(config).args(places(bpffs)).args(extra);
        Ok(Self { process: ns.spawn(&format!("xdp-lb {verb}"), command)? })
    }

    /// Tells it to read its configuration again (SIGHUP) and waits until it says what came of it.
    ///
    /// # Errors
    /// When it ends or says nothing.
    pub fn reload(&mut self) -> Result<Reload> {
        let mark = self.begin_reload()?;
        self.end_reload(mark)
    }

    /// Tells it to read its configuration again and returns at once, with the mark for [`Product::end_reload`].
    ///
    /// # Errors
    /// When it has ended.
    pub fn begin_reload(&mut self) -> Result<usize> {
        let mark = self.process.mark();
        self.process.signal(Signal::Hup)?;
        Ok(mark)
    }

    /// Waits until it says what came of a reload.
    ///
    /// # Errors
    /// When it ends or says nothing.
    pub fn end_reload(&mut self, mark: usize) -> Result<Reload> {
        let outcome = |line: &str| line.contains(RELOADED) || line.contains(REFUSED);
        let line = self.process.wait_line_that(mark, "what came of a reload", READY_BOUND, outcome)?;
        Ok(Reload { done: !line.contains(REFUSED), line })
    }

    /// Ends it in order (SIGTERM).
    ///
    /// # Errors
    /// When it does not end.
    pub fn terminate(&mut self) -> Result<ExitStatus> {
        self.process.terminate(EXIT_BOUND)
    }

    /// Ends it with SIGKILL, as the kernel's out-of-memory killer would.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// The process, for its log, other signals and its status.
    pub fn process(&mut self) -> &mut Process {
        &mut self.process
    }
}

/// What came of a reload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reload {
    /// Whether the file was taken.
    pub done: bool,
    /// What the daemon said.
    pub line: String,
}

/// What a command that ends by itself said.
#[derive(Clone, Debug)]
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

/// Runs `xdp-lb ARGS...` in `ns` to its end.
///
/// # Errors
/// When it cannot be started or has not ended within `bound`; a failing exit code is no error here.
pub fn command<A: AsRef<OsStr>>(ns: &Namespace, args: &[A], bound: Duration) -> Result<Output> {
    let mut command = Command::new(binary()?);
    command.args(args);
    run_to_end(ns, "xdp-lb", command, bound)
}

/// Runs any command in `ns` to its end.
///
/// # Errors
/// When it cannot be started or has not ended within `bound`.
pub fn run_to_end(ns: &Namespace, title: &str, command: Command, bound: Duration) -> Result<Output> {
    let mut process = ns.spawn(title, command)?.quiet();
    let status = process.wait_exit(bound)?;
    Ok(Output { status, stdout: process.output(Stream::Stdout)?, stderr: process.output(Stream::Stderr)? })
}
