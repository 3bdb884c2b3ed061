//! Desired states in few words. What a test does not name is what the configuration would default to.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use xdp_lb::health::OnAllDown;
use xdp_lb::model::{
    Admin, AdminState, Affinity, Backend, CidFormat, Desired, DrainMode, DrainPolicy, Dscp, Encap, EncapKind,
    FlowTable, Fragments, Inherited, Limits, Log, Metrics, Mtu, Node, Ports, Protocol, Removal, Service,
    Share, SourceRanges, TableSize, Tracking, Unmatched, Vip,
};

/// Backend number `n`: every third over IPv6.
pub fn address(n: u8) -> IpAddr {
    if n % 3 == 2 {
        Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, n.into()).into()
    } else {
        IpAddr::from([10, 1, 2, n])
    }
}

/// VIP number `n`: every other over IPv6.
pub fn vip(n: u8) -> IpAddr {
    if n % 2 == 1 {
        Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, n.into()).into()
    } else {
        IpAddr::from([203, 0, 113, n])
    }
}

pub fn backend(n: u8) -> Backend {
    Backend {
        address: address(n),
        weight: 100,
        zone: None,
        state: AdminState::Active,
        share: Share::FULL,
        slice: Vec::new(),
        server_id: None,
        backup: false,
    }
}

/// A service on VIP 0, port 443, with the backends `backends`.
pub fn service(name: &str, protocol: Protocol, backends: impl IntoIterator<Item = u8>) -> Service {
    let mut backends: Vec<Backend> = backends.into_iter().map(backend).collect();
    backends.sort_by_key(|b| b.address);
    let udp = protocol == Protocol::Udp;
    Service {
        name: name.to_owned(),
        vips: vec![vip(0)],
        protocol,
        ports: Ports::Ranges(vec![443..=443]),
        affinity: Affinity::FiveTuple,
        cid: CidFormat::default(),
        source_ranges: SourceRanges::default(),
        fragments: Fragments::Forward,
        tracking: if udp { Tracking::Exact } else { Tracking::Off },
        flow_timeout: Duration::from_secs(if udp { 300 } else { 7500 }),
        new_flow_limit: 100_000,
        table_size: TableSize::new(31).unwrap(),
        drain: DrainPolicy { mode: DrainMode::Stick, max: Duration::from_secs(5 * 3600) },
        removal: Removal::Drain,
        slow_start: Duration::ZERO,
        health: None,
        on_all_down: OnAllDown::Keep,
        zone_policy: None,
        encap: encap(),
        backends: backends.into(),
    }
}

fn encap() -> Encap {
    Encap {
        kind: EncapKind::Ipip,
        source_v4: Some(([172, 16, 0, 0], 16)),
        source_v6: Some((Ipv6Addr::new(0xfd00, 0x7864, 0x7000, 0, 0, 0, 0, 0).octets(), 64)),
        dscp: Dscp::Copy,
        mtu: Mtu::Auto,
    }
}

pub fn desired(services: Vec<Service>) -> Desired {
    let vips: BTreeSet<IpAddr> = services.iter().flat_map(|s| &s.vips).copied().collect();
    Desired {
        node: Node::default(),
        interfaces: Vec::new(),
        seed: 7,
        flow_table: FlowTable { entries: 1024, track_window: Duration::from_secs(5) },
        limits: Limits::default(),
        metrics: Metrics::default(),
        peers: None,
        log: Log::default(),
        admin: Admin::default(),
        vips: vips.into_iter().map(|address| Vip { address, unmatched: Unmatched::Drop }).collect(),
        services,
        decap: None,
        bgp: None,
        kubernetes: None,
        inherited: Inherited {
            encap: encap(),
            table_size: TableSize::DEFAULT,
            zone: None,
            policies: BTreeMap::new(),
        },
    }
}
