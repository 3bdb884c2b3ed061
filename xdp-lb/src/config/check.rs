//! Judges a read file: what each key alone cannot tell. Every rule is a function from the draft to findings; a rule
//! skips what is missing because of a mistake already reported. Called by [`super::parse`].

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

use super::draft::{DecapDraft, Draft, ServiceDraft, TranslateDraft, Written};
use super::finding::{Findings, Placed, Spot};
use crate::model::{AdminState, Backend, Protocol, Share};

/// Backend indices of a ring have 12 bits, and one means none.
const MAX_BACKENDS: usize = 4095;

/// Runs every rule.
pub(super) fn check(draft: &Draft, findings: &Findings) {
    roles(draft, findings);
    if let Some(decap) = &draft.decap {
        decap_interfaces(draft, decap, findings);
        open_sources(decap, findings);
        pods(decap, findings);
        super::capacity::pods(draft, decap, findings);
    }
    vips_are_not_backends(draft, findings);
    if !balances(draft) {
        super::bgp::check(draft, &[], findings);
        return;
    }
    if let Some(services) =
        draft.services.as_ref().filter(|s| s.items.is_empty() && draft.kubernetes.is_none())
    {
        findings.warn(&services.spot, "is empty: every packet passes to the kernel");
    }
    let services = draft.services.as_ref().map_or(&[][..], |services| &services.items);
    names(services, findings);
    super::overlap::check(services, findings);
    super::capacity::check(draft, services, findings);
    if draft.kubernetes.is_none() {
        unused_policies(draft, services, findings);
    }
    for service in services {
        table_holds_backends(service, findings);
        tunnel_sources(service, findings);
        somebody_takes_flows(service, findings);
        super::affinity::check(service, findings);
        super::zones::check(service, draft.node.zone.as_deref(), findings);
    }
    super::bgp::check(draft, services, findings);
    seed(draft, findings);
}

/// Whether the file asks for the balancer. A cluster beside `decap` without `interfaces` is there for the backend side.
fn balances(draft: &Draft) -> bool {
    let cluster = draft.kubernetes.is_some() && (draft.decap.is_none() || draft.interfaces.is_some());
    draft.services.is_some() || cluster
}

/// Which programs the file asks for, and whether it says where.
fn roles(draft: &Draft, findings: &Findings) {
    match (balances(draft), &draft.interfaces) {
        (true, None) => findings.error(
            &draft.spot.key("interfaces", draft.spot.pos),
            "missing; services need the interfaces their packets come in by: add `interfaces: [{ name: eth0 }]`",
        ),
        (false, Some(interfaces)) => findings.error(
            &interfaces.spot,
            "is for services, and there are none; add `services`, or move the list to `decap.interfaces`",
        ),
        _ => {}
    }
}

fn decap_interfaces(draft: &Draft, decap: &DecapDraft, findings: &Findings) {
    let Some(interfaces) = &decap.interfaces else {
        if !balances(draft) {
            let spot = decap.spot.key("interfaces", decap.spot.pos);
            findings.error(&spot, "missing; add `interfaces: [{ name: eth0 }]`");
        }
        return;
    };
    // One program does both jobs on a shared interface, so it can be attached in one way only.
    for Placed { value, spot } in &interfaces.items {
        let balancers = draft.interfaces.iter().flat_map(|list| &list.items);
        let Some(other) = balancers.into_iter().find(|other| other.value.name == value.name) else {
            continue;
        };
        if other.value.mode != value.mode {
            let message = format!(
                "{} has another mode as {}; give both the same",
                value.name,
                findings.cite(spot, &other.spot)
            );
            findings.error(spot, message);
        }
    }
}

fn open_sources(decap: &DecapDraft, findings: &Findings) {
    for Placed { value: (network, length), spot } in &decap.allow_sources {
        if *length == 0 {
            findings
                .warn(spot, format!("{network}/0 lets everybody send packets to the VIPs through a tunnel"));
        }
    }
}

/// What a packet for a pod becomes must be told in one place, and a VIP is no pod.
fn pods(decap: &DecapDraft, findings: &Findings) {
    let mut told: HashMap<_, &Spot> = HashMap::new();
    let translated = decap.translate.iter().map(|entry| &entry.vip);
    let vips: HashSet<IpAddr> = decap.vips.iter().chain(translated).map(|vip| vip.value).collect();
    for TranslateDraft { vip, protocol, port, pods, .. } in &decap.translate {
        for pod in pods {
            if vips.contains(&pod.value) {
                findings.error(&pod.spot, format!("{} is also a VIP; give the pod's own address", pod.value));
            }
            if let Some(first) = told.insert((vip.value, *protocol, *port, pod.value), &pod.spot) {
                let message = format!(
                    "{} port {port} of {} is translated for {} twice ({}); remove one",
                    if *protocol == Protocol::Tcp { "TCP" } else { "UDP" },
                    vip.value,
                    pod.value,
                    findings.cite(&pod.spot, first)
                );
                findings.error(&pod.spot, message);
            }
        }
    }
}

/// A tunnel to an address that is balanced would come back to the balancer for ever.
fn vips_are_not_backends(draft: &Draft, findings: &Findings) {
    let mut vips: HashMap<IpAddr, &Spot> = HashMap::new();
    let services = draft.services.as_ref().map_or(&[][..], |services| &services.items);
    let balanced = services.iter().flat_map(|service| &service.vips);
    let unwrapped = draft.decap.iter().flat_map(|decap| &decap.vips);
    let translated = draft.decap.iter().flat_map(|decap| &decap.translate).map(|entry| &entry.vip);
    let unwrapped = unwrapped.chain(translated);
    for vip in balanced.chain(unwrapped) {
        vips.entry(vip.value).or_insert(&vip.spot);
    }
    let mut innocent = HashSet::new();
    for list in services.iter().filter_map(|service| service.backends.as_ref()) {
        if innocent.contains(&list.identity()) {
            continue;
        }
        let mut guilty = list.items().iter().filter(|b| vips.contains_key(&b.value.address)).peekable();
        if guilty.peek().is_none() {
            innocent.insert(list.identity());
        }
        for Placed { value, spot } in guilty {
            let (spot, vip) = (list.at(spot), vips[&value.address]);
            let message = format!(
                "{} is also a VIP ({}); give the backend's own address",
                value.address,
                findings.cite(&spot, vip)
            );
            findings.error(&spot, message);
        }
    }
}

fn names(services: &[ServiceDraft], findings: &Findings) {
    let mut seen: HashMap<&str, &Spot> = HashMap::new();
    for Placed { value, spot } in services.iter().filter_map(|service| service.name.as_ref()) {
        if let Some(first) = seen.get(value.as_str()) {
            findings.error(
                spot,
                format!(
                    "{value:?} is the name of another service too ({}); rename one",
                    findings.cite(spot, first)
                ),
            );
        } else {
            seen.insert(value, spot);
        }
    }
}

pub(super) fn table_holds_backends(service: &ServiceDraft, findings: &Findings) {
    let Some(backends) = &service.backends else {
        return;
    };
    let count = backends.items().len();
    if count > MAX_BACKENDS {
        let message = format!("has {count} backends, at most {MAX_BACKENDS} fit one service; split it");
        findings.error(&backends.spot, message);
        return;
    }
    let Some(size) = &service.table_size else {
        return;
    };
    if (size.value.get() as usize) < 2 * count {
        let slots = size.value.get();
        let message = format!(
            "has {count} backends for a table of {slots} slots ({}); give the table at least {} slots",
            findings.cite(&backends.spot, &size.spot),
            2 * count
        );
        findings.error(&backends.spot, message);
    }
}

/// One error a service and family: the remedy is one key.
pub(super) fn tunnel_sources(service: &ServiceDraft, findings: &Findings) {
    let families = [
        (matches!(service.encap.source_v4, Written::Absent), "IPv4", "source_v4: 172.16.0.0/16", true),
        (
            matches!(service.encap.source_v6, Written::Absent),
            "IPv6",
            "source_v6: \"fd00:7864:7000::/64\"",
            false,
        ),
    ];
    let Some(backends) = &service.backends else {
        return;
    };
    for (_, family, example, v4) in families.into_iter().filter(|(absent, ..)| *absent) {
        let mut of_family = backends.items().iter().filter(|backend| backend.value.address.is_ipv4() == v4);
        let Some(Placed { value, spot }) = of_family.next() else {
            continue;
        };
        let others = match of_family.count() {
            0 => String::new(),
            n => format!(" (and {n} more)"),
        };
        let message = format!(
            "the tunnel to {}{others} needs an {family} outer source; add `{example}` to `encap`",
            value.address
        );
        findings.error(&backends.at(spot), message);
    }
}

pub(super) fn somebody_takes_flows(service: &ServiceDraft, findings: &Findings) {
    let Some(backends) = &service.backends else {
        return;
    };
    let takes = |b: &Backend| b.state == AdminState::Active && b.weight > 0 && b.share > Share::NONE;
    if backends.items().is_empty() {
        findings.warn(&backends.spot, "is empty: the service drops its packets");
    } else if !backends.items().iter().any(|backend| takes(&backend.value)) {
        findings.warn(
            &backends.spot,
            "no backend takes new flows: each is drained, down, of weight 0 or of share 0",
        );
    }
}

fn unused_policies(draft: &Draft, services: &[ServiceDraft], findings: &Findings) {
    let used: HashSet<IpAddr> = services.iter().flat_map(|s| &s.vips).map(|vip| vip.value).collect();
    for Placed { value, spot } in draft.policies.iter().filter(|policy| !used.contains(&policy.value.address))
    {
        findings.warn(spot, format!("no service uses {}: the entry has no effect", value.address));
    }
}

fn seed(draft: &Draft, findings: &Findings) {
    if let Some(Placed { value: 0, spot }) = &draft.seed {
        findings.warn(spot, "0 is public: whoever knows it can aim flows at one backend; set a random number, the same on all edge nodes");
    }
}
