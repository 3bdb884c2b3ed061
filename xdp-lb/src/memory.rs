//! The maps in plain memory: the twin of the kernel's for tests, and for whoever wants to try a plan first.
//!
//! As honest as the kernel: arrays of fixed size, writes outside them fail, and nothing is reachable but
//! through the tables. [`Cpu`] sends packets through the very functions of the kernel half; several
//! threads may, since what packets write, and what the agent changes under them, is atomic.

mod copy;
mod cpu;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;
use std::sync::atomic::{
    AtomicU16, AtomicU32, AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
};

use bytemuck::Zeroable;
use xdp_lb_common::{
    backend::Backend,
    control::Control,
    decap::AllowList,
    flow::{FlowSet, WAYS},
    reason::{FlowEvent, Reason},
    ring::Slot,
    server_id::Place,
    service::Service,
    source::SourceKey,
    stats::NO_STATS,
    translate::PodPort,
    vip::{PortPage, VipSlot},
};

pub use self::cpu::{Cpu, Packet, Sent};
use crate::{
    observe::{Elements, observe, observe_again},
    state::{Capacity, MapOp, Maps, Observed, SlotChange, Slots, WriteError},
};

/// All maps of a balancer.
#[derive(Debug)]
pub struct MemoryMaps {
    capacity: Capacity,
    control: Control,
    vips: Vec<VipSlot>,
    ports: Vec<PortPage>,
    services: Vec<Service>,
    backends: Vec<Backend>,
    /// `state` of every backend: the word that packets read while the agent writes it.
    states: Vec<AtomicU32>,
    rings: Vec<AtomicU16>,
    before: Vec<AtomicU16>,
    flows: Vec<[AtomicU64; WAYS]>,
    admissions: Vec<AtomicU64>,
    sources: [AllowList; 2],
    tx_ports: BTreeSet<u32>,
    /// Both words of every place.
    server_ids: Vec<[AtomicU64; 2]>,
    source_ranges: BTreeMap<SourceKey, u32>,
    pod_ports: BTreeMap<PodPort, u32>,
    events: Vec<AtomicU64>,
    ops: Vec<MapOp>,
    fault: Option<(u64, io::ErrorKind)>,
    lost: Option<&'static str>,
}

impl MemoryMaps {
    /// Empty maps. `control` brings what the agent stores when it makes maps: seed, `hz`, shifts; the masks and
    /// the layout are taken from `capacity` and [`xdp_lb_common::control::LAYOUT`].
    #[must_use]
    pub fn new(capacity: Capacity, control: Control) -> Self {
        let control = Control {
            layout: xdp_lb_common::control::LAYOUT,
            vip_mask: capacity.vip_slots.saturating_sub(1),
            flow_set_mask: capacity.flow_sets.saturating_sub(1),
            ..control
        };
        let words = |len: u32| (0..len).map(|_| AtomicU16::new(0)).collect();
        Self {
            vips: vec![VipSlot::zeroed(); 2 * capacity.vip_slots as usize],
            ports: vec![PortPage::zeroed(); capacity.port_pages as usize],
            services: vec![Service::zeroed(); capacity.services as usize],
            backends: vec![Backend::zeroed(); capacity.backends as usize],
            states: (0..capacity.backends).map(|_| AtomicU32::new(0)).collect(),
            rings: words(capacity.ring_slots),
            before: words(capacity.ring_slots),
            flows: (0..capacity.flow_sets).map(|_| std::array::from_fn(|_| AtomicU64::new(0))).collect(),
            admissions: (0..capacity.services).map(|_| AtomicU64::new(0)).collect(),
            sources: [AllowList::zeroed(); 2],
            tx_ports: BTreeSet::new(),
            server_ids: (0..capacity.server_ids).map(|_| Default::default()).collect(),
            source_ranges: BTreeMap::new(),
            pod_ports: BTreeMap::new(),
            events: FlowEvent::ALL.iter().map(|_| AtomicU64::new(0)).collect(),
            ops: Vec::new(),
            fault: None,
            lost: None,
            capacity,
            control,
        }
    }

    /// A CPU that works off packets at this moment.
    #[must_use]
    pub fn cpu(&self, jiffies: u64) -> Cpu<'_> {
        Cpu { maps: self, jiffies }
    }

    /// Makes the `n`-th [`Maps::apply`] from now fail (0 is the next one), with a part of it written where the
    /// contract allows that. Once.
    pub fn fail_at(&mut self, n: u64, kind: io::ErrorKind) {
        self.fault = Some((n, kind));
    }

    /// The map of this name is gone: every [`Maps::apply`] on it fails, and writes nothing. `None`: it is back.
    pub fn lose(&mut self, map: Option<&'static str>) {
        self.lost = map;
    }

    /// Operations carried out since the last [`Self::take_ops`], failed ones excluded.
    #[must_use]
    pub fn ops(&self) -> &[MapOp] {
        &self.ops
    }

    /// The same, and forgets them.
    pub fn take_ops(&mut self) -> Vec<MapOp> {
        std::mem::take(&mut self.ops)
    }

    /// Every set of the flow table with its index.
    pub fn flow_sets(&self) -> impl Iterator<Item = (u32, FlowSet)> {
        let load =
            |ways: &[AtomicU64; WAYS]| FlowSet { entries: ways.each_ref().map(|way| way.load(Relaxed)) };
        (0u32..).zip(self.flows.iter().map(load))
    }

    /// Clears a way by compare-and-swap; false when it no longer holds `old` or does not exist.
    pub fn sweep(&self, set: u32, way: usize, old: u64) -> bool {
        let way = self.flows.get(set as usize).and_then(|ways| ways.get(way));
        way.is_some_and(|way| way.compare_exchange(old, 0, Relaxed, Relaxed).is_ok())
    }

    /// Makes a dirty slot clean by compare-and-swap; `index` counts over all rings. False when the slot
    /// no longer holds `expected` or does not exist.
    pub fn clean(&self, index: u32, expected: u16) -> bool {
        let clean = Slot::clean(expected).0;
        let slot = self.rings.get(index as usize);
        slot.is_some_and(|slot| slot.compare_exchange(expected, clean, Release, Relaxed).is_ok())
    }

    /// Changes slots of a live ring while CPUs read it: what [`MapOp::SetSlots`] does, beside shared borrows.
    ///
    /// # Errors
    /// A slot lies outside the map; those before it are written.
    pub fn set_slots(&self, base: u32, changes: &[SlotChange]) -> Result<(), WriteError> {
        for change in changes {
            let at = base.saturating_add(change.slot) as usize;
            let (Some(now), Some(before)) = (self.rings.get(at), self.before.get(at)) else {
                let op = MapOp::SetSlots { base: at as u32, changes: Vec::new() };
                return Err(outside(&op, self.rings.len()));
            };
            if let Some(older) = change.before {
                before.store(older, Relaxed);
            }
            now.store(change.now, Release);
        }
        Ok(())
    }

    /// Changes a backend's state while CPUs read it: the one store of [`MapOp::SetBackendState`].
    pub fn set_state(&self, index: u32, state: u32) {
        if let Some(word) = self.states.get(index as usize) {
            word.store(state, Release);
        }
    }

    /// How often packets met this event since the maps were made.
    #[must_use]
    pub fn events(&self, event: FlowEvent) -> u64 {
        self.events[event.index()].load(Relaxed)
    }

    /// Puts an entry into the flow table, as a packet at that moment would have; outside the table, nothing.
    pub fn remember(&self, set: u32, way: usize, entry: u64) {
        if let Some(way) = self.flows.get(set as usize).and_then(|ways| ways.get(way)) {
            way.store(entry, Relaxed);
        }
    }

    /// Forgets every remembered flow, as a node does that starts anew.
    pub fn clear_flows(&self) {
        self.flows.iter().flatten().for_each(|way| way.store(0, Relaxed));
    }

    fn write(&mut self, op: &MapOp, torn: bool) -> Result<(), WriteError> {
        let part = |len: usize| if torn { len / 2 } else { len };
        match op {
            MapOp::PutTxPort { ifindex } | MapOp::DropTxPort { ifindex } => {
                let len = self.capacity.tx_ports as usize;
                check(op, *ifindex, 1, len)?;
                match op {
                    _ if torn => {}
                    MapOp::PutTxPort { .. } => _ = self.tx_ports.insert(*ifindex),
                    _ => _ = self.tx_ports.remove(ifindex),
                }
            }
            MapOp::PutBackend { index, entry } => {
                check(op, *index, 1, self.backends.len())?;
                if !torn {
                    self.put_backend(*index, entry);
                }
            }
            MapOp::SetTemplate { index, template } => {
                let entry = at(op, *index, &mut self.backends)?;
                entry.templates[1 - (entry.live & 1) as usize] = **template;
                if !torn {
                    entry.live = 1 - (entry.live & 1);
                }
            }
            MapOp::SetBackendState { index, state, since } => {
                at(op, *index, &mut self.backends)?.since = *since;
                if !torn {
                    self.set_state(*index, *state);
                }
            }
            MapOp::DropBackend { index } => {
                check(op, *index, 1, self.backends.len())?;
                if !torn {
                    let block_len = self.backends[*index as usize].block_len;
                    self.put_backend(*index, &Backend { block_len, ..Backend::zeroed() });
                }
            }
            MapOp::PutRing { base, slots } => {
                check(op, *base, slots.len(), self.rings.len())?;
                for (word, slot) in self.rings[*base as usize..].iter().zip(&slots[..part(slots.len())]) {
                    word.store(*slot, Relaxed);
                }
            }
            MapOp::CopyRing { from, base, len } => {
                check(op, *base, *len as usize, self.rings.len())?;
                check(op, *from, *len as usize, self.rings.len())?;
                let (from, base) = (*from as usize, *base as usize);
                for slot in 0..part(*len as usize) {
                    self.before[base + slot].store(self.before[from + slot].load(Relaxed), Relaxed);
                    self.rings[base + slot].store(self.rings[from + slot].load(Relaxed), Relaxed);
                }
            }
            MapOp::SetSlots { base, changes } => self.set_slots(*base, &changes[..part(changes.len())])?,
            MapOp::PutService { id, entry } => {
                let service = at(op, u32::from(*id), &mut self.services)?;
                if !torn {
                    *service = **entry;
                }
            }
            MapOp::SetService { id, config } => {
                let service = at(op, u32::from(*id), &mut self.services)?;
                service.configs[1 - (service.live & 1) as usize] = *config;
                if !torn {
                    service.live = 1 - (service.live & 1);
                }
            }
            MapOp::DropService { id } => {
                let service = at(op, u32::from(*id), &mut self.services)?;
                if !torn {
                    *service = Service::zeroed();
                }
            }
            MapOp::PutPage { page, content } => {
                let element = at(op, *page, &mut self.ports)?;
                element.values[..part(256)].copy_from_slice(&content.values[..part(256)]);
            }
            MapOp::PutVips { bank, slots } => {
                let base = bank.saturating_mul(self.capacity.vip_slots);
                check(op, base, slots.len(), self.vips.len())?;
                let len = part(slots.len());
                self.vips[base as usize..][..len].copy_from_slice(&slots[..len]);
            }
            MapOp::SetSources { list } => {
                let idle = 1 - (self.control.decap_bank & 1);
                self.sources[idle as usize] = **list;
                if !torn {
                    self.control.decap_bank = idle;
                }
            }
            MapOp::ClearStats { service, base, len } => {
                if *base != NO_STATS {
                    check(op, *base, *len as usize, self.capacity.backend_stats as usize)?;
                }
                check(op, u32::from(service.unwrap_or(0)), 1, self.services.len())?;
            }
            MapOp::PutServerId { index, place } => self.put_server_id(op, *index, place, torn)?,
            MapOp::DropServerId { index } => {
                check(op, *index, 1, self.server_ids.len())?;
                if !torn {
                    self.server_ids[*index as usize][1].store(0, Release);
                }
            }
            MapOp::PutSource { key, value } => {
                let full = self.source_ranges.len() >= self.capacity.source_ranges as usize;
                if full && !self.source_ranges.contains_key(key) {
                    return Err(outside(op, self.source_ranges.len()));
                }
                if !torn {
                    self.source_ranges.insert(*key, *value);
                }
            }
            MapOp::DropSource { key } => {
                if !torn {
                    self.source_ranges.remove(key);
                }
            }
            MapOp::PutPodPort { key, target } if !torn => _ = self.pod_ports.insert(*key, *target),
            MapOp::DropPodPort { key } if !torn => _ = self.pod_ports.remove(key),
            MapOp::SwitchVips { word } if !torn => self.control.vip_bank = *word,
            MapOp::SetGeneration { generation } if !torn => self.control.generation = *generation,
            MapOp::SwitchVips { .. } | MapOp::SetGeneration { .. } | MapOp::Grace => {}
            MapOp::PutPodPort { .. } | MapOp::DropPodPort { .. } => {}
        }
        Ok(())
    }

    fn put_server_id(&self, op: &MapOp, index: u32, place: &Place, torn: bool) -> Result<(), WriteError> {
        check(op, index, 1, self.server_ids.len())?;
        let [id, owner] = &self.server_ids[index as usize];
        if id.load(Acquire) != place.id {
            owner.store(0, Release);
            id.store(place.id, Release);
        }
        if !torn {
            owner.store(place.owner(), Release);
        }
        Ok(())
    }

    fn put_backend(&mut self, index: u32, entry: &Backend) {
        self.backends[index as usize] = *entry;
        self.states[index as usize].store(entry.state, Release);
    }
}

/// A copy that lives on by itself: what a crash at this moment would leave behind. Recorded operations and a
/// fault that was ordered stay with the original.
impl Clone for MemoryMaps {
    fn clone(&self) -> Self {
        let words = |words: &[AtomicU16]| words.iter().map(|w| AtomicU16::new(w.load(Acquire))).collect();
        let longs = |words: &[AtomicU64]| words.iter().map(|w| AtomicU64::new(w.load(Relaxed))).collect();
        Self {
            capacity: self.capacity,
            control: self.control,
            vips: self.vips.clone(),
            ports: self.ports.clone(),
            services: self.services.clone(),
            backends: self.backends.clone(),
            states: self.states.iter().map(|w| AtomicU32::new(w.load(Acquire))).collect(),
            rings: words(&self.rings),
            before: words(&self.before),
            flows: self.flow_sets().map(|(_, set)| set.entries.map(AtomicU64::new)).collect(),
            admissions: longs(&self.admissions),
            sources: self.sources,
            tx_ports: self.tx_ports.clone(),
            server_ids: self
                .server_ids
                .iter()
                .map(|words| words.each_ref().map(|word| AtomicU64::new(word.load(Acquire))))
                .collect(),
            source_ranges: self.source_ranges.clone(),
            pod_ports: self.pod_ports.clone(),
            events: longs(&self.events),
            ops: Vec::new(),
            fault: None,
            lost: None,
        }
    }
}

impl Maps for MemoryMaps {
    fn observe(&self) -> Observed {
        observe(self)
    }

    fn observe_again(&self, last: &Observed, written: Option<&[MapOp]>) -> Observed {
        observe_again(self, last, written)
    }

    fn apply(&mut self, op: &MapOp) -> Result<(), WriteError> {
        let (map, key) = op.target();
        if self.lost == Some(map) {
            return Err(WriteError { map, key, source: io::ErrorKind::NotFound.into() });
        }
        match &mut self.fault {
            Some((0, kind)) => {
                let source = io::Error::from(*kind);
                self.fault = None;
                self.write(op, true)?;
                return Err(WriteError { map, key, source });
            }
            Some((left, _)) => *left -= 1,
            None => {}
        }
        self.write(op, false)?;
        self.ops.push(op.clone());
        Ok(())
    }
}

impl Elements for MemoryMaps {
    fn capacity(&self) -> Capacity {
        self.capacity
    }
    fn control(&self) -> Control {
        self.control
    }
    fn vip(&self, index: u32) -> Option<VipSlot> {
        self.vips.get(index as usize).copied()
    }
    fn page(&self, index: u32) -> Option<PortPage> {
        self.ports.get(index as usize).copied()
    }
    fn service(&self, id: u32) -> Option<Service> {
        self.services.get(id as usize).copied()
    }
    fn backend(&self, index: u32) -> Option<Backend> {
        let state = self.states.get(index as usize)?.load(Acquire);
        Some(Backend { state, ..*self.backends.get(index as usize)? })
    }
    fn slot(&self, index: u32) -> Option<u16> {
        Some(self.rings.get(index as usize)?.load(Acquire))
    }
    fn before(&self, index: u32) -> Option<u16> {
        Some(self.before.get(index as usize)?.load(Relaxed))
    }
    fn slots(&self, range: Range<u32>) -> Vec<u16> {
        self.rings[inside(&range, self.rings.len())].iter().map(|slot| slot.load(Acquire)).collect()
    }
    fn befores(&self, range: Range<u32>) -> Vec<u16> {
        self.before[inside(&range, self.before.len())].iter().map(|slot| slot.load(Relaxed)).collect()
    }
    fn slots_are(&self, range: Range<u32>, last: &Slots) -> bool {
        let range = inside(&range, self.rings.len());
        let same = |words: &[AtomicU16], last: &[u16]| {
            words.len() == last.len()
                && words.iter().zip(last).all(|(word, last)| word.load(Relaxed) == *last)
        };
        same(&self.rings[range.clone()], &last.now) && same(&self.before[range], &last.before)
    }
    fn sources(&self, bank: u32) -> Option<AllowList> {
        self.sources.get(bank as usize).copied()
    }
    fn tx_ports(&self) -> BTreeSet<u32> {
        self.tx_ports.clone()
    }
    fn server_id(&self, index: u32) -> Option<Place> {
        let [id, owner] = self.server_ids.get(index as usize)?;
        Some(Place::from_words(id.load(Acquire), owner.load(Acquire)))
    }
    fn source_ranges(&self) -> BTreeMap<SourceKey, u32> {
        self.source_ranges.clone()
    }
    fn pod_ports(&self) -> BTreeMap<PodPort, u32> {
        self.pod_ports.clone()
    }
}

fn at<'a, T>(op: &MapOp, index: u32, map: &'a mut [T]) -> Result<&'a mut T, WriteError> {
    let len = map.len();
    map.get_mut(index as usize).ok_or_else(|| outside(op, len))
}

fn check(op: &MapOp, first: u32, count: usize, len: usize) -> Result<(), WriteError> {
    let inside = (first as usize).checked_add(count).is_some_and(|end| end <= len);
    if inside { Ok(()) } else { Err(outside(op, len)) }
}

/// The part of `range` that lies in a map of `len` elements.
fn inside(range: &Range<u32>, len: usize) -> Range<usize> {
    let end = (range.end as usize).min(len);
    (range.start as usize).min(end)..end
}

/// What `bpf(2)` says of a key beyond the map.
fn outside(op: &MapOp, len: usize) -> WriteError {
    let (map, key) = op.target();
    let source = io::Error::new(io::ErrorKind::ArgumentListTooLong, format!("the map has {len} elements"));
    WriteError { map, key, source }
}
