//! The last step: a draft without mistakes into the desired state. Called by [`super::parse`].

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::draft::{
    DecapDraft, Draft, EncapDraft, GUE_PORT, Kind, PlacedList, PortsDraft, ServiceDraft, TranslateDraft,
};
use super::finding::Placed;
use crate::model::{
    Decap, Desired, Encap, EncapKind, Inherited, Interface, PodPort, Policy, Ports, Removal, Service,
    SourceRanges, TableSize, Unmatched, Vip, share_lists,
};

/// `None` when a part is missing, which a recorded mistake explains.
pub(super) fn desired(draft: Draft) -> Option<Desired> {
    let mut whens = BTreeMap::new();
    let mut services: Vec<Service> = match draft.services {
        Some(services) => {
            let named =
                |draft: &ServiceDraft| Some((draft.name.as_ref()?.value.clone(), draft.advertise.when));
            whens.extend(services.items.iter().filter_map(named));
            services.items.into_iter().map(service).collect::<Option<_>>()?
        }
        None => Vec::new(),
    };
    share_lists(&mut services);
    let policies = policies(draft.policies, &draft.announcements);
    let inherited = Inherited {
        encap: encap(&draft.encap),
        table_size: draft.table_size.map_or(TableSize::DEFAULT, |size| size.value),
        zone: draft.node.zone.clone(),
        policies,
    };
    let bgp = match draft.bgp {
        Some(bgp) => Some(super::bgp::finish(bgp, &services, &whens, &inherited.policies)?),
        None => None,
    };
    let limits = draft.limits?;
    Some(Desired {
        node: draft.node,
        interfaces: interfaces(draft.interfaces),
        seed: draft.seed?.value,
        flow_table: draft.flow_table?,
        limits: limits.value,
        metrics: limits.metrics,
        peers: draft.peers,
        kubernetes: draft.kubernetes,
        log: draft.log,
        admin: draft.admin,
        vips: vips(&services, &inherited.policies),
        services,
        decap: draft.decap.map(decap),
        bgp,
        inherited,
    })
}

fn policies(
    policies: Vec<Placed<Vip>>,
    announcements: &BTreeMap<IpAddr, super::bgp::PolicyDraft>,
) -> BTreeMap<IpAddr, Policy> {
    let policy = |Placed { value: Vip { address, unmatched }, .. }| {
        let (join, attributes) = announcements.get(&address).cloned().unwrap_or_default().finish();
        (address, Policy { unmatched, join, attributes })
    };
    policies.into_iter().map(policy).collect()
}

/// One entry for each address in use, by address.
pub(super) fn vips(services: &[Service], policies: &BTreeMap<IpAddr, Policy>) -> Vec<Vip> {
    let used: BTreeSet<IpAddr> = services.iter().flat_map(|service| service.vips.iter().copied()).collect();
    let vip = |address| {
        let unmatched = policies.get(&address).map_or_else(Unmatched::default, |policy| policy.unmatched);
        Vip { address, unmatched }
    };
    used.into_iter().map(vip).collect()
}

pub(super) fn service(draft: ServiceDraft) -> Option<Service> {
    let ports = match draft.ports? {
        PortsDraft::All(_) => Ports::All,
        PortsDraft::Ranges(ranges) => Ports::Ranges(ranges.into_iter().map(|range| range.value).collect()),
    };
    Some(Service {
        name: draft.name?.value,
        vips: sorted(draft.vips),
        protocol: draft.protocol?,
        ports,
        affinity: draft.affinity?.value,
        cid: draft.cid?,
        source_ranges: SourceRanges {
            allow: sorted(draft.source_ranges.allow),
            deny: sorted(draft.source_ranges.deny),
        },
        fragments: draft.fragments,
        tracking: draft.tracking?,
        flow_timeout: draft.flow_timeout?.value,
        new_flow_limit: draft.new_flow_limit,
        slow_start: draft.slow_start,
        table_size: draft.table_size?.value,
        drain: draft.drain,
        removal: Removal::Drain,
        encap: encap(&draft.encap),
        health: draft.health?,
        on_all_down: draft.on_all_down,
        zone_policy: draft.zone_policy.map(|policy| policy.value),
        backends: draft.backends?.model(),
    })
}

/// What a service's `encap` says, with what it leaves to the defaults.
pub(super) fn encap(draft: &EncapDraft) -> Encap {
    Encap {
        kind: match draft.kind.value().unwrap_or_default() {
            Kind::Ipip => EncapKind::Ipip,
            Kind::Gue => EncapKind::Gue {
                port: draft.gue_port.value().unwrap_or(GUE_PORT),
                variant: draft.gue_variant.value().unwrap_or_default(),
            },
        },
        source_v4: draft.source_v4.value(),
        source_v6: draft.source_v6.value(),
        dscp: draft.dscp.value().unwrap_or_default(),
        mtu: draft.mtu.value().unwrap_or_default(),
    }
}

fn decap(draft: DecapDraft) -> Decap {
    let vips = sorted(draft.vips);
    Decap {
        interfaces: interfaces(draft.interfaces),
        ipip: draft.ipip,
        gue: draft.gue,
        allow_sources: sorted(draft.allow_sources),
        on_lo: if draft.vip_on_lo { vips.clone() } else { Vec::new() },
        vips,
        translate: translate(draft.translate),
        vip_on_lo: draft.vip_on_lo,
        mss: draft.mss,
    }
}

fn translate(drafts: Vec<TranslateDraft>) -> Vec<PodPort> {
    let ports = |TranslateDraft { vip, protocol, port, target, pods }| {
        pods.into_iter().map(move |pod| PodPort { vip: vip.value, protocol, port, pod: pod.value, target })
    };
    let mut ports: Vec<PodPort> = drafts.into_iter().flat_map(ports).collect();
    ports.sort();
    ports
}

fn interfaces(list: Option<PlacedList<Interface>>) -> Vec<Interface> {
    list.map(|list| list.items).unwrap_or_default().into_iter().map(|interface| interface.value).collect()
}

fn sorted<T: Ord>(values: Vec<Placed<T>>) -> Vec<T> {
    let mut values: Vec<T> = values.into_iter().map(|value| value.value).collect();
    values.sort();
    values
}
