//! Which remembered flows another node could not guess, and where such a flow of another node goes in our table.
//!
//! What a node does with an unknown flow, [`xdp_lb_common::select`] says: on a clean slot `now`; on a dirty one a datagram
//! goes to `now`, and a segment of a connection to `before` while that is alive. Where a command drains a backend on one
//! of the two alone ([`super::apart`]), the other has another `now`, and its slot may be clean.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::time::Duration;

use xdp_lb_common::{
    backend::{BACKEND_ALIVE, Backend},
    flow::{FlowEntry, FlowKey, FlowSet},
    hash::{FlowHash, TAG_BITS, slot_of_tag},
    ring::{NO_BACKEND, Slot},
};

use super::Apart;
use crate::model::{Protocol, Service};
use crate::plan;
use crate::state::{MapOp, Observed, Place, SlotChange};

/// A flow that is not where an unknown one would go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exception {
    /// Name of its service.
    pub service: String,
    /// Tag and set, as [`FlowHash`] has them; the other bits are zero.
    pub hash: u64,
    /// Where it is.
    pub backend: IpAddr,
    /// How long its entry lasts.
    pub left: Duration,
}

/// Why a flow of another node is not remembered here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Refusal {
    /// No service of that name, or one without backends.
    Service,
    /// Its hashes are made in another way: `maglev.seed`, the affinity, or a smaller flow table.
    Hashing,
    /// The service has no such backend here, or it is down.
    Backend,
    /// We remember the flow ourselves: what we saw is newer, or lasts as long.
    Known,
    /// Eight live flows are in its set.
    Full,
}

/// What the agent stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Placement {
    /// Set of the flow table.
    pub set: u32,
    /// The entry.
    pub entry: FlowEntry,
}

/// A service's ring as an unknown flow meets it.
struct Ring<'a> {
    now: &'a [u16],
    before: &'a [u16],
    members: &'a BTreeMap<u16, Backend>,
}

impl<'a> Ring<'a> {
    fn of(observed: &'a Observed, service: u16) -> Option<Self> {
        let ring = observed.ring(service)?;
        Some(Self { now: &ring.slots.now, before: &ring.slots.before, members: &ring.members })
    }

    fn is_alive(&self, local: u16) -> bool {
        self.members.get(&local).is_some_and(|member| member.state & BACKEND_ALIVE != 0)
    }

    /// Whether a node that does not remember a flow at `backend` sends it elsewhere.
    fn is_exception(&self, slot: usize, backend: u16, asked: &Asked<'_>) -> bool {
        let (Some(&now), Some(&before)) = (self.now.get(slot), self.before.get(slot)) else { return false };
        let now = Slot(now);
        let is_tcp = asked.service.protocol == Protocol::Tcp;
        let older = is_tcp && before != NO_BACKEND && self.is_alive(before);
        match (now.is_dirty(), &asked.apart) {
            // Who drains this very backend sends its datagrams to the slot's next one; segments go to `before`, and the
            // slot stays dirty there for their sake.
            (false, Some(theirs)) => !is_tcp && now.backend() == backend && theirs.contains(&backend),
            (false, None) => false,
            // All the other node has in common with us is `before`.
            (true, Some(_)) => !(older && before == backend),
            (true, None) => backend != if older { before } else { now.backend() },
        }
    }
}

/// A service in whose flows we look.
struct Asked<'a> {
    service: &'a Service,
    /// Where nodes drain differently: backends that another one drains and we do not, by ring-local index.
    apart: Option<BTreeSet<u16>>,
}

impl<'a> Asked<'a> {
    fn of(service: &'a Service, ring: &Ring<'_>, apart: &Apart) -> Self {
        let locals = |theirs: &BTreeSet<IpAddr>| {
            ring.members
                .iter()
                .filter(|(_, m)| theirs.contains(&address(m)))
                .map(|(&local, _)| local)
                .collect()
        };
        Self { service, apart: apart.theirs(service).map(locals) }
    }

    /// Whether there can be exceptions.
    fn is_worth_it(&self, ring: &Ring<'_>) -> bool {
        self.apart.as_ref().is_some_and(|theirs| !theirs.is_empty())
            || ring.now.iter().any(|&now| Slot(now).is_dirty())
    }
}

/// True while some slot is dirty: there are no exceptions otherwise.
#[must_use]
pub fn possible(observed: &Observed) -> bool {
    observed.rings.values().flat_map(|ring| &ring.slots.now).any(|&now| Slot(now).is_dirty())
}

/// The flows that a node with the same configuration, but without our flow table, would send elsewhere; where `apart` says
/// so, one that drains otherwise.
///
/// `tick` is the flow table's clock before the first set was read.
#[must_use]
pub fn find(
    observed: &Observed,
    wanted: &[Service],
    apart: &Apart,
    sets: impl Iterator<Item = (u32, FlowSet)>,
    tick: u16,
) -> Vec<Exception> {
    let wanted: HashMap<&str, &Service> = wanted.iter().map(|w| (&*w.name, w)).collect();
    let rings: BTreeMap<u16, (Asked<'_>, Ring<'_>)> = observed
        .services
        .iter()
        .filter_map(|(&id, service)| {
            let ring = Ring::of(observed, id)?;
            let asked = Asked::of(wanted.get(plan::name(service))?, &ring, apart);
            asked.is_worth_it(&ring).then_some((id, (asked, ring)))
        })
        .collect();
    let exception = |set: u32, entry: FlowEntry| {
        if entry.is_free(tick) {
            return None;
        }
        let (asked, ring) = rings.get(&entry.service())?;
        let slot = slot_of_tag(entry.tag(), ring.now.len() as u32) as usize;
        if !ring.is_alive(entry.backend()) || !ring.is_exception(slot, entry.backend(), asked) {
            return None;
        }
        Some(Exception {
            service: asked.service.name.clone(),
            hash: u64::from(set) << 32 | entry.tag(),
            backend: address(ring.members.get(&entry.backend())?),
            left: observed.tick_length() * u32::from(entry.remaining(tick)),
        })
    };
    sets.flat_map(|(set, ways)| ways.entries.map(|entry| (set, FlowEntry(entry))))
        .filter_map(|(set, entry)| exception(set, entry))
        .collect()
}

/// Where a flow that another node told us goes in our table.
///
/// # Errors
/// The flow means nothing here.
pub fn place(observed: &Observed, exception: &Exception, tick: u16) -> Result<Placement, Refusal> {
    let named = |(_, service): &(&u16, &_)| plan::name(service) == exception.service;
    let (&id, service) = observed.services.iter().find(named).ok_or(Refusal::Service)?;
    let ring = Ring::of(observed, id).filter(|ring| !ring.now.is_empty()).ok_or(Refusal::Service)?;
    let mut members = ring.members.iter();
    let is_it = |(_, member): &(&u16, &Backend)| address(member) == exception.backend;
    let (&local, _) =
        members.find(is_it).filter(|(local, _)| ring.is_alive(**local)).ok_or(Refusal::Backend)?;
    let ticks = exception.left.as_millis().div_ceil(observed.tick_length().as_millis().max(1));
    let most = service.config().flow_ttl.max(1);
    let ttl = u16::try_from(ticks).unwrap_or(most).clamp(1, most);
    let hash = FlowHash(exception.hash);
    let entry = FlowEntry::new(FlowKey::new(id, hash), local, tick.wrapping_add(ttl), false);
    Ok(Placement { set: hash.set(observed.capacity.flow_sets.wrapping_sub(1)), entry })
}

/// What makes the slots of these entries dirty, where packets would not look for them: the slot is clean and another
/// backend's. For everybody else nothing changes, `before` being `now`.
///
/// Before the entries are stored: on a clean slot the next packet would take them back.
#[must_use]
pub fn dirty(observed: &Observed, placements: &[Placement]) -> Vec<MapOp> {
    let mut slots: BTreeMap<Place, BTreeMap<u32, u16>> = BTreeMap::new();
    for entry in placements.iter().map(|p| p.entry) {
        let Some(service) = observed.services.get(&entry.service()) else { continue };
        let place = Place::of(service.config());
        let Some(ring) = observed.rings.get(&place) else { continue };
        let slot = slot_of_tag(entry.tag(), ring.slots.now.len() as u32);
        let Some(&now) = ring.slots.now.get(slot as usize) else { continue };
        let is_clean = !Slot(now).is_dirty() && now != NO_BACKEND;
        if is_clean && now != entry.backend() {
            slots.entry(place).or_default().insert(slot, now);
        }
    }
    let change = |(slot, now)| SlotChange { slot, before: Some(now), now: Slot::dirty(now).0 };
    let op = |(place, slots): (Place, BTreeMap<u32, u16>)| MapOp::SetSlots {
        base: place.slot_base,
        changes: slots.into_iter().map(change).collect(),
    };
    slots.into_iter().map(op).collect()
}

/// The way that an entry takes in its set: a free one, or its flow's own if that would be forgotten earlier.
///
/// # Errors
/// [`Refusal::Known`] or [`Refusal::Full`].
pub fn way(set: &FlowSet, entry: FlowEntry, tick: u16) -> Result<usize, Refusal> {
    let same = set.entries.iter().position(|&held| is_same(FlowEntry(held), entry));
    if let Some((way, held)) = same.map(|way| (way, FlowEntry(set.entries[way]))) {
        // Told again: it lives on over there, and is to be found here for as long.
        let left = if held.is_free(tick) { 0 } else { held.remaining(tick) };
        let lives_on = held.backend() == entry.backend() && entry.remaining(tick) > left;
        return if lives_on { Ok(way) } else { Err(Refusal::Known) };
    }
    set.entries.iter().position(|&held| FlowEntry(held).is_free(tick)).ok_or(Refusal::Full)
}

/// True for two entries of one flow.
#[must_use]
pub fn is_same(a: FlowEntry, b: FlowEntry) -> bool {
    a.service() == b.service() && a.tag() == b.tag() && a.0 != 0
}

fn address(member: &Backend) -> IpAddr {
    std::net::Ipv6Addr::from(member.address).to_canonical()
}

const _: () = assert!(TAG_BITS <= 32, "tag and set do not overlap in an exception's hash");

#[cfg(test)]
mod tests;
