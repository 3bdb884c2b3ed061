//! Async work on a thread of its own inside a namespace: the traffic generators and servers.
//!
//! A socket belongs to the namespace of the thread that makes it. A worker therefore is one thread that enters the
//! namespace and then drives a single-threaded runtime: every socket its tasks make is in the right place.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use tokio::sync::watch;

use super::sys;
use super::wait::wait_until;

/// No generator or server runs longer than this, whatever its owner forgets.
pub const LONGEST_WORK: Duration = Duration::from_secs(3600);
/// How long a worker may take to end once told to.
const STOP_BOUND: Duration = Duration::from_secs(10);

/// A signal to stop that many tasks can await; a child also stops when its parent does.
#[derive(Clone, Debug)]
pub struct Stop {
    own: Arc<watch::Sender<bool>>,
    parent: Option<Arc<watch::Sender<bool>>>,
}

impl Default for Stop {
    fn default() -> Self {
        Self { own: Arc::new(watch::Sender::new(false)), parent: None }
    }
}

impl Stop {
    fn child(&self) -> Self {
        Self { parent: Some(Arc::clone(&self.own)), ..Self::default() }
    }

    /// Gives the signal.
    pub fn now(&self) {
        self.own.send_replace(true);
    }

    /// Whether it was given.
    #[must_use]
    pub fn is_given(&self) -> bool {
        *self.own.borrow() || self.parent.as_ref().is_some_and(|p| *p.borrow())
    }

    /// Ends when it is given.
    pub async fn given(&self) {
        async fn until_true(signal: &watch::Sender<bool>) {
            // The sender is alive as long as we hold it, so this ends by the value alone.
            drop(signal.subscribe().wait_for(|stop| *stop).await);
        }
        match &self.parent {
            None => until_true(&self.own).await,
            Some(parent) => tokio::select! {
                () = until_true(&self.own) => {}
                () = until_true(parent) => {}
            },
        }
    }
}

/// A thread in a namespace that runs an async task; dropping it stops the task and waits for the thread.
#[derive(Debug)]
pub struct Worker {
    title: String,
    stop: Stop,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Worker {
    pub(super) fn start<F>(
        title: String,
        netns: OwnedFd,
        parent: &Stop,
        task: impl FnOnce(Stop) -> F + Send + 'static,
    ) -> Result<Self>
    where
        F: Future<Output = Result<()>>,
    {
        let stop = parent.child();
        let for_task = stop.clone();
        let run = move || -> Result<()> {
            sys::setns_net(netns.as_fd()).context("enter the namespace")?;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let work = async {
                tokio::time::timeout(LONGEST_WORK, task(for_task))
                    .await
                    .map_err(|_| anyhow!("still busy after {LONGEST_WORK:?}"))?
            };
            runtime.block_on(work)
        };
        let thread =
            std::thread::Builder::new().name("lab-worker".into()).spawn(run).context("start a thread")?;
        Ok(Self { title, stop, thread: Some(thread) })
    }

    /// Whether the task has ended.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Waits for the task to end by itself.
    ///
    /// # Errors
    /// What the task failed with, or the bound.
    pub fn wait(&mut self, bound: Duration) -> Result<()> {
        wait_until(&format!("{} to end", self.title), bound, || self.is_finished())?;
        match self.thread.take().map(JoinHandle::join) {
            None => Ok(()),
            Some(Ok(outcome)) => outcome.with_context(|| self.title.clone()),
            Some(Err(panic)) => std::panic::resume_unwind(panic),
        }
    }

    /// Tells the task to stop and waits for it.
    ///
    /// # Errors
    /// What the task failed with, or that it did not stop.
    pub fn stop(&mut self) -> Result<()> {
        self.stop.now();
        self.wait(STOP_BOUND)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.stop.now();
        if std::thread::panicking() {
            // Unwinding must not panic again nor wait for what may hang; the thread has been told to stop.
            return;
        }
        if let Err(error) = self.wait(STOP_BOUND) {
            eprintln!("lab: {error:#}");
        }
    }
}
