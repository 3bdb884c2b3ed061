//! Reads what is reachable in the maps: from the live VIP bank to the pages, from the service table to
//! members and rings. Whatever nothing points at is not there, so what a crash left half-made counts as free.
//!
//! One walk for both kinds of maps: `dataplane` reads mapped memory, [`crate::memory`] its own.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use xdp_lb_common::{
    backend::{BACKEND_USED, Backend, MAX_MEMBERS},
    control::{Control, VipBank},
    decap::AllowList,
    service::{MAX_SERVICES, Service},
    vip::{PortPage, VIP_USED, VipSlot},
};

use crate::state::{Capacity, Observed, Place, Ring, Slots};

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
}

/// A copy of everything reachable.
#[must_use]
pub fn observe<E: Elements + ?Sized>(maps: &E) -> Observed {
    let (capacity, control) = (maps.capacity(), maps.control());
    let vips = live_bank(maps, &capacity, &control);
    let services: BTreeMap<u16, Service> = (1..capacity.services.min(MAX_SERVICES + 1))
        .filter_map(|id| Some((id as u16, maps.service(id)?)))
        .filter(|(_, service)| service.used != 0)
        .collect();
    Observed {
        capacity,
        control,
        pages: pages(maps, &vips),
        rings: rings(maps, &services),
        sources: maps.sources(control.decap_bank & 1).unwrap_or_else(bytemuck::Zeroable::zeroed),
        tx_ports: maps.tx_ports(),
        vips,
        services,
    }
}

/// All slots of the live VIP bank.
#[must_use]
pub fn live_bank<E: Elements + ?Sized>(maps: &E, capacity: &Capacity, control: &Control) -> Vec<VipSlot> {
    let first = VipBank::first(control.vip_bank, capacity.vip_slots);
    (first..first + capacity.vip_slots).map_while(|index| maps.vip(index)).collect()
}

/// The port pages that `vips` reach: roots, and the leaves that they name; page 0 is empty by definition. Pages are shared by content, so one page may
/// be the root of one address and a leaf of another.
#[must_use]
pub fn pages<E: Elements + ?Sized>(maps: &E, vips: &[VipSlot]) -> BTreeMap<u32, PortPage> {
    let used = vips.iter().filter(|vip| vip.flags & VIP_USED != 0);
    let roots: BTreeSet<u32> = used.flat_map(|vip| [vip.tcp_root, vip.udp_root]).collect();
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

/// The rings that `services` use, each read once.
fn rings<E: Elements + ?Sized>(maps: &E, services: &BTreeMap<u16, Service>) -> BTreeMap<Place, Ring> {
    let mut rings: BTreeMap<Place, Ring> = BTreeMap::new();
    for (&id, service) in services {
        rings.entry(Place::of(service.config())).or_default().services.push(id);
    }
    for (place, ring) in &mut rings {
        ring.block = block_len(maps, place);
        ring.members = members(maps, place, ring.block);
        ring.slots = Arc::new(slots(maps, place));
    }
    rings
}

/// The block's first entry knows how long it is; a block ends with the map.
fn block_len<E: Elements + ?Sized>(maps: &E, place: &Place) -> u32 {
    let room = maps.capacity().backends.saturating_sub(place.backend_base);
    maps.backend(place.backend_base).map_or(0, |first| first.block_len.min(MAX_MEMBERS).min(room))
}

fn members<E: Elements + ?Sized>(maps: &E, place: &Place, block: u32) -> BTreeMap<u16, Backend> {
    (0..block)
        .filter_map(|local| Some((local as u16, maps.backend(place.backend_base.checked_add(local)?)?)))
        .filter(|(_, entry)| entry.state & BACKEND_USED != 0)
        .collect()
}

/// A ring's slots; none when they do not lie in the map.
fn slots<E: Elements + ?Sized>(maps: &E, place: &Place) -> Slots {
    let range = place.slot_base..place.slot_base.saturating_add(place.table_size);
    if range.end > maps.capacity().ring_slots {
        return Slots::default();
    }
    Slots {
        now: range.clone().map_while(|index| maps.slot(index)).collect(),
        before: range.map_while(|index| maps.before(index)).collect(),
    }
}
