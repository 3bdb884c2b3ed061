//! One pass over the flow table: what is counted, what is swept, which slots must stay dirty.
//!
//! The agent feeds every set to a [`Scan`], clears by compare-and-swap the ways that [`Scan::feed`]
//! returns, and asks the result which dirty slots may become clean ([`crate::slots::settled`]) and
//! which ring-local indexes may be given to another backend. Reads no clock and no map.

use std::time::Duration;

use xdp_lb_common::backend::MAX_MEMBERS;
use xdp_lb_common::flow::{FlowEntry, FlowSet};
use xdp_lb_common::hash::slot_of_tag;
use xdp_lb_common::ring::Slot;
use xdp_lb_common::service::MAX_SERVICES;

use crate::slots::{Evidence, Held, settled};

/// A set of ring-local backend indexes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendSet([u64; MAX_MEMBERS as usize / 64]);

impl Default for BackendSet {
    fn default() -> Self {
        Self([0; MAX_MEMBERS as usize / 64])
    }
}

impl BackendSet {
    /// Adds an index; one that no ring can have (as `NO_BACKEND`) is left out.
    pub fn insert(&mut self, local: u16) {
        if let Some(word) = self.0.get_mut(usize::from(local / 64)) {
            *word |= 1 << (local % 64);
        }
    }

    /// True when the index was added.
    #[must_use]
    pub fn contains(&self, local: u16) -> bool {
        self.0.get(usize::from(local / 64)).is_some_and(|word| word >> (local % 64) & 1 == 1)
    }
}

impl FromIterator<u16> for BackendSet {
    fn from_iter<I: IntoIterator<Item = u16>>(locals: I) -> Self {
        let mut set = Self::default();
        locals.into_iter().for_each(|local| set.insert(local));
        set
    }
}

/// A ring of the scan, as [`Scan::ring`] numbered it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RingIndex(usize);

/// A way that holds nothing anybody needs: to be set to 0 if it still holds `old`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sweep {
    /// Way of the set that was fed.
    pub way: usize,
    /// The entry that was seen.
    pub old: u64,
}

/// A pass over the flow table that is under way, or done.
#[derive(Clone, Debug)]
pub struct Scan<'a> {
    tick: u16,
    started: Duration,
    rings: Vec<Ring<'a>>,
    /// By service id; `None` for an id that is not in use.
    services: Vec<Option<Tally>>,
    live: u64,
    expired: u64,
    orphaned: u64,
}

/// What a scan learns about a service.
#[derive(Clone, Debug)]
struct Tally {
    ring: usize,
    /// Live flows by ring-local backend, as long as the highest that was seen.
    flows: Vec<u32>,
    /// A bit for each ring-local backend that an entry names, as long as the highest.
    named: Vec<u64>,
}

/// What a scan knows and learns about a ring.
#[derive(Clone, Debug)]
struct Ring<'a> {
    slots: &'a [u16],
    alive: BackendSet,
    /// A bit per slot: a live entry names another alive backend than the slot.
    differs: Vec<u64>,
}

impl<'a> Scan<'a> {
    /// A pass that begins at flow-table tick `tick`; `started` is the same moment on the agent's clock.
    #[must_use]
    pub fn new(tick: u16, started: Duration) -> Self {
        Self {
            tick,
            started,
            rings: Vec::new(),
            services: vec![None; MAX_SERVICES as usize + 1],
            live: 0,
            expired: 0,
            orphaned: 0,
        }
    }

    /// Adds a ring: its slot words (`now`; as many as the table has) as they are when the scan begins, and its
    /// backends that are alive (up or draining).
    pub fn ring(&mut self, slots: &'a [u16], alive: BackendSet) -> RingIndex {
        let differs = vec![0; slots.len().div_ceil(64)];
        self.rings.push(Ring { slots, alive, differs });
        RingIndex(self.rings.len() - 1)
    }

    /// Adds a service id (1..=16383) that uses `ring`. Entries of ids that were not added are swept.
    pub fn service(&mut self, id: u16, ring: RingIndex) {
        if let Some(service) = self.services.get_mut(usize::from(id)) {
            *service = Some(Tally { ring: ring.0, flows: Vec::new(), named: Vec::new() });
        }
    }

    /// Takes in one set and returns its ways that are to be cleared: expired entries, which would come
    /// to life again when the ticks wrap, and entries of services that are gone.
    pub fn feed(&mut self, set: &FlowSet) -> impl Iterator<Item = Sweep> + use<> {
        let entries = set.entries;
        let mut swept = 0u8;
        for (way, &entry) in entries.iter().enumerate() {
            if entry != 0 && self.entry(FlowEntry(entry)) == Fate::Sweep {
                swept |= 1 << way;
            }
        }
        entries
            .into_iter()
            .enumerate()
            .filter(move |(way, _)| swept >> way & 1 == 1)
            .map(|(way, old)| Sweep { way, old })
    }

    fn entry(&mut self, entry: FlowEntry) -> Fate {
        let expired = entry.is_free(self.tick);
        let Some(tally) = &mut self.services[usize::from(entry.service())] else {
            self.orphaned += 1;
            return Fate::Sweep;
        };
        let backend = entry.backend();
        // An expired entry still names its backend: until it is cleared, a packet may be refreshing it.
        tally.name(backend);
        if expired {
            self.expired += 1;
            return Fate::Sweep;
        }
        self.live += 1;
        let index = usize::from(backend);
        if tally.flows.len() <= index {
            tally.flows.resize(index + 1, 0);
        }
        tally.flows[index] += 1;
        self.rings[tally.ring].note(entry);
        Fate::Keep
    }

    /// Live flows of a service on a ring-local backend.
    #[must_use]
    pub fn flows(&self, service: u16, backend: u16) -> u32 {
        let tally = self.services.get(usize::from(service)).and_then(Option::as_ref);
        tally.and_then(|tally| tally.flows.get(usize::from(backend))).copied().unwrap_or(0)
    }

    /// Live entries.
    #[must_use]
    pub fn live(&self) -> u64 {
        self.live
    }

    /// Entries that had expired.
    #[must_use]
    pub fn expired(&self) -> u64 {
        self.expired
    }

    /// Entries of services that are gone, live or not.
    #[must_use]
    pub fn orphaned(&self) -> u64 {
        self.orphaned
    }

    /// Ring-local backends that some entry of the service names, live or expired, in order: their indices must not
    /// be given to others yet.
    pub fn named(&self, service: u16) -> impl Iterator<Item = u16> {
        let tally = self.services.get(usize::from(service)).and_then(Option::as_ref);
        let words = (0u16..).zip(tally.into_iter().flat_map(|tally| &tally.named));
        words.flat_map(|(n, word)| {
            (0..64).filter(move |bit| word >> bit & 1 == 1).map(move |bit| 64 * n + bit)
        })
    }

    /// The dirty slots of a ring that may become clean, in order; each by one store of [`Slot::clean`] of
    /// the backend that it had when the scan began.
    ///
    /// `before` and `changed` give the slot's older backend and when the slot last changed, an RCU grace period included
    /// (see [`Evidence`]); `flow_timeout` is the longest among the ring's services.
    pub fn settled(
        &self,
        ring: RingIndex,
        before: impl Fn(u32) -> u16,
        changed: impl Fn(u32) -> Duration,
        flow_timeout: Duration,
    ) -> impl Iterator<Item = u32> {
        let ring = &self.rings[ring.0];
        (0u32..).zip(ring.slots).filter_map(move |(slot, &word)| {
            let now = Slot(word);
            if !now.is_dirty() {
                return None;
            }
            let held = Held { now, before: before(slot) };
            let evidence = Evidence {
                differs: ring.differs(slot),
                before_alive: ring.alive.contains(held.before),
                changed: changed(slot),
                scan_started: self.started,
                flow_timeout,
            };
            settled(held, evidence).then_some(slot)
        })
    }
}

impl Tally {
    fn name(&mut self, backend: u16) {
        let (word, bit) = (usize::from(backend / 64), backend % 64);
        if self.named.len() <= word {
            self.named.resize(word + 1, 0);
        }
        self.named[word] |= 1 << bit;
    }
}

/// What becomes of an entry.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Keep,
    Sweep,
}

impl Ring<'_> {
    /// Notes the slot of a live entry that keeps it dirty. On a clean slot the ring decides whatever is
    /// remembered, and an entry of a dead backend moves with its next packet.
    fn note(&mut self, entry: FlowEntry) {
        let slot = slot_of_tag(entry.tag(), self.slots.len() as u32) as usize;
        let Some(&word) = self.slots.get(slot) else { return };
        let now = Slot(word);
        if now.is_dirty() && now.backend() != entry.backend() && self.alive.contains(entry.backend()) {
            self.differs[slot / 64] |= 1 << (slot % 64);
        }
    }

    fn differs(&self, slot: u32) -> bool {
        self.differs[slot as usize / 64] >> (slot % 64) & 1 == 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use xdp_lb_common::flow::{FlowKey, WAYS};
    use xdp_lb_common::hash::{FlowHash, TAG_BITS};
    use xdp_lb_common::ring::NO_BACKEND;

    const TICK: u16 = 2000;
    const LIVE: u16 = 52; // 100 ticks ahead, modulo 2048
    const PAST: u16 = 1999;

    /// A hash whose slot in a table of four is `slot`.
    fn hash_in(slot: u64) -> FlowHash {
        FlowHash((slot << (TAG_BITS - 2)) + 5)
    }

    fn entry(service: u16, slot: u64, backend: u16, expiry: u16) -> u64 {
        FlowEntry::new(FlowKey::new(service, hash_in(slot)), backend, expiry, false).0
    }

    fn set(entries: &[u64]) -> FlowSet {
        let mut set = FlowSet { entries: [0; WAYS] };
        set.entries[..entries.len()].copy_from_slice(entries);
        set
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn counts_sweeps_and_names() {
        let slots = [0u16, 1, 0, 1];
        let mut scan = Scan::new(TICK, SECOND);
        let ring = scan.ring(&slots, [0, 1].into_iter().collect());
        let other = scan.ring(&slots, BackendSet::default());
        scan.service(1, ring);
        scan.service(2, ring);
        scan.service(16_383, other);
        let fed = set(&[
            entry(1, 0, 0, LIVE),
            0,
            entry(1, 1, 1, LIVE),
            entry(2, 0, 1, LIVE),
            entry(2, 3, 4095, PAST),
            entry(3, 0, 7, LIVE),
            entry(16_383, 0, 9, LIVE),
        ]);
        let swept: Vec<Sweep> = scan.feed(&fed).collect();
        assert_eq!(swept, [Sweep { way: 4, old: fed.entries[4] }, Sweep { way: 5, old: fed.entries[5] }]);
        assert_eq!((scan.live(), scan.expired(), scan.orphaned()), (4, 1, 1));
        let flows = [(1, 0), (1, 1), (2, 0), (2, 1), (2, 4095), (3, 7), (16_383, 9)];
        assert_eq!(flows.map(|(service, b)| scan.flows(service, b)), [1, 1, 0, 1, 0, 0, 1]);
        let named = |service| scan.named(service).collect::<Vec<u16>>();
        assert_eq!(named(1), [0, 1]);
        assert_eq!(named(2), [1, 4095], "expired but not yet cleared");
        assert_eq!((named(16_383), named(3)), (vec![9], vec![]));
    }

    #[test]
    fn remembered_flows_hold_their_dirty_slots() {
        let d = |local| Slot::dirty(local).0;
        let settled = |entries: &[u64], slots: [u16; 4]| {
            let mut scan = Scan::new(TICK, 10 * SECOND);
            let ring = scan.ring(&slots, [1, 2].into_iter().collect());
            scan.service(1, ring);
            assert_eq!(
                scan.feed(&set(entries)).count(),
                entries.iter().filter(|&&e| e >> 52 & 2047 == 1999).count()
            );
            // Backend 0 is dead and was in every slot before.
            scan.settled(ring, |_| 0, |_| SECOND, 100 * SECOND).collect::<Vec<u32>>()
        };
        let dirty = [d(1), d(1), 1, d(NO_BACKEND)];
        assert_eq!(
            settled(&[], dirty),
            [0, 1, 3],
            "nobody is remembered, clean slots have nothing to settle"
        );
        assert_eq!(settled(&[entry(1, 0, 2, LIVE)], dirty), [1, 3], "a flow of another alive backend");
        assert_eq!(settled(&[entry(1, 3, 1, LIVE)], dirty), [0, 1], "nobody's slot, somebody's flow");
        assert_eq!(settled(&[entry(1, 0, 1, LIVE)], dirty), [0, 1, 3], "a flow of the slot's own backend");
        assert_eq!(settled(&[entry(1, 0, 0, LIVE)], dirty), [0, 1, 3], "a flow of a dead backend");
        assert_eq!(settled(&[entry(1, 0, 2, PAST)], dirty), [0, 1, 3], "an expired flow");
    }

    #[test]
    fn time_and_an_alive_before_hold_their_slots_too() {
        let slots = [Slot::dirty(1).0; 4];
        let mut scan = Scan::new(TICK, 10 * SECOND);
        let ring = scan.ring(&slots, [1, 2].into_iter().collect());
        let before = |slot| [0, 2, 2, 0][slot as usize];
        let changed = |slot| [9, 9, 4, 11][slot as usize] * SECOND;
        let settled: Vec<u32> = scan.settled(ring, before, changed, 6 * SECOND).collect();
        assert_eq!(settled, [0, 2], "1 waits for flow_timeout, 3 changed after the scan began");
    }

    #[test]
    fn a_backend_set_holds_exactly_what_a_ring_can_name() {
        let set: BackendSet = [0, 63, 64, 4095, 4096, NO_BACKEND].into_iter().collect();
        let held: Vec<u16> = (0..=u16::MAX).filter(|&local| set.contains(local)).collect();
        assert_eq!(held, [0, 63, 64, 4095]);
    }
}
