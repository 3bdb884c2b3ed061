//! Reads the top level and its small sections: each function takes a section's [`Item`] and returns its part of the
//! [`Draft`], with defaults filled in. Called by [`super::parse`].

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use super::backends::Lists;
use super::bgp;
use super::decap;
use super::draft::{Draft, EncapDraft, Kind, Listed, PlacedList, Written};
use super::finding::Placed;
use super::keys::{self, Section};
use super::kubernetes;
use super::leaf;
use super::limits;
use super::peers;
use super::reader::{Item, Leaf, Mapping, must_be};
use super::service;
use crate::model::{
    Admin, AttachMode, FlowTable, GueVariant, Interface, Log, LogFormat, LogLevel, NextHopSource, Node,
    TableSize, Unmatched, Vip,
};

const MODES: &[(&str, AttachMode)] =
    &[("native", AttachMode::Native), ("generic", AttachMode::Generic), ("auto", AttachMode::Auto)];

/// Reads the whole file. `None` if its top level is no mapping.
pub(super) fn read(root: &Item<'_>) -> Option<Draft> {
    let file = root.mapping(&keys::ROOT)?;
    if let Some(version) = file.required("version", "1") {
        version.leaf(|text| if text == "1" { Ok(()) } else { must_be("1, the only version there is", text) });
    }
    let encap =
        file.get("encap").map(|item| encap(&item, &keys::ENCAP, &keys::ENCAP_GUE)).unwrap_or_default();
    let (table_size, seed) = maglev(&file);
    let kubernetes = file.get("kubernetes").and_then(|item| kubernetes::read(&item));
    let decap = file.get("decap").and_then(|item| decap::read(&item, kubernetes.is_some()));
    if file.get("services").is_none() && file.get("decap").is_none() && file.get("kubernetes").is_none() {
        root.fail("nothing to do; add `services` to balance, `decap` to take tunnels off, or both");
    }
    let services = file.get("services").map(|item| {
        let items = item.list().unwrap_or_default();
        let mut lists = Lists::default();
        let items = items
            .iter()
            .filter_map(|item| service::read(item, &mut lists, &encap, table_size.as_ref()))
            .collect();
        Listed { spot: item.spot, items }
    });
    let (policies, announcements) = policies(&file);
    Some(Draft {
        spot: file.spot.clone(),
        node: node(&file),
        interfaces: file.get("interfaces").map(|item| interfaces(&item, &keys::INTERFACE)),
        seed,
        flow_table: flow_table(&file),
        limits: limits::read(&file),
        encap,
        table_size,
        log: log(&file),
        admin: admin(&file),
        policies,
        services,
        decap,
        bgp: file.get("bgp").and_then(|item| bgp::read(&item, kubernetes.is_some())),
        announcements,
        peers: file.get("peers").and_then(|item| peers::read(&item)),
        kubernetes,
    })
}

fn node(file: &Mapping<'_>) -> Node {
    let Some(node) = file.section("node", &keys::NODE) else {
        return Node::default();
    };
    let label = |key| node.get(key).and_then(|item| item.leaf(leaf::label));
    Node { name: label("name").unwrap_or_default(), zone: label("zone") }
}

/// A list of interfaces, each once.
pub(super) fn interfaces(item: &Item<'_>, section: &'static Section) -> PlacedList<Interface> {
    let mut items: Vec<Placed<Interface>> = Vec::new();
    for item in item.list().unwrap_or_default() {
        let Some(Placed { value, spot }) = interface(&item, section) else {
            continue;
        };
        match items.iter().find(|other| other.value.name == value.name) {
            Some(first) => item.findings.error(
                &spot,
                format!(
                    "{} is listed twice, first as {}",
                    value.name,
                    item.findings.cite(&spot, &first.spot)
                ),
            ),
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
pub(super) fn encap(item: &Item<'_>, section: &'static Section, gue: &'static Section) -> EncapDraft {
    let Some(keys) = item.mapping(section) else {
        // Wrong, not absent: a missing source would be a second error for the same mistake.
        return EncapDraft {
            source_v4: Written::Wrong,
            source_v6: Written::Wrong,
            dscp: Written::Wrong,
            mtu: Written::Wrong,
            ..EncapDraft::default()
        };
    };
    let kind = written(&keys, "kind", leaf::choice(&[("ipip", Kind::Ipip), ("gue", Kind::Gue)], &[]));
    let gue = keys.get("gue").and_then(|item| item.mapping(gue));
    let gue_port =
        gue.as_ref().map_or(Written::Absent, |gue| written(gue, "port", leaf::number(1..=u16::MAX)));
    let gue_variant = gue.as_ref().map_or(Written::Absent, |gue| {
        written(gue, "variant", leaf::choice(&[("0", GueVariant::Header), ("1", GueVariant::Bare)], &[]))
    });
    let source_v4 = written(&keys, "source_v4", leaf::source_v4);
    let source_v6 = written(&keys, "source_v6", leaf::source_v6);
    spreads(&keys, "source_v4", 32, source_v4.value().map(|(_, length)| length));
    spreads(&keys, "source_v6", 128, source_v6.value().map(|(_, length)| length));
    let dscp = written(&keys, "dscp", leaf::dscp);
    let mtu = written(&keys, "mtu", leaf::mtu);
    EncapDraft { kind, gue_port, gue_variant, source_v4, source_v6, dscp, mtu }
}

/// A backend's NIC spreads tunnels over its queues by the outer source alone.
fn spreads(keys: &Mapping<'_>, key: &'static str, width: u8, length: Option<u8>) {
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

fn written<T>(keys: &Mapping<'_>, key: &'static str, parse: impl Fn(&str) -> Leaf<T>) -> Written<T> {
    match keys.get(key).map(|item| item.leaf(parse)) {
        None => Written::Absent,
        Some(None) => Written::Wrong,
        Some(Some(value)) => Written::Value(value),
    }
}

/// Table size and seed with their places.
fn maglev(file: &Mapping<'_>) -> (Option<Placed<TableSize>>, Option<Placed<u64>>) {
    let Some(keys) = file.section("maglev", &keys::MAGLEV) else {
        return (None, None);
    };
    let size = keys.placed("table_size", TableSize::DEFAULT, leaf::table_size);
    (size, keys.placed("seed", 0, leaf::number(0..=u64::MAX)))
}

fn flow_table(file: &Mapping<'_>) -> Option<FlowTable> {
    let keys = file.section("flow_table", &keys::FLOW_TABLE)?;
    let windows = Duration::from_secs(1)..=Duration::from_secs(600);
    let entries = keys.leaf("entries", 1 << 20, leaf::table_entries);
    let track_window = keys.leaf("track_window", Duration::from_secs(5), leaf::duration(windows));
    Some(FlowTable { entries: entries?, track_window: track_window? })
}

fn log(file: &Mapping<'_>) -> Log {
    const FORMATS: &[(&str, LogFormat)] = &[("text", LogFormat::Text), ("json", LogFormat::Json)];
    const LEVELS: &[(&str, LogLevel)] = &[
        ("error", LogLevel::Error),
        ("warn", LogLevel::Warn),
        ("info", LogLevel::Info),
        ("debug", LogLevel::Debug),
        ("trace", LogLevel::Trace),
    ];
    let Some(keys) = file.section("log", &keys::LOG) else {
        return Log::default();
    };
    let format = keys.leaf("format", LogFormat::default(), leaf::choice(FORMATS, &[]));
    let level = keys.leaf("level", LogLevel::default(), leaf::choice(LEVELS, &[]));
    Log { format: format.unwrap_or_default(), level: level.unwrap_or_default() }
}

fn admin(file: &Mapping<'_>) -> Admin {
    let default = Admin::default();
    let Some(keys) = file.section("admin", &keys::ADMIN) else {
        return default;
    };
    let socket = keys.leaf("socket", default.socket, leaf::absolute_path);
    let group = keys.get("group").and_then(|item| item.leaf(leaf::label));
    Admin { socket: socket.unwrap_or_default(), group }
}

fn policies(file: &Mapping<'_>) -> (Vec<Placed<Vip>>, BTreeMap<IpAddr, bgp::PolicyDraft>) {
    const FATES: &[(&str, Unmatched)] = &[("drop", Unmatched::Drop), ("pass", Unmatched::Pass)];
    let mut policies: Vec<Placed<Vip>> = Vec::new();
    let mut announcements = BTreeMap::new();
    for item in file.get("vips").and_then(|item| item.list()).unwrap_or_default() {
        let Some(keys) = item.mapping(&keys::VIP) else {
            continue;
        };
        let unmatched = keys.leaf("unmatched", Unmatched::Drop, leaf::choice(FATES, &[])).unwrap_or_default();
        let announcement = bgp::policy(&keys);
        let Some(Placed { value: address, spot }) =
            keys.required("address", "203.0.113.10").and_then(|item| item.placed(leaf::host_address))
        else {
            continue;
        };
        match policies.iter().find(|other| other.value.address == address) {
            Some(first) => {
                let first = item.findings.cite(&spot, &first.spot);
                item.findings.error(&spot, format!("{address} is listed twice, first as {first}"));
            }
            None => {
                announcements.insert(address, announcement);
                policies.push(Placed { value: Vip { address, unmatched }, spot });
            }
        }
    }
    (policies, announcements)
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
