//! What must not be given to somebody else yet, as far as a scan of the flow table knows.

use std::collections::{BTreeMap, BTreeSet};

use xdp_lb_common::ring::{NO_BACKEND, Slot};

use super::Plan;
use crate::state::{MapOp, Observed, Place, Ring, SlotChange};

/// What a scan of the flow table found: ids and indexes that must not be given to somebody else yet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// Service ids that some entry names and that are not in use.
    pub services: BTreeSet<u16>,
    /// Ring-local indexes that some entry of a service names, with the number of live flows.
    pub members: BTreeMap<(u16, u16), u32>,
}

impl Census {
    /// Makes the census good for the plans after this one: what `plan` gives up counts as named until the next
    /// scan, for that scan alone can see the packets that were under way. Who loses a slot counts as remembered by
    /// somebody: connections that began there since the last scan are not in this census.
    pub fn quarantine(&mut self, plan: &Plan, observed: &Observed) {
        let rings = Rings::of(plan, observed);
        for op in &plan.ops {
            match op {
                MapOp::DropService { id } => _ = self.services.insert(*id),
                MapOp::SetSlots { base, changes } => self.quarantine_losers(*base, changes, &rings),
                MapOp::DropBackend { index } => self.quarantine_member(*index, &rings),
                MapOp::PutBackend { index, entry } if entry.state == 0 => {
                    self.quarantine_member(*index, &rings);
                }
                _ => {}
            }
        }
    }

    fn quarantine_losers(&mut self, base: u32, changes: &[SlotChange], rings: &Rings) {
        let Some(ring) = rings.by_slots.get(rings.copied.get(&base).unwrap_or(&base)) else { return };
        let losers: BTreeSet<u16> = changes
            .iter()
            .filter_map(|change| {
                let loser = Slot(*ring.slots.now.get(change.slot as usize)?).backend();
                (loser != NO_BACKEND && loser != Slot(change.now).backend()).then_some(loser)
            })
            .collect();
        let arrived = rings.arrived.get(&base).into_iter().flatten();
        for &id in ring.services.iter().chain(arrived) {
            for &loser in &losers {
                let flows = self.members.entry((id, loser)).or_insert(0);
                *flows = (*flows).max(1);
            }
        }
    }

    fn quarantine_member(&mut self, index: u32, rings: &Rings) {
        let Some((place, ring)) = rings.by_block.range(..=index).next_back() else { return };
        let local = index - place;
        if local < ring.block {
            for &id in &ring.services {
                self.members.entry((id, local as u16)).or_insert(0);
            }
        }
    }
}

/// The rings that a plan finds, by where they lie, and what it makes of them.
struct Rings<'a> {
    by_slots: BTreeMap<u32, &'a Ring>,
    by_block: BTreeMap<u32, &'a Ring>,
    /// First slots of copies, and of what they are copies of.
    copied: BTreeMap<u32, u32>,
    /// Services that the plan brings to a ring, by its first slot.
    arrived: BTreeMap<u32, Vec<u16>>,
}

impl<'a> Rings<'a> {
    fn of(plan: &Plan, observed: &'a Observed) -> Self {
        let rings = || observed.rings.iter();
        let mut this = Self {
            // A ring without slots may stand at the same base as another.
            by_slots: rings().filter(|(p, _)| p.table_size > 0).map(|(p, r)| (p.slot_base, r)).collect(),
            by_block: rings().map(|(p, r)| (p.backend_base, r)).collect(),
            copied: BTreeMap::new(),
            arrived: BTreeMap::new(),
        };
        for op in &plan.ops {
            let (id, place) = match op {
                MapOp::CopyRing { from, base, .. } => {
                    this.copied.insert(*base, *from);
                    continue;
                }
                MapOp::PutService { id, entry } => (*id, Place::of(entry.config())),
                MapOp::SetService { id, config } => (*id, Place::of(config)),
                _ => continue,
            };
            this.arrived.entry(place.slot_base).or_default().push(id);
        }
        this
    }
}
