//! Random configurations: every kind of service, at addresses that they share.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;
use std::time::Duration;

use xdp_lb::config;
use xdp_lb_tests::model::{
    Affinity, Backend, Decap, Encap, File, Kind, Prefix, Service, Tags, Tracking, Way,
};

use super::dice::Dice;

/// What a node does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Balances.
    Balancer,
    /// Takes tunnels off.
    Decap,
    /// Both in one program.
    Both,
}

/// Number `n` of the VIPs of a family.
pub fn vip(v4: bool, n: u16) -> IpAddr {
    if v4 {
        Ipv4Addr::new(203, 0, 113, n as u8).into()
    } else {
        Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, n).into()
    }
}

/// VIPs of each family that services may be at.
pub const VIPS: u16 = 8;
/// The first VIP that is only taken off tunnels.
const LOCAL: u16 = 40;

/// A file for a role.
pub fn file(dice: &mut Dice, role: Role, name: &str) -> File {
    let mut file = File {
        seed: dice.next(),
        flow_entries: dice.pick(&[1024, 1024, 4096]),
        fragment_entries: 1024,
        encap: Encap {
            kind: Some(kind(dice)),
            source_v4: Some(source_v4(dice)),
            source_v6: Some(source_v6(dice)),
            dscp: Some(dscp(dice)),
            mtu: Some(mtu(dice)),
        },
        ..File::default()
    };
    if role != Role::Balancer {
        file.decap = Some(decap(dice));
    }
    if role == Role::Decap {
        return file;
    }
    for n in 1..=VIPS {
        for v4 in [true, false] {
            if dice.percent(20) {
                file.passing.insert(vip(v4, n));
            }
        }
    }
    let wanted = dice.within(6..=16);
    let mut tries = 0;
    while file.services.len() < wanted && tries < 200 {
        tries += 1;
        let service = service(dice, format!("{name}-{}", file.services.len()), file.services.last());
        file.services.push(service);
        if let Err(errors) = config::parse(&trimmed(&file).yaml()) {
            // Claims overlap: that is all that may be wrong.
            let text = format!("{errors:?}");
            assert!(text.contains("overlaps"), "{text}\n{}", trimmed(&file).yaml());
            file.services.pop();
        }
    }
    trimmed(&file)
}

/// Without what is said of addresses that nobody uses.
fn trimmed(file: &File) -> File {
    let used: BTreeSet<IpAddr> = file.services.iter().flat_map(|s| s.vips.iter().copied()).collect();
    File { passing: file.passing.intersection(&used).copied().collect(), ..file.clone() }
}

fn kind(dice: &mut Dice) -> Kind {
    match dice.below(3) {
        0 => Kind::Gue { port: dice.pick(&[6080, 99]), variant: dice.below(2) as u8 },
        _ => Kind::Ipip,
    }
}

fn source_v4(dice: &mut Dice) -> Prefix {
    let length = dice.pick(&[8, 16, 24, 31, 32]);
    Prefix::of(Ipv4Addr::new(172, 16, 7, 9).into(), length)
}

fn source_v6(dice: &mut Dice) -> Prefix {
    let length = dice.pick(&[0, 32, 64, 65, 96, 127, 128]);
    Prefix::of(Ipv6Addr::new(0xfd00, 0x7864, 0x7000, 0, 0, 0, 7, 9).into(), length)
}

fn dscp(dice: &mut Dice) -> Option<u8> {
    dice.percent(40).then(|| dice.below(64) as u8)
}

fn mtu(dice: &mut Dice) -> Option<u16> {
    dice.percent(70).then(|| dice.pick(&[576, 1200, 1300, 1320, 1500, 1600]))
}

/// What a service may override, each key by itself.
fn overrides(dice: &mut Dice) -> Encap {
    let mut some = |percent| dice.percent(percent);
    let (a, b, c, d, e) = (some(30), some(15), some(15), some(20), some(20));
    Encap {
        kind: a.then(|| kind(dice)),
        source_v4: b.then(|| source_v4(dice)),
        source_v6: c.then(|| source_v6(dice)),
        dscp: d.then(|| dscp(dice)),
        mtu: e.then(|| mtu(dice)),
    }
}

/// A client's address, sometimes one that no client can have.
pub fn client(dice: &mut Dice, v4: bool) -> IpAddr {
    if dice.percent(2) {
        let odd = if v4 {
            ["0.0.0.0", "0.1.2.3", "127.0.0.1", "224.0.0.1", "240.0.0.1", "255.255.255.255"]
        } else {
            ["::", "::1", "::2", "ff02::1", "::ffff:198.51.100.7", "fe80::1"]
        };
        return dice.one(&odd).parse().expect("an address");
    }
    let number = dice.below(48) as u16;
    if v4 {
        Ipv4Addr::new(198, 51, 100 + (number % 2) as u8, number as u8).into()
    } else {
        Ipv6Addr::new(0x2001, 0xdb8, 0xcafe, number % 2, 0, 0, 0, number).into()
    }
}

/// Prefixes around clients, of all lengths.
fn sources(dice: &mut Dice) -> BTreeMap<Prefix, bool> {
    let mut sources = BTreeMap::new();
    for _ in 0..dice.within(1..=8) {
        let v4 = dice.percent(50);
        let address = client(dice, v4);
        let whole = if v4 { 32 } else { 128 };
        let length = if dice.percent(60) { whole - dice.below(12) } else { dice.within(1..=whole) };
        sources.insert(Prefix::of(address, length as u8), dice.percent(50));
    }
    // The table writes IPv4 addresses in this form: files may not.
    sources.retain(|prefix, _| {
        prefix.address.is_ipv4() || prefix.length < 40 || !prefix.address.to_string().starts_with("::")
    });
    sources
}

fn service(dice: &mut Dice, name: String, last: Option<&Service>) -> Service {
    let tcp = dice.percent(40);
    let affinity = match dice.below(if tcp { 4 } else { 8 }) {
        0 => Affinity::FiveTuple,
        1 | 2 => Affinity::ClientIp,
        3 => Affinity::DestPort,
        4 | 5 => Affinity::IceUfrag,
        _ => quic(dice),
    };
    let mut vips = Vec::new();
    for _ in 0..dice.within(1..=3) {
        let vip = vip(dice.percent(50), dice.within(1..=VIPS.into()) as u16);
        if !vips.contains(&vip) {
            vips.push(vip);
        }
    }
    // Sometimes one like the last, for fragments by client.
    if let Some(last) = last.filter(|last| last.affinity == Affinity::ClientIp && dice.percent(60)) {
        return Service { name, ports: Some(ports(dice)), ..last.clone() };
    }
    let ports = if dice.percent(15) { None } else { Some(ports(dice)) };
    let table_size = dice.pick(&[3, 61, 251, 251, 1021]);
    let most = (table_size as usize / 2).min(6);
    let count = if dice.percent(5) { 0 } else { dice.within(1..=most) };
    let id_length = dice.within(1..=8);
    let mut backends: Vec<Backend> = Vec::new();
    for n in 0..count {
        let address = backend(dice, n as u16);
        let server_id = match affinity {
            Affinity::QuicCid { .. } => [vec![0x0a; id_length - 1], vec![n as u8]].concat(),
            Affinity::IceUfrag => [vec![b'a'; id_length - 1], vec![b'0' + n as u8]].concat(),
            _ => Vec::new(),
        };
        backends.push(Backend {
            address,
            weight: dice.pick(&[0, 1, 100, 100, 100, 300]),
            state: "active",
            share: 100,
            ports: Vec::new(),
            server_id,
        });
    }
    if affinity == Affinity::DestPort {
        slices(dice, ports.as_deref(), &mut backends);
    }
    let ice = affinity == Affinity::IceUfrag;
    let timeout = if ice { dice.within(45..=120) } else { dice.pick(&[1, 2, 5, 9, 60, 300, 7500]) };
    Service {
        name,
        vips,
        tcp,
        ports,
        affinity,
        drops_fragments: dice.percent(15),
        tracking: dice.pick(&[
            None,
            Some(Tracking::Exact),
            Some(Tracking::Exact),
            Some(Tracking::Sampled),
            Some(Tracking::Off),
        ]),
        flow_timeout: Duration::from_secs(timeout as u64),
        new_flow_limit: dice.pick(&[0, 3, 50, 100_000, 100_000, 100_000]),
        table_size,
        encap: overrides(dice),
        sources: if dice.percent(25) { sources(dice) } else { BTreeMap::new() },
        backends,
    }
}

fn quic(dice: &mut Dice) -> Affinity {
    let config_ids =
        if dice.percent(40) { Vec::new() } else { vec![dice.below(3) as u8, 3 + dice.below(4) as u8] };
    Affinity::QuicCid { config_ids, nonce: dice.within(4..=11) as u8, length_encoded: dice.percent(50) }
}

/// Number `n` of a service's backends.
fn backend(dice: &mut Dice, n: u16) -> IpAddr {
    let which = (dice.below(3)) as u16;
    if dice.percent(55) {
        Ipv4Addr::new(10, 1, which as u8, 10 + n as u8).into()
    } else {
        Ipv6Addr::new(0xfd00, 1, which, 0, 0, 0, 0, 10 + n).into()
    }
}

fn ports(dice: &mut Dice) -> Vec<RangeInclusive<u16>> {
    let mut ports: Vec<RangeInclusive<u16>> = Vec::new();
    for _ in 0..dice.within(1..=3) {
        let first = dice.pick(&[1, 53, 80, 443, 3478, 5060, 5061, 20000, 20200, 65000]);
        let last = if dice.percent(50) { first } else { first + dice.pick(&[1, 7, 255, 256, 515]) };
        let free = ports.iter().all(|range| last < *range.start() || *range.end() < first);
        if free {
            ports.push(first..=last);
        }
    }
    ports
}

/// Hands some of a service's ports out to its backends, in even runs.
fn slices(dice: &mut Dice, ports: Option<&[RangeInclusive<u16>]>, backends: &mut Vec<Backend>) {
    let all = [2..=601];
    let mut cuts: Vec<RangeInclusive<u16>> = Vec::new();
    for range in ports.unwrap_or(&all) {
        let mut first = *range.start();
        while first <= *range.end() {
            let last = (first | 1).saturating_add(2 * dice.below(120) as u16).min(*range.end());
            cuts.push(first..=last);
            let Some(next) = last.checked_add(1) else { break };
            first = next;
        }
    }
    // Some ports are nobody's.
    if cuts.len() > backends.len() && dice.percent(50) {
        cuts.remove(dice.below(cuts.len()));
    }
    backends.truncate(cuts.len());
    let owners = backends.len();
    if owners > 0 {
        for (n, cut) in cuts.into_iter().enumerate() {
            backends[n % owners].ports.push(cut);
        }
    }
}

fn decap(dice: &mut Dice) -> Decap {
    let mut vips: BTreeSet<IpAddr> = (LOCAL..LOCAL + 3).flat_map(|n| [vip(true, n), vip(false, n)]).collect();
    // One that is balanced here as well.
    if dice.percent(50) {
        vips.insert(vip(dice.percent(50), 1));
    }
    let kinds = dice.pick(&[(true, false), (false, true), (true, true), (true, true)]);
    let allow = [
        Prefix::of(Ipv4Addr::new(172, 16, 0, 0).into(), dice.within(8..=24) as u8),
        Prefix::of(Ipv4Addr::new(10, 9, 9, 9).into(), 32),
        Prefix::of(Ipv6Addr::new(0xfd00, 0x7864, 0x7000, 0, 0, 0, 0, 0).into(), dice.within(33..=64) as u8),
    ];
    Decap {
        ipip: kinds.0,
        gue: kinds.1,
        gue_port: dice.pick(&[6080, 6080, 99]),
        allow: allow[..dice.within(2..=3)].to_vec(),
        vips,
    }
}

/// The same services later: states, shares, ways and what may change while flows live.
pub fn later(dice: &mut Dice, file: &File, other_interface: Option<u32>) -> File {
    let mut file = file.clone();
    for service in &mut file.services {
        for backend in &mut service.backends {
            if dice.percent(30) {
                backend.state = dice.pick(&["active", "active", "drain", "down"]);
            }
            if dice.percent(15) {
                backend.share = dice.pick(&[0, 30, 100, 100]);
            }
            if dice.percent(8) {
                backend.weight = dice.pick(&[1, 100, 300]);
            }
        }
        if dice.percent(10) {
            service.encap.dscp = Some(dscp(dice));
        }
        if dice.percent(10) {
            service.encap.mtu = Some(mtu(dice));
        }
        if dice.percent(10) {
            service.drops_fragments ^= true;
        }
        if dice.percent(10) {
            service.new_flow_limit = dice.pick(&[0, 10, 100_000]);
        }
        if dice.percent(10) {
            service.sources = if dice.percent(30) { BTreeMap::new() } else { sources(dice) };
        }
        if dice.percent(10) {
            service.tracking =
                dice.pick(&[None, Some(Tracking::Exact), Some(Tracking::Sampled), Some(Tracking::Off)]);
        }
    }
    file.ways.clear();
    let backends: BTreeSet<IpAddr> =
        file.services.iter().flat_map(|s| s.backends.iter().map(|b| b.address)).collect();
    for backend in backends {
        if dice.percent(20) {
            let tags = dice.pick(&[
                Tags::Kept,
                Tags::Kept,
                Tags::Gone,
                Tags::One([0x81, 0, 0x0f, 0xfe]),
                Tags::One([0x88, 0xa8, 0, 7]),
            ]);
            let out = |mtu| Way::Out { ifindex: other_interface.unwrap_or(1), mtu, tags };
            let way = dice.pick(&[
                Way::Here,
                Way::Unknown,
                out(1400),
                out(9000),
                Way::Out { ifindex: 1, mtu: 1500, tags },
            ]);
            file.ways.insert(backend, way);
        }
    }
    file
}
