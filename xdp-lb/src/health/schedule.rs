//! When a backend is asked: on a grid of its own, so that thousands of checks spread over the interval, with a jitter
//! that keeps nodes from falling into step. A pure function of seed, key and round.
//!
//! ```text
//!   first + phase     + interval        + 2 interval
//!     |--j--|           |-j-|             |----j|          0 <= j < interval / 10
//! ```

use std::time::Duration;

use xdp_lb_common::hash::mix;

/// The grid of one backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schedule {
    first: Duration,
    interval: Duration,
    word: u64,
}

impl Schedule {
    /// A grid that begins within one interval of `now`; `key` tells the backends of a node apart.
    #[must_use]
    pub fn new(now: Duration, interval: Duration, seed: u64, key: u64) -> Self {
        let word = mix(seed ^ mix(key));
        Self { first: now + part(interval, word), interval, word }
    }

    /// The largest deviation from the grid.
    #[must_use]
    pub fn jitter(interval: Duration) -> Duration {
        interval / 10
    }

    /// When round `round` begins.
    #[must_use]
    pub fn at(&self, round: u32) -> Duration {
        let jitter = part(Self::jitter(self.interval), mix(self.word ^ u64::from(round)));
        self.first + self.interval * round + jitter
    }

    /// The next round after `round` that begins later than `now`: rounds that were missed are not made up for.
    #[must_use]
    pub fn next(&self, round: u32, now: Duration) -> u32 {
        let passed = now.saturating_sub(self.first).as_nanos() / self.interval.as_nanos().max(1);
        let passed = u32::try_from(passed).unwrap_or(u32::MAX);
        let next = (round + 1).max(passed);
        if self.at(next) > now { next } else { next + 1 }
    }
}

/// A part of `whole`, 0 or more and less than it, that `word` chooses.
fn part(whole: Duration, word: u64) -> Duration {
    let nanos = u64::try_from(whole.as_nanos()).unwrap_or(u64::MAX);
    Duration::from_nanos(((u128::from(nanos) * u128::from(word)) >> 64) as u64)
}
