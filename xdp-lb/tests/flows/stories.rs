//! The cases that are known to be hard, one by one.

use std::net::IpAddr;

use xdp_lb::model::{AdminState, Protocol, Service, Share};
use xdp_lb_common::hash::{FlowHash, mix};
use xdp_lb_common::parse::Segment;
use xdp_lb_common::reason::FlowEvent;

use crate::common::wanted::{address, service};
use crate::lens::Broken;
use crate::model::Sim;

const WEB: u16 = 1;
const SIP: u16 = 2;

/// TCP without tracking and UDP with, five backends, a hundred clients each.
fn sim(broken: Broken) -> Sim {
    let mut sim =
        Sim::new(vec![service("web", Protocol::Tcp, 1..=5), service("sip", Protocol::Udp, 1..=5)], broken);
    for _ in 0..100 {
        sim.open(WEB);
        sim.open(SIP);
    }
    sim
}

fn everybody_talks(sim: &mut Sim) {
    (0..sim.conns.len()).for_each(|conn| sim.data(conn));
}

/// Everybody sends once a minute, and the agent scans as often.
fn minutes(sim: &mut Sim, minutes: u64) {
    for _ in 0..minutes {
        sim.pass(60);
        sim.survey();
        sim.run();
        everybody_talks(sim);
    }
}

fn at(sim: &Sim, n: u8, service: u16) -> Vec<usize> {
    let mine = |&c: &usize| sim.conns[c].at == Some(address(n)) && sim.conns[c].service == service;
    (0..sim.conns.len()).filter(mine).collect()
}

fn assert_nobody_moved(sim: &Sim) {
    let few = &sim.misdirected[..sim.misdirected.len().min(5)];
    assert!(sim.misdirected.is_empty(), "{} of {}: {few:#?}", sim.misdirected.len(), sim.packets);
}

/// A story and the mechanism without which it ends badly.
fn told(story: impl Fn(&mut Sim), without: &[Broken]) {
    let mut whole = sim(Broken::Nothing);
    story(&mut whole);
    assert_nobody_moved(&whole);
    for &broken in without {
        let mut sim = sim(broken);
        story(&mut sim);
        assert!(!sim.misdirected.is_empty(), "nobody noticed that {broken:?} does not work");
    }
}

#[test]
fn unchanged_slots_need_no_memory() {
    let mut sim = sim(Broken::Memory);
    let entries = |sim: &Sim| sim.agent.maps.flow_sets().filter(|(_, s)| s.entries != [0; 8]).count();
    minutes(&mut sim, 300);
    assert_nobody_moved(&sim);
    assert_eq!(entries(&sim), 0);
    // G1 in a change, too: whoever is not where the change happens needs none.
    sim.set(1, AdminState::Down);
    sim.run();
    everybody_talks(&mut sim);
    sim.misdirected.clear();
    minutes(&mut sim, 10);
    assert_nobody_moved(&sim);
}

#[test]
fn overlapping_changes() {
    told(
        |sim| {
            for n in 1..=4 {
                sim.set(n, AdminState::Drain);
                sim.run();
                for _ in 0..20 {
                    sim.open(WEB);
                    sim.open(SIP);
                }
                everybody_talks(sim);
            }
            minutes(sim, 10);
            for n in [2, 4, 1, 3] {
                sim.set(n, AdminState::Active);
                sim.run();
                minutes(sim, 2);
            }
            minutes(sim, 300);
        },
        &[Broken::Before, Broken::Memory, Broken::DirtyBit, Broken::Cleaning],
    );
}

#[test]
fn drain_and_undrain_while_another_is_down() {
    told(
        |sim| {
            sim.set(2, AdminState::Down);
            sim.run();
            everybody_talks(sim);
            sim.set(1, AdminState::Drain);
            sim.run();
            everybody_talks(sim);
            for _ in 0..30 {
                sim.open(WEB);
                sim.open(SIP);
            }
            minutes(sim, 5);
            sim.set(1, AdminState::Active);
            sim.run();
            minutes(sim, 5);
            sim.set(2, AdminState::Active);
            sim.run();
            minutes(sim, 300);
        },
        &[Broken::Before, Broken::Memory, Broken::DirtyBit],
    );
}

#[test]
fn a_connection_idle_through_a_change() {
    let story = |sim: &mut Sim| {
        sim.set(1, AdminState::Drain);
        sim.run();
        for _ in 0..70 {
            sim.pass(100);
            sim.survey();
        }
        for conn in 0..sim.conns.len() {
            if sim.conns[conn].service == WEB {
                sim.data(conn);
            }
        }
    };
    told(story, &[Broken::Before, Broken::DirtyBit, Broken::Cleaning]);
}

/// Segments a minute apart: TCP keep-alives.
#[test]
fn a_connection_that_only_keeps_alive() {
    let story = |sim: &mut Sim| {
        sim.set(1, AdminState::Drain);
        sim.run();
        for _ in 0..280 {
            sim.pass(60);
            sim.survey();
            sim.run();
            for conn in (0..sim.conns.len()).filter(|c| c % 2 == 0) {
                sim.packet(conn, Segment::Ack);
            }
        }
    };
    told(story, &[Broken::Before, Broken::Cleaning]);
}

/// Registrations and their pings: never two packets within ten seconds.
#[test]
fn a_flow_that_speaks_every_half_minute() {
    for ping in [15, 30, 120] {
        let mut sim = Sim::new(vec![service("sip", Protocol::Udp, 1..=5)], Broken::Nothing);
        for _ in 0..100 {
            let hash = FlowHash(mix(sim.random(u64::MAX)));
            let at = sim.send(hash, 1, Segment::Datagram);
            sim.conns.push(crate::model::Conn { hash, service: 1, at });
        }
        for _ in 0..3 {
            sim.pass(ping);
            everybody_talks(&mut sim);
            sim.survey();
        }
        for n in 1..=4 {
            sim.set(n, AdminState::Drain);
            sim.run();
            for _ in 0..3 {
                sim.pass(ping);
                everybody_talks(&mut sim);
                sim.survey();
            }
        }
        assert_nobody_moved(&sim);
    }
}

/// Who can guess a connection's addresses and ports, but is not on its way.
#[test]
fn spoofed_segments_neither_move_nor_free_a_remembered_flow() {
    let story = |sim: &mut Sim| {
        sim.set(1, AdminState::Drain);
        sim.run();
        for _ in 0..50 {
            sim.open(WEB);
        }
        everybody_talks(sim);
        // A second change: the flows of the first differ from `before` and from `now`.
        sim.set(2, AdminState::Drain);
        sim.run();
        for spoofed in [Segment::Syn, Segment::Closing, Segment::Syn, Segment::Ack, Segment::Closing] {
            for conn in 0..sim.conns.len() {
                let crate::model::Conn { hash, service, .. } = sim.conns[conn];
                if service == WEB {
                    sim.send(hash, service, spoofed);
                }
            }
            // Idle for as long as a closing connection is remembered, then life goes on.
            sim.pass(200);
            sim.survey();
            everybody_talks(sim);
        }
    };
    told(story, &[Broken::Closing, Broken::Reopening]);
}

#[test]
fn an_agent_killed_anywhere() {
    let story = |sim: &mut Sim| {
        for operations in 0..12 {
            sim.set(1, AdminState::Drain);
            sim.edit(2, |b| b.weight = 30 + 10 * operations);
            sim.run_part(operations.into());
            everybody_talks(sim);
            sim.open(WEB);
            sim.open(SIP);
            sim.run();
            everybody_talks(sim);
            sim.set(1, AdminState::Active);
            sim.run_part(operations.into());
            minutes(sim, 1);
        }
        minutes(sim, 200);
    };
    told(story, &[Broken::Before, Broken::Memory, Broken::DirtyBit]);
}

/// G3: only the dead one's flows move, and on its return none does.
#[test]
fn death_and_return() {
    told(
        |sim| {
            for n in [1, 2, 3] {
                sim.set(n, AdminState::Down);
                sim.run();
                everybody_talks(sim);
                for _ in 0..20 {
                    sim.open(WEB);
                    sim.open(SIP);
                }
                // Slow start: the gate opens by and by.
                for share in [0.1, 0.4, 0.7, 1.0] {
                    sim.set(n, AdminState::Active);
                    sim.edit(n, |b| b.share = Share::from_fraction(share));
                    sim.run();
                    minutes(sim, 1);
                }
            }
            minutes(sim, 200);
        },
        &[Broken::Memory, Broken::DirtyBit],
    );
}

/// The ring-local index of a backend that went away, while a flow that nobody swept names it.
#[test]
fn a_reused_index_attracts_nobody() {
    let story = |sim: &mut Sim| {
        let mine: Vec<IpAddr> = sim.conns.iter().filter_map(|c| c.at).collect();
        assert!(mine.contains(&address(1)));
        sim.set(2, AdminState::Drain);
        sim.run();
        everybody_talks(sim);
        sim.set(1, AdminState::Down);
        sim.run();
        sim.survey();
        sim.remove(1);
        sim.run();
        sim.run();
        // Another drain makes slots dirty, so that entries are asked.
        sim.set(3, AdminState::Drain);
        sim.add(9);
        sim.run();
        sim.run();
        let stale: Vec<_> = sim.conns.iter().filter(|c| c.at.is_none()).copied().collect();
        for conn in stale {
            let to = sim.send(conn.hash, conn.service, Segment::Data);
            if to == Some(address(9)) && sim.slot_of(&conn) != to {
                sim.misdirected.push(format!("an old entry sends {conn:?} to the newcomer"));
            }
        }
    };
    told(story, &[Broken::Quarantine]);
}

/// A SYN that cannot be remembered goes where its later segments will go.
#[test]
fn a_connection_that_nobody_remembers() {
    for limit in [0, 100_000] {
        let web = Service { new_flow_limit: limit, ..service("web", Protocol::Tcp, 1..=5) };
        let mut sim = Sim::new(vec![web], if limit == 0 { Broken::Nothing } else { Broken::Memory });
        sim.set(1, AdminState::Drain);
        sim.run();
        for _ in 0..200 {
            sim.open(1);
        }
        everybody_talks(&mut sim);
        if limit == 0 {
            assert_nobody_moved(&sim);
            assert!(sim.agent.maps.events(FlowEvent::OverLimit) > 0);
            assert!(!at(&sim, 1, 1).is_empty(), "to `before`, though it drains");
        } else {
            assert!(!sim.misdirected.is_empty(), "a store that lies");
        }
    }
}

/// A client uses its port again when the old connection's entry has expired and nobody has swept it yet, while another
/// way has become free that new flows take first.
#[test]
fn a_port_that_is_used_again() {
    let story = |sim: &mut Sim| {
        sim.set(1, AdminState::Drain);
        sim.run();
        let hashes: Vec<FlowHash> = (0..500).map(|n| FlowHash(mix(n))).collect();
        for &hash in &hashes {
            // A neighbour of the same set and order, which comes first and does not last.
            sim.send(FlowHash(hash.0 ^ 1), WEB, Segment::Syn);
            for segment in [Segment::Syn, Segment::Ack, Segment::Closing] {
                sim.send(hash, WEB, segment);
            }
        }
        sim.pass(30);
        sim.survey();
        sim.pass(240);
        for &hash in &hashes {
            let at = sim.send(hash, WEB, Segment::Syn);
            for segment in [Segment::Ack, Segment::Data, Segment::Ack] {
                let to = sim.send(hash, WEB, segment);
                if to != at {
                    sim.misdirected.push(format!("{segment:?} of {hash:?}: {at:?} -> {to:?}"));
                }
            }
        }
    };
    told(story, &[Broken::Memory]);
}
