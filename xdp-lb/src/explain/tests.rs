//! Explanations held against the packet path in memory, on tables in every state; and what they say.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use xdp_lb_common::{hash::mix, parse::Segment, reason::DropReason, reason::PassReason, select::Why};

use super::{Explanation, Facts, Outcome, Query, Rehearsal, explain};
use crate::{
    config,
    memory::{MemoryMaps, Packet, Sent},
    model::{AdminState, Desired, Protocol},
    nexthop::{NextHop, Resolution, UnresolvedReason},
    plan::{self, Census, Inputs},
    state::{Capacity, Maps as _, Observed},
    status::{MemberState, Path, Status, Word as _},
    template::from_map,
};
use xdp_lb_common::control::Control;

const FILE: &str = r#"
version: 1
interfaces: [{ name: eth0 }]
encap: { source_v4: 172.16.0.0/16, source_v6: "fd00:7864:7000::/64" }
maglev: { table_size: 251, seed: 7 }
vips: [{ address: 203.0.113.11, unmatched: pass }]
services:
  - { name: web, vip: [203.0.113.10, "2001:db8::10"], protocol: tcp, ports: [80, 443],
      backends: [{ address: 10.0.0.1 }, { address: 10.0.0.2 }, { address: 10.0.0.3 }] }
  - { name: turn, vip: [203.0.113.10, "2001:db8::10"], protocol: udp, ports: "20000-20999", tracking: exact,
      backends: [{ address: "fd00::1" }, { address: "fd00::2" }] }
  - { name: sip, vip: 203.0.113.11, protocol: udp, ports: all, affinity: client-ip, tracking: off,
      backends: [{ address: 10.0.0.1 }, { address: 10.0.0.9 }] }
  - { name: none, vip: 203.0.113.10, protocol: udp, ports: 9, backends: [] }
decap: { accept: [ipip], allow_sources: [172.16.0.0/16], vips: [203.0.113.12] }
"#;

fn desired() -> Desired {
    config::parse(FILE).unwrap_or_else(|e| panic!("{e:?}")).desired
}

fn capacity() -> Capacity {
    Capacity {
        services: 64,
        vip_slots: 64,
        port_pages: 64,
        backends: 256,
        ring_slots: 4096,
        flow_sets: 64,
        backend_stats: 256,
        tx_ports: 16,
        server_ids: 64,
        source_ranges: 256,
    }
}

fn control() -> Control {
    Control {
        seed: 7,
        vip_mask: 63,
        flow_set_mask: 63,
        tick_shift: 10,
        second_shift: 8,
        hz: 250,
        ..Control::default()
    }
}

fn resolve(address: IpAddr) -> Resolution {
    match address {
        // One backend is this node, one waits for its neighbour.
        IpAddr::V4(a) if a.octets()[3] == 3 => Resolution::Local,
        IpAddr::V4(a) if a.octets()[3] == 9 => Resolution::Unresolved(UnresolvedReason::NoRoute),
        _ => Resolution::Resolved(NextHop {
            ifindex: 2,
            interface: "eth0".into(),
            source_mac: [2, 0, 0, 0, 0, 1],
            destination_mac: [2, 0, 0, 0, 0, 2],
            mtu: 65_535,
            below: None,
            path_mtu: None,
        }),
    }
}

fn reconcile(maps: &mut MemoryMaps, desired: &Desired, now: u64) {
    let observed = maps.observe();
    let inputs = Inputs {
        desired,
        observed: &observed,
        resolve: &resolve,
        census: &Census::default(),
        windows: &BTreeMap::new(),
        memo: &plan::Memo::default(),
        now,
        allow_moves: false,
        generation: 1,
        only: None,
    };
    plan::plan(&inputs).unwrap().ops.iter().for_each(|op| maps.apply(op).unwrap());
}

fn facts() -> Facts {
    Facts {
        interfaces: BTreeMap::from([(2, "eth0".into())]),
        unresolved: BTreeMap::from([(IpAddr::from([10, 0, 0, 9]), UnresolvedReason::NoRoute)]),
    }
}

fn query(protocol: Protocol, source: &str, destination: &str) -> Query {
    let address = |text: &str| text.parse::<SocketAddr>().unwrap();
    Query::new(protocol, address(source), address(destination)).unwrap()
}

/// A packet to one of the services, or nearly.
fn random(n: u64) -> Query {
    let word = mix(n);
    let client = 1 + (word >> 8) % 64;
    let port = 1024 + (word >> 32) as u16 % 64;
    let (protocol, destination) = [
        (Protocol::Tcp, "203.0.113.10:80"),
        (Protocol::Tcp, "[2001:db8::10]:443"),
        (Protocol::Udp, "203.0.113.10:20000"),
        (Protocol::Udp, "[2001:db8::10]:20999"),
        (Protocol::Udp, "203.0.113.11:5060"),
        (Protocol::Udp, "203.0.113.10:9"),
        (Protocol::Tcp, "203.0.113.10:81"),
        (Protocol::Tcp, "203.0.113.99:80"),
    ][(word & 7) as usize];
    let source = if destination.starts_with('[') {
        format!("[2001:db8:c::{client:x}]:{port}")
    } else {
        format!("198.51.100.{client}:{port}")
    };
    let segments = [Segment::Syn, Segment::Data, Segment::Ack, Segment::Closing];
    query(protocol, &source, destination).with_segment(segments[(word >> 48) as usize & 3])
}

fn packet(query: &Query) -> Packet {
    Packet {
        source: (query.source.ip(), query.source.port()),
        destination: (query.destination.ip(), query.destination.port()),
        protocol: query.protocol_number(),
        segment: query.segment,
        named: query.named,
    }
}

/// What the packet path did is what was explained.
fn agree(e: &Explanation, sent: Sent, observed: &Observed) {
    match sent {
        Sent::NotAVip => assert_eq!(e.outcome, Outcome::Pass(PassReason::NotAVip), "{e:?}"),
        Sent::NoService => assert!(
            matches!(e.outcome, Outcome::Drop(DropReason::NoService) | Outcome::Pass(PassReason::Unmatched)),
            "{e:?}"
        ),
        Sent::EmptyService { .. } => assert_eq!(e.outcome, Outcome::Drop(DropReason::EmptyService), "{e:?}"),
        Sent::To { service, choice, .. } => {
            let member = &observed.ring(service).unwrap().members[&choice.backend];
            assert_eq!(e.backend, Some(from_map(member.address)), "{e:?}");
            assert_eq!(e.service.as_ref().map(|s| s.id), Some(service));
            assert_eq!(
                e.choice.as_ref().map(|c| (c.local, c.why)),
                Some((choice.backend, choice.why)),
                "{e:?}"
            );
        }
        Sent::Dropped(reason) => assert_eq!(e.outcome, Outcome::Drop(reason), "{e:?}"),
        Sent::Inconsistent => panic!("{e:?}"),
    }
}

#[test]
fn explanations_are_what_the_packet_path_does_whatever_happened_before() {
    let mut desired = desired();
    let mut maps = MemoryMaps::new(capacity(), control());
    reconcile(&mut maps, &desired, 0);
    let mut whys = BTreeMap::new();
    for round in 0..6u64 {
        let observed = maps.observe();
        for n in 0..4000 {
            let cpu = maps.cpu(round * 3000 + n / 4);
            let query = random(round * 1500 + n);
            let before: Vec<_> = maps.flow_sets().collect();
            let e = explain(&cpu, &observed, &facts(), &query);
            if n % 64 == 0 {
                assert_eq!(before, maps.flow_sets().collect::<Vec<_>>(), "an explanation is no packet");
            }
            agree(&e, cpu.send(&packet(&query)), &observed);
            *whys.entry(e.choice.map(|c| c.why.word())).or_insert(0) += 1;
        }
        // Drain, kill and bring back, in the services in turn.
        let states = [AdminState::Drain, AdminState::Down, AdminState::Active];
        desired.services[round as usize % 3].backends[0].state = states[round as usize / 2];
        reconcile(&mut maps, &desired, round * 10);
    }
    for why in [Why::Slot, Why::Remembered, Why::Before, Why::Now] {
        assert!(whys.get(&Some(why.word())).is_some_and(|&n| n > 20), "{why:?} hardly seen: {whys:?}");
    }
}

fn filled() -> (MemoryMaps, Observed) {
    let mut maps = MemoryMaps::new(capacity(), control());
    reconcile(&mut maps, &desired(), 0);
    let observed = maps.observe();
    (maps, observed)
}

#[test]
fn every_way_out_has_its_reason() {
    let (maps, observed) = filled();
    let ask = |q: &Query| explain(&maps.cpu(0), &observed, &facts(), q);
    let rows = [
        (query(Protocol::Tcp, "198.51.100.7:1", "192.0.2.1:80"), Outcome::Pass(PassReason::NotAVip)),
        // RFC 4942 section 2.2: on the wire a mapped address is not the IPv4 address.
        (
            query(Protocol::Tcp, "[2001:db8::7]:1", "[::ffff:203.0.113.10]:80"),
            Outcome::Pass(PassReason::NotAVip),
        ),
        (query(Protocol::Tcp, "198.51.100.7:1", "203.0.113.12:80"), Outcome::Pass(PassReason::DecapVip)),
        (query(Protocol::Tcp, "198.51.100.7:1", "203.0.113.11:80"), Outcome::Pass(PassReason::Unmatched)),
        (query(Protocol::Tcp, "198.51.100.7:1", "203.0.113.10:81"), Outcome::Drop(DropReason::NoService)),
        (query(Protocol::Udp, "198.51.100.7:1", "203.0.113.10:9"), Outcome::Drop(DropReason::EmptyService)),
    ];
    for (query, outcome) in rows {
        let e = ask(&query);
        assert_eq!((e.outcome, e.backend), (outcome, None), "{query:?}");
        assert!(outcome.reason().is_some() && outcome.sentence().ends_with('.'), "{outcome:?}");
    }
    let flows = || (1024..1200).map(|port| format!("198.51.100.{}:{port}", port % 200));
    let to = |protocol, destination: &str, backend: [u8; 4]| {
        let all = flows().map(|source| ask(&query(protocol, &source, destination)));
        all.into_iter().find(|e| e.backend == Some(backend.into())).unwrap()
    };
    let local = to(Protocol::Tcp, "203.0.113.10:80", [10, 0, 0, 3]);
    assert_eq!((local.outcome, local.path), (Outcome::Pass(PassReason::LocalBackend), Some(Path::Local)));
    let unresolved = to(Protocol::Udp, "203.0.113.11:7", [10, 0, 0, 9]);
    assert_eq!(unresolved.outcome, Outcome::Drop(DropReason::NextHopUnresolved));
    assert!(unresolved.unresolved.unwrap().contains("no route"));
    let sent = to(Protocol::Tcp, "203.0.113.10:80", [10, 0, 0, 1]);
    assert_eq!(sent.outcome, Outcome::Forward);
    let path =
        Path::Tunnel { interface: Some("eth0".into()), ifindex: 2, next_hop: [2, 0, 0, 0, 0, 2], vlan: None };
    assert_eq!(sent.path, Some(path));
    let oversize =
        Query { len: u16::MAX, ..query(Protocol::Tcp, &sent.source.to_string(), "203.0.113.10:80") };
    assert_eq!(ask(&oversize).outcome, Outcome::Pass(PassReason::TooBigAnswered));
}

#[test]
fn the_tunnel_is_the_header_on_the_wire() {
    let (maps, observed) = filled();
    let ask = |q: &Query| explain(&maps.cpu(0), &observed, &facts(), q).tunnel;
    let v4 = (1..99)
        .find_map(|n| ask(&query(Protocol::Tcp, &format!("198.51.100.7:{n}"), "203.0.113.10:80")))
        .unwrap();
    assert_eq!((v4.kind, v4.header.len(), v4.flow_label), ("ipip", 34, None));
    assert!(v4.source.to_string().starts_with("172.16."), "{v4:?}");
    assert_eq!(v4.destination.to_string().as_bytes()[..7], *b"10.0.0.");
    assert_eq!(xdp_lb_common::checksum::fold(xdp_lb_common::checksum::sum(&v4.header[14..])), 0xffff);
    let v6 = ask(&query(Protocol::Udp, "[2001:db8::7]:9", "[2001:db8::10]:20001")).unwrap();
    assert_eq!(v6.header.len(), 54);
    assert!(v6.source.to_string().starts_with("fd00:7864:7000:0:"), "{v6:?}");
    assert!(v6.destination.to_string().starts_with("fd00::"), "{v6:?}");
    assert!(v6.flow_label.is_some_and(|label| label < 1 << 20), "{v6:?}");
}

#[test]
fn a_rehearsal_is_the_balancer_that_starts_with_the_file() {
    let (maps, observed) = filled();
    let rehearsal = Rehearsal::new(&desired(), capacity(), control()).unwrap();
    for n in 0..500 {
        let query = random(n);
        let (a, b) = (rehearsal.explain(&query), explain(&maps.cpu(0), &observed, &facts(), &query));
        assert_eq!((a.backend, a.hash, &a.slot, &a.choice), (b.backend, b.hash, &b.slot, &b.choice));
        assert_eq!(a.flow.map(|f| f.set), b.flow.map(|f| f.set));
        if a.outcome == Outcome::Forward {
            assert_eq!(a.path, Some(Path::NotLookedUp));
        }
    }
    let full = Rehearsal::new(&desired(), Capacity { ring_slots: 500, ..capacity() }, control());
    assert!(full.unwrap_err().to_string().contains("limits.ring_slots"));
}

#[test]
fn a_dirty_slot_and_a_remembered_flow_are_shown() {
    let mut desired = desired();
    let mut maps = MemoryMaps::new(capacity(), control());
    reconcile(&mut maps, &desired, 0);
    let flow = query(Protocol::Udp, "198.51.100.7:9", "203.0.113.10:20001");
    let observed = maps.observe();
    let first = explain(&maps.cpu(0), &observed, &facts(), &flow).backend;
    let _ = maps.cpu(0).send(&packet(&flow));
    let _ = maps.cpu(0).send(&packet(&flow));
    let turn = desired.services.iter_mut().find(|s| s.name == "turn").unwrap();
    turn.backends.iter_mut().find(|b| Some(b.address) == first).unwrap().state = AdminState::Drain;
    reconcile(&mut maps, &desired, 5);
    let e = explain(&maps.cpu(0), &maps.observe(), &facts(), &flow);
    assert_eq!(e.backend, first, "a draining backend keeps its flows");
    let (slot, entry, choice) = (e.slot.unwrap(), e.flow.unwrap().entry.unwrap(), e.choice.unwrap());
    assert!(slot.dirty && slot.now != first, "{slot:?}");
    assert_eq!(slot.before.map(|b| (b.address, b.alive)), Some((first, true)));
    assert_eq!((entry.backend, entry.closing), (first, false));
    assert!((290..=310).contains(&entry.expires_in), "flow_timeout is 5m: {entry:?}");
    assert_eq!((choice.why, choice.state, choice.since), (Why::Remembered, MemberState::Draining, 5));
    let status = Status::new(&maps.observe(), &Default::default());
    let turn = status.services.iter().find(|s| s.name == "turn").unwrap();
    assert!(turn.dirty_slots > 100, "{turn:?}");
}

#[test]
fn addresses_of_two_families_are_no_packet() {
    let mixed = Query::new(Protocol::Udp, "1.2.3.4:5".parse().unwrap(), "[::1]:6".parse().unwrap());
    assert_eq!(mixed, None);
}

#[test]
fn a_pod_of_this_node_gets_it_without_a_tunnel() {
    let text = "version: 1\ninterfaces: [{ name: eth0 }]\nencap: { source_v4: 172.16.0.0/16 }\nmaglev: { table_size: 251 }\nservices:\n  \
                - { name: web, vip: 203.0.113.10, protocol: tcp, ports: [80, 81], backends: [{ address: 10.244.1.1 }] }\n\
                decap:\n  allow_sources: [172.16.0.0/16]\n  \
                translate: [{ vip: 203.0.113.10, protocol: tcp, port: 80, target_port: 8080, pods: 10.244.1.1 }]\n";
    let desired = config::parse(text).unwrap_or_else(|e| panic!("{e:#?}")).desired;
    let rehearsal = Rehearsal::new(&desired, capacity(), control()).unwrap();
    let ask = |to: &str| rehearsal.explain(&query(Protocol::Tcp, "198.51.100.7:1", to));
    let there = ask("203.0.113.10:80");
    assert_eq!((there.outcome, there.path), (Outcome::Pass(PassReason::LocalBackend), Some(Path::Pod)));
    assert_eq!(ask("203.0.113.10:81").outcome, Outcome::Drop(DropReason::PodPort), "it leads nowhere");
}
