//! Which remembered flows a change has moved, and why: no flow moves without a reason that can be read.
//!
//! ```text
//!   plan --> who may lose flows --flow table--> entries -- carried out --> how many moved, from whom, why
//!              [`Watch`]                                                      [`Change`]
//! ```
//!
//! A drain, a return, a weight move no flow that is remembered; what does is a backend that keeps none any more, or a
//! service that is made anew. A plan that does such a thing costs a pass over the flow table before it is carried out:
//! a moment later packets would have moved the first of them. Each entry is then looked up in the maps before and after by
//! the packet path's own rule, as [`super::forecast`] does. Pure.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;

use xdp_lb_common::{
    backend::{BACKEND_ALIVE, Backend},
    flow::{FlowEntry, FlowSet},
};

use super::side::Side;
use crate::{
    model::{AdminState, Desired, DrainMode, Removal, Service},
    plan,
    state::{MapOp, Observed, Place},
    template::from_map,
};

/// Why flows had to leave their backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// It is dead, or called so.
    Down,
    /// It drains with `shed`.
    Shed,
    /// Its drain has reached `max`.
    Max,
    /// Another table size or affinity, or the service has gone.
    Configuration,
}

impl Reason {
    /// All, in the order of their numbers.
    pub const ALL: [Self; 4] = [Self::Down, Self::Shed, Self::Max, Self::Configuration];

    /// As metrics and the log have it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Down => "down",
            Self::Shed => "shed",
            Self::Max => "max",
            Self::Configuration => "configuration",
        }
    }
}

/// Flows that were moved from one backend for one reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moved {
    /// Whom they had to leave; `None` where that could not be said.
    pub backend: Option<IpAddr>,
    /// Why.
    pub reason: Reason,
    /// How many, in all services.
    pub flows: u64,
}

/// Whose flows may have to move by a plan, and those flows.
#[derive(Clone, Debug, Default)]
pub struct Watch {
    /// Service id and ring-local index.
    members: HashSet<(u16, u16)>,
    /// Services, whomever their flows are with.
    services: HashSet<u16>,
    entries: Vec<FlowEntry>,
    /// Who has come with the last plan and has not been read.
    fresh: (HashSet<(u16, u16)>, HashSet<u16>),
}

impl Watch {
    /// Watches whom `ops` may take flows from as well. True when somebody is watched who was not.
    pub fn extend(&mut self, ops: &[MapOp], observed: &Observed) -> bool {
        let (mut indices, mut services) = (HashSet::new(), HashSet::new());
        let is_alive = |entry: &Backend| entry.state & BACKEND_ALIVE != 0;
        let puts_dead =
            ops.iter().any(|op| matches!(op, MapOp::PutBackend { entry, .. } if !is_alive(entry)));
        for op in ops {
            match op {
                MapOp::SetBackendState { index, state, .. } if state & BACKEND_ALIVE == 0 => {
                    indices.insert(*index);
                }
                MapOp::DropBackend { index } | MapOp::PutBackend { index, .. } => _ = indices.insert(*index),
                MapOp::DropService { id } => _ = services.insert(*id),
                MapOp::SetService { id, config } => {
                    let Some(old) = observed.services.get(id).map(|service| service.config()) else {
                        continue;
                    };
                    let remade = old.table_size != config.table_size
                        || (old.flags ^ config.flags) & plan::AFFINITY != 0;
                    // On another ring it may meet members in other states.
                    if remade || (puts_dead && Place::of(old) != Place::of(config)) {
                        services.insert(*id);
                    }
                }
                _ => {}
            }
        }
        let mut members = HashSet::new();
        for (place, ring) in observed.rings.iter().filter(|_| !indices.is_empty()) {
            for (&local, _) in ring.members.iter().filter(|(_, member)| is_alive(member)) {
                if indices.contains(&(place.backend_base + u32::from(local))) {
                    members.extend(ring.services.iter().map(|&id| (id, local)));
                }
            }
        }
        // What is watched already has been read.
        services.retain(|id| !self.services.contains(id));
        members.retain(|member| !self.members.contains(member) && !self.services.contains(&member.0));
        let is_more = !services.is_empty() || !members.is_empty();
        self.fresh = (members, services);
        is_more
    }

    /// True when nobody's flows can have moved.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Reads the flow table for those who came with the last [`Watch::extend`], before the plan is carried out.
    pub fn read(&mut self, sets: impl Iterator<Item = FlowSet>, tick: u16) {
        let (members, services) = std::mem::take(&mut self.fresh);
        let ids: HashSet<u16> = members.iter().map(|&(id, _)| id).chain(services.iter().copied()).collect();
        let entries = sets.flat_map(|set| set.entries).map(FlowEntry);
        let threatened = entries.filter(|e| ids.contains(&e.service()) && !e.is_free(tick)).filter(|e| {
            services.contains(&e.service()) && !self.members.contains(&(e.service(), e.backend()))
                || members.contains(&(e.service(), e.backend()))
        });
        self.entries.extend(threatened.collect::<Vec<_>>());
        self.members.extend(members);
        self.services.extend(services);
    }
}

/// A change that may have moved remembered flows.
pub struct Change<'a> {
    before: Side<'a>,
    after: Side<'a>,
    /// Members that keep no flows any more, by service id and ring-local index.
    losers: HashMap<(u16, u16), (IpAddr, Reason)>,
    /// Services whose flows are looked at whomever they are with; true: none of them is found again.
    remade: HashMap<u16, bool>,
}

impl<'a> Change<'a> {
    /// What has happened between two looks at the maps; `None` when no remembered flow can have moved. `desired` is what the
    /// planner was told to carry out.
    #[must_use]
    pub fn between(before: &'a Observed, after: &'a Observed, desired: &Desired) -> Option<Self> {
        let mut wanted: Option<HashMap<&str, &Service>> = None;
        let mut losers = HashMap::new();
        let mut remade = HashMap::new();
        for (&id, service) in &before.services {
            let (old, new) = (service.config(), after.services.get(&id).map(|service| service.config()));
            let Some(new) = new.filter(|new| new.table_size == old.table_size || old.table_size == 0) else {
                remade.insert(id, new.is_none());
                continue;
            };
            if (old.flags ^ new.flags) & plan::AFFINITY != 0 {
                remade.insert(id, true);
                continue;
            }
            let (Some(old), Some(new)) =
                (before.rings.get(&Place::of(old)), after.rings.get(&Place::of(new)))
            else {
                continue;
            };
            for (&local, member) in old.members.iter().filter(|(_, m)| m.state & BACKEND_ALIVE != 0) {
                let is_kept = |m: &Backend| m.state & BACKEND_ALIVE != 0 && m.address == member.address;
                if !new.members.get(&local).is_some_and(is_kept) {
                    let wanted = wanted.get_or_insert_with(|| {
                        desired.services.iter().map(|s| (s.name.as_str(), s)).collect()
                    });
                    let address = from_map(member.address);
                    let why = reason(wanted.get(plan::name(service)).copied(), address);
                    losers.insert((id, local), (address, why));
                }
            }
        }
        let (before, after) = (Side::of(before), Side::of(after));
        (!losers.is_empty() || !remade.is_empty()).then_some(Self { before, after, losers, remade })
    }

    /// Counts the flows of those that were watched when it began.
    #[must_use]
    pub fn count(&self, watch: &Watch) -> Vec<Moved> {
        let mut counts: BTreeMap<(Option<IpAddr>, Reason), u64> = BTreeMap::new();
        for &entry in &watch.entries {
            let lost = self.losers.get(&(entry.service(), entry.backend()));
            let remade = self.remade.get(&entry.service()).copied();
            if lost.is_none() && remade.is_none() {
                continue;
            }
            let was = self.before.remembered(entry);
            if remade == Some(true) || was != self.after.remembered(entry) {
                let (backend, reason) =
                    lost.map_or((was, Reason::Configuration), |&(at, why)| (Some(at), why));
                *counts.entry((backend, reason)).or_default() += 1;
            }
        }
        counts.into_iter().map(|((backend, reason), flows)| Moved { backend, reason, flows }).collect()
    }
}

/// Why a backend keeps no flows.
fn reason(service: Option<&Service>, address: IpAddr) -> Reason {
    let Some(service) = service else { return Reason::Configuration };
    let listed = service.backends.iter().find(|backend| backend.address == address);
    let state = match (listed, service.removal) {
        (Some(backend), _) => backend.state,
        (None, Removal::Drain) => AdminState::Drain,
        (None, Removal::Down) => AdminState::Down,
    };
    match state.drains_by(service.drain) {
        None => Reason::Down,
        Some(policy) if policy.mode == DrainMode::Shed => Reason::Shed,
        Some(_) => Reason::Max,
    }
}
