//! Maps that are too small, and changes nobody allowed: an error that says which, and nothing written.

use xdp_lb::model::{Affinity, Desired, Protocol, Removal, Service, TableSize};
use xdp_lb::plan::PlanError;
use xdp_lb::state::{Capacity, Maps};

use crate::common::agent::Agent;
use crate::common::wanted::{desired, service, vip};
use crate::crash::CAPACITY;
use crate::meaning::meaning;

fn one() -> Service {
    service("one", Protocol::Tcp, 1..=4)
}

fn two() -> Desired {
    desired(vec![one(), Service { vips: vec![vip(1)], ..service("two", Protocol::Tcp, 1..=10) }])
}

fn refused(capacity: Capacity, wanted: &Desired) -> PlanError {
    let mut agent = Agent::new(capacity);
    agent.run(&desired(vec![one()]));
    let before = meaning(&agent.maps);
    agent.maps.take_ops();
    let error = agent.plan(wanted).unwrap_err();
    assert!(agent.maps.ops().is_empty());
    assert_eq!(meaning(&agent.maps), before);
    error
}

#[test]
fn every_limit_is_named() {
    let rows: [(&str, Capacity); 5] = [
        ("services", Capacity { services: 2, ..CAPACITY }),
        ("backends", Capacity { backends: 16, ..CAPACITY }),
        ("ring_slots", Capacity { ring_slots: 60, ..CAPACITY }),
        ("port_pages", Capacity { port_pages: 4, ..CAPACITY }),
        ("vips", Capacity { vip_slots: 1, ..CAPACITY }),
    ];
    for (name, capacity) in rows {
        let error = refused(capacity, &two());
        let PlanError::Limit { what, need, have } = error else { panic!("{name}: {error}") };
        assert_eq!(what, name);
        assert!(need > have, "{name}: {need} of {have}");
    }
}

#[test]
fn without_room_for_counters_a_service_is_balanced_all_the_same() {
    let mut agent = Agent::new(Capacity { backend_stats: 4, ..CAPACITY });
    agent.run(&two());
    assert_eq!(agent.maps.observe().services.len(), 2);
}

#[test]
fn what_moves_everything_needs_leave() {
    let size = Service { table_size: TableSize::new(13).unwrap(), ..one() };
    let affinity = Service { affinity: Affinity::ClientIp, ..one() };
    for (key, changed) in [("table_size", size), ("affinity", affinity)] {
        let wanted = desired(vec![changed]);
        let error = refused(CAPACITY, &wanted);
        assert_eq!(error, PlanError::MovesEverything { service: "one".into(), key });
        // Who describes services elsewhere than in the file cannot be asked.
        let mut agent = Agent::new(CAPACITY);
        agent.run(&desired(vec![one()]));
        let free = Service { removal: Removal::Down, ..wanted.services[0].clone() };
        agent.run(&desired(vec![free]));
        let mut agent = Agent::new(CAPACITY);
        agent.run(&desired(vec![one()]));
        agent.allow_moves = true;
        agent.run(&wanted);
        assert!(agent.run(&wanted).is_empty());
    }
}

#[test]
fn writes_outside_a_map_name_map_and_key() {
    use xdp_lb::state::MapOp;
    let mut agent = Agent::new(CAPACITY);
    let rows = [
        (MapOp::DropBackend { index: 512 }, "write backends[512]: "),
        (MapOp::DropService { id: 16 }, "write services[16]: "),
        (MapOp::PutRing { base: 1020, slots: vec![0; 5] }, "write rings[1020]: "),
        (MapOp::PutTxPort { ifindex: 8 }, "write tx_ports[8]: "),
    ];
    for (op, start) in rows {
        let error = agent.maps.apply(&op).unwrap_err().to_string();
        assert!(error.starts_with(start), "{error}");
    }
}
