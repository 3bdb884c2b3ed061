//! From the cluster to services. A Service becomes one service for each of its ports and each family of its addresses.
//!
//! Backends are nodes with endpoints of the port. A node's gate is open in proportion to its ready endpoints, so that
//! scaling moves slots to the node that grows and from the node that shrinks; the table changes only when a node gets
//! its first endpoint or loses its last.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use super::cluster::Cluster;
use super::names::{self, Key, OURS};
use super::note::{Note, Subject};
use super::policy::Policy;
use super::slice::{Family, Slice};
use super::wanted::{Port, Wanted};
use crate::config::import::{Complaint, Import, Imported, Member, Said, Word, import};
use crate::model::{AdminState, Backend, Delivery, Inherited, Protocol, Share};

/// A gate has at least so many steps.
const STEPS: u32 = 16;

/// What a cluster asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mapped {
    /// The services; those of older Services first.
    pub services: Vec<Imported>,
    /// Whose each of them is.
    pub owners: Vec<Key>,
    /// What is to be said.
    pub notes: BTreeSet<(Subject, Note)>,
}

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
    /// Everything that the cluster asks for, under the file's `inherited`.
    pub fn map(&mut self, inherited: &Inherited) -> Mapped {
        let mut mapped = Mapped::default();
        let mut order: Vec<(i64, Key)> =
            self.services.iter().map(|(key, w)| (w.created, key.clone())).collect();
        order.sort_unstable();
        for (_, key) in order {
            self.map_service(&key, inherited, &mut mapped);
        }
        for (name, node) in &self.nodes {
            let notes = node.notes.iter().cloned();
            mapped.notes.extend(notes.map(|note| (Subject::Node(name.clone()), note)));
        }
        mapped
    }

    fn map_service(&mut self, key: &Key, inherited: &Inherited, mapped: &mut Mapped) {
        let Some(wanted) = self.services.get(key) else { return };
        let mut notes = wanted.notes.clone();
        if wanted.vips.is_empty() {
            notes.clear();
            notes.push(Note::normal("NoAddress", "waits for an address in status.loadBalancer.ingress"));
        }
        let judged = wanted.policy.clone().and_then(|policy| {
            self.judge(key, wanted, &policy, inherited, &mut notes).map(|services| (policy, services))
        });
        let (policy, services) = match judged {
            Ok((policy, services)) => (Some(policy), services),
            Err(complaints) => {
                let before = self.good.get(key).and_then(|policy| {
                    // What is said of it has been said when it was new.
                    Some((policy.clone(), self.judge(key, wanted, policy, inherited, &mut Vec::new()).ok()?))
                });
                let outcome =
                    if before.is_some() { "what was said before stays in force" } else { "not balanced" };
                let all: BTreeSet<Complaint> = complaints.into_iter().collect();
                notes.extend(all.into_iter().map(|Complaint { origin, message }| {
                    Note::warning("InvalidPolicy", format!("{origin}: {message}; {outcome}"))
                }));
                before.map_or((None, Vec::new()), |(policy, services)| (Some(policy), services))
            }
        };
        for imported in services {
            notes.extend(imported.warnings.iter().map(|Complaint { origin, message }| {
                Note::normal("SeldomMeant", format!("{origin}: {message}"))
            }));
            mapped.services.push(imported);
            mapped.owners.push(key.clone());
        }
        mapped.notes.extend(notes.into_iter().map(|note| (Subject::Service(key.clone()), note)));
        if let Some(policy) = policy {
            self.good.insert(key.clone(), policy);
        }
    }

    /// All services of a Service, or everything that is wrong with them.
    fn judge(
        &self,
        key: &Key,
        wanted: &Wanted,
        policy: &Arc<Policy>,
        inherited: &Inherited,
        notes: &mut Vec<Note>,
    ) -> Result<Vec<Imported>, Vec<Complaint>> {
        let mut errors = unknown_ports(wanted, policy);
        let mut services = Vec::new();
        let (v4, v6): (Vec<IpAddr>, Vec<IpAddr>) = wanted.vips.iter().partition(|vip| vip.is_ipv4());
        for port in &wanted.ports {
            for (vips, family) in [(&v4, Family::V4), (&v6, Family::V6)] {
                let Some(&vip) = vips.first() else { continue };
                let words =
                    self.words(&names::service(key, &port.name, vip), vips, port, policy, &mut errors);
                let backends = self.backends(key, wanted, port, family, policy, inherited, notes);
                match import(&Import { words, backends }, inherited) {
                    Ok(imported) => services.push(imported),
                    Err(more) => errors.extend(more),
                }
            }
        }
        if errors.is_empty() { Ok(services) } else { Err(errors) }
    }

    fn words(
        &self,
        name: &str,
        vips: &[IpAddr],
        port: &Port,
        policy: &Policy,
        errors: &mut Vec<Complaint>,
    ) -> Vec<Word> {
        let word = |key, origin: &str, value| Word { key, origin: origin.to_owned(), value };
        let protocol = match port.protocol {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        };
        let own = policy.ports.get(&port.name);
        let delivery = policy.delivery.unwrap_or(self.settings.delivery);
        if own.is_some() && delivery == Delivery::Node {
            errors.push(Complaint {
                origin: format!("{OURS}ports"),
                message: format!(
                    "the service proxy knows port {} alone; other ports need {OURS}delivery: host",
                    port.port
                ),
            });
        }
        let (origin, ports) = match own {
            Some(ranges) => (format!("{OURS}ports"), ranges.clone()),
            None => ("spec.ports".to_owned(), vec![port.port.to_string()]),
        };
        let mut words = vec![
            word(&["name"], "metadata.name", Said::Text(name.to_owned())),
            word(
                &["vip"],
                "status.loadBalancer.ingress",
                Said::List(vips.iter().map(IpAddr::to_string).collect()),
            ),
            word(&["protocol"], "spec.ports", Said::Text(protocol.to_owned())),
            word(&["ports"], &origin, Said::List(ports)),
        ];
        words.extend(policy.words.iter().cloned());
        words
    }

    /// The nodes of a port, sorted by address.
    #[expect(clippy::too_many_arguments, reason = "one place calls it, with everything it has")]
    fn backends(
        &self,
        key: &Key,
        wanted: &Wanted,
        port: &Port,
        family: Family,
        policy: &Policy,
        inherited: &Inherited,
        notes: &mut Vec<Note>,
    ) -> Vec<Member> {
        let mut counts = self.counts(key, port, family, policy, notes);
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
                notes.push(Note::warning(
                    "UnknownNode",
                    format!("endpoints on node {name}, which does not exist, get nothing"),
                ));
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
    fn counts(
        &self,
        key: &Key,
        port: &Port,
        family: Family,
        policy: &Policy,
        notes: &mut Vec<Note>,
    ) -> BTreeMap<&str, Count> {
        let mut counts: BTreeMap<&str, Count> = BTreeMap::new();
        let delivery = policy.delivery.unwrap_or(self.settings.delivery);
        let slices: Vec<&Slice> =
            self.slices_of.get(key).into_iter().flatten().map(|key| &self.slices[key]).collect();
        let of_port = |slice: &&&Slice| slice.family == family && slice.port(port).is_some();
        let zone = self.settings.hints_for.as_deref();
        // As service proxies do: hints count only if all have one and somebody is hinted for here.
        let places =
            || slices.iter().filter(of_port).flat_map(|slice| slice.places.iter()).filter(|p| p.ready > 0);
        let is_for = |zones: u32, zone: &str| self.names.name(zones).contains(&format!(",{zone},"));
        let zone = zone.filter(|zone| {
            places().all(|p| !self.names.name(p.zones).is_empty()) && places().any(|p| is_for(p.zones, zone))
        });
        for slice in slices.iter().filter(of_port) {
            if slice.homeless > 0 {
                notes.push(Note::warning(
                    "NoNode",
                    format!("{} endpoints are on no node and get nothing", slice.homeless),
                ));
            }
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
                let here = zone.is_none_or(|zone| is_for(place.zones, zone));
                *(if here { &mut count.ready } else { &mut count.elsewhere }) += u32::from(place.ready);
                count.leaving += u32::from(place.leaving);
                count.closed += u32::from(place.closed);
            }
        }
        counts
    }
}

impl Slice {
    fn port(&self, wanted: &Port) -> Option<&super::slice::Port> {
        self.ports.iter().find(|port| *port.name == *wanted.name && port.protocol == wanted.protocol)
    }
}

/// Ports that an annotation names and the Service does not have.
fn unknown_ports(wanted: &Wanted, policy: &Policy) -> Vec<Complaint> {
    let is_unknown = |name: &&String| !wanted.ports.iter().any(|port| port.name == **name);
    let complaint = |name: &String| Complaint {
        origin: format!("{OURS}ports"),
        message: if name.is_empty() {
            "must name ports, as in rtp=20000-24999".to_owned()
        } else {
            format!("the Service has no port named {name}")
        },
    };
    policy.ports.keys().filter(is_unknown).map(complaint).collect()
}
