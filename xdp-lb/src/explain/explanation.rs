//! The answer as data. Field names are promises to scripts: add freely, rename never.

use std::net::{IpAddr, SocketAddr};

use serde::{Serialize, Serializer, ser::SerializeStruct as _};
use xdp_lb_common::{
    hash::FlowHash,
    parse::Segment,
    reason::{DropReason, FlowEvent, PassReason, Reason as _},
    select::Why,
};

use super::Tunnel;
use crate::{
    model::{Affinity, Protocol, Tracking},
    status::{MemberState, Path, Vip, Word, word},
};

/// What becomes of the packet, and everything that led there. What was not reached is `None`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// `tcp` or `udp`.
    #[serde(serialize_with = "word")]
    pub protocol: Protocol,
    /// Client.
    pub source: SocketAddr,
    /// Where the packet is sent.
    pub destination: SocketAddr,
    /// `datagram`, `syn`, `data`, `ack` or `closing`.
    #[serde(serialize_with = "word")]
    pub segment: Segment,
    /// What becomes of it: `verdict`, `reason` and `sentence`.
    pub outcome: Outcome,
    /// The backend, also when it cannot be sent to.
    pub backend: Option<IpAddr>,
    /// The VIP.
    pub vip: Option<Vip>,
    /// The service.
    pub service: Option<ServiceFacts>,
    /// The flow's hash.
    #[serde(serialize_with = "hex")]
    pub hash: Option<FlowHash>,
    /// The ring slot.
    pub slot: Option<SlotFacts>,
    /// The flow table.
    pub flow: Option<FlowFacts>,
    /// Why this backend.
    pub choice: Option<ChoiceFacts>,
    /// How the packet gets there.
    pub path: Option<Path>,
    /// Why there is no next hop, if somebody knows.
    pub unresolved: Option<String>,
    /// The outer header.
    pub tunnel: Option<Tunnel>,
}

/// What becomes of a packet, as the kernel half's verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Sent to the backend in a tunnel.
    Forward,
    /// Dropped and counted.
    Drop(DropReason),
    /// Handed to this node's stack and counted.
    Pass(PassReason),
}

impl Outcome {
    /// `forward`, `drop` or `pass`.
    #[must_use]
    pub fn verdict(self) -> &'static str {
        match self {
            Self::Forward => "forward",
            Self::Drop(_) => "drop",
            Self::Pass(_) => "pass",
        }
    }

    /// Name of the counter.
    #[must_use]
    pub fn reason(self) -> Option<&'static str> {
        match self {
            Self::Forward => None,
            Self::Drop(reason) => Some(reason.name()),
            Self::Pass(reason) => Some(reason.name()),
        }
    }

    /// For people.
    #[must_use]
    pub fn sentence(self) -> &'static str {
        match self {
            Self::Forward => "The packet goes to the backend in a tunnel.",
            Self::Drop(reason) => reason.sentence(),
            Self::Pass(reason) => reason.sentence(),
        }
    }
}

impl Serialize for Outcome {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut outcome = to.serialize_struct("Outcome", 3)?;
        outcome.serialize_field("verdict", self.verdict())?;
        outcome.serialize_field("reason", &self.reason())?;
        outcome.serialize_field("sentence", self.sentence())?;
        outcome.end()
    }
}

/// The service that takes the packet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ServiceFacts {
    /// Name.
    pub name: String,
    /// Id in the maps.
    pub id: u16,
    /// Affinity.
    #[serde(serialize_with = "word")]
    pub affinity: Affinity,
    /// Tracking.
    #[serde(serialize_with = "word")]
    pub tracking: Tracking,
    /// A planned change waits until flows have been seen.
    pub tracking_window: bool,
}

/// A ring slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SlotFacts {
    /// Which.
    pub number: u32,
    /// Of how many.
    pub of: u32,
    /// It changed, and older flows may belong elsewhere.
    pub dirty: bool,
    /// Whom it belongs to.
    pub now: Option<IpAddr>,
    /// Whom it belonged to when it was last clean; `None` for a clean slot.
    pub before: Option<Before>,
}

/// The older backend of a dirty slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Before {
    /// Address; `None` when the member is forgotten.
    pub address: Option<IpAddr>,
    /// It may still get the packets of older flows.
    pub alive: bool,
}

/// What the flow table says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FlowFacts {
    /// The packet path asks the table for this packet, or for one in sixteen like it (`tracking: sampled`).
    pub asked: bool,
    /// What happens there, by the names of the metrics: `hit`, `miss`, `stale`, `remembered`, `set_full`.
    #[serde(serialize_with = "events")]
    pub events: Vec<FlowEvent>,
    /// Set of the table.
    pub set: u32,
    /// The entry of this flow, asked for or not.
    pub entry: Option<Remembered>,
}

/// An entry of the flow table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Remembered {
    /// Its backend; `None` when the member is forgotten.
    pub backend: Option<IpAddr>,
    /// Seconds until it expires, if nothing comes.
    pub expires_in: u64,
    /// A FIN or RST was seen and no data since.
    pub closing: bool,
}

/// Why this backend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ChoiceFacts {
    /// `slot`, `remembered`, `before`, `now`, `slice` or `server-id`.
    #[serde(serialize_with = "word")]
    pub why: Why,
    /// For people.
    pub sentence: String,
    /// Ring-local index of the backend.
    pub local: u16,
    /// Its state.
    #[serde(serialize_with = "word")]
    pub state: MemberState,
    /// Since when, seconds since 1970.
    pub since: u64,
}

impl Word for Why {
    fn word(&self) -> &'static str {
        match self {
            Self::Slot => "slot",
            Self::Remembered => "remembered",
            Self::Before => "before",
            Self::Now => "now",
            Self::Slice => "slice",
            Self::ServerId => "server-id",
        }
    }
}

impl Word for Segment {
    fn word(&self) -> &'static str {
        match self {
            Self::Datagram => "datagram",
            Self::Syn => "syn",
            Self::Closing => "closing",
            Self::Data => "data",
            Self::Ack => "ack",
        }
    }
}

fn hex<S: Serializer>(hash: &Option<FlowHash>, to: S) -> Result<S::Ok, S::Error> {
    hash.map(|hash| format!("{:#018x}", hash.0)).serialize(to)
}

fn events<S: Serializer>(events: &[FlowEvent], to: S) -> Result<S::Ok, S::Error> {
    to.collect_seq(events.iter().map(|event| event.name()))
}
