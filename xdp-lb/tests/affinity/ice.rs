//! Sessions by ufrag: who names a backend gets it, what follows goes with it, and nobody moves another's live flow.

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;
use xdp_lb::model::{AdminState, Affinity};
use xdp_lb_common::affinity::Named;
use xdp_lb_common::flow::WAYS;
use xdp_lb_common::reason::FlowEvent;

use crate::common::wanted::address;
use crate::stand::{STRANGER, Stand, naming, with_ids};

const MEDIA: Named = Named::Nothing;
const SECOND: Duration = Duration::from_secs(1);

fn stand() -> Stand {
    Stand::new(with_ids(Affinity::IceUfrag))
}

/// A backend that is not the one that the client's slot has.
fn other_than_slot(stand: &Stand, client: u16) -> u8 {
    let slot = stand.send(client, MEDIA);
    (1..=5).find(|&n| address(n) != slot).unwrap()
}

#[test]
fn media_follows_the_request_and_a_new_port_needs_one_of_its_own() {
    let stand = stand();
    let n = other_than_slot(&stand, 40_000);
    assert_eq!(stand.send(40_000, naming(n)), address(n));
    for _ in 0..3 {
        assert_eq!(stand.send(40_000, MEDIA), address(n));
    }
    let moved = other_than_slot(&stand, 40_001);
    assert_eq!(stand.send(40_001, naming(moved)), address(moved));
    assert_eq!(stand.send(40_001, MEDIA), address(moved));
    assert_eq!(stand.send(40_000, MEDIA), address(n), "the old port is still its own");
}

/// Five minutes of a call: consent every five seconds, and somebody who forges requests four times a second.
#[test]
fn a_forged_request_never_moves_a_live_flow() {
    let mut stand = stand();
    let n = other_than_slot(&stand, 1);
    let forged = n % 5 + 1;
    assert_eq!(stand.send(1, naming(n)), address(n));
    for quarter in 1..=1200 {
        stand.pass(SECOND / 4);
        assert_eq!(stand.send(1, naming(forged)), address(forged), "a request goes where it says");
        assert_eq!(stand.send(1, MEDIA), address(n), "after {quarter} quarters of a second");
        if quarter % 20 == 0 {
            assert_eq!(stand.send(1, naming(n)), address(n));
        }
        if quarter % 40 == 0 {
            stand.agent.survey();
        }
    }
    assert_eq!(stand.events(FlowEvent::IceConflict), 1200);
}

#[test]
fn a_silent_flow_moves_and_one_that_is_not_does_not() {
    for (silence, moves) in [(1, false), (10, false), (14, false), (25, true), (100, true)] {
        let mut stand = stand();
        let n = other_than_slot(&stand, 1);
        let next = n % 5 + 1;
        for _ in 0..3 {
            stand.send(1, naming(n));
            stand.pass(5 * SECOND);
        }
        stand.send(1, naming(n));
        stand.pass(silence * SECOND);
        // Media keeps nothing alive: whoever sends it may be anybody.
        stand.send(1, MEDIA);
        assert_eq!(stand.send(1, naming(next)), address(next));
        let expected = if moves { next } else { n };
        assert_eq!(stand.send(1, MEDIA), address(expected), "silent for {silence} s");
    }
}

/// One request alone is remembered for ten seconds; until then nobody else gets it.
#[test]
fn a_flow_of_one_request_is_short_but_its_own() {
    let mut stand = stand();
    let n = other_than_slot(&stand, 1);
    stand.send(1, naming(n));
    stand.pass(4 * SECOND);
    stand.send(1, naming(n % 5 + 1));
    assert_eq!(stand.send(1, MEDIA), address(n));
    stand.pass(20 * SECOND);
    assert_ne!(stand.send(1, MEDIA), address(n), "expired: the slot decides");
}

#[test]
fn a_dead_backends_flow_moves_at_once_and_a_draining_one_keeps_its_own() {
    let mut stand = stand();
    let n = other_than_slot(&stand, 1);
    let next = n % 5 + 1;
    stand.send(1, naming(n));
    stand.send(1, naming(n));
    stand.set(n, AdminState::Drain);
    assert_eq!(stand.send(1, MEDIA), address(n));
    assert_eq!(stand.send(1, naming(n)), address(n), "requests too");
    assert_eq!(stand.send(2, naming(n)), address(n), "also of a new session");
    stand.set(n, AdminState::Down);
    assert_ne!(stand.send(1, MEDIA), address(n));
    assert_ne!(stand.send(1, naming(n)), address(n), "nobody is there");
    assert_eq!(stand.send(1, naming(next)), address(next));
    assert_eq!(stand.send(1, MEDIA), address(next));
}

#[test]
fn strangers_are_balanced_counted_and_not_remembered() {
    let stand = stand();
    let slot = stand.send(1, MEDIA);
    for named in [STRANGER, Named::Nobody] {
        assert_eq!(stand.send(1, named), slot);
    }
    assert_eq!((stand.events(FlowEvent::IceUnknown), stand.events(FlowEvent::Remembered)), (2, 0));
    let n = other_than_slot(&stand, 1);
    stand.send(1, naming(n));
    assert_eq!(stand.send(1, STRANGER), address(n), "a flow keeps its backend");
}

/// A slot that changes is no concern of those who were asked for by name.
#[test]
fn slots_may_change_under_a_session() {
    let mut stand = stand();
    let n = other_than_slot(&stand, 1);
    stand.send(1, naming(n));
    stand.send(1, naming(n));
    for other in (1..=5).filter(|&other| other != n) {
        stand.set(other, AdminState::Drain);
        stand.agent.survey();
        assert_eq!(stand.send(1, MEDIA), address(n));
        stand.set(other, AdminState::Active);
        assert_eq!(stand.send(1, MEDIA), address(n));
    }
}

#[test]
fn a_flood_of_requests_takes_no_live_flow() {
    let mut stand = stand();
    let calls: Vec<(u16, u8)> = (0..100).map(|client| (client, other_than_slot(&stand, client))).collect();
    for &(client, n) in calls.iter().chain(&calls) {
        stand.send(client, naming(n));
    }
    for round in 0..20u16 {
        for client in 1000..3000u16 {
            stand.send(client.wrapping_mul(round + 3).max(1000), naming(1));
        }
        stand.pass(SECOND);
        if round % 5 == 0 {
            calls.iter().for_each(|&(client, n)| assert_eq!(stand.send(client, naming(n)), address(n)));
        }
    }
    for (client, n) in calls {
        assert_eq!(stand.send(client, MEDIA), address(n));
    }
    assert!(stand.events(FlowEvent::SetFull) > 100, "it was no flood");
}

/// What a client may count on, in ordinary words: times since its last request.
#[derive(Clone, Copy)]
struct Session {
    of: u8,
    last: Duration,
    /// Nobody gets the flow before.
    own: u64,
    /// Whoever asks gets it from then on.
    free: u64,
    /// Media goes on for so long at least.
    lives: u64,
    /// And no longer than that.
    ends: u64,
}

impl Session {
    /// A single request is remembered for three ticks of 4.1 s, the first of which may have been nearly over.
    fn new(of: u8, last: Duration) -> Self {
        Self { of, last, own: 8, free: 13, lives: 8, ends: 13 }
    }

    /// Asked for again after `silent` seconds.
    fn again(self, silent: u64, last: Duration) -> Self {
        let confirmed = Self { last, own: 15, free: 25, lives: 298, ends: 304, ..self };
        if silent < self.lives {
            confirmed
        } else if silent > self.ends {
            Self::new(self.of, last)
        } else {
            Self { own: 8, lives: 8, ..confirmed }
        }
    }
}

#[derive(Clone, Copy, Debug)]
enum Act {
    Request(u16, u8),
    Media(u16),
    Pass(u64),
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        6 => (0u16..4, 1u8..=5).prop_map(|(client, n)| Act::Request(client, n)),
        4 => (0u16..4).prop_map(Act::Media),
        3 => (1u64..8).prop_map(Act::Pass),
        1 => (8u64..40).prop_map(Act::Pass),
    ];
    proptest::collection::vec(act, 1..120)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    /// A model that knows who asked for whom and when, and nothing of ticks or entries.
    #[test]
    fn sessions_are_whose_they_must_be(acts in acts()) {
        let mut stand = stand();
        let slots: Vec<_> = (0..4).map(|client| stand.send(client, MEDIA)).collect();
        let mut sessions: BTreeMap<u16, Session> = BTreeMap::new();
        for act in acts {
            let now = stand.agent.now;
            match act {
                Act::Pass(seconds) => {
                    stand.pass(Duration::from_secs(seconds));
                    stand.agent.survey();
                }
                Act::Request(client, n) => {
                    prop_assert_eq!(stand.send(client, naming(n)), address(n));
                    let Some(session) = sessions.get_mut(&client) else {
                        sessions.insert(client, Session::new(n, now));
                        continue;
                    };
                    let silent = (now - session.last).as_secs();
                    if session.of == n {
                        *session = session.again(silent, now);
                    } else if silent >= session.own {
                        let moved = stand.send(client, MEDIA) == address(n);
                        // Shortly before it ends an entry looks like a new one, and stays where it is.
                        let must = silent >= session.free && !(280..=304).contains(&silent);
                        prop_assert!(moved || !must, "silent for {} s", silent);
                        if moved {
                            *session = Session::new(n, now);
                        }
                    }
                }
                Act::Media(client) => {
                    let to = stand.send(client, MEDIA);
                    let slot = slots[usize::from(client)];
                    let Some(session) = sessions.get(&client) else {
                        prop_assert_eq!(to, slot);
                        continue;
                    };
                    let silent = (now - session.last).as_secs();
                    if silent < session.lives {
                        prop_assert_eq!(to, address(session.of), "silent for {} s", silent);
                    } else if silent > session.ends {
                        prop_assert_eq!(to, slot, "silent for {} s", silent);
                    }
                }
            }
        }
        let full = stand.agent.maps.flow_sets().filter(|(_, set)| set.entries.iter().all(|&e| e != 0)).count();
        prop_assert!(full < WAYS);
    }
}
