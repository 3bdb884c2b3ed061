//! Whether the configuration fits `limits`, the sizes of the kernel's tables. Called by [`super::check`].
//!
//! Rings are counted as shared where services are equal in all that a ring holds ([`crate::plan`] shares them so): less
//! cannot be needed, so what does not fit is an error. Port pages are laid out by the data plane and only estimated, so they warn.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::IpAddr;

use super::draft::{DecapDraft, Draft, LimitsDraft, PortsDraft, ServiceDraft};
use super::finding::Findings;
use super::finish::encap;
use crate::plan::listed;

/// Compares need and limit, each under the limit's own key.
pub(super) fn check(draft: &Draft, services: &[ServiceDraft], findings: &Findings) {
    let Some(LimitsDraft { value: limits, spots, .. }) = &draft.limits else {
        return;
    };
    let spot = |key| spots.get(key).cloned().unwrap_or_default();
    let (backends, slots) = rings(services);
    let ids = services.iter().flat_map(|s| &s.claims).filter(|claim| claim.server_id.is_some()).count();
    let prefixes = services.iter().map(|s| s.source_ranges.allow.len() + s.source_ranges.deny.len());
    let prefixes: usize = prefixes.sum();
    let needs = [
        ("services", services.len() as u64, limits.services, "services"),
        ("vips", vips(draft, services), limits.vips, "VIPs"),
        ("backends", backends, limits.backends, "backends, summed over rings"),
        ("ring_slots", slots, limits.ring_slots, "Maglev slots, summed over rings"),
        ("server_ids", ids as u64, limits.server_ids, "server ids, summed over services"),
        ("source_ranges", prefixes as u64, limits.source_ranges, "source prefixes, summed over services"),
    ];
    for (key, need, limit, what) in needs {
        if need > u64::from(limit) {
            let message = format!("is {limit}, but the file has {need} {what}; raise it to {need} or more");
            findings.error(&spot(key), message);
        }
    }
    let pages = port_pages(services);
    if pages > u64::from(limits.port_pages) {
        let message = format!(
            "is {}, but the services' ports touch about {pages} pages of 256 ports",
            limits.port_pages
        );
        findings.warn(&spot("port_pages"), message);
    }
    let pairs: u64 =
        services.iter().filter_map(|s| s.backends.as_ref()).map(|list| list.items().len() as u64).sum();
    let counted = limits.backend_stats;
    if pairs > u64::from(counted) && counted > 0 {
        let message = format!(
            "is {counted}: the other {} of {pairs} backends have no counters",
            pairs - u64::from(counted)
        );
        findings.warn(&spot("backend_stats"), message);
    }
}

/// The same for what a node's pods need, whether or not it balances.
pub(super) fn pods(draft: &Draft, decap: &DecapDraft, findings: &Findings) {
    let Some(LimitsDraft { value: limits, spots, .. }) = &draft.limits else {
        return;
    };
    let need: usize = decap.translate.iter().map(|entry| entry.pods.len()).sum();
    if need > limits.pod_ports as usize {
        let message = format!(
            "is {}, but the file has {need} ports of VIPs at pods; raise it to {need} or more",
            limits.pod_ports
        );
        findings.error(&spots.get("pod_ports").cloned().unwrap_or_default(), message);
    }
}

/// Balanced and decapsulated ones share a table.
fn vips(draft: &Draft, services: &[ServiceDraft]) -> u64 {
    let balanced = services.iter().flat_map(|service| &service.vips);
    let unwrapped = draft.decap.iter().flat_map(|decap| &decap.vips);
    let translated = draft.decap.iter().flat_map(|decap| &decap.translate).map(|entry| &entry.vip);
    balanced.chain(unwrapped).chain(translated).map(|vip| vip.value).collect::<HashSet<IpAddr>>().len() as u64
}

/// Backends and slots over all rings that cannot be shared. A service without backends has no ring.
fn rings(services: &[ServiceDraft]) -> (u64, u64) {
    let mut rings = HashMap::new();
    // Lists by what a ring holds of them: one number for all that are equal.
    let mut numbers = HashMap::new();
    let mut contents = HashMap::new();
    for service in services {
        let (Some(size), Some(backends)) = (&service.table_size, &service.backends) else {
            continue;
        };
        if backends.items().is_empty() {
            continue;
        }
        let members = *numbers.entry(backends.identity()).or_insert_with(|| {
            let members: Vec<_> = backends.items().iter().map(|backend| listed(&backend.value)).collect();
            let next = contents.len();
            *contents.entry(members).or_insert(next)
        });
        rings.insert(
            (size.value, encap(&service.encap), service.drain, members),
            (backends.items().len() as u64, u64::from(size.value.get())),
        );
    }
    rings.values().fold((0, 0), |(backends, slots), ring| (backends + ring.0, slots + ring.1))
}

fn port_pages(services: &[ServiceDraft]) -> u64 {
    let mut pages = BTreeSet::new();
    let mut slice_pages = 0;
    for service in services {
        let slices = service.claims.iter().flat_map(|claim| claim.slice.iter().flatten());
        slice_pages += slices
            .flat_map(|range| range.value.start() >> 8..=range.value.end() >> 8)
            .collect::<BTreeSet<u16>>()
            .len();
        let (Some(protocol), Some(PortsDraft::Ranges(ranges))) = (service.protocol, &service.ports) else {
            continue;
        };
        for vip in &service.vips {
            for range in ranges {
                pages.extend(
                    (range.value.start() >> 8..=range.value.end() >> 8)
                        .map(|page| (vip.value, protocol, page)),
                );
            }
        }
    }
    (pages.len() + slice_pages) as u64
}
