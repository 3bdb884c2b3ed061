//! What health does to the maps: the dead close, nobody else moves, and whoever is gone from the file and dies meanwhile
//! is not waited for.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use xdp_lb::drains::{Drains, Target, Terms, progress::left};
use xdp_lb::health::{
    Answer, Board, Check, Due, Failure, Key, Kind, State, Unable, Via, Ways, apply, taken_over, with_leaving,
    without_leaving,
};
use xdp_lb::memory::{Packet, Sent};
use xdp_lb::model::{Desired, Protocol, Service};
use xdp_lb::nexthop::{Resolution, UnresolvedReason};
use xdp_lb::plan::Plan;
use xdp_lb::state::{Capacity, Maps as _};
use xdp_lb::status;
use xdp_lb::template::{from_map, map_address};
use xdp_lb_common::backend::{BACKEND_ALIVE, BACKEND_DRAINING, BACKEND_USED};
use xdp_lb_common::parse::{Segment, TCP};
use xdp_lb_common::reason::FlowEvent;
use xdp_lb_common::ring::Slot;

use crate::common::agent::Agent;
use crate::common::wanted::{address, desired, service, vip};
use crate::crash::CAPACITY;

/// Every flow finds a place.
const ROOMY: Capacity = Capacity { flow_sets: 512, ..CAPACITY };
const SECOND: Duration = Duration::from_secs(1);

/// The daemon's steps without its tasks.
struct Node {
    agent: Agent,
    board: Board,
    clock: Duration,
}

impl Node {
    fn new() -> Self {
        Self { agent: Agent::new(ROOMY), board: Board::new(1), clock: SECOND }
    }

    fn judge(&mut self, wanted: &Desired) -> Desired {
        let observed = self.agent.maps.observe();
        let leaving = with_leaving(wanted, &observed);
        let asked = leaving.as_ref().unwrap_or(wanted);
        let nobody = |_| Resolution::Unresolved(UnresolvedReason::NoRoute);
        let (targets, _) = Ways::new(16).plan(asked, nobody);
        self.board.sync(targets, &taken_over(&observed), self.clock);
        let mut judged = apply(asked, &self.board.snapshot(self.clock));
        without_leaving(&mut judged, wanted);
        judged
    }

    fn run(&mut self, wanted: &Desired) -> Plan {
        let judged = self.judge(wanted);
        self.agent.run(&judged)
    }

    /// Backend `n` gives so many answers; the others are not heard.
    fn answer(&mut self, n: u8, good: bool, times: u32) {
        let key = Key { service: "web".into(), backend: address(n) };
        for _ in 0..times {
            self.clock += 3 * SECOND;
            let due = self.board.due(self.clock);
            assert!(due.iter().any(|due| due.key == key), "nobody asks backend {n}");
            for Due { key: asked, serial, .. } in due {
                let refused = Failure::Refused { address: address(n), port: 443 };
                let answer = match (asked == key, good) {
                    (false, _) => Answer::Unable(Unable::NoPort),
                    (true, true) => Answer::Good(Duration::ZERO),
                    (true, false) => Answer::Bad(refused),
                };
                self.board.answer(&asked, serial, self.clock, answer);
            }
        }
    }

    fn state(&self, n: u8) -> Option<u32> {
        let observed = self.agent.maps.observe();
        let members = observed.rings.values().flat_map(|ring| ring.members.values());
        members.filter(|member| member.address == map_address(address(n))).map(|member| member.state).next()
    }

    /// Ring-local backends by slot.
    fn ring(&self) -> Vec<u16> {
        let observed = self.agent.maps.observe();
        observed.rings.values().flat_map(|ring| &ring.slots.now).map(|&slot| Slot(slot).backend()).collect()
    }

    fn states(&self) -> BTreeMap<Key, State> {
        taken_over(&self.agent.maps.observe())
    }
}

fn checked(backends: impl IntoIterator<Item = u8>) -> Service {
    let check = Check {
        kind: Kind::Tcp,
        port: 443,
        interval: SECOND,
        timeout: SECOND,
        rise: 2,
        fall: 3,
        via: Via::Tunnel,
    };
    Service { health: Some(check), ..service("web", Protocol::Tcp, backends) }
}

/// A node whose backends 1 to 4 have risen.
fn risen() -> (Node, Desired) {
    let (mut node, wanted) = (Node::new(), desired(vec![checked(1..=4)]));
    node.run(&wanted);
    assert!((1..=4).all(|n| node.state(n) == Some(BACKEND_USED)), "new ones are closed");
    for n in 1..=4 {
        node.answer(n, true, 2);
    }
    node.run(&wanted);
    assert!((1..=4).all(|n| node.state(n) == Some(BACKEND_USED | BACKEND_ALIVE)));
    (node, wanted)
}

#[test]
fn a_death_moves_its_own_slots_and_a_return_brings_them_back() {
    let (mut node, wanted) = risen();
    let before = node.ring();
    node.answer(3, false, 3);
    assert!(!node.run(&wanted).is_empty());
    assert_eq!(node.state(3), Some(BACKEND_USED), "down at once, with its flows");
    let after = node.ring();
    let lost = before.iter().zip(&after).filter(|(was, is)| was != is).map(|(was, _)| *was);
    let moved: BTreeSet<u16> = lost.collect();
    assert_eq!(moved.len(), 1, "slots of one backend: {moved:?}");
    assert!(node.run(&wanted).is_empty(), "nothing more to do");
    node.answer(3, true, 2);
    node.run(&wanted);
    assert_eq!(node.ring(), before);
}

#[test]
fn a_plan_for_whom_health_has_changed_is_the_whole_plan() {
    let (mut node, one) = risen();
    let other = Service { name: "other".into(), vips: vec![vip(2)], ..checked(5..=7) };
    let wanted = desired(vec![one.services[0].clone(), other]);
    node.run(&wanted);
    node.answer(3, false, 3);
    let judged = node.judge(&wanted);
    let whole = node.agent.plan(&judged).unwrap();
    let only = BTreeSet::from(["web".to_owned()]);
    let part = node.agent.plan_only(&judged, Some(&only)).unwrap();
    assert!(!part.is_empty());
    assert_eq!(part, whole);
    // Who is not named is left as it is, but for what is not in the maps yet.
    let nobody = BTreeSet::new();
    assert!(node.agent.plan_only(&judged, Some(&nobody)).unwrap().is_empty());
    let third = Service { name: "third".into(), vips: vec![vip(4)], ..checked(8..=9) };
    let wanted = desired([judged.services.clone(), vec![third]].concat());
    assert!(node.agent.plan_only(&wanted, Some(&nobody)).unwrap().services["third"].created);
}

#[test]
fn a_restarted_agent_has_the_states_of_the_one_before() {
    let (mut node, wanted) = risen();
    node.answer(2, false, 3);
    node.run(&wanted);
    let (states, ring) = (node.states(), node.ring());
    node.board = Board::new(2);
    node.agent.restart();
    assert!(node.run(&wanted).is_empty());
    assert_eq!((node.states(), node.ring()), (states, ring));
}

#[test]
fn who_leaves_the_file_is_asked_until_it_is_forgotten_and_freed_when_it_dies() {
    let (mut node, _) = risen();
    let without = desired(vec![checked(1..=3)]);
    node.run(&without);
    assert_eq!(node.state(4), Some(BACKEND_USED | BACKEND_ALIVE | BACKEND_DRAINING), "it drains");
    let ring = node.ring();
    // It answers: it goes on draining.
    node.answer(4, true, 5);
    assert!(node.run(&without).is_empty());
    // It dies: freed, and no slot of anybody moves.
    node.answer(4, false, 3);
    node.run(&without);
    assert_eq!((node.state(4), node.ring()), (Some(BACKEND_USED), ring));
    // Nobody asks the dead, and the next plan after a survey forgets it.
    node.agent.now += Duration::from_secs(8000);
    node.agent.survey();
    node.run(&without);
    assert_eq!(node.state(4), None);
    assert!(node.run(&without).is_empty());
    assert!(node.board.state(&Key { service: "web".into(), backend: address(4) }).is_none());
}

/// A drain by command keeps flows for as long as it says; a dead backend has none to keep.
#[test]
fn a_death_during_a_command_s_drain_frees_its_flows_at_once() {
    let (mut node, wanted) = risen();
    let place = |node: &Node, port: u16, segment| {
        let packet = Packet {
            source: ([198, 51, 100, 7].into(), port),
            destination: (vip(0), 443),
            protocol: TCP,
            segment,
            named: Default::default(),
        };
        let Sent::To { service, choice, .. } = node.agent.cpu().send(&packet) else { return None };
        let observed = node.agent.maps.observe();
        Some(from_map(observed.ring(service)?.members.get(&choice.backend)?.address))
    };
    let at = |node: &Node| -> Vec<_> { (1..200).map(|port| place(node, port, Segment::Data)).collect() };
    let before = at(&node);
    let mut drains = Drains::default();
    let terms = Terms { mode: None, max: Some(8 * 3600 * SECOND), since: node.agent.now.as_secs() };
    drains.drain(Target { backend: address(3), service: None }, terms, &wanted).unwrap();
    let drained = drains.apply(&wanted);
    node.run(&drained);
    assert_eq!(at(&node), before, "a drain moves nobody");
    assert!(before.contains(&Some(address(3))));
    let stale = node.agent.maps.events(FlowEvent::Stale);

    node.answer(3, false, 3);
    node.run(&drained);
    assert_eq!(node.state(3), Some(BACKEND_USED), "dead, whatever the command says");
    let after = at(&node);
    for (was, is) in before.iter().zip(&after) {
        assert!(
            if *was == Some(address(3)) { is != was && is.is_some() } else { is == was },
            "{was:?} {is:?}"
        );
    }
    let moved = before.iter().filter(|was| **was == Some(address(3))).count();
    assert_eq!(node.agent.maps.events(FlowEvent::Stale) - stale, moved as u64, "each is counted");
    let sets = node.agent.maps.flow_sets().map(|(_, set)| set);
    let flows = status::flows(sets, node.agent.tick());
    let left = left(&drains, &wanted, &node.agent.maps.observe(), &flows);
    assert!(left[0].is_done() && left[0].flows == 0, "nobody waits for it: {left:?}");

    // It answers again while the command still drains it: it gets nobody back, and nobody new.
    node.answer(3, true, 2);
    node.run(&drained);
    assert_eq!(at(&node), after);
    assert!((1000..1200).all(|port| place(&node, port, Segment::Syn) != Some(address(3))));
}
