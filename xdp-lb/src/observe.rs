//! Reads what is reachable in the maps: from the live VIP bank to the pages, from the service table to
//! members and rings. Whatever nothing points at is not there, so what a crash left half-made counts as free.
//!
//! One walk for both kinds of maps: `dataplane` reads mapped memory, [`crate::memory`] its own.

use std::collections::{BTreeMap, BTreeSet};

use xdp_lb_common::{
    backend::{BACKEND_USED, Backend, MAX_MEMBERS},
    control::{Control, VipBank},
    decap::AllowList,
    server_id::Place,
    service::{DEST_PORT, MAX_SERVICES, Service, ServiceConfig},
    source::SourceKey,
    vip::{PortPage, VIP_USED, VipSlot},
};

use crate::state::{Capacity, Observed, Ring};

/// Elements of the maps by index; `None` outside the map. Every value is a copy: packets and other tools may
/// be writing beside us.
pub trait Elements {
    /// Sizes of the maps.
    fn capacity(&self) -> Capacity;
    /// The element of `control`.
    fn control(&self) -> Control;
    /// An element of `vips`, both banks in a row.
    fn vip(&self, index: u32) -> Option<VipSlot>;
    /// An element of `ports`.
    fn page(&self, index: u32) -> Option<PortPage>;
    /// An element of `services`.
    fn service(&self, id: u32) -> Option<Service>;
    /// An element of `backends`.
    fn backend(&self, index: u32) -> Option<Backend>;
    /// A slot of `rings`, dirty bit included, by its index over all rings.
    fn slot(&self, index: u32) -> Option<u16>;
    /// A slot of `rings_before`.
    fn before(&self, index: u32) -> Option<u16>;
    /// An element of `decap_sources`: 0 or 1.
    fn sources(&self, bank: u32) -> Option<AllowList>;
    /// Interfaces in `tx_ports`.
    fn tx_ports(&self) -> BTreeSet<u32>;
    /// A place of `server_ids`.
    fn server_id(&self, index: u32) -> Option<Place>;
    /// All of `source_ranges`.
    fn source_ranges(&self) -> BTreeMap<SourceKey, u32>;
}

/// A copy of everything reachable.
#[must_use]
pub fn observe<E: Elements + ?Sized>(maps: &E) -> Observed {
    let (capacity, control) = (maps.capacity(), maps.control());
    let vips = live_bank(maps, &capacity, &control);
    let services = services(maps, &capacity);
    let blocks: BTreeMap<u16, u32> =
        services.iter().map(|(&id, service)| (id, block_len(maps, service.config()))).collect();
    let members = services.iter().map(|(&id, service)| (id, members(maps, service.config(), blocks[&id])));
    let rings = services.iter().map(|(&id, service)| (id, ring(maps, service.config())));
    Observed {
        capacity,
        control,
        pages: pages(maps, roots(&vips).chain(slices(&services))),
        members: members.collect(),
        rings: rings.collect(),
        sources: maps.sources(control.decap_bank & 1).unwrap_or_else(bytemuck::Zeroable::zeroed),
        tx_ports: maps.tx_ports(),
        server_ids: (0..capacity.server_ids)
            .filter_map(|index| Some((index, maps.server_id(index)?)))
            .filter(|(_, place)| place.used != 0)
            .collect(),
        source_ranges: maps.source_ranges(),
        vips,
        services,
        blocks,
    }
}

/// All slots of the live VIP bank.
#[must_use]
pub fn live_bank<E: Elements + ?Sized>(maps: &E, capacity: &Capacity, control: &Control) -> Vec<VipSlot> {
    let first = VipBank::first(control.vip_bank, capacity.vip_slots);
    (first..first + capacity.vip_slots).map_while(|index| maps.vip(index)).collect()
}

/// Services in use.
#[must_use]
pub fn services<E: Elements + ?Sized>(maps: &E, capacity: &Capacity) -> BTreeMap<u16, Service> {
    (1..capacity.services.min(MAX_SERVICES + 1))
        .filter_map(|id| Some((id as u16, maps.service(id)?)))
        .filter(|(_, service)| service.used != 0)
        .collect()
}

/// Root pages of VIPs.
pub fn roots(vips: &[VipSlot]) -> impl Iterator<Item = u32> {
    let used = vips.iter().filter(|vip| vip.flags & VIP_USED != 0);
    used.flat_map(|vip| [vip.tcp_root, vip.udp_root])
}

/// Root pages of port slices.
pub fn slices(services: &BTreeMap<u16, Service>) -> impl Iterator<Item = u32> {
    let configs = services.values().map(Service::config);
    configs.filter(|config| config.flags & DEST_PORT != 0).map(|config| config.slices)
}

/// The port pages that `roots` reach: these, and the leaves that they name; page 0 is empty by definition. Pages are
/// shared by content, so one page may be the root of one address and a leaf of another.
#[must_use]
pub fn pages<E: Elements + ?Sized>(maps: &E, roots: impl Iterator<Item = u32>) -> BTreeMap<u32, PortPage> {
    let roots: BTreeSet<u32> = roots.collect();
    let mut pages = BTreeMap::new();
    for root in roots.into_iter().filter(|&root| root != 0) {
        let Some(content) = maps.page(root) else { continue };
        pages.insert(root, content);
        for leaf in content.values.into_iter().filter(|&leaf| leaf != 0).map(u32::from) {
            if !pages.contains_key(&leaf)
                && let Some(content) = maps.page(leaf)
            {
                pages.insert(leaf, content);
            }
        }
    }
    pages
}

/// The block's first entry knows how long it is; a block ends with the map.
fn block_len<E: Elements + ?Sized>(maps: &E, config: &ServiceConfig) -> u32 {
    let room = maps.capacity().backends.saturating_sub(config.backend_base);
    maps.backend(config.backend_base).map_or(0, |first| first.block_len.min(MAX_MEMBERS).min(room))
}

fn members<E: Elements + ?Sized>(maps: &E, config: &ServiceConfig, block: u32) -> BTreeMap<u16, Backend> {
    (0..block)
        .filter_map(|local| Some((local as u16, maps.backend(config.backend_base.checked_add(local)?)?)))
        .filter(|(_, entry)| entry.state & BACKEND_USED != 0)
        .collect()
}

/// A service's ring; empty when it does not lie in the map.
fn ring<E: Elements + ?Sized>(maps: &E, config: &ServiceConfig) -> Ring {
    let slots = config.slot_base..config.slot_base.saturating_add(config.table_size);
    if slots.end > maps.capacity().ring_slots {
        return Ring::default();
    }
    Ring {
        now: slots.clone().map_while(|index| maps.slot(index)).collect(),
        before: slots.map_while(|index| maps.before(index)).collect(),
    }
}
