//! Failures as the daemon's loop meets them: said, shown, tried again, healed.

use std::cell::Cell;
use std::io;

use super::super::{
    backoff::{FIRST, LAST},
    reconcile::tests::{DRAINED, THIRD, TWO, Twin, file, maps},
};
use super::*;
use crate::metrics::{self, NotReady, Sample};
use crate::state::MapOp;

/// An agent with the first configuration in force.
fn agent() -> Agent<Twin> {
    let mut agent = Agent::new(Twin::over(maps()), file(TWO, ""), false);
    agent.reporter.runs_on(Vec::new());
    agent.try_reconcile(&Arc::default());
    assert!(!agent.is_behind());
    agent.reconciler.maps_mut().maps.take_ops();
    agent
}

/// What `status`, the metrics and `/readyz` say.
fn shown(agent: &Agent<Twin>) -> (Option<String>, bool, Vec<NotReady>) {
    let condition = agent.reporter.condition();
    let text = metrics::text(Sample { condition: condition.clone(), ..Sample::default() });
    let success = text.contains("xdp_lb_config_last_apply_success 1");
    let reasons = metrics::ready(&condition, &[], condition.beat).err().unwrap_or_default();
    (condition.degraded(), success, reasons)
}

#[test]
fn every_write_that_fails_is_named_shown_and_tried_again_until_it_works() {
    let second = file(DRAINED, THIRD);
    let mut healthy = agent();
    healthy.adopt(second.clone(), &Arc::default()).expect("fine");
    let ops: Vec<MapOp> = healthy.reconciler.maps_mut().maps.take_ops();
    assert!(ops.len() > 10);
    for kind in [io::ErrorKind::OutOfMemory, io::ErrorKind::NotFound] {
        for (n, op) in ops.iter().enumerate() {
            let mut agent = agent();
            agent.reconciler.maps_mut().maps.fail_at(n as u64, kind);
            let before = Instant::now();
            agent.adopt(second.clone(), &Arc::default()).expect("part of it is in the maps");
            let (map, key) = op.target();
            let told = format!("write {map}[{key}]: {}", io::Error::from(kind));
            let not_ready = vec![NotReady::NotApplied { why: told.clone() }];
            assert_eq!(shown(&agent), (Some(told), false, not_ready), "write {n}");
            assert!(agent.wake_at() >= before + FIRST && agent.wake_at() <= Instant::now() + FIRST);

            // It goes on failing: less and less often.
            let mut pause = FIRST;
            for _ in 0..10 {
                agent.reconciler.maps_mut().maps.fail_at(0, kind);
                let before = Instant::now();
                agent.try_reconcile(&Arc::default());
                assert!(agent.is_behind(), "write {n}");
                pause = (pause * 2).min(LAST);
                assert!(agent.wake_at() >= before + pause && agent.wake_at() <= Instant::now() + pause);
            }
            agent.try_reconcile(&Arc::default());
            assert_eq!(shown(&agent), (None, true, Vec::new()), "write {n}: healed");
            let again = agent.reconciler.maps_mut().maps.take_ops();
            agent.try_reconcile(&Arc::default());
            assert_eq!(agent.reconciler.maps_mut().maps.ops(), [], "write {n}: {again:?}");
            assert_eq!(agent.desired, second);
        }
    }
}

thread_local! {
    /// The clock of a test, which stands until it is set on.
    static NOW: Cell<Option<Instant>> = const { Cell::new(None) };
}

fn now() -> Instant {
    NOW.get().unwrap_or_else(|| {
        NOW.set(Some(Instant::now()));
        now()
    })
}

/// As the daemon's loop does when nothing else happens: until the agent wants to be woken.
fn sleep(agent: &Agent<Twin>) {
    NOW.set(Some(agent.wake_at().max(now())));
}

#[test]
fn writes_that_go_on_failing_are_tried_at_these_moments_and_no_others() {
    let mut agent = agent();
    (agent.clock, agent.started) = (now, now());
    for round in 0..2 {
        // Forth and back, so that there is something to write.
        let next = if round == 0 { file(DRAINED, THIRD) } else { file(TWO, "") };
        agent.reconciler.maps_mut().maps.fail_at(0, io::ErrorKind::OutOfMemory);
        agent.adopt(next, &Arc::default()).expect("it is in force, and behind");
        // Something fell due long ago, and cannot be done either.
        agent.due = Some(1);
        let begun = now();
        let mut tries = Vec::new();
        for _ in 0..12 {
            sleep(&agent);
            agent.reconciler.maps_mut().maps.fail_at(0, io::ErrorKind::OutOfMemory);
            agent.try_reconcile(&Arc::default());
            tries.push((now() - begun).as_millis());
            assert_eq!(agent.reconciler.maps().maps.ops(), [], "nothing is written behind a failure");
        }
        let expected = [100, 300, 700, 1500, 3100, 6300, 12_700, 22_700, 32_700, 42_700, 52_700, 62_700];
        assert_eq!(tries, expected, "each pause twice the one before, ten seconds at most");
        // The last one works: nothing is due any more, and the next failure is a first one again.
        sleep(&agent);
        assert_eq!((now() - begun).as_millis(), 72_700);
        agent.try_reconcile(&Arc::default());
        assert!(!agent.is_behind() && agent.retry.at().is_none());
        assert!(!agent.reconciler.maps_mut().maps.take_ops().is_empty());
        assert_eq!(shown(&agent), (None, true, Vec::new()));
    }
}

/// Room for two rings: `a` and `b` share one, `c` has the other.
const CROWDED: &str = r"
version: 1
interfaces: [{ name: eth0 }]
encap: { source_v4: 172.16.0.0/16 }
maglev: { table_size: 1021, seed: 7 }
services:
  - { name: a, vip: 203.0.113.10, protocol: tcp, ports: 1, backends: [{ address: 10.0.0.1 }, { address: 10.0.0.2 }] }
  - { name: b, vip: 203.0.113.10, protocol: tcp, ports: 2, backends: [{ address: 10.0.0.1 }, { address: 10.0.0.2 }] }
  - { name: c, vip: 203.0.113.10, protocol: tcp, ports: 3, backends: [{ address: 10.0.0.1 }, { address: 10.0.0.3 }] }
";

#[test]
fn without_room_for_a_ring_only_its_services_are_left_aside_and_it_shows() {
    let desired = crate::config::parse(CROWDED).expect("good").desired;
    let mut agent = Agent::new(Twin::over(maps()), desired.clone(), false);
    agent.reporter.runs_on(Vec::new());
    agent.try_reconcile(&Arc::default());
    assert_eq!(shown(&agent), (None, true, Vec::new()));
    let drains = |services: &[&str]| -> Drains {
        let one = |service: &&str| crate::drains::Written {
            backend: [10, 0, 0, 1].into(),
            service: Some((*service).to_owned()),
            mode: None,
            max: None,
            since: 1,
        };
        services.iter().map(one).collect()
    };
    let states = |agent: &Agent<Twin>| {
        let observed = agent.maps().observe();
        let draining = |service: &xdp_lb_common::service::Service| {
            let members = observed.rings[&crate::state::Place::of(service.config())].members.values();
            members.filter(|m| m.state & xdp_lb_common::backend::BACKEND_DRAINING != 0).count()
        };
        observed.services.values().map(draining).collect::<Vec<_>>()
    };
    agent.set_drains(drains(&["b", "c"]));
    agent.try_reconcile(&Arc::default());
    assert_eq!(states(&agent), [0, 0, 1], "b goes by a, and c does not wait for it");
    let (degraded, success, reasons) = shown(&agent);
    let degraded = degraded.expect("it shows");
    assert!(degraded.contains("b as a: limits.ring_slots is 2048"), "{degraded}");
    assert!(success && reasons.is_empty() && !agent.is_behind());
    // A service less, and there is room.
    let mut fewer = desired;
    fewer.services.pop();
    agent.adopt(fewer, &Arc::default()).expect("fine");
    agent.survey();
    agent.try_reconcile(&Arc::default());
    assert_eq!((states(&agent), shown(&agent).0), (vec![0, 1], None));
}

#[test]
fn a_flow_table_that_cannot_be_tidied_shows_and_is_tried_again() {
    let mut agent = agent();
    let mut told = Vec::new();
    for broken in [&["clock"][..], &["sweep"], &["slot"], &[]] {
        agent.reconciler.maps_mut().break_all(broken);
        // Something to sweep and something to clean, each time.
        agent.reconciler.maps_mut().litter();
        agent.survey();
        told.push(shown(&agent).0.unwrap_or_default());
    }
    let [clock, sweep, slot, healed] = &told[..] else { panic!("four") };
    assert!(clock.contains("clock"), "{clock}");
    assert!(sweep.contains("write flows["), "{sweep}");
    assert!(slot.contains("write rings["), "{slot}");
    assert_eq!(healed, "");
}
