//! The task that reads the perf buffers, cuts, and sends. One for each CPU's buffer, all ended together.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::unix::AsyncFd;
use tokio::sync::watch;
use tokio::task::{JoinError, JoinSet};
use tracing::{debug, warn};
use xdp_lb_common::cut::CutCounts;

use super::wrap::{self, Unwrapped};
use crate::dataplane::{
    BpffsRoot, OpenError,
    cuts::{CutBuffer, CutTables, FrameSocket},
};

/// Why nothing is cut.
#[derive(Debug, thiserror::Error)]
pub enum CutterError {
    /// A map cannot be used.
    #[error(transparent)]
    Map(#[from] OpenError),
    /// There is no socket for frames, or the runtime cannot watch a buffer.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// The kernel's word.
        source: io::Error,
    },
}

/// The running tasks.
#[derive(Debug)]
pub struct Cutter(JoinSet<()>);

impl Cutter {
    /// The tasks' name in logs.
    pub const TASK: &'static str = "cutter";

    /// Starts to cut in the calling thread's network namespace, until `shutdown` becomes true.
    ///
    /// # Errors
    /// [`CutterError`]; packets are then counted as `cut_unavailable`.
    pub fn start(root: &BpffsRoot, shutdown: &watch::Receiver<bool>) -> Result<Self, CutterError> {
        let failed = |what| move |source| CutterError::Io { what, source };
        let socket = FrameSocket::open().map_err(failed("open a packet socket"))?;
        let bench = Arc::new(Bench { tables: CutTables::open(root)?, socket, counts: Mutex::default() });
        *bench.counts() = bench.tables.counts();
        let mut tasks = JoinSet::new();
        for buffer in CutBuffer::open_all(root)? {
            let buffer = buffer.watch().map_err(failed("watch a perf buffer"))?;
            tasks.spawn(work(buffer, Arc::clone(&bench), shutdown.clone()));
        }
        Ok(Self(tasks))
    }

    /// Waits for the tasks, which have been told to end.
    ///
    /// # Errors
    /// When one panicked.
    pub async fn ended(mut self) -> Result<(), JoinError> {
        while let Some(ended) = self.0.join_next().await {
            ended?;
        }
        Ok(())
    }
}

/// What the tasks share.
struct Bench {
    tables: CutTables,
    socket: FrameSocket,
    counts: Mutex<CutCounts>,
}

impl Bench {
    fn counts(&self) -> std::sync::MutexGuard<'_, CutCounts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn cut(&self, event: &[u8]) {
        let frames = wrap::frames(event, |index| self.tables.backend(index).map(|b| *b.template()));
        let mut counts = self.counts();
        match frames {
            Ok((ifindex, frames)) => {
                let sent = frames.iter().try_for_each(|frame| self.socket.send(ifindex, frame));
                if let Err(error) = sent {
                    counts.unsent += 1;
                    debug!(ifindex, %error, "a packet that was cut could not be sent whole");
                } else {
                    counts.packets += 1;
                    counts.fragments += frames.len() as u64;
                }
            }
            Err(Unwrapped::Uncut(_)) => counts.malformed += 1,
            Err(Unwrapped::NoTunnel) => counts.unsent += 1,
        }
    }
}

async fn work(mut buffer: AsyncFd<CutBuffer>, bench: Arc<Bench>, mut shutdown: watch::Receiver<bool>) {
    loop {
        tokio::select! {
            // Also when the sender is gone.
            _ = shutdown.wait_for(|stop| *stop) => return,
            ready = buffer.readable_mut() => match ready {
                Ok(mut guard) => {
                    guard.get_inner_mut().drain(|event| bench.cut(event));
                    guard.clear_ready();
                }
                Err(error) => {
                    warn!(task = Cutter::TASK, %error, "a perf buffer cannot be watched; its packets are counted as cut_unavailable");
                    return;
                }
            },
        }
        let counts = *bench.counts();
        if let Err(error) = bench.tables.set_counts(&counts) {
            warn!(task = Cutter::TASK, %error, "cannot write what was counted");
        }
    }
}
