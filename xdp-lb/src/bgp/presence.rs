//! What each VIP's route is at a moment: announced, unattractive before its withdrawal, or absent.
//!
//! Pure; time is a parameter. [`Presences::step`] takes the verdicts of [`super::decide`] and says what changed.
//!
//! ```text
//!            announce                 retire, drain_time > 0
//!   Absent ------------> Announced -------------------------> Draining --drain_time--> Absent
//!      ^                  |    ^------------- announce ----------'  |
//!      '---- withdraw ----'                                        withdraw: at once
//! ```

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use super::decide::{Verdict, Wish};

/// State of a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// Not announced.
    Absent,
    /// Announced as configured.
    Announced,
    /// Announced as unattractive, until then.
    Draining {
        /// On the agent's clock.
        until: Duration,
    },
}

/// State of a route, since when and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The state.
    pub presence: Presence,
    /// On the agent's clock.
    pub since: Duration,
    /// Why, in words.
    pub reason: String,
}

/// A route whose state changed, for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The VIP.
    pub address: IpAddr,
    /// What it is now.
    pub presence: Presence,
    /// Why.
    pub reason: String,
}

/// The routes of all VIPs that are or were configured lately.
#[derive(Clone, Debug, Default)]
pub struct Presences(BTreeMap<IpAddr, Standing>);

impl Presences {
    /// All, by address.
    pub fn iter(&self) -> impl Iterator<Item = (IpAddr, &Standing)> {
        self.0.iter().map(|(address, standing)| (*address, standing))
    }

    /// The state of one; absent when it was never heard of.
    #[must_use]
    pub fn of(&self, address: IpAddr) -> Presence {
        self.0.get(&address).map_or(Presence::Absent, |standing| standing.presence)
    }

    /// Carries the verdicts out. A VIP without one is no longer configured: nothing forwards its packets, so it is
    /// withdrawn at once and forgotten. Nobody hears of one that has done nothing but wait.
    pub fn step(
        &mut self,
        now: Duration,
        verdicts: &BTreeMap<IpAddr, Verdict>,
        drain_time: Duration,
    ) -> Vec<Change> {
        let mut changes = Vec::new();
        for (&address, standing) in &self.0 {
            if !verdicts.contains_key(&address) && standing.presence != Presence::Absent {
                let reason = "no service has the address any more".to_owned();
                changes.push(Change { address, presence: Presence::Absent, reason });
            }
        }
        self.0.retain(|address, _| verdicts.contains_key(address));
        let waits = |verdict: &Verdict| verdict.wish == Wish::Wait;
        for (&address, verdict) in verdicts {
            if waits(verdict) && !self.0.contains_key(&address) {
                continue;
            }
            let before = self.of(address);
            let presence = next(before, verdict.wish, now, drain_time);
            let known = self.0.get(&address);
            if known.is_none_or(|standing| standing.presence != presence) {
                let standing = Standing { presence, since: now, reason: verdict.reason.clone() };
                self.0.insert(address, standing);
                if presence != before {
                    changes.push(Change { address, presence, reason: verdict.reason.clone() });
                }
            } else if let Some(standing) = self.0.get_mut(&address).filter(|_| !waits(verdict)) {
                standing.reason.clone_from(&verdict.reason);
            }
        }
        changes
    }

    /// When to step though nothing happened, on the agent's clock.
    #[must_use]
    pub fn wake(&self) -> Option<Duration> {
        let until = |standing: &Standing| match standing.presence {
            Presence::Draining { until } => Some(until),
            Presence::Absent | Presence::Announced => None,
        };
        self.0.values().filter_map(until).min()
    }
}

fn next(before: Presence, wish: Wish, now: Duration, drain_time: Duration) -> Presence {
    match (wish, before) {
        (Wish::Announce, _) | (Wish::Wait, Presence::Announced) => Presence::Announced,
        (Wish::Retire, Presence::Announced) if !drain_time.is_zero() => {
            Presence::Draining { until: now + drain_time }
        }
        (Wish::Retire | Wish::Wait, Presence::Draining { until }) if now < until => before,
        (Wish::Retire | Wish::Withdraw | Wish::Wait, _) => Presence::Absent,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const VIP: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(203, 0, 113, 10));

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    fn verdict(wish: Wish) -> BTreeMap<IpAddr, Verdict> {
        [(VIP, Verdict { wish, reason: format!("{wish:?}") })].into()
    }

    #[test]
    fn a_route_retires_by_way_of_being_unattractive() {
        let mut p = Presences::default();
        let drain = seconds(10);
        // Never announced: nothing to say, nothing to drain.
        assert_eq!(p.step(seconds(0), &verdict(Wish::Retire), drain), []);
        let change = |presence, reason: &str| Change { address: VIP, presence, reason: reason.into() };
        let announced = change(Presence::Announced, "Announce");
        assert_eq!(p.step(seconds(1), &verdict(Wish::Announce), drain), std::slice::from_ref(&announced));
        assert_eq!(p.step(seconds(2), &verdict(Wish::Announce), drain), []);
        let draining = Presence::Draining { until: seconds(13) };
        assert_eq!(p.step(seconds(3), &verdict(Wish::Retire), drain), [change(draining, "Retire")]);
        assert_eq!(p.wake(), Some(seconds(13)));
        // The end does not move however often it is asked.
        assert_eq!(p.step(seconds(12), &verdict(Wish::Retire), drain), []);
        assert_eq!(p.step(seconds(12), &verdict(Wish::Announce), drain), [announced]);
        p.step(seconds(14), &verdict(Wish::Retire), drain);
        assert_eq!(p.step(seconds(24), &verdict(Wish::Retire), drain), [change(Presence::Absent, "Retire")]);
        assert_eq!(p.wake(), None);
    }

    #[test]
    fn what_loses_packets_goes_at_once() {
        let mut p = Presences::default();
        for wish in [Wish::Announce, Wish::Retire, Wish::Withdraw] {
            p.step(seconds(1), &verdict(wish), seconds(10));
        }
        assert_eq!(p.of(VIP), Presence::Absent);
        p.step(seconds(2), &verdict(Wish::Announce), seconds(10));
        let gone = p.step(seconds(3), &BTreeMap::new(), seconds(10));
        assert_eq!(gone.len(), 1);
        assert!(gone[0].reason.contains("no service"), "{gone:?}");
        assert_eq!(p.iter().count(), 0);
    }

    #[test]
    fn who_waits_stays_as_it_is() {
        let mut p = Presences::default();
        let drain = seconds(10);
        assert_eq!(p.step(seconds(1), &verdict(Wish::Wait), drain), []);
        assert_eq!(p.iter().count(), 0, "nobody has heard of it");
        p.step(seconds(2), &verdict(Wish::Announce), drain);
        assert_eq!(p.step(seconds(3), &verdict(Wish::Wait), drain), []);
        let (_, standing) = p.iter().next().unwrap();
        assert_eq!((standing.presence, standing.reason.as_str()), (Presence::Announced, "Announce"));
        p.step(seconds(4), &verdict(Wish::Retire), drain);
        assert_eq!(p.step(seconds(13), &verdict(Wish::Wait), drain), []);
        assert_eq!(p.wake(), Some(seconds(14)));
        p.step(seconds(14), &verdict(Wish::Wait), drain);
        assert_eq!((p.of(VIP), p.wake()), (Presence::Absent, None), "its time is up");
        p.step(seconds(15), &verdict(Wish::Wait), drain);
        assert_eq!(p.of(VIP), Presence::Absent);
    }

    #[test]
    fn the_reason_stays_current_while_the_state_stays() {
        let mut p = Presences::default();
        p.step(seconds(1), &verdict(Wish::Announce), Duration::ZERO);
        let other = BTreeMap::from([(VIP, Verdict { wish: Wish::Announce, reason: "2 of 3".into() })]);
        assert_eq!(p.step(seconds(2), &other, Duration::ZERO), []);
        let (_, standing) = p.iter().next().unwrap();
        assert_eq!((standing.reason.as_str(), standing.since), ("2 of 3", seconds(1)));
    }

    proptest! {
        /// A wish to announce is always announced; a wish to withdraw never is; retirement ends in time.
        #[test]
        fn wishes_come_true(steps in proptest::collection::vec((0u64..5, 0u8..4), 1..60), drain in 0u64..8) {
            let (mut p, mut now, mut retiring) = (Presences::default(), Duration::ZERO, None::<Duration>);
            for (pause, wish) in steps {
                now += seconds(pause);
                let wish = [Wish::Announce, Wish::Retire, Wish::Withdraw, Wish::Wait][usize::from(wish)];
                let before = p.of(VIP);
                p.step(now, &verdict(wish), seconds(drain));
                match wish {
                    Wish::Announce => {
                        prop_assert_eq!(p.of(VIP), Presence::Announced);
                        retiring = None;
                    }
                    Wish::Withdraw => prop_assert_eq!(p.of(VIP), Presence::Absent),
                    Wish::Retire => {
                        let begun = *retiring.get_or_insert(now);
                        prop_assert_ne!(p.of(VIP), Presence::Announced);
                        if now >= begun + seconds(drain) {
                            prop_assert_eq!(p.of(VIP), Presence::Absent);
                        }
                    }
                    Wish::Wait => {
                        let is_over = p.of(VIP) == Presence::Absent && before != Presence::Announced;
                        prop_assert!(p.of(VIP) == before || is_over);
                    }
                }
            }
        }
    }
}
