//! Brings the maps to where the configuration wants them, and keeps the flow table tidy.
//!
//! ```text
//!   observe -> plan -> apply -> observe -> plan is empty            (a change)
//!   read the flow table -> sweep, clean slots, census               (every few seconds)
//! ```
//!
//! The one writer of the maps. The kernel's maps and the ones in memory are the same to it.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::net::IpAddr;
use std::time::Duration;

use tracing::{debug, info, warn};
use xdp_lb_common::{flow::FlowSet, names};

use crate::{
    admin::NotDone,
    dataplane::{KernelMaps, sys},
    flows::{self, Filter},
    forecast::moves::{Change, Moved, Watch},
    model::Desired,
    nexthop::Resolution,
    peers::{
        Apart, Refusal,
        exceptions::{self, Placement},
    },
    plan::{self, Census, Inputs, Memo, Plan, PlanError},
    state::{MapOp, Maps, Observed, WriteError},
    survey::{self, Survey},
    times::Times,
};

/// A slot counts as changed this much later than it was written: an RCU grace period, generously.
const GRACE: Duration = Duration::from_secs(1);

/// The flow table, as the agent reads and tidies it.
pub trait FlowTable {
    /// The flow table's clock.
    ///
    /// # Errors
    /// When the kernel does not say.
    fn tick(&self) -> io::Result<u16>;
    /// Every set with its index.
    fn sets(&self) -> impl Iterator<Item = (u32, FlowSet)>;
    /// Clears a way that still holds `old`, and says whether it did.
    ///
    /// # Errors
    /// When there is no such way.
    fn sweep(&self, set: u32, way: usize, old: u64) -> io::Result<bool>;
    /// Makes a slot clean that still holds `expected`.
    ///
    /// # Errors
    /// When there is no such slot.
    fn clean_slot(&self, slot: u32, expected: u16) -> io::Result<()>;
    /// Stores an entry that no packet made, unless its flow is known or its set full.
    ///
    /// # Errors
    /// When there is no such set.
    fn remember(&self, placement: Placement, tick: u16) -> io::Result<Result<(), Refusal>>;
    /// Waits until no packet is under way that saw the tables as they were.
    fn grace(&self);
}

impl FlowTable for KernelMaps {
    fn tick(&self) -> io::Result<u16> {
        self.tick()
    }
    fn sets(&self) -> impl Iterator<Item = (u32, FlowSet)> {
        self.flow_sets()
    }
    fn sweep(&self, set: u32, way: usize, old: u64) -> io::Result<bool> {
        self.sweep(set, way, old)
    }
    fn clean_slot(&self, slot: u32, expected: u16) -> io::Result<()> {
        self.clean_slot(slot, expected).map(drop)
    }
    fn remember(&self, placement: Placement, tick: u16) -> io::Result<Result<(), Refusal>> {
        self.remember(placement, tick)
    }
    fn grace(&self) {
        sys::grace_period();
    }
}

/// Why the maps are not as wanted.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// Nothing was written: the configuration cannot be carried out here.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// A write failed; the rest of the plan waits for the next try.
    #[error(transparent)]
    Write(#[from] WriteError),
}

/// Why the flow table is not tidied.
#[derive(Debug, thiserror::Error)]
pub enum SurveyError {
    /// The clock that entries go by cannot be read: nothing was done.
    #[error("read the flow table's clock: {0}")]
    Clock(#[source] io::Error),
    /// The rest waits for the next time.
    #[error(transparent)]
    Write(#[from] WriteError),
}

/// What one reconciliation did.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Writes carried out.
    pub writes: usize,
    /// When to come again at the latest, seconds since 1970.
    pub wake: Option<u64>,
    /// Remembered flows that had to leave their backends.
    pub moved: Vec<Moved>,
}

/// The state between reconciliations.
pub struct Reconciler<M> {
    maps: M,
    census: Census,
    windows: BTreeMap<u16, u64>,
    /// When slots last changed, a grace period included.
    times: Times,
    memo: Memo,
    /// What was there at the last look.
    last: Option<Observed>,
    /// What was there before writes that failed, and whose flows they may have moved: those are not counted yet.
    uncounted: Option<(Observed, Watch)>,
    /// Generation of the configuration in force; writes of it may have failed and wait for the next try.
    generation: u32,
}

impl<M: Maps + FlowTable> Reconciler<M> {
    /// Over maps that may hold the state of an earlier agent.
    pub fn new(maps: M) -> Self {
        let generation = maps.observe().control.generation;
        Self {
            maps,
            census: Census::default(),
            windows: BTreeMap::new(),
            times: Times::default(),
            memo: Memo::default(),
            last: None,
            uncounted: None,
            generation,
        }
    }

    /// The maps.
    pub fn maps(&self) -> &M {
        &self.maps
    }

    /// The maps, to break them.
    #[cfg(test)]
    pub(super) fn maps_mut(&mut self) -> &mut M {
        &mut self.maps
    }

    /// Generation of the configuration in force; writes of it may have failed and wait for the next try.
    pub fn generation(&self) -> u32 {
        self.generation
    }

    /// The configuration of the start is generation `generation`.
    pub fn begin_at(&mut self, generation: u32) {
        self.generation = generation;
    }

    /// What is there now. The large parts that did not change are shared with the last look; with `written`, what
    /// this task alone wrote since, the others are not looked at.
    fn look(&self, written: Option<&[MapOp]>) -> Observed {
        match &self.last {
            Some(last) => self.maps.observe_again(last, written),
            None => self.maps.observe(),
        }
    }

    /// What is there now.
    pub fn observe(&self) -> Observed {
        self.look(None)
    }

    /// What carrying `desired` out would write, without writing.
    ///
    /// # Errors
    /// [`PlanError`].
    pub fn plan(&self, observed: &Observed, run: &Run) -> Result<Plan, PlanError> {
        plan::plan(&Inputs {
            desired: run.desired,
            observed,
            resolve: run.resolve,
            census: &self.census,
            windows: &self.windows,
            memo: &self.memo,
            now: run.now,
            allow_moves: run.allow_moves,
            generation: run.generation,
            only: run.only,
        })
    }

    /// Carries `run.desired` out and looks whether it worked.
    ///
    /// # Errors
    /// [`ReconcileError`]; running again finishes what a failed write left.
    pub fn reconcile(&mut self, run: &Run) -> Result<Outcome, ReconcileError> {
        let observed = self.look(None);
        let plan = match self.plan(&observed, run) {
            Ok(plan) => plan,
            Err(error) => {
                self.last = Some(observed);
                return Err(error.into());
            }
        };
        // Before the writes: a write that fails leaves what came before it, and the next try is one for this
        // configuration.
        self.generation = run.generation;
        self.windows.extend(&plan.windows_opened);
        self.census.quarantine(&plan, &observed);
        let watched = self.watch(&plan, &observed);
        for op in &plan.ops {
            debug!(?op, "write");
            self.times.note(op, &observed, run.uptime + GRACE);
            if let Err(error) = self.maps.apply(op) {
                self.uncounted = watched;
                return Err(error.into());
            }
        }
        self.close_windows(&plan);
        for (service, change) in &plan.services {
            info!(
                %service,
                created = change.created,
                removed = change.removed,
                added = ?change.backends_added,
                forgotten = ?change.backends_removed,
                changed = ?change.backends_changed,
                slots = change.slots,
                moved = change.slots_moved,
                waiting = change.slots_waiting,
                "plan applied"
            );
        }
        self.last = Some(observed);
        if !plan.is_empty() {
            self.verify(run, &plan.ops);
        }
        let moved = self.last.as_ref().zip(watched).and_then(|(after, (before, watch))| {
            Some(Change::between(&before, after, run.desired)?.count(&watch))
        });
        let moved = moved.unwrap_or_default();
        Ok(Outcome { writes: plan.ops.len(), wake: plan.wake, moved })
    }

    /// Notes whose remembered flows the plan may move, if it may move any, and where they were. That they cannot be counted
    /// is no reason not to carry it out.
    fn watch(&mut self, plan: &Plan, observed: &Observed) -> Option<(Observed, Watch)> {
        let (before, mut watch) = self.uncounted.take().unzip();
        let mut watch: Watch = watch.take().unwrap_or_default();
        if watch.extend(&plan.ops, observed) {
            match self.maps.tick() {
                Ok(tick) => watch.read(self.maps.sets().map(|(_, set)| set), tick),
                Err(e) => warn!("flows that move are not counted: read the flow table's clock: {e}"),
            }
        }
        (!watch.is_empty()).then(|| (before.unwrap_or_else(|| observed.clone()), watch))
    }

    /// A second look: the plan from what is there now must be empty, or wait for something. Never an error: the
    /// plan has been carried out, and callers take [`ReconcileError::Plan`] for nothing written.
    fn verify(&mut self, run: &Run, written: &[MapOp]) {
        let observed = self.look(Some(written));
        let again = self.plan(&observed, run);
        self.last = Some(observed);
        match again {
            Ok(again) => {
                if let Some(op) = again.ops.first() {
                    let (map, key) = op.target();
                    warn!(
                        map,
                        key,
                        writes = again.ops.len(),
                        "the maps are not yet as planned, trying again"
                    );
                }
            }
            Err(e) => warn!("the maps hold what cannot be planned on: {e}"),
        }
    }

    /// After all writes: to a plan after a failed one, a window that is still open in the maps began when it began.
    fn close_windows(&mut self, plan: &Plan) {
        for op in &plan.ops {
            if let MapOp::SetService { id, config } = op
                && config.flags & xdp_lb_common::service::TRACK_WINDOW == 0
            {
                self.windows.remove(id);
            }
        }
    }

    /// Remembers flows that another node has told, and has packets look for them: what becomes of each.
    ///
    /// `observed` is of now, `tick` the flow table's clock.
    ///
    /// # Errors
    /// [`WriteError`]; what came before it has been written.
    pub fn remember(
        &mut self,
        observed: &Observed,
        placements: &[Placement],
        tick: u16,
        uptime: Duration,
    ) -> Result<Vec<Result<(), Refusal>>, WriteError> {
        for op in exceptions::dirty(observed, placements) {
            self.times.note(&op, observed, uptime + GRACE);
            self.maps.apply(&op)?;
        }
        let remember = |&placement: &Placement| {
            let failed = |source| WriteError { map: names::FLOWS, key: placement.set, source };
            self.maps.remember(placement, tick).map_err(failed)
        };
        placements.iter().map(remember).collect()
    }

    /// Forgets the flows that are meant, and says how many they were.
    ///
    /// # Errors
    /// [`NotDone`].
    pub fn forget(&self, filter: &Filter) -> Result<u64, NotDone> {
        let failed = |e: io::Error| NotDone::Maps(format!("forget flows: map {}: {e}", names::FLOWS));
        let tick = self.maps.tick().map_err(failed)?;
        let mut forgotten = 0;
        for held in flows::find(&self.observe(), self.maps.sets(), tick, filter)? {
            forgotten += u64::from(self.maps.sweep(held.set, held.way, held.entry).map_err(failed)?);
        }
        Ok(forgotten)
    }

    /// Reads the whole flow table once: sweeps what expired, cleans slots that nobody needs dirty any more. Where nodes
    /// drain differently (`apart`), slots stay as they are.
    ///
    /// # Errors
    /// [`SurveyError`]; the next time finds what is left.
    pub fn survey(
        &mut self,
        desired: &Desired,
        apart: &Apart,
        uptime: Duration,
    ) -> Result<Survey, SurveyError> {
        self.maps.grace();
        let observed = self.look(None);
        self.times.keep(&observed);
        let wanted: HashMap<&str, Duration> =
            desired.services.iter().map(|w| (&*w.name, w.flow_timeout)).collect();
        let timeout_of = |s| wanted.get(plan::name(s)).copied().unwrap_or(Duration::ZERO);
        let timeouts: BTreeMap<u16, Duration> =
            observed.services.iter().map(|(&id, s)| (id, timeout_of(s))).collect();
        let changed = |base: u32, slot: u32| self.times.changed(base, slot).unwrap_or_default();
        let timeout = |id: u16| timeouts.get(&id).copied().unwrap_or(Duration::ZERO);
        let tick = self.maps.tick().map_err(SurveyError::Clock)?;
        let mut survey = survey::survey(&observed, self.maps.sets(), tick, uptime, &changed, &timeout);
        survey.hold(&observed, |service| apart.is_in(service));
        for sweep in &survey.sweeps {
            let failed = |source| WriteError { map: names::FLOWS, key: sweep.set, source };
            self.maps.sweep(sweep.set, sweep.way, sweep.old).map_err(failed)?;
        }
        for clean in &survey.clean {
            let failed = |source| WriteError { map: names::RINGS, key: clean.index, source };
            self.maps.clean_slot(clean.index, clean.expected).map_err(failed)?;
        }
        self.census = survey.census.clone();
        debug!(
            live = survey.live,
            swept = survey.sweeps.len(),
            cleaned = survey.clean.len(),
            "flow table surveyed"
        );
        Ok(survey)
    }
}

/// One run of the reconciler.
#[derive(Clone, Copy)]
pub struct Run<'a> {
    /// What is wanted.
    pub desired: &'a Desired,
    /// The way to every backend.
    pub resolve: &'a dyn Fn(IpAddr) -> Resolution,
    /// Seconds since 1970.
    pub now: u64,
    /// Time on the agent's own clock.
    pub uptime: Duration,
    /// Carry out what moves every flow.
    pub allow_moves: bool,
    /// Generation that the configuration gets.
    pub generation: u32,
    /// Services whose wants have changed since the last run; `None`: look at all.
    pub only: Option<&'a BTreeSet<String>>,
}

#[cfg(test)]
pub(super) mod tests;
