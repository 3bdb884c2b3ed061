//! Remembered flows: which there are, how many, and which a command is to forget. Pure.
//!
//! The flow table keeps a hash and no addresses: a flow is known by its set and tag, which [`Flow::flow`] gives as one number,
//! the same on all edge nodes whose tables are hashed alike.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use xdp_lb_common::{
    backend::BACKEND_ALIVE,
    flow::{FlowEntry, FlowSet},
    hash::slot_of_tag,
    ring::Slot,
};

use crate::{
    plan,
    state::{Observed, Ring},
    template::from_map,
};

/// Which flows are meant; what is not said does not matter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Of this service.
    pub service: Option<String>,
    /// At this backend.
    pub backend: Option<IpAddr>,
}

/// Why nothing can match.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unknown {
    /// There is no such service.
    #[error("there is no service {0}")]
    Service(String),
    /// No service in question has such a backend.
    #[error("no service in question has the backend {0}")]
    Backend(IpAddr),
}

/// A remembered flow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Name of its service.
    pub service: String,
    /// Where it is; `None` where that is no member any more.
    pub backend: Option<IpAddr>,
    /// Set and tag.
    pub flow: u64,
    /// Its slot.
    pub slot: u32,
    /// The slot would send it to the same backend.
    pub is_home: bool,
    /// A FIN or RST was seen.
    pub is_closing: bool,
    /// How long it is remembered without another packet.
    pub left: Duration,
}

/// How many flows of a service are at a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Count {
    /// Name of the service.
    pub service: String,
    /// Backend; `None` where that is no member any more.
    pub backend: Option<IpAddr>,
    /// Flows.
    pub flows: u64,
    /// Those that the slot alone would send elsewhere.
    pub away: u64,
    /// Those of connections that are closing.
    pub closing: u64,
}

/// What is remembered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    /// All that match.
    pub total: u64,
    /// By service and backend.
    pub counts: Vec<Count>,
    /// The first so many, by service, backend and number.
    pub flows: Vec<Flow>,
}

/// What a filter says, by numbers of the maps.
struct Meant<'a> {
    observed: &'a Observed,
    /// Rings of the services in question.
    rings: BTreeMap<u16, (&'a str, &'a Ring)>,
    backend: Option<IpAddr>,
    tick: u16,
}

impl<'a> Meant<'a> {
    fn new(observed: &'a Observed, filter: &Filter, tick: u16) -> Result<Self, Unknown> {
        let named = |name: &str| filter.service.as_deref().is_none_or(|own| own == name);
        let rings: BTreeMap<u16, (&str, &Ring)> = observed
            .services
            .iter()
            .filter(|(_, service)| named(plan::name(service)))
            .filter_map(|(&id, service)| Some((id, (plan::name(service), observed.ring(id)?))))
            .collect();
        if let Some(service) = filter.service.as_ref().filter(|_| rings.is_empty()) {
            return Err(Unknown::Service(service.clone()));
        }
        let has = |ring: &Ring, backend| ring.members.values().any(|m| from_map(m.address) == backend);
        if let Some(backend) = filter.backend
            && !rings.values().any(|(_, ring)| has(ring, backend))
        {
            return Err(Unknown::Backend(backend));
        }
        Ok(Self { observed, rings, backend: filter.backend, tick })
    }

    fn flow(&self, set: u32, entry: FlowEntry) -> Option<Flow> {
        if entry.is_free(self.tick) {
            return None;
        }
        let (name, ring) = self.rings.get(&entry.service())?;
        let member = ring.members.get(&entry.backend());
        let backend = member.map(|m| from_map(m.address));
        if self.backend.is_some() && backend != self.backend {
            return None;
        }
        let slot = slot_of_tag(entry.tag(), ring.slots.now.len() as u32);
        let now = ring.slots.now.get(slot as usize).map(|&now| Slot(now));
        let is_alive = member.is_some_and(|m| m.state & BACKEND_ALIVE != 0);
        Some(Flow {
            service: (*name).to_owned(),
            backend,
            flow: u64::from(set) << 32 | entry.tag(),
            slot,
            // Whoever is dead has its flows moved by the next packet.
            is_home: !is_alive || now.is_some_and(|now| !now.is_dirty() || now.backend() == entry.backend()),
            is_closing: entry.is_closing(),
            left: self.observed.tick_length() * u32::from(entry.remaining(self.tick)),
        })
    }
}

/// Lists what is remembered, `most` flows one by one.
///
/// `tick` is the flow table's clock before the first set was read.
///
/// # Errors
/// [`Unknown`].
pub fn list(
    observed: &Observed,
    sets: impl Iterator<Item = (u32, FlowSet)>,
    tick: u16,
    filter: &Filter,
    most: usize,
) -> Result<Listing, Unknown> {
    let meant = Meant::new(observed, filter, tick)?;
    let mut counts: BTreeMap<(String, Option<IpAddr>), Count> = BTreeMap::new();
    let mut listing = Listing::default();
    for (set, ways) in sets {
        for flow in ways.entries.iter().filter_map(|&entry| meant.flow(set, FlowEntry(entry))) {
            let key = (flow.service.clone(), flow.backend);
            let (service, backend) = key.clone();
            let count = counts.entry(key);
            let count = count.or_insert(Count { service, backend, flows: 0, away: 0, closing: 0 });
            count.flows += 1;
            count.away += u64::from(!flow.is_home);
            count.closing += u64::from(flow.is_closing);
            listing.total += 1;
            if listing.flows.len() < most {
                listing.flows.push(flow);
            }
        }
    }
    listing.counts = counts.into_values().collect();
    listing.flows.sort_by(|a, b| (&a.service, a.backend, a.flow).cmp(&(&b.service, b.backend, b.flow)));
    Ok(listing)
}

/// A way that holds a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Held {
    /// Set.
    pub set: u32,
    /// Way of the set.
    pub way: usize,
    /// What it holds.
    pub entry: u64,
}

/// The ways of all flows that are meant: who forgets them clears each if it still holds the same.
///
/// # Errors
/// [`Unknown`].
pub fn find(
    observed: &Observed,
    sets: impl Iterator<Item = (u32, FlowSet)>,
    tick: u16,
    filter: &Filter,
) -> Result<Vec<Held>, Unknown> {
    let meant = Meant::new(observed, filter, tick)?;
    let held = |(set, ways): (u32, FlowSet)| {
        let all = ways.entries.into_iter().enumerate();
        all.map(move |(way, entry)| Held { set, way, entry }).collect::<Vec<_>>()
    };
    Ok(sets.flat_map(held).filter(|h| meant.flow(h.set, FlowEntry(h.entry)).is_some()).collect())
}
