//! The pinned maps: [`state::Maps`](crate::state::Maps) over mapped memory, the flow table, the counters.
//!
//! The agent opens them to write; `status`, `explain` and `flows` open them read-only, with or without an agent.
//! Orders of stores are what packets rely on, so each is spelled out where it happens:
//!
//! ```text
//!   template, config, sources: idle copy, then `live` (or the bank) by one store
//!   slot:                      `before`, then `now`
//!   backend:                   `state` 0, the rest, then `state`
//!   service:                   `used` 0, the rest, then `used`     (packets come by the VIP table alone)
//! ```
//!
//! **Flips.** A packet that read `live` may still copy the old template when we write the next one over it. So the
//! second flip of an entry first waits for a grace period, unless one has passed since the first; one wait serves
//! all entries flipped before it. The first batch after opening needs none: opening waited.

mod carry;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    mem::offset_of,
    ops::Range,
    os::fd::AsFd as _,
    path::Path,
    sync::{Mutex, OnceLock, PoisonError},
};

use aya::maps::{DevMap, HashMap, IterableMap as _, LpmTrie, Map, MapData, MapError, lpm_trie::Key};
use bytemuck::{Pod, Zeroable as _};
use xdp_lb_common::{
    backend::{Backend, Template},
    control::{Control, LAYOUT, VipBank},
    cut::CutCounts,
    decap::AllowList,
    flow::{FlowEntry, FlowSet, TICKS, WAYS},
    mss, names,
    path_mtu::PathMtu,
    ring::{DIRTY, RingWord},
    server_id::Place,
    service::{Service, ServiceConfig},
    source::SourceKey,
    stats::{Counters, NO_STATS, Traffic},
    translate::{PodFlow, PodPeer, PodPort},
    vip::{PortPage, VipSlot},
};

pub use self::carry::{Carried, TooSmall};
use super::{errors, mapped::Mapped, root::BpffsRoot, sys};
use crate::{
    observe::{Elements, observe, observe_again},
    peers::exceptions::{Placement, Refusal, is_same, way},
    state::{Capacity, MapOp, Maps, Observed, SlotChange, Slots, WriteError},
};

/// What the maps are opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// To look.
    Read,
    /// To change. There is one writer: the agent's reconcile task.
    Write,
}

/// Why the maps cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// There are no pins.
    #[error(
        "no balancer under {0}: is it running? `xdp-lb run` and `xdp-lb decap` make it; --bpffs names another root"
    )]
    NothingPinned(BpffsRoot),
    /// The maps were made by a release with other map values.
    #[error(
        "the maps under {root} have layout {found}, this xdp-lb knows {LAYOUT}: use the release that made them"
    )]
    Layout {
        /// Root.
        root: BpffsRoot,
        /// Layout found.
        found: u32,
    },
    /// A map cannot be used.
    #[error("open map {name} under {root}: {source}")]
    Map {
        /// Root.
        root: BpffsRoot,
        /// Map.
        name: &'static str,
        /// The kernel's word.
        source: io::Error,
    },
}

/// An entry that was flipped: map and index.
type Flipped = (&'static str, u32);

/// The maps below one root.
pub struct KernelMaps {
    capacity: Capacity,
    control: Mapped<Control>,
    vips: Mapped<VipSlot>,
    ports: Mapped<PortPage>,
    services: Mapped<Service>,
    backends: Mapped<Backend>,
    rings: Mapped<RingWord>,
    rings_before: Mapped<RingWord>,
    flows: Mapped<FlowSet>,
    sources: Mapped<AllowList>,
    counters: PerCpu<Counters>,
    service_stats: PerCpu<Traffic>,
    backend_stats: PerCpu<Traffic>,
    path_mtus: Mapped<PathMtu>,
    tx_ports: DevMap<MapData>,
    server_ids: Mapped<Place>,
    source_ranges: LpmTrie<MapData, ClientPrefix, u32>,
    /// What is in `source_ranges`, for the same reason as `redirects`.
    prefixes: BTreeMap<SourceKey, u32>,
    pod_ports: HashMap<MapData, PodPort, u32>,
    /// What is in `pod_ports`, likewise.
    pods: BTreeMap<PodPort, u32>,
    /// Locked to be written, which happens when flows are carried over.
    pod_flows: Mutex<HashMap<MapData, PodFlow, PodPeer>>,
    /// Keys of `tx_ports`: asking the kernel for each takes longer than reading all the rest. Since there is one
    /// writer, what was there when the maps were opened and what was written since is what is there.
    redirects: BTreeSet<u32>,
    jiffies: OnceLock<sys::Jiffies>,
    /// Since the last grace period.
    flipped: BTreeSet<Flipped>,
}

impl std::fmt::Debug for KernelMaps {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KernelMaps").field("capacity", &self.capacity).finish_non_exhaustive()
    }
}

impl KernelMaps {
    /// Opens the maps from their pins.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(root: &BpffsRoot, access: Access) -> Result<Self, OpenError> {
        Self::open_in(root, &root.maps(), access)
    }

    /// Opens those in another directory below the root.
    ///
    /// # Errors
    /// [`OpenError`].
    pub(super) fn open_in(root: &BpffsRoot, maps: &Path, access: Access) -> Result<Self, OpenError> {
        if !maps.join(names::CONTROL).exists() {
            return Err(OpenError::NothingPinned(root.clone()));
        }
        let open = Opener { root, maps, writable: access == Access::Write };
        let control = open.table::<Control>(names::CONTROL)?;
        let layout = control.load_u32(0, offset_of!(Control, layout)).unwrap_or(0);
        if layout != LAYOUT {
            return Err(OpenError::Layout { root: root.clone(), found: layout });
        }
        let mut maps = Self {
            capacity: open.capacity()?,
            control,
            vips: open.table(names::VIPS)?,
            ports: open.mapped(names::PORTS)?,
            services: open.table(names::SERVICES)?,
            backends: open.table(names::BACKENDS)?,
            rings: open.mapped(names::RINGS)?,
            rings_before: open.mapped(names::RINGS_BEFORE)?,
            flows: open.mapped(names::FLOWS)?,
            sources: open.mapped(names::DECAP_SOURCES)?,
            counters: open.per_cpu(names::COUNTERS)?,
            service_stats: open.per_cpu(names::SVC_STATS)?,
            backend_stats: open.per_cpu(names::BACKEND_STATS)?,
            path_mtus: open.mapped(names::PATH_MTUS)?,
            tx_ports: open.typed(names::TX_PORTS, Map::DevMap)?,
            server_ids: open.table(names::SERVER_IDS)?,
            source_ranges: open.typed(names::SOURCE_RANGES, Map::LpmTrie)?,
            prefixes: BTreeMap::new(),
            pod_ports: open.typed(names::POD_PORTS, Map::HashMap)?,
            pods: BTreeMap::new(),
            pod_flows: Mutex::new(open.typed(names::POD_FLOWS, Map::LruHashMap)?),
            redirects: BTreeSet::new(),
            jiffies: OnceLock::new(),
            flipped: BTreeSet::new(),
        };
        maps.redirects = (0..maps.capacity.tx_ports).filter(|&i| maps.tx_ports.get(i, 0).is_ok()).collect();
        for entry in maps.source_ranges.iter() {
            let (key, value) = entry.map_err(|e| open.error(names::SOURCE_RANGES, errors::map(e)))?;
            maps.prefixes.insert(source_key(&key), value);
        }
        for entry in maps.pod_ports.iter() {
            let (key, value) = entry.map_err(|e| open.error(names::POD_PORTS, errors::map(e)))?;
            maps.pods.insert(key, value);
        }
        if access == Access::Write {
            // An agent before us may have flipped anything a moment ago.
            sys::grace_period();
        }
        Ok(maps)
    }

    /// Opens the maps to look at them, whether or not an agent runs.
    ///
    /// # Errors
    /// [`OpenError::NothingPinned`] first of all.
    pub fn open_read_only(root: &BpffsRoot) -> Result<Self, OpenError> {
        Self::open(root, Access::Read)
    }

    /// Sizes.
    #[must_use]
    pub fn capacity(&self) -> &Capacity {
        &self.capacity
    }

    /// The `control` element as it is now.
    #[must_use]
    pub fn control(&self) -> Control {
        self.control.read(0).unwrap_or_default()
    }

    /// Sets the largest segments that servers on this node may offer; no limits where they are 0.
    ///
    /// # Errors
    /// When the maps were opened to read.
    pub fn set_mss(&self, limits: mss::Limits) -> io::Result<()> {
        self.control.store_u32(0, offset_of!(Control, mss), limits.pack())
    }

    /// The flow table's clock as packets see it now.
    ///
    /// # Errors
    /// When the kernel refuses the program that reads it.
    pub fn tick(&self) -> io::Result<u16> {
        let jiffies = match self.jiffies.get() {
            Some(jiffies) => jiffies,
            None => {
                let loaded = sys::Jiffies::load()?;
                self.jiffies.get_or_init(|| loaded)
            }
        };
        let ticks = jiffies.now()? >> (self.control().tick_shift & 31);
        Ok((ticks % u32::from(TICKS)) as u16)
    }

    /// Copies of all sets of the flow table, with their indices.
    pub fn flow_sets(&self) -> impl Iterator<Item = (u32, FlowSet)> + '_ {
        (0..self.flows.len()).filter_map(|set| Some((set, self.flows.read(set)?)))
    }

    /// A copy of one set.
    #[must_use]
    pub fn flow_set(&self, set: u32) -> Option<FlowSet> {
        self.flows.read(set)
    }

    /// Empties a way if it still holds `old`; says whether it did.
    ///
    /// # Errors
    /// When the way lies outside the table, or the maps were opened to read.
    pub fn sweep(&self, set: u32, way: usize, old: u64) -> io::Result<bool> {
        if way >= WAYS {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "no such way"));
        }
        self.flows.swap_u64(set, offset_of!(FlowSet, entries) + way * size_of::<u64>(), old, 0)
    }

    /// Stores an entry that no packet made, unless its flow is known or its set full.
    ///
    /// Where a packet stores the same flow at the same moment, that entry stays: the packet's choice is in force.
    ///
    /// # Errors
    /// When the set lies outside the table, or the maps were opened to read.
    pub fn remember(&self, placement: Placement, tick: u16) -> io::Result<Result<(), Refusal>> {
        let Placement { set, entry } = placement;
        let outside = || io::Error::new(io::ErrorKind::InvalidInput, "no such set");
        // A way that was free may be taken meanwhile, each time another one.
        for _ in 0..WAYS {
            let seen = self.flow_set(set).ok_or_else(outside)?;
            let way = match way(&seen, entry, tick) {
                Ok(way) => way,
                Err(refusal) => return Ok(Err(refusal)),
            };
            let offset = offset_of!(FlowSet, entries) + way * size_of::<u64>();
            if !self.flows.swap_u64(set, offset, seen.entries[way], entry.0)? {
                continue;
            }
            let now = self.flow_set(set).ok_or_else(outside)?;
            let is_twice =
                (0..WAYS).any(|other| other != way && is_same(FlowEntry(now.entries[other]), entry));
            if is_twice {
                self.flows.swap_u64(set, offset, entry.0, 0)?;
                return Ok(Err(Refusal::Known));
            }
            return Ok(Ok(()));
        }
        Ok(Err(Refusal::Full))
    }

    /// A ring slot by its index over all rings: `now` with its dirty bit, and `before`.
    #[must_use]
    pub fn slot(&self, slot: u32) -> Option<(u16, u16)> {
        let part = (slot & 3) as usize;
        Some((self.rings.read(slot >> 2)?.slots[part], self.rings_before.read(slot >> 2)?.slots[part]))
    }

    /// Dirty slots among the `len` from `base` on, which is a multiple of four as in every ring.
    #[must_use]
    pub fn dirty_slots(&self, base: u32, len: u32) -> u32 {
        let words = (base / 4..).zip((0..len).step_by(4));
        let dirty = words.map_while(|(word, first)| {
            let slots = self.rings.read(word)?.slots;
            let own = (len - first).min(4) as usize;
            u32::try_from(slots[..own].iter().filter(|&&slot| slot & DIRTY != 0).count()).ok()
        });
        dirty.sum()
    }

    /// Takes the dirty bit from a slot (index over all rings) if its word still is `now`; says whether it was.
    ///
    /// # Errors
    /// When the slot lies outside the map, or the maps were opened to read.
    pub fn clean_slot(&self, slot: u32, now: u16) -> io::Result<bool> {
        self.rings.swap_u16(slot >> 2, slot_offset(slot), now, now & !DIRTY)
    }

    /// A service's entry, used or not.
    #[must_use]
    pub fn service(&self, id: u16) -> Option<Service> {
        self.services.read(id.into())
    }

    /// An entry of `backends`, used or not.
    #[must_use]
    pub fn backend(&self, index: u32) -> Option<Backend> {
        self.backends.read(index)
    }

    /// The `state` bits of an entry of `backends`.
    #[must_use]
    pub fn backend_state(&self, index: u32) -> Option<u32> {
        self.backends.load_u32(index, offset_of!(Backend, state))
    }

    /// What routers said of our tunnels, whole notes only.
    pub fn path_mtus(&self) -> impl Iterator<Item = PathMtu> + '_ {
        (0..self.path_mtus.len()).filter_map(|place| {
            let note = self.path_mtus.read(place)?;
            // Another after it means that packets wrote while we read; the next look gets it.
            (note.stamp != 0 && self.path_mtus.read(place)? == note).then_some(note)
        })
    }

    /// Node-wide counters, summed over CPUs.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn counters(&self) -> io::Result<Counters> {
        self.counters.sum(0)
    }

    /// What a service forwarded since its id was taken.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn service_traffic(&self, id: u16) -> io::Result<Traffic> {
        self.service_stats.sum(id.into())
    }

    /// What a member of a ring forwarded: `index` is `stats_base + ring-local index`. `None` without counters of its own.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn backend_traffic(&self, index: u32) -> io::Result<Option<Traffic>> {
        if index >= NO_STATS { Ok(None) } else { self.backend_stats.sum(index).map(Some) }
    }

    /// Starts a member's counters at 0, when its index gets a new owner.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn clear_backend_traffic(&mut self, index: u32) -> io::Result<()> {
        if index >= NO_STATS { Ok(()) } else { self.backend_stats.clear(index) }
    }

    /// Starts a service's counters at 0. `PutService` does it.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn clear_service_traffic(&mut self, id: u16) -> io::Result<()> {
        self.service_stats.clear(id.into())
    }

    /// Waits if `entry` was flipped since the last grace period.
    fn settle(&mut self, entry: Flipped) {
        if self.flipped.contains(&entry) {
            self.grace();
        }
    }

    fn grace(&mut self) {
        sys::grace_period();
        self.flipped.clear();
    }

    fn try_apply(&mut self, op: &MapOp) -> io::Result<()> {
        match op {
            MapOp::PutTxPort { ifindex } => {
                self.tx_ports.set(*ifindex, *ifindex, None, 0).map_err(errors::device_map)?;
                self.redirects.insert(*ifindex);
                Ok(())
            }
            MapOp::DropTxPort { ifindex } => self.drop_tx_port(*ifindex),
            MapOp::PutBackend { index, entry } => self.put_backend(*index, entry),
            MapOp::SetTemplate { index, template } => self.set_template(*index, template),
            MapOp::SetBackendState { index, state, since } => {
                self.backends.store_u64(*index, offset_of!(Backend, since), *since)?;
                self.backends.store_u32(*index, offset_of!(Backend, state), *state)
            }
            MapOp::DropBackend { index } => {
                let block_len = self.backends.read(*index).map_or(0, |b| b.block_len);
                self.put_backend(*index, &Backend { block_len, ..Backend::zeroed() })
            }
            MapOp::PutRing { base, slots } => self.put_ring(*base, slots),
            MapOp::CopyRing { from, base, len } => self.copy_ring(*from, *base, *len),
            MapOp::SetSlots { base, changes } => {
                changes.iter().try_for_each(|change| self.set_slot(*base, change))
            }
            MapOp::PutService { id, entry } => self.put_service(*id, entry),
            MapOp::SetService { id, config } => self.set_service(*id, config),
            MapOp::ClearStats { service, base, len } => {
                service.map_or(Ok(()), |id| self.clear_service_traffic(id))?;
                (*base..base.saturating_add(*len)).try_for_each(|index| self.clear_backend_traffic(index))
            }
            MapOp::DropService { id } => self.put_service(*id, &Service::zeroed()),
            MapOp::PutPage { page, content } => self.ports.write(*page, content),
            MapOp::PutVips { bank, slots } => self.put_vips(*bank, slots),
            MapOp::SwitchVips { word } => {
                self.control.store_u32(0, offset_of!(Control, vip_bank), *word)?;
                self.flipped.insert((names::VIPS, 0));
                Ok(())
            }
            MapOp::SetSources { list } => self.set_sources(list),
            MapOp::PutServerId { index, place } => self.put_server_id(*index, place),
            MapOp::DropServerId { index } => self.server_ids.store_u64(*index, OWNER, 0),
            MapOp::PutSource { key, value } => {
                self.source_ranges.insert(&trie_key(key), *value, 0).map_err(errors::map)?;
                self.prefixes.insert(*key, *value);
                Ok(())
            }
            MapOp::DropSource { key } => {
                self.source_ranges.remove(&trie_key(key)).map_err(errors::map)?;
                self.prefixes.remove(key);
                Ok(())
            }
            MapOp::PutPodPort { key, target } => {
                self.pod_ports.insert(key, *target, 0).map_err(errors::map)?;
                self.pods.insert(*key, *target);
                Ok(())
            }
            MapOp::DropPodPort { key } => {
                self.pod_ports.remove(key).map_err(errors::map)?;
                self.pods.remove(key);
                Ok(())
            }
            MapOp::Grace => {
                self.grace();
                Ok(())
            }
            MapOp::SetGeneration { generation } => {
                self.control.store_u32(0, offset_of!(Control, generation), *generation)
            }
        }
    }

    fn drop_tx_port(&mut self, ifindex: u32) -> io::Result<()> {
        if ifindex >= self.capacity.tx_ports {
            return Err(errors::outside());
        }
        let map = self.tx_ports.map().fd().as_fd();
        sys::delete_element(map, ifindex)?;
        self.redirects.remove(&ifindex);
        Ok(())
    }

    /// A place that has another id is empty before it has ours. The owner is one store.
    fn put_server_id(&self, index: u32, place: &Place) -> io::Result<()> {
        let there = self.server_ids.read(index).ok_or_else(errors::outside)?;
        if there.id != place.id {
            self.server_ids.store_u64(index, OWNER, 0)?;
            self.server_ids.store_u64(index, offset_of!(Place, id), place.id)?;
        }
        self.server_ids.store_u64(index, OWNER, place.owner())
    }

    /// `state` is what the flow table asks about an index, so it comes first and last.
    fn put_backend(&self, index: u32, entry: &Backend) -> io::Result<()> {
        self.backends.store_u32(index, offset_of!(Backend, state), 0)?;
        self.backends.write(index, &Backend { state: 0, ..*entry })?;
        self.backends.store_u32(index, offset_of!(Backend, state), entry.state)
    }

    fn set_template(&mut self, index: u32, template: &Template) -> io::Result<()> {
        let live = self.backends.load_u32(index, offset_of!(Backend, live)).ok_or_else(errors::outside)?;
        let idle = (live & 1) ^ 1;
        self.settle((names::BACKENDS, index));
        let place = offset_of!(Backend, templates) + idle as usize * size_of::<Template>();
        self.backends.write_part(index, place, template)?;
        self.backends.store_u32(index, offset_of!(Backend, live), idle)?;
        self.flipped.insert((names::BACKENDS, index));
        Ok(())
    }

    /// `used` is what observers go by.
    fn put_service(&self, id: u16, entry: &Service) -> io::Result<()> {
        let id = u32::from(id);
        self.services.store_u32(id, offset_of!(Service, used), 0)?;
        self.services.write(id, &Service { used: 0, ..*entry })?;
        self.services.store_u32(id, offset_of!(Service, used), entry.used)
    }

    fn set_service(&mut self, id: u16, config: &ServiceConfig) -> io::Result<()> {
        let id = u32::from(id);
        let live = self.services.load_u32(id, offset_of!(Service, live)).ok_or_else(errors::outside)?;
        let idle = (live & 1) ^ 1;
        self.settle((names::SERVICES, id));
        let place = offset_of!(Service, configs) + idle as usize * size_of::<ServiceConfig>();
        self.services.write_part(id, place, config)?;
        self.services.store_u32(id, offset_of!(Service, live), idle)?;
        self.flipped.insert((names::SERVICES, id));
        Ok(())
    }

    /// Both halves: a clean slot was last clean now. Slots behind the end of the last word are nobody's.
    fn put_ring(&self, base: u32, slots: &[u16]) -> io::Result<()> {
        let end = u32::try_from(slots.len()).ok().and_then(|len| base.checked_add(len));
        if !base.is_multiple_of(4) || end.is_none_or(|end| end > self.capacity.ring_slots) {
            return Err(errors::outside());
        }
        for (index, four) in (base / 4..).zip(slots.chunks(4)) {
            let mut word = RingWord::default();
            word.slots[..four.len()].copy_from_slice(four);
            self.rings_before.write(index, &word)?;
            self.rings.write(index, &word)?;
        }
        Ok(())
    }

    /// Slots behind the end of the last word are nobody's.
    fn copy_ring(&self, from: u32, base: u32, len: u32) -> io::Result<()> {
        let inside = |first: u32| {
            first.is_multiple_of(4)
                && first.checked_add(len).is_some_and(|end| end <= self.capacity.ring_slots)
        };
        if !inside(from) || !inside(base) {
            return Err(errors::outside());
        }
        for (from, to) in (from / 4..).zip(base / 4..).take(len.div_ceil(4) as usize) {
            for map in [&self.rings_before, &self.rings] {
                map.write(to, &map.read(from).ok_or_else(errors::outside)?)?;
            }
        }
        Ok(())
    }

    fn set_slot(&self, base: u32, change: &SlotChange) -> io::Result<()> {
        let slot = base.checked_add(change.slot).ok_or_else(errors::outside)?;
        if let Some(before) = change.before {
            self.rings_before.store_u16(slot >> 2, slot_offset(slot), before)?;
        }
        self.rings.store_u16(slot >> 2, slot_offset(slot), change.now)
    }

    fn put_vips(&mut self, bank: u32, slots: &[VipSlot]) -> io::Result<()> {
        let control = self.control();
        if bank > 1
            || slots.len() != self.capacity.vip_slots as usize
            || VipBank::unpack(control.vip_bank, self.capacity.vip_slots).bank == bank
        {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not the idle VIP bank, whole"));
        }
        // A slow packet may still probe the bank that was live.
        self.settle((names::VIPS, 0));
        (bank * self.capacity.vip_slots..).zip(slots).try_for_each(|(slot, vip)| self.vips.write(slot, vip))
    }

    fn set_sources(&mut self, list: &AllowList) -> io::Result<()> {
        let idle = (self.control().decap_bank & 1) ^ 1;
        self.settle((names::DECAP_SOURCES, 0));
        self.sources.write(idle, list)?;
        self.control.store_u32(0, offset_of!(Control, decap_bank), idle)?;
        self.flipped.insert((names::DECAP_SOURCES, 0));
        Ok(())
    }
}

impl Elements for KernelMaps {
    fn capacity(&self) -> Capacity {
        self.capacity
    }
    fn control(&self) -> Control {
        self.control()
    }
    fn vip(&self, index: u32) -> Option<VipSlot> {
        self.vips.read(index)
    }
    fn page(&self, index: u32) -> Option<PortPage> {
        self.ports.read(index)
    }
    fn service(&self, id: u32) -> Option<Service> {
        // Most are unused, and all are asked for.
        match self.services.load_u32(id, offset_of!(Service, used))? {
            0 => Some(Service::zeroed()),
            _ => self.services.read(id),
        }
    }
    fn backend(&self, index: u32) -> Option<Backend> {
        self.backends.read(index)
    }
    fn slot(&self, index: u32) -> Option<u16> {
        Some(self.rings.read(index >> 2)?.slots[(index & 3) as usize])
    }
    fn before(&self, index: u32) -> Option<u16> {
        Some(self.rings_before.read(index >> 2)?.slots[(index & 3) as usize])
    }
    fn slots(&self, range: Range<u32>) -> Vec<u16> {
        row(&self.rings, range)
    }
    fn befores(&self, range: Range<u32>) -> Vec<u16> {
        row(&self.rings_before, range)
    }
    fn slots_are(&self, range: Range<u32>, last: &Slots) -> bool {
        row(&self.rings, range.clone()) == last.now && row(&self.rings_before, range) == last.before
    }
    fn sources(&self, bank: u32) -> Option<AllowList> {
        self.sources.read(bank)
    }
    fn tx_ports(&self) -> BTreeSet<u32> {
        self.redirects.clone()
    }
    fn server_id(&self, index: u32) -> Option<Place> {
        self.server_ids.read(index)
    }
    fn source_ranges(&self) -> BTreeMap<SourceKey, u32> {
        self.prefixes.clone()
    }
    fn pod_ports(&self) -> BTreeMap<PodPort, u32> {
        self.pods.clone()
    }
}

impl Maps for KernelMaps {
    fn observe(&self) -> Observed {
        observe(self)
    }

    fn observe_again(&self, last: &Observed, written: Option<&[MapOp]>) -> Observed {
        observe_again(self, last, written)
    }

    fn apply(&mut self, op: &MapOp) -> Result<(), WriteError> {
        self.try_apply(op).map_err(|source| {
            let (map, key) = op.target();
            WriteError { map, key, source }
        })
    }
}

/// What the cutter works with: `backends`, and its own counts.
pub(super) fn cut_tables(root: &BpffsRoot) -> Result<(Mapped<Backend>, Mapped<CutCounts>), OpenError> {
    let open = Opener { root, maps: &root.maps(), writable: true };
    Ok((open.table(names::BACKENDS)?, open.mapped(names::CUT_COUNTS)?))
}

/// Opens pins of one root.
struct Opener<'a> {
    root: &'a BpffsRoot,
    maps: &'a Path,
    writable: bool,
}

impl Opener<'_> {
    fn data(&self, name: &'static str) -> Result<(MapData, u32), OpenError> {
        let data = MapData::from_pin(self.maps.join(name)).map_err(|e| self.error(name, errors::map(e)))?;
        let elements = data.info().map_err(|e| self.error(name, errors::map(e)))?.max_entries();
        Ok((data, elements))
    }

    fn elements(&self, name: &'static str) -> Result<u32, OpenError> {
        self.data(name).map(|(_, elements)| elements)
    }

    /// Elements of a table: an array map with one value.
    fn table_len<T>(&self, name: &'static str) -> Result<u32, OpenError> {
        let (data, _) = self.data(name)?;
        let info = data.info().map_err(|e| self.error(name, errors::map(e)))?;
        Ok(info.value_size() / size_of::<T>() as u32)
    }

    fn table<T: Pod>(&self, name: &'static str) -> Result<Mapped<T>, OpenError> {
        let (data, _) = self.data(name)?;
        let len = self.table_len::<T>(name)?;
        Mapped::new(data.fd().as_fd(), len, self.writable).map_err(|e| self.error(name, e))
    }

    fn mapped<T: Pod>(&self, name: &'static str) -> Result<Mapped<T>, OpenError> {
        let (data, elements) = self.data(name)?;
        let size = data.info().map_err(|e| self.error(name, errors::map(e)))?.value_size() as usize;
        if size != size_of::<T>() {
            let text = format!("values of {size} bytes, not {}", size_of::<T>());
            return Err(self.error(name, io::Error::new(io::ErrorKind::InvalidData, text)));
        }
        Mapped::new(data.fd().as_fd(), elements, self.writable).map_err(|e| self.error(name, e))
    }

    /// The counters' table says how many CPUs there are.
    fn per_cpu<T: Pod>(&self, name: &'static str) -> Result<PerCpu<T>, OpenError> {
        let cpus = self.table_len::<Counters>(names::COUNTERS)?.max(1);
        let all = self.table(name)?;
        Ok(PerCpu { len: all.len() / cpus, all })
    }

    fn typed<T: TryFrom<Map, Error = MapError>>(
        &self,
        name: &'static str,
        kind: fn(MapData) -> Map,
    ) -> Result<T, OpenError> {
        let (data, _) = self.data(name)?;
        T::try_from(kind(data)).map_err(|e| self.error(name, errors::map(e)))
    }

    fn capacity(&self) -> Result<Capacity, OpenError> {
        Ok(Capacity {
            services: self.table_len::<Service>(names::SERVICES)?,
            vip_slots: self.table_len::<VipSlot>(names::VIPS)? / 2,
            port_pages: self.elements(names::PORTS)?,
            backends: self.table_len::<Backend>(names::BACKENDS)?,
            ring_slots: self.elements(names::RINGS)?.saturating_mul(4),
            flow_sets: self.elements(names::FLOWS)?,
            backend_stats: self.per_cpu::<Traffic>(names::BACKEND_STATS)?.len,
            tx_ports: self.elements(names::TX_PORTS)?,
            server_ids: self.table_len::<Place>(names::SERVER_IDS)?,
            source_ranges: self.elements(names::SOURCE_RANGES)?,
        })
    }

    fn error(&self, name: &'static str, source: io::Error) -> OpenError {
        OpenError::Map { root: self.root.clone(), name, source }
    }
}

/// The word of a [`Place`] that says whose it is.
const OWNER: usize = offset_of!(Place, service);

/// [`SourceKey`] behind its first field.
type ClientPrefix = [u8; size_of::<SourceKey>() - size_of::<u32>()];

fn trie_key(key: &SourceKey) -> Key<ClientPrefix> {
    let mut data = [0; size_of::<ClientPrefix>()];
    data.copy_from_slice(&bytemuck::bytes_of(key)[size_of::<u32>()..]);
    Key::new(key.prefix_len, data)
}

fn source_key(key: &Key<ClientPrefix>) -> SourceKey {
    let mut found = SourceKey { prefix_len: key.prefix_len(), ..SourceKey::default() };
    bytemuck::bytes_of_mut(&mut found)[size_of::<u32>()..].copy_from_slice(&key.data());
    found
}

/// Slots in a row, as far as the map goes.
fn row(map: &Mapped<RingWord>, range: Range<u32>) -> Vec<u16> {
    let words = map.read_row(range.start >> 2, range.len().div_ceil(4) + 1);
    let slots: &[u16] = bytemuck::cast_slice(&words);
    let own = slots.get(range.start as usize & 3..).unwrap_or_default();
    own[..own.len().min(range.len())].to_vec()
}

/// Byte offset of a slot in its [`RingWord`].
fn slot_offset(slot: u32) -> usize {
    offset_of!(RingWord, slots) + (slot & 3) as usize * size_of::<u16>()
}

/// A table of counters with a part for each CPU.
struct PerCpu<T> {
    all: Mapped<T>,
    /// Elements of a part.
    len: u32,
}

impl<T: Pod> PerCpu<T> {
    fn indices(&self, element: u32) -> io::Result<impl Iterator<Item = u32> + use<T>> {
        if element >= self.len {
            return Err(errors::outside());
        }
        Ok((element..self.all.len()).step_by(self.len as usize))
    }

    /// A value made of `u64` counters, added up over the CPUs.
    fn sum(&self, element: u32) -> io::Result<T> {
        let mut total = T::zeroed();
        for value in self.indices(element)?.filter_map(|index| self.all.read(index)) {
            let totals: &mut [u64] = bytemuck::cast_slice_mut(std::slice::from_mut(&mut total));
            let values: &[u64] = bytemuck::cast_slice(std::slice::from_ref(&value));
            for (total, value) in totals.iter_mut().zip(values) {
                *total = total.wrapping_add(*value);
            }
        }
        Ok(total)
    }

    fn clear(&self, element: u32) -> io::Result<()> {
        self.indices(element)?.try_for_each(|index| self.all.write(index, &T::zeroed()))
    }
}
