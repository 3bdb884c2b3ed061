//! Backends in memory.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::Prober;
use crate::health::{Answer, Failure, Suspect, Target};

/// How a backend in memory behaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Behaviour {
    /// Answers well.
    Good,
    /// Answers at once like this.
    Bad(Failure),
    /// Never answers: the timeout passes.
    Silent(Suspect),
}

/// Backends whose behaviour a test decides; unknown ones are good.
#[derive(Clone, Debug, Default)]
pub struct MemoryProber {
    behaviours: Arc<Mutex<BTreeMap<IpAddr, Behaviour>>>,
    counts: Arc<Mutex<Counts>>,
}

/// Questions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// So far.
    pub asked: u64,
    /// Under way now.
    pub under_way: u64,
    /// Under way at the same time, at most.
    pub peak: u64,
}

impl MemoryProber {
    /// Changes what a backend does from now on.
    pub fn set(&self, backend: IpAddr, behaviour: Behaviour) {
        self.behaviours.lock().unwrap_or_else(PoisonError::into_inner).insert(backend, behaviour);
    }

    /// Questions so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        *self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self) -> UnderWay<'_> {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        (counts.asked, counts.under_way) = (counts.asked + 1, counts.under_way + 1);
        counts.peak = counts.peak.max(counts.under_way);
        UnderWay(self)
    }

    fn behaviour(&self, backend: IpAddr) -> Behaviour {
        let behaviours = self.behaviours.lock().unwrap_or_else(PoisonError::into_inner);
        behaviours.get(&backend).cloned().unwrap_or(Behaviour::Good)
    }
}

/// A question until it is answered or given up.
struct UnderWay<'a>(&'a MemoryProber);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.counts.lock().unwrap_or_else(PoisonError::into_inner).under_way -= 1;
    }
}

impl Prober for MemoryProber {
    async fn ask(&self, target: Arc<Target>, backend: IpAddr, address: IpAddr) -> Answer {
        let _under_way = self.count();
        match self.behaviour(backend) {
            Behaviour::Good => Answer::Good(Duration::from_micros(100)),
            Behaviour::Bad(failure) => Answer::Bad(failure),
            Behaviour::Silent(_) => {
                tokio::time::sleep(target.check.timeout).await;
                Answer::Bad(Failure::Silent { address, suspect: Suspect::Unknown })
            }
        }
    }

    async fn suspect(&self, _: Arc<Target>, backend: IpAddr) -> Suspect {
        match self.behaviour(backend) {
            Behaviour::Silent(suspect) => suspect,
            Behaviour::Good | Behaviour::Bad(_) => Suspect::Unknown,
        }
    }
}
