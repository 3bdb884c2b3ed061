//! What the daemon's loop tells the endpoint, as it happens. Costs the loop a lock that nobody holds for long.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::watch;

use crate::{
    forecast::moves::Moved,
    metrics::{Condition, Flows},
    peers::Counts,
    survey::Survey,
};

/// Says how the agent is. Clones say it of the same agent.
#[derive(Clone, Debug)]
pub struct Reporter {
    condition: Arc<watch::Sender<Condition>>,
    started: Instant,
}

impl Default for Reporter {
    fn default() -> Self {
        Self { condition: Arc::new(watch::Sender::new(Condition::default())), started: Instant::now() }
    }
}

impl Reporter {
    /// The agent's clock.
    #[must_use]
    pub fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// How the agent is.
    #[must_use]
    pub fn condition(&self) -> Condition {
        self.condition.borrow().clone()
    }

    /// The same, as it changes.
    #[cfg(feature = "kubernetes")]
    #[must_use]
    pub fn conditions(&self) -> watch::Receiver<Condition> {
        self.condition.subscribe()
    }

    /// The loop turns.
    pub fn beat(&self) {
        self.condition.send_modify(|c| c.beat = self.now());
    }

    /// The tables are complete, and the program is to run on `interfaces`.
    pub fn runs_on(&self, interfaces: Vec<String>) {
        self.condition.send_modify(|c| (c.started, c.interfaces) = (true, interfaces));
    }

    /// The agent ends.
    pub fn leaving(&self) {
        self.condition.send_modify(|c| c.leaving = true);
    }

    /// Writes to the maps were tried. `None`: all is as wanted.
    pub fn wrote(&self, failure: Option<String>) {
        self.condition.send_modify(|c| {
            if failure.is_none() && (c.failure.is_some() || c.applied == 0) {
                c.applied = unix_now();
            }
            c.failure = failure;
        });
    }

    /// Another configuration was offered; an error says why it cannot be used.
    pub fn offered(&self, taken: Result<(), String>) {
        self.condition.send_modify(|c| {
            c.refused = taken.err();
            if c.refused.is_none() && c.failure.is_none() {
                c.applied = unix_now();
            }
        });
    }

    /// The cluster's resources for this node are others; an error says why they cannot be used.
    pub fn resources(&self, taken: Result<(), String>) {
        self.condition.send_modify(|c| c.refused_resources = taken.err());
    }

    /// These resources are in force.
    pub fn has(&self, resources: Vec<String>) {
        self.condition.send_if_modified(|c| {
            let differs = c.resources != resources;
            c.resources = resources;
            differs
        });
    }

    /// Flows were told to peers or by them.
    pub fn synced(&self, counts: Option<Counts>) {
        self.condition.send_if_modified(|c| std::mem::replace(&mut c.peers, counts) != counts);
    }

    /// Commands have had so many flows forgotten.
    pub fn forgot(&self, flows: u64) {
        self.condition.send_modify(|c| c.forgotten = flows);
    }

    /// Remembered flows had to leave their backends.
    pub fn moved(&self, moved: &[Moved]) {
        if !moved.is_empty() {
            self.condition.send_modify(|c| {
                for Moved { reason, flows, .. } in moved {
                    c.moved[*reason as usize] += flows;
                }
            });
        }
    }

    /// Services for which the backends' states are not as wanted, and why; `None` where there are none.
    pub fn left_aside(&self, why: Option<String>) {
        self.condition.send_if_modified(|c| std::mem::replace(&mut c.aside, why.clone()) != why);
    }

    /// The flow table could not be read, or not tidied.
    pub fn not_surveyed(&self, why: String) {
        self.condition.send_modify(|c| c.untidy = Some(why));
    }

    /// The flow table was read.
    pub fn surveyed(&self, survey: &Survey) {
        let flows = Flows { live: survey.live, members: survey.census.members.clone() };
        self.condition.send_modify(|c| {
            c.cleared += survey.sweeps.len() as u64;
            c.flows = Some(Arc::new(flows));
            c.untidy = None;
        });
    }
}

fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_write_is_made_good_by_the_next_and_a_refused_file_by_the_next() {
        let reporter = Reporter::default();
        let said = || {
            let c = reporter.condition();
            (c.applied > 0, c.failure.is_some(), c.refused.is_some())
        };
        assert_eq!(said(), (false, false, false));
        reporter.wrote(Some("map rings".into()));
        assert_eq!(said(), (false, true, false));
        reporter.wrote(None);
        assert_eq!(said(), (true, false, false));
        reporter.offered(Err("no".into()));
        reporter.wrote(None);
        assert_eq!(said(), (true, false, true), "the loop's next write says nothing about the file");
        reporter.resources(Err("nor these".into()));
        assert_eq!(reporter.condition().refusal().as_deref(), Some("no; nor these"));
        reporter.offered(Ok(()));
        assert_eq!(said(), (true, false, false));
        assert_eq!(reporter.condition().refusal().as_deref(), Some("nor these"));
        reporter.resources(Ok(()));
        assert_eq!(reporter.condition().refusal(), None);
    }
}
