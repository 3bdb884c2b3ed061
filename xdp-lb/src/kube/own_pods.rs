//! The pods of one node, as EndpointSlices tell of them: what a port of a VIP leads to there.
//!
//! Every slice comes by, and only endpoints of this node are kept, whatever state they are in and whoever's Service they
//! are of: a Service may come later than its slices, and a pod is to be known before the edge nodes send to it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use k8s_openapi::api::discovery::v1 as discovery;

use super::names::{Key, SERVICE_NAME};
use super::slice::{self, Family};
use super::wanted;
use crate::config::values;
use crate::model::Protocol;

/// A port of a VIP at a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct At {
    pub vip: IpAddr,
    pub protocol: Protocol,
    pub port: u16,
    pub pod: IpAddr,
}

/// Where it leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Leads {
    /// What the pod listens on.
    pub target: u16,
    /// Which pod: an address may be another's later.
    pub who: Box<str>,
}

/// What we keep of a slice with endpoints on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Own {
    service: Key,
    family: Family,
    ports: Box<[slice::Port]>,
    /// Sorted.
    pods: Box<[(IpAddr, Box<str>)]>,
}

/// The pods of a node.
#[derive(Debug)]
pub(super) struct OwnPods {
    node: Box<str>,
    slices: BTreeMap<Key, Own>,
}

impl OwnPods {
    pub fn new(node: &str) -> Self {
        Self { node: node.into(), slices: BTreeMap::new() }
    }

    /// A slice is there, or is another. Whose it was and is, if anything of it has changed here.
    pub fn slice(&mut self, slice: &discovery::EndpointSlice) -> Vec<Key> {
        let key = Key::of(&slice.metadata);
        let Some(own) = Own::of(slice, &self.node) else {
            return self.slice_gone(&key).into_iter().collect();
        };
        if self.slices.get(&key) == Some(&own) {
            return Vec::new();
        }
        let service = own.service.clone();
        self.slices.insert(key, own).map(|old| old.service).into_iter().chain([service]).collect()
    }

    /// A slice is gone. Whose it was, if anything of it was here.
    pub fn slice_gone(&mut self, key: &Key) -> Option<Key> {
        self.slices.remove(key).map(|own| own.service)
    }

    /// A full list of slices has come: who is not in it is gone. Whose they were.
    pub fn slices_are(&mut self, there: &BTreeSet<Key>) -> Vec<Key> {
        self.slices.extract_if(.., |key, _| !there.contains(key)).map(|(_, own)| own.service).collect()
    }

    /// Who has an address; of several (in the node's own network all have the node's) any.
    pub fn owners(&self) -> BTreeMap<IpAddr, BTreeSet<&str>> {
        let mut owners: BTreeMap<IpAddr, BTreeSet<&str>> = BTreeMap::new();
        for (address, who) in self.slices.values().flat_map(|own| own.pods.iter()) {
            owners.entry(*address).or_default().insert(who);
        }
        owners
    }

    /// Slices by Service.
    pub fn by_service(&self) -> OfServices<'_> {
        let mut all: BTreeMap<&Key, Vec<&Own>> = BTreeMap::new();
        for own in self.slices.values() {
            all.entry(&own.service).or_default().push(own);
        }
        OfServices(all)
    }
}

/// Slices of this node by Service.
pub(super) struct OfServices<'a>(BTreeMap<&'a Key, Vec<&'a Own>>);

impl OfServices<'_> {
    /// Where a port of a Service leads from its VIPs.
    pub fn port(&self, service: &Key, vips: &[IpAddr], port: &wanted::Port) -> Vec<(At, Leads)> {
        let mut all = Vec::new();
        for own in self.0.get(service).into_iter().flatten() {
            let Some(found) = own.ports.iter().find(|found| found.is(port)) else { continue };
            let target = found.port.unwrap_or(port.port);
            for &vip in vips.iter().filter(|vip| own.family.has(**vip)) {
                all.extend(own.pods.iter().map(|(pod, who)| {
                    let at = At { vip, protocol: port.protocol, port: port.port, pod: *pod };
                    (at, Leads { target, who: who.clone() })
                }));
            }
        }
        all
    }
}

impl Own {
    /// `None`: nothing of it is here.
    fn of(slice: &discovery::EndpointSlice, node: &str) -> Option<Self> {
        let family = Family::of(slice)?;
        let here = slice.endpoints.iter().filter(|endpoint| endpoint.node_name.as_deref() == Some(node));
        let pods = here.map(|endpoint| (family.address(endpoint), who(endpoint)));
        let mut pods: Vec<(IpAddr, Box<str>)> = pods.filter(|(pod, _)| values::is_host(*pod)).collect();
        if pods.is_empty() {
            return None;
        }
        pods.sort_unstable();
        pods.dedup();
        let service = slice.metadata.labels.as_ref()?.get(SERVICE_NAME)?;
        Some(Self {
            service: Key::new(slice.metadata.namespace.as_deref().unwrap_or_default(), service),
            family,
            ports: slice.ports.iter().flatten().filter_map(slice::port).collect(),
            pods: pods.into(),
        })
    }
}

fn who(endpoint: &discovery::Endpoint) -> Box<str> {
    let of = endpoint.target_ref.as_ref();
    let uid = of.and_then(|of| of.uid.as_deref().or(of.name.as_deref()));
    uid.unwrap_or_default().into()
}
