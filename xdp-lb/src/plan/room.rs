//! Room in the maps for what is new: whatever no service reaches.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use xdp_lb_common::{
    server_id::{self, PROBES, ServerId},
    service::MAX_SERVICES,
    source::SourceKey,
};

use super::{Census, PlanError, alloc::Ranges, pages::Pages};
use crate::state::{MapOp, Observed};

/// Free ids, slots, members, counters, pages, server ids and source ranges while a plan is made.
pub(super) struct Room<'a> {
    observed: &'a Observed,
    ids: BTreeSet<u16>,
    next_id: u16,
    slots: Ranges,
    backends: Ranges,
    stats: Ranges,
    /// Those in use and new ones, once somebody asks.
    pages: Option<Pages>,
    /// Places of `server_ids` that are or were in use.
    places: BTreeSet<u32>,
    server_ids: HashMap<u16, Vec<(u32, server_id::Place)>>,
    source_ranges: HashMap<u32, BTreeMap<SourceKey, u32>>,
    /// Entries that fit into `source_ranges` besides those that are there.
    free_sources: usize,
}

impl<'a> Room<'a> {
    pub(super) fn of(observed: &'a Observed, census: &Census) -> Self {
        let capacity = &observed.capacity;
        let rings = || observed.rings.iter();
        let stats = rings().flat_map(|(_, ring)| {
            let bases = ring.services.iter().filter_map(|id| observed.services.get(id));
            bases.map(|s| (s.config().stats_base, ring.block))
        });
        let mut server_ids: HashMap<u16, Vec<_>> = HashMap::new();
        for (&index, place) in &observed.server_ids {
            server_ids.entry(place.service).or_default().push((index, *place));
        }
        let mut source_ranges: HashMap<u32, BTreeMap<_, _>> = HashMap::new();
        for (&key, &value) in &observed.source_ranges {
            source_ranges.entry(key.service).or_default().insert(key, value);
        }
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
            pages: None,
            places: observed.server_ids.keys().copied().collect(),
            server_ids,
            source_ranges,
            free_sources: (capacity.source_ranges as usize).saturating_sub(observed.source_ranges.len()),
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

    /// Port pages.
    pub(super) fn pages(&mut self) -> &mut Pages {
        self.pages.get_or_insert_with(|| Pages::new(self.observed))
    }

    /// Writes of the port pages that were made since the last call.
    pub(super) fn fresh_pages(&mut self) -> Vec<MapOp> {
        self.pages.as_mut().map(Pages::take_fresh).unwrap_or_default()
    }

    /// Places of a service's server ids.
    pub(super) fn server_ids_of(&self, service: u16) -> &[(u32, server_id::Place)] {
        self.server_ids.get(&service).map_or(&[], Vec::as_slice)
    }

    /// A place for a server id of a service.
    pub(super) fn server_id(&mut self, service: u16, id: ServerId) -> Result<u32, PlanError> {
        let capacity = self.observed.capacity.server_ids;
        let start = server_id::start(service, id);
        let mut probed = (0..PROBES).map(|probe| start.wrapping_add(probe) & (capacity - 1));
        let Some(index) = probed.find(|index| !self.places.contains(index)) else {
            return Err(PlanError::Limit {
                what: "server_ids",
                need: self.places.len() as u64 + 1,
                have: u64::from(capacity / 8),
            });
        };
        self.places.insert(index);
        Ok(index)
    }

    /// The source ranges of a service.
    pub(super) fn sources_of(&self, service: u16) -> BTreeMap<SourceKey, u32> {
        self.source_ranges.get(&service.into()).cloned().unwrap_or_default()
    }

    /// Room for `more` source ranges.
    pub(super) fn take_sources(&mut self, more: usize) -> Result<(), PlanError> {
        self.free_sources = self.free_sources.checked_sub(more).ok_or(PlanError::Limit {
            what: "source_ranges",
            need: (self.observed.source_ranges.len() + more) as u64,
            have: u64::from(self.observed.capacity.source_ranges),
        })?;
        Ok(())
    }
}

fn take(ranges: &mut Ranges, len: u32, what: &'static str, capacity: u32) -> Result<u32, PlanError> {
    let need = u64::from(capacity) + u64::from(len.saturating_sub(ranges.free())).max(1);
    ranges.take(len).ok_or(PlanError::Limit { what, need, have: u64::from(capacity) })
}
