//! Nodes as backends (`delivery: node` and `host`). A node's gate is open in proportion to its ready endpoints, so that
//! scaling moves slots to the node that grows and from the node that shrinks; the table changes only when a node gets its
//! first endpoint or loses its last.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::{Asked, homeless, unknown};
use crate::config::import::Member;
use crate::kube::cluster::Cluster;
use crate::kube::names::OURS;
use crate::kube::note::Note;
use crate::model::{AdminState, Backend, Delivery, Share};

/// A gate has at least so many steps.
const STEPS: u32 = 16;

/// Endpoints of a port on a node.
#[derive(Clone, Copy, Debug, Default)]
struct Count {
    ready: u32,
    /// Ready, but hinted for other zones.
    elsewhere: u32,
    leaving: u32,
    closed: u32,
}

impl Cluster {
    /// The nodes of a port, sorted by address.
    pub(super) fn nodes_of(&self, asked: &Asked<'_>, notes: &mut Vec<Note>) -> Vec<Member> {
        let Asked { wanted, policy, inherited, .. } = *asked;
        let mut counts = self.counts(asked, notes);
        if wanted.not_ready_too {
            for count in counts.values_mut() {
                *count = Count {
                    ready: count.ready + count.elsewhere + count.leaving + count.closed,
                    ..Count::default()
                };
            }
        }
        // Hints are for where there is a choice, and the last endpoints that serve are better than none.
        if counts.values().all(|count| count.ready == 0) {
            let others: u32 = counts.values().map(|count| count.elsewhere).sum();
            for count in counts.values_mut() {
                count.ready = if others > 0 { count.elsewhere } else { std::mem::take(&mut count.leaving) };
            }
        }
        let steps = counts.values().map(|count| count.ready).max().unwrap_or(0).next_power_of_two() * 4;
        let steps = f64::from(steps.max(STEPS));
        let (v4, v6) = (inherited.encap.source_v4.is_some(), inherited.encap.source_v6.is_some());
        let mut members: BTreeMap<IpAddr, Member> = BTreeMap::new();
        for (name, count) in counts {
            let Some(node) = self.nodes.get(name) else {
                notes.push(unknown(name));
                continue;
            };
            let Some(address) = node.address(v4, v6) else {
                notes.push(Note::warning(
                    "NoNodeAddress",
                    format!("node {name} has no InternalIP of a family that tunnels have a source for (`encap`), and gets nothing"),
                ));
                continue;
            };
            let server_id = policy.server_ids.get(name);
            if server_id.is_none() && !policy.server_ids.is_empty() {
                notes.push(Note::warning(
                    "NoServerId",
                    format!("node {name} is not in {OURS}server-ids, and gets nothing"),
                ));
                continue;
            }
            let gate = policy.shares.get(name).copied().unwrap_or(Share::FULL);
            let share = f64::from(count.ready) / steps * f64::from(gate.get()) / f64::from(Share::FULL.get());
            let state = match count {
                Count { ready: 0, elsewhere: 0, leaving: 0, .. } => AdminState::Down,
                Count { ready: 0, elsewhere: 0, .. } => AdminState::Drain,
                _ if node.drains => AdminState::Drain,
                _ => AdminState::Active,
            };
            let backend = Backend {
                address,
                weight: node.weight,
                zone: node.zone.clone(),
                state,
                // A port that a backend owns is all its own.
                share: if policy.slices.is_empty() { Share::from_fraction(share) } else { gate },
                slice: policy.slices.get(name).cloned().unwrap_or_default(),
                server_id: None,
                backup: false,
            };
            let origin = format!("node {name}");
            let server_id = server_id.map(|id| (id.clone(), format!("{OURS}server-ids")));
            if let Some(other) = members.insert(address, Member { backend, origin, server_id }) {
                let message = format!("{} and node {name} have the same address {address}", other.origin);
                notes.push(Note::warning("SameNodeAddress", message));
            }
        }
        members.into_values().collect()
    }

    /// Endpoints by node.
    fn counts(&self, asked: &Asked<'_>, notes: &mut Vec<Note>) -> BTreeMap<&str, Count> {
        let Asked { port, policy, .. } = *asked;
        let mut counts: BTreeMap<&str, Count> = BTreeMap::new();
        let delivery = policy.delivery(&self.settings);
        let slices = self.slices_with(asked);
        let zone = self.hinted_zone(&slices);
        for slice in slices {
            notes.extend(homeless(slice));
            let target = slice.port(port).and_then(|found| found.port);
            if delivery == Delivery::Host
                && !policy.ports.contains_key(&port.name)
                && target != Some(port.port)
            {
                let target = target.map_or("any port".to_owned(), |target| format!("port {target}"));
                notes.push(Note::warning(
                    "PortNotTranslated",
                    format!("endpoints listen on {target}, clients come to {}; with delivery host both must be the same", port.port),
                ));
                continue;
            }
            for place in &slice.places {
                let count = counts.entry(self.names.name(place.node)).or_default();
                let here = zone.is_none_or(|zone| self.is_hinted(place, zone));
                *(if here { &mut count.ready } else { &mut count.elsewhere }) += u32::from(place.ready);
                count.leaving += u32::from(place.leaving);
                count.closed += u32::from(place.closed);
            }
        }
        counts
    }
}
