//! Reads `bgp` and what services and VIPs say about their announcement, and judges it. Called by [`super::sections`],
//! [`super::service`] and [`super::check`]; [`super::finish`] asks for the outcome.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;
use std::time::Duration;

use super::draft::{Draft, ServiceDraft};
use super::finding::{Findings, Placed, Spot};
use super::keys;
use super::leaf;
use super::reader::{Item, Leaf, Mapping, must_be};
use crate::bgp::settings::{
    Aggregate, Bfd, Bgp, Community, Join, LargeCommunity, OnStop, Overrides, Password, Peer, PeerLink,
    Prefix, SecretKey, Unattractive, Vip, When,
};
use crate::model::{Policy, Service};

const JOINS: &[(&str, Join)] = &[("all", Join::All), ("any", Join::Any)];
const HOLD_TIME: u16 = 9;
/// RFC 9687 section 6.
const SEND_HOLD_TIME: Duration = Duration::from_secs(8 * 60);
const STATUS_FILE: &str = "/run/xdp-lb/bgp.json";
/// All of them, from three levels, fit one message.
const MAX_COMMUNITIES: usize = 64;

/// The section, read: `vips` is still empty.
#[derive(Debug)]
pub(super) struct BgpDraft {
    pub spot: Spot,
    /// `None` after a mistake.
    pub bgp: Option<Bgp>,
    peers: Vec<PlacedPeer>,
    aggregates: Vec<Placed<Aggregate>>,
}

/// A peer with the places that rules over several keys name.
#[derive(Debug)]
struct PlacedPeer {
    peer: Peer,
    spot: Spot,
    local_pref: Option<Spot>,
    prepend: Option<Spot>,
    source: Option<Spot>,
    send_hold_time: Spot,
}

/// What a service says about its announcement.
#[derive(Clone, Debug, Default)]
pub(super) struct AdvertiseDraft {
    pub when: When,
    /// `None`: nothing is written.
    pub spot: Option<Spot>,
}

/// What an entry of `vips` says about it.
#[derive(Clone, Debug, Default)]
pub(super) struct PolicyDraft {
    join: Join,
    attributes: Overrides,
    /// `None`: nothing is written.
    spot: Option<Spot>,
}

impl PolicyDraft {
    /// What it asks for.
    pub(super) fn finish(self) -> (Join, Overrides) {
        (self.join, self.attributes)
    }
}

/// Reads the section. `None` if it is no mapping. A cluster may have routers that the file does not name.
pub(super) fn read(item: &Item<'_>, has_cluster: bool) -> Option<BgpDraft> {
    let keys = item.mapping(&keys::BGP)?;
    let local_as = keys.required("local_as", "4200000001").and_then(|item| item.leaf(as_number));
    let router_id = keys.required("router_id", "10.0.0.11").and_then(|item| item.leaf(router_id));
    let peers = match keys.get("peers") {
        Some(item) => Some(peers(&item)),
        None if has_cluster => Some(Vec::new()),
        None => {
            let item = keys.required("peers", "[{ address: 10.0.0.1, remote_as: 65001 }]");
            item.map(|item| peers(&item))
        }
    };
    let aggregates = aggregates(&keys);
    let attributes = overrides(&keys);
    let drain = drain(&keys);
    let grace = keys.leaf("withdraw_grace", seconds(5), leaf::duration(seconds(0)..=seconds(600)));
    let drain_time = keys.leaf("drain_time", seconds(0), leaf::duration(seconds(0)..=seconds(24 * 3600)));
    let stops = &[("withdraw", OnStop::Withdraw), ("keep", OnStop::Keep)];
    let on_stop = keys.leaf("on_stop", OnStop::Withdraw, leaf::choice(stops, &[]));
    let status_file = keys.leaf("status_file", STATUS_FILE.into(), leaf::absolute_path);
    let restart_time = restart_time(&keys);
    let peers = peers?;
    let bgp = (|| {
        Some(Bgp {
            local_as: local_as?,
            router_id: router_id?,
            restart_time: restart_time?,
            withdraw_grace: grace?,
            drain_time: drain_time?,
            drain: drain?,
            on_stop: on_stop?,
            attributes: attributes?,
            aggregates: aggregates.iter().map(|a| a.value.clone()).collect(),
            peers: peers.iter().map(|p| p.peer.clone()).collect(),
            vips: Vec::new(),
            status_file: status_file?,
        })
    })();
    Some(BgpDraft { spot: keys.spot.clone(), bgp, peers, aggregates })
}

/// `None` after a mistake; `Some(None)` where it is switched off.
fn restart_time(keys: &Mapping<'_>) -> Option<Option<Duration>> {
    let graceful = keys.leaf("graceful_restart", true, leaf::boolean);
    let time = keys.leaf("restart_time", seconds(30), whole_seconds(1..=4095));
    if let (Some(false), Some(item)) = (graceful, keys.get("restart_time")) {
        item.findings.warn(&item.spot, "has no effect with graceful_restart: false");
    }
    Some(graceful?.then_some(time?))
}

fn drain(keys: &Mapping<'_>) -> Option<Unattractive> {
    let keys = keys.section("drain", &keys::BGP_DRAIN)?;
    let prepend = keys.leaf("prepend", 3, leaf::number(0..=20));
    let med = keys.leaf("med", Some(u32::MAX), |text| match text {
        "keep" => Ok(None),
        _ => leaf::number(0..=u32::MAX)(text).map(Some).or_else(|_| must_be("0..=4294967295 or keep", text)),
    });
    let graceful_shutdown = keys.leaf("graceful_shutdown", true, leaf::boolean);
    Some(Unattractive { prepend: prepend?, med: med?, graceful_shutdown: graceful_shutdown? })
}

fn aggregates(keys: &Mapping<'_>) -> Vec<Placed<Aggregate>> {
    let mut all: Vec<Placed<Aggregate>> = Vec::new();
    for item in keys.get("aggregates").and_then(|item| item.list()).unwrap_or_default() {
        let Some(keys) = item.mapping(&keys::BGP_AGGREGATE) else { continue };
        let join = keys.leaf("advertise", Join::Any, leaf::choice(JOINS, &[]));
        let host_routes = keys.leaf("host_routes", false, leaf::boolean);
        let prefix = keys.required("prefix", "203.0.113.0/24").and_then(|item| item.placed(leaf::prefix));
        let (Some(join), Some(host_routes), Some(Placed { value: (address, length), spot })) =
            (join, host_routes, prefix)
        else {
            continue;
        };
        let prefix = Prefix { address, length };
        match all.iter().find(|other| other.value.prefix == prefix) {
            Some(first) => {
                item.findings.error(&spot, format!("{prefix} is listed twice, first as {}", first.spot.path))
            }
            None => all.push(Placed { value: Aggregate { prefix, join, host_routes }, spot }),
        }
    }
    all
}

fn peers(item: &Item<'_>) -> Vec<PlacedPeer> {
    let mut all: Vec<PlacedPeer> = Vec::new();
    if item.list_is_empty() {
        item.fail("must name at least one router, is an empty list");
    }
    for item in item.list().unwrap_or_default() {
        let Some(peer) = peer(&item) else { continue };
        let address = peer.peer.link.address;
        match all.iter().find(|other| other.peer.link.address == address) {
            Some(first) => {
                let first = item.findings.cite(&peer.spot, &first.spot);
                item.findings.error(&peer.spot, format!("{address} is listed twice, first as {first}"));
            }
            None => all.push(peer),
        }
    }
    all.sort_by_key(|peer| peer.peer.link.address);
    all
}

/// The place is the address's.
fn peer(item: &Item<'_>) -> Option<PlacedPeer> {
    let keys = item.mapping(&keys::BGP_PEER)?;
    let address = keys.required("address", "10.0.0.1").and_then(|item| item.placed(leaf::host_address));
    let remote_as = keys.required("remote_as", "65001").and_then(|item| item.leaf(as_number));
    let port = keys.leaf("port", 179, leaf::number(1..=u16::MAX));
    let password = password(&keys);
    let hold_time = keys.leaf("hold_time", HOLD_TIME, hold_time);
    let send_hold_time =
        keys.placed("send_hold_time", SEND_HOLD_TIME, leaf::duration(seconds(1)..=seconds(24 * 3600)));
    let hops = keys.leaf("multihop", 1, leaf::number(1..=u8::MAX));
    let gtsm = keys.leaf("gtsm", false, leaf::boolean);
    let source = optional(&keys, "source", leaf::host_address);
    let interface = optional(&keys, "interface", leaf::interface_name);
    let families = families(&keys);
    let next_hop_v4 = optional(&keys, "next_hop_v4", |text| match leaf::host_address(text)? {
        IpAddr::V4(a) => Ok(a),
        IpAddr::V6(_) => must_be::<Ipv4Addr>("an IPv4 address", text),
    });
    let next_hop_v6 = optional(&keys, "next_hop_v6", |text| match leaf::host_address(text)? {
        IpAddr::V6(a) => Ok(a),
        IpAddr::V4(_) => must_be::<Ipv6Addr>("an IPv6 address", text),
    });
    let attributes = overrides(&keys);
    let max_received = keys.leaf("max_received", 100_000, leaf::number(0..=10_000_000));
    let bfd = match keys.get("bfd") {
        Some(item) => bfd(&item).map(Some),
        None => Some(None),
    };
    let place = |key| keys.get(key).map(|item| item.spot);
    let (Placed { value: address, spot }, (ipv4, ipv6)) = (address?, families?);
    let send_hold_time = send_hold_time?;
    let link = PeerLink {
        address,
        port: port?,
        remote_as: remote_as?,
        password: password?,
        hold_time: hold_time?,
        send_hold_time: send_hold_time.value,
        hops: hops?,
        gtsm: gtsm?,
        source: source?,
        interface: interface?,
        ipv4,
        ipv6,
        max_received: max_received?,
    };
    let attributes = attributes?;
    let peer = Peer { link, attributes, next_hop_v4: next_hop_v4?, next_hop_v6: next_hop_v6?, bfd: bfd? };
    Some(PlacedPeer {
        peer,
        spot,
        local_pref: place("local_pref"),
        prepend: place("prepend"),
        source: place("source"),
        send_hold_time: send_hold_time.spot,
    })
}

/// `None` after a mistake.
fn password(keys: &Mapping<'_>) -> Option<Option<Password>> {
    let file = optional(keys, "password_file", leaf::absolute_path);
    let Some(item) = keys.get("password_secret") else { return Some(file?.map(Password::File)) };
    if keys.get("password_file").is_some() {
        item.fail("is given beside password_file; remove one");
        return None;
    }
    let secret = item.mapping(&keys::BGP_PASSWORD_SECRET)?;
    let name = secret.required("name", "bgp").and_then(|item| item.leaf(object_name));
    let key = secret.leaf("key", "password".to_owned(), secret_key);
    Some(Some(Password::Secret(SecretKey { name: name?, key: key? })))
}

/// A name as Kubernetes gives them to Secrets.
fn object_name(text: &str) -> Leaf<String> {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.');
    let fine = (1..=253).contains(&text.len())
        && text.chars().all(inner)
        && !text.starts_with(['-', '.'])
        && !text.ends_with(['-', '.']);
    if fine { Ok(text.to_owned()) } else { must_be("the name of a Secret, as in xdp-lb-bgp", text) }
}

fn secret_key(text: &str) -> Leaf<String> {
    let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if (1..=253).contains(&text.len()) && text.chars().all(fine) {
        Ok(text.to_owned())
    } else {
        must_be("a key of a Secret: letters, digits, -, _ and .", text)
    }
}

fn bfd(item: &Item<'_>) -> Option<Bfd> {
    let keys = item.mapping(&keys::BGP_BFD)?;
    let range = Duration::from_millis(10)..=seconds(60);
    let interval = keys.leaf("interval", Duration::from_millis(300), leaf::duration(range));
    let multiplier = keys.leaf("multiplier", 3, leaf::number(1..=u8::MAX));
    Some(Bfd { interval: interval?, multiplier: multiplier? })
}

fn families(keys: &Mapping<'_>) -> Option<(bool, bool)> {
    let Some(item) = keys.get("families") else { return Some((true, true)) };
    let (mut ipv4, mut ipv6, mut fine) = (false, false, true);
    for item in item.one_or_more() {
        match item.leaf(leaf::choice(&[("ipv4", true), ("ipv6", false)], &[])) {
            Some(true) => ipv4 = true,
            Some(false) => ipv6 = true,
            None => fine = false,
        }
    }
    (fine && (ipv4 || ipv6)).then_some((ipv4, ipv6))
}

/// The attributes that the section, a peer and a VIP have in common. `None` after a mistake.
fn overrides(keys: &Mapping<'_>) -> Option<Overrides> {
    let communities = communities(keys, "communities", community);
    let large_communities = self::communities(keys, "large_communities", large_community);
    let med = optional(keys, "med", leaf::number(0..=u32::MAX));
    let local_pref = optional(keys, "local_pref", leaf::number(0..=u32::MAX));
    let prepend = optional(keys, "prepend", leaf::number(0..=20));
    Some(Overrides {
        communities: communities?,
        large_communities: large_communities?,
        med: med?,
        local_pref: local_pref?,
        prepend: prepend?,
    })
}

fn communities<T>(keys: &Mapping<'_>, key: &'static str, parse: fn(&str) -> Leaf<T>) -> Option<Vec<T>> {
    let Some(item) = keys.get(key) else { return Some(Vec::new()) };
    let items = item.list()?;
    if items.len() > MAX_COMMUNITIES {
        item.fail(format!("has {} entries, at most {MAX_COMMUNITIES} fit", items.len()));
        return None;
    }
    let values: Vec<Option<T>> = items.iter().map(|item| item.leaf(parse)).collect();
    values.into_iter().collect()
}

/// `None` after a mistake, `Some(None)` when not written.
fn optional<T>(keys: &Mapping<'_>, key: &'static str, parse: impl Fn(&str) -> Leaf<T>) -> Option<Option<T>> {
    match keys.get(key) {
        Some(item) => item.leaf(parse).map(Some),
        None => Some(None),
    }
}

/// Reads `services[].advertise`.
pub(super) fn advertise(keys: &Mapping<'_>) -> AdvertiseDraft {
    let Some(item) = keys.get("advertise") else { return AdvertiseDraft::default() };
    let spot = Some(item.spot.clone());
    let Some(keys) = item.mapping(&keys::ADVERTISE) else { return AdvertiseDraft::default() };
    let when = keys.required("when", "any-healthy").and_then(|item| when(&item));
    AdvertiseDraft { when: when.unwrap_or_default(), spot }
}

fn when(item: &Item<'_>) -> Option<When> {
    const WORDS: &[(&str, When)] = &[("always", When::Always), ("any-healthy", When::AnyHealthy)];
    if !item.is_mapping() {
        return item.leaf(|text| {
            leaf::choice(WORDS, &[])(text)
                .or_else(|_| must_be("always, any-healthy or { min_healthy: 2 }", text))
        });
    }
    let keys = item.mapping(&keys::ADVERTISE_WHEN)?;
    keys.required("min_healthy", "2")?.leaf(leaf::number(1..=4095)).map(When::MinHealthy)
}

/// Reads `advertise` and `bgp` of an entry of `vips`.
pub(super) fn policy(keys: &Mapping<'_>) -> PolicyDraft {
    let join = keys.leaf("advertise", Join::All, leaf::choice(JOINS, &[]));
    let bgp = keys.get("bgp");
    let attributes = bgp.as_ref().and_then(|item| item.mapping(&keys::VIP_BGP)).and_then(|k| overrides(&k));
    let spot = keys.get("advertise").or(bgp).map(|item| item.spot);
    PolicyDraft { join: join.unwrap_or_default(), attributes: attributes.unwrap_or_default(), spot }
}

/// Judges the section with the services.
pub(super) fn check(draft: &Draft, services: &[ServiceDraft], findings: &Findings) {
    let Some(BgpDraft { spot, bgp, peers, aggregates }) = &draft.bgp else {
        return without(draft, services, findings);
    };
    if services.is_empty() && draft.kubernetes.is_none() {
        findings.warn(spot, "there are no services, so there is nothing to announce");
    }
    for service in services {
        enough_backends(service, findings);
    }
    let vips: HashMap<IpAddr, &Spot> =
        services.iter().flat_map(|s| &s.vips).map(|vip| (vip.value, &vip.spot)).collect();
    for aggregate in aggregates {
        if !services.is_empty() && !vips.keys().any(|vip| aggregate.value.prefix.contains(*vip)) {
            findings.warn(&aggregate.spot, "no VIP is in it: it is never announced");
        }
    }
    for peer in peers {
        if let Some(vip) = vips.get(&peer.peer.link.address) {
            let message = format!("{} is a VIP ({})", peer.peer.link.address, findings.cite(&peer.spot, vip));
            findings.error(&peer.spot, message);
        }
        one_peer(peer, bgp.as_ref().map(|bgp| bgp.local_as), findings);
        if draft.kubernetes.is_none() && matches!(peer.peer.link.password, Some(Password::Secret(_))) {
            findings.error(&peer.spot, "has its password in a Secret, which needs `kubernetes`");
        }
    }
}

/// What is said about announcements without anybody to tell.
fn without(draft: &Draft, services: &[ServiceDraft], findings: &Findings) {
    let services = services.iter().filter_map(|service| service.advertise.spot.as_ref());
    let policies = draft.announcements.values().filter_map(|policy| policy.spot.as_ref());
    for spot in services.chain(policies) {
        findings.warn(spot, "has no effect without `bgp`");
    }
}

pub(super) fn enough_backends(service: &ServiceDraft, findings: &Findings) {
    let (When::MinHealthy(least), Some(spot), Some(backends)) =
        (service.advertise.when, &service.advertise.spot, &service.backends)
    else {
        return;
    };
    let count = backends.items().len();
    if (least as usize) > count {
        findings.warn(spot, format!("wants {least} healthy backends of {count}: it is never announced"));
    }
}

fn one_peer(peer: &PlacedPeer, local_as: Option<u32>, findings: &Findings) {
    let PeerLink { address, source, hold_time, send_hold_time, .. } = &peer.peer.link;
    if let (Some(source), Some(spot)) = (source, &peer.source)
        && source.is_ipv4() != address.is_ipv4()
    {
        findings.error(spot, format!("{source} is of another family than the router's {address}"));
    }
    if send_hold_time.as_secs() <= u64::from(*hold_time) {
        let message = format!("must be longer than hold_time, {hold_time}s (RFC 9687)");
        findings.error(&peer.send_hold_time, message);
    }
    let Some(internal) = local_as.map(|local_as| peer.peer.link.is_internal(local_as)) else { return };
    if let (false, Some(spot)) = (internal, &peer.local_pref) {
        findings.error(spot, "is for iBGP alone, and this router is of another AS; use med or prepend");
    }
    if let (true, Some(1..), Some(spot)) = (internal, peer.peer.attributes.prepend, &peer.prepend) {
        findings.error(spot, "is for eBGP alone, and this router is of our AS; use local_pref or med");
    }
}

/// The section with every VIP in use. `None` when a part is missing, which a recorded mistake explains.
pub(super) fn finish(
    draft: BgpDraft,
    services: &[Service],
    whens: &BTreeMap<String, When>,
    policies: &BTreeMap<IpAddr, Policy>,
) -> Option<Bgp> {
    Some(Bgp { vips: vips(services, whens, policies), ..draft.bgp? })
}

/// What becomes of the announcement of every VIP in use, by address.
pub(super) fn vips(
    services: &[Service],
    whens: &BTreeMap<String, When>,
    policies: &BTreeMap<IpAddr, Policy>,
) -> Vec<Vip> {
    let mut vips: BTreeMap<IpAddr, Vec<(String, When)>> = BTreeMap::new();
    for service in services {
        let when = whens.get(&service.name).copied().unwrap_or_default();
        for vip in &service.vips {
            vips.entry(*vip).or_default().push((service.name.clone(), when));
        }
    }
    let vip = |(address, mut services): (IpAddr, Vec<(String, When)>)| {
        services.sort_by(|a, b| a.0.cmp(&b.0));
        let Policy { join, attributes, .. } = policies.get(&address).cloned().unwrap_or_default();
        Vip { address, join, services, attributes }
    };
    vips.into_iter().map(vip).collect()
}

fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// A duration that a field of whole seconds can hold.
fn whole_seconds(range: RangeInclusive<u64>) -> impl Fn(&str) -> Leaf<Duration> {
    move |text| match leaf::duration(seconds(*range.start())..=seconds(*range.end()))(text)? {
        value if value.subsec_nanos() == 0 => Ok(value),
        _ => must_be("whole seconds", text),
    }
}

/// 0, or 3 seconds and more (RFC 4271 section 4.2).
fn hold_time(text: &str) -> Leaf<u16> {
    let value = whole_seconds(0..=u64::from(u16::MAX))(text)?.as_secs();
    match u16::try_from(value) {
        Ok(seconds @ (0 | 3..)) => Ok(seconds),
        _ => must_be("0s (never) or a duration 3s..=65535s", text),
    }
}

/// One that a speaker may have: neither 0, nor AS_TRANS, nor one of the last of either range (RFC 7300, 7607).
fn as_number(text: &str) -> Leaf<u32> {
    match leaf::number(1..=u32::MAX - 1)(text)? {
        23_456 | 65_535 => Err(format!("must be the number of an AS, {text} is reserved")),
        number => Ok(number),
    }
}

fn router_id(text: &str) -> Leaf<Ipv4Addr> {
    match text.parse::<Ipv4Addr>() {
        Ok(id) if !id.is_unspecified() => Ok(id),
        _ => must_be("an IPv4 address of this node other than 0.0.0.0", text),
    }
}

fn community(text: &str) -> Leaf<Community> {
    if let Some((_, community)) = Community::NAMES.iter().find(|(name, _)| *name == text) {
        return Ok(*community);
    }
    let half = |text: &str| leaf::number(0..=u16::MAX)(text).map(u32::from).ok();
    let value = text.split_once(':').and_then(|(high, low)| Some(half(high)? << 16 | half(low)?));
    value.map_or_else(
        || {
            let names = Community::NAMES.map(|(name, _)| name).join(", ");
            must_be(&format!("a community, as in \"64500:100\", or {names}"), text)
        },
        |value| Ok(Community(value)),
    )
}

fn large_community(text: &str) -> Leaf<LargeCommunity> {
    let parts: Vec<Option<u32>> = text.split(':').map(|part| leaf::number(0..=u32::MAX)(part).ok()).collect();
    match parts[..] {
        [Some(a), Some(b), Some(c)] => Ok(LargeCommunity(a, b, c)),
        _ => must_be("a large community, as in \"4200000001:1:100\"", text),
    }
}
