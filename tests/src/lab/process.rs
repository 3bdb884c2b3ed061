//! A process started in a namespace: its output, its signals and its end.
//!
//! `Namespace::spawn` starts one; `product` and `traffic::nginx` build on it. Output is kept line by line, can be
//! waited for, and is printed when the owner is dropped by a panic, so that a failed test shows what everybody said.

use std::collections::BTreeSet;
use std::io::{self, BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};

use super::namespace::Lifetime;
use super::sys;
use super::wait::{wait_for, wait_until};

/// Lines kept of one process; what it says after that is read and forgotten.
const LINES_KEPT: usize = 20_000;
/// How long a killed process may take to be reaped.
const REAP_BOUND: Duration = Duration::from_secs(5);

/// A lock that a panicking test must not make unusable for the clean-up.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Processes of one namespace that have not been reaped: their pids are still theirs.
#[derive(Clone, Debug, Default)]
pub struct Registry(Arc<Mutex<BTreeSet<u32>>>);

impl Registry {
    /// Kills them and what they have started.
    pub(super) fn kill_all(&self) {
        for pid in lock(&self.0).iter() {
            // Gone already is as good.
            drop(sys::kill_group(*pid, libc::SIGKILL));
        }
    }
}

/// Signals the lab sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// Read the configuration again.
    Hup,
    /// Ctrl-C.
    Int,
    /// End in order.
    Term,
    /// End now.
    Kill,
    /// Stand still.
    Stop,
    /// Go on.
    Cont,
}

impl Signal {
    fn number(self) -> i32 {
        match self {
            Self::Hup => libc::SIGHUP,
            Self::Int => libc::SIGINT,
            Self::Term => libc::SIGTERM,
            Self::Kill => libc::SIGKILL,
            Self::Stop => libc::SIGSTOP,
            Self::Cont => libc::SIGCONT,
        }
    }
}

/// Where a line came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// Lines of both streams in order of arrival, filled by a reader thread each.
#[derive(Clone, Debug, Default)]
struct Log {
    lines: Arc<Mutex<Vec<(Stream, String)>>>,
    /// Readers that have not met the end of their stream.
    open: Arc<AtomicUsize>,
}

impl Log {
    fn read(&self, stream: Stream, from: impl Read + Send + 'static) -> io::Result<()> {
        let log = self.clone();
        self.open.fetch_add(1, Ordering::SeqCst);
        let reader = move || {
            // To the end even when nothing is kept any more, or the process would block on a full pipe.
            for line in BufReader::new(from).split(b'\n').map_while(io::Result::ok) {
                let mut lines = lock(&log.lines);
                if lines.len() < LINES_KEPT {
                    lines.push((stream, String::from_utf8_lossy(&line).into_owned()));
                }
            }
            log.open.fetch_sub(1, Ordering::SeqCst);
        };
        std::thread::Builder::new().name("lab-output".into()).spawn(reader).map(drop)
    }

    /// Whether everything that was said has been read.
    fn is_complete(&self) -> bool {
        self.open.load(Ordering::SeqCst) == 0
    }
}

/// A running or ended process.
#[derive(Debug)]
pub struct Process {
    title: String,
    child: Child,
    status: Option<ExitStatus>,
    log: Log,
    registry: Registry,
    lifetime: Lifetime,
    quiet: bool,
}

impl Process {
    pub(super) fn start(
        title: String,
        mut command: Command,
        registry: &Registry,
        lifetime: Lifetime,
    ) -> Result<Self> {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let program = command.get_program().to_owned();
        let mut child = spawn_on_lasting_thread(command)
            .with_context(|| format!("start {} for {title}", program.display()))?;
        lock(&registry.0).insert(child.id());
        let streams = (child.stdout.take(), child.stderr.take());
        let log = Log::default();
        // Made before the readers, so that an error below kills the process.
        let process = Self {
            title,
            child,
            status: None,
            log: log.clone(),
            registry: registry.clone(),
            lifetime,
            quiet: false,
        };
        if let (Some(out), Some(err)) = streams {
            log.read(Stream::Stdout, out)
                .and_then(|()| log.read(Stream::Stderr, err))
                .context("start a thread")?;
        }
        Ok(process)
    }

    /// What errors call it.
    #[must_use]
    pub fn title(&self) -> &str {
        &self.title
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal to the process (not to its children).
    ///
    /// # Errors
    /// When it has ended.
    pub fn signal(&mut self, signal: Signal) -> Result<()> {
        if let Some(status) = self.poll() {
            bail!("{} cannot get {signal:?}: it has ended ({status})", self.title);
        }
        sys::kill(self.pid(), signal.number()).with_context(|| format!("send {signal:?} to {}", self.title))
    }

    /// Everything it has printed, stdout and stderr in order of arrival.
    #[must_use]
    pub fn log(&self) -> Vec<String> {
        lock(&self.log.lines).iter().map(|(_, line)| line.clone()).collect()
    }

    /// Everything an ended process has printed on one stream.
    ///
    /// # Errors
    /// When the stream is still open, because the process or a child of it still runs.
    pub fn output(&self, of: Stream) -> Result<String> {
        wait_until(&format!("the output of {} to end", self.title), REAP_BOUND, || self.log.is_complete())?;
        let lines = lock(&self.log.lines);
        Ok(lines.iter().filter(|(s, _)| *s == of).map(|(_, line)| format!("{line}\n")).collect())
    }

    /// Number of lines printed so far; a place to look from with [`Process::wait_line`].
    #[must_use]
    pub fn mark(&self) -> usize {
        lock(&self.log.lines).len()
    }

    /// Waits for a line containing `needle` at or after `mark`, and returns it.
    ///
    /// # Errors
    /// When the process ends first or the bound passes; the error shows the last lines.
    pub fn wait_line(&mut self, mark: usize, needle: &str, bound: Duration) -> Result<String> {
        self.wait_line_that(mark, &format!("{needle:?}"), bound, |line| line.contains(needle))
    }

    /// Waits for a line at or after `mark` of which `is_it` says yes, and returns it; `what` names it in errors.
    ///
    /// # Errors
    /// When the process ends first or the bound passes; the error shows the last lines.
    pub fn wait_line_that(
        &mut self,
        mark: usize,
        what: &str,
        bound: Duration,
        is_it: impl Fn(&str) -> bool,
    ) -> Result<String> {
        let waited = format!("{} to say {what}", self.title);
        let found = wait_for(&waited, bound, || {
            // Asked before looking, so that the last words of a process that ends are seen.
            let ended = self.poll().filter(|_| self.log.is_complete());
            let line = self.log().into_iter().skip(mark).find(|line| is_it(line));
            match (line, ended) {
                (Some(line), _) => Some(Ok(line)),
                (None, Some(status)) => {
                    Some(Err(anyhow!("{} ended ({status}) before it said {what}", self.title)))
                }
                (None, None) => None,
            }
        })
        .and_then(|found| found);
        found.with_context(|| self.last_words())
    }

    /// Its exit status, if it has ended.
    pub fn poll(&mut self) -> Option<ExitStatus> {
        if self.status.is_none() {
            // Under the lock, or `kill_all` could meet the pid between its reaping and its removal.
            let mut alive = lock(&self.registry.0);
            if let Ok(Some(status)) = self.child.try_wait() {
                alive.remove(&self.child.id());
                self.status = Some(status);
            }
        }
        self.status
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When it still runs after `bound`.
    pub fn wait_exit(&mut self, bound: Duration) -> Result<ExitStatus> {
        let what = format!("{} to end", self.title);
        wait_for(&what, bound, || self.poll()).with_context(|| self.last_words())
    }

    /// Asks it to end (SIGTERM) and waits.
    ///
    /// # Errors
    /// When it has not ended within `bound`.
    pub fn terminate(&mut self, bound: Duration) -> Result<ExitStatus> {
        if let Some(status) = self.poll() {
            return Ok(status);
        }
        self.signal(Signal::Term)?;
        self.wait_exit(bound)
    }

    /// Kills it and all it has started, and reaps it.
    pub fn kill(&mut self) {
        if self.poll().is_none() {
            drop(sys::kill_group(self.pid(), libc::SIGKILL));
            if let Err(error) = wait_until("a killed process to end", REAP_BOUND, || self.poll().is_some()) {
                eprintln!("lab: {}: {error}", self.title);
            }
        }
    }

    /// Does not print its output when a test panics.
    #[must_use]
    pub fn quiet(mut self) -> Self {
        self.quiet = true;
        self
    }

    fn last_words(&self) -> String {
        let log = self.log();
        let tail = log.iter().skip(log.len().saturating_sub(20));
        format!("last lines of {}:\n{}", self.title, tail.map(|l| format!("    {l}\n")).collect::<String>())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.lifetime == Lifetime::Dropped {
            self.kill();
        }
        if std::thread::panicking() && !self.quiet {
            eprintln!("---- output of {} ----", self.title);
            for line in self.log() {
                eprintln!("{line}");
            }
        }
    }
}

/// A command to start and where to send the outcome.
type Order = (Command, Sender<io::Result<Child>>);

/// Starts a process from a thread that lasts as long as we do: the kernel delivers the parent-death signal when
/// the *thread* that forked ends, and tests come and go on threads.
fn spawn_on_lasting_thread(command: Command) -> Result<Child> {
    static ORDERS: OnceLock<Mutex<Sender<Order>>> = OnceLock::new();
    let orders = ORDERS.get_or_init(|| {
        let (sender, orders) = mpsc::channel::<Order>();
        std::thread::spawn(move || {
            for (mut command, outcome) in orders {
                // The caller is blocked on the outcome, so somebody always takes the child.
                drop(outcome.send(command.spawn()));
            }
        });
        Mutex::new(sender)
    });
    let (sender, outcome) = mpsc::channel();
    lock(orders).send((command, sender)).map_err(|_| anyhow!("the lab's spawning thread is gone"))?;
    Ok(outcome.recv().context("the lab's spawning thread is gone")??)
}
