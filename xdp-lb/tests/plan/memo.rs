//! Home tables are built once for equal backends, and anew when what they are made from changes. That keeping them changes
//! no plan is asserted by `Agent::plan_only` for every plan of these tests.

use std::collections::BTreeSet;

use xdp_lb::model::{AdminState, Desired, Ports, Protocol};

use crate::common::agent::Agent;
use crate::common::wanted::{desired, service};
use crate::crash::CAPACITY;

/// Two services with the same backends in another order.
fn twins() -> Desired {
    let one = service("one", Protocol::Tcp, [1, 2, 3]);
    let mut two = service("two", Protocol::Tcp, [1, 2, 3]);
    two.ports = Ports::Ranges(vec![80..=80]);
    two.backends.reverse();
    desired(vec![one, two])
}

#[test]
fn equal_backends_have_one_table() {
    let mut agent = Agent::new(CAPACITY);
    let mut wanted = twins();
    agent.run(&wanted);
    assert_eq!((agent.memo.built(), agent.memo.homes()), (1, 1));

    wanted.services[0].backends[0].state = AdminState::Down;
    agent.run(&wanted);
    assert_eq!(agent.memo.built(), 1, "states are no matter of the table");

    wanted.services[0].backends[0].weight += 1;
    agent.run(&wanted);
    assert_eq!((agent.memo.built(), agent.memo.homes()), (2, 2), "weights are");
}

#[test]
fn what_no_whole_plan_asks_for_is_forgotten() {
    let mut agent = Agent::new(CAPACITY);
    let mut wanted = twins();
    wanted.services[0].backends[0].weight += 1;
    agent.run(&wanted);
    assert_eq!((agent.memo.built(), agent.memo.homes()), (2, 2));

    let nobody = BTreeSet::new();
    agent.plan_only(&wanted, Some(&nobody)).unwrap();
    assert_eq!(agent.memo.homes(), 2, "a plan for nobody says nothing about the others");

    wanted.services.truncate(1);
    agent.run(&wanted);
    assert_eq!((agent.memo.built(), agent.memo.homes()), (2, 1));
}
