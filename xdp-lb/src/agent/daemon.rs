//! Starting, running and leaving.

use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
    time::{MissedTickBehavior, interval, sleep_until},
};
use tracing::{error, info, warn};

use super::{
    announce::{Announcer, held},
    cluster::Cluster,
    commands,
    endpoint::Endpoint,
    health::HealthChecks,
    packets,
    past::Past,
    peers::Sync,
    programs::{attach_all, cutter, existing, hold_vips, offer_mss, open, translate_first},
    reload::{self, Reach},
    resources::Resources,
    state::{Agent, Scope},
};
use crate::{
    dataplane::{BpffsRoot, attach::detach_all, load::remove},
    intake::{Files, Offer},
    keep::Keep,
    model::{Desired, LogLevel},
    netlink::{NextHops as _, Resolver, Timing, addresses::HostVips as _, settle},
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
    let mut hangup = signal(SignalKind::hangup()).context("watch SIGHUP")?;
    let mut terminate = signal(SignalKind::terminate()).context("watch SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("watch SIGINT")?;

    // What is set in the cluster comes before everything: sizes and seed are part of it.
    let mut resources = Resources::new(options.role);
    resources.configure(&offer.checked.desired).await?;
    let is_set = resources.first().await;
    let (checked, unusable) = resources.begin(&offer, &keep);
    if let Some(why) = &unusable {
        error!("the cluster's resources: {why}; what was in force last is");
    }
    reload::warn_of(&checked.warnings);
    let desired = checked.desired;
    resources.configure(&desired).await?;

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
    // Who does not answer is not asked twice.
    let is_known = is_set && cluster.first().await;
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
    let mut agent = Agent::new(maps, desired, options.allow_moves);
    (agent.health, agent.file, agent.is_held) = (health, file, is_held);
    agent.remember(keep, past);
    agent.reporter.resources(unusable.map_or(Ok(()), Err));
    agent.reporter.has(resources.names());
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
    resources.started(agent.keep.as_ref());
    let cutter = cutter(root, options.role, &shutdown);

    // Make before break: the tables are complete before the first packet meets the program, and answers have a way out.
    translate_first(&mut loaded, options.role, &agent)?;
    let attached = attach_all(&mut loaded, options, &agent.desired, &snapshot)?;
    match loaded.leave_old_maps(agent.maps()) {
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
        generation = agent.generation(),
        "ready: forwarding"
    );

    let (mut admin, mut queue) = match options.role {
        Role::Balancer => commands::listen(root, &agent, options.socket.clone()).await?,
        Role::Decap => (None, None),
    };
    // Routers wait for a restart no longer than they were told to: what the maps hold is announced, whoever asked for it.
    let announced =
        if agent.is_held { held(&agent.desired, &agent.maps().observe()) } else { agent.desired.clone() };
    let announcer = Announcer::start(&announced, loaded.took_over(), resources.secrets())?;
    cluster.tells(&agent.reporter, &announcer);
    let mut announcer = Some(announcer);
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
                resources: &mut resources,
            }
        };
    }
    loop {
        let wake = agent.wake_at();
        agent.reporter.beat();
        if let Some(announcer) = announcer.as_ref() {
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
            () = resources.changed() => {
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
            () = sleep_until(wake) => agent.try_reconcile(&changes.borrow().clone()),
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
    resources.end().await?;
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
