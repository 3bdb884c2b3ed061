//! Deaths, drains, returns and waits of single backends, step by step.

use std::time::Duration;

use xdp_lb::model::{AdminState, Desired, DrainMode, Protocol, Removal, Service, TableSize, Tracking};
use xdp_lb::plan::Plan;
use xdp_lb::state::{MapOp, Maps};
use xdp_lb_common::backend::{BACKEND_ALIVE, BACKEND_DRAINING, BACKEND_USED};
use xdp_lb_common::flow::{FlowEntry, FlowKey};
use xdp_lb_common::hash::FlowHash;
use xdp_lb_common::parse::{Segment, TCP};
use xdp_lb_common::ring::{NO_BACKEND, Slot};
use xdp_lb_common::service::TRACK_WINDOW;

use crate::common::agent::Agent;
use crate::common::wanted::{address, desired, service, vip};
use crate::crash::CAPACITY;

const UP: u32 = BACKEND_USED | BACKEND_ALIVE;
const DRAINING: u32 = BACKEND_USED | BACKEND_ALIVE | BACKEND_DRAINING;
const DRAINED: u32 = BACKEND_USED | BACKEND_DRAINING;
const DOWN: u32 = BACKEND_USED;

/// One service in the maps and what the operator's file says about it.
struct Life {
    agent: Agent,
    file: Service,
}

impl Life {
    fn new(file: Service) -> Self {
        let mut life = Self { agent: Agent::new(CAPACITY), file };
        life.run();
        life
    }

    fn tcp() -> Self {
        Self::new(service("web", Protocol::Tcp, 1..=4))
    }

    fn desired(&self) -> Desired {
        desired(vec![self.file.clone()])
    }

    fn run(&mut self) -> Plan {
        self.agent.run(&self.desired())
    }

    fn set(&mut self, n: u8, state: AdminState) {
        let backend = self.file.backends.iter_mut().find(|b| b.address == address(n)).unwrap();
        backend.state = state;
    }

    fn remove(&mut self, n: u8) {
        self.file.backends.retain(|b| b.address != address(n));
    }

    fn pass(&mut self, seconds: u64) {
        self.agent.now += Duration::from_secs(seconds);
    }

    /// Ring-local index, state and since when.
    fn member(&self, n: u8) -> Option<(u16, u32, u64)> {
        let o = self.agent.maps.observe();
        let address = xdp_lb::template::map_address(address(n));
        o.ring(1)
            .unwrap()
            .members
            .iter()
            .find(|(_, m)| m.address == address)
            .map(|(&l, m)| (l, m.state, m.since))
    }

    fn state(&self, n: u8) -> Option<u32> {
        self.member(n).map(|(_, state, _)| state)
    }

    fn slots(&self) -> Vec<(Slot, u16)> {
        let ring = self.agent.maps.observe().ring(1).unwrap().slots.clone();
        ring.now.iter().map(|&s| Slot(s)).zip(ring.before.iter().copied()).collect()
    }

    fn has(&self, n: u8) -> usize {
        let (local, ..) = self.member(n).unwrap();
        self.slots().iter().filter(|(now, _)| now.backend() == local).count()
    }
}

#[test]
fn a_drain_keeps_its_beginning_and_ends_at_max() {
    let mut life = Life::tcp();
    life.set(1, AdminState::Drain);
    let began = life.agent.now.as_secs();
    assert_eq!(life.run().wake, Some(began + 5 * 3600));
    let (_, state, since) = life.member(1).unwrap();
    assert_eq!((state, since, life.has(1)), (DRAINING, began, 0));
    life.pass(3600);
    life.agent.restart();
    let plan = life.run();
    assert!(plan.is_empty(), "{plan:#?}");
    assert_eq!(plan.wake, Some(began + 5 * 3600), "the beginning survives the agent");
    life.pass(4 * 3600);
    life.run();
    assert_eq!(life.state(1), Some(DRAINED));
    assert_eq!(life.run().wake, None);
}

#[test]
fn shed_moves_at_once() {
    let mut life = Life::tcp();
    life.file.drain.mode = DrainMode::Shed;
    life.set(1, AdminState::Drain);
    life.run();
    assert_eq!(life.state(1), Some(DRAINED));
}

#[test]
fn undrain_and_return_bring_the_same_slots_back() {
    for state in [AdminState::Drain, AdminState::Down] {
        let mut life = Life::tcp();
        let ring = life.slots().iter().map(|(now, _)| now.backend()).collect::<Vec<_>>();
        life.set(1, state);
        life.run();
        life.set(1, AdminState::Active);
        life.run();
        assert_eq!(life.state(1), Some(UP));
        assert_eq!(life.slots().iter().map(|(now, _)| now.backend()).collect::<Vec<_>>(), ring);
    }
}

#[test]
fn what_leaves_the_file_drains_before_it_is_forgotten() {
    let mut life = Life::tcp();
    life.remove(1);
    life.run();
    assert_eq!((life.state(1), life.has(1)), (Some(DRAINING), 0));
    life.agent.survey();
    assert!(life.run().is_empty(), "dirty slots have it before them");
    life.pass(3600);
    life.agent.survey();
    assert!(life.run().is_empty());
    // Nobody is left: `flow_timeout` has passed since its slots changed.
    life.pass(7200);
    life.agent.survey();
    let plan = life.run();
    assert_eq!(plan.services["web"].backends_removed, [address(1)]);
    assert_eq!(life.member(1), None);
    assert!(life.run().is_empty());
}

#[test]
fn what_is_down_and_leaves_the_file_stays_down() {
    let mut life = Life::tcp();
    life.set(1, AdminState::Down);
    life.run();
    life.remove(1);
    life.run();
    assert_eq!(life.state(1).unwrap_or(DOWN), DOWN, "a dead backend must not come alive to be drained");
    life.agent.survey();
    life.run();
    assert_eq!(life.member(1), None, "nothing keeps it");
}

/// Where the list is kept by somebody who drains beforehand, nothing is sent to who has left it.
#[test]
fn who_leaves_a_list_that_drains_itself_is_down_at_once() {
    let mut life = Life::tcp();
    life.file.removal = Removal::Down;
    life.remove(1);
    life.run();
    assert_eq!((life.state(1).unwrap_or(DOWN), life.has(1)), (DOWN, 0));
    life.agent.survey();
    life.run();
    assert_eq!(life.member(1), None);
    assert!(life.run().is_empty());
}

#[test]
fn the_first_of_a_block_can_leave() {
    let mut life = Life::tcp();
    let first = (1..=4).find(|&n| life.member(n).unwrap().0 == 0).unwrap();
    life.set(first, AdminState::Down);
    life.run();
    life.remove(first);
    life.run();
    life.agent.survey();
    life.run();
    assert_eq!(life.member(first), None);
    assert_eq!(life.agent.maps.observe().ring(1).unwrap().block, 8, "the block's length is still known");
    assert_eq!(life.agent.maps.observe().ring(1).unwrap().members.len(), 3);
    assert!(life.run().is_empty());
}

#[test]
fn who_comes_back_while_leaving_keeps_its_index() {
    let mut life = Life::tcp();
    let file = life.file.clone();
    let index = life.member(1).unwrap().0;
    life.remove(1);
    life.run();
    life.file = file;
    let plan = life.run();
    assert_eq!(life.member(1).unwrap().0, index);
    assert_eq!(life.state(1), Some(UP));
    assert!(plan.ops.iter().all(|op| !matches!(op, MapOp::PutBackend { .. })), "{plan:#?}");
}

#[test]
fn an_index_that_somebody_names_is_not_given_away() {
    let mut life = Life::tcp();
    let index = life.member(1).unwrap().0;
    // A remembered flow of backend 1, whose slot has long moved on.
    life.set(1, AdminState::Down);
    life.run();
    life.agent.survey();
    let packet = |port| xdp_lb::memory::Packet {
        source: ([198, 51, 100, 7].into(), port),
        destination: (vip(0), 443),
        protocol: TCP,
        segment: Segment::Data,
        named: Default::default(),
    };
    for port in 0..50 {
        _ = life.agent.cpu().send(&packet(port));
    }
    let entry = FlowEntry::new(FlowKey::new(1, FlowHash(3)), index, life.agent.tick() + 5, false);
    life.agent.maps.remember(3, 0, entry.0);
    life.agent.survey();
    life.remove(1);
    life.run();
    life.run();
    assert_eq!(life.member(1), None, "nothing of it is alive");
    life.file.backends.push(crate::common::wanted::backend(7));
    let plan = life.run();
    assert_ne!(life.member(7).unwrap().0, index, "an entry names it: {plan:#?}");
    // The entry expires and is swept; the scan after that finds nobody.
    life.pass(400);
    life.agent.survey();
    life.agent.survey();
    life.file.backends.push(crate::common::wanted::backend(9));
    life.run();
    assert_eq!(life.member(9).unwrap().0, index);
}

/// A scan that began before a member was dropped says nothing about packets since.
#[test]
fn an_index_or_id_dropped_after_the_scan_waits_for_the_next() {
    let mut life = Life::tcp();
    let index = life.member(1).unwrap().0;
    life.set(1, AdminState::Down);
    life.run();
    life.agent.survey();
    life.remove(1);
    life.run();
    life.run();
    assert_eq!(life.member(1), None);
    life.file.backends.push(crate::common::wanted::backend(7));
    life.run();
    assert_ne!(life.member(7).unwrap().0, index);

    let other = desired(vec![service("other", Protocol::Tcp, 1..=2)]);
    life.agent.run(&desired(Vec::new()));
    life.agent.run(&other);
    let ids: Vec<u16> = life.agent.maps.observe().services.keys().copied().collect();
    assert_eq!(ids, [2], "id 1 was another service's until a moment ago");
    life.agent.run(&desired(Vec::new()));
    life.agent.survey();
    life.agent.run(&other);
    let ids: Vec<u16> = life.agent.maps.observe().services.keys().copied().collect();
    assert_eq!(ids, [1], "a scan found nobody");
}

#[test]
fn planned_changes_wait_for_the_window_and_deaths_do_not() {
    for tracking in [Tracking::Sampled, Tracking::Off] {
        let mut life = Life::new(Service { tracking, ..service("rtp", Protocol::Udp, 1..=4) });
        let had = life.has(1);
        life.set(1, AdminState::Drain);
        let now = life.agent.now.as_secs();
        let plan = life.run();
        assert_eq!(plan.services["rtp"].slots_waiting as usize, had);
        assert_eq!(plan.wake, Some(now + 5));
        assert_eq!(life.has(1), had, "nothing has moved");
        let flags = || life.agent.maps.observe().services[&1].config().flags;
        assert_ne!(flags() & TRACK_WINDOW, 0);
        life.set(2, AdminState::Down);
        life.run();
        assert_eq!((life.has(2), life.state(2)), (0, Some(DOWN)), "the dead do not wait");
        assert_eq!(life.has(1), had, "but the drain still does");
        life.pass(4);
        assert_eq!(life.run().wake, Some(now + 5), "a window is never extended");
        life.pass(1);
        life.run();
        assert_eq!((life.has(1), life.state(1)), (0, Some(DRAINING)));
        assert_eq!(life.agent.maps.observe().services[&1].config().flags & TRACK_WINDOW, 0);
        assert!(life.run().is_empty());
    }
}

#[test]
fn a_shed_and_a_return_wait_for_the_window_too() {
    let mut life = Life::new(Service { tracking: Tracking::Off, ..service("rtp", Protocol::Udp, 1..=4) });
    life.file.drain.mode = DrainMode::Shed;
    life.set(1, AdminState::Drain);
    life.run();
    assert_eq!(life.state(1), Some(UP), "it loses its flows with its slots, not before");
    life.pass(5);
    life.run();
    assert_eq!((life.state(1), life.has(1)), (Some(DRAINED), 0));
    life.set(1, AdminState::Active);
    life.run();
    assert_eq!(life.has(1), 0);
    life.pass(5);
    life.run();
    assert_ne!(life.has(1), 0);
}

#[test]
fn a_restarted_agent_starts_the_window_again() {
    let mut life = Life::new(Service { tracking: Tracking::Off, ..service("rtp", Protocol::Udp, 1..=4) });
    life.set(1, AdminState::Drain);
    life.run();
    life.pass(4);
    life.agent.restart();
    let now = life.agent.now.as_secs();
    let plan = life.run();
    assert_eq!(plan.wake, Some(now + 5));
    life.pass(4);
    life.run();
    assert_ne!(life.has(1), 0);
    life.pass(1);
    life.run();
    assert_eq!(life.has(1), 0);
}

/// The wake of a window that opens is counted from now, whatever the agent remembers of an earlier one.
#[test]
fn every_window_has_its_own_end() {
    let mut life = Life::new(Service { tracking: Tracking::Off, ..service("rtp", Protocol::Udp, 1..=4) });
    for state in [AdminState::Drain, AdminState::Active] {
        life.set(1, state);
        let now = life.agent.now.as_secs();
        assert_eq!(life.run().wake, Some(now + 5));
        life.pass(5);
        life.run();
        life.pass(1000);
    }
}

#[test]
fn when_the_last_backend_leaves_every_slot_is_nobodys() {
    let mut life = Life::tcp();
    life.file.backends.clear();
    life.file.table_size = TableSize::new(13).unwrap();
    life.run();
    let slots = life.slots();
    assert_eq!(slots.len(), 31, "the ring of a live service keeps its size");
    assert!(slots.iter().all(|(now, _)| now.backend() == NO_BACKEND), "{slots:?}");
}

/// While a backend was down, its slots' flows went elsewhere without everybody being remembered.
#[test]
fn a_return_leaves_the_connections_of_its_absence_alone() {
    let mut life = Life::tcp();
    life.set(1, AdminState::Down);
    life.run();
    let home: Vec<bool> = life.slots().iter().map(|(now, _)| now.is_dirty()).collect();
    // It comes back with half a share, so some of its slots stay where they are.
    life.set(1, AdminState::Active);
    life.file.backends.iter_mut().find(|b| b.address == address(1)).unwrap().share =
        xdp_lb::model::Share::from_fraction(0.5);
    let index = life.member(1).unwrap().0;
    let plan = life.agent.plan(&life.desired()).unwrap();
    let observed = life.agent.maps.observe();
    for op in &plan.ops {
        life.agent.step(op, &observed).unwrap();
        let alive = life.state(1) == Some(UP);
        for (slot, &(now, before)) in life.slots().iter().enumerate() {
            let moves = alive && now.is_dirty() && before == index;
            assert!(!moves, "slot {slot} ({}) sends old connections to 1 after {op:?}", home[slot]);
        }
    }
    assert_eq!(life.state(1), Some(UP));
}
