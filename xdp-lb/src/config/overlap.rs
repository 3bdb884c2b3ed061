//! Whether two services claim the same packets. An exact port beats a range and a range beats a whole address, so
//! only claims of the same kind can clash. Called by [`super::check`].

use std::collections::{BTreeMap, HashSet};
use std::net::IpAddr;
use std::ops::RangeInclusive;

use super::draft::{PortsDraft, ServiceDraft};
use super::finding::{Findings, Spot};
use super::service::show;
use crate::model::Protocol;

/// How closely a claim names its packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Exact,
    Range,
    All,
}

impl Kind {
    /// Of a range of ports.
    pub fn of(ports: &RangeInclusive<u16>) -> Self {
        if ports.start() == ports.end() { Self::Exact } else { Self::Range }
    }

    /// The ports that two claims of this kind have in common, for a message.
    pub fn show(self, protocol: Protocol, ports: RangeInclusive<u16>) -> String {
        let protocol = match protocol {
            Protocol::Tcp => "TCP",
            Protocol::Udp => "UDP",
        };
        match self {
            Self::All => format!("{protocol} all ports"),
            _ => format!("{protocol} port {}", show(&ports)),
        }
    }
}

/// Ports of one address that one service wants.
#[derive(Clone, Copy, Debug)]
struct Claim<'a> {
    first: u16,
    last: u16,
    service: usize,
    spot: &'a Spot,
}

/// Reports each clashing pair of services once, at the one that comes later in the file.
pub(super) fn check(services: &[ServiceDraft], findings: &Findings) {
    let mut claims: BTreeMap<(IpAddr, Protocol, Kind), Vec<Claim<'_>>> = BTreeMap::new();
    for (service, draft) in services.iter().enumerate() {
        let Some(protocol) = draft.protocol else {
            continue;
        };
        for vip in &draft.vips {
            for (kind, first, last, spot) in wanted(draft) {
                claims.entry((vip.value, protocol, kind)).or_default().push(Claim {
                    first,
                    last,
                    service,
                    spot,
                });
            }
        }
    }
    let mut reported = HashSet::new();
    for ((vip, protocol, kind), mut claims) in claims {
        claims.sort_by_key(|claim| (claim.first, claim.service));
        // The claim that reaches furthest of those that began earlier: if any of them overlaps, this one does.
        let mut furthest: Option<Claim<'_>> = None;
        for claim in claims {
            if let Some(other) = furthest.filter(|other| claim.first <= other.last) {
                let (early, late) =
                    if other.service < claim.service { (other, claim) } else { (claim, other) };
                if early.service != late.service && reported.insert((early.service, late.service)) {
                    let name = services[early.service].name.as_ref().map_or("", |name| name.value.as_str());
                    let what = kind.show(protocol, claim.first..=claim.last.min(other.last));
                    let message = format!(
                        "overlaps {} (service {name:?}): both want {what} of {vip}; give it to one of them",
                        findings.cite(late.spot, early.spot)
                    );
                    findings.error(late.spot, message);
                }
            }
            if furthest.is_none_or(|other| claim.last > other.last) {
                furthest = Some(claim);
            }
        }
    }
}

fn wanted(service: &ServiceDraft) -> Vec<(Kind, u16, u16, &Spot)> {
    match &service.ports {
        None => Vec::new(),
        Some(PortsDraft::All(spot)) => vec![(Kind::All, 1, u16::MAX, spot)],
        Some(PortsDraft::Ranges(ranges)) => ranges
            .iter()
            .map(|range| {
                let (first, last) = (*range.value.start(), *range.value.end());
                (Kind::of(&range.value), first, last, &range.spot)
            })
            .collect(),
    }
}
