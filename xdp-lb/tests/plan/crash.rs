//! A crash after any operation, and every operation failing in turn: nothing dangles, and running again ends
//! in the state that an undisturbed run ends in.

use std::io::ErrorKind;

use proptest::prelude::*;
use xdp_lb::model::Desired;
use xdp_lb::plan::{Plan, PlanError};
use xdp_lb::state::{Capacity, MapOp, Maps};

use crate::common::agent::Agent;
use crate::invariants::{assert_consistent, assert_disciplined};
use crate::meaning::{Meaning, destinations, meaning, wanted_destinations};
use crate::random::two_configurations;

/// Room for two generations of everything, but not for everybody's counters.
pub const CAPACITY: Capacity = Capacity {
    services: 16,
    vip_slots: 64,
    port_pages: 64,
    backends: 512,
    ring_slots: 1024,
    flow_sets: 4,
    backend_stats: 64,
    tx_ports: 8,
    server_ids: 64,
    source_ranges: 256,
};

/// Runs until nothing is left to do now, with windows waited for. A plan that finds nothing changes nothing.
fn settle(agent: &mut Agent, desired: &Desired) {
    let mut waits = 0;
    for _ in 0..12 {
        let plan = agent.run(desired);
        if plan.services.values().any(|s| s.slots_waiting > 0) {
            waits += 1;
            agent.now += desired.flow_table.track_window;
        } else if plan.is_empty() {
            return;
        }
        agent.survey();
    }
    panic!("no end after 12 runs, {waits} of them waiting: {:#?}", agent.plan(desired));
}

/// The plan for the second configuration on the maps of the first, `None` where it is refused.
fn start(old: &Desired, new: &Desired) -> Option<(Agent, Plan)> {
    let mut agent = Agent::new(CAPACITY);
    agent.allow_moves = true;
    settle(&mut agent, old);
    assert_eq!(destinations(&agent.maps), wanted_destinations(old));
    // What was settled long ago and what has just changed are different maps.
    agent.survey();
    agent.maps.take_ops();
    match agent.plan(new) {
        Ok(plan) => Some((agent, plan)),
        Err(PlanError::Limit { .. }) => None,
        Err(error) => panic!("{error}"),
    }
}

fn goal(agent: &Agent, new: &Desired) -> Meaning {
    let mut agent = agent.clone();
    settle(&mut agent, new);
    let goal = meaning(&agent.maps);
    assert_eq!(destinations(&agent.maps), wanted_destinations(new));
    goal
}

/// The run after a crash finishes the work; without windows the one after it has nothing to do.
fn recovers(mut agent: Agent, new: &Desired, goal: &Meaning, from: &str) {
    agent.restart();
    settle(&mut agent, new);
    assert_consistent(&agent.maps, from);
    assert_eq!(&meaning(&agent.maps), goal, "after a crash {from}");
}

/// Whether stopping at this operation can tell something new: in a long row of the same kind (a block of
/// backends that nothing points at yet) a few do.
fn tells(plan: &Plan, n: usize) -> bool {
    let kind = |op: &MapOp| std::mem::discriminant(op);
    n.is_multiple_of(7) || plan.ops.get(n + 1).is_none_or(|next| kind(next) != kind(&plan.ops[n]))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, max_shrink_iters: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_crash_after_any_operation_leaves_a_whole((old, new) in two_configurations()) {
        let Some((mut agent, plan)) = start(&old, &new) else { return Ok(()) };
        let goal = goal(&agent, &new);
        let ways = [wanted_destinations(&old), wanted_destinations(&new)];
        let observed = agent.maps.observe();
        for (n, op) in plan.ops.iter().enumerate() {
            assert_disciplined(op, &agent.maps);
            agent.step(op, &observed).unwrap();
            let after = format!("{op:?}");
            assert_consistent(&agent.maps, &after);
            prop_assert!(ways.contains(&destinations(&agent.maps)), "neither old nor new after {}", after);
            if tells(&plan, n) {
                recovers(agent.clone(), &new, &goal, &format!("after {after}"));
            }
        }
    }

    #[test]
    fn any_write_may_fail((old, new) in two_configurations()) {
        let Some((agent, plan)) = start(&old, &new) else { return Ok(()) };
        let goal = goal(&agent, &new);
        for n in (0..plan.ops.len()).filter(|&n| tells(&plan, n)) {
            let mut agent = agent.clone();
            agent.maps.fail_at(n as u64, ErrorKind::PermissionDenied);
            let error = agent.carry_out(&plan).unwrap_err();
            prop_assert_eq!((error.map, error.key), plan.ops[n].target());
            assert_consistent(&agent.maps, &format!("half of {:?}", plan.ops[n]));
            recovers(agent, &new, &goal, &format!("within {:?}", plan.ops[n]));
        }
    }

    #[test]
    fn the_same_input_gives_the_same_plan((old, new) in two_configurations()) {
        let Some((mut agent, plan)) = start(&old, &new) else { return Ok(()) };
        prop_assert_eq!(agent.plan(&new).unwrap(), plan.clone());
        agent.carry_out(&plan).unwrap();
        if !plan.services.values().any(|s| s.slots_waiting > 0) {
            agent.run(&new);
            let third = agent.run(&new);
            prop_assert!(third.is_empty(), "{:#?}", third);
        }
        let sources = agent.maps.take_ops().iter().filter(|op| matches!(op, MapOp::SetSources { .. })).count();
        prop_assert!(sources <= 1);
        prop_assert_eq!(agent.maps.observe().control.generation, 1);
    }
}
