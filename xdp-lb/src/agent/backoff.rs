//! When to try again after a failure: soon, then later and later.

use std::time::Duration;

use tokio::time::Instant;

/// First pause after a failure; it doubles up to [`LAST`].
pub(super) const FIRST: Duration = Duration::from_millis(100);
/// Longest pause after a failure.
pub(super) const LAST: Duration = Duration::from_secs(10);

/// Failures in a row, and the next try.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Backoff(Option<(Instant, Duration)>);

impl Backoff {
    /// Something failed `now`: how long to wait.
    pub(super) fn failed(&mut self, now: Instant) -> Duration {
        let pause = self.0.map_or(FIRST, |(_, pause)| (pause * 2).min(LAST));
        self.0 = Some((now + pause, pause));
        pause
    }

    /// Something else failed `now` than before: the first pause again.
    pub(super) fn failed_anew(&mut self, now: Instant) {
        self.0 = None;
        self.failed(now);
    }

    /// It worked.
    pub(super) fn worked(&mut self) {
        self.0 = None;
    }

    /// When to try again; `None` when nothing failed.
    pub(super) fn at(&self) -> Option<Instant> {
        self.0.map(|(at, _)| at)
    }

    /// The last pause; `None` when nothing failed.
    pub(super) fn pause(&self) -> Option<Duration> {
        self.0.map(|(_, pause)| pause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_last_and_begin_anew() {
        let (mut backoff, now) = (Backoff::default(), Instant::now());
        let pauses: Vec<u128> = (0..9).map(|_| backoff.failed(now).as_millis()).collect();
        assert_eq!(pauses, [100, 200, 400, 800, 1600, 3200, 6400, 10_000, 10_000]);
        assert_eq!((backoff.at(), backoff.pause()), (Some(now + LAST), Some(LAST)));
        backoff.worked();
        assert_eq!((backoff.at(), backoff.pause()), (None, None));
        backoff.failed(now);
        backoff.failed(now);
        backoff.failed_anew(now);
        assert_eq!(backoff.pause(), Some(FIRST));
    }
}
