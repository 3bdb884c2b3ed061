//! What a cluster tells a node that takes tunnels off: which addresses are VIPs, and from whom tunnels come.
//!
//! ```text
//!   Service of our class -> its addresses, and whether they end at the host itself
//!   edge Node -----------> its InternalIPs, or what its annotation xdp-lb.io/sources says
//! ```
//!
//! Nothing of EndpointSlices: every node of a cluster runs this, and none needs to know who serves what.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use k8s_openapi::api::core::v1 as core;

use super::Settings;
use super::cluster::Change;
use super::names::{Key, OURS};
use super::note::{Note, Subject};
use super::wanted::Wanted;
use crate::config::accept::{Accepted, OnHost};
use crate::config::values;
use crate::model::Delivery;

/// What is known of the cluster.
#[derive(Debug)]
pub struct Ends {
    settings: Settings,
    services: BTreeMap<Key, End>,
    edges: BTreeMap<String, Edge>,
}

/// A Service of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
struct End {
    vips: Vec<IpAddr>,
    delivery: Delivery,
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
    /// VIPs and sources.
    pub accepted: Accepted,
    /// What is to be said.
    pub notes: BTreeSet<(Subject, Note)>,
}

impl Ends {
    /// Nothing is known.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self { settings, services: BTreeMap::new(), edges: BTreeMap::new() }
    }

    /// A Service is there, or is another.
    pub fn service(&mut self, service: &core::Service) -> Change {
        let key = Key::of(&service.metadata);
        let Some(wanted) = Wanted::of(service, &self.settings) else { return self.service_gone(&key) };
        // What cannot be read changes nothing at the edge nodes either.
        let before = self.services.get(&key).map(|end| end.delivery);
        let delivery = match &wanted.policy {
            Ok(policy) => policy.delivery.unwrap_or(self.settings.delivery),
            Err(_) => before.unwrap_or(self.settings.delivery),
        };
        let vips = wanted.vips.into_iter().filter(|vip| values::is_host(*vip)).collect();
        let end = End { vips, delivery };
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

    /// What the cluster names now.
    #[must_use]
    pub fn ended(&self) -> Ended {
        let mut vips: BTreeMap<IpAddr, OnHost> = BTreeMap::new();
        for End { vips: of, delivery } in self.services.values() {
            for &vip in of {
                let on_host = vips.entry(vip).or_insert(OnHost::No);
                // With Services of both kinds on one address, the service proxy still takes its own ports first.
                if *delivery == Delivery::Host {
                    *on_host = OnHost::Yes;
                }
            }
        }
        let sources = self.edges.values().flat_map(|edge| edge.sources.iter().copied()).collect();
        let note = |(name, edge): (&String, &Edge)| Some((Subject::Node(name.clone()), edge.note.clone()?));
        Ended { accepted: Accepted { vips, sources }, notes: self.edges.iter().filter_map(note).collect() }
    }
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
