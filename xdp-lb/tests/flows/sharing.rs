//! Services on one ring: what happens to one is nothing to the other, and what happens to the ring is kept from both.

use xdp_lb::model::{AdminState, Protocol};
use xdp_lb::state::Maps;

use crate::common::wanted::service;
use crate::lens::Broken;
use crate::model::Sim;

const WEB: u16 = 1;
const API: u16 = 2;
const SIP: u16 = 3;
const ALL: [u16; 3] = [WEB, API, SIP];

fn sim(broken: Broken) -> Sim {
    let services = [("web", Protocol::Tcp), ("api", Protocol::Tcp), ("sip", Protocol::Udp)];
    let mut sim = Sim::new(services.map(|(name, p)| service(name, p, 1..=5)).to_vec(), broken);
    assert_eq!(rings(&sim), 1);
    for _ in 0..80 {
        for id in ALL {
            sim.open(id);
        }
    }
    sim
}

fn rings(sim: &Sim) -> usize {
    sim.agent.maps.observe().rings.len()
}

fn everybody_talks(sim: &mut Sim) {
    (0..sim.conns.len()).for_each(|conn| sim.data(conn));
}

fn minutes(sim: &mut Sim, minutes: u64) {
    for _ in 0..minutes {
        sim.pass(60);
        sim.survey();
        sim.run();
        everybody_talks(sim);
    }
}

fn told(story: impl Fn(&mut Sim), without: &[Broken]) {
    let mut whole = sim(Broken::Nothing);
    story(&mut whole);
    assert!(whole.misdirected.is_empty(), "{:#?}", &whole.misdirected[..whole.misdirected.len().min(5)]);
    assert_eq!(whole.lost, 0);
    for &broken in without {
        let mut sim = sim(broken);
        story(&mut sim);
        assert!(!sim.misdirected.is_empty(), "nobody noticed that {broken:?} does not work");
    }
}

/// G1: the neighbours' flows need no memory at all while one of them parts, changes and joins again.
#[test]
fn a_change_of_one_moves_no_flow_of_another() {
    for changed in ALL {
        let mut sim = sim(Broken::Memory);
        let others = |sim: &mut Sim| {
            for conn in (0..sim.conns.len()).filter(|&c| sim.conns[c].service != changed).collect::<Vec<_>>()
            {
                sim.data(conn);
            }
        };
        sim.only = Some(changed);
        for n in 1..=4 {
            for state in [AdminState::Drain, AdminState::Down, AdminState::Active] {
                sim.set(n, state);
                for operations in 0..8 {
                    sim.run_part(operations);
                    others(&mut sim);
                }
                sim.run();
                others(&mut sim);
            }
        }
        sim.remove(5);
        sim.add(7);
        sim.run();
        others(&mut sim);
        assert!(rings(&sim) > 1);
        assert!(sim.misdirected.is_empty(), "{changed}: {:#?}", &sim.misdirected[..3]);
    }
}

/// G2, and the flows of those who part, too.
#[test]
fn a_drain_on_a_shared_ring_keeps_the_flows_of_all() {
    told(
        |sim| {
            sim.set(4, AdminState::Drain);
            sim.run();
            assert_eq!(rings(sim), 1);
            minutes(sim, 5);
            for n in [2, 3] {
                for id in ALL {
                    sim.only = Some(id);
                    sim.set(n, AdminState::Drain);
                    sim.run();
                    for _ in 0..10 {
                        sim.open(id);
                    }
                    minutes(sim, 2);
                }
            }
            for n in [3, 4, 2] {
                for id in ALL {
                    sim.only = Some(id);
                    sim.set(n, AdminState::Active);
                    sim.run();
                    minutes(sim, 2);
                }
            }
            minutes(sim, 200);
            // Who is remembered elsewhere keeps a slot dirty, and rings apart, as long as it lives.
            let before = rings(sim);
            sim.conns.clear();
            minutes(sim, 200);
            assert!(sim.broken != Broken::Nothing || (before, rings(sim)) == (3, 1), "{before} rings");
        },
        &[Broken::Before, Broken::Memory, Broken::DirtyBit, Broken::Cleaning],
    );
}

/// G3: a death that services learn of one after the other.
#[test]
fn a_death_by_and_by() {
    told(
        |sim| {
            for n in [1, 2] {
                for state in [AdminState::Down, AdminState::Active] {
                    for id in ALL {
                        sim.only = Some(id);
                        sim.set(n, state);
                        sim.run();
                        for _ in 0..10 {
                            sim.open(id);
                        }
                        everybody_talks(sim);
                        sim.run();
                        everybody_talks(sim);
                    }
                    minutes(sim, 3);
                }
            }
            minutes(sim, 200);
        },
        &[Broken::Memory, Broken::DirtyBit],
    );
}

/// The agent dies anywhere while services part, change, come back and join.
#[test]
fn an_agent_killed_while_services_part_and_join() {
    told(
        |sim| {
            for operations in 0..20 {
                for id in [API, SIP] {
                    sim.only = Some(id);
                    sim.set(1, AdminState::Drain);
                    sim.edit(2, |b| b.weight = 40 + 5 * operations);
                    sim.run_part(operations.into());
                    everybody_talks(sim);
                    for id in ALL {
                        sim.open(id);
                    }
                    sim.run();
                    everybody_talks(sim);
                }
                sim.only = None;
                sim.unify(WEB);
                sim.run_part(operations.into());
                everybody_talks(sim);
                sim.run();
                minutes(sim, 1);
                sim.run_part(operations.into());
                minutes(sim, if operations % 5 == 4 { 150 } else { 1 });
            }
        },
        &[Broken::Memory, Broken::DirtyBit],
    );
}
