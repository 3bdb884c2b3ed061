//! What is left on a draining backend: the flows that are remembered, and the slots by which silent connections that
//! nobody has remembered would still find it.
//!
//! A TCP connection older than the drain is remembered with its next packet; until then its slot alone knows where it
//! belongs, by `before`. So nobody remembered is not yet nobody left: such slots count until they are clean, which they
//! are when `flow_timeout` has passed. Services that track exactly have remembered everybody.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use xdp_lb_common::{
    backend::{BACKEND_ALIVE, Backend},
    ring::Slot,
    service::TRACK_EXACT,
};

use super::Drains;
use crate::{
    model::{Desired, DrainPolicy},
    plan,
    state::{Observed, Place, Ring},
    status::MemberState,
    template::from_map,
};

/// What is left of a backend in a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Left {
    /// Service.
    pub service: String,
    /// Backend.
    pub backend: IpAddr,
    /// Its state in the maps.
    pub state: MemberState,
    /// Flows that are remembered there.
    pub flows: u64,
    /// Slots by which silent connections would still go there; 0 where all are remembered.
    pub silent_slots: u32,
    /// A planned change of the service waits for its tracking window: nobody has been moved yet.
    pub waiting: bool,
    /// When its time is up, seconds since 1970.
    pub until: u64,
    /// The service's `flow_timeout`: silent connections count for no longer.
    pub forgotten_after: Duration,
}

impl Left {
    /// True when nothing is left to wait for.
    #[must_use]
    pub fn is_done(&self) -> bool {
        match self.state {
            MemberState::Drained | MemberState::Down => true,
            MemberState::Draining => self.flows == 0 && self.silent_slots == 0 && !self.waiting,
            MemberState::Active => false,
        }
    }
}

/// What is left of everybody whom a command drains, by service and backend. `flows` are those remembered, by
/// service id and ring-local index.
#[must_use]
pub fn left(
    drains: &Drains,
    desired: &Desired,
    observed: &Observed,
    flows: &BTreeMap<(u16, u16), u32>,
) -> Vec<Left> {
    let mut all = Vec::new();
    if drains.is_empty() {
        return all;
    }
    for (&id, service) in &observed.services {
        let (name, config) = (plan::name(service), service.config());
        let Some(wanted) = desired.services.iter().find(|s| s.name == name) else { continue };
        let Some(ring) = observed.rings.get(&Place::of(config)) else { continue };
        for (&local, member) in &ring.members {
            let backend = from_map(member.address);
            let Some(terms) = drains.of(name, backend) else { continue };
            // Who has left the file goes by the service's terms.
            let is_listed = wanted.backends.iter().any(|b| b.address == backend);
            let DrainPolicy { max, .. } = if is_listed { terms.policy(wanted.drain) } else { wanted.drain };
            let silent_slots = if config.flags & TRACK_EXACT != 0 { 0 } else { silent(ring, local, member) };
            all.push(Left {
                service: name.to_owned(),
                backend,
                state: MemberState::of(member),
                flows: flows.get(&(id, local)).copied().unwrap_or(0).into(),
                silent_slots,
                waiting: config.flags & xdp_lb_common::service::TRACK_WINDOW != 0,
                until: member.since + max.as_secs(),
                forgotten_after: wanted.flow_timeout,
            });
        }
    }
    all.sort_by(|a, b| (a.backend, &a.service).cmp(&(b.backend, &b.service)));
    all
}

/// Dirty slots that were this member's: unknown segments of old connections still go there.
fn silent(ring: &Ring, local: u16, member: &Backend) -> u32 {
    if member.state & BACKEND_ALIVE == 0 {
        return 0;
    }
    let slots = ring.slots.now.iter().zip(&ring.slots.before);
    let mine = slots.filter(|&(&now, &before)| Slot(now).is_dirty() && before == local);
    u32::try_from(mine.count()).unwrap_or(u32::MAX)
}
