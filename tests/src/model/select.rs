//! Which backend a flow goes to, and what is remembered of it: docs/architecture.md, "Slots, gates, dirty bits" and
//! "Flow entries".

use std::time::Duration;

use xdp_lb_common::reason::FlowEvent;

use super::file::{Service, Tracking};
use super::flows::{Entry, expiry};
use super::hash::Hash;
use super::step::{Change, Step};
use super::tables::{Placed, Slot};
use super::transport::Segment;

/// How long a flow of one packet is remembered.
const UNCONFIRMED: Duration = Duration::from_secs(10);
/// How long a connection is after FIN or RST (RFC 5382).
const CLOSING: Duration = Duration::from_secs(240);

/// A packet's flow.
#[derive(Clone, Copy)]
pub(super) struct Flow<'a> {
    pub service: &'a Service,
    pub placed: &'a Placed,
    pub hash: Hash,
    pub segment: Segment,
}

impl Flow<'_> {
    pub fn slot(&self) -> Slot {
        self.placed.slots[self.hash.slot(self.placed.slots.len())]
    }

    /// What the table remembers, expired or not.
    pub fn remembered(&self, step: &Step<'_>) -> Option<Entry> {
        step.model.state.flows.find(self.placed.ring, self.hash)
    }

    fn ttl(&self, step: &Step<'_>, longest: Duration) -> u16 {
        step.model.clock.ticks(longest.min(self.service.flow_timeout))
    }

    /// Ticks that a flow of one packet is remembered.
    pub fn first_ttl(&self, step: &Step<'_>) -> u16 {
        self.ttl(step, UNCONFIRMED)
    }

    /// Ticks that a silent flow is remembered.
    pub fn full_ttl(&self, step: &Step<'_>) -> u16 {
        self.ttl(step, Duration::MAX)
    }

    /// An entry of this flow that counts `ttl` ticks from now.
    pub fn entry(&self, step: &Step<'_>, backend: u16, ttl: u16) -> Entry {
        let (ring, tag) = (self.placed.ring, self.hash.tag());
        Entry { closing: false, expiry: expiry(step.tick(), ttl), backend, ring, tag }
    }
}

/// The ring-local backend of a packet; `None` where nobody takes flows.
pub(super) fn choose(step: &mut Step<'_>, flow: &Flow<'_>) -> Option<u16> {
    let slot = flow.slot();
    let tracked = match flow.service.tracking() {
        Tracking::Exact => true,
        Tracking::Sampled => step.moment.sampled,
        Tracking::Off => false,
    };
    if !slot.dirty && !tracked && !flow.placed.window {
        return slot.now;
    }
    // A datagram's flow counts until its way is taken; a connection has `before`.
    let tick = step.tick();
    let old = flow.remembered(step);
    match old.filter(|entry| flow.segment == Segment::Datagram || !entry.is_expired(tick)) {
        Some(entry) => hit(step, flow, slot, entry),
        None => miss(step, flow, slot, old),
    }
}

fn hit(step: &mut Step<'_>, flow: &Flow<'_>, slot: Slot, entry: Entry) -> Option<u16> {
    step.count(FlowEvent::Hit);
    let backend = if !slot.dirty {
        slot.now
    } else if flow.segment == Segment::Syn && entry.closing {
        // A new connection of the same ports.
        slot.now
    } else if flow.placed.is_alive(entry.backend) {
        Some(entry.backend)
    } else {
        step.count(FlowEvent::Stale);
        slot.now
    };
    let local = backend?;
    let left = entry.left(step.tick());
    let (first, full) = (flow.first_ttl(step), flow.full_ttl(step));
    let closing = Entry { closing: true, ..flow.entry(step, local, flow.ttl(step, CLOSING)) };
    let fresh = match flow.segment {
        Segment::Datagram | Segment::Data => flow.entry(step, local, full),
        Segment::Closing => closing,
        Segment::Ack if entry.closing => closing,
        Segment::Ack => flow.entry(step, local, full),
        // Who sends nothing but SYNs, with anybody's address, makes no flow last.
        Segment::Syn if entry.closing || left < first => flow.entry(step, local, first),
        Segment::Syn => Entry { expiry: entry.expiry, ..flow.entry(step, local, first) },
    };
    replace(step, flow, fresh);
    Some(local)
}

/// Stores what has become of a flow's entry.
pub(super) fn replace(step: &mut Step<'_>, flow: &Flow<'_>, entry: Entry) {
    let flows = &step.model.state.flows;
    if let Some(way) = flows.place(flow.placed.ring, flow.hash) {
        step.change(Change::Flow { set: flows.set(flow.hash), way, entry });
    }
}

fn miss(step: &mut Step<'_>, flow: &Flow<'_>, slot: Slot, old: Option<Entry>) -> Option<u16> {
    step.count(FlowEvent::Miss);
    let before = slot.before.filter(|&local| flow.placed.is_alive(local)).or(slot.now);
    let older = matches!(flow.segment, Segment::Data | Segment::Ack | Segment::Closing);
    let choice = if slot.dirty && older { before } else { slot.now };
    let local = choice?;
    if flow.segment == Segment::Closing {
        return choice;
    }
    // The second segment that was seen at the same backend confirms what has expired meanwhile.
    let again = flow.segment != Segment::Syn && old.is_some_and(|entry| entry.backend == local);
    let ttl = if again { flow.full_ttl(step) } else { flow.first_ttl(step) };
    let entry = flow.entry(step, local, ttl);
    let remembered = remember(step, flow, entry, slot.dirty);
    // Where its later segments will go.
    if slot.dirty && flow.segment == Segment::Syn && !remembered { before } else { choice }
}

/// Remembers a new flow, if limit and table have room.
pub(super) fn remember(step: &mut Step<'_>, flow: &Flow<'_>, entry: Entry, dirty: bool) -> bool {
    let (state, second) = (&step.model.state, step.second());
    let limit = flow.service.new_flow_limit;
    // A quarter is kept for flows that would move if they were forgotten.
    let limit = if dirty { limit } else { limit - limit / 4 };
    let service = flow.placed.id;
    let so_far = match state.admissions.get(&service) {
        Some(&(then, count)) if then == second => count,
        _ => 0,
    };
    if so_far >= limit {
        step.count(FlowEvent::OverLimit);
        return false;
    }
    step.change(Change::Admission { service, second, count: so_far + 1 });
    let Some(way) = state.flows.vacancy(flow.placed.ring, flow.hash, step.tick()) else {
        step.count(FlowEvent::SetFull);
        return false;
    };
    step.change(Change::Flow { set: state.flows.set(flow.hash), way, entry });
    step.count(FlowEvent::Remembered);
    true
}

/// Where a flow is, for a packet that is about it: no trace is left. `always` asks the table on clean slots too.
pub(super) fn look(step: &Step<'_>, flow: &Flow<'_>, tcp: bool, always: bool) -> Option<u16> {
    let slot = flow.slot();
    if !slot.dirty && !always {
        return slot.now;
    }
    let remembered = flow.remembered(step).filter(|entry| !tcp || !entry.is_expired(step.tick()));
    if let Some(entry) = remembered
        && flow.placed.is_alive(entry.backend)
    {
        return Some(entry.backend);
    }
    // Whose backend is gone goes where its own next packet would.
    let older = slot.dirty && tcp && remembered.is_none();
    let before = slot.before.filter(|&local| older && flow.placed.is_alive(local));
    before.or(slot.now)
}
