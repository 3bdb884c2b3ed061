//! The pure half against its promises, with random answers and clocks.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::config;
use crate::model::{AdminState, Decap, Desired, PodPort, Protocol};
use crate::nexthop::{NextHop, Resolution, UnresolvedReason};

const SECOND: Duration = Duration::from_secs(1);

fn check(rise: u32, fall: u32) -> Check {
    Check { kind: Kind::Tcp, port: 80, interval: SECOND, timeout: SECOND / 2, rise, fall, via: Via::Tunnel }
}

fn refused() -> Failure {
    Failure::Refused { address: IpAddr::from([203, 0, 113, 10]), port: 80 }
}

fn key(service: &str, n: u8) -> Key {
    Key { service: service.into(), backend: IpAddr::from([10, 1, 2, n]) }
}

fn desired(on_all_down: &str, backends: &[(u8, &str)]) -> Desired {
    let backends: String =
        backends.iter().map(|(n, more)| format!("      - {{ address: 10.1.2.{n}{more} }}\n")).collect();
    let text = format!(
        "version: 1
interfaces: [{{ name: eth0 }}]
encap: {{ source_v4: 172.16.0.0/16 }}
maglev: {{ seed: 1 }}
services:
  - name: web
    vip: 203.0.113.10
    protocol: tcp
    ports: 80
    on_all_down: {on_all_down}
    health_check: {{ kind: tcp }}
    backends:
{backends}"
    );
    config::parse(&text).unwrap_or_else(|e| panic!("{e:#?}\n{text}")).desired
}

fn snapshot(states: &[(u8, State)]) -> HealthSnapshot {
    let mut board = Board::new(0);
    let known: BTreeMap<Key, State> = states.iter().map(|&(n, state)| (key("web", n), state)).collect();
    let targets = known.keys().map(|key| (key.clone(), target(SECOND))).collect();
    board.sync(targets, &known, Duration::ZERO);
    board.snapshot(Duration::ZERO)
}

fn target(interval: Duration) -> Target {
    Target {
        check: Check { interval, ..check(2, 3) },
        vips: vec![IpAddr::from([203, 0, 113, 10])],
        over_tcp: true,
        way: Way::Direct,
    }
}

fn admin(desired: &Desired) -> Vec<AdminState> {
    desired.services[0].backends.iter().map(|b| b.state).collect()
}

#[test]
fn a_new_backend_is_closed_until_it_has_risen() {
    let mut machine = Machine::new(Duration::ZERO);
    assert_eq!(machine.observe(&check(3, 2), SECOND, Ok(())), None);
    assert_eq!(machine.observe(&check(3, 2), SECOND, Ok(())), None);
    assert_eq!(machine.state(), State::Starting);
    let change = machine.observe(&check(3, 2), SECOND * 3, Ok(()));
    assert_eq!(change, Some(Change { from: State::Starting, to: State::Up }));
    assert_eq!(machine.since(), SECOND * 3);
}

#[test]
fn a_new_backend_that_does_not_answer_is_down_after_fall() {
    let mut machine = Machine::new(Duration::ZERO);
    machine.observe(&check(2, 2), SECOND, Ok(()));
    assert_eq!(machine.observe(&check(2, 2), SECOND, Err(refused())), None);
    let change = machine.observe(&check(2, 2), SECOND, Err(refused()));
    assert_eq!(change, Some(Change { from: State::Starting, to: State::Down }));
    assert_eq!(machine.reason(), Some(&refused()));
    // It has never been up: nothing to damp.
    assert_eq!(machine.needed(&check(2, 2), SECOND), 2);
}

#[test]
fn flapping_makes_the_next_rise_harder_and_quiet_makes_it_easy_again() {
    let check = check(2, 1);
    let mut machine = Machine::resumed(State::Up, Duration::ZERO);
    let mut now = Duration::ZERO;
    for factor in [1, 2, 4, 8, 16, 16, 16] {
        now += SECOND;
        assert!(machine.observe(&check, now, Err(refused())).is_some(), "falling is never damped");
        assert_eq!(machine.needed(&check, now), 2 * factor);
        for _ in 1..2 * factor {
            assert_eq!(machine.observe(&check, now, Ok(())), None);
        }
        assert!(machine.observe(&check, now, Ok(())).is_some());
    }
    now += Duration::from_secs(3600);
    machine.observe(&check, now, Err(refused()));
    assert_eq!(machine.needed(&check, now), 2);
}

#[test]
fn words_say_state_progress_and_reason() {
    let mut board = Board::new(0);
    board.sync(BTreeMap::from([(key("web", 1), target(SECOND))]), &BTreeMap::new(), Duration::ZERO);
    let words = |board: &Board| board.snapshot(SECOND).targets[&key("web", 1)].words();
    assert_eq!(words(&board), "starting");
    let serial = board.due(SECOND * 2)[0].serial;
    board.answer(&key("web", 1), serial, SECOND, Answer::Good(Duration::from_millis(3)));
    assert_eq!(words(&board), "starting (1 of 2 good answers)");
    for _ in 0..3 {
        board.answer(&key("web", 1), serial, SECOND, Answer::Bad(refused()));
    }
    assert_eq!(words(&board), "down: nothing listens on port 80 of 203.0.113.10: connection refused");
    board.answer(&key("web", 1), serial, SECOND, Answer::Unable(Unable::NoPort));
    assert_eq!(words(&board), "down, not asked: no port is free to ask from");
    assert_eq!(board.snapshot(SECOND).targets[&key("web", 1)].took[1], 1);
}

#[test]
fn the_better_reason_stays_for_a_while() {
    let address = IpAddr::from([203, 0, 113, 10]);
    let silent = |suspect| Failure::Silent { address, suspect };
    let mut board = Board::new(0);
    board.sync(BTreeMap::from([(key("web", 1), target(SECOND))]), &BTreeMap::new(), Duration::ZERO);
    let serial = board.due(SECOND * 2)[0].serial;
    let key = key("web", 1);
    let answer = |board: &mut Board, at, failure| {
        board.answer(&key, serial, SECOND * at, Answer::Bad(failure));
        board.state(&key).unwrap().reason().unwrap().clone()
    };
    assert_eq!(answer(&mut board, 1, silent(Suspect::Unknown)), silent(Suspect::Unknown));
    assert!(board.wants_suspect(&key) && board.explain(&key, serial, silent(Suspect::TunnelOrVip)));
    assert_eq!(answer(&mut board, 2, silent(Suspect::Unknown)), silent(Suspect::TunnelOrVip));
    assert!(!board.wants_suspect(&key));
    // A refusal says more than the silences after it, for which ICMP errors were too many.
    assert_eq!(answer(&mut board, 3, refused()), refused());
    assert_eq!(answer(&mut board, 32, silent(Suspect::Unknown)), refused());
    assert!(!board.wants_suspect(&key) && !board.explain(&key, serial, silent(Suspect::Node)));
    assert_eq!(answer(&mut board, 33, silent(Suspect::Unknown)), silent(Suspect::Unknown));
    let status = Failure::Status { got: 503, expected: Statuses(200..=200) };
    assert_eq!(answer(&mut board, 34, status.clone()), status);
}

#[test]
fn an_answer_to_a_question_of_before_counts_for_nobody() {
    let mut board = Board::new(0);
    let one = |interval| BTreeMap::from([(key("web", 1), target(interval))]);
    board.sync(one(SECOND), &BTreeMap::new(), Duration::ZERO);
    let serial = board.due(SECOND * 2)[0].serial;
    board.sync(BTreeMap::new(), &BTreeMap::new(), SECOND);
    board.sync(one(SECOND), &BTreeMap::from([(key("web", 1), State::Up)]), SECOND);
    for _ in 0..9 {
        assert_eq!(board.answer(&key("web", 1), serial, SECOND, Answer::Bad(refused())), None);
    }
    assert_eq!(board.state(&key("web", 1)).unwrap().state(), State::Up);
}

#[test]
fn a_changed_interval_keeps_the_state_and_gets_a_grid_of_its_own() {
    let mut board = Board::new(0);
    let known = BTreeMap::from([(key("web", 1), State::Up)]);
    board.sync(BTreeMap::from([(key("web", 1), target(SECOND * 3600))]), &known, Duration::ZERO);
    board.sync(BTreeMap::from([(key("web", 1), target(SECOND))]), &BTreeMap::new(), Duration::ZERO);
    assert_eq!(board.state(&key("web", 1)).unwrap().state(), State::Up);
    assert!(board.wake().unwrap() <= SECOND * 2);
    assert_eq!(board.due(SECOND * 2).len(), 1);
}

#[test]
fn nobody_up_is_ignored_or_honoured_as_the_file_says() {
    use AdminState::{Active, Down, Drain};
    let down = snapshot(&[(1, State::Down), (2, State::Down)]);
    let backends = [(1, ""), (2, "")];
    assert_eq!(admin(&apply(&desired("keep", &backends), &down)), [Active, Active]);
    assert_eq!(admin(&apply(&desired("drop", &backends), &down)), [Down, Down]);
    // One is up: the other's state counts under both.
    let mixed = snapshot(&[(1, State::Down), (2, State::Up)]);
    for policy in ["keep", "drop"] {
        assert_eq!(admin(&apply(&desired(policy, &backends), &mixed)), [Down, Active]);
    }
    // One is still being tried: wait for it.
    let trying = snapshot(&[(1, State::Down), (2, State::Starting)]);
    assert_eq!(admin(&apply(&desired("keep", &backends), &trying)), [Down, Down]);
    // Who takes no flows anyway keeps nobody from being the last.
    let backends = [(1, ""), (2, ", state: drain"), (3, ", weight: 0"), (4, ", share: 0%")];
    let others = [(2, State::Up), (3, State::Up), (4, State::Up)];
    let last = snapshot(&[&[(1, State::Down)], &others[..]].concat());
    assert_eq!(admin(&apply(&desired("keep", &backends), &last)), [Active, Drain, Active, Active]);
}

#[test]
fn what_drains_is_freed_when_it_dies_and_not_before() {
    use AdminState::{Active, Down, Drain};
    let backends = [(1, ", state: drain"), (2, ""), (3, ", state: down")];
    for (state, expected) in [(State::Up, Drain), (State::Starting, Drain), (State::Down, Down)] {
        let health = snapshot(&[(1, state), (2, State::Up), (3, State::Up)]);
        assert_eq!(admin(&apply(&desired("keep", &backends), &health)), [expected, Active, Down]);
    }
}

#[test]
fn a_service_without_checks_is_what_the_file_says() {
    let mut wanted = desired("drop", &[(1, ""), (2, "")]);
    wanted.services[0].health = None;
    assert_eq!(apply(&wanted, &HealthSnapshot::default()), wanted);
}

#[test]
fn equal_tunnels_share_a_mark_and_marks_are_given_in_a_circle() {
    let hop = |ifindex| NextHop {
        ifindex,
        interface: "eth0".into(),
        source_mac: [2; 6],
        destination_mac: [4; 6],
        mtu: 1500,
        below: None,
        path_mtu: None,
    };
    let mut two = desired("keep", &[(1, ""), (2, "")]);
    let mut other = two.services[0].clone();
    other.name = "other".into();
    two.services.push(other);
    let mut ways = Ways::new(4);
    let resolve = |_| Resolution::Resolved(hop(3));
    let (targets, writes) = ways.plan(&two, resolve);
    assert_eq!((targets.len(), writes.len()), (4, 2));
    assert_eq!(targets[&key("web", 1)].way, targets[&key("other", 1)].way);
    assert_ne!(targets[&key("web", 1)].way, targets[&key("web", 2)].way);
    assert_eq!(ways.plan(&two, resolve).1, [], "nothing changed");
    assert_eq!(ways.plan(&two, |_| Resolution::Resolved(hop(4))).1.len(), 2, "another interface");
    // 1 goes, later 3 comes: the mark of 1 rests.
    ways.plan(&desired("keep", &[(2, "")]), resolve);
    let (targets, _) = ways.plan(&desired("keep", &[(2, ""), (3, "")]), resolve);
    assert_eq!(targets[&key("web", 3)].way, Way::Tunnel { mark: 3, trouble: None });
    let (targets, _) = ways.plan(&desired("keep", &[(2, ""), (3, ""), (4, ""), (5, "")]), resolve);
    assert_eq!(targets[&key("web", 4)].way, Way::Tunnel { mark: 1, trouble: None });
    assert_eq!(targets[&key("web", 5)].way, Way::NoMark);
    let (targets, _) = ways.plan(&desired("keep", &[(1, "")]), |_| Resolution::Local);
    assert_eq!(targets[&key("web", 1)].way, Way::Local);
}

/// A pod of this node is asked at the port that the VIP's leads to.
#[test]
fn the_way_to_a_pod_of_this_node_needs_no_tunnel() {
    let mut ways = Ways::new(4);
    let mut wanted = desired("keep", &[(1, "")]);
    let (service, pod) = (&wanted.services[0], IpAddr::from([10, 1, 2, 1]));
    let (vip, port) = (service.vips[0], service.health.as_ref().unwrap().port);
    let at = |protocol, port, target| PodPort { vip, protocol, port, pod, target };
    let translate =
        vec![at(Protocol::Tcp, port, 8080), at(Protocol::Tcp, port + 1, 1), at(Protocol::Udp, port, 2)];
    let decap = config::parse(
        "version: 1\ndecap: { interfaces: [{ name: eth0 }], allow_sources: [172.16.0.0/16], vips: 203.0.113.1 }\n",
    );
    wanted.decap = decap.unwrap().desired.decap.map(|decap| Decap { translate, ..decap });
    let (targets, writes) = ways.plan(&wanted, |_| Resolution::Pod);
    assert_eq!(targets[&key("web", 1)].way, Way::Pod([(vip, 8080)].into()));
    assert_eq!(writes, [], "no tunnel");
}

#[test]
fn the_last_next_hop_is_tried_while_only_the_neighbour_is_in_doubt() {
    let wanted = desired("keep", &[(1, "")]);
    let failed = UnresolvedReason::NeighbourFailed {
        interface: "eth0".into(),
        neighbour: IpAddr::from([10, 1, 2, 1]),
    };
    let way = |ways: &mut Ways, resolution: Resolution| {
        ways.plan(&wanted, |_| resolution.clone()).0.remove(&key("web", 1)).unwrap().way
    };
    let mut ways = Ways::new(16);
    assert_eq!(way(&mut ways, Resolution::Unresolved(failed.clone())), Way::None(failed.clone()));
    let hop = NextHop {
        ifindex: 3,
        interface: "eth0".into(),
        source_mac: [2; 6],
        destination_mac: [4; 6],
        mtu: 1500,
        below: None,
        path_mtu: None,
    };
    way(&mut ways, Resolution::Resolved(hop));
    let tried = way(&mut ways, Resolution::Unresolved(failed.clone()));
    assert_eq!(tried, Way::Tunnel { mark: 1, trouble: Some(failed) });
    let gone = way(&mut ways, Resolution::Unresolved(UnresolvedReason::NoRoute));
    assert_eq!(gone, Way::None(UnresolvedReason::NoRoute));
}

proptest! {
    /// Any row of answers: a state changes after exactly as many answers in a row as it says, never otherwise.
    #[test]
    fn states_change_after_rise_and_fall_and_never_else(
        rise in 1u32..5,
        fall in 1u32..5,
        answers in prop::collection::vec(any::<bool>(), 0..200),
    ) {
        let check = check(rise, fall);
        let mut machine = Machine::new(Duration::ZERO);
        let (mut good, mut bad) = (0, 0);
        for (n, &answer) in (1u32..).zip(&answers) {
            let now = SECOND * n;
            (good, bad) = if answer { (good + 1, 0) } else { (0, bad + 1) };
            let before = machine.state();
            let needed = machine.needed(&check, now);
            let change = machine.observe(&check, now, if answer { Ok(()) } else { Err(refused()) });
            let expected = match before {
                State::Up if bad >= fall => State::Down,
                State::Starting if bad >= fall => State::Down,
                State::Starting | State::Down if good >= needed => State::Up,
                same => same,
            };
            prop_assert_eq!(machine.state(), expected);
            prop_assert_eq!(change.is_some(), before != expected);
            prop_assert!(needed >= rise && needed <= rise * 16);
            prop_assert!(machine.state() != State::Down || machine.reason().is_some());
            if change.is_some_and(|c| c.to == State::Up) {
                prop_assert!(machine.reason().is_none());
            }
        }
    }

    /// Whatever the seed: rounds come in order, each within the jitter of its place on the grid.
    #[test]
    fn rounds_are_an_interval_apart_but_for_the_jitter(
        seed: u64, key: u64, start in 0u64..100_000, millis in 100u64..10_000, round in 0u32..10_000,
    ) {
        let (now, interval) = (Duration::from_millis(start), Duration::from_millis(millis));
        let schedule = Schedule::new(now, interval, seed, key);
        prop_assert_eq!(schedule, Schedule::new(now, interval, seed, key));
        let (this, next) = (schedule.at(round), schedule.at(round + 1));
        prop_assert!(this < next);
        let jitter = Schedule::jitter(interval);
        prop_assert!(jitter <= interval / 10);
        prop_assert!(next - this >= interval - jitter && next - this <= interval + jitter);
        prop_assert!(schedule.at(0) >= now && schedule.at(0) < now + interval + jitter);
        // However late one looks, the next round is in the future, and no more than an interval and the jitter away.
        let late = now + interval * (round % 97) + Duration::from_millis(millis / 3);
        let next = schedule.at(schedule.next(0, late));
        prop_assert!(next > late && next <= late + interval * 2 + jitter, "{:?} after {:?}", next, late);
    }

    /// A thousand checks of one interval: no tenth of it has to carry more than twice its part.
    #[test]
    fn checks_spread_over_the_interval(seed: u64) {
        let mut board = Board::new(seed);
        let keys = (0..=255u8).flat_map(|n| ["a", "b", "c", "d"].map(|service| key(service, n)));
        board.sync(keys.map(|key| (key, target(SECOND))).collect(), &BTreeMap::new(), Duration::ZERO);
        let mut total = 0;
        for tenth in 1..=11u32 {
            let due = board.due(SECOND * tenth / 10).len();
            prop_assert!(due <= 2 * 1024 / 10 + 40, "{} in a tenth", due);
            total += due;
        }
        prop_assert!(total >= 1024);
    }

    /// With health in it, the desired state differs by backends that are down, and nowhere but where health says so.
    #[test]
    fn health_only_ever_closes(states in prop::collection::vec(0u8..3, 1..8), drop: bool) {
        let of = |s: &u8| [State::Starting, State::Up, State::Down][usize::from(*s)];
        let numbered: Vec<(u8, State)> = (1u8..).zip(states.iter().map(of)).collect();
        let backends: Vec<(u8, &str)> = numbered.iter().map(|(n, _)| (*n, "")).collect();
        let wanted = desired(if drop { "drop" } else { "keep" }, &backends);
        let judged = apply(&wanted, &snapshot(&numbered));
        let open: BTreeSet<u8> = (1u8..)
            .zip(&judged.services[0].backends)
            .filter(|(_, b)| b.state == AdminState::Active)
            .map(|(n, _)| n)
            .collect();
        let up: BTreeSet<u8> = numbered.iter().filter(|(_, s)| *s == State::Up).map(|(n, _)| *n).collect();
        let all_down = numbered.iter().all(|(_, s)| *s == State::Down);
        if all_down && !drop {
            prop_assert_eq!(open.len(), numbered.len());
        } else {
            prop_assert_eq!(open, up);
        }
    }
}
