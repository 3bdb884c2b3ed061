//! The last step: a draft without mistakes into the desired state. Called by [`super::parse`].

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::IpAddr;

use super::draft::{DecapDraft, Draft, PlacedList, PortsDraft, ServiceDraft};
use super::finding::Placed;
use crate::model::{Backends, Decap, Desired, Encap, Interface, Ports, Service, Unmatched, Vip};

/// `None` when a part is missing, which a recorded mistake explains.
pub(super) fn desired(draft: Draft) -> Option<Desired> {
    let mut lists = HashSet::new();
    let mut whens = BTreeMap::new();
    let services: Vec<Service> = match draft.services {
        Some(services) => {
            let named =
                |draft: &ServiceDraft| Some((draft.name.as_ref()?.value.clone(), draft.advertise.when));
            whens.extend(services.items.iter().filter_map(named));
            services.items.into_iter().map(|draft| service(draft, &mut lists)).collect::<Option<_>>()?
        }
        None => Vec::new(),
    };
    let bgp = match draft.bgp {
        Some(bgp) => Some(super::bgp::finish(bgp, &services, &whens, &draft.announcements)?),
        None => None,
    };
    Some(Desired {
        node: draft.node,
        interfaces: interfaces(draft.interfaces),
        seed: draft.seed?.value,
        flow_table: draft.flow_table?,
        limits: draft.limits?.value,
        log: draft.log,
        vips: vips(&services, draft.policies),
        services,
        decap: draft.decap.map(decap),
        bgp,
    })
}

/// One entry for each address in use, by address.
fn vips(services: &[Service], policies: Vec<Placed<Vip>>) -> Vec<Vip> {
    let policies: BTreeMap<IpAddr, Unmatched> =
        policies.into_iter().map(|policy| (policy.value.address, policy.value.unmatched)).collect();
    let used: BTreeSet<IpAddr> = services.iter().flat_map(|service| service.vips.iter().copied()).collect();
    let vip = |address| Vip { address, unmatched: policies.get(&address).copied().unwrap_or_default() };
    used.into_iter().map(vip).collect()
}

/// `lists` are the lists of backends so far: equal ones become one.
fn service(draft: ServiceDraft, lists: &mut HashSet<Backends>) -> Option<Service> {
    let ports = match draft.ports? {
        PortsDraft::All(_) => Ports::All,
        PortsDraft::Ranges(ranges) => Ports::Ranges(ranges.into_iter().map(|range| range.value).collect()),
    };
    let backends: Backends = draft.backends?.items.into_iter().map(|backend| backend.value).collect();
    let backends = lists.get(&backends).cloned().unwrap_or(backends);
    lists.insert(backends.clone());
    Some(Service {
        name: draft.name?.value,
        vips: sorted(draft.vips),
        protocol: draft.protocol?,
        ports,
        affinity: draft.affinity,
        tracking: draft.tracking?,
        flow_timeout: draft.flow_timeout?,
        new_flow_limit: draft.new_flow_limit,
        table_size: draft.table_size?.value,
        drain: draft.drain,
        encap: Encap {
            source_v4: draft.encap.source_v4.value(),
            source_v6: draft.encap.source_v6.value(),
            dscp: draft.encap.dscp.value().unwrap_or_default(),
        },
        health: draft.health?,
        on_all_down: draft.on_all_down,
        backends,
    })
}

fn decap(draft: DecapDraft) -> Decap {
    Decap {
        interfaces: interfaces(draft.interfaces),
        allow_sources: sorted(draft.allow_sources),
        vips: sorted(draft.vips),
        vip_on_lo: draft.vip_on_lo,
    }
}

fn interfaces(list: Option<PlacedList<Interface>>) -> Vec<Interface> {
    list.map(|list| list.items).unwrap_or_default().into_iter().map(|interface| interface.value).collect()
}

fn sorted<T: Ord>(values: Vec<Placed<T>>) -> Vec<T> {
    let mut values: Vec<T> = values.into_iter().map(|value| value.value).collect();
    values.sort();
    values
}
