//! What a node still knows of pods that have left: an edge node may hear of it later, and sends to them until then.
//!
//! ```text
//!   there ---left---> leaving, for a while ---> forgotten
//!                        `- at once, where its place is another's: the port leads elsewhere now, or the address is
//!                           another pod's
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use super::own_pods::{At, Leads};

/// For so long, unless said otherwise: edge nodes hear of it in milliseconds, and some time later where the API server is
/// busy.
pub(super) const LINGER: Duration = Duration::from_secs(30);

/// Who was told of, and who has left since.
#[derive(Debug)]
pub(super) struct Lingering {
    /// How long who has left is known.
    linger: Duration,
    there: BTreeMap<At, Leads>,
    leaving: BTreeMap<At, Left>,
}

#[derive(Debug)]
struct Left {
    leads: Leads,
    /// On the caller's clock.
    until: Duration,
}

impl Lingering {
    pub fn new(linger: Duration) -> Self {
        Self { linger, there: BTreeMap::new(), leaving: BTreeMap::new() }
    }

    /// Who is there at `now`, and who has each address of this node. What else is still to be known comes back.
    pub fn turn(
        &mut self,
        there: BTreeMap<At, Leads>,
        owners: &BTreeMap<IpAddr, BTreeSet<&str>>,
        now: Duration,
    ) -> BTreeMap<At, Leads> {
        for (at, leads) in std::mem::replace(&mut self.there, there) {
            if !self.there.contains_key(&at) {
                self.leaving.insert(at, Left { leads, until: now + self.linger });
            }
        }
        let there = &self.there;
        self.leaving.retain(|at, Left { leads, until }| {
            let is_anothers = owners.get(&at.pod).is_some_and(|who| !who.contains(&*leads.who));
            *until > now && !there.contains_key(at) && !is_anothers
        });
        self.leaving.iter().map(|(at, left)| (*at, left.leads.clone())).collect()
    }

    /// When somebody is to be forgotten, on the clock of [`Self::turn`].
    pub fn next(&self) -> Option<Duration> {
        self.leaving.values().map(|left| left.until).min()
    }

    /// Whether somebody has left.
    pub fn is_empty(&self) -> bool {
        self.leaving.is_empty()
    }
}
