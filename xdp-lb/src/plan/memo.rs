//! What follows from the configuration alone and takes long to compute, kept from plan to plan by its content.
//!
//! A home table takes a millisecond, and there may be hundreds of rings: with one backend changed, one table is
//! built. What has been compared with the maps is not compared again while neither has changed. A memo changes no
//! plan; what no plan asked for last time is forgotten.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use xdp_lb_common::vip::{PortPage, VipSlot};

use crate::{
    gates,
    maglev::{self, MaglevTable, TableError},
    model::{self, Desired, Ports, Protocol, Share, TableSize, Vip},
    state::{Observed, Place, Slots},
};

/// Tables by what they are made from.
#[derive(Debug, Default)]
pub struct Memo(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    homes: HashMap<HomeKey, (Arc<MaglevTable>, bool)>,
    assignments: HashMap<AssignmentKey, (Arc<Assignment>, bool)>,
    /// Rings whose slots were found to be their targets, all clean.
    settled: HashMap<Place, Settled>,
    vips: Option<Vips>,
}

/// Slots that have been compared. What is compared by its allocation is kept alive here.
#[derive(Debug)]
struct Settled {
    slots: Arc<Slots>,
    assignment: Arc<Assignment>,
    by_position: Vec<u16>,
}

/// Where a service listens, with its id.
type Listener = (u16, Protocol, Vec<IpAddr>, Ports);

/// VIPs and pages that have been compared with what they are made from.
#[derive(Debug)]
struct Vips {
    vips: Arc<Vec<VipSlot>>,
    pages: Arc<BTreeMap<u32, PortPage>>,
    services: Vec<Listener>,
    policies: Vec<Vip>,
    decap: Vec<IpAddr>,
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

    /// True when the slots of a ring were found to be `assignment`, and are the same ones.
    pub(super) fn is_settled(
        &self,
        place: Place,
        slots: &Arc<Slots>,
        assignment: &Arc<Assignment>,
        by_position: &[u16],
    ) -> bool {
        self.kept().settled.get(&place).is_some_and(|settled| {
            Arc::ptr_eq(&settled.slots, slots)
                && Arc::ptr_eq(&settled.assignment, assignment)
                && settled.by_position == by_position
        })
    }

    /// The slots of a ring are their targets, and clean.
    pub(super) fn settle(
        &self,
        place: Place,
        slots: &Arc<Slots>,
        assignment: Arc<Assignment>,
        by_position: Vec<u16>,
    ) {
        let settled = Settled { slots: Arc::clone(slots), assignment, by_position };
        self.kept().settled.insert(place, settled);
    }

    /// True when the live VIPs were found to be what `desired` asks for, and nothing of either has changed.
    pub(super) fn are_vips_settled(&self, desired: &Desired, ids: &[u16], observed: &Observed) -> bool {
        self.kept().vips.as_ref().is_some_and(|known| {
            let services = desired.services.iter().zip(ids);
            let same = |((s, id), known): ((&model::Service, &u16), &Listener)| {
                (id, &s.protocol, &s.vips, &s.ports) == (&known.0, &known.1, &known.2, &known.3)
            };
            Arc::ptr_eq(&known.vips, &observed.vips)
                && Arc::ptr_eq(&known.pages, &observed.pages)
                && known.services.len() == ids.len()
                && services.zip(&known.services).all(same)
                && known.policies == desired.vips
                && known.decap == decap_vips(desired)
        })
    }

    /// The live VIPs are what `desired` asks for.
    pub(super) fn settle_vips(&self, desired: &Desired, ids: &[u16], observed: &Observed) {
        let services = desired.services.iter().zip(ids);
        self.kept().vips = Some(Vips {
            vips: Arc::clone(&observed.vips),
            pages: Arc::clone(&observed.pages),
            services: services.map(|(s, &id)| (id, s.protocol, s.vips.clone(), s.ports.clone())).collect(),
            policies: desired.vips.clone(),
            decap: decap_vips(desired).to_vec(),
        });
    }

    /// Forgets what was not asked for since the last time, and rings that are gone.
    pub(super) fn forget_unused(&self, observed: &Observed) {
        let kept = &mut *self.kept();
        kept.settled.retain(|place, _| observed.rings.contains_key(place));
        kept.homes.retain(|_, (_, used)| std::mem::take(used));
        kept.assignments.retain(|_, (_, used)| std::mem::take(used));
    }
}

fn decap_vips(desired: &Desired) -> &[IpAddr] {
    desired.decap.as_ref().map_or(&[], |decap| &decap.vips)
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
