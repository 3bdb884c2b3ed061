//! Answers to health checks as counters that never fall: a backend that goes takes its figures out of the snapshot, and
//! Prometheus would take what is left for a restart.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::health::{BUCKETS, HealthSnapshot, Key};

/// Answers by kind of check.
pub type Checks = BTreeMap<&'static str, Answers>;

/// Answers to one kind of check since the agent started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Answers {
    /// Good ones.
    pub good: u64,
    /// Bad ones.
    pub bad: u64,
    /// Good ones by how long they took: how many by [`BUCKETS`] and above.
    pub took: [u64; BUCKETS.len() + 1],
    /// The sum of that.
    pub took_sum: Duration,
}

impl Answers {
    fn add(&mut self, other: &Self) {
        self.good += other.good;
        self.bad += other.bad;
        self.took.iter_mut().zip(other.took).for_each(|(sum, n)| *sum += n);
        self.took_sum += other.took_sum;
    }
}

/// Adds up snapshots.
#[derive(Debug, Default)]
pub struct Tally {
    /// Of targets that are gone, or were made anew.
    gone: Checks,
    seen: BTreeMap<Key, (&'static str, Answers)>,
}

impl Tally {
    /// All answers, those of targets included that are no longer asked. What such a target answered after the last
    /// call is lost.
    pub fn fold(&mut self, snapshot: &HealthSnapshot) -> Checks {
        let now: BTreeMap<Key, (&'static str, Answers)> = snapshot
            .targets
            .iter()
            .map(|(key, t)| {
                let answers = Answers { good: t.good, bad: t.bad, took: t.took, took_sum: t.took_sum };
                (key.clone(), (t.kind, answers))
            })
            .collect();
        for (key, (kind, was)) in &self.seen {
            let goes_on = now
                .get(key)
                .is_some_and(|(same, is)| same == kind && is.good >= was.good && is.bad >= was.bad);
            if !goes_on {
                self.gone.entry(kind).or_default().add(was);
            }
        }
        let mut checks = self.gone.clone();
        now.values().for_each(|(kind, answers)| checks.entry(kind).or_default().add(answers));
        self.seen = now;
        checks
    }
}
