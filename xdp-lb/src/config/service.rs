//! Reads one service. Called by [`super::sections`].

use std::ops::RangeInclusive;
use std::time::Duration;

use super::affinity;
use super::backends::Lists;
use super::bgp;
use super::draft::{EncapDraft, PortsDraft, ServiceDraft};
use super::finding::Placed;
use super::keys;
use super::leaf;
use super::reader::{Item, Mapping};
use super::sections;
use crate::model::{Affinity, DrainMode, DrainPolicy, Fragments, Protocol, TableSize, Tracking};

/// The flow table's age range ends here.
const FLOW_TIMEOUTS: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(130 * 60);
/// Thirty days: longer is a backend that was forgotten.
const DRAIN_TIMES: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(720 * 3600);
/// A day: longer is a share.
const SLOW_START: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(24 * 3600);
const DEFAULT_DRAIN: Duration = Duration::from_secs(5 * 3600);

/// Reads a service whose tunnel and table rest on the file's, and whose backends may be among the `lists` read before.
/// `None` if it is no mapping.
pub(super) fn read(
    item: &Item<'_>,
    lists: &mut Lists,
    encap: &EncapDraft,
    table_size: Option<&Placed<TableSize>>,
) -> Option<ServiceDraft> {
    const FRAGMENTS: &[(&str, Fragments)] = &[("forward", Fragments::Forward), ("drop", Fragments::Drop)];
    const PROTOCOLS: &[(&str, Protocol)] = &[("udp", Protocol::Udp), ("tcp", Protocol::Tcp)];
    const AFFINITIES: &[(&str, Affinity)] = &[
        ("five-tuple", Affinity::FiveTuple),
        ("client-ip", Affinity::ClientIp),
        ("dest-port", Affinity::DestPort),
        ("quic-cid", Affinity::QuicCid),
        ("ice-ufrag", Affinity::IceUfrag),
    ];

    let keys = item.mapping(&keys::SERVICE)?;
    let name = keys.required("name", "web").and_then(|item| item.placed(leaf::label));
    let vips = keys.required("vip", "203.0.113.10").map(|item| sections::addresses(&item));
    let protocol = keys.required("protocol", "tcp").and_then(|item| item.leaf(leaf::choice(PROTOCOLS, &[])));
    let ports = keys.required("ports", "80").and_then(|item| ports(&item));
    let affinity = keys.placed("affinity", Affinity::FiveTuple, leaf::choice(AFFINITIES, &[]));
    let named = affinity.as_ref().map(|affinity| affinity.value);
    let (backends, claims) =
        keys.required("backends", "[]").and_then(|item| lists.read(&item, named)).unzip();
    let fragments = keys.leaf("fragments", Fragments::Forward, leaf::choice(FRAGMENTS, &[]));
    let health = super::health::read(&keys, protocol, ports.as_ref());
    let on_all_down = super::health::on_all_down(&keys, health.as_ref().is_none_or(Option::is_some));
    let table_size = match keys.get("table_size") {
        Some(item) => item.placed(leaf::table_size),
        None => table_size.cloned(),
    };
    let own = keys.get("encap");
    let own = own.map(|item| sections::encap(&item, &keys::SERVICE_ENCAP, &keys::SERVICE_ENCAP_GUE));
    let encap = own.unwrap_or_default().or(encap);
    Some(ServiceDraft {
        name,
        vips: vips.unwrap_or_default(),
        protocol,
        ports,
        affinity,
        cid: affinity::cid_format(&keys, named),
        source_ranges: affinity::source_ranges(&keys),
        fragments: fragments.unwrap_or_default(),
        tracking: tracking(&keys, protocol),
        flow_timeout: flow_timeout(&keys, protocol),
        new_flow_limit: keys
            .leaf("new_flow_limit", 100_000, leaf::number(0..=100_000_000))
            .unwrap_or_default(),
        slow_start: keys.leaf("slow_start", Duration::ZERO, leaf::duration(SLOW_START)).unwrap_or_default(),
        table_size,
        drain: drain(&keys),
        encap,
        health,
        on_all_down,
        zone_policy: super::zones::policy(&keys),
        backends,
        claims: claims.unwrap_or_default(),
        advertise: bgp::advertise(&keys),
    })
}

/// The default is the protocol's: TCP stays put without any tracking.
fn tracking(keys: &Mapping<'_>, protocol: Option<Protocol>) -> Option<Tracking> {
    const TRACKINGS: &[(&str, Tracking)] =
        &[("exact", Tracking::Exact), ("sampled", Tracking::Sampled), ("off", Tracking::Off)];
    if let Some(item) = keys.get("tracking") {
        return item.leaf(leaf::choice(TRACKINGS, &[]));
    }
    protocol.map(|protocol| match protocol {
        Protocol::Tcp => Tracking::Off,
        Protocol::Udp => Tracking::Exact,
    })
}

/// The default is the protocol's: two hours and five minutes is above RFC 5382's least for TCP.
fn flow_timeout(keys: &Mapping<'_>, protocol: Option<Protocol>) -> Option<Placed<Duration>> {
    if let Some(item) = keys.get("flow_timeout") {
        return item.placed(leaf::duration(FLOW_TIMEOUTS));
    }
    let value = match protocol? {
        Protocol::Tcp => Duration::from_secs(125 * 60),
        Protocol::Udp => Duration::from_secs(5 * 60),
    };
    Some(Placed { value, spot: keys.under("flow_timeout") })
}

fn drain(keys: &Mapping<'_>) -> DrainPolicy {
    const MODES: &[(&str, DrainMode)] = &[("stick", DrainMode::Stick), ("shed", DrainMode::Shed)];
    let Some(keys) = keys.section("drain", &keys::DRAIN) else {
        return DrainPolicy { mode: DrainMode::Stick, max: DEFAULT_DRAIN };
    };
    let mode = keys.leaf("mode", DrainMode::Stick, leaf::choice(MODES, &[]));
    let max = keys.leaf("max", DEFAULT_DRAIN, leaf::duration(DRAIN_TIMES));
    DrainPolicy { mode: mode.unwrap_or_default(), max: max.unwrap_or_default() }
}

/// `all`, a port, a range or a list of ports and ranges. What overlaps inside the list is reported and left out.
fn ports(item: &Item<'_>) -> Option<PortsDraft> {
    if item.text() == Some("all") {
        return Some(PortsDraft::All(item.spot.clone()));
    }
    let ranges = port_ranges(item);
    (!ranges.is_empty()).then_some(PortsDraft::Ranges(ranges))
}

/// A port, a range or a list of these, sorted; what overlaps inside the list is reported and left out.
pub(super) fn port_ranges(item: &Item<'_>) -> Vec<Placed<RangeInclusive<u16>>> {
    let mut ranges: Vec<Placed<RangeInclusive<u16>>> = Vec::new();
    for item in &item.one_or_more() {
        let Some(range) = item.placed(leaf::port_range) else {
            continue;
        };
        let overlaps = |other: &&Placed<RangeInclusive<u16>>| {
            range.value.start() <= other.value.end() && other.value.start() <= range.value.end()
        };
        match ranges.iter().find(overlaps) {
            Some(first) => {
                let message = format!(
                    "{} overlaps {} of the same list; remove one",
                    show(&range.value),
                    show(&first.value)
                );
                item.findings.error(&range.spot, message);
            }
            None => ranges.push(range),
        }
    }
    ranges.sort_by_key(|range| *range.value.start());
    ranges
}

/// As it would be written.
pub(super) fn show(range: &RangeInclusive<u16>) -> String {
    if range.start() == range.end() {
        range.start().to_string()
    } else {
        format!("{}-{}", range.start(), range.end())
    }
}
