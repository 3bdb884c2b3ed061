//! The agent's handle on the speaker: it states facts and configuration, and ends it in order.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::sync::{oneshot, watch};

use super::{Secrets, engine};
use crate::bgp::decide::Facts;
use crate::bgp::settings::Bgp;
use crate::bgp::status::Status;

/// What the agent wants.
#[derive(Clone, Debug)]
pub(super) struct Orders {
    /// Counts the orders.
    pub number: u64,
    pub bgp: Arc<Bgp>,
    /// `None` until they are known; nothing is said before.
    pub facts: Option<Facts>,
    pub leave: Option<Leave>,
}

/// How far the speaker is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Progress {
    /// Last order carried out.
    pub number: u64,
    /// Whether every router with a session knows what follows from it.
    pub told: bool,
}

/// How to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leave {
    /// Withdraw everything, wait `withdraw_grace`, then end the sessions.
    Withdraw,
    /// Cut the sessions, so that graceful restart keeps the routes.
    Keep,
}

/// A running speaker. Dropped without [`Speaker::leave`] it cuts its sessions, as a killed agent would.
#[derive(Debug)]
pub struct Speaker {
    orders: watch::Sender<Orders>,
    progress: watch::Receiver<Progress>,
    done: oneshot::Receiver<()>,
    thread: Option<JoinHandle<()>>,
}

impl Speaker {
    /// Name of its thread.
    pub const TASK: &'static str = "bgp";

    /// Starts the thread, in the network namespace of the calling one. Sessions start with the first facts.
    /// `restarted`: forwarding went on while no agent ran, so routers may hold our routes. `secrets`: keys that are in no
    /// file. `status` is told what `status bgp` shows.
    ///
    /// # Errors
    /// When no thread or runtime can be had.
    pub fn start(
        bgp: Bgp,
        restarted: bool,
        secrets: Secrets,
        status: watch::Sender<Option<Arc<Status>>>,
    ) -> Result<Self> {
        let bgp = Arc::new(bgp);
        let (orders, receiver) =
            watch::channel(Orders { number: 0, bgp: Arc::clone(&bgp), facts: None, leave: None });
        let (published, progress) = watch::channel(Progress::default());
        let (finished, done) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("start a runtime for BGP")?;
        let work = move || {
            if let Err(error) = crate::socket::go_first() {
                tracing::debug!(%error, "the thread of BGP keeps an ordinary priority");
            }
            let local = tokio::task::LocalSet::new();
            local.block_on(&runtime, engine::run(bgp, restarted, secrets, receiver, published, status));
            // Nobody waits when the speaker was dropped.
            _ = finished.send(());
        };
        let thread = std::thread::Builder::new()
            .name(Self::TASK.into())
            .spawn(work)
            .context("start the thread of BGP")?;
        Ok(Self { orders, progress, done, thread: Some(thread) })
    }

    /// States what is known now.
    pub fn facts(&self, facts: Facts) {
        self.orders.send_if_modified(|orders| {
            let news = orders.facts.as_ref() != Some(&facts);
            if news {
                orders.number += 1;
                orders.facts = Some(facts);
            }
            news
        });
    }

    /// Gives it another configuration. Sessions whose own settings are the same stay.
    pub fn configure(&self, bgp: Bgp) {
        self.orders.send_if_modified(|orders| {
            let news = *orders.bgp != bgp;
            if news {
                orders.number += 1;
                orders.bgp = Arc::new(bgp);
            }
            news
        });
    }

    /// Waits until all routers with a session have been told what follows from the orders so far, at most `bound`.
    /// Returns whether they have.
    pub async fn told(&mut self, bound: Duration) -> bool {
        let number = self.orders.borrow().number;
        let told = self.progress.wait_for(|progress| progress.number >= number && progress.told);
        matches!(tokio::time::timeout(bound, told).await, Ok(Ok(_)))
    }

    /// Ends it, and returns when it has ended. Forwarding must go on meanwhile.
    pub async fn leave(mut self, how: Leave) {
        self.orders.send_modify(|orders| {
            orders.number += 1;
            orders.leave = Some(how);
        });
        // An error is a thread that has panicked; joining tells.
        drop((&mut self.done).await);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread {} has panicked", Self::TASK);
        }
    }

    /// Whether its thread has ended though nobody asked it to.
    #[must_use]
    pub fn has_died(&self) -> bool {
        self.thread.as_ref().is_some_and(JoinHandle::is_finished)
    }
}
