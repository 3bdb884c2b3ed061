//! Which remembered flows another node could not guess, and where such a flow of another node goes in our table.
//!
//! What a node does with an unknown flow, [`xdp_lb_common::select`] says: on a clean slot `now`; on a dirty one a datagram
//! goes to `now`, and a segment of a connection to `before` while that is alive.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use xdp_lb_common::{
    backend::{BACKEND_ALIVE, Backend},
    flow::{FlowEntry, FlowKey, FlowSet},
    hash::{FlowHash, TAG_BITS, slot_of_tag},
    ring::{NO_BACKEND, Slot},
};

use crate::model::{Protocol, Service};
use crate::plan;
use crate::state::Observed;

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
    /// We remember the flow ourselves: what we saw is newer.
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

    /// Where a flow of a slot goes that nobody remembers; `None` on a clean slot, where nobody is asked.
    fn guess(&self, slot: usize, protocol: Protocol) -> Option<u16> {
        let now = Slot(*self.now.get(slot)?);
        let &before = self.before.get(slot)?;
        if !now.is_dirty() {
            return None;
        }
        let older = protocol == Protocol::Tcp && before != NO_BACKEND && self.is_alive(before);
        Some(if older { before } else { now.backend() })
    }
}

/// True while some slot is dirty: there are no exceptions otherwise.
#[must_use]
pub fn possible(observed: &Observed) -> bool {
    observed.rings.values().flat_map(|ring| &ring.slots.now).any(|&now| Slot(now).is_dirty())
}

/// The flows that a node with the same tables, but without our flow table, would send elsewhere.
///
/// `tick` is the flow table's clock before the first set was read.
#[must_use]
pub fn find(
    observed: &Observed,
    wanted: &[Service],
    sets: impl Iterator<Item = (u32, FlowSet)>,
    tick: u16,
) -> Vec<Exception> {
    let rings: BTreeMap<u16, (&Service, Ring)> = observed
        .services
        .iter()
        .filter_map(|(&id, service)| {
            let wanted = wanted.iter().find(|w| w.name == plan::name(service))?;
            Some((id, (wanted, Ring::of(observed, id)?)))
        })
        .filter(|(_, (_, ring))| ring.now.iter().any(|&now| Slot(now).is_dirty()))
        .collect();
    let exception = |set: u32, entry: FlowEntry| {
        if entry.is_free(tick) {
            return None;
        }
        let (service, ring) = rings.get(&entry.service())?;
        let slot = slot_of_tag(entry.tag(), ring.now.len() as u32) as usize;
        let guess = ring.guess(slot, service.protocol)?;
        if guess == entry.backend() || !ring.is_alive(entry.backend()) {
            return None;
        }
        Some(Exception {
            service: service.name.clone(),
            hash: u64::from(set) << 32 | entry.tag(),
            backend: address(ring.members.get(&entry.backend())?),
            left: tick_length(observed) * u32::from(entry.remaining(tick)),
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
    let ticks = exception.left.as_millis().div_ceil(tick_length(observed).as_millis().max(1));
    let most = service.config().flow_ttl.max(1);
    let ttl = u16::try_from(ticks).unwrap_or(most).clamp(1, most);
    let hash = FlowHash(exception.hash);
    let entry = FlowEntry::new(FlowKey::new(id, hash), local, tick.wrapping_add(ttl), false);
    Ok(Placement { set: hash.set(observed.capacity.flow_sets.wrapping_sub(1)), entry })
}

/// The way that an entry takes in its set.
///
/// # Errors
/// [`Refusal::Known`] or [`Refusal::Full`].
pub fn way(set: &FlowSet, entry: FlowEntry, tick: u16) -> Result<usize, Refusal> {
    if set.entries.iter().any(|&held| is_same(FlowEntry(held), entry)) {
        return Err(Refusal::Known);
    }
    set.entries.iter().position(|&held| FlowEntry(held).is_free(tick)).ok_or(Refusal::Full)
}

/// True for two entries of one flow.
#[must_use]
pub fn is_same(a: FlowEntry, b: FlowEntry) -> bool {
    a.service() == b.service() && a.tag() == b.tag() && a.0 != 0
}

/// How long a tick lasts.
#[must_use]
pub fn tick_length(observed: &Observed) -> Duration {
    let jiffies = 1u32 << observed.control.tick_shift.min(31);
    Duration::from_secs(jiffies.into()) / observed.control.hz.max(1)
}

fn address(member: &Backend) -> IpAddr {
    std::net::Ipv6Addr::from(member.address).to_canonical()
}

const _: () = assert!(TAG_BITS <= 32, "tag and set do not overlap in an exception's hash");

#[cfg(test)]
mod tests;
