//! Health that differs between services of one ring, and no room for a copy.

use xdp_lb::aside::{Parting, partings, without};
use xdp_lb::model::{AdminState, Desired, Protocol, Service};
use xdp_lb::plan::PlanError;
use xdp_lb::state::{Capacity, Maps};

use crate::common::agent::Agent;
use crate::common::wanted::{address, desired, service, vip};
use crate::crash::CAPACITY;

/// Four services with the same backends, and one with others.
fn file() -> Desired {
    let named = |n: u8, backends| Service {
        vips: vec![vip(n)],
        ..service(&format!("s{n}"), Protocol::Tcp, backends)
    };
    let mut all: Vec<Service> = (0..4).map(|n| named(n, 1..=4)).collect();
    all.push(named(4, 5..=6));
    desired(all)
}

fn set(desired: &mut Desired, service: usize, n: u8, state: AdminState) {
    let backends = &mut desired.services[service].backends;
    backends.iter_mut().find(|b| b.address == address(n)).unwrap().state = state;
}

#[test]
fn the_smallest_lots_are_left_aside_first() {
    let file = file();
    let mut judged = file.clone();
    set(&mut judged, 1, 1, AdminState::Down);
    assert_eq!(partings(&file.services, &judged.services), [Parting { services: vec![1], like: 0 }]);
    set(&mut judged, 2, 1, AdminState::Down);
    set(&mut judged, 0, 2, AdminState::Down);
    set(&mut judged, 4, 5, AdminState::Down);
    let all = partings(&file.services, &judged.services);
    let expected = [Parting { services: vec![0], like: 1 }, Parting { services: vec![3], like: 1 }];
    assert_eq!(all, expected, "who changes alone parts from nobody");

    let one = without(&judged, &all[1..]);
    let states = |d: &Desired, s: usize| d.services[s].backends.iter().map(|b| b.state).collect::<Vec<_>>();
    assert_eq!(states(&one, 3), states(&judged, 1));
    assert!([0, 1, 2, 4].iter().all(|&s| states(&one, s) == states(&judged, s)));
    assert_eq!(without(&judged, &[]), judged);
}

#[test]
fn without_room_for_a_copy_everybody_else_gets_what_is_wanted() {
    // Two rings of 31 slots.
    let mut agent = Agent::new(Capacity { ring_slots: 64, ..CAPACITY });
    let file = file();
    agent.run(&file);
    let mut judged = file.clone();
    set(&mut judged, 1, 1, AdminState::Down);
    set(&mut judged, 4, 5, AdminState::Down);
    let error = agent.plan(&judged).unwrap_err();
    assert!(matches!(error, PlanError::Limit { what: "ring_slots", .. }), "{error}");
    agent.run(&without(&judged, &partings(&file.services, &judged.services)));
    let observed = agent.maps.observe();
    let alive = |id: u16| {
        let members = &observed.ring(id).unwrap().members;
        members.values().filter(|m| m.state & xdp_lb_common::backend::BACKEND_ALIVE != 0).count()
    };
    assert_eq!([1, 2, 5].map(alive), [4, 4, 1], "s1 goes by its sisters, s4 is as wanted");
}
