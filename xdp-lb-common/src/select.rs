//! Which backend a packet goes to: the slot alone where it can tell, else the flow table and `before`.
//!
//! ```text
//!   slot clean, not tracked ------------------------------> now
//!   slot clean, tracked: remembered or not ---------------> now      (the entry follows)
//!   slot dirty: remembered, backend alive ----------------> its backend
//!               remembered, backend gone -----------------> now      (the entry follows)
//!               SYN, not remembered ----------------------> now,     or before if it cannot be remembered
//!               other TCP, not remembered ----------------> before while alive, else now
//!               UDP, not remembered ----------------------> now
//! ```
//!
//! An expired entry is one whose way another flow may take. Until somebody does, or the agent sweeps it, a
//! datagram's flow still counts as remembered, and a TCP segment that goes where the entry says confirms it.
//!
//! An ICMP error is about a flow without being one of its packets: [`look`] finds the backend and leaves no trace.
//!
//! Generic over the tables: the kernel half, `explain` and the model tests run this very function.
//! Related work: Beamer (NSDI 2018), Cheetah (NSDI 2020), JET (CoNEXT 2021).

use crate::{
    flow::{FlowEntry, FlowKey, WAYS},
    hash::FlowHash,
    parse::Segment,
    reason::FlowEvent,
    ring::{NO_BACKEND, Slot},
    service::{ServiceConfig, TRACK_EXACT, TRACK_SAMPLED, TRACK_WINDOW},
};

/// One set of the flow table, read and written by plain 8-byte loads and stores.
pub trait Set {
    /// The entry in `way`, below [`WAYS`].
    fn load(&self, way: usize) -> u64;
    /// Replaces the entry in `way`, below [`WAYS`].
    fn store(&self, way: usize, entry: u64);
    /// `way` itself. Kernels before 6.10 see only some sums to be below [`WAYS`]; theirs is checked once more.
    #[inline(always)]
    fn computed(&self, way: usize) -> usize {
        way
    }
}

/// Where the selection's tables live.
pub trait Tables {
    /// A set of the flow table.
    type Set: Set;
    /// A ring slot, by its index over all rings.
    fn slot(&self, index: u32) -> Option<Slot>;
    /// The backend that the slot had when it was last clean.
    fn before(&self, index: u32) -> Option<u16>;
    /// True when the member with this index in `backends` may keep flows: up or draining.
    fn is_alive(&self, backend: u32) -> bool;
    /// The flow's set.
    fn flow_set(&self, hash: FlowHash) -> Option<Self::Set>;
    /// The flow table's clock, 0..[`crate::flow::TICKS`].
    fn tick(&self) -> u16;
    /// True for one packet in sixteen, chosen by flow and time.
    fn sample(&self, hash: FlowHash) -> bool;
    /// Counts one more flow of `service` remembered in this second; false beyond `limit`.
    fn admit(&self, service: u16, limit: u32) -> bool;
    /// Counts what happened.
    fn count(&self, event: FlowEvent);
}

/// A packet's flow.
#[derive(Clone, Copy, Debug)]
pub struct Flow<'a, S = Segment> {
    /// Service id.
    pub service: u16,
    /// The service's live configuration.
    pub config: &'a ServiceConfig,
    /// Hash of what the affinity looks at.
    pub hash: FlowHash,
    /// What the packet means for the flow: asked only when the flow table is.
    pub segment: S,
}

/// The answer, with the reason that `explain` shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// Ring-local backend, or [`NO_BACKEND`].
    pub backend: u16,
    /// Why this one.
    pub why: Why,
}

/// Why a backend was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// The slot is clean.
    Slot,
    /// The slot is dirty, the flow is remembered and its backend alive.
    Remembered,
    /// The slot is dirty and the flow belongs to a connection older than the change.
    Before,
    /// The slot is dirty and the flow is new, or what it belonged to is gone.
    Now,
    /// It owns the destination port.
    Slice,
    /// The packet carries its id.
    ServerId,
}

/// Chooses the backend and keeps the flow table. `None` when a table is inconsistent.
#[inline(always)]
pub fn choose<T: Tables, S: Copy + Into<Segment>>(tables: &T, flow: &Flow<S>) -> Option<Choice> {
    let index = flow.config.slot_base + flow.hash.slot(flow.config.table_size);
    let slot = tables.slot(index)?;
    let flags = flow.config.flags;
    if !slot.is_dirty()
        && flags & (TRACK_EXACT | TRACK_WINDOW) == 0
        && (flags & TRACK_SAMPLED == 0 || !tables.sample(flow.hash))
    {
        return Some(Choice { backend: slot.backend(), why: Why::Slot });
    }
    let Flow { service, config, hash, segment } = *flow;
    track(tables, &Flow { service, config, hash, segment: segment.into() }, index, slot)
}

/// The backend of a flow, for a packet that is about it (an ICMP error): nothing is stored, admitted or counted.
///
/// `first` asks the flow table whatever the slot: for affinities that override it. `None` when a table is inconsistent.
#[inline(always)]
pub fn look<T: Tables>(
    tables: &T,
    config: &ServiceConfig,
    hash: FlowHash,
    tcp: bool,
    first: bool,
) -> Option<Choice> {
    let index = config.slot_base + hash.slot(config.table_size);
    let slot = tables.slot(index)?;
    let clean = Choice { backend: slot.backend(), why: Why::Slot };
    if !slot.is_dirty() && !first {
        return Some(clean);
    }
    let alive = |local: u16| local != NO_BACKEND && tables.is_alive(config.backend_base + u32::from(local));
    let entry = find(&tables.flow_set(hash)?, FlowKey::new(config.id, hash), hash);
    // As `choose` takes it: a connection's entry that expired says nothing.
    let remembered = entry.0 != 0 && !(tcp && entry.is_free(tables.tick()));
    if remembered && alive(entry.backend()) {
        return Some(Choice { backend: entry.backend(), why: Why::Remembered });
    }
    if !slot.is_dirty() {
        return Some(clean);
    }
    // Whose backend is gone goes to the new one, here as in `choose`.
    let before = tables.before(index)?;
    Some(if tcp && !remembered && alive(before) {
        Choice { backend: before, why: Why::Before }
    } else {
        Choice { backend: slot.backend(), why: Why::Now }
    })
}

/// The part that asks the flow table.
#[inline(always)]
fn track<T: Tables>(tables: &T, flow: &Flow, index: u32, slot: Slot) -> Option<Choice> {
    let set = tables.flow_set(flow.hash)?;
    let tick = tables.tick();
    let key = FlowKey::new(flow.config.id, flow.hash);
    let entry = find(&set, key, flow.hash);
    // Expired means that another flow may take the way, not that this one is forgotten: who sends a datagram every
    // half minute (a registration) would never be confirmed. TCP has `before`, and a spoofed SYN must not last.
    if entry.0 == 0 || (flow.segment != Segment::Datagram && entry.is_free(tick)) {
        tables.count(FlowEvent::Miss);
        return miss(tables, flow, &set, index, slot, tick, entry);
    }
    tables.count(FlowEvent::Hit);
    let reopened = flow.segment == Segment::Syn && entry.is_closing();
    let (backend, why) = if !slot.is_dirty() {
        (slot.backend(), Why::Slot)
    } else if reopened {
        (slot.backend(), Why::Now)
    } else if tables.is_alive(flow.config.backend_base + u32::from(entry.backend())) {
        (entry.backend(), Why::Remembered)
    } else {
        tables.count(FlowEvent::Stale);
        (slot.backend(), Why::Now)
    };
    if backend != NO_BACKEND {
        let fresh = refresh(flow, key, entry, backend, tick);
        if fresh.0 != entry.0 {
            // An entry that is gone meanwhile stays gone.
            replace(&set, key, fresh);
        }
    }
    Some(Choice { backend, why })
}

/// The entry as it is after this packet. A live flow's backend changes only by the caller's word; a
/// spoofed SYN, FIN or RST shortens nothing that a later data segment does not restore.
#[inline(always)]
fn refresh(flow: &Flow, key: FlowKey, entry: FlowEntry, backend: u16, tick: u16) -> FlowEntry {
    let config = flow.config;
    let full = tick.wrapping_add(config.flow_ttl);
    let closing = tick.wrapping_add(config.closing_ttl);
    let first = tick.wrapping_add(config.unconfirmed_ttl);
    match flow.segment {
        Segment::Datagram | Segment::Data => FlowEntry::new(key, backend, full, false),
        Segment::Closing => FlowEntry::new(key, backend, closing, true),
        Segment::Ack if entry.is_closing() => FlowEntry::new(key, backend, closing, true),
        Segment::Ack => FlowEntry::new(key, backend, full, false),
        Segment::Syn if entry.is_closing() || entry.remaining(tick) < config.unconfirmed_ttl => {
            FlowEntry::new(key, backend, first, false)
        }
        Segment::Syn => FlowEntry::new(key, backend, entry.expiry(), false),
    }
}

/// A flow that is not remembered; `expired` is what its way may still hold.
#[inline(always)]
fn miss<T: Tables>(
    tables: &T,
    flow: &Flow,
    set: &T::Set,
    index: u32,
    slot: Slot,
    tick: u16,
    expired: FlowEntry,
) -> Option<Choice> {
    let now = Choice { backend: slot.backend(), why: if slot.is_dirty() { Why::Now } else { Why::Slot } };
    let before = || -> Option<Choice> {
        let local = tables.before(index)?;
        let alive = local != NO_BACKEND && tables.is_alive(flow.config.backend_base + u32::from(local));
        Some(if alive { Choice { backend: local, why: Why::Before } } else { now })
    };
    let choice = match flow.segment {
        Segment::Data | Segment::Ack | Segment::Closing if slot.is_dirty() => before()?,
        _ => now,
    };
    if flow.segment == Segment::Closing || choice.backend == NO_BACKEND {
        return Some(choice);
    }
    // The second segment of a connection that was seen at the same backend: keep-alives come once a minute, and
    // the slot must not become clean under them.
    let again = expired.0 != 0 && expired.backend() == choice.backend && flow.segment != Segment::Syn;
    let ttl = if again { flow.config.flow_ttl } else { flow.config.unconfirmed_ttl };
    let fresh = FlowEntry::new(
        FlowKey::new(flow.config.id, flow.hash),
        choice.backend,
        tick.wrapping_add(ttl),
        false,
    );
    let remembered = remember(tables, flow, set, fresh, slot.is_dirty(), tick, expired);
    // A SYN that nobody remembers must go where its later segments will go: to the slot's older backend.
    if !remembered && flow.segment == Segment::Syn && slot.is_dirty() { before() } else { Some(choice) }
}

/// Stores a new flow; false when there is no way for it. `old` is the entry that there is of it, if any: its way is taken
/// again, though others may be free. A second entry of one flow would hide the first from [`find`], or be hidden.
#[inline(always)]
pub(crate) fn remember<T: Tables, S>(
    tables: &T,
    flow: &Flow<S>,
    set: &T::Set,
    fresh: FlowEntry,
    dirty: bool,
    tick: u16,
    old: FlowEntry,
) -> bool {
    // A quarter of the limit is kept for dirty slots, where being forgotten can move a call.
    let limit = flow.config.new_flow_limit;
    if !tables.admit(flow.service, if dirty { limit } else { limit - limit / 4 }) {
        tables.count(FlowEvent::OverLimit);
        return false;
    }
    let key = FlowKey::new(flow.config.id, flow.hash);
    if old.0 == 0 || !replace(set, key, fresh) {
        let Some(way) = victim(set, key, flow.hash, tick) else {
            tables.count(FlowEvent::SetFull);
            return false;
        };
        set.store(way, fresh.0);
    }
    tables.count(FlowEvent::Remembered);
    true
}

/// Ways where a flow is looked for first: a new flow takes one of them while one is free.
const HALF: usize = WAYS / 2;

/// First way of the flow's own half of the set.
#[inline(always)]
const fn own_half(hash: FlowHash) -> usize {
    (hash.0 >> 26) as usize & HALF
}

/// The entry of `key`; an empty one when there is none.
#[inline(always)]
pub(crate) fn find<S: Set>(set: &S, key: FlowKey, hash: FlowHash) -> FlowEntry {
    let own = own_half(hash);
    let found = find_from(set, key, own);
    if found.0 != 0 { found } else { find_from(set, key, own ^ HALF) }
}

/// No branches: a mispredicted way costs more than the whole search. Two entries of one flow (two CPUs stored it at
/// once) are not mixed.
#[inline(always)]
fn find_from<S: Set>(set: &S, key: FlowKey, first: usize) -> FlowEntry {
    let mut found = 0u64;
    for i in 0..HALF {
        let entry = set.load(first + i);
        found ^= (found ^ entry) & key.match_mask(entry);
    }
    FlowEntry(found)
}

/// Stores what has become of the flow's entry, wherever it is now; false when it is gone meanwhile.
#[inline(always)]
pub(crate) fn replace<S: Set>(set: &S, key: FlowKey, fresh: FlowEntry) -> bool {
    for i in 0..WAYS {
        if key.match_mask(set.load(i)) != 0 {
            set.store(i, fresh.0);
            return true;
        }
    }
    false
}

/// The way for a new flow: the first that is its own (another CPU stored it meanwhile) or free, in
/// its own half if there is one; never a live one. All CPUs try a flow's ways in the same order, so one that stored it
/// meanwhile is met before any way that is still free. The order is the hash's: CPUs that store different flows rarely
/// want the same way.
#[inline(always)]
fn victim<S: Set>(set: &S, key: FlowKey, hash: FlowHash, tick: u16) -> Option<usize> {
    let own = own_half(hash);
    let start = (hash.0 >> 29) as usize;
    for half in [own, own ^ HALF] {
        for step in 0..HALF {
            let way = set.computed(half + (start + step) % HALF);
            let entry = set.load(way);
            if key.match_mask(entry) != 0 || FlowEntry(entry).is_free(tick) {
                return Some(way);
            }
        }
    }
    None
}
