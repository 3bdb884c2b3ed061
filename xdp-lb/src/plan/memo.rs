//! What follows from the configuration alone and takes long to compute, kept from plan to plan by its content.
//!
//! A home table takes a millisecond, and there may be hundreds of rings: with one backend changed, one table is
//! built. A memo changes no plan; what no plan asked for last time is forgotten.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::{
    gates,
    maglev::{self, MaglevTable, TableError},
    model::{self, Share, TableSize},
};

/// Tables by what they are made from.
#[derive(Debug, Default)]
pub struct Memo(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    homes: HashMap<HomeKey, (Arc<MaglevTable>, bool)>,
    assignments: HashMap<AssignmentKey, (Arc<Assignment>, bool)>,
}

type HomeKey = (TableSize, u64, Vec<maglev::Member>);
type AssignmentKey = (TableSize, u64, Vec<(IpAddr, u16, Share)>);

/// Which backend every slot belongs to while all is as configured.
#[derive(Debug)]
pub(super) struct Assignment {
    /// Backends, by position.
    pub(super) addresses: Vec<IpAddr>,
    /// The position of every slot's backend, or `NO_BACKEND`.
    pub(super) positions: Vec<u16>,
}

impl Memo {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        // Whatever a panic left is complete: entries are made before they are put in.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The assignment of a service's slots.
    pub(super) fn assignment(&self, like: &model::Service, seed: u64) -> Result<Arc<Assignment>, TableError> {
        let gate = |b: &model::Backend| gates::opening(b.state, b.share);
        let key: AssignmentKey =
            (like.table_size, seed, like.backends.iter().map(|b| (b.address, b.weight, gate(b))).collect());
        let kept = &mut *self.kept();
        if let Some((assignment, used)) = kept.assignments.get_mut(&key) {
            *used = true;
            // The home table goes with it, for the next change of a gate.
            if let Some((_, used)) = kept.homes.get_mut(&home_key(like, seed)) {
                *used = true;
            }
            return Ok(Arc::clone(assignment));
        }
        let home = kept.home(home_key(like, seed))?;
        let shares: HashMap<IpAddr, Share> =
            key.2.iter().map(|&(address, _, share)| (address, share)).collect();
        let share = |m: &maglev::Member| shares.get(&m.address).copied().unwrap_or(Share::NONE);
        let assignment = Arc::new(Assignment {
            addresses: home.members().iter().map(|m| m.address).collect(),
            positions: gates::assign(&home, share),
        });
        kept.assignments.insert(key, (Arc::clone(&assignment), true));
        Ok(assignment)
    }

    /// Forgets what was not asked for since the last time.
    pub(super) fn forget_unused(&self) {
        let kept = &mut *self.kept();
        kept.homes.retain(|_, (_, used)| std::mem::take(used));
        kept.assignments.retain(|_, (_, used)| std::mem::take(used));
    }
}

fn home_key(like: &model::Service, seed: u64) -> HomeKey {
    let members = like.backends.iter().map(|b| maglev::Member { address: b.address, weight: b.weight });
    (like.table_size, seed, members.collect())
}

impl Kept {
    fn home(&mut self, key: HomeKey) -> Result<Arc<MaglevTable>, TableError> {
        if let Some((home, used)) = self.homes.get_mut(&key) {
            *used = true;
            return Ok(Arc::clone(home));
        }
        let home = Arc::new(MaglevTable::new(key.2.iter().copied(), key.0, key.1)?);
        self.homes.insert(key, (Arc::clone(&home), true));
        Ok(home)
    }
}
