//! What the daemon knows and wants, and how it gets there: the reconciler with its configuration, its clock and its
//! second tries.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Result, bail};
use tokio::{sync::watch, time::Instant};
use tracing::{error, info, warn};
use xdp_lb_common::path_mtu::PathMtu;

use super::{
    FlowTable, ReconcileError, Reconciler, Run,
    announce::{self, Announcer},
    backoff::Backoff,
    endpoint::Reporter,
    health::HealthChecks,
    interfaces::{followed, resolve},
    past::Past,
    peers::Sync,
    room,
};
use crate::{
    admin::{Done, NotDone, View},
    dataplane::{BpffsRoot, KernelMaps, attach::attached},
    drains::Drains,
    file::Texts,
    flows::Filter,
    forecast::moves::Moved,
    health::HealthSnapshot,
    keep::{Keep, Origin},
    model::Desired,
    nexthop::{Resolution, Snapshot},
    path_mtu::{Ours, PathMtus},
    peers::{Apart, Heard, Told},
    pools, ramp,
    state::Maps,
};

/// Writes that fail for shorter are no reason to withdraw anything: what was written before forwards.
const FAILING: Duration = Duration::from_secs(1);

/// How much a reconciliation looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    /// Everything.
    All,
    /// Services that health has changed: a death must not wait for the plans of thousands of others.
    Changed,
}

/// Names of the services that differ; `None` when more than that does.
fn changed(planned: &Desired, judged: &Desired) -> Option<BTreeSet<String>> {
    let (before, now) = (&planned.services, &judged.services);
    if before.len() != now.len() || before.iter().zip(now).any(|(a, b)| a.name != b.name) {
        return None;
    }
    Some(before.iter().zip(now).filter(|(a, b)| a != b).map(|(_, b)| b.name.clone()).collect())
}

/// The reconciler with its configuration and its clock.
pub(super) struct Agent<M = KernelMaps> {
    reconciler: Reconciler<M>,
    /// The configuration in force: the file's services and the cluster's.
    pub(super) desired: Desired,
    /// The file's part.
    pub(super) file: Desired,
    /// Nothing is written: another agent's services are in the maps, and the cluster that asked for them is not known.
    pub(super) is_held: bool,
    /// Drains by command.
    pub(super) drains: Drains,
    /// Those of peers.
    heard: Heard,
    /// Where ours are kept; `None` where no command is taken.
    pub(super) keep: Option<Keep>,
    /// Configurations that were in force; `None` likewise.
    pub(super) past: Option<Past>,
    /// What the admin API tells of these.
    pub(super) view: watch::Sender<View>,
    /// Without it, backends are what the file says.
    pub(super) health: Option<HealthChecks>,
    /// What the planner saw last, if all of it was carried out.
    planned: Option<Desired>,
    allow_moves: bool,
    path_mtus: PathMtus,
    /// Slots may be dirty: something was written since the last look for exceptions, or that found some.
    unsettled: bool,
    /// Instants of the tokio runtime; tests have a clock that stands.
    clock: fn() -> Instant,
    started: Instant,
    /// Flows that commands had forgotten.
    forgotten: u64,
    /// Seconds since 1970 at which something falls due.
    due: Option<u64>,
    /// What the endpoint of metrics is told.
    pub(super) reporter: Reporter,
    /// After a failure: when to try again.
    retry: Backoff,
}

impl<M: Maps + FlowTable> Agent<M> {
    /// Over maps that may hold the state of an earlier agent.
    pub(super) fn new(maps: M, desired: Desired, allow_moves: bool) -> Self {
        let reconciler = Reconciler::new(maps);
        let view = View {
            desired: Arc::new(desired.clone()),
            drains: Arc::default(),
            peer_drains: Arc::default(),
            rollback: None,
            generation: reconciler.generation(),
        };
        Self {
            reconciler,
            file: desired.clone(),
            is_held: false,
            desired,
            drains: Drains::default(),
            heard: Heard::default(),
            keep: None,
            past: None,
            view: watch::Sender::new(view),
            health: None,
            planned: None,
            allow_moves,
            path_mtus: PathMtus::default(),
            unsettled: true,
            clock: Instant::now,
            started: Instant::now(),
            forgotten: 0,
            due: None,
            reporter: Reporter::default(),
            retry: Backoff::default(),
        }
    }

    /// What an earlier agent left: drains, and the numbers of configurations.
    pub(super) fn remember(&mut self, keep: Keep, past: Past) {
        self.drains = keep.drains().unwrap_or_else(|e| {
            error!("backends that a command has drained may take flows again: {e}");
            Drains::default()
        });
        self.reconciler.begin_at(past.first(self.reconciler.generation()));
        (self.keep, self.past) = (Some(keep), Some(past));
    }

    /// The configuration in force is this text, from the files or from an earlier generation.
    pub(super) fn note(&mut self, texts: Texts, back_to: Option<u32>) {
        let generation = self.generation();
        if let Some(past) = &mut self.past {
            let origin = match (back_to, past.rollback()) {
                (Some(of), _) => Origin::Rollback(of),
                (None, Some(rollback)) if past.is_current(&texts) => Origin::Rollback(rollback.generation),
                (None, _) => Origin::File,
            };
            past.note(generation, texts, origin);
        }
        self.show();
    }

    /// Tells the admin API how things are.
    pub(super) fn show(&self) {
        self.view.send_replace(View {
            desired: Arc::new(self.desired.clone()),
            drains: Arc::new(self.drains.clone()),
            peer_drains: Arc::new(self.heard.clone()),
            rollback: self.past.as_ref().and_then(Past::rollback).cloned().map(Arc::new),
            generation: self.generation(),
        });
    }

    /// Brings the maps to where the configuration in force wants them.
    ///
    /// # Errors
    /// [`ReconcileError`].
    pub(super) fn reconcile(&mut self, snapshot: &Snapshot, scope: Scope) -> Result<(), ReconcileError> {
        let generation = self.reconciler.generation().max(1);
        let desired = self.desired.clone();
        self.carry_out(&desired, snapshot, generation, scope)
    }

    fn carry_out(
        &mut self,
        desired: &Desired,
        snapshot: &Snapshot,
        generation: u32,
        scope: Scope,
    ) -> Result<(), ReconcileError> {
        let mtus = &self.path_mtus;
        let pods = desired.own_pods();
        let resolve = |address| {
            if pods.contains(&address) { Resolution::Pod } else { resolve(desired, snapshot, mtus, address) }
        };
        let observe = || self.reconciler.observe();
        let drained = self.drains.apply(desired);
        let judged = self.health.as_mut().map(|h| h.judge(&drained, &resolve, observe));
        let mut judged = judged.unwrap_or(drained);
        let now = unix_now();
        let ramps = ramp::is_wanted(&judged)
            .then(|| ramp::apply(&mut judged, &observe(), now))
            .and_then(|ramps| ramps.next);
        // A backend that opens slowly leaves to other zones what it does not take yet.
        let judged = pools::apply(judged);
        let only = match (scope, &self.planned) {
            (Scope::Changed, Some(planned)) if !self.is_behind() => changed(planned, &judged),
            _ => None,
        };
        let run = Run {
            desired: &judged,
            resolve: &resolve,
            now,
            uptime: self.uptime(),
            allow_moves: self.allow_moves,
            generation,
            only: only.as_ref(),
        };
        let (done, instead) = match self.reconciler.reconcile(&run) {
            Err(short) if room::is_short(&short) => {
                room::reconcile(&mut self.reconciler, &run, desired, short)
            }
            done => (done, None),
        };
        let why = instead.as_ref().map(|instead| instead.why.clone());
        if let Some(why) = why.as_ref().filter(|_| why != self.reporter.condition().aside) {
            warn!("{why}");
        }
        self.reporter.left_aside(why.filter(|_| done.is_ok()));
        // What was left aside keeps its deadlines.
        let others = self.due.filter(|_| only.is_some());
        if let Some(health) = self.health.as_mut().filter(|_| done.is_ok()) {
            health.index(|| self.reconciler.observe());
        }
        self.planned = None;
        self.unsettled |= !done.as_ref().is_ok_and(|done| done.writes == 0);
        let done = done?;
        for Moved { backend, reason, flows } in &done.moved {
            info!(?backend, reason = reason.name(), flows, "remembered flows had to leave their backend");
        }
        self.reporter.moved(&done.moved);
        self.due = done.wake.into_iter().chain(others).chain(ramps).min();
        self.planned = Some(instead.map_or(judged, |instead| instead.judged));
        Ok(())
    }

    /// Before a new configuration: what cannot be had is logged, and such checks are not asked.
    pub(super) async fn prepare_health(&mut self, desired: &Desired) {
        if let Some(health) = &mut self.health
            && let Err(e) = health.prepare(desired).await
        {
            error!("reload: {e:#}");
        }
    }

    /// Health checks have something to say.
    pub(super) fn on_health(&mut self, health: &HealthSnapshot, snapshot: &Arc<Snapshot>) {
        let Some(checks) = &mut self.health else { return };
        if checks.has_changed(health) {
            self.try_in(Scope::Changed, snapshot);
        } else {
            checks.tell();
        }
    }

    /// Reconciles; a failure is logged and tried again later, with pauses that grow.
    pub(super) fn try_reconcile(&mut self, snapshot: &Arc<Snapshot>) {
        self.try_in(Scope::All, snapshot);
    }

    fn try_in(&mut self, scope: Scope, snapshot: &Arc<Snapshot>) {
        if self.is_held {
            return;
        }
        match self.reconcile(snapshot, scope) {
            Ok(()) => {
                self.retry.worked();
                self.reporter.wrote(None);
            }
            Err(e) => {
                self.reporter.wrote(Some(e.to_string()));
                let pause = self.retry.failed((self.clock)());
                error!(retry_in = ?pause, "reconcile: {e}");
            }
        }
    }

    /// Makes a new configuration the current one, if it can be carried out; else tells why not.
    pub(super) fn adopt(&mut self, desired: Desired, snapshot: &Arc<Snapshot>) -> Result<(), String> {
        let generation = self.reconciler.generation() + 1;
        self.put_in_force(desired, snapshot, generation)?;
        self.reporter.offered(Ok(()));
        Ok(())
    }

    /// The same of what a cluster asks for beside the configuration in force, whose number stays.
    pub(super) fn follow(&mut self, desired: Desired, snapshot: &Arc<Snapshot>) -> Result<(), String> {
        let generation = self.reconciler.generation().max(1);
        self.put_in_force(desired, snapshot, generation)
    }

    fn put_in_force(
        &mut self,
        desired: Desired,
        snapshot: &Arc<Snapshot>,
        generation: u32,
    ) -> Result<(), String> {
        match self.carry_out(&desired, snapshot, generation, Scope::All) {
            Ok(()) => {
                self.reporter.wrote(None);
                self.retry.worked();
                self.desired = desired;
                Ok(())
            }
            Err(ReconcileError::Plan(e)) => Err(e.to_string()),
            Err(ReconcileError::Write(e)) => {
                // Part of it is in the maps: going on is shorter than going back.
                error!("reload not complete, trying again: {e}");
                self.reporter.wrote(Some(e.to_string()));
                self.retry.failed_anew((self.clock)());
                self.desired = desired;
                Ok(())
            }
        }
    }

    /// Whether writes of the configuration in force have failed and wait for the next try.
    pub(super) fn is_behind(&self) -> bool {
        self.retry.at().is_some()
    }

    /// Generation of the configuration in force.
    pub(super) fn generation(&self) -> u32 {
        self.reconciler.generation()
    }

    /// The maps.
    pub(super) fn maps(&self) -> &M {
        self.reconciler.maps()
    }

    /// States what announcements follow.
    pub(super) fn announce(
        &self,
        announcer: &Announcer,
        snapshot: &Snapshot,
        root: &BpffsRoot,
    ) -> Result<()> {
        if announcer.has_died() {
            bail!("the thread bgp ended; restart the agent, forwarding goes on meanwhile");
        }
        if announcer.is_silent() {
            return Ok(());
        }
        let attached = attached(root)?.into_iter().map(|a| a.interface).collect();
        let failing = self.retry.pause().filter(|pause| *pause >= FAILING);
        let failure = failing.map(|_| "writes to the maps keep failing, see the log".to_owned());
        let observed = self.reconciler.observe();
        let health = self.health.as_ref().map(|health| health.changes().borrow().clone()).unwrap_or_default();
        let (desired, links) = (&self.desired, &snapshot.links);
        announcer.tell(announce::facts(desired, &observed, &health, links, &attached, failure));
        Ok(())
    }

    /// Tells peers what they cannot guess.
    pub(super) fn tell(&mut self, peers: &Sync) {
        self.reporter.synced(peers.counts());
        let silent = self.heard.expire(self.uptime());
        if !silent.is_empty() {
            info!(nodes = ?silent, "peers have not spoken of their drains by command for long: they are forgotten");
            self.show();
        }
        // Whoever drains says so again and again.
        if self.unsettled || !self.drains.is_empty() || !self.heard.is_empty() {
            match peers.look(&self.reconciler, &self.desired, &self.drains, &self.apart()) {
                Ok(unsettled) => self.unsettled = unsettled,
                Err(e) => error!("flows for peers: {e:#}"),
            }
        }
    }

    /// Takes in what a peer tells.
    pub(super) fn learn(&mut self, peers: &mut Sync, told: Told) {
        let uptime = self.uptime();
        match peers.learn(told, &mut self.reconciler, &mut self.heard, &self.desired, uptime) {
            Ok(true) => self.show(),
            Ok(false) => {}
            Err(e) => error!("flows from a peer: {e:#}"),
        }
        self.unsettled = true;
        self.reporter.synced(peers.counts());
    }

    /// Where this node and its peers drain differently.
    fn apart(&self) -> Apart {
        let peers = self.desired.peers.as_ref().map_or(0, |peers| peers.nodes.len());
        self.heard.apart(&self.drains, &self.desired, peers)
    }

    /// Other drains by command count from now on. Peers are told with the next look.
    pub(super) fn set_drains(&mut self, drains: Drains) {
        self.drains = drains;
        self.unsettled = true;
        self.show();
    }

    /// Forgets flows. Whoever stores one at the same moment keeps it.
    ///
    /// # Errors
    /// [`NotDone`].
    pub(super) fn forget(&mut self, filter: &Filter) -> Result<Done, NotDone> {
        let forgotten = self.reconciler.forget(filter)?;
        self.forgotten += forgotten;
        self.reporter.forgot(self.forgotten);
        info!(service = filter.service, backend = ?filter.backend, flows = forgotten, "flows forgotten by command");
        Ok(Done { forgotten, ..Done::default() })
    }

    /// Reads the flow table once, and tidies it.
    pub(super) fn survey(&mut self) {
        let apart = self.apart();
        match self.reconciler.survey(&self.desired, &apart, self.uptime()) {
            Ok(survey) => self.reporter.surveyed(&survey),
            Err(e) => {
                error!("survey of the flow table: {e}");
                self.reporter.not_surveyed(format!("the flow table is not tidied: {e}"));
            }
        }
    }

    /// True when a backend's packets must be shorter than before, or may be longer, by what routers said.
    fn heed(&mut self, notes: Vec<PathMtu>) -> bool {
        let now = self.uptime();
        if !self.path_mtus.is_due(&notes, now) {
            return false;
        }
        let ours = Ours::of(&self.desired, followed(&self.desired, &self.reconciler.observe()));
        let changed = self.path_mtus.look(notes, &ours, now);
        for (backend, mtu) in &changed {
            match mtu {
                Some(mtu) => info!(%backend, mtu, "a router has a narrower link: tunnels get shorter"),
                None => info!(%backend, "ten minutes without a word of a narrower link: full length again"),
            }
        }
        !changed.is_empty()
    }

    pub(super) fn followed(&self) -> BTreeSet<IpAddr> {
        self.followed_by(&self.desired)
    }

    /// Addresses to follow once `desired` is in force.
    pub(super) fn followed_by(&self, desired: &Desired) -> BTreeSet<IpAddr> {
        followed(desired, &self.reconciler.observe())
    }

    /// Time since the start.
    fn uptime(&self) -> Duration {
        (self.clock)() - self.started
    }

    /// When to reconcile though nothing happened.
    pub(super) fn wake_at(&self) -> Instant {
        // A write that fails is tried again when it is its time: what falls due meanwhile is tried with it, for it would
        // be due again and again.
        if let Some(at) = self.retry.at() {
            return at;
        }
        let now = (self.clock)();
        let due = self.due.map(|at| now + Duration::from_secs(at.saturating_sub(unix_now())));
        due.unwrap_or(now + Duration::from_secs(3600))
    }
}

impl Agent {
    /// True when a backend's packets must be shorter than before, or may be longer.
    pub(super) fn look_at_path_mtus(&mut self) -> bool {
        let notes = self.maps().path_mtus().collect();
        self.heed(notes)
    }
}

fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

#[cfg(test)]
mod tests;
