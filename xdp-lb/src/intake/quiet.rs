//! When a burst of changes is over. Pure: time is a parameter.
//!
//! Whoever writes a file in place leaves half a file for a moment, and half a list of services is a good list of fewer.
//! So a file that somebody is writing is waited for until it is closed; a rename has no such moment.

use std::{collections::BTreeSet, path::PathBuf, time::Duration};

/// A burst is over after so long without a change.
const QUIET: Duration = Duration::from_millis(200);
/// Or after so long, if changes never cease.
const LONGEST: Duration = Duration::from_secs(2);
/// A writer who keeps silent for so long with the file open has forgotten it.
const FORGOTTEN: Duration = Duration::from_secs(10);

/// What happened to a file or to an entry of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Bytes were written to it, and it is still open.
    Writing(PathBuf),
    /// Somebody who could write to it closed it, or it became another file.
    Done(PathBuf),
    /// Something, perhaps.
    Unknown,
}

/// A burst of changes, or none.
#[derive(Debug, Default)]
pub struct Quiet {
    /// First and last change.
    burst: Option<(Duration, Duration)>,
    writing: BTreeSet<PathBuf>,
}

impl Quiet {
    /// Something happened.
    pub fn note(&mut self, change: Change, now: Duration) {
        match change {
            Change::Writing(path) => _ = self.writing.insert(path),
            Change::Done(path) => _ = self.writing.remove(&path),
            Change::Unknown => {}
        }
        let first = self.burst.map_or(now, |(first, _)| first);
        self.burst = Some((first, now));
    }

    /// When to look; `None`: nothing has happened.
    pub fn due(&self) -> Option<Duration> {
        let (first, last) = self.burst?;
        if self.writing.is_empty() {
            Some((last + QUIET).min(first + LONGEST))
        } else {
            Some(last + FORGOTTEN)
        }
    }

    /// Somebody looks.
    pub fn looked(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    fn done() -> Change {
        Change::Done("edge.yaml".into())
    }

    #[test]
    fn a_burst_is_one_look_after_it() {
        let mut quiet = Quiet::default();
        assert_eq!(quiet.due(), None);
        for n in 0..50 {
            quiet.note(done(), ms(n * 10));
        }
        assert_eq!(quiet.due(), Some(ms(690)));
        quiet.looked();
        assert_eq!(quiet.due(), None);
    }

    #[test]
    fn changes_that_never_cease_are_looked_at_all_the_same() {
        let mut quiet = Quiet::default();
        for n in 0..100 {
            quiet.note(done(), ms(1000 + n * 100));
        }
        assert_eq!(quiet.due(), Some(ms(3000)));
    }

    #[test]
    fn a_file_that_is_being_written_is_waited_for() {
        let mut quiet = Quiet::default();
        for n in 0..10 {
            quiet.note(Change::Writing("edge.yaml".into()), ms(n * 1000));
            quiet.note(Change::Done("other.yaml".into()), ms(n * 1000));
        }
        assert_eq!(quiet.due(), Some(ms(19_000)), "the writer may have died");
        quiet.note(done(), ms(9_500));
        assert_eq!(quiet.due(), Some(ms(2000)), "at once: it is long since the first");
    }
}
