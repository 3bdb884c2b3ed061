//! The agent's eyes on the kernel's network: interfaces, routes and neighbours through rtnetlink.
//!
//! The packet path never asks the FIB: the [`Resolver`] follows the kernel for it and publishes, for every
//! backend address, the decision of [`crate::nexthop`]. [`links`] answers attach and `status`,
//! [`addresses`] puts the VIPs on a backend's `lo`.
//!
//! ```text
//!   multicast groups -> events (coalesced) -+
//!   RTM_GETROUTE, dumps  <-  requests  <----+-> resolver -> watch::Receiver<Arc<Snapshot>>
//!   RTM_NEWNEIGH (probe) <-  requests  <----+
//! ```
//!
//! Everything here works in the network namespace of the thread that opens the sockets.

pub mod addresses;
mod events;
pub mod links;
mod memory;
mod neighbours;
pub mod probe_link;
mod requests;
mod resolver;
pub mod routes;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

pub use self::memory::MemoryNextHops;
pub use self::requests::Requests;
pub use self::resolver::{Resolver, Timing};
use crate::nexthop::{Resolution, Snapshot};

/// Follows the way to a set of addresses. [`Resolver`] asks the kernel, [`MemoryNextHops`] is its twin.
pub trait NextHops: Send + Sync {
    /// Follows exactly these addresses from now on. Takes effect a moment later: wait for a snapshot
    /// that names them (see [`Snapshot::settled`]).
    fn follow(&self, addresses: BTreeSet<IpAddr>);

    /// Snapshots, the latest first: the receiver wakes whenever a resolution or an interface changed.
    fn changes(&self) -> watch::Receiver<Arc<Snapshot>>;

    /// What is known of `address` now; `None` when it is not followed, or not looked up yet.
    fn resolve(&self, address: IpAddr) -> Option<Resolution> {
        self.changes().borrow().resolve(address).cloned()
    }
}

/// Waits until every one of `addresses` is looked up and none waits for its neighbour's first answer, at
/// most for `limit`. Returns the last snapshot and whether it has settled.
pub async fn settle(
    next_hops: &dyn NextHops,
    addresses: &BTreeSet<IpAddr>,
    limit: Duration,
) -> (Arc<Snapshot>, bool) {
    let mut changes = next_hops.changes();
    let wait = changes.wait_for(|snapshot| snapshot.settled(addresses));
    let settled = matches!(tokio::time::timeout(limit, wait).await, Ok(Ok(_)));
    let snapshot = Arc::clone(&changes.borrow());
    (snapshot, settled)
}

/// What can go wrong between the agent and the kernel's netlink.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// The socket could not be opened or subscribed.
    #[error(
        "open a netlink socket: {0}; xdp-lb needs Linux with rtnetlink, and a seccomp filter must allow it"
    )]
    Open(#[source] std::io::Error),
    /// The kernel refused a request.
    #[error("{what}: {source}")]
    Refused {
        /// What was asked, and of what.
        what: String,
        /// The kernel's error.
        source: std::io::Error,
    },
    /// No answer in time, or the socket closed. Opening a new one may help.
    #[error("{what}: no answer from the kernel over netlink")]
    Silent {
        /// What was asked, and of what.
        what: String,
    },
    /// An answer of another kind than asked for.
    #[error("{what}: the kernel's answer was not understood: {answer}")]
    Unexpected {
        /// What was asked, and of what.
        what: String,
        /// The answer.
        answer: String,
    },
}

impl NetlinkError {
    /// The kernel's error number, if it refused.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Refused { source, .. } => source.raw_os_error(),
            Self::Open(_) | Self::Silent { .. } | Self::Unexpected { .. } => None,
        }
    }
}
