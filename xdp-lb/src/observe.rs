//! Reads what is reachable in the maps: from the live VIP bank to the pages, from the service table to
//! members and rings. Whatever nothing points at is not there, so what a crash left half-made counts as free.
//!
//! One walk for both kinds of maps: `dataplane` reads mapped memory, [`crate::memory`] its own.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;

use xdp_lb_common::{
    backend::{BACKEND_USED, Backend, MAX_MEMBERS},
    control::{Control, VipBank},
    decap::AllowList,
    server_id,
    service::{DEST_PORT, MAX_SERVICES, Service},
    source::SourceKey,
    translate::PodPort,
    vip::{PortPage, VIP_USED, VipSlot},
};

use crate::state::{Capacity, MapOp, Observed, Place, Ring, Slots};

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
    /// Slots of `rings` in a row; fewer where the map ends.
    fn slots(&self, range: Range<u32>) -> Vec<u16> {
        range.map_while(|index| self.slot(index)).collect()
    }
    /// Slots of `rings_before` in a row.
    fn befores(&self, range: Range<u32>) -> Vec<u16> {
        range.map_while(|index| self.before(index)).collect()
    }
    /// Whether these slots of `rings` and of `rings_before` are what they were.
    fn slots_are(&self, range: Range<u32>, last: &Slots) -> bool {
        self.slots(range.clone()) == last.now && self.befores(range) == last.before
    }
    /// An element of `decap_sources`: 0 or 1.
    fn sources(&self, bank: u32) -> Option<AllowList>;
    /// Interfaces in `tx_ports`.
    fn tx_ports(&self) -> BTreeSet<u32>;
    /// A place of `server_ids`.
    fn server_id(&self, index: u32) -> Option<server_id::Place>;
    /// All of `source_ranges`.
    fn source_ranges(&self) -> BTreeMap<SourceKey, u32>;
    /// All of `pod_ports`.
    fn pod_ports(&self) -> BTreeMap<PodPort, u32>;
}

/// A copy of everything reachable.
#[must_use]
pub fn observe<E: Elements + ?Sized>(maps: &E) -> Observed {
    look(maps, None)
}

/// A copy that shares with `last` what is the same; see [`crate::state::Maps::observe_again`].
#[must_use]
pub fn observe_again<E: Elements + ?Sized>(maps: &E, last: &Observed, written: Option<&[MapOp]>) -> Observed {
    look(maps, Some(Last { observed: last, written: written.map(Written::of) }))
}

/// A live VIP bank and the pages that it reaches.
type VipTables = (Arc<Vec<VipSlot>>, Arc<BTreeMap<u32, PortPage>>);

/// What is known from the last look.
struct Last<'a> {
    observed: &'a Observed,
    /// Parts that were written since; `None` where anything may have been.
    written: Option<Written>,
}

/// What operations touch of the parts that are large.
#[derive(Default)]
struct Written {
    vips: bool,
    /// First slots of rings.
    rings: BTreeSet<u32>,
}

impl Written {
    fn of(ops: &[MapOp]) -> Self {
        let mut written = Self::default();
        for op in ops {
            match op {
                MapOp::PutPage { .. } | MapOp::PutVips { .. } | MapOp::SwitchVips { .. } => {
                    written.vips = true;
                }
                MapOp::PutRing { base, .. } | MapOp::CopyRing { base, .. } | MapOp::SetSlots { base, .. } => {
                    written.rings.insert(*base);
                }
                _ => {}
            }
        }
        written
    }
}

impl Last<'_> {
    /// The VIPs and pages of the last look, if they are still those. A service may have other slices without a page
    /// being written: those of another.
    fn vips<E: Elements + ?Sized>(
        &self,
        maps: &E,
        control: &Control,
        services: &BTreeMap<u16, Service>,
    ) -> Option<VipTables> {
        let Observed { capacity, control: old, vips, pages, services: before, .. } = self.observed;
        let same = match &self.written {
            _ if old.vip_bank != control.vip_bank || *capacity != maps.capacity() => false,
            _ if !slices(services).eq(slices(before)) => false,
            Some(written) => !written.vips,
            None => {
                let first = VipBank::first(control.vip_bank, capacity.vip_slots);
                (first..).zip(&**vips).all(|(index, slot)| maps.vip(index).as_ref() == Some(slot))
                    && pages.iter().all(|(&page, content)| maps.page(page).as_ref() == Some(content))
            }
        };
        same.then(|| (Arc::clone(vips), Arc::clone(pages)))
    }

    /// The slots of a ring at the last look, if they are still those.
    fn slots<E: Elements + ?Sized>(&self, maps: &E, place: &Place) -> Option<Arc<Slots>> {
        let slots = &self.observed.rings.get(place)?.slots;
        let same = match &self.written {
            Some(written) => !written.rings.contains(&place.slot_base),
            None => slots.now.len() == place.table_size as usize && maps.slots_are(range(place), slots),
        };
        same.then(|| Arc::clone(slots))
    }
}

fn look<E: Elements + ?Sized>(maps: &E, last: Option<Last>) -> Observed {
    let (capacity, control) = (maps.capacity(), maps.control());
    let services = services(maps, &capacity);
    let (vips, pages) =
        last.as_ref().and_then(|last| last.vips(maps, &control, &services)).unwrap_or_else(|| {
            let vips = live_bank(maps, &capacity, &control);
            let pages = pages(maps, roots(&vips).chain(slices(&services)));
            (Arc::new(vips), Arc::new(pages))
        });
    Observed {
        capacity,
        control,
        pages,
        rings: rings(maps, &services, last.as_ref()),
        sources: maps.sources(control.decap_bank & 1).unwrap_or_else(bytemuck::Zeroable::zeroed),
        tx_ports: maps.tx_ports(),
        server_ids: (0..capacity.server_ids)
            .filter_map(|index| Some((index, maps.server_id(index)?)))
            .filter(|(_, place)| place.used != 0)
            .collect(),
        source_ranges: maps.source_ranges(),
        pod_ports: maps.pod_ports(),
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

/// The rings that `services` use, each read once.
fn rings<E: Elements + ?Sized>(
    maps: &E,
    services: &BTreeMap<u16, Service>,
    last: Option<&Last>,
) -> BTreeMap<Place, Ring> {
    let mut rings: BTreeMap<Place, Ring> = BTreeMap::new();
    for (&id, service) in services {
        rings.entry(Place::of(service.config())).or_default().services.push(id);
    }
    for (place, ring) in &mut rings {
        ring.block = block_len(maps, place);
        ring.members = members(maps, place, ring.block);
        let known = last.and_then(|last| last.slots(maps, place));
        ring.slots = known.unwrap_or_else(|| Arc::new(slots(maps, place)));
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
    let range = range(place);
    if range.end > maps.capacity().ring_slots {
        return Slots::default();
    }
    Slots { now: maps.slots(range.clone()), before: maps.befores(range) }
}

fn range(place: &Place) -> Range<u32> {
    place.slot_base..place.slot_base.saturating_add(place.table_size)
}
