//! What a configuration would change on a running balancer: `xdp-lb plan`.
//!
//! ```text
//!   maps as they are --copy--> maps in memory --plan, carried out--> maps as they would be
//!          |                                                              |
//!          '------ where does each flow, and each slot, go now and then? -'
//! ```
//!
//! Flows that are remembered are counted, each by the packet path's own rule. What is not remembered cannot be: of
//! those a part is told, by packets that are drawn at random and sent through both (`forecast/sample.rs`). Backends that
//! `slow_start` opens are told with what they take at once; everything else is told as of the end. Pure; next hops play
//! no part.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use serde::Serialize;
use xdp_lb_common::{
    flow::{FlowEntry, FlowSet},
    service::{DEST_PORT, ServiceConfig, TRACK_WINDOW},
};

use crate::{
    drains::Drains,
    health::{self, HealthSnapshot, Key, State, TargetHealth},
    memory::MemoryMaps,
    model::Desired,
    nexthop::{Resolution, UnresolvedReason},
    plan::{self, Census, Inputs, Memo, PlanError},
    pools,
    ramp::{self, Opening},
    state::{MapOp, Maps as _, Observed, Place, WriteError},
};

pub mod moves;
mod sample;
mod side;

use self::sample::Sampler;
use self::side::Side;

/// What is asked.
pub struct Question<'a> {
    /// The configuration, as the file and its cluster say it.
    pub desired: &'a Desired,
    /// The cluster was not asked: nothing is told of services of the maps that only it could want.
    pub without_cluster: bool,
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
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Forecast {
    /// Services that differ, by name; those that stay as they are are left out.
    pub services: Vec<Service>,
    /// Services that stay as they are.
    pub unchanged: usize,
    /// Services of the cluster, of which nothing can be told.
    pub left_out: usize,
    /// Why not: the cluster was not asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cluster_not_asked: Option<String>,
    /// Remembered flows of all services.
    pub flows: u64,
    /// Those that would meet another backend, or none.
    pub flows_moved: u64,
    /// The largest part of its slots (`affinity: dest-port`: of its ports, by the sample) that a live service would move, per
    /// cent: what `--max-moved` compares.
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
    /// Slots that get another backend, in the end.
    pub slots_moved: u32,
    /// The same, per cent.
    pub slots_moved_percent: f64,
    /// Slots that get another backend at once, before `slow_start` opens anybody further; per cent.
    pub slots_moved_at_once_percent: f64,
    /// Backends that `slow_start` will open step by step.
    pub slow_start: Vec<SlowStart>,
    /// Ports decide, not slots.
    #[serde(skip)]
    by_ports: bool,
    /// Only backends that open slowly already take slots: that goes on whether or not this configuration comes.
    #[serde(skip)]
    moves_by_itself: bool,
    /// Backends that come, leave, or change their state.
    pub backends: Vec<BackendChange>,
    /// Remembered flows, counted.
    pub flows: u64,
    /// Those of them that would meet another backend, or none; counted.
    pub flows_moved: u64,
    /// The part of flows that are not remembered that would, per cent; estimated by a sample. How many such flows there
    /// are, nobody knows.
    pub others_moved_percent: f64,
    /// Flows that were drawn for it; 0: nothing changes that could move one, or everything moves.
    pub others_sampled: u32,
    /// How far off it may be, percentage points: with 95 % confidence.
    pub others_margin_percent: f64,
}

/// A backend that opens slowly.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SlowStart {
    /// Address.
    pub address: IpAddr,
    /// The part of its gate that is open at once, per cent.
    pub share_percent: f64,
    /// Seconds until it is as far open as the file says.
    pub full_in: u64,
    /// It does so already, and goes on whether or not this configuration comes.
    pub is_under_way: bool,
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
    let before = question.observed;
    let (judged, ramped, openings) = judged(question);
    let after = carried_out(question, judged)?;
    let at_once = ramped.map(|ramped| carried_out(question, ramped)).transpose()?;
    let sides = Sides {
        now: Side::of(before),
        at_once: at_once.as_ref().map(Side::of),
        then: Side::of(&after),
        seed: (before.control.seed != question.desired.seed).then_some("maglev.seed"),
    };
    let in_file: BTreeSet<&str> = question.desired.services.iter().map(|s| s.name.as_str()).collect();
    let is_unknown = |name: &str| question.without_cluster && name.contains('/') && !in_file.contains(name);
    let left_out = before.services.values().filter(|entry| is_unknown(plan::name(entry))).count();
    let mut services: BTreeMap<&str, Service> = BTreeMap::new();
    for (&id, entry) in before.services.iter().chain(&after.services) {
        let name = plan::name(entry);
        if is_unknown(name) {
            continue;
        }
        services.entry(name).or_insert_with(|| sides.compare(name, id, &openings));
    }
    Sampler::new(before, &after).estimate(services.values_mut());
    let mut forecast = Forecast { left_out, ..Forecast::default() };
    let names: BTreeMap<u16, &str> = before.services.iter().map(|(&id, s)| (id, plan::name(s))).collect();
    for entry in sets.flat_map(|set| set.entries).map(FlowEntry).filter(|e| !e.is_free(question.tick)) {
        let Some(service) = names.get(&entry.service()).and_then(|name| services.get_mut(name)) else {
            continue;
        };
        // By another hash a flow goes anywhere; in a table of another size its slot can be told.
        let anywhere = service.moves_everything.is_some_and(|key| key != TABLE_SIZE);
        let moved = anywhere || sides.now.remembered(entry) != sides.then.remembered(entry);
        service.flows += 1;
        service.flows_moved += u64::from(moved);
    }
    for service in services.into_values() {
        forecast.flows += service.flows;
        forecast.flows_moved += service.flows_moved;
        // What an earlier slow start takes is not this configuration's doing.
        let stays = service.is_unchanged();
        if service.change != "created" && !stays {
            let moved =
                if service.by_ports { service.others_moved_percent } else { service.slots_moved_percent };
            forecast.most_moved_percent = forecast.most_moved_percent.max(moved);
        }
        if stays {
            forecast.unchanged += 1;
        } else {
            forecast.services.push(service);
        }
    }
    Ok(forecast)
}

/// What the planner is to carry out: as of the end, and as of now where `slow_start` makes a difference.
fn judged(question: &Question) -> (Desired, Option<Desired>, Vec<Opening>) {
    let desired = question.drains.apply(question.desired);
    let judged = health::apply(&desired, &as_in_the_maps(&desired, question.observed));
    let mut ramped = judged.clone();
    let openings = ramp::apply(&mut ramped, question.observed, question.now).openings;
    let ramped = (!openings.is_empty()).then(|| pools::apply(ramped));
    (pools::apply(judged), ramped, openings)
}

/// The maps when that has been carried out and every window is over; nobody's drain has ended yet.
fn carried_out(question: &Question, judged: Desired) -> Result<Observed, ForecastError> {
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

/// The maps now, at once, and in the end.
struct Sides<'a> {
    now: Side<'a>,
    /// `None`: as in the end.
    at_once: Option<Side<'a>>,
    then: Side<'a>,
    /// The key of the seed, if that changes.
    seed: Option<&'static str>,
}

impl Sides<'_> {
    fn compare(&self, name: &str, id: u16, openings: &[Opening]) -> Service {
        let (old, new) = (self.now.service(id), self.then.service(id));
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
                self.seed.or(kind).or(size)
            }
            _ => None,
        };
        let slots = old.as_ref().or(new.as_ref()).map_or(0, |(config, _)| config.table_size);
        let differ = |then: &Side| {
            let moved = (0..slots).filter(|&slot| self.now.taker(id, slot) != then.taker(id, slot)).count();
            u32::try_from(moved).unwrap_or(u32::MAX)
        };
        let by_ports = old.as_ref().is_some_and(|(config, _)| config.flags & DEST_PORT == DEST_PORT);
        let everything = change == "removed" || moves_everything.is_some();
        let (slots_moved, at_once) = match change {
            "created" => (0, 0),
            _ if everything => (slots, slots),
            _ if by_ports => (0, 0),
            _ => {
                let moved = differ(&self.then);
                (moved, self.at_once.as_ref().map_or(moved, differ))
            }
        };
        let (from, to) = (self.now.states(id), self.then.states(id));
        let addresses: BTreeSet<IpAddr> = from.keys().chain(to.keys()).copied().collect();
        let states = addresses.into_iter().map(|address| BackendChange {
            address,
            from: from.get(&address).copied(),
            to: to.get(&address).copied(),
        });
        let slow_start: Vec<SlowStart> =
            openings.iter().filter(|o| o.service == name).map(SlowStart::from).collect();
        let is_open = |address| slow_start.iter().any(|s| s.is_under_way && Some(s.address) == address);
        let by_itself = slots_moved > 0
            && !everything
            && (0..slots).all(|slot| {
                let then = self.then.taker(id, slot);
                self.now.taker(id, slot) == then || is_open(then)
            });
        Service {
            name: name.to_owned(),
            change,
            moves_everything,
            by_ports,
            slots,
            slots_moved,
            slots_moved_percent: percent(slots_moved, slots),
            slots_moved_at_once_percent: percent(at_once, slots),
            slow_start,
            moves_by_itself: by_itself,
            backends: states.filter(|one| one.from != one.to).collect(),
            flows: 0,
            flows_moved: 0,
            others_moved_percent: if everything { 100.0 } else { 0.0 },
            others_sampled: 0,
            others_margin_percent: 0.0,
        }
    }
}

impl Service {
    /// Nothing of it changes, or only what goes on without this configuration.
    fn is_unchanged(&self) -> bool {
        self.change == "changed"
            && self.backends.is_empty()
            && (self.slots_moved == 0 || self.moves_by_itself)
            && self.flows_moved == 0
            && self.moves_everything.is_none()
            && (self.others_moved_percent == 0.0 || self.moves_by_itself)
    }
}

impl From<&Opening> for SlowStart {
    fn from(opening: &Opening) -> Self {
        Self {
            address: opening.backend,
            share_percent: (opening.share * 10_000.0).round() / 100.0,
            full_in: opening.full_in,
            is_under_way: opening.age > 0,
        }
    }
}

/// To two digits.
fn percent(part: u32, whole: u32) -> f64 {
    if whole == 0 { 0.0 } else { (f64::from(part) * 10_000.0 / f64::from(whole)).round() / 100.0 }
}
