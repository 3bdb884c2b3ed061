//! What edge nodes tell each other, as JSON in one frame each: a service's flows, or all drains by command.
//!
//! A flow is its hash, as far as the sender's flow table keeps it: the tag and as many set bits as the table has sets.
//! It means the same on both nodes when the hash is made the same way, which [`Hashing`] says.

use std::net::IpAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Exception;
use crate::drains::Written;
use crate::model::{Affinity, Service};

/// Version of the messages: another one is refused.
pub const VERSION: u32 = 2;
/// Most flows of one message: it then fits a frame whatever their hashes are.
pub const FLOWS: usize = 800;

/// How a service's flows are hashed; nodes that differ cannot understand each other's flows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hashing {
    /// `maglev.seed`, through a one-way function: the seed is nobody else's business.
    pub seed: u64,
    /// Only the client's address counts.
    pub client_ip: bool,
    /// Sets of the sender's flow table are two to this power.
    pub set_bits: u32,
}

impl Hashing {
    /// Of a service on a node whose flow table has `sets` sets.
    #[must_use]
    pub fn of(seed: u64, service: &Service, sets: u32) -> Self {
        let client_ip = matches!(service.affinity, Affinity::ClientIp);
        Self { seed: xdp_lb_common::hash::mix(seed ^ SEED), client_ip, set_bits: sets.trailing_zeros() }
    }

    /// True when flows with `self` can be looked up where `other` is in force.
    #[must_use]
    pub fn serves(&self, other: &Self) -> bool {
        self.seed == other.seed && self.client_ip == other.client_ip && self.set_bits >= other.set_bits
    }
}

/// Makes [`Hashing::seed`] differ from any hash of the product.
const SEED: u64 = 0x7065_6572_7365_6564;

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// [`VERSION`].
    pub version: u32,
    /// The sender's `node.name`.
    pub node: String,
    /// Flows that the other one cannot guess.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flows: Option<Flows>,
    /// Backends that drain by command at the sender: all of them, or none any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drains: Option<Vec<Written>>,
}

/// Flows of one service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Flows {
    /// Name.
    pub service: String,
    /// How their hashes were made.
    pub hashing: Hashing,
    /// Backends that they are at.
    pub backends: Vec<IpAddr>,
    /// Hash, index in `backends`, seconds left.
    pub flows: Vec<(u64, u16, u32)>,
}

/// The answer to a frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// Flows that are remembered there now.
    pub taken: u32,
    /// Flows that are not, because their set is full, or the service or the backend is not known there.
    pub refused: u32,
}

impl Flows {
    /// The exceptions of one service, in messages of [`FLOWS`] at most.
    pub fn pack(all: &[Exception], hashing: impl Fn(&str) -> Option<Hashing>) -> Vec<Self> {
        let mut packed: Vec<Self> = Vec::new();
        let mut of_service: Vec<&Exception> = all.iter().collect();
        of_service.sort_by(|a, b| a.service.cmp(&b.service));
        for group in of_service.chunk_by(|a, b| a.service == b.service) {
            let Some(hashing) = hashing(&group[0].service) else { continue };
            for part in group.chunks(FLOWS) {
                let mut flows = Self {
                    service: part[0].service.clone(),
                    hashing: hashing.clone(),
                    backends: Vec::new(),
                    flows: Vec::new(),
                };
                for e in part {
                    let known = flows.backends.iter().position(|&b| b == e.backend);
                    let index = known.unwrap_or_else(|| {
                        flows.backends.push(e.backend);
                        flows.backends.len() - 1
                    });
                    let seconds = u32::try_from(e.left.as_secs()).unwrap_or(u32::MAX);
                    // At most FLOWS backends.
                    flows.flows.push((e.hash, index as u16, seconds));
                }
                packed.push(flows);
            }
        }
        packed
    }

    /// The exceptions again. Flows that name no backend of the message are left out.
    #[must_use]
    pub fn unpack(&self) -> Vec<Exception> {
        let exception = |&(hash, index, seconds): &(u64, u16, u32)| {
            let &backend = self.backends.get(usize::from(index))?;
            let left = Duration::from_secs(seconds.into());
            Some(Exception { service: self.service.clone(), hash, backend, left })
        };
        self.flows.iter().filter_map(exception).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peers::{apart::DRAINS, channel::FRAME};

    fn hashing(set_bits: u32) -> Hashing {
        Hashing { seed: 1, client_ip: false, set_bits }
    }

    fn exception(service: &str, hash: u64, backend: &str) -> Exception {
        let backend = backend.parse().expect("an address");
        Exception { service: service.into(), hash, backend, left: Duration::from_secs(300) }
    }

    #[test]
    fn flows_come_out_as_they_went_in_service_by_service() {
        let all = [
            exception("sip", 7, "10.0.0.1"),
            exception("rtp", 8, "fd00::1"),
            exception("sip", 9, "10.0.0.2"),
            exception("gone", 9, "10.0.0.2"),
            exception("sip", 10, "10.0.0.1"),
        ];
        let packed = Flows::pack(&all, |name| (name != "gone").then(|| hashing(4)));
        assert_eq!(packed.iter().map(|f| f.service.as_str()).collect::<Vec<_>>(), ["rtp", "sip"]);
        assert_eq!(packed[1].backends.len(), 2, "each named once");
        let again: Vec<Exception> = packed.iter().flat_map(Flows::unpack).collect();
        assert_eq!(again, [&all[1], &all[0], &all[2], &all[4]].map(Clone::clone));
    }

    #[test]
    fn the_longest_message_fits_a_frame() {
        let all: Vec<_> = (0..FLOWS as u64 + 1)
            .map(|i| {
                exception(
                    &"s".repeat(253),
                    u64::MAX - i,
                    &format!("fd00:1111:2222:3333:4444:5555:6666:{i:x}"),
                )
            })
            .collect();
        let packed = Flows::pack(&all, |_| Some(hashing(4)));
        assert_eq!(packed.iter().map(|f| f.flows.len()).collect::<Vec<_>>(), [FLOWS, 1]);
        let fits = |flows, drains| {
            let message = Message { version: VERSION, node: "n".repeat(253), flows, drains };
            let len = serde_json::to_vec(&message).expect("JSON").len();
            assert!(len <= FRAME, "{len} bytes");
        };
        fits(Some(packed[0].clone()), None);
        let drain = Written {
            backend: "fd00:1111:2222:3333:4444:5555:6666:7777".parse().expect("an address"),
            service: Some("s".repeat(253)),
            mode: Some(crate::drains::Mode::Stick),
            max: Some(u64::MAX),
            since: u64::MAX,
        };
        fits(None, Some(vec![drain; DRAINS]));
    }

    #[test]
    fn a_table_with_more_sets_than_the_senders_cannot_place_its_flows() {
        assert!(hashing(4).serves(&hashing(4)) && hashing(5).serves(&hashing(4)));
        assert!(!hashing(4).serves(&hashing(5)));
        assert!(!Hashing { seed: 2, ..hashing(4) }.serves(&hashing(4)));
        assert!(!Hashing { client_ip: true, ..hashing(4) }.serves(&hashing(4)));
    }
}
