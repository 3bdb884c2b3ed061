//! Connections by id: a client that moves stays, and an id follows its backend through reloads and drains.

use std::time::Duration;

use xdp_lb::model::{AdminState, Affinity, Backend, Tracking};
use xdp_lb_common::affinity::Named;
use xdp_lb_common::reason::FlowEvent;

use crate::common::wanted::{address, backend};
use crate::stand::{STRANGER, Stand, id_bytes, naming, with_ids};

const INITIAL: Named = Named::Nobody;

fn stand() -> Stand {
    let mut service = with_ids(Affinity::QuicCid);
    service.tracking = Tracking::Off;
    Stand::new(service)
}

#[test]
fn a_client_that_moves_stays_with_its_backend() {
    let stand = stand();
    let first = stand.send(1, INITIAL);
    let n = (1..=5).find(|&n| address(n) == first).unwrap();
    for client in 1..200 {
        assert_eq!(stand.send(client, naming(n)), first, "from port {client}");
    }
    assert_eq!((stand.events(FlowEvent::CidKnown), stand.events(FlowEvent::CidUnknown)), (199, 1));
    // For ICMP errors: the tuples whose slots say something else, and no others.
    let remembered = stand.events(FlowEvent::Remembered);
    assert!((100..199).contains(&remembered), "{remembered}");
    stand.send(1, naming(n));
    assert_eq!(stand.events(FlowEvent::Remembered), remembered);
}

#[test]
fn who_names_nobody_goes_where_his_address_says() {
    let stand = stand();
    for client in 1..50 {
        let initial = stand.send(client, INITIAL);
        assert_eq!(stand.send(client, STRANGER), initial);
    }
    assert_eq!(stand.events(FlowEvent::CidUnknown), 98);
}

#[test]
fn a_drained_backend_keeps_its_connections_and_a_dead_one_has_none() {
    let mut stand = stand();
    stand.set(2, AdminState::Drain);
    // The window in which those without ids are tracked.
    stand.pass(Duration::from_secs(6));
    stand.run();
    assert_eq!(stand.send(1, naming(2)), address(2));
    assert!((2..100).all(|client| stand.send(client, INITIAL) != address(2)));
    stand.set(2, AdminState::Down);
    assert_ne!(stand.send(1, naming(2)), address(2));
    stand.set(2, AdminState::Active);
    assert_eq!(stand.send(1, naming(2)), address(2));
}

/// Removed from the file: its id drains with it, goes with it, and never names who comes after it.
#[test]
fn an_id_goes_with_its_backend() {
    let mut stand = stand();
    let other = (1..200).find(|&client| stand.send(client, INITIAL) != address(2)).unwrap();
    stand.send(other, naming(2));
    stand.remove(2);
    stand.agent.survey();
    stand.run();
    assert_eq!(stand.send(other, naming(2)), address(2), "a remembered connection holds it");
    // Its flows end; it is forgotten, and another gets its place.
    for _ in 0..12 {
        stand.pass(Duration::from_secs(100));
        stand.agent.survey();
        stand.run();
    }
    let observed = xdp_lb::state::Maps::observe(&stand.agent.maps);
    assert_eq!(observed.ring(1).unwrap().members.len(), 4, "{:?}", observed.ring(1));
    let newcomer = Backend { server_id: Some(id_bytes(6)), ..backend(6) };
    stand.service().backends.push(newcomer);
    stand.service().backends.sort_by_key(|b| b.address);
    stand.run();
    assert_eq!(stand.send(1, naming(6)), address(6));
    let before = stand.events(FlowEvent::CidUnknown);
    stand.send(other, naming(2));
    assert_eq!(stand.events(FlowEvent::CidUnknown), before + 1);
}

/// A replacement takes the id over: from one packet to the next, by one store.
#[test]
fn an_id_may_change_hands() {
    let mut stand = stand();
    let backends = &mut stand.service().backends;
    let (a, b) = (id_bytes(1), id_bytes(2));
    for backend in backends {
        backend.server_id = match backend.server_id {
            Some(id) if id == a => Some(b),
            Some(id) if id == b => Some(a),
            other => other,
        };
    }
    stand.run();
    assert_eq!(stand.send(1, naming(1)), address(2));
    assert_eq!(stand.send(1, naming(2)), address(1));
}
