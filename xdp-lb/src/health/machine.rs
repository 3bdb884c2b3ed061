//! One backend's state: how many answers in a row make it up or down, and how flapping is damped.
//!
//! ```text
//!   Starting --rise good--> Up --fall bad--> Down --rise x damping good--> Up
//!           \--fall bad--> Down
//! ```
//!
//! Falling is never damped. Each fall within [`WINDOW`] of the last doubles the good answers that the next rise
//! takes, up to [`MOST`] times `rise`; each quiet window halves it again.

use std::time::Duration;

use serde::Serialize;

use super::check::Check;
use super::reason::Failure;

/// How long a fall is remembered, at least; slow checks remember thirty intervals.
const WINDOW: Duration = Duration::from_secs(60);
/// Largest factor on `rise`.
const MOST: u32 = 16;

/// What is known of a backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// New, and neither risen nor fallen yet: closed.
    Starting,
    /// Answers.
    Up,
    /// Does not answer.
    Down,
}

impl State {
    /// The word in status and log.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Up => "up",
            Self::Down => "down",
        }
    }
}

/// A change of state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// Before.
    pub from: State,
    /// Since now.
    pub to: State,
}

/// The state machine of one backend of one service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    state: State,
    since: Duration,
    /// Good answers in a row; 0 after a bad one.
    good: u32,
    /// Bad answers in a row; 0 after a good one.
    bad: u32,
    /// Why the last bad answer was bad, until the backend is up.
    reason: Option<Failure>,
    /// Falls remembered and when the last was.
    falls: u32,
    fell: Duration,
}

impl Machine {
    /// A backend that nobody has asked yet: closed until it has risen.
    #[must_use]
    pub fn new(now: Duration) -> Self {
        Self::resumed(State::Starting, now)
    }

    /// A backend whose state an earlier agent left in the maps.
    #[must_use]
    pub fn resumed(state: State, now: Duration) -> Self {
        Self { state, since: now, good: 0, bad: 0, reason: None, falls: 0, fell: Duration::ZERO }
    }

    /// The state.
    #[must_use]
    pub fn state(&self) -> State {
        self.state
    }

    /// When it became so, on the caller's clock.
    #[must_use]
    pub fn since(&self) -> Duration {
        self.since
    }

    /// Why the last bad answer was bad; `None` after a good one while up, and before the first.
    #[must_use]
    pub fn reason(&self) -> Option<&Failure> {
        self.reason.as_ref()
    }

    /// Answers in a row that speak against the present state.
    #[must_use]
    pub fn streak(&self) -> u32 {
        match self.state {
            State::Up => self.bad,
            State::Starting | State::Down => self.good,
        }
    }

    /// Good answers in a row that the next rise takes.
    #[must_use]
    pub fn needed(&self, check: &Check, now: Duration) -> u32 {
        let factor = 1u32.checked_shl(self.remembered(check, now).saturating_sub(1)).unwrap_or(MOST);
        check.rise.saturating_mul(factor.clamp(1, MOST))
    }

    /// Takes an answer at `now`; says whether the state changed.
    pub fn observe(&mut self, check: &Check, now: Duration, answer: Result<(), Failure>) -> Option<Change> {
        match answer {
            Ok(()) => (self.good, self.bad) = (self.good.saturating_add(1), 0),
            Err(reason) => {
                (self.good, self.bad) = (0, self.bad.saturating_add(1));
                self.reason = Some(reason);
            }
        }
        match self.state {
            State::Up if self.good > 0 => {
                self.reason = None;
                None
            }
            State::Up | State::Starting if self.bad >= check.fall => {
                if self.state == State::Up {
                    self.falls = self.remembered(check, now).saturating_add(1).min(MOST);
                    self.fell = now;
                }
                Some(self.enter(State::Down, now))
            }
            State::Starting | State::Down if self.good >= self.needed(check, now) => {
                self.reason = None;
                Some(self.enter(State::Up, now))
            }
            State::Starting | State::Up | State::Down => None,
        }
    }

    /// Puts a better reason in the place of the present one; says whether it differs.
    pub fn explain(&mut self, better: Failure) -> bool {
        let differs = self.reason.as_ref().is_some_and(|reason| *reason != better);
        if differs {
            self.reason = Some(better);
        }
        differs
    }

    fn enter(&mut self, to: State, now: Duration) -> Change {
        let from = std::mem::replace(&mut self.state, to);
        self.since = now;
        Change { from, to }
    }

    /// Falls that still count at `now`.
    fn remembered(&self, check: &Check, now: Duration) -> u32 {
        let window = WINDOW.max(check.interval.saturating_mul(30));
        let quiet = now.saturating_sub(self.fell).as_millis() / window.as_millis().max(1);
        self.falls.saturating_sub(u32::try_from(quiet).unwrap_or(u32::MAX))
    }
}
