//! The admin API: HTTP with JSON on a Unix socket, for the command line and for whoever automates.
//!
//! ```text
//!   xdp-lb drain .. -> client --socket--> server -> routes -- Asked --> daemon's loop -> maps
//!                                                     |  <-- Done ---'
//!                                                     '-- reads pinned maps, the history and what the loop says of itself
//! ```
//!
//! What changes anything goes through the daemon's loop, which alone writes maps. The server has a thread of its own, so
//! that questions are answered while the loop is busy with a plan.

pub mod api;
pub mod client;
mod flows;
mod routes;
mod server;
mod socket;

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

pub use self::routes::description;
pub use self::server::{Desk, Server};
pub use self::socket::{BindError, SOCKET};
use crate::{
    drains::{self, Drains, Target, Terms},
    flows::{Filter, Unknown},
    keep::Rollback,
    model::Desired,
    peers::Heard,
};

/// What the daemon's loop is asked to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Let a backend drain.
    Drain(Target, Terms),
    /// Take that back.
    Undrain(Target),
    /// Go back to a generation; `None`: the one before.
    Rollback(Option<u32>),
    /// Forget flows.
    Forget(Filter),
}

/// A command, and who waits for what comes of it.
#[derive(Debug)]
pub struct Asked {
    /// What to do.
    pub command: Command,
    /// Gets the answer; that nobody waits any more changes nothing.
    pub answer: oneshot::Sender<Result<Done, NotDone>>,
}

/// Something was done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Done {
    /// What did not go as it should: not kept for the next start, or not carried out yet.
    pub warnings: Vec<String>,
    /// Flows that were forgotten.
    pub forgotten: u64,
}

/// Nothing was done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotDone {
    /// A drain that cannot be.
    #[error(transparent)]
    Drain(#[from] drains::Refused),
    /// No such flows can be.
    #[error(transparent)]
    Flows(#[from] Unknown),
    /// The flow table cannot be read or written.
    #[error("{0}")]
    Maps(String),
    /// That generation is not kept.
    #[error("generation {0} is not in the history: `xdp-lb rollback --list` shows what is")]
    NoGeneration(u32),
    /// There is nothing to go back to.
    #[error("there is no earlier configuration in the history")]
    NoEarlier,
    /// The history cannot be read.
    #[error("{0}")]
    History(String),
    /// That configuration can no longer be carried out.
    #[error("generation {generation} cannot be carried out any more: {why}")]
    Refused {
        /// Generation.
        generation: u32,
        /// Why.
        why: String,
    },
    /// The agent ends.
    #[error("the agent is ending")]
    Ending,
}

/// The other end of the queue: the daemon's loop takes commands from it.
pub type Queue = mpsc::Receiver<Asked>;

/// What the loop says of itself besides [`crate::metrics::Condition`].
#[derive(Clone, Debug)]
pub struct View {
    /// The configuration in force, without drains and health.
    pub desired: Arc<Desired>,
    /// Drains by command.
    pub drains: Arc<Drains>,
    /// Those that peers have told of.
    pub peer_drains: Arc<Heard>,
    /// A rollback that is in force.
    pub rollback: Option<Arc<Rollback>>,
    /// Generation of the configuration in force.
    pub generation: u32,
}
