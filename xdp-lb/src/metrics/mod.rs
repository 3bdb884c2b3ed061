//! What `/metrics` and `/readyz` say, from data that somebody else has read: no maps, no sockets, no clock.
//!
//! ```text
//!   Sample { condition, counters, services, health, bgp } -> text()    the text format of Prometheus, 0.0.4
//!   Condition + attached interfaces                       -> ready()   may traffic be sent here, and why not
//! ```
//!
//! `agent::endpoint` reads the sample and serves the text; [`families`] is the one list of names, which
//! docs/metrics.md repeats. Behind the feature `agent`, since the encoder's locks come with libc.

mod encode;
pub mod families;
mod ready;
mod tally;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use xdp_lb_common::stats::{Counters, Traffic};

pub use self::encode::{CONTENT_TYPE, text};
pub use self::ready::{NotReady, STALLED, alive, ready};
pub use self::tally::{Answers, Checks, Tally};
use crate::bgp::status::Status as Bgp;
use crate::forecast::moves;
use crate::peers::Counts;

/// What the agent's loop says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Condition {
    /// When the loop last turned, on the agent's clock.
    pub beat: Duration,
    /// The tables were complete and the programs attached, once.
    pub started: bool,
    /// The agent was told to end.
    pub leaving: bool,
    /// Interfaces that are to run the program.
    pub interfaces: Vec<String>,
    /// When the configuration in force was carried out completely, seconds since 1970; 0 before.
    pub applied: u64,
    /// Why the maps are not as wanted; `None` while they are.
    pub failure: Option<String>,
    /// Services for which there was no room to do what was wanted, and why; the rest is in force.
    pub aside: Option<String>,
    /// Why the flow table is not tidied; `None` while it is.
    pub untidy: Option<String>,
    /// Why the configuration that was offered last cannot be used; the one before is in force.
    pub refused: Option<String>,
    /// Why the cluster's resources for this node cannot be used; those of before are in force.
    pub refused_resources: Option<String>,
    /// The cluster's resources that are in force beside the file: kind and name of each.
    pub resources: Vec<String>,
    /// Flow entries cleared because they had expired or their service was gone.
    pub cleared: u64,
    /// Flows that commands had forgotten.
    pub forgotten: u64,
    /// Remembered flows that had to leave their backends, by [`moves::Reason`].
    pub moved: [u64; moves::Reason::ALL.len()],
    /// What the last pass over the flow table found.
    pub flows: Option<Arc<Flows>>,
    /// Flows told to and by peers; `None` without peers.
    pub peers: Option<Counts>,
}

impl Condition {
    /// What was offered last and is not in force, and why.
    #[must_use]
    pub fn refusal(&self) -> Option<String> {
        let all: Vec<&str> =
            [&self.refused, &self.refused_resources].into_iter().flatten().map(String::as_str).collect();
        (!all.is_empty()).then(|| all.join("; "))
    }

    /// What is not as it should be, in words.
    #[must_use]
    pub fn degraded(&self) -> Option<String> {
        [&self.failure, &self.aside, &self.untidy].into_iter().find_map(Clone::clone)
    }
}

/// What a pass over the flow table found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flows {
    /// Live flows.
    pub live: u64,
    /// The same by service id and ring-local index.
    pub members: BTreeMap<(u16, u16), u32>,
}

/// Everything that a scrape tells, as read.
#[derive(Clone, Debug, Default)]
pub struct Sample {
    /// What the agent says of itself.
    pub condition: Condition,
    /// Generation in the maps.
    pub generation: u32,
    /// Interfaces that run the program, with `native`, `generic` or `offload`.
    pub interfaces: Vec<(String, String)>,
    /// Node-wide counters.
    pub counters: Counters,
    /// Places in the flow table.
    pub flow_entries: u64,
    /// Services.
    pub services: Vec<Service>,
    /// Answers to health checks.
    pub checks: Checks,
    /// The speaker, where there is one.
    pub bgp: Option<Bgp>,
}

/// A service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Service {
    /// Name.
    pub name: String,
    /// What was forwarded.
    pub traffic: Traffic,
    /// Slots whose older flows may belong elsewhere.
    pub dirty_slots: u32,
    /// Members with counters of their own.
    pub members: Vec<Member>,
    /// Members without: they have no series.
    pub omitted: u32,
}

/// A member of a service's ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Address.
    pub address: IpAddr,
    /// Its health checks say so; where it is not asked: nobody called it down.
    pub up: bool,
    /// What was forwarded to it.
    pub traffic: Traffic,
    /// Flows that are remembered there; `None` before the first pass over the flow table.
    pub flows: Option<u32>,
}
