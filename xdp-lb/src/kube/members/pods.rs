//! Pods as backends (`delivery: pod`): each endpoint at its own address. What its Node says (weight, zone, share, that it
//! drains) holds for each of its pods; scaling changes the table, as a file's backends that come and go do.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::{Asked, homeless, unknown};
use crate::config::import::Member;
use crate::config::values;
use crate::kube::cluster::Cluster;
use crate::kube::names::Key;
use crate::kube::note::Note;
use crate::kube::slice::{Family, State};
use crate::model::{AdminState, Backend, Share};

/// What an endpoint takes, the most first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Takes {
    Flows,
    /// Those of other zones.
    Elsewhere,
    /// Those that are there.
    Known,
    Nothing,
}

impl Cluster {
    /// The endpoints of a port, sorted by address.
    pub(super) fn pods_of(&self, asked: &Asked<'_>, notes: &mut Vec<Note>) -> Vec<Member> {
        let (own, encap) = (asked.family, &asked.inherited.encap);
        let (family, has_source) = match own {
            Family::V4 => ("v4", encap.source_v4.is_some()),
            Family::V6 => ("v6", encap.source_v6.is_some()),
        };
        let mut pods = self.endpoints(asked, notes);
        if !has_source && !pods.is_empty() {
            notes.push(Note::warning(
                "NoTunnelSource",
                format!("tunnels to IP{family} pods need `encap.source_{family}`, which is not there; they get nothing"),
            ));
            return Vec::new();
        }
        // Hints are for where there is a choice, and the last endpoints that serve are better than none.
        if let Some(best) = pods.values().map(|(takes, _)| *takes).min().filter(|best| *best < Takes::Nothing)
        {
            pods.values_mut().filter(|(takes, _)| *takes == best).for_each(|pod| pod.0 = Takes::Flows);
        }
        let mut nowhere = BTreeSet::new();
        let mut members = Vec::with_capacity(pods.len());
        for (address, (takes, name)) in pods {
            let Some(node) = self.nodes.get(name) else {
                nowhere.insert(name);
                continue;
            };
            let gate = asked.policy.shares.get(name).copied().unwrap_or(Share::FULL);
            let backend = Backend {
                address,
                weight: node.weight,
                zone: node.zone.clone(),
                state: match takes {
                    Takes::Flows | Takes::Elsewhere if node.drains => AdminState::Drain,
                    Takes::Flows | Takes::Elsewhere => AdminState::Active,
                    Takes::Known => AdminState::Drain,
                    Takes::Nothing => AdminState::Down,
                },
                share: if takes == Takes::Elsewhere { Share::NONE } else { gate },
                slice: Vec::new(),
                server_id: None,
                backup: false,
            };
            members.push(Member { backend, origin: format!("pod {address}"), server_id: None });
        }
        notes.extend(nowhere.into_iter().map(unknown));
        members
    }

    /// Endpoints of a Service on this node.
    pub(in crate::kube) fn own_pods(&self, service: &Key) -> BTreeSet<IpAddr> {
        let Some(own) = self.settings.own.as_deref() else { return BTreeSet::new() };
        let slices = self.slices_of.get(service).into_iter().flatten().map(|key| &self.slices[key]);
        let here = slices.flat_map(|slice| slice.endpoints());
        here.filter(|(place, ..)| self.names.name(place.node) == own).map(|(.., address)| address).collect()
    }

    /// Endpoints by address, and the nodes they are on. Who is in two slices takes what is more.
    fn endpoints(&self, asked: &Asked<'_>, notes: &mut Vec<Note>) -> BTreeMap<IpAddr, (Takes, &str)> {
        let slices = self.slices_with(asked);
        let zone = self.hinted_zone(&slices);
        let own = self.settings.own.as_deref();
        let (mut pods, mut nameless) = (BTreeMap::new(), 0);
        for slice in slices {
            notes.extend(homeless(slice));
            for (place, state, address) in slice.endpoints() {
                if !values::is_host(address) {
                    nameless += 1;
                    continue;
                }
                let is_here = zone.is_none_or(|zone| self.is_hinted(place, zone));
                let node = self.names.name(place.node);
                let takes = match state {
                    _ if own == Some(node) && !self.settings.reaches_own => Takes::Nothing,
                    _ if asked.wanted.not_ready_too => Takes::Flows,
                    State::Ready if is_here => Takes::Flows,
                    State::Ready => Takes::Elsewhere,
                    State::Leaving => Takes::Known,
                    State::Closed => Takes::Nothing,
                };
                let pod = (takes, node);
                pods.entry(address).and_modify(|other| *other = pod.min(*other)).or_insert(pod);
            }
        }
        let here = pods.values().filter(|(_, node)| own == Some(*node)).count();
        if here > 0 && !self.settings.reaches_own {
            let message = format!(
                "{here} pods are on this edge node, whose file has no `decap` to hand packets to them: down here, and nowhere else"
            );
            notes.push(Note::warning("OwnPods", message));
        }
        if nameless > 0 {
            let message =
                format!("{nameless} endpoints have no address that a tunnel can end at, and get nothing");
            notes.push(Note::warning("NoPodAddress", message));
        }
        pods
    }
}
