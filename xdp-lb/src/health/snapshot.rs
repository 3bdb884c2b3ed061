//! Health as plain data: what the planner, `status`, the log and the metrics read.

use std::collections::BTreeMap;
use std::time::Duration;

use super::board::Key;
use super::machine::State;
use super::reason::{Failure, Unable};

/// Upper bounds of the duration histogram, milliseconds; the last bucket is everything above.
pub const BUCKETS: [u64; 8] = [1, 5, 10, 50, 100, 500, 1000, 5000];

/// All backends that are asked, at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HealthSnapshot {
    /// Grows with every change of a state or of who is asked: equal numbers mean nothing to do for the planner.
    pub changes: u64,
    /// Grows with every change of a reason.
    pub words: u64,
    /// By service and backend.
    pub targets: BTreeMap<Key, TargetHealth>,
}

/// One backend of one service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetHealth {
    /// State.
    pub state: State,
    /// Since when, on the board's clock.
    pub since: Duration,
    /// What is asked: the configuration's word.
    pub kind: &'static str,
    /// Why the last bad answer was bad.
    pub reason: Option<Failure>,
    /// Why the last question could not be asked.
    pub unable: Option<Unable>,
    /// Answers in a row against the present state.
    pub streak: u32,
    /// How many of them change it.
    pub needed: u32,
    /// Good answers so far.
    pub good: u64,
    /// Bad answers so far.
    pub bad: u64,
    /// How long good answers took: how many by [`BUCKETS`] and above.
    pub took: [u64; BUCKETS.len() + 1],
    /// Their sum.
    pub took_sum: Duration,
}

impl TargetHealth {
    /// State and reason in words, for `status`: `down: nothing listens on port 80 of ...`.
    #[must_use]
    pub fn words(&self) -> String {
        let state = self.state.word();
        let progress = match self.state {
            State::Starting | State::Down if self.streak > 0 => {
                format!(" ({} of {} good answers)", self.streak, self.needed)
            }
            State::Up if self.streak > 0 => format!(" ({} of {} bad answers)", self.streak, self.needed),
            _ => String::new(),
        };
        match (&self.unable, &self.reason) {
            (Some(unable), _) => format!("{state}{progress}, not asked: {unable}"),
            (None, Some(reason)) => format!("{state}{progress}: {reason}"),
            (None, None) => format!("{state}{progress}"),
        }
    }
}
