//! The packet path's view of the pinned maps, for `explain`: classification and selection run on it unchanged.
//!
//! VIPs and pages are copied once (one consistent bank), rings, backends and flows are read live. Nothing is
//! written: a store into the flow table is dropped, a new flow is always admitted, no event is counted.

use std::{collections::BTreeMap, io};

use xdp_lb_common::{
    affinity,
    backend::{BACKEND_ALIVE, BACKEND_USED},
    classify,
    control::{Control, VipBank},
    flow::{FlowSet, WAYS},
    hash::FlowHash,
    parse::Words,
    reason::FlowEvent,
    ring::Slot,
    select,
    source::SourceKey,
    vip::{PortPage, VipSlot},
};

use super::kernel_maps::KernelMaps;
use crate::{
    observe::{Elements, live_bank, pages, roots, services, slices},
    sources::admits,
};

/// Tables to read.
pub struct KernelTables<'a> {
    maps: &'a KernelMaps,
    control: Control,
    vips: Vec<VipSlot>,
    pages: BTreeMap<u32, PortPage>,
    sources: BTreeMap<SourceKey, u32>,
    tick: u16,
}

impl<'a> KernelTables<'a> {
    /// A view as of now.
    ///
    /// # Errors
    /// When the flow table's clock cannot be read.
    pub fn new(maps: &'a KernelMaps) -> io::Result<Self> {
        let control = maps.control();
        let vips = live_bank(maps, maps.capacity(), &control);
        let pages = pages(maps, roots(&vips).chain(slices(&services(maps, maps.capacity()))));
        let sources = Elements::source_ranges(maps);
        Ok(Self { maps, control, vips, pages, sources, tick: maps.tick()? })
    }

    /// The maps behind the view.
    #[must_use]
    pub fn maps(&self) -> &'a KernelMaps {
        self.maps
    }

    /// The `control` element that the view goes by.
    #[must_use]
    pub fn control(&self) -> &Control {
        &self.control
    }
}

impl classify::Tables for KernelTables<'_> {
    fn vip_bank(&self) -> u32 {
        self.control.vip_bank
    }

    fn vip_slots(&self) -> u32 {
        self.control.vip_mask + 1
    }

    fn vip_slot(&self, index: u32) -> Option<&VipSlot> {
        let base = VipBank::first(self.control.vip_bank, self.maps.capacity().vip_slots);
        self.vips.get(index.checked_sub(base)? as usize)
    }

    /// Page 0 is empty, as in the map; so is a page that no live VIP reaches.
    fn port_page(&self, index: u32) -> Option<&PortPage> {
        const EMPTY: &PortPage = &PortPage { values: [0; 256] };
        (index < self.maps.capacity().port_pages).then(|| self.pages.get(&index).unwrap_or(EMPTY))
    }
}

/// A copy of a set.
#[derive(Clone, Copy, Debug)]
pub struct SetCopy(FlowSet);

impl select::Set for SetCopy {
    fn load(&self, way: usize) -> u64 {
        self.0.entries[way % WAYS]
    }

    fn store(&self, _way: usize, _entry: u64) {}
}

impl select::Tables for KernelTables<'_> {
    type Set = SetCopy;

    fn slot(&self, index: u32) -> Option<Slot> {
        self.maps.slot(index).map(|(now, _)| Slot(now))
    }

    fn before(&self, index: u32) -> Option<u16> {
        self.maps.slot(index).map(|(_, before)| before)
    }

    fn is_alive(&self, backend: u32) -> bool {
        const LIVE: u32 = BACKEND_USED | BACKEND_ALIVE;
        self.maps.backend_state(backend).is_some_and(|state| state & LIVE == LIVE)
    }

    fn flow_set(&self, hash: FlowHash) -> Option<SetCopy> {
        self.maps.flow_set(hash.set(self.control.flow_set_mask)).map(SetCopy)
    }

    fn tick(&self) -> u16 {
        self.tick
    }

    /// A packet that looks the flow up says more, and never chooses another backend.
    fn sample(&self, _hash: FlowHash) -> bool {
        true
    }

    fn admit(&self, _service: u16, _limit: u32) -> bool {
        true
    }

    fn count(&self, _event: FlowEvent) {}
}

impl affinity::Tables for KernelTables<'_> {
    fn server_id(&self, index: u32) -> Option<[u64; 2]> {
        let place = Elements::server_id(self.maps, index & (self.maps.capacity().server_ids - 1))?;
        Some([place.id, place.owner()])
    }

    fn admits(&self, service: u16, client: Words) -> bool {
        admits(&self.sources, service, client)
    }
}
