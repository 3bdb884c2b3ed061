//! What a configuration would change on a running balancer: `xdp-lb plan`.
//!
//! ```text
//!   maps as they are --copy--> maps in memory --plan, carried out--> maps as they would be
//!          |                                                              |
//!          '------ where does each flow, and each slot, go now and then? -'
//! ```
//!
//! Flows that are remembered are counted, each by the packet path's own rule. What is not remembered cannot be: of
//! those the share is told by slots, as an estimate. Pure; next hops play no part.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use serde::Serialize;
use xdp_lb_common::{
    backend::{BACKEND_ALIVE, Backend},
    flow::{FlowEntry, FlowSet},
    hash::slot_of_tag,
    ring::{NO_BACKEND, Slot},
    service::{DEST_PORT, ICE_UFRAG, IS_UDP, ServiceConfig, TRACK_WINDOW},
};

use crate::{
    drains::Drains,
    health::{self, HealthSnapshot, Key, State, TargetHealth},
    memory::MemoryMaps,
    model::Desired,
    nexthop::{Resolution, UnresolvedReason},
    plan::{self, Census, Inputs, Memo, PlanError},
    pools,
    state::{MapOp, Maps as _, Observed, Place, Ring, WriteError},
    status::MemberState,
    template::from_map,
};

/// What is asked.
pub struct Question<'a> {
    /// The configuration, as the file says it.
    pub desired: &'a Desired,
    /// Drains by command, which stay.
    pub drains: &'a Drains,
    /// The maps.
    pub observed: &'a Observed,
    /// The flow table's clock.
    pub tick: u16,
    /// Seconds since 1970.
    pub now: u64,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Forecast {
    /// Services that differ, by name; those that stay as they are are left out.
    pub services: Vec<Service>,
    /// Services that stay as they are.
    pub unchanged: usize,
    /// Remembered flows of all services.
    pub flows: u64,
    /// Those that would meet another backend, or none.
    pub flows_moved: u64,
    /// The largest part of its slots that a live service would move, per cent: what `--max-moved` compares.
    pub most_moved_percent: f64,
}

/// What becomes of one service.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Service {
    /// Name.
    pub name: String,
    /// `created`, `removed` or `changed`.
    pub change: &'static str,
    /// What changes that moves everything: `run` refuses it without `--allow-moves`, or altogether.
    pub moves_everything: Option<&'static str>,
    /// Slots.
    pub slots: u32,
    /// Slots that get another backend.
    pub slots_moved: u32,
    /// The same, per cent.
    pub slots_moved_percent: f64,
    /// Backends that come, leave, or change their state.
    pub backends: Vec<BackendChange>,
    /// Remembered flows, counted.
    pub flows: u64,
    /// Those of them that would meet another backend, or none; counted.
    pub flows_moved: u64,
    /// The part of flows that are not remembered that would, per cent; estimated by slots.
    pub others_moved_percent: f64,
}

/// What becomes of one backend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BackendChange {
    /// Address.
    pub address: IpAddr,
    /// Its state now; `null`: it is not there.
    pub from: Option<&'static str>,
    /// Its state then; `null`: it is forgotten.
    pub to: Option<&'static str>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ForecastError {
    /// It cannot be carried out.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The planner wrote outside the maps that it planned for: a bug.
    #[error("{0}; please report this")]
    Write(#[from] WriteError),
}

const TABLE_SIZE: &str = "table_size";

/// Answers. `sets` is the whole flow table.
///
/// # Errors
/// [`ForecastError`].
pub fn forecast(question: &Question, sets: impl Iterator<Item = FlowSet>) -> Result<Forecast, ForecastError> {
    let (before, after) = (question.observed, carried_out(question)?);
    let (now, then) = (Side::of(before), Side::of(&after));
    let seed = (before.control.seed != question.desired.seed).then_some("maglev.seed");
    let mut services: BTreeMap<&str, Service> = BTreeMap::new();
    for (&id, entry) in before.services.iter().chain(&after.services) {
        let name = plan::name(entry);
        services.entry(name).or_insert_with(|| compare(name, id, &now, &then, seed));
    }
    let mut forecast =
        Forecast { services: Vec::new(), unchanged: 0, flows: 0, flows_moved: 0, most_moved_percent: 0.0 };
    let names: BTreeMap<u16, &str> = before.services.iter().map(|(&id, s)| (id, plan::name(s))).collect();
    for entry in sets.flat_map(|set| set.entries).map(FlowEntry).filter(|e| !e.is_free(question.tick)) {
        let Some(service) = names.get(&entry.service()).and_then(|name| services.get_mut(name)) else {
            continue;
        };
        let to = |side: &Side| side.remembered(entry);
        // By another hash a flow goes anywhere; in a table of another size its slot can be told.
        let anywhere = service.moves_everything.is_some_and(|key| key != TABLE_SIZE);
        let moved = anywhere || to(&now) != to(&then);
        service.flows += 1;
        service.flows_moved += u64::from(moved);
    }
    for service in services.into_values() {
        forecast.flows += service.flows;
        forecast.flows_moved += service.flows_moved;
        if service.change != "created" {
            forecast.most_moved_percent = forecast.most_moved_percent.max(service.slots_moved_percent);
        }
        let stays = service.change == "changed"
            && service.backends.is_empty()
            && service.slots_moved == 0
            && service.flows_moved == 0
            && service.moves_everything.is_none();
        if stays {
            forecast.unchanged += 1;
        } else {
            forecast.services.push(service);
        }
    }
    Ok(forecast)
}

/// The maps when the configuration is in force and every window is over; nobody's drain has ended yet.
fn carried_out(question: &Question) -> Result<Observed, ForecastError> {
    let desired = question.drains.apply(question.desired);
    let judged = pools::apply(health::apply(&desired, &as_in_the_maps(&desired, question.observed)));
    // A window that is over postpones nothing.
    let mut observed = question.observed.clone();
    for service in observed.services.values_mut() {
        let live = (service.live & 1) as usize;
        service.configs[live].flags |= TRACK_WINDOW;
    }
    let windows: BTreeMap<u16, u64> = observed.services.keys().map(|&id| (id, 0)).collect();
    let mut maps = MemoryMaps::holding(&observed, 1);
    let resolve = |_| Resolution::Unresolved(UnresolvedReason::NoRoute);
    let plan = plan::plan(&Inputs {
        desired: &judged,
        observed: &observed,
        resolve: &resolve,
        census: &everybody_is_named(&observed),
        windows: &windows,
        memo: &Memo::default(),
        now: question.now,
        allow_moves: true,
        generation: question.observed.control.generation,
        only: None,
    })?;
    for op in &plan.ops {
        if !matches!(op, MapOp::Grace) {
            maps.apply(op)?;
        }
    }
    Ok(maps.observe())
}

/// Nobody is forgotten: a flow that is remembered there may still be going.
fn everybody_is_named(observed: &Observed) -> Census {
    let mut census = Census::default();
    for (&id, service) in &observed.services {
        let Some(ring) = observed.rings.get(&Place::of(service.config())) else { continue };
        census.members.extend(ring.members.keys().map(|&local| ((id, local), 1)));
    }
    census
}

/// Who is up or down stays so; who is new is taken to answer.
fn as_in_the_maps(desired: &Desired, observed: &Observed) -> HealthSnapshot {
    let known = health::taken_over(observed);
    let mut snapshot = HealthSnapshot::default();
    for service in desired.services.iter().filter(|service| service.health.is_some()) {
        let name: std::sync::Arc<str> = service.name.as_str().into();
        for backend in service.backends.iter() {
            let key = Key { service: name.clone(), backend: backend.address };
            let state = known.get(&key).copied().unwrap_or(State::Up);
            snapshot.targets.insert(key, answered(state));
        }
    }
    snapshot
}

fn answered(state: State) -> TargetHealth {
    TargetHealth {
        state,
        since: Duration::ZERO,
        kind: "",
        reason: None,
        unable: None,
        streak: 0,
        needed: 0,
        good: 0,
        bad: 0,
        took: Default::default(),
        took_sum: Duration::ZERO,
    }
}

/// The maps at one moment, and where packets go by them.
struct Side<'a> {
    observed: &'a Observed,
}

impl<'a> Side<'a> {
    fn of(observed: &'a Observed) -> Self {
        Self { observed }
    }

    fn service(&self, id: u16) -> Option<(&'a ServiceConfig, &'a Ring)> {
        let config = self.observed.services.get(&id)?.config();
        Some((config, self.observed.rings.get(&Place::of(config))?))
    }

    /// Where the next packet of a flow that is remembered goes.
    fn remembered(&self, entry: FlowEntry) -> Option<IpAddr> {
        let (config, ring) = self.service(entry.service())?;
        let own = ring.members.get(&entry.backend()).filter(|member| is_alive(member));
        // Requests alone decide there, whatever the slot.
        if config.flags & ICE_UFRAG == ICE_UFRAG
            && let Some(own) = own
        {
            return Some(from_map(own.address));
        }
        let slot = slot_of_tag(entry.tag(), config.table_size) as usize;
        let now = Slot(*ring.slots.now.get(slot)?);
        match own.filter(|_| now.is_dirty()) {
            Some(own) => Some(from_map(own.address)),
            None => address(ring, now.backend()),
        }
    }

    /// Where the next packet of a flow that nobody remembers goes, if its slot is this one.
    fn unknown(&self, id: u16, slot: u32) -> Option<IpAddr> {
        let (config, ring) = self.service(id)?;
        let now = Slot(*ring.slots.now.get(slot as usize)?);
        let before = ring.slots.before.get(slot as usize).copied().unwrap_or(NO_BACKEND);
        let is_before = config.flags & IS_UDP == 0 && now.is_dirty();
        match ring.members.get(&before).filter(|member| is_before && is_alive(member)) {
            Some(member) => Some(from_map(member.address)),
            None => address(ring, now.backend()),
        }
    }

    /// Who takes new flows of a slot.
    fn taker(&self, id: u16, slot: u32) -> Option<IpAddr> {
        let (_, ring) = self.service(id)?;
        address(ring, Slot(*ring.slots.now.get(slot as usize)?).backend())
    }

    fn states(&self, id: u16) -> BTreeMap<IpAddr, &'static str> {
        use crate::status::Word as _;
        let members = self.service(id).into_iter().flat_map(|(_, ring)| ring.members.values());
        members.map(|member| (from_map(member.address), MemberState::of(member).word())).collect()
    }
}

fn is_alive(member: &Backend) -> bool {
    member.state & BACKEND_ALIVE != 0
}

fn address(ring: &Ring, local: u16) -> Option<IpAddr> {
    ring.members.get(&local).map(|member| from_map(member.address))
}

fn compare(name: &str, id: u16, now: &Side, then: &Side, seed: Option<&'static str>) -> Service {
    let (old, new) = (now.service(id), then.service(id));
    let change = match (&old, &new) {
        (None, _) => "created",
        (_, None) => "removed",
        _ => "changed",
    };
    let affinity = |config: &ServiceConfig| config.flags & plan::AFFINITY;
    let moves_everything = match (&old, &new) {
        (Some((old, _)), Some((new, _))) if old.table_size > 0 && new.table_size > 0 => {
            let size = (old.table_size != new.table_size).then_some(TABLE_SIZE);
            let kind = (affinity(old) != affinity(new)).then_some("affinity");
            seed.or(kind).or(size)
        }
        _ => None,
    };
    let slots = old.as_ref().or(new.as_ref()).map_or(0, |(config, _)| config.table_size);
    let differ = |to: &dyn Fn(&Side, u32) -> Option<IpAddr>| {
        let moved = (0..slots).filter(|&slot| to(now, slot) != to(then, slot)).count();
        u32::try_from(moved).unwrap_or(u32::MAX)
    };
    // Ports decide there, not slots.
    let by_ports = old.as_ref().is_some_and(|(config, _)| config.flags & DEST_PORT == DEST_PORT);
    let (slots_moved, others) = match (change, moves_everything) {
        ("created", _) => (0, 0),
        ("removed", _) | (_, Some(_)) => (slots, slots),
        _ if by_ports => (0, 0),
        _ => (differ(&|side, slot| side.taker(id, slot)), differ(&|side, slot| side.unknown(id, slot))),
    };
    let (from, to) = (now.states(id), then.states(id));
    let addresses: BTreeSet<IpAddr> = from.keys().chain(to.keys()).copied().collect();
    let states = addresses.into_iter().map(|address| BackendChange {
        address,
        from: from.get(&address).copied(),
        to: to.get(&address).copied(),
    });
    Service {
        name: name.to_owned(),
        change,
        moves_everything,
        slots,
        slots_moved,
        slots_moved_percent: percent(slots_moved, slots),
        backends: states.filter(|one| one.from != one.to).collect(),
        flows: 0,
        flows_moved: 0,
        others_moved_percent: percent(others, slots),
    }
}

/// To two digits.
fn percent(part: u32, whole: u32) -> f64 {
    if whole == 0 { 0.0 } else { (f64::from(part) * 10_000.0 / f64::from(whole)).round() / 100.0 }
}
