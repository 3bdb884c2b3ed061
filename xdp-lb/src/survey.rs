//! A pass over the whole flow table and what follows from it: what the planner must leave alone, which
//! entries go, which slots become clean.
//!
//! Pure: the agent feeds it the mapped flow table and carries out the answer by compare-and-swap; tests
//! feed it [`crate::memory`]. [`crate::scan`] is the pass itself, [`crate::slots`] the rule for one slot.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use xdp_lb_common::{
    backend::BACKEND_ALIVE,
    flow::{FlowEntry, FlowSet, MAX_TTL, TICKS},
    ring::Slot,
};

use crate::{
    plan::{self, Census},
    scan::{BackendSet, Scan},
    state::{Observed, Slots},
};

/// Ticks that an expired entry is left where it is: its flow still finds it, and any other may take its way. Half
/// of what the clock's range allows; the other half is the time until the next survey.
pub const KEEP_EXPIRED: u16 = (TICKS - MAX_TTL) / 2;

/// What a pass found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Survey {
    /// Ids and indexes that some entry names, live or expired: input of the next plan.
    pub census: Census,
    /// Entries to be cleared if they are still what they were: expired for [`KEEP_EXPIRED`], or of services that are
    /// gone.
    pub sweeps: Vec<Sweep>,
    /// Dirty slots that may become clean if they are still what they were.
    pub clean: Vec<Clean>,
    /// Dirty slots by service id, those in `clean` included; services without any are left out.
    pub dirty_slots: BTreeMap<u16, u32>,
    /// Live entries.
    pub live: u64,
    /// Entries that had expired.
    pub expired: u64,
    /// Entries of services that are gone.
    pub orphaned: u64,
}

impl Survey {
    /// Leaves slots dirty that a service decides on for which `is_held`, by name.
    pub fn hold(&mut self, observed: &Observed, is_held: impl Fn(&str) -> bool) {
        let held = |id: &u16| observed.services.get(id).is_some_and(|service| is_held(plan::name(service)));
        for (place, ring) in &observed.rings {
            if ring.services.iter().any(held) {
                let slots = place.slot_base..place.slot_base + place.table_size;
                self.clean.retain(|clean| !slots.contains(&clean.index));
            }
        }
    }
}

/// An entry to be cleared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sweep {
    /// Set.
    pub set: u32,
    /// Way of the set.
    pub way: usize,
    /// The entry that was seen.
    pub old: u64,
}

/// A slot to be made clean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clean {
    /// Index over all rings.
    pub index: u32,
    /// The word that was seen, dirty bit included; [`Slot::clean`] of it is to be stored.
    pub expected: u16,
}

/// Surveys the flow table. At least every [`KEEP_EXPIRED`] ticks, or expired entries come to life again when the
/// clock has gone round.
///
/// `tick` and `started` are the moment before the first set is read, on the flow table's clock and on the
/// agent's. `observed` must have been read then too, or before. `changed` says when a slot (first slot of the ring, slot
/// within it) last changed, an RCU grace period included; `flow_timeout` how long a service remembers.
#[must_use]
pub fn survey(
    observed: &Observed,
    sets: impl Iterator<Item = (u32, FlowSet)>,
    tick: u16,
    started: Duration,
    changed: &dyn Fn(u32, u32) -> Duration,
    flow_timeout: &dyn Fn(u16) -> Duration,
) -> Survey {
    let mut scan = Scan::new(tick, started);
    let mut rings = Vec::new();
    for (place, ring) in &observed.rings {
        let alive =
            ring.members.iter().filter(|(_, m)| m.state & BACKEND_ALIVE != 0).map(|(&local, _)| local);
        let index = scan.ring(&ring.slots.now, alive.collect::<BackendSet>());
        ring.services.iter().for_each(|&id| scan.service(id, index));
        rings.push((index, place, ring));
    }
    let mut found = Survey::default();
    let mut strangers = BTreeSet::new();
    for (set, entries) in sets {
        for sweep in scan.feed(&entries) {
            let service = FlowEntry(sweep.old).service();
            if !observed.services.contains_key(&service) {
                strangers.insert(service);
            } else if expired_for(sweep.old, tick) < KEEP_EXPIRED {
                continue;
            }
            found.sweeps.push(Sweep { set, way: sweep.way, old: sweep.old });
        }
    }
    for &service in observed.services.keys() {
        found
            .census
            .members
            .extend(scan.named(service).map(|local| ((service, local), scan.flows(service, local))));
    }
    for (index, place, ring) in rings {
        let Slots { now, before } = &*ring.slots;
        let dirty = now.iter().filter(|&&now| Slot(now).is_dirty()).count() as u32;
        if dirty == 0 {
            continue;
        }
        found.dirty_slots.extend(ring.services.iter().map(|&id| (id, dirty)));
        // An unknown flow is a forgotten one when it is so for every service whose flows the slot decides on.
        let timeout = ring.services.iter().map(|&id| flow_timeout(id)).max().unwrap_or_default();
        let before = |slot: u32| before[slot as usize];
        let settled = scan.settled(index, before, |slot| changed(place.slot_base, slot), timeout);
        found.clean.extend(
            settled.map(|slot| Clean { index: place.slot_base + slot, expected: now[slot as usize] }),
        );
    }
    found.census.services = strangers;
    (found.live, found.expired, found.orphaned) = (scan.live(), scan.expired(), scan.orphaned());
    found
}

fn expired_for(entry: u64, tick: u16) -> u16 {
    tick.wrapping_sub(FlowEntry(entry).expiry()) & (TICKS - 1)
}
