//! G4: a flood neither evicts a live flow nor stops forwarding.

use xdp_lb::model::{AdminState, Protocol, Service};
use xdp_lb::state::Capacity;
use xdp_lb_common::hash::{FlowHash, mix};
use xdp_lb_common::parse::Segment;
use xdp_lb_common::reason::FlowEvent;
use xdp_lb_common::select::Tables;

use crate::common::wanted::service;
use crate::lens::Broken;
use crate::model::{CAPACITY, Conn, Sim};

const WEB: u16 = 1;
const SIP: u16 = 2;

fn small(flow_sets: u32, broken: Broken) -> Sim {
    let capacity = Capacity { flow_sets, ..CAPACITY };
    Sim::with(
        capacity,
        vec![service("web", Protocol::Tcp, 1..=5), service("sip", Protocol::Udp, 1..=5)],
        broken,
    )
}

/// Live flows on clean and dirty slots, then packets of flows that nobody has seen, from everywhere.
fn flood(sim: &mut Sim, packets: u64) {
    for _ in 0..40 {
        sim.open(SIP);
    }
    sim.set(1, AdminState::Drain);
    sim.run();
    for _ in 0..40 {
        sim.open(SIP);
        sim.open(WEB);
    }
    for n in 0..packets {
        let hash = FlowHash(mix(n ^ 0xf100d << 32));
        let (service, segment) = match n % 4 {
            0 => (WEB, Segment::Syn),
            1 => (WEB, Segment::Data),
            2 => (WEB, Segment::Closing),
            _ => (SIP, Segment::Datagram),
        };
        assert!(sim.send(hash, service, segment).is_some(), "dropped in a flood");
        if n % 2000 == 0 {
            sim.pass(1);
        }
        if n % 20_000 == 0 {
            (0..sim.conns.len()).for_each(|conn| sim.data(conn));
            sim.survey();
        }
        if n == packets / 2 {
            // A change in the middle of it.
            sim.set(2, AdminState::Drain);
            sim.run();
        }
    }
    (0..sim.conns.len()).for_each(|conn| sim.data(conn));
}

#[test]
fn a_flood_moves_nobody() {
    // 1024 entries for 120 live flows and half a million strangers.
    let mut sim = small(128, Broken::Nothing);
    flood(&mut sim, 500_000);
    assert!(sim.misdirected.is_empty(), "{:#?}", sim.misdirected);
    assert!(sim.agent.maps.events(FlowEvent::SetFull) > 10_000, "it was no flood");
    assert_eq!(sim.lost, 0);
}

#[test]
fn it_takes_the_choice_of_a_victim() {
    let mut sim = small(128, Broken::Victim);
    flood(&mut sim, 50_000);
    assert!(!sim.misdirected.is_empty());
}

/// Eight flows fit; the ninth is balanced all the same, and stays where `before` says.
#[test]
fn a_full_set() {
    let mut sim = small(1, Broken::Nothing);
    sim.set(1, AdminState::Drain);
    sim.run();
    for _ in 0..8 {
        sim.open(SIP);
    }
    let entries = |sim: &Sim| sim.agent.maps.flow_sets().next().unwrap().1.entries;
    let full = entries(&sim);
    assert!(full.iter().all(|&e| e != 0));
    for _ in 0..100 {
        sim.open(WEB);
    }
    (0..sim.conns.len()).for_each(|conn| sim.data(conn));
    assert!(sim.misdirected.is_empty(), "{:#?}", sim.misdirected);
    assert_eq!(entries(&sim), full, "nobody was pushed out");
    assert!(sim.agent.maps.events(FlowEvent::SetFull) > 30);
}

/// New flows remembered within one second: on clean slots, then on dirty ones.
fn remembered(broken: Broken) -> (u64, u64) {
    let sip = Service { new_flow_limit: 100, ..service("sip", Protocol::Udp, 1..=5) };
    let mut sim = Sim::new(vec![sip], broken);
    sim.set(1, AdminState::Drain);
    sim.run();
    let mut counts = [0; 2];
    for (dirty, count) in [false, true].into_iter().zip(&mut counts) {
        let before = sim.agent.maps.events(FlowEvent::Remembered);
        for n in 0..4000 {
            let conn = Conn { hash: FlowHash(mix(n)), service: 1, at: None };
            if sim.is_dirty(&conn) == dirty {
                assert!(sim.send(conn.hash, 1, Segment::Datagram).is_some());
            }
        }
        *count = sim.agent.maps.events(FlowEvent::Remembered) - before;
    }
    (counts[0], counts[1])
}

#[test]
fn the_limit_holds_and_a_quarter_is_kept_for_dirty_slots() {
    assert_eq!(remembered(Broken::Nothing), (75, 25));
    assert_eq!(remembered(Broken::Reserve).0, 100, "clean slots alone take what was kept");
}

#[test]
fn the_limit_is_one_of_a_second() {
    let mut sim = Sim::new(
        vec![Service { new_flow_limit: 100, ..service("sip", Protocol::Udp, 1..=5) }],
        Broken::Nothing,
    );
    for second in 1..=10 {
        for n in 0..1000u64 {
            let to = sim.send(FlowHash(mix(second << 32 | n)), 1, Segment::Datagram);
            assert!(to.is_some());
        }
        assert_eq!(sim.agent.maps.events(FlowEvent::Remembered), 75 * second);
        sim.pass(2);
    }
    assert!(sim.agent.cpu().tick() < 2048);
}
