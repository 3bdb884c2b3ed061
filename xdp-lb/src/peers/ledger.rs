//! What has been told to the peers and what was learned from them: an exception is told once, and again when its entry
//! lives considerably longer than was said.

use std::collections::HashMap;
use std::time::Duration;

use super::{Exception, MOST};

/// A flow of a service.
type Key = (String, u64);

/// What a peer knows of a flow.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Known {
    backend: std::net::IpAddr,
    /// On the agent's clock.
    until: Duration,
}

/// What one peer knows.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    known: HashMap<Key, Known>,
}

impl Ledger {
    /// The exceptions that the peer must still be told, [`MOST`] in mind at most, and how many had no place.
    ///
    /// `now` and everything told is on the agent's clock. Call [`Self::told`] once the peer has them.
    #[must_use]
    pub fn due(&self, all: &[Exception], now: Duration) -> (Vec<Exception>, usize) {
        let mut room = MOST.saturating_sub(self.known.len());
        let mut left_out = 0;
        let due = all.iter().filter(|e| match self.known.get(&(e.service.clone(), e.hash)) {
            Some(known) => known.backend != e.backend || is_stale(known.until, now, e.left),
            None if room == 0 => {
                left_out += 1;
                false
            }
            None => {
                room -= 1;
                true
            }
        });
        (due.cloned().collect(), left_out)
    }

    /// The peer has these now, or had them before we did.
    pub fn told(&mut self, flows: &[Exception], now: Duration) {
        for e in flows {
            let known = Known { backend: e.backend, until: now + e.left };
            let key = (e.service.clone(), e.hash);
            if self.known.len() < MOST || self.known.contains_key(&key) {
                self.known.insert(key, known);
            }
        }
    }

    /// Forgets what has expired at the peer.
    pub fn expire(&mut self, now: Duration) {
        self.known.retain(|_, known| known.until > now);
    }

    /// Flows in mind.
    #[must_use]
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// True when the peer knows nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }
}

/// The peer would forget the flow well before we do: with less than two thirds of our time left.
fn is_stale(until: Duration, now: Duration, left: Duration) -> bool {
    until.saturating_sub(now) < left * 2 / 3
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{IpAddr, Ipv4Addr};

    const fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    fn exception(hash: u64, backend: u8, left: u64) -> Exception {
        let backend = IpAddr::V4(Ipv4Addr::new(10, 0, 0, backend));
        Exception { service: "sip".into(), hash, backend, left: seconds(left) }
    }

    #[test]
    fn a_flow_is_told_once_and_again_when_it_lives_on_or_moves() {
        let mut ledger = Ledger::default();
        let flow = exception(1, 1, 300);
        assert_eq!(ledger.due(std::slice::from_ref(&flow), seconds(0)), (vec![flow.clone()], 0));
        ledger.told(&[flow], seconds(0));
        let due = |ledger: &Ledger, e, now| ledger.due(&[e], seconds(now)).0.len();
        assert_eq!(due(&ledger, exception(1, 1, 250), 50), 0, "silent");
        assert_eq!(due(&ledger, exception(1, 1, 300), 50), 0, "refreshed, but known for long enough");
        assert_eq!(due(&ledger, exception(1, 1, 300), 101), 1, "refreshed, and the peer's is getting old");
        assert_eq!(due(&ledger, exception(1, 2, 250), 50), 1, "elsewhere now");
        assert_eq!(due(&ledger, exception(2, 1, 250), 50), 1, "another flow");
        ledger.expire(seconds(299));
        assert_eq!(ledger.len(), 1);
        ledger.expire(seconds(300));
        assert!(ledger.is_empty());
    }

    #[test]
    fn what_was_learned_from_a_peer_is_not_told_back() {
        let mut ledger = Ledger::default();
        ledger.told(&[exception(1, 1, 300)], seconds(10));
        assert_eq!(ledger.due(&[exception(1, 1, 290)], seconds(20)), (vec![], 0));
    }

    #[test]
    fn more_than_the_bound_are_left_out_and_counted() {
        let mut ledger = Ledger::default();
        let most: Vec<_> = (0..MOST as u64).map(|hash| exception(hash, 1, 300)).collect();
        ledger.told(&most, seconds(0));
        let more = [exception(5, 2, 300), exception(1 << 20, 1, 300)];
        let (due, left_out) = ledger.due(&more, seconds(0));
        assert_eq!((due.len(), left_out), (1, 1), "a known flow still moves");
        ledger.told(&more, seconds(0));
        assert_eq!(ledger.len(), MOST);
    }
}
