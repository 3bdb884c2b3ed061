//! From what is wanted and what is there to the writes between: pure, the same input gives the same plan.
//!
//! ```text
//!  new backends, rings, services -> port pages, VIP bank, switch -> live changes -> grace -> what is left over
//!         nothing points here yet          one store                one store each           nothing points here any more
//! ```
//!
//! A crash after any prefix leaves no VIP that reaches a missing service, no service with a missing ring
//! and no ring that names a missing backend. Whatever the crash left half-made is unreachable and counts as
//! free; a second run finishes the work and a third has nothing to do.

mod affinity;
mod alloc;
mod homes;
mod pages;
mod service;
mod vips;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use bytemuck::Zeroable;
use xdp_lb_common::{
    decap::{ACCEPT_GUE, ACCEPT_IPIP, AllowList, MAX_SOURCES, Prefix4, Prefix6},
    flow::MAX_TTL,
    ring::{NO_BACKEND, Slot},
    service::{MAX_SERVICES, NAME_LEN, Service},
};

pub use self::homes::Homes;
use self::{alloc::Ranges, pages::Pages};
use crate::{
    model::{Decap, Desired},
    nexthop::Resolution,
    state::{MapOp, Observed, SlotChange},
};

/// What a plan depends on.
pub struct Inputs<'a> {
    /// What is wanted.
    pub desired: &'a Desired,
    /// What is there.
    pub observed: &'a Observed,
    /// The way to every backend.
    pub resolve: &'a dyn Fn(IpAddr) -> Resolution,
    /// What the flow table names.
    pub census: &'a Census,
    /// When the tracking window of a service was opened, seconds since 1970, by service id.
    pub windows: &'a BTreeMap<u16, u64>,
    /// Seconds since 1970.
    pub now: u64,
    /// Carry out changes that move every flow of a service.
    pub allow_moves: bool,
    /// Generation of the configuration.
    pub generation: u32,
    /// Services whose wants have changed since the last plan was carried out; those that are in the maps and not among
    /// them are left as they are, unseen. `None`: all are looked at.
    pub only: Option<&'a BTreeSet<String>>,
    /// Home tables of earlier plans; what is in there changes no plan.
    pub homes: &'a Homes,
}

/// What a scan of the flow table found: ids and indexes that must not be given to somebody else yet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Census {
    /// Service ids that some entry names and that are not in use.
    pub services: BTreeSet<u16>,
    /// Ring-local indexes that some entry of a service names, with the number of live flows.
    pub members: BTreeMap<(u16, u16), u32>,
}

impl Census {
    /// Makes the census good for the plans after this one: what `plan` gives up counts as named until the next
    /// scan, for that scan alone can see the packets that were under way. Who loses a slot counts as remembered by
    /// somebody: connections that began there since the last scan are not in this census.
    pub fn quarantine(&mut self, plan: &Plan, observed: &Observed) {
        for op in &plan.ops {
            match op {
                MapOp::DropService { id } => _ = self.services.insert(*id),
                MapOp::SetSlots { base, changes } => self.quarantine_losers(*base, changes, observed),
                MapOp::DropBackend { index } => self.quarantine_member(*index, observed),
                MapOp::PutBackend { index, entry } if entry.state == 0 => {
                    self.quarantine_member(*index, observed);
                }
                _ => {}
            }
        }
    }

    fn quarantine_losers(&mut self, base: u32, changes: &[SlotChange], observed: &Observed) {
        let mut services = observed.services.iter().filter(|(_, s)| s.config().table_size > 0);
        let Some((&id, _)) = services.find(|(_, s)| s.config().slot_base == base) else { return };
        let Some(ring) = observed.rings.get(&id) else { return };
        for change in changes {
            let loser = ring.now.get(change.slot as usize).map(|&now| Slot(now).backend());
            if let Some(loser) =
                loser.filter(|&loser| loser != NO_BACKEND && loser != Slot(change.now).backend())
            {
                let flows = self.members.entry((id, loser)).or_insert(0);
                *flows = (*flows).max(1);
            }
        }
    }

    fn quarantine_member(&mut self, index: u32, observed: &Observed) {
        let home = observed.services.iter().find_map(|(&id, service)| {
            let local = index.checked_sub(service.config().backend_base)?;
            (local < observed.blocks.get(&id).copied().unwrap_or(0)).then_some((id, local as u16))
        });
        if let Some(home) = home {
            self.members.entry(home).or_insert(0);
        }
    }
}

/// The writes, and what they mean to people.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Writes in order.
    pub ops: Vec<MapOp>,
    /// What happens to each service that is touched.
    pub services: BTreeMap<String, ServiceChange>,
    /// Services whose tracking window this plan opens, by id.
    pub windows_opened: BTreeSet<u16>,
    /// When to plan again at the latest though nothing changed, seconds since 1970: a drain's or a window's end.
    pub wake: Option<u64>,
}

impl Plan {
    /// True when the maps are as wanted.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }

    fn wake_at(&mut self, at: u64) {
        self.wake = Some(self.wake.map_or(at, |w| w.min(at)));
    }
}

/// What a plan does to one service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceChange {
    /// The service is new.
    pub created: bool,
    /// The service goes away.
    pub removed: bool,
    /// Ring slots.
    pub slots: u32,
    /// Slots that change their backend.
    pub slots_moved: u32,
    /// Slots that wait for the tracking window.
    pub slots_waiting: u32,
    /// Backends that come.
    pub backends_added: Vec<IpAddr>,
    /// Backends that are forgotten.
    pub backends_removed: Vec<IpAddr>,
    /// Backends whose state changes, and to which.
    pub backends_changed: Vec<(IpAddr, &'static str)>,
}

/// Why there is no plan. Nothing has been written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// A map is too small.
    #[error("limits.{what} is {have} and {need} are needed: raise it, then `xdp-lb detach` and start again")]
    Limit {
        /// Key under `limits`.
        what: &'static str,
        /// Entries needed.
        need: u64,
        /// Entries there are.
        have: u64,
    },
    /// A change that moves all flows of a service.
    #[error("{key} of the live service {service} would move all its flows: --allow-moves carries it out")]
    MovesEverything {
        /// Service.
        service: String,
        /// Key that changed.
        key: &'static str,
    },
    /// A ring has no member index left: more backends came and went than 4096 within their drains.
    #[error("service {service}: no free backend index among 4096; wait for drains to end or lower drain.max")]
    Members {
        /// Service.
        service: String,
    },
    /// The table cannot be built.
    #[error("service {service}: {reason}")]
    Table {
        /// Service.
        service: String,
        /// What Maglev said.
        reason: String,
    },
}

/// Room in the maps for what is new.
struct Room {
    ids: BTreeSet<u16>,
    services: u32,
    slots: Ranges,
    backends: Ranges,
    stats: Ranges,
    pages: Pages,
    /// Places of `server_ids` that are or were in use.
    places: BTreeSet<u32>,
    /// Entries that fit into `source_ranges` besides those that are there.
    sources: u32,
}

impl Room {
    fn of(observed: &Observed, census: &Census) -> Self {
        let block = |id: &u16| observed.blocks.get(id).copied().unwrap_or(0);
        let configs = || observed.services.iter().map(|(id, s)| (id, s.config()));
        Self {
            // Entries of a service that is gone may still be counted as those of its members.
            ids: observed
                .services
                .keys()
                .chain(&census.services)
                .copied()
                .chain(census.members.keys().map(|&(id, _)| id))
                .collect(),
            services: observed.capacity.services.min(MAX_SERVICES + 1),
            slots: Ranges::new(
                observed.capacity.ring_slots,
                configs().map(|(_, c)| (c.slot_base, c.table_size.next_multiple_of(4))),
            ),
            backends: Ranges::new(
                observed.capacity.backends,
                configs().map(|(id, c)| (c.backend_base, block(id))),
            ),
            stats: Ranges::new(
                observed.capacity.backend_stats,
                configs()
                    .filter(|(_, c)| c.stats_base < observed.capacity.backend_stats)
                    .map(|(id, c)| (c.stats_base, block(id))),
            ),
            pages: Pages::new(observed),
            places: observed.server_ids.keys().copied().collect(),
            sources: observed
                .capacity
                .source_ranges
                .saturating_sub(u32::try_from(observed.source_ranges.len()).unwrap_or(u32::MAX)),
        }
    }

    fn id(&mut self) -> Result<u16, PlanError> {
        let limit = PlanError::Limit {
            what: "services",
            need: self.ids.len() as u64 + 1,
            have: u64::from(self.services.saturating_sub(1)),
        };
        let end = u16::try_from(self.services).unwrap_or(u16::MAX);
        let id = (1..end).find(|id| !self.ids.contains(id)).ok_or(limit)?;
        self.ids.insert(id);
        Ok(id)
    }
}

fn take(ranges: &mut Ranges, len: u32, what: &'static str, capacity: u32) -> Result<u32, PlanError> {
    let need = u64::from(capacity) + u64::from(len.saturating_sub(ranges.free())).max(1);
    ranges.take(len).ok_or(PlanError::Limit { what, need, have: u64::from(capacity) })
}

/// Plans the way from observed to desired.
///
/// # Errors
/// [`PlanError`]: limits, and changes that move everything without leave to.
pub fn plan(inputs: &Inputs) -> Result<Plan, PlanError> {
    let Inputs { desired, observed, .. } = inputs;
    let mut plan = Plan::default();
    let mut room = Room::of(observed, inputs.census);
    let by_name: BTreeMap<&str, u16> = observed.services.iter().map(|(&id, s)| (name(s), id)).collect();
    let (mut early, mut live) = (Vec::new(), Vec::new());
    let mut ids: BTreeMap<&str, u16> = BTreeMap::new();
    for wanted in &desired.services {
        let is_left = inputs.only.is_some_and(|only| !only.contains(&wanted.name));
        let id = match by_name.get(&*wanted.name) {
            Some(&id) if is_left => id,
            Some(&id) => service::change(inputs, wanted, id, &mut room, &mut early, &mut live, &mut plan)?,
            None => service::create(inputs, wanted, &mut room, &mut early, &mut plan)?,
        };
        ids.insert(&wanted.name, id);
    }
    let ports = tx_ports(&early, &live, observed);
    plan.ops.extend(ports.difference(&observed.tx_ports).map(|&ifindex| MapOp::PutTxPort { ifindex }));
    plan.ops.append(&mut early);
    plan.ops.extend(sources(desired.decap.as_ref(), observed)?);
    plan.ops.append(&mut vips::plan(desired, &ids, observed, &mut room.pages)?);
    plan.ops.append(&mut live);
    for (name, &id) in by_name.iter().filter(|(name, _)| !ids.contains_key(*name)) {
        plan.ops.push(MapOp::DropService { id });
        plan.services.insert((*name).to_owned(), ServiceChange { removed: true, ..Default::default() });
    }
    plan.ops.extend(affinity::orphaned_ids(observed, &ids));
    if !plan.ops.is_empty() {
        plan.ops.push(MapOp::Grace);
    }
    // A packet under way that misses its service's ranges would be refused.
    plan.ops.extend(affinity::orphaned_sources(desired, observed, &ids));
    if observed.control.generation != inputs.generation {
        plan.ops.push(MapOp::SetGeneration { generation: inputs.generation });
    }
    // A part of the services does not say what the others need.
    if inputs.only.is_none() {
        inputs.homes.forget_unused();
    }
    Ok(plan)
}

/// A service's name without its padding.
#[must_use]
pub fn name(service: &Service) -> &str {
    let len = service.name.iter().position(|&b| b == 0).unwrap_or(NAME_LEN);
    std::str::from_utf8(&service.name[..len]).unwrap_or("?")
}

/// Interfaces that some tunnel leaves by, now or after these operations. One that is no longer used stays:
/// it costs nothing, and a packet may be on its way to it.
fn tx_ports(early: &[MapOp], live: &[MapOp], observed: &Observed) -> BTreeSet<u32> {
    early
        .iter()
        .chain(live)
        .filter_map(|op| match op {
            MapOp::PutBackend { entry, .. } => Some(*entry.template()),
            MapOp::SetTemplate { template, .. } => Some(**template),
            _ => None,
        })
        .filter(|t| t.is_tunnel() && t.ifindex < observed.capacity.tx_ports)
        .map(|t| t.ifindex)
        .collect()
}

/// Kinds and outer sources of tunnels, if they differ.
fn sources(decap: Option<&Decap>, observed: &Observed) -> Result<Option<MapOp>, PlanError> {
    let mut list = AllowList::zeroed();
    if let Some(decap) = decap {
        list.kinds |= if decap.ipip { ACCEPT_IPIP } else { 0 };
        list.kinds |= if decap.gue.is_some() { ACCEPT_GUE } else { 0 };
        list.gue_port = decap.gue.map_or(0, u32::from);
    }
    for &(address, prefix) in decap.iter().flat_map(|d| &d.allow_sources) {
        match address {
            IpAddr::V4(a) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0).to_be_bytes();
                push(&mut list.v4, &mut list.v4_count, Prefix4 { address: a.octets(), mask })?;
            }
            IpAddr::V6(a) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0).to_be_bytes();
                push(&mut list.v6, &mut list.v6_count, Prefix6 { address: a.octets(), mask })?;
            }
        }
    }
    Ok((list != observed.sources).then(|| MapOp::SetSources { list: Box::new(list) }))
}

fn push<T>(list: &mut [T; MAX_SOURCES], count: &mut u32, prefix: T) -> Result<(), PlanError> {
    let have = MAX_SOURCES as u64;
    let full = PlanError::Limit { what: "decap.allow_sources (of one family)", need: have + 1, have };
    *list.get_mut(*count as usize).ok_or(full)? = prefix;
    *count += 1;
    Ok(())
}

/// A duration in flow-table ticks, rounded up, at least one.
fn ticks(duration: Duration, observed: &Observed) -> u16 {
    let hz = u128::from(observed.control.hz.max(1));
    let tick = 1u128 << observed.control.tick_shift.min(31);
    let jiffies = duration.as_millis() * hz / 1000;
    u16::try_from(jiffies.div_ceil(tick)).unwrap_or(MAX_TTL).clamp(1, MAX_TTL)
}
