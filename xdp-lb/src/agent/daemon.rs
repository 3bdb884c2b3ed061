//! Starting, running and leaving.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
    time::{MissedTickBehavior, interval, sleep_until},
};
use tracing::{error, info, warn};
use xdp_lb_common::{
    mss,
    parse::{IPV4_LEN, IPV6_LEN},
};

use super::{
    announce::{self, Announcer},
    cluster::Cluster,
    commands,
    endpoint::{Endpoint, Reporter},
    health::HealthChecks,
    interfaces::{carriers, carrying, followed, resolve},
    offloads, packets,
    past::Past,
    peers::Sync,
    reconcile::{Reconciler, Run},
    reload::{self, Reach},
};
use crate::{
    admin::View,
    dataplane::{
        BpffsRoot, KernelMaps, Loaded, Program, Setup, Shape,
        attach::{attach, attached, detach, detach_all},
        load::{self, remove},
    },
    drains::Drains,
    file::Texts,
    health::HealthSnapshot,
    intake::{Files, Offer},
    keep::{Keep, Origin},
    model::{Decap, Desired, Interface, LogLevel, Mss},
    netlink::{
        NextHops as _, Requests, Resolver, Timing,
        addresses::{HostVips as _, LoopbackVips},
        links, settle,
    },
    nexthop::{Links, Snapshot, below},
    path_mtu::{Ours, PathMtus},
    peers::Told,
    pools, ramp,
    slow::Cutter,
    state::Maps as _,
};

/// How often the flow table is read.
const SURVEY: Duration = Duration::from_secs(10);
/// How often the agent looks what routers said of our tunnels.
const PATH_MTU: Duration = Duration::from_secs(1);
/// How often peers are told what they cannot guess, while there is such a thing.
const SYNC: Duration = Duration::from_secs(1);
/// How long the start waits for neighbours to answer.
pub(super) const SETTLE: Duration = Duration::from_secs(2);
/// First pause after a failed write; it doubles up to [`RETRY_LIMIT`].
const RETRY: Duration = Duration::from_millis(100);
/// Longest pause after a failed write.
const RETRY_LIMIT: Duration = Duration::from_secs(10);

/// Writes that fail for shorter are no reason to withdraw anything: what was written before forwards.
const FAILING: Duration = Duration::from_secs(1);

/// Which half of the product runs here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// `xdp-lb run`: balances, and takes tunnels off where the file says so.
    Balancer,
    /// `xdp-lb decap`: takes tunnels off.
    Decap,
}

/// What becomes of the programs when the agent ends in order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnExit {
    /// They go on forwarding.
    #[default]
    Keep,
    /// They are detached and every pin is removed.
    Detach,
}

/// Options of the daemon.
#[derive(Clone, Debug)]
pub struct RunOptions {
    /// Role.
    pub role: Role,
    /// Configuration file or directory.
    pub config: PathBuf,
    /// Where pins live.
    pub bpffs: BpffsRoot,
    /// What leaving does.
    pub on_exit: OnExit,
    /// Take another program's place on an interface.
    pub replace: bool,
    /// Carry out changes that move every flow of a service.
    pub allow_moves: bool,
    /// Where drains and the history are kept.
    pub state: PathBuf,
    /// Where commands are taken, whatever the file says.
    pub socket: Option<PathBuf>,
}

/// Why the daemon ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// SIGTERM or SIGINT; what forwards goes on.
    Kept,
    /// The same, and nothing is left in the kernel.
    Detached,
}

/// Loads programs and fills maps without attaching to any interface, then returns; the pins keep them.
///
/// # Errors
/// What failed, on what.
pub async fn load(desired: Desired, root: &BpffsRoot) -> Result<()> {
    let role = if desired.balances() { Role::Balancer } else { Role::Decap };
    let loaded = open(root, &desired, role).await?;
    let (shutdown, stopped) = watch::channel(false);
    let mut agent = Agent::new(loaded.maps()?, desired, true);
    let followed = agent.followed();
    let (resolver, task) = Resolver::start(followed.clone(), Timing::default(), stopped).await?;
    let (snapshot, _) = settle(&resolver, &followed, SETTLE).await;
    agent.reconcile(&snapshot, Scope::All)?;
    shutdown.send_replace(true);
    task.await.context("end the task next-hops")
}

/// Runs until a signal ends it.
///
/// # Errors
/// What failed, on what.
pub async fn run(options: &RunOptions, offer: Offer) -> Result<Ended> {
    let mut source = Files::watch(&options.config, &offer.texts);
    let keep = Keep::at(&options.state);
    let (past, offer) = Past::start(&keep, offer);
    reload::warn_of(&offer.checked.warnings);
    let desired = offer.checked.desired;
    let mut hangup = signal(SignalKind::hangup()).context("watch SIGHUP")?;
    let mut terminate = signal(SignalKind::terminate()).context("watch SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("watch SIGINT")?;

    let root = &options.bpffs;
    let mut loaded = open(root, &desired, options.role).await?;
    info!(taken_over = loaded.took_over(), pins = %root, "program and maps loaded");
    let (shutdown, stopped) = watch::channel(false);
    let packets = (desired.log.level == LogLevel::Trace)
        .then(|| packets::tell(&mut loaded, stopped.clone()).map(tokio::spawn))
        .transpose()?;
    let maps = loaded.maps()?;
    let len = maps.capacity().backends;
    let health = match options.role {
        Role::Balancer => Some(HealthChecks::start(root, len, &desired, stopped.clone()).await?),
        Role::Decap => None,
    };
    let mut cluster = Cluster::new(options.role);
    cluster.configure(&desired).await?;
    let is_known = cluster.first().await;
    let (file, desired) = (desired.clone(), cluster.beside(&desired));
    let (_nobody, nothing) = watch::channel(Arc::default());
    let mut health_changes = health.as_ref().map_or(nothing, HealthChecks::changes);
    // Services that the agent of before had from the cluster must not go because it is not known yet.
    let is_held = loaded.took_over() && !is_known;
    if is_held && loaded.has_old_maps() && maps.observe().services.is_empty() {
        bail!(
            "the maps must be filled anew, and what the cluster asks for is not known: the API server must answer first; forwarding goes on"
        );
    }
    let mut agent = Agent { health, file, is_held, ..Agent::new(maps, desired, options.allow_moves) };
    agent.remember(keep, past);
    let reporter = agent.reporter.clone();
    let mut endpoint = Endpoint::start(root, &agent.desired, reporter, health_changes.clone()).await?;
    let followed = agent.followed();
    let (resolver, resolver_task) = Resolver::start(followed.clone(), Timing::default(), stopped).await?;
    let (snapshot, settled) = settle(&resolver, &followed, SETTLE).await;
    if !settled {
        warn!("not every backend's next hop is known yet; their packets are dropped as next_hop_unresolved");
    }

    if loaded.took_over() {
        agent.survey();
    }
    if !agent.is_held {
        agent.reconcile(&snapshot, Scope::All)?;
    }
    agent.reporter.wrote(None);
    agent.note(offer.texts, None);
    let cutter = cutter(root, options.role, &shutdown);

    // Make before break: the tables are complete before the first packet meets the program.
    let attached = attach_all(&mut loaded, options, &agent.desired, &snapshot)?;
    match loaded.leave_old_maps(agent.reconciler.maps()) {
        Ok(None) => {}
        Ok(Some(carried)) => info!(flows = carried.flows, lost = carried.lost, "the old maps are gone"),
        // They cost memory; what they remembered until the last moment is missing.
        Err(e) => warn!("{e}"),
    }
    // Nor may the cluster's VIPs leave `lo`.
    let mut vips = if agent.is_held { None } else { hold_vips(&agent.desired).await? };
    if let Err(e) = offer_mss(&mut loaded, &agent, options.role, &snapshot) {
        // Senders of segments that are too large are told by ICMP instead.
        warn!("servers offer what MSS they will: {e:#}");
    }
    agent.reporter.runs_on(attached.clone());
    info!(
        services = agent.desired.services.len(),
        interfaces = ?attached,
        generation = agent.reconciler.generation(),
        "ready: forwarding"
    );

    let (mut admin, mut queue) = match options.role {
        Role::Balancer => commands::listen(root, &agent, options.socket.clone()).await?,
        Role::Decap => (None, None),
    };
    let mut announcer = Some(Announcer::start(&agent.desired, loaded.took_over())?);
    let mut leaving: Option<Leaving> = None;

    let mut peers = Sync::default();
    if let Err(e) = peers.configure(&agent.desired) {
        error!("{e:#}; other edge nodes are not told what they cannot guess");
    }

    let mut changes = resolver.changes();
    let mut runs_on = existing(&agent.desired, options.role, &snapshot.links);
    let mut survey = interval(SURVEY);
    survey.set_missed_tick_behavior(MissedTickBehavior::Delay);
    survey.reset();
    let mut path_mtus = interval(PATH_MTU);
    path_mtus.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut sync = interval(SYNC);
    sync.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // Borrows only while it is used.
    macro_rules! reach {
        () => {
            Reach {
                options,
                agent: &mut agent,
                loaded: &mut loaded,
                announcer: &mut announcer,
                endpoint: &mut endpoint,
                resolver: &resolver,
                vips: &mut vips,
                peers: &mut peers,
                admin: &mut admin,
                cluster: &mut cluster,
            }
        };
    }
    loop {
        let wake = agent.wake_at();
        agent.reporter.beat();
        if let Some(announcer) = announcer.as_ref().filter(|_| !agent.is_held) {
            agent.announce(announcer, &changes.borrow(), root)?;
        }
        tokio::select! {
            // Everything goes on until the routers send nothing here any more; who asks twice does not wait.
            Some(()) = either(&mut terminate, &mut interrupt) => match announcer.take() {
                Some(announcer) => {
                    agent.reporter.leaving();
                    leaving = Some(Box::pin(announcer.leave(options.on_exit)));
                }
                None => break,
            },
            () = left(&mut leaving) => break,
            because = reload::wanted(&mut hangup, &mut source) => {
                reach!().reload(because, &mut source).await?;
            }
            () = cluster.changed() => {
                reach!().follow_cluster().await?;
            }
            asked = commands::next(&mut queue) => {
                reach!().command(asked).await?;
            }
            changed = changes.changed() => {
                if changed.is_err() {
                    bail!("the task {} ended; restart the agent, forwarding goes on meanwhile", Resolver::TASK);
                }
                let snapshot = changes.borrow_and_update().clone();
                agent.try_reconcile(&snapshot);
                let now = existing(&agent.desired, options.role, &snapshot.links);
                if now != runs_on {
                    runs_on = now;
                    match attach_all(&mut loaded, options, &agent.desired, &snapshot) {
                        Ok(names) => agent.reporter.runs_on(names),
                        Err(e) => error!("interfaces came or went: {e:#}"),
                    }
                }
            }
            Ok(()) = health_changes.changed() => {
                let health = health_changes.borrow_and_update().clone();
                agent.on_health(&health, &changes.borrow().clone());
            }
            () = sleep_until(wake.into()) => agent.try_reconcile(&changes.borrow().clone()),
            told = peers.told() => agent.learn(&mut peers, told),
            _ = sync.tick(), if peers.is_on() => agent.tell(&peers),
            _ = path_mtus.tick() => {
                if agent.look_at_path_mtus() {
                    agent.try_reconcile(&changes.borrow().clone());
                }
            }
            _ = survey.tick() => {
                agent.survey();
                if cluster.is_behind() {
                    reach!().follow_cluster().await?;
                }
                agent.try_reconcile(&changes.borrow().clone());
                // Backends that were forgotten need no next hop any more.
                resolver.follow(agent.followed());
            }
        }
    }

    shutdown.send_replace(true);
    // Who waits for an answer is told that the agent ends.
    drop(queue);
    if let Some(admin) = admin {
        admin.end().await;
    }
    cluster.end().await?;
    endpoint.end().await?;
    resolver_task.await.context("end the task next-hops")?;
    if let Some(packets) = packets {
        packets.await.context("end the task packets")?;
    }
    if let Some(cutter) = cutter {
        cutter.ended().await.context("end the task cutter")?;
    }
    if let Some(health) = agent.health.take() {
        health.end().await?;
    }
    match options.on_exit {
        OnExit::Keep => {
            info!("leaving; forwarding goes on, `xdp-lb detach` would stop it");
            Ok(Ended::Kept)
        }
        OnExit::Detach => {
            detach_all(root)?;
            drop(agent);
            drop(loaded);
            remove(root)?;
            if let Some(vips) = &mut vips {
                vips.release().await.context("take the VIPs off lo")?;
            }
            info!("detached; nothing is left in the kernel");
            Ok(Ended::Detached)
        }
    }
}

/// The routers are being told that we leave.
type Leaving = Pin<Box<dyn Future<Output = ()>>>;

async fn left(leaving: &mut Option<Leaving>) {
    match leaving {
        Some(leaving) => leaving.await,
        None => std::future::pending().await,
    }
}

async fn either(a: &mut Signal, b: &mut Signal) -> Option<()> {
    tokio::select! {
        a = a.recv() => a,
        b = b.recv() => b,
    }
}

async fn open(root: &BpffsRoot, desired: &Desired, role: Role) -> Result<Loaded> {
    let machine = load::machine()?;
    let (shape, program) = match role {
        Role::Balancer => (
            Shape::balancer(&desired.limits, &desired.flow_table, machine),
            Program::Balancer { decap: desired.decap.is_some() },
        ),
        Role::Decap => (Shape::decap_only(&desired.limits, machine), Program::Decap),
    };
    let trace = desired.log.level == LogLevel::Trace;
    let frags = wants_frags(&interfaces(desired, role)).await;
    if frags {
        info!("an MTU is too large for packets in one page: the program takes them in several (xdp.frags)");
    }
    Ok(Loaded::open_or_create(root, &Setup { shape, seed: desired.seed, program, trace, frags })?)
}

/// Whether packets come in several buffers by one of the interfaces. Drivers may be slower that way, so only then.
async fn wants_frags(wanted: &[Interface]) -> bool {
    // Who cannot ask finds out when attaching.
    let links = match Requests::open() {
        Ok(requests) => links::links(&requests).await.unwrap_or_default(),
        Err(_) => return false,
    };
    let large =
        |name: &String| links.by_name(name).is_some_and(|link| crate::offloads::needs_frags(link.mtu));
    load::knows_frags() && carrying(wanted.iter().map(|i| &i.name), &links).iter().any(large)
}

/// Starts the task that cuts what does not fit. Without it everything else still works.
fn cutter(root: &BpffsRoot, role: Role, shutdown: &watch::Sender<bool>) -> Option<Cutter> {
    if role == Role::Decap {
        return None;
    }
    Cutter::start(root, &shutdown.subscribe())
        .inspect_err(|e| warn!("{e}; packets that would have to be cut are dropped as cut_unavailable"))
        .ok()
}

/// Attaches to the interfaces that the file names, leaves those it no longer names, and returns the names.
pub(super) fn attach_all(
    loaded: &mut Loaded,
    options: &RunOptions,
    desired: &Desired,
    snapshot: &Snapshot,
) -> Result<Vec<String>> {
    let root = loaded.root().clone();
    let before: BTreeSet<String> = attached(&root)?.into_iter().map(|a| a.interface).collect();
    let links = &snapshot.links;
    let wanted = carriers(&interfaces(desired, options.role), links)?;
    let is_wanted = |name: &String| wanted.iter().any(|(wanted, _)| wanted == name);
    // One that is above: the kernel allows no program on both.
    for above in
        before.iter().filter(|name| !is_wanted(name) && below::carriers(name, links) != Ok(vec![name]))
    {
        detach(&root, above)?;
        info!(interface = %above, "detached: what is below it runs the program");
    }
    for (name, mode) in &wanted {
        let done = attach(&root, loaded.program()?, name, *mode, options.replace)?;
        if !(done.updated && before.contains(name)) {
            info!(interface = %name, mode = %done.mode, "attached");
        }
        offloads::tell(name, done.mode, links);
    }
    for gone in before.iter().filter(|name| !is_wanted(name)) {
        if detach(&root, gone)? {
            info!(interface = %gone, "detached");
        }
    }
    Ok(wanted.into_iter().map(|(name, _)| name).collect())
}

/// The interfaces that are to run the program and are there, with their indices: one that comes back, or another member
/// of a bond, is to run it too.
fn existing(desired: &Desired, role: Role, links: &Links) -> Vec<(String, u32)> {
    let wanted = interfaces(desired, role);
    let names = carrying(wanted.iter().map(|i| &i.name), links);
    names
        .into_iter()
        .filter_map(|name| links.by_name(&name).map(|l| l.index).map(|index| (name, index)))
        .collect()
}

pub(super) fn interfaces(desired: &Desired, role: Role) -> Vec<Interface> {
    let decap = desired.decap.iter().flat_map(|d| &d.interfaces);
    match role {
        Role::Balancer => {
            let own = desired.interfaces.iter();
            let mut all: Vec<Interface> = own.cloned().collect();
            all.extend(decap.filter(|d| !desired.interfaces.iter().any(|i| i.name == d.name)).cloned());
            all
        }
        Role::Decap => decap.cloned().collect(),
    }
}

/// Lowers the largest segment that servers on this node offer to what the tunnels to it hold, where the file says so.
pub(super) fn offer_mss(loaded: &mut Loaded, agent: &Agent, role: Role, snapshot: &Snapshot) -> Result<()> {
    let Some(decap) = agent.desired.decap.as_ref().filter(|decap| decap.mss == Mss::Auto) else {
        return Ok(loaded.lower_mss_on(&[])?);
    };
    let names: Vec<String> = interfaces(&agent.desired, role).into_iter().map(|i| i.name).collect();
    let mtu = names.iter().filter_map(|name| snapshot.links.by_name(name)).map(|link| link.mtu).min();
    let limits = mss_of(mtu.unwrap_or(u16::MAX.into()), decap);
    agent.reconciler.maps().set_mss(limits).context("write the MSS to map control")?;
    loaded.lower_mss_on(&names)?;
    info!(v4 = limits.v4, v6 = limits.v6, "servers offer this MSS at most");
    Ok(())
}

/// The largest segments that come in a tunnel over a link of `mtu` bytes. Which header the tunnels have, the balancers
/// decide; those that may send to us tell which it can be.
fn mss_of(mtu: u32, decap: &Decap) -> mss::Limits {
    let outer =
        if decap.allow_sources.iter().any(|(source, _)| source.is_ipv6()) { IPV6_LEN } else { IPV4_LEN };
    let inner = u16::try_from(mtu).unwrap_or(u16::MAX).saturating_sub(outer as u16);
    mss::Limits::of(inner)
}

/// Puts the VIPs of the backend side on `lo`, where the file asks for it.
pub(super) async fn hold_vips(desired: &Desired) -> Result<Option<LoopbackVips>> {
    let Some(decap) = desired.decap.as_ref().filter(|d| d.vip_on_lo) else { return Ok(None) };
    let mut vips = LoopbackVips::open()?;
    let quiet: Vec<String> =
        decap.interfaces.iter().chain(&desired.interfaces).map(|i| i.name.clone()).collect();
    let put =
        vips.hold(&decap.on_lo.iter().copied().collect(), &quiet).await.context("put the VIPs on lo")?;
    info!(?put, "VIPs on lo");
    Ok(Some(vips))
}

/// How much a reconciliation looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scope {
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
pub(super) struct Agent {
    reconciler: Reconciler<KernelMaps>,
    /// The configuration in force: the file's services and the cluster's.
    pub(super) desired: Desired,
    /// The file's part.
    pub(super) file: Desired,
    /// Nothing is written: another agent's services are in the maps, and the cluster that asked for them is not known.
    pub(super) is_held: bool,
    /// Drains by command.
    pub(super) drains: Drains,
    /// Where they are kept; `None` where no command is taken.
    pub(super) keep: Option<Keep>,
    /// Configurations that were in force; `None` likewise.
    pub(super) past: Option<Past>,
    /// What the admin API tells of these.
    pub(super) view: watch::Sender<View>,
    /// Without it, backends are what the file says.
    health: Option<HealthChecks>,
    /// What the planner saw last, if all of it was carried out.
    planned: Option<Desired>,
    allow_moves: bool,
    path_mtus: PathMtus,
    /// Slots may be dirty: something was written since the last look for exceptions, or that found some.
    unsettled: bool,
    started: Instant,
    /// Seconds since 1970 at which something falls due.
    due: Option<u64>,
    /// What the endpoint of metrics is told.
    pub(super) reporter: Reporter,
    /// After a failure: when to try again, and how long the pause was.
    retry: Option<(Instant, Duration)>,
}

impl Agent {
    fn new(maps: KernelMaps, desired: Desired, allow_moves: bool) -> Self {
        let reconciler = Reconciler::new(maps);
        let view = View {
            desired: Arc::new(desired.clone()),
            drains: Arc::default(),
            rollback: None,
            generation: reconciler.generation(),
        };
        Self {
            reconciler,
            file: desired.clone(),
            is_held: false,
            desired,
            drains: Drains::default(),
            keep: None,
            past: None,
            view: watch::Sender::new(view),
            health: None,
            planned: None,
            allow_moves,
            path_mtus: PathMtus::default(),
            unsettled: true,
            started: Instant::now(),
            due: None,
            reporter: Reporter::default(),
            retry: None,
        }
    }

    /// What an earlier agent left: drains, and the numbers of configurations.
    fn remember(&mut self, keep: Keep, past: Past) {
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
            rollback: self.past.as_ref().and_then(Past::rollback).cloned().map(Arc::new),
            generation: self.generation(),
        });
    }

    fn reconcile(&mut self, snapshot: &Arc<Snapshot>, scope: Scope) -> Result<(), super::ReconcileError> {
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
    ) -> Result<(), super::ReconcileError> {
        let mtus = &self.path_mtus;
        let resolve = |address| resolve(desired, snapshot, mtus, address);
        let observe = || self.reconciler.observe();
        let drained = self.drains.apply(desired);
        let judged = self.health.as_mut().map(|h| h.judge(&drained, &resolve, observe));
        let mut judged = judged.unwrap_or(drained);
        let now = unix_now();
        let ramps = ramp::is_wanted(&judged).then(|| ramp::apply(&mut judged, &observe(), now)).flatten();
        // A backend that opens slowly leaves to other zones what it does not take yet.
        let judged = pools::apply(judged);
        let only = match (scope, &self.planned) {
            (Scope::Changed, Some(planned)) if self.retry.is_none() => changed(planned, &judged),
            _ => None,
        };
        let run = Run {
            desired: &judged,
            resolve: &resolve,
            now,
            uptime: self.started.elapsed(),
            allow_moves: self.allow_moves,
            generation,
            only: only.as_ref(),
        };
        let done = self.reconciler.reconcile(&run);
        // What was left aside keeps its deadlines.
        let others = self.due.filter(|_| only.is_some());
        if let Some(health) = self.health.as_mut().filter(|_| done.is_ok()) {
            health.index(|| self.reconciler.observe());
        }
        self.planned = None;
        self.unsettled |= !done.as_ref().is_ok_and(|done| done.writes == 0);
        self.due = done?.wake.into_iter().chain(others).chain(ramps).min();
        self.planned = Some(judged);
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

    fn on_health(&mut self, health: &HealthSnapshot, snapshot: &Arc<Snapshot>) {
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
                self.retry = None;
                self.reporter.wrote(None);
            }
            Err(e) => {
                self.reporter.wrote(Some(e.to_string()));
                let pause = self.retry.map_or(RETRY, |(_, pause)| (pause * 2).min(RETRY_LIMIT));
                self.retry = Some((Instant::now() + pause, pause));
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
                (self.desired, self.retry) = (desired, None);
                Ok(())
            }
            Err(super::ReconcileError::Plan(e)) => Err(e.to_string()),
            Err(super::ReconcileError::Write(e)) => {
                // Part of it is in the maps: going on is shorter than going back.
                error!("reload not complete, trying again: {e}");
                self.reporter.wrote(Some(e.to_string()));
                (self.desired, self.retry) = (desired, Some((Instant::now() + RETRY, RETRY)));
                Ok(())
            }
        }
    }

    /// Whether writes of the configuration in force have failed and wait for the next try.
    pub(super) fn is_behind(&self) -> bool {
        self.retry.is_some()
    }

    /// Generation of the configuration in force.
    pub(super) fn generation(&self) -> u32 {
        self.reconciler.generation()
    }

    /// States what announcements follow.
    fn announce(&self, announcer: &Announcer, snapshot: &Snapshot, root: &BpffsRoot) -> Result<()> {
        if announcer.has_died() {
            bail!("the thread bgp ended; restart the agent, forwarding goes on meanwhile");
        }
        if announcer.is_silent() {
            return Ok(());
        }
        let attached = attached(root)?.into_iter().map(|a| a.interface).collect();
        let failing = self.retry.filter(|(_, pause)| *pause >= FAILING);
        let failure = failing.map(|_| "writes to the maps keep failing, see the log".to_owned());
        let observed = self.reconciler.observe();
        let health = self.health.as_ref().map(|health| health.changes().borrow().clone()).unwrap_or_default();
        let (desired, links) = (&self.desired, &snapshot.links);
        announcer.tell(announce::facts(desired, &observed, &health, links, &attached, failure));
        Ok(())
    }

    /// Tells peers what they cannot guess.
    fn tell(&mut self, peers: &Sync) {
        self.reporter.synced(peers.counts());
        if self.unsettled {
            match peers.look(&self.reconciler.observe(), self.reconciler.maps(), &self.desired) {
                Ok(unsettled) => self.unsettled = unsettled,
                Err(e) => error!("flows for peers: {e:#}"),
            }
        }
    }

    /// Takes in what a peer tells.
    fn learn(&self, peers: &mut Sync, told: Told) {
        if let Err(e) = peers.learn(told, &self.reconciler.observe(), self.reconciler.maps(), &self.desired) {
            error!("flows from a peer: {e:#}");
        }
        self.reporter.synced(peers.counts());
    }

    fn survey(&mut self) {
        match self.reconciler.survey(&self.desired, self.started.elapsed()) {
            Ok(survey) => self.reporter.surveyed(&survey),
            Err(e) => error!("survey of the flow table: {e}"),
        }
    }

    /// True when a backend's packets must be shorter than before, or may be longer.
    fn look_at_path_mtus(&mut self) -> bool {
        let maps = self.reconciler.maps();
        let (notes, now) = (maps.path_mtus().collect::<Vec<_>>(), self.started.elapsed());
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

    /// When to reconcile though nothing happened.
    fn wake_at(&self) -> Instant {
        let now = Instant::now();
        let due = self.due.map(|at| now + Duration::from_secs(at.saturating_sub(unix_now())));
        let retry = self.retry.map(|(at, _)| at);
        [due, retry].into_iter().flatten().min().unwrap_or(now + Duration::from_secs(3600))
    }
}

fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}
