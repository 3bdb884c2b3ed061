//! Random lives: hours of drains, deaths, returns, weights, canaries, comings and goings, an agent that is killed
//! half-way, and a thousand clients who must not notice. G1, G2 and G3 at once.

use xdp_lb::model::{AdminState, DrainPolicy, Protocol, Service, Share, Tracking};

use crate::common::wanted::service;
use crate::lens::Broken;
use crate::model::Sim;

const TCP: u16 = 1;
const EXACT: u16 = 2;
const OFF: u16 = 3;

fn sim(broken: Broken) -> Sim {
    let drain = DrainPolicy {
        max: std::time::Duration::from_secs(1_000_000),
        ..service("", Protocol::Tcp, []).drain
    };
    Sim::new(
        vec![
            Service { drain, ..service("web", Protocol::Tcp, 1..=6) },
            Service { drain, ..service("sip", Protocol::Udp, 1..=6) },
            Service { drain, tracking: Tracking::Off, ..service("rtp", Protocol::Udp, 1..=6) },
        ],
        broken,
    )
}

/// Something an operator, or fate, does.
fn event(sim: &mut Sim) {
    let n = 1 + sim.random(8) as u8;
    // Services that are equal share a ring until something happens to one of them.
    sim.only = match sim.random(6) {
        0 => Some(TCP),
        1 => Some(EXACT),
        2 => Some(OFF),
        _ => None,
    };
    match sim.random(10) {
        0..=1 => sim.set(n, AdminState::Drain),
        2 => sim.set(n, AdminState::Down),
        3..=5 => sim.set(n, AdminState::Active),
        6 => {
            let share = Share::from_fraction(sim.random(5) as f64 / 4.0);
            sim.edit(n, |b| b.share = share);
        }
        7 => {
            let weight = 50 + sim.random(100) as u16;
            sim.edit(n, |b| b.weight = weight);
        }
        8 if n > 4 => sim.remove(n),
        _ => sim.add(n),
    }
    sim.only = None;
    if sim.random(4) == 0 {
        let like = 1 + sim.random(3) as u16;
        sim.unify(like);
    }
    // Two stay: promises are about backends that are up.
    sim.set(3, AdminState::Active);
    sim.set(4, AdminState::Active);
}

/// `steps` times two seconds.
fn live(sim: &mut Sim, steps: u64) {
    for n in 0..600 {
        sim.open(if n < 300 { TCP } else { EXACT });
    }
    for _ in 0..60 {
        sim.open(OFF);
    }
    for step in 0..steps {
        sim.pass(2);
        let happens = sim.random(40) == 0;
        if happens {
            event(sim);
            if sim.random(4) == 0 {
                let part = sim.random(6) as usize;
                sim.run_part(part);
            }
        }
        // Windows end between events.
        if happens || step.is_multiple_of(3) {
            sim.run();
        }
        if step.is_multiple_of(15) {
            sim.survey();
        }
        // Media every two seconds; everybody else once a minute.
        for conn in 0..sim.conns.len() {
            let media = sim.conns[conn].service == OFF;
            if media || (conn as u64 + step).is_multiple_of(30) {
                sim.data(conn);
            }
        }
        let conn = sim.random(660) as usize;
        sim.data(conn);
    }
}

#[test]
fn nobody_is_moved() {
    let mut sim = sim(Broken::Nothing);
    live(&mut sim, 8000);
    assert!(
        sim.misdirected.is_empty(),
        "{} of {}: {:#?}",
        sim.misdirected.len(),
        sim.packets,
        &sim.misdirected[..sim.misdirected.len().min(9)]
    );
    assert_eq!(sim.lost, 0);
    let (_, parted, joined) = sim.rings;
    assert!(parted > 2 && joined > 0, "rings parted {parted} times and joined {joined} times");
    eprintln!("{} packets; rings parted {parted} times and joined {joined} times", sim.packets);
}

fn fails(broken: Broken) {
    let mut sim = sim(broken);
    live(&mut sim, 1000);
    assert!(!sim.misdirected.is_empty(), "nobody noticed that {broken:?} does not work");
}

#[test]
fn it_takes_before() {
    fails(Broken::Before);
}

#[test]
fn it_takes_memory() {
    fails(Broken::Memory);
}

#[test]
fn it_takes_the_dirty_bit() {
    fails(Broken::DirtyBit);
}

#[test]
fn it_takes_care_in_cleaning() {
    fails(Broken::Cleaning);
}

#[test]
fn it_takes_the_window() {
    fails(Broken::Window);
}
