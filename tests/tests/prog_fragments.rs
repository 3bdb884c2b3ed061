//! Fragments in the kernel where rows alone do not get: entries that grow old, backends that die, many backends.

use aya::maps::{Array, Map, MapData};
use xdp_lb_common::flow::FlowSet;
use xdp_lb_common::names;
use xdp_lb_common::reason::DropReason::{FragmentLate, FragmentOrphan};
use xdp_lb_tests::packet::{Frame, Ipv4, eth};
use xdp_lb_tests::prog::{
    Agent, Counted, Ctx, Pinned, Subject as _, XdpAction, assert_counted, available, desired, run,
};

const VIP: &str = "203.0.113.10";

/// Two backends, one of them in another state, behind a five-tuple and behind two client-ip services.
fn file(eleven: &str, twelve: &str) -> String {
    let backends = format!("[{{ address: 10.1.2.11{eleven} }}, {{ address: 10.1.2.12{twelve} }}]");
    format!(
        r#"
version: 1
interfaces: [{{ name: lo, mode: generic, next_hop: {{ mac: "00:00:5e:00:01:01" }} }}]
encap: {{ source_v4: 172.16.0.1/32 }}
maglev: {{ table_size: 251, seed: 20240229 }}
flow_table: {{ entries: 16384 }}
limits: {{ services: 64, vips: 64, backends: 256, ring_slots: 8192, port_pages: 512, backend_stats: 64, fragments: 1024 }}
services:
  - {{ name: sip, vip: {VIP}, protocol: udp, ports: 5060, tracking: off, backends: {backends} }}
  - {{ name: calls, vip: 203.0.113.20, protocol: udp, ports: 5060, affinity: client-ip, tracking: off, backends: {backends} }}
  - {{ name: media, vip: 203.0.113.20, protocol: udp, ports: "20000-24999", affinity: client-ip, tracking: off, backends: {backends} }}
"#
    )
}

fn from(client: u16, vip: &str) -> Frame<Ipv4> {
    let source = std::net::Ipv4Addr::new(198, 51, (client >> 8) as u8, client as u8);
    eth("00:00:00:00:00:00", "00:00:5e:00:01:01").ipv4(source, vip.parse::<std::net::Ipv4Addr>().unwrap())
}

fn first(client: u16, vip: &str, port: u16) -> Vec<u8> {
    from(client, vip).id(client).fragment(0, true).udp(40000, port).length(3000).payload(&[0x42; 64]).build()
}

fn later(client: u16, vip: &str) -> Vec<u8> {
    from(client, vip).id(client).fragment(1480, false).protocol(17).payload(&[0x42; 64]).build()
}

fn load() -> (Pinned, Agent) {
    let text = file("", "");
    let pinned = Pinned::load(&text).unwrap_or_else(|e| panic!("{e:#}"));
    let agent = Agent::start(&pinned, &desired(&text).unwrap()).unwrap();
    (pinned, agent)
}

/// Last byte of the outer destination.
fn sent(pinned: &Pinned, frame: &[u8]) -> u8 {
    let outcome = run(pinned.program(), frame, &Ctx::default()).unwrap();
    assert_eq!(outcome.verdict, XdpAction::Tx);
    assert_eq!(outcome.packet[30..33], [10, 1, 2]);
    outcome.packet[33]
}

fn dropped(pinned: &Pinned, frame: &[u8], reason: xdp_lb_common::reason::DropReason) {
    let before = pinned.tally();
    let outcome = run(pinned.program(), frame, &Ctx::default()).unwrap();
    assert_eq!(outcome.verdict, XdpAction::Drop);
    assert_counted(before, pinned.tally(), &[Counted::Drop(reason)]);
}

/// Makes every entry so many seconds older.
fn age(pinned: &Pinned, seconds: u8) {
    let map = MapData::from_pin(pinned.root().map(names::FRAGMENTS)).unwrap();
    let mut sets: Array<_, FlowSet> = Map::Array(map).try_into().unwrap();
    let mut aged = 0;
    for index in 0..sets.len() {
        let mut set = sets.get(&index, 0).unwrap();
        for entry in set.entries.iter_mut().filter(|entry| **entry != 0) {
            *entry = entry.wrapping_sub(u64::from(seconds) << 56);
            aged += 1;
        }
        sets.set(index, set, 0).unwrap();
    }
    assert!(aged > 0, "nothing was remembered");
}

#[test]
fn an_entry_counts_for_half_a_minute() {
    let Ok(()) = available() else { return };
    let (pinned, _agent) = load();
    let backend = sent(&pinned, &first(1, VIP, 5060));
    age(&pinned, 20);
    assert_eq!(sent(&pinned, &later(1, VIP)), backend);
    age(&pinned, 20);
    dropped(&pinned, &later(1, VIP), FragmentLate);
    assert_eq!(sent(&pinned, &first(1, VIP, 5060)), backend, "the same datagram once more");
    assert_eq!(sent(&pinned, &later(1, VIP)), backend);
}

#[test]
fn all_of_a_datagram_go_where_its_ports_lead() {
    let Ok(()) = available() else { return };
    let (pinned, _agent) = load();
    let mut seen = [0; 2];
    for client in 0..200 {
        let whole = from(client, VIP).udp(40000, 5060).payload(b"x").build();
        let backend = sent(&pinned, &whole);
        seen[usize::from(backend - 11)] += 1;
        assert_eq!(sent(&pinned, &first(client, VIP, 5060)), backend, "client {client}");
    }
    for client in 0..200 {
        let whole = from(client, VIP).udp(40000, 5060).payload(b"x").build();
        assert_eq!(sent(&pinned, &later(client, VIP)), sent(&pinned, &whole), "client {client}");
    }
    assert!(seen.iter().all(|n| *n > 50), "{seen:?}");
}

#[test]
fn a_later_one_of_a_dead_backend_goes_nowhere() {
    let Ok(()) = available() else { return };
    let (pinned, mut agent) = load();
    let backend = sent(&pinned, &first(1, VIP, 5060));
    let down = ", state: down";
    let without = if backend == 11 { file(down, "") } else { file("", down) };
    agent.settle(&desired(&without).unwrap()).unwrap();
    dropped(&pinned, &later(1, VIP), FragmentOrphan);
    assert_ne!(sent(&pinned, &first(1, VIP, 5060)), backend);
    assert_ne!(sent(&pinned, &later(1, VIP)), backend);
}

/// By client address: a fragment alone goes where the client's whole packets go, also while slots change.
#[test]
fn by_client_any_fragment_goes_where_the_client_belongs() {
    let Ok(()) = available() else { return };
    let (pinned, mut agent) = load();
    let vip = "203.0.113.20";
    for text in [file("", ""), file(", state: drain", ""), file("", ""), file("", ", state: down")] {
        agent.settle(&desired(&text).unwrap()).unwrap();
        for client in 0..100 {
            let backend = sent(&pinned, &later(client, vip));
            for port in [5060, 20000, 24999] {
                let whole = from(client, vip).udp(40000, port).payload(b"x").build();
                assert_eq!(sent(&pinned, &whole), backend, "client {client}, port {port}");
                assert_eq!(sent(&pinned, &first(client, vip, port)), backend, "client {client}, port {port}");
            }
        }
    }
}
