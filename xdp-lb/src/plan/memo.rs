//! What follows from the configuration alone and takes long to compute, kept from plan to plan by its content.
//!
//! A home table takes a millisecond, and there may be hundreds of rings: with one backend changed, one table is
//! built. What has been compared with the maps is not compared again while neither has changed. A memo changes no
//! plan. What no whole plan asked for since the one before it is forgotten, and beyond [`MOST_SLOTS`] tables are built each time
//! as they are needed.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use xdp_lb_common::vip::{PortPage, VipSlot};

use crate::{
    fragments::alike,
    gates,
    maglev::{self, MaglevTable, TableError},
    model::{self, Affinity, Desired, Share, TableSize, Vip},
    state::{Observed, Place, Slots},
};

/// Slots of all tables that are kept, two bytes each: 64 MiB, 256 rings of 65537.
pub const MOST_SLOTS: u64 = 512 * 65_537;

/// Tables by what they are made from. One for the agent's life, or a new one where a single plan is made.
#[derive(Debug, Default)]
pub struct Memo(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    homes: HashMap<HomeKey, Entry<MaglevTable>>,
    assignments: HashMap<AssignmentKey, Entry<Assignment>>,
    /// Slots of both.
    slots: u64,
    /// Home tables built so far.
    built: u64,
    /// Rings whose slots were found to be their targets, all clean.
    settled: HashMap<Place, Settled>,
    vips: Option<Vips>,
}

#[derive(Debug)]
struct Entry<T> {
    table: Arc<T>,
    /// Asked for since the last whole plan.
    used: bool,
}

/// Slots that have been compared. What is compared by its allocation is kept alive here.
#[derive(Debug)]
struct Settled {
    slots: Arc<Slots>,
    assignment: Arc<Assignment>,
    by_position: Vec<u16>,
}

/// VIPs and pages that have been compared with what they are made from.
#[derive(Debug)]
struct Vips {
    vips: Arc<Vec<VipSlot>>,
    pages: Arc<BTreeMap<u32, PortPage>>,
    services: Vec<(u16, model::Service)>,
    policies: Vec<Vip>,
    /// VIPs that are taken out of tunnels, for the node and for its pods.
    decap: [BTreeSet<IpAddr>; 2],
}

/// Size, seed, and members sorted as the table sorts them: the file's order does not matter.
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
    ///
    /// # Errors
    /// As [`MaglevTable::new`]; failures are not kept.
    pub(super) fn assignment(&self, like: &model::Service, seed: u64) -> Result<Arc<Assignment>, TableError> {
        let mut gates: Vec<(IpAddr, u16, Share)> =
            like.backends.iter().map(|b| (b.address, b.weight, gates::opening(b.state, b.share))).collect();
        gates.sort_unstable();
        let home: HomeKey = (
            like.table_size,
            seed,
            gates.iter().map(|&(address, weight, _)| maglev::Member { address, weight }).collect(),
        );
        let key = (like.table_size, seed, gates);
        let kept = &mut *self.kept();
        if let Some(entry) = kept.assignments.get_mut(&key) {
            entry.used = true;
            // The home table goes with it, for the next change of a gate.
            if let Some(home) = kept.homes.get_mut(&home) {
                home.used = true;
            }
            return Ok(Arc::clone(&entry.table));
        }
        let home = kept.home(home)?;
        let shares: HashMap<IpAddr, Share> =
            key.2.iter().map(|&(address, _, share)| (address, share)).collect();
        let share = |m: &maglev::Member| shares.get(&m.address).copied().unwrap_or(Share::NONE);
        let assignment = Arc::new(Assignment {
            addresses: home.members().iter().map(|m| m.address).collect(),
            positions: gates::assign(&home, share),
        });
        if kept.has_room(assignment.positions.len()) {
            let entry = Entry { table: Arc::clone(&assignment), used: true };
            kept.assignments.insert(key, entry);
        }
        Ok(assignment)
    }

    /// Home tables kept now.
    #[must_use]
    pub fn homes(&self) -> usize {
        self.kept().homes.len()
    }

    /// Home tables built so far.
    #[must_use]
    pub fn built(&self) -> u64 {
        self.kept().built
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

    /// The slots of a ring are their targets, and clean. Not noted of an assignment that is not kept, which will be
    /// another one next time.
    pub(super) fn settle(
        &self,
        place: Place,
        slots: &Arc<Slots>,
        assignment: Arc<Assignment>,
        by_position: Vec<u16>,
    ) {
        let kept = &mut *self.kept();
        if kept.assignments.values().any(|entry| Arc::ptr_eq(&entry.table, &assignment)) {
            let settled = Settled { slots: Arc::clone(slots), assignment, by_position };
            kept.settled.insert(place, settled);
        }
    }

    /// True when the live VIPs were found to be what `desired` asks for, and nothing of either has changed.
    pub(super) fn are_vips_settled(&self, desired: &Desired, ids: &[u16], observed: &Observed) -> bool {
        self.kept().vips.as_ref().is_some_and(|known| {
            let services = desired.services.iter().zip(ids);
            Arc::ptr_eq(&known.vips, &observed.vips)
                && Arc::ptr_eq(&known.pages, &observed.pages)
                && known.services.len() == ids.len()
                && services
                    .zip(&known.services)
                    .all(|((s, id), (known_id, known))| id == known_id && listen_alike(s, known))
                && known.policies == desired.vips
                && known.decap == decap_vips(desired)
        })
    }

    /// The live VIPs are what `desired` asks for.
    pub(super) fn settle_vips(&self, desired: &Desired, ids: &[u16], observed: &Observed) {
        self.kept().vips = Some(Vips {
            vips: Arc::clone(&observed.vips),
            pages: Arc::clone(&observed.pages),
            services: ids.iter().copied().zip(desired.services.iter().cloned()).collect(),
            policies: desired.vips.clone(),
            decap: decap_vips(desired),
        });
    }

    /// After a whole plan: forgets what it did not ask for, and rings that are gone.
    pub(super) fn forget_unused(&self, observed: &Observed) {
        let kept = &mut *self.kept();
        kept.homes.retain(|_, entry| std::mem::take(&mut entry.used));
        kept.assignments.retain(|_, entry| std::mem::take(&mut entry.used));
        let homes = kept.homes.values().map(|entry| entry.table.home().len());
        let assignments = kept.assignments.values().map(|entry| entry.table.positions.len());
        kept.slots = homes.chain(assignments).map(|slots| slots as u64).sum();
        let is_kept = |settled: &Settled| Arc::strong_count(&settled.assignment) > 1;
        kept.settled.retain(|place, settled| observed.rings.contains_key(place) && is_kept(settled));
    }
}

impl Kept {
    fn home(&mut self, key: HomeKey) -> Result<Arc<MaglevTable>, TableError> {
        if let Some(entry) = self.homes.get_mut(&key) {
            entry.used = true;
            return Ok(Arc::clone(&entry.table));
        }
        let table = Arc::new(MaglevTable::new(key.2.iter().copied(), key.0, key.1)?);
        self.built += 1;
        if self.has_room(table.home().len()) {
            self.homes.insert(key, Entry { table: Arc::clone(&table), used: true });
        }
        Ok(table)
    }

    /// Takes room for so many slots, if there is.
    fn has_room(&mut self, slots: usize) -> bool {
        let all = self.slots + slots as u64;
        let fits = all <= MOST_SLOTS;
        if fits {
            self.slots = all;
        }
        fits
    }
}

/// Two services that ask the same of the VIP table: where they listen and who takes their fragments.
fn listen_alike(a: &model::Service, b: &model::Service) -> bool {
    let listens = |s: &model::Service| (s.protocol, s.affinity, s.fragments);
    (listens(a), &a.vips, &a.ports) == (listens(b), &b.vips, &b.ports)
        && (a.affinity != Affinity::ClientIp || alike(a, b))
}

fn decap_vips(desired: &Desired) -> [BTreeSet<IpAddr>; 2] {
    let Some(decap) = &desired.decap else { return Default::default() };
    [decap.vips.iter().copied().collect(), decap.translate.iter().map(|port| port.vip).collect()]
}
