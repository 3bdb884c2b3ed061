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
mod census;
mod join;
mod layout;
mod member;
mod memo;
mod pages;
mod pods;
mod ring;
mod room;
mod service;
mod vips;
mod window;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::time::Duration;

use bytemuck::Zeroable;
use xdp_lb_common::{
    decap::{ACCEPT_GUE, ACCEPT_IPIP, AllowList, MAX_SOURCES, Prefix4, Prefix6},
    flow::MAX_TTL,
    service::{NAME_LEN, Service},
};

pub(crate) use self::affinity::AFFINITY;
pub use self::census::Census;
pub use self::layout::specs;
pub(crate) use self::layout::{RingSpec, listed, ring_spec};
pub use self::member::state_name;
pub use self::memo::Memo;
use self::{layout::Layout, member::Ways, room::Room};
use crate::{
    model::{self, Decap, Desired},
    nexthop::Resolution,
    state::{MapOp, Observed},
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
    /// What earlier plans computed; an empty one gives the same plan, later.
    pub memo: &'a Memo,
    /// Seconds since 1970.
    pub now: u64,
    /// Carry out changes that move every flow of a service.
    pub allow_moves: bool,
    /// Generation of the configuration.
    pub generation: u32,
    /// Services whose wants have changed since the last plan was carried out; rings without one of them are left as
    /// they are, unseen, and the services on them. `None`: all are looked at.
    pub only: Option<&'a BTreeSet<String>>,
}

impl Inputs<'_> {
    /// Whether a change that moves every flow of this service is carried out. Who describes services elsewhere than in
    /// the file cannot be asked, and what is refused of one would hold up all others.
    fn may_move(&self, service: &model::Service) -> bool {
        self.allow_moves || service.removal == model::Removal::Down
    }
}

/// The writes, and what they mean to people.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Writes in order.
    pub ops: Vec<MapOp>,
    /// What happens to each service that is touched.
    pub services: BTreeMap<String, ServiceChange>,
    /// Services whose tracking window this plan opens, by id, with the time from which it counts.
    pub windows_opened: BTreeMap<u16, u64>,
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

impl ServiceChange {
    /// Nothing happens to the service.
    fn is_nothing(&self) -> bool {
        *self == Self { slots: self.slots, ..Self::default() }
    }
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

/// Plans the way from observed to desired.
///
/// # Errors
/// [`PlanError`]: limits, and changes that move everything without leave to.
pub fn plan(inputs: &Inputs) -> Result<Plan, PlanError> {
    let Inputs { desired, observed, .. } = inputs;
    let mut plan = Plan::default();
    let mut room = Room::of(observed, inputs.census);
    let by_name: HashMap<&str, u16> = observed.services.iter().map(|(&id, s)| (name(s), id)).collect();
    let layout = Layout::of(inputs, &by_name, &mut room)?;
    let (mut early, mut live) = (Vec::new(), Vec::new());
    let ways = Ways::new(inputs);
    let mut rings = ring::plan(inputs, &layout, &ways, &mut room, &mut early)?;
    join::join(&layout, observed, &mut rings);
    service::plan(inputs, &layout, rings, &mut room, &mut early, &mut live, &mut plan)?;
    let ports = tx_ports(&early, &live, observed);
    plan.ops.extend(ports.difference(&observed.tx_ports).map(|&ifindex| MapOp::PutTxPort { ifindex }));
    plan.ops.append(&mut early);
    plan.ops.extend(sources(desired.decap.as_ref(), observed)?);
    let pods = pods::entries(desired.decap.as_ref());
    plan.ops.extend(pods::puts(&pods, &observed.pod_ports));
    plan.ops.append(&mut vips::plan(inputs, &layout.ids, &mut room)?);
    plan.ops.extend(pods::drops(&pods, &observed.pod_ports));
    plan.ops.append(&mut live);
    let kept: HashSet<u16> = layout.ids.iter().copied().collect();
    for (&id, gone) in observed.services.iter().filter(|(id, _)| !kept.contains(*id)) {
        plan.ops.push(MapOp::DropService { id });
        plan.services.insert(name(gone).to_owned(), ServiceChange { removed: true, ..Default::default() });
    }
    plan.ops.extend(affinity::orphaned_ids(observed, &kept));
    if !plan.ops.is_empty() {
        plan.ops.push(MapOp::Grace);
    }
    // A packet under way that misses its service's ranges would be refused.
    plan.ops.extend(affinity::orphaned_sources(desired, observed, &layout.ids));
    if observed.control.generation != inputs.generation {
        plan.ops.push(MapOp::SetGeneration { generation: inputs.generation });
    }
    if inputs.only.is_none() {
        inputs.memo.forget_unused(observed);
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
        .filter(|t| t.is_tunnel() && t.leaves_by() < observed.capacity.tx_ports)
        .map(|t| t.leaves_by())
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
