//! Room in the maps for what is new: whatever no service reaches.

use std::collections::BTreeSet;

use xdp_lb_common::service::MAX_SERVICES;

use super::{Census, PlanError, alloc::Ranges};
use crate::state::Observed;

/// Free ids, slots, members and counters while a plan is made.
pub(super) struct Room<'a> {
    observed: &'a Observed,
    ids: BTreeSet<u16>,
    next_id: u16,
    slots: Ranges,
    backends: Ranges,
    stats: Ranges,
}

impl<'a> Room<'a> {
    pub(super) fn of(observed: &'a Observed, census: &Census) -> Self {
        let capacity = &observed.capacity;
        let rings = || observed.rings.iter();
        let stats = rings().flat_map(|(_, ring)| {
            let bases = ring.services.iter().filter_map(|id| observed.services.get(id));
            bases.map(|s| (s.config().stats_base, ring.block))
        });
        Self {
            observed,
            // Entries of a service that is gone may still be counted as those of its members.
            ids: observed
                .services
                .keys()
                .chain(&census.services)
                .copied()
                .chain(census.members.keys().map(|&(id, _)| id))
                .collect(),
            next_id: 1,
            slots: Ranges::new(
                capacity.ring_slots,
                rings().map(|(place, _)| (place.slot_base, place.table_size.next_multiple_of(4))),
            ),
            backends: Ranges::new(
                capacity.backends,
                rings().map(|(place, ring)| (place.backend_base, ring.block)),
            ),
            stats: Ranges::new(
                capacity.backend_stats,
                stats.filter(|&(base, _)| base < capacity.backend_stats),
            ),
        }
    }

    /// The lowest free service id.
    pub(super) fn id(&mut self) -> Result<u16, PlanError> {
        let services = self.observed.capacity.services.min(MAX_SERVICES + 1);
        let end = u16::try_from(services).unwrap_or(u16::MAX);
        let Some(id) = (self.next_id..end).find(|id| !self.ids.contains(id)) else {
            return Err(PlanError::Limit {
                what: "services",
                need: self.ids.len() as u64 + 1,
                have: u64::from(services.saturating_sub(1)),
            });
        };
        self.ids.insert(id);
        self.next_id = id + 1;
        Ok(id)
    }

    /// Room for a ring of so many slots.
    pub(super) fn slots(&mut self, size: u32) -> Result<u32, PlanError> {
        let capacity = self.observed.capacity.ring_slots;
        take(&mut self.slots, size.next_multiple_of(4), "ring_slots", capacity)
    }

    /// Room for a block of members.
    pub(super) fn block(&mut self, len: u32) -> Result<u32, PlanError> {
        take(&mut self.backends, len, "backends", self.observed.capacity.backends)
    }

    /// Room for the counters of a service's members; without it the service is balanced all the same, only not
    /// counted by backend.
    pub(super) fn stats(&mut self, len: u32) -> Option<u32> {
        self.stats.take(len)
    }
}

fn take(ranges: &mut Ranges, len: u32, what: &'static str, capacity: u32) -> Result<u32, PlanError> {
    let need = u64::from(capacity) + u64::from(len.saturating_sub(ranges.free())).max(1);
    ranges.take(len).ok_or(PlanError::Limit { what, need, have: u64::from(capacity) })
}
