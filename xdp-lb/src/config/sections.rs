//! Reads everything but the services: each function takes a section's [`Item`] and returns its part of the
//! [`Draft`], with defaults filled in. Called by [`super::parse`].

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use super::draft::{DecapDraft, Draft, EncapDraft, LimitsDraft, Listed, PlacedList, Written};
use super::finding::{Placed, Spot};
use super::keys::{self, Section};
use super::leaf;
use super::reader::{Item, Leaf, Mapping, must_be};
use super::service;
use crate::model::{
    AttachMode, FlowTable, Interface, Limits, Log, LogFormat, LogLevel, NextHopSource, Node, TableSize,
    Unmatched, Vip,
};

const MODES: &[(&str, AttachMode)] =
    &[("native", AttachMode::Native), ("generic", AttachMode::Generic), ("auto", AttachMode::Auto)];

/// Reads the whole file. `None` if its top level is no mapping.
pub(super) fn read(root: &Item<'_>) -> Option<Draft> {
    let file = root.mapping(&keys::ROOT)?;
    if let Some(version) = file.required("version", "1") {
        version.leaf(|text| if text == "1" { Ok(()) } else { must_be("1, the only version there is", text) });
    }
    let encap = file.get("encap").map(|item| encap(&item, &keys::ENCAP)).unwrap_or_default();
    let (table_size, seed) = maglev(&file);
    if file.get("services").is_none() && file.get("decap").is_none() {
        root.fail("nothing to do; add `services` to balance, `decap` to take tunnels off, or both");
    }
    let services = file.get("services").map(|item| {
        let items = item.list().unwrap_or_default();
        let items =
            items.iter().filter_map(|item| service::read(item, &encap, table_size.as_ref())).collect();
        Listed { spot: item.spot, items }
    });
    Some(Draft {
        spot: file.spot.clone(),
        node: node(&file),
        interfaces: file.get("interfaces").map(|item| interfaces(&item, &keys::INTERFACE)),
        seed,
        flow_table: flow_table(&file),
        limits: limits(&file),
        log: log(&file),
        policies: policies(&file),
        services,
        decap: file.get("decap").and_then(|item| decap(&item)),
    })
}

fn section<'a>(file: &Mapping<'a>, key: &str, section: &'static Section) -> Option<Mapping<'a>> {
    file.get(key)?.mapping(section)
}

fn node(file: &Mapping<'_>) -> Node {
    let Some(node) = section(file, "node", &keys::NODE) else {
        return Node::default();
    };
    let label = |key| node.get(key).and_then(|item| item.leaf(leaf::label));
    Node { name: label("name").unwrap_or_default(), zone: label("zone") }
}

fn interfaces(item: &Item<'_>, section: &'static Section) -> PlacedList<Interface> {
    let mut items: Vec<Placed<Interface>> = Vec::new();
    for item in item.list().unwrap_or_default() {
        let Some(Placed { value, spot }) = interface(&item, section) else {
            continue;
        };
        match items.iter().find(|other| other.value.name == value.name) {
            Some(first) => item
                .findings
                .error(&spot, format!("{} is listed twice, first as {}", value.name, first.spot.path)),
            None => items.push(Placed { value, spot }),
        }
    }
    if item.list_is_empty() {
        item.fail("must name at least one interface, is an empty list");
    }
    PlacedList { spot: item.spot.clone(), items }
}

/// The place is the name's, for that is what clashes.
fn interface(item: &Item<'_>, section: &'static Section) -> Option<Placed<Interface>> {
    let keys = item.mapping(section)?;
    let mode = keys.leaf("mode", AttachMode::Auto, leaf::choice(MODES, &[]));
    let next_hop = match section.find("next_hop").and_then(|_| keys.get("next_hop")) {
        Some(item) => next_hop(&item),
        None => Some(NextHopSource::Auto),
    };
    let Placed { value: name, spot } = keys.required("name", "eth0")?.placed(leaf::interface_name)?;
    let value = Interface { name, mode: mode.unwrap_or_default(), next_hop: next_hop.unwrap_or_default() };
    Some(Placed { value, spot })
}

fn next_hop(item: &Item<'_>) -> Option<NextHopSource> {
    if !item.is_mapping() {
        let auto = |text: &str| match text {
            "auto" => Ok(NextHopSource::Auto),
            _ => must_be("auto or a mapping as in { mac: \"00:00:5e:00:01:01\" }", text),
        };
        return item.leaf(auto);
    }
    let keys = item.mapping(&keys::NEXT_HOP)?;
    keys.required("mac", "\"00:00:5e:00:01:01\"")?.leaf(leaf::mac).map(NextHopSource::Mac)
}

/// An encap section; a key that is absent stays so, for the service's may rest on the file's.
pub(super) fn encap(item: &Item<'_>, section: &'static Section) -> EncapDraft {
    let Some(keys) = item.mapping(section) else {
        // Wrong, not absent: a missing source would be a second error for the same mistake.
        return EncapDraft { source_v4: Written::Wrong, source_v6: Written::Wrong, dscp: Written::Wrong };
    };
    keys.leaf("kind", (), leaf::choice(&[("ipip", ())], &["gue"]));
    keys.leaf("mtu", (), |text| match text {
        "auto" => Ok(()),
        _ => Err("a fixed MTU is not supported yet; use auto".to_owned()),
    });
    let source_v4 = written(&keys, "source_v4", leaf::source_v4);
    let source_v6 = written(&keys, "source_v6", leaf::source_v6);
    spreads(&keys, "source_v4", 32, source_v4.value().map(|(_, length)| length));
    spreads(&keys, "source_v6", 128, source_v6.value().map(|(_, length)| length));
    EncapDraft { source_v4, source_v6, dscp: written(&keys, "dscp", leaf::dscp) }
}

/// A backend's NIC spreads tunnels over its queues by the outer source alone.
fn spreads(keys: &Mapping<'_>, key: &str, width: u8, length: Option<u8>) {
    let (Some(length), Some(item)) = (length, keys.get(key)) else {
        return;
    };
    if width - length < 8 {
        let sources = 1u32 << (width - length);
        let message =
            format!("leaves {sources} outer sources, too few for backends to spread flows over their queues");
        item.findings.warn(&item.spot, format!("{message}; a prefix of /{} or shorter has 256", width - 8));
    }
}

fn written<T>(keys: &Mapping<'_>, key: &str, parse: impl Fn(&str) -> Leaf<T>) -> Written<T> {
    match keys.get(key).map(|item| item.leaf(parse)) {
        None => Written::Absent,
        Some(None) => Written::Wrong,
        Some(Some(value)) => Written::Value(value),
    }
}

/// Table size and seed with their places.
fn maglev(file: &Mapping<'_>) -> (Option<Placed<TableSize>>, Option<Placed<u64>>) {
    let Some(item) = file.get("maglev") else {
        let under = |key| file.under("maglev").key(key, file.spot.pos);
        let size = Placed { value: TableSize::DEFAULT, spot: under("table_size") };
        return (Some(size), Some(Placed { value: 0, spot: under("seed") }));
    };
    let Some(keys) = item.mapping(&keys::MAGLEV) else {
        return (None, None);
    };
    let size = keys.placed("table_size", TableSize::DEFAULT, leaf::table_size);
    (size, keys.placed("seed", 0, leaf::number(0..=u64::MAX)))
}

fn flow_table(file: &Mapping<'_>) -> Option<FlowTable> {
    let default = FlowTable { entries: 1 << 20, track_window: Duration::from_secs(5) };
    let Some(item) = file.get("flow_table") else {
        return Some(default);
    };
    let keys = item.mapping(&keys::FLOW_TABLE)?;
    let windows = Duration::from_secs(1)..=Duration::from_secs(600);
    let entries = keys.leaf("entries", default.entries, leaf::table_entries);
    let track_window = keys.leaf("track_window", default.track_window, leaf::duration(windows));
    Some(FlowTable { entries: entries?, track_window: track_window? })
}

/// `limits`, and `metrics.per_backend`, which is another name of one of them.
fn limits(file: &Mapping<'_>) -> Option<LimitsDraft> {
    let default = Limits::default();
    let series = section(file, "metrics", &keys::METRICS).and_then(|keys| keys.get("per_backend"));
    let stats = match &series {
        Some(item) => item.placed(leaf::number(0..=MAX_PAIRS)),
        None => Some(Placed { value: default.backend_stats, spot: under_limits(file, "backend_stats") }),
    };
    let Some(item) = file.get("limits") else {
        let mut sizes = LimitsDraft { value: default, spots: HashMap::new() };
        for key in keys::LIMITS.keys {
            sizes.spots.insert(key.name, under_limits(file, key.name));
        }
        let Placed { value, spot } = stats?;
        sizes.value.backend_stats = value;
        sizes.spots.insert("backend_stats", spot);
        return Some(sizes);
    };
    let keys = item.mapping(&keys::LIMITS)?;
    let mut spots = HashMap::new();
    let mut size = |key, default, range| {
        let Placed { value, spot } = keys.placed(key, default, leaf::number(range))?;
        spots.insert(key, spot);
        Some(value)
    };
    let services = size("services", default.services, 1..=16_383);
    let vips = size("vips", default.vips, 1..=1 << 20);
    let backends = size("backends", default.backends, 1..=1 << 20);
    let ring_slots = size("ring_slots", default.ring_slots, 1..=1 << 28);
    let port_pages = size("port_pages", default.port_pages, 1..=1 << 20);
    let backend_stats = match keys.get("backend_stats") {
        Some(own) => {
            let own = own.placed(leaf::number(0..=MAX_PAIRS));
            if let (Some(own), Some(stats), Some(_)) = (&own, &stats, &series)
                && own.value != stats.value
            {
                let (a, b) = (own.value, stats.value);
                let message =
                    format!("is {a} but metrics.per_backend is {b}; they are one limit, give one of them");
                item.findings.error(&own.spot, message);
            }
            own.filter(|_| stats.is_some())
        }
        None => stats,
    }?;
    spots.insert("backend_stats", backend_stats.spot);
    let value = Limits {
        services: services?,
        vips: vips?,
        backends: backends?,
        ring_slots: ring_slots?,
        port_pages: port_pages?,
        backend_stats: backend_stats.value,
    };
    Some(LimitsDraft { value, spots })
}

/// Where a key of `limits` would be if there were that section.
fn under_limits(file: &Mapping<'_>, key: &str) -> Spot {
    file.under("limits").key(key, file.spot.pos)
}

/// Pairs with counters of their own.
const MAX_PAIRS: u32 = 1 << 20;

fn log(file: &Mapping<'_>) -> Log {
    const FORMATS: &[(&str, LogFormat)] = &[("text", LogFormat::Text), ("json", LogFormat::Json)];
    const LEVELS: &[(&str, LogLevel)] = &[
        ("error", LogLevel::Error),
        ("warn", LogLevel::Warn),
        ("info", LogLevel::Info),
        ("debug", LogLevel::Debug),
        ("trace", LogLevel::Trace),
    ];
    let Some(keys) = section(file, "log", &keys::LOG) else {
        return Log::default();
    };
    let format = keys.leaf("format", LogFormat::default(), leaf::choice(FORMATS, &[]));
    let level = keys.leaf("level", LogLevel::default(), leaf::choice(LEVELS, &[]));
    Log { format: format.unwrap_or_default(), level: level.unwrap_or_default() }
}

fn policies(file: &Mapping<'_>) -> Vec<Placed<Vip>> {
    const FATES: &[(&str, Unmatched)] = &[("drop", Unmatched::Drop), ("pass", Unmatched::Pass)];
    let mut policies: Vec<Placed<Vip>> = Vec::new();
    for item in file.get("vips").and_then(|item| item.list()).unwrap_or_default() {
        let Some(keys) = item.mapping(&keys::VIP) else {
            continue;
        };
        let unmatched = keys.leaf("unmatched", Unmatched::Drop, leaf::choice(FATES, &[])).unwrap_or_default();
        let Some(Placed { value: address, spot }) =
            keys.required("address", "203.0.113.10").and_then(|item| item.placed(leaf::host_address))
        else {
            continue;
        };
        match policies.iter().find(|other| other.value.address == address) {
            Some(first) => {
                item.findings.error(&spot, format!("{address} is listed twice, first as {}", first.spot.path))
            }
            None => policies.push(Placed { value: Vip { address, unmatched }, spot }),
        }
    }
    policies
}

fn decap(item: &Item<'_>) -> Option<DecapDraft> {
    let keys = item.mapping(&keys::DECAP)?;
    for item in keys.get("accept").iter().flat_map(Item::one_or_more) {
        item.leaf(leaf::choice(&[("ipip", ())], &["gue"]));
    }
    keys.leaf("mss", (), |text| match text {
        "off" => Ok(()),
        "auto" => Err("`auto` is not supported yet; use off".to_owned()),
        _ => must_be("off", text),
    });
    let allow_sources = keys.required("allow_sources", "[172.16.0.0/16]").map(|item| allow_sources(&item));
    let vips = keys.required("vips", "[203.0.113.10]").map(|item| addresses(&item));
    Some(DecapDraft {
        spot: keys.spot.clone(),
        interfaces: keys.get("interfaces").map(|item| interfaces(&item, &keys::DECAP_INTERFACE)),
        allow_sources: allow_sources.unwrap_or_default(),
        vips: vips.unwrap_or_default(),
        vip_on_lo: keys.leaf("vip_on_lo", true, leaf::boolean).unwrap_or_default(),
    })
}

fn allow_sources(item: &Item<'_>) -> Vec<Placed<(IpAddr, u8)>> {
    if item.list_is_empty() {
        item.fail(
            "is empty, which would let nobody in; name the balancers' encap sources, as in [172.16.0.0/16]",
        );
        return Vec::new();
    }
    let mut sources: Vec<Placed<(IpAddr, u8)>> = Vec::new();
    for source in item.one_or_more().iter().filter_map(|item| item.placed(leaf::prefix)) {
        match sources.iter().find(|other| other.value == source.value) {
            Some(first) => {
                item.findings.error(&source.spot, format!("is listed twice, first as {}", first.spot.path))
            }
            None => sources.push(source),
        }
    }
    sources
}

/// One address or a list of them, each once.
pub(super) fn addresses(item: &Item<'_>) -> Vec<Placed<IpAddr>> {
    let mut addresses: Vec<Placed<IpAddr>> = Vec::new();
    for address in item.one_or_more().iter().filter_map(|item| item.placed(leaf::host_address)) {
        match addresses.iter().find(|other| other.value == address.value) {
            Some(first) => {
                let message = format!("{} is listed twice, first as {}", address.value, first.spot.path);
                item.findings.error(&address.spot, message);
            }
            None => addresses.push(address),
        }
    }
    addresses
}
