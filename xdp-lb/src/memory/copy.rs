//! Maps in memory that hold what was observed: to try a plan on them first.

use xdp_lb_common::control::{Control, VipBank};

use super::MemoryMaps;
use crate::state::{Capacity, Observed};

impl MemoryMaps {
    /// Maps that hold what was observed. Nothing is remembered in their flow table, which has `flow_sets` sets.
    #[must_use]
    pub fn holding(observed: &Observed, flow_sets: u32) -> Self {
        let capacity = Capacity { flow_sets, ..observed.capacity };
        let mut maps = Self::new(capacity, observed.control);
        let flow_set_mask = maps.control.flow_set_mask;
        maps.control = Control { flow_set_mask, ..observed.control };
        let first = VipBank::first(observed.control.vip_bank, capacity.vip_slots) as usize;
        for (to, from) in maps.vips.iter_mut().skip(first).zip(observed.vips.iter()) {
            *to = *from;
        }
        for (&page, content) in observed.pages.iter() {
            if let Some(to) = maps.ports.get_mut(page as usize) {
                *to = *content;
            }
        }
        for (&id, service) in &observed.services {
            if let Some(to) = maps.services.get_mut(usize::from(id)) {
                *to = *service;
            }
        }
        for (place, ring) in &observed.rings {
            for (&local, member) in &ring.members {
                let index = place.backend_base.saturating_add(u32::from(local));
                if (index as usize) < maps.backends.len() {
                    maps.put_backend(index, member);
                }
            }
            // The first entry of a block says how long it is, whether somebody has its index or not.
            if let Some(first) = maps.backends.get_mut(place.backend_base as usize) {
                first.block_len = ring.block;
            }
            let base = place.slot_base as usize;
            let words = ring.slots.now.iter().zip(&ring.slots.before);
            for ((to, to_before), (&now, &before)) in
                maps.rings.iter_mut().zip(&mut maps.before).skip(base).zip(words)
            {
                (*to.get_mut(), *to_before.get_mut()) = (now, before);
            }
        }
        maps.sources[(observed.control.decap_bank & 1) as usize] = observed.sources;
        maps.tx_ports.clone_from(&observed.tx_ports);
        for (&index, place) in &observed.server_ids {
            if let Some([id, owner]) = maps.server_ids.get_mut(index as usize) {
                (*id.get_mut(), *owner.get_mut()) = (place.id, place.owner());
            }
        }
        maps.source_ranges.clone_from(&observed.source_ranges);
        maps.pod_ports.clone_from(&observed.pod_ports);
        maps
    }
}
