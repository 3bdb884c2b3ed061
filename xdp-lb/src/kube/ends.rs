//! What a cluster tells a node that takes tunnels off: which addresses are VIPs, and from whom tunnels come.
//!
//! ```text
//!   Service of our class -> its addresses, and whether they end at the host itself or at pods
//!   edge Node -----------> its InternalIPs, or what its annotation xdp-lb.io/sources says
//!   EndpointSlice -------> pods of this node (own_pods), those that have just left too (lingering)
//! ```
//!
//! Every node of a cluster runs this, and none needs to know who serves what elsewhere: slices are followed where a Service
//! delivers to pods, and nothing is kept but what is on this node.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use k8s_openapi::api::{core::v1 as core, discovery::v1 as discovery};

use super::Settings;
use super::cluster::Change;
use super::lingering::Lingering;
use super::names::{Key, OURS};
use super::note::{Note, Subject};
use super::own_pods::{At, Leads, OwnPods};
use super::wanted::{Port, Wanted};
use crate::config::accept::{Accepted, OnHost};
use crate::config::values;
use crate::model::{Delivery, PodPort, Protocol};

/// What is known of the cluster.
#[derive(Debug)]
pub struct Ends {
    settings: Settings,
    services: BTreeMap<Key, End>,
    edges: BTreeMap<String, Edge>,
    pods: OwnPods,
    lingering: Lingering,
}

/// A Service of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
struct End {
    /// Seconds since 1970: who is older comes first.
    created: i64,
    vips: Vec<IpAddr>,
    delivery: Delivery,
    /// With delivery `pod`.
    ports: Vec<Port>,
}

/// An edge node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Edge {
    sources: BTreeSet<(IpAddr, u8)>,
    note: Option<Note>,
}

/// What a cluster names, and what is to be said of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ended {
    /// VIPs, sources and pods.
    pub accepted: Accepted,
    /// What is to be said.
    pub notes: BTreeSet<(Subject, Note)>,
}

impl Ends {
    /// Nothing is known. `node` is this one's name in the cluster, and who has left it is known for `linger`.
    #[must_use]
    pub fn new(settings: Settings, node: &str, linger: Duration) -> Self {
        Self {
            settings,
            services: BTreeMap::new(),
            edges: BTreeMap::new(),
            pods: OwnPods::new(node),
            lingering: Lingering::new(linger),
        }
    }

    /// A Service is there, or is another.
    pub fn service(&mut self, service: &core::Service) -> Change {
        let key = Key::of(&service.metadata);
        let Some(wanted) = Wanted::of(service, &self.settings) else { return self.service_gone(&key) };
        // What cannot be read changes nothing at the edge nodes either.
        let before = self.services.get(&key).map(|end| end.delivery);
        let delivery = match &wanted.policy {
            Ok(policy) => policy.delivery(&self.settings),
            Err(_) => before.unwrap_or(self.settings.delivery),
        };
        let vips = wanted.vips.into_iter().filter(|vip| values::is_host(*vip)).collect();
        let ports = if delivery == Delivery::Pod { wanted.ports } else { Vec::new() };
        let end = End { created: wanted.created, vips, delivery, ports };
        let old = self.services.insert(key, end.clone());
        Change::of(old != Some(end))
    }

    /// A Service is gone.
    pub fn service_gone(&mut self, key: &Key) -> Change {
        Change::of(self.services.remove(key).is_some())
    }

    /// An edge node is there, or is another.
    pub fn edge(&mut self, node: &core::Node) -> Change {
        let name = node.metadata.name.clone().unwrap_or_default();
        let edge = Edge::of(node);
        let old = self.edges.insert(name, edge.clone());
        Change::of(old != Some(edge))
    }

    /// An edge node is gone, or is none any more.
    pub fn edge_gone(&mut self, name: &str) -> Change {
        Change::of(self.edges.remove(name).is_some())
    }

    /// Whether EndpointSlices have to be followed.
    #[must_use]
    pub fn wants_slices(&self) -> bool {
        self.services.values().any(|end| end.delivery == Delivery::Pod)
    }

    /// An EndpointSlice is there, or is another.
    pub fn slice(&mut self, slice: &discovery::EndpointSlice) -> Change {
        let services = self.pods.slice(slice);
        self.of_pods(&services)
    }

    /// An EndpointSlice is gone.
    pub fn slice_gone(&mut self, key: &Key) -> Change {
        let services: Vec<Key> = self.pods.slice_gone(key).into_iter().collect();
        self.of_pods(&services)
    }

    /// A full list of EndpointSlices has come: who is not in it is gone.
    pub fn slices_are(&mut self, there: &BTreeSet<Key>) -> Change {
        let services = self.pods.slices_are(there);
        self.of_pods(&services)
    }

    /// Whether it matters that pods of these Services are others. Of any, while somebody's address may be another's now.
    fn of_pods(&self, services: &[Key]) -> Change {
        let is_to_pods = |key: &Key| self.services.get(key).is_some_and(|end| end.delivery == Delivery::Pod);
        Change::of(services.iter().any(|key| !self.lingering.is_empty() || is_to_pods(key)))
    }

    /// A full list of Services has come: who is not in it is gone.
    pub fn services_are(&mut self, there: &BTreeSet<Key>) -> Change {
        let before = self.services.len();
        self.services.retain(|key, _| there.contains(key));
        Change::of(self.services.len() != before)
    }

    /// A full list of edge nodes has come: who is not in it is gone.
    pub fn edges_are(&mut self, there: &BTreeSet<Key>) -> Change {
        let before = self.edges.len();
        self.edges.retain(|name, _| there.contains(&Key::new("", name)));
        Change::of(self.edges.len() != before)
    }

    /// What the cluster names at `now`, which is a time on any clock that only grows.
    #[must_use]
    pub fn ended(&mut self, now: Duration) -> Ended {
        let mut vips: BTreeMap<IpAddr, OnHost> = BTreeMap::new();
        for End { vips: of, delivery, .. } in self.services.values() {
            // A tunnel to a pod ends there, and the node itself has nothing of it.
            for &vip in of.iter().filter(|_| *delivery != Delivery::Pod) {
                let on_host = vips.entry(vip).or_insert(OnHost::No);
                // With Services of both kinds on one address, the service proxy still takes its own ports first.
                if *delivery == Delivery::Host {
                    *on_host = OnHost::Yes;
                }
            }
        }
        let sources = self.edges.values().flat_map(|edge| edge.sources.iter().copied()).collect();
        let note = |(name, edge): (&String, &Edge)| Some((Subject::Node(name.clone()), edge.note.clone()?));
        let mut notes: BTreeSet<(Subject, Note)> = self.edges.iter().filter_map(note).collect();
        let there = self.there(&mut notes);
        let pods = ports(&there);
        let leaving = ports(&self.lingering.turn(there, &self.pods.owners(), now));
        Ended { accepted: Accepted { vips, sources, pods, leaving }, notes }
    }

    /// When to ask again though nothing has changed, on the clock of [`Self::ended`].
    #[must_use]
    pub fn wakes(&self) -> Option<Duration> {
        self.lingering.next()
    }

    /// Ports at pods of this node. On a clash the older Service stays, as at the edge nodes.
    fn there(&self, notes: &mut BTreeSet<(Subject, Note)>) -> BTreeMap<At, Leads> {
        let to_pods = self.services.iter().filter(|(_, end)| end.delivery == Delivery::Pod);
        let mut services: Vec<(&Key, &End)> = to_pods.collect();
        services.sort_by_key(|(key, end)| (end.created, *key));
        let slices = self.pods.by_service();
        let mut there: BTreeMap<At, Leads> = BTreeMap::new();
        for (key, end) in services {
            let ports = end.ports.iter().flat_map(|port| slices.port(key, &end.vips, port));
            for (at, leads) in ports {
                let target = leads.target;
                let first = there.entry(at).or_insert(leads);
                if first.target != target {
                    let At { vip, protocol, port, pod } = at;
                    let protocol = if protocol == Protocol::Tcp { "TCP" } else { "UDP" };
                    let message = format!(
                        "{protocol} port {port} of {vip} leads to port {} of pod {pod} already, and not to {target}",
                        first.target
                    );
                    notes.insert((Subject::Service(key.clone()), Note::warning("PodPortTaken", message)));
                }
            }
        }
        there
    }
}

fn ports(all: &BTreeMap<At, Leads>) -> BTreeSet<PodPort> {
    let port = |(&At { vip, protocol, port, pod }, Leads { target, .. }): (&At, &Leads)| PodPort {
        vip,
        protocol,
        port,
        pod,
        target: *target,
    };
    all.iter().map(port).collect()
}

impl Edge {
    fn of(node: &core::Node) -> Self {
        let own = node.metadata.annotations.iter().flatten().find_map(|(k, v)| {
            (k.strip_prefix(OURS)? == "sources").then(|| v.split(',').map(|p| values::prefix(p.trim())))
        });
        let (own, wrong) = match own.map(Iterator::collect::<Result<_, _>>) {
            Some(Ok(sources)) => (Some(sources), None),
            Some(Err(why)) => (None, Some(why)),
            None => (None, None),
        };
        let internal = || {
            let all = node.status.iter().flat_map(|status| status.addresses.iter().flatten());
            let all = all.filter(|a| a.type_ == "InternalIP").filter_map(|a| a.address.parse().ok());
            all.map(|a: IpAddr| (a, if a.is_ipv4() { 32 } else { 128 })).collect()
        };
        let sources: BTreeSet<(IpAddr, u8)> = own.unwrap_or_else(internal);
        let note = wrong.map(|why| Note::warning("InvalidAnnotation", format!("{OURS}sources: {why}")));
        let none = || Note::warning("NoAddress", "an edge node without an address: its tunnels are dropped");
        let note = note.or_else(|| sources.is_empty().then(none));
        Self { sources, note }
    }
}
