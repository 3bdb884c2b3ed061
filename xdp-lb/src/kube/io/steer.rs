//! The controller at work: follows Services, Namespaces and pools, and while it leads carries its plans out.
//!
//! ```text
//!   Services, Namespaces, VipPools --follow--> Controller --quiet for a moment, leads--> plan --> writes
//!   EdgeNodes, EdgeConfigs, BgpPeers --'
//! ```
//!
//! Nothing is planned before the first three kinds have been listed once; addresses do not wait for the others. A write that fails leaves the rest as it is; the whole
//! is planned again after a pause.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures::stream::{BoxStream, StreamExt as _, select_all};
use k8s_openapi::api::core::v1 as core;
use kube::runtime::watcher::{Error, Event};
use kube::{Api, Client, Resource};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::{debug, info, warn};

use super::feed::{List, Pace, turn};
use super::follow::follow;
use super::leader::{Candidate, Lead};
use super::standing::Standing;
use super::write::{Done, write};
use crate::kube::controller::{Controller, Plan, Setting};
use crate::kube::crd::{BgpPeer, EdgeConfig, EdgeNode, VipPool};
use crate::kube::{Change, Key};

/// How long the API server may take for a write.
const ANSWER: Duration = Duration::from_secs(10);
/// How long what the Lease said is believed.
const TRUSTED: Duration = Duration::from_secs(1);

/// Runs until it is told to end, then gives the Lease back.
///
/// # Errors
/// The task that renews the Lease has died.
pub async fn steer(
    client: &Client,
    controller: Controller,
    candidate: Candidate,
    pace: Pace,
    standing: watch::Sender<Standing>,
    ended: watch::Receiver<bool>,
) -> Result<(), watch::error::RecvError> {
    let identity = candidate.identity.clone();
    let mut lead = Lead::start(client, candidate);
    let mut steer = Steer {
        client: client.clone(),
        identity,
        controller,
        lists: Default::default(),
        others: Default::default(),
        without: BTreeSet::new(),
        trouble: None,
        leads: false,
        due: None,
        failed: 0,
        pace,
        standing,
        ended,
    };
    let outcome = steer.run(&mut lead).await;
    lead.end().await;
    outcome
}

/// An event of any kind.
#[expect(clippy::large_enum_variant, reason = "there is one at a time, on its way")]
enum Item {
    Service(Event<core::Service>),
    Namespace(Event<core::Namespace>),
    Pool(Event<VipPool>),
    Edge(Event<EdgeNode>),
    Config(Event<EdgeConfig>),
    Peer(Event<BgpPeer>),
}

type Told = Result<Item, (&'static str, Error)>;

struct Steer {
    client: Client,
    identity: String,
    controller: Controller,
    /// Of Services, Namespaces, pools.
    lists: [List; 3],
    /// Of edge nodes, EdgeConfigs, BgpPeers.
    others: [List; 3],
    /// Kinds that cannot be listed, and that has been said.
    without: BTreeSet<&'static str>,
    trouble: Option<&'static str>,
    leads: bool,
    /// First change that was not planned for, and when it will be.
    due: Option<(Instant, Instant)>,
    /// Plans that failed, one after the other.
    failed: u32,
    pace: Pace,
    standing: watch::Sender<Standing>,
    ended: watch::Receiver<bool>,
}

/// Kinds of objects that plans need, in the order of the lists.
pub(super) const KINDS: [&str; 3] = ["Services", "Namespaces", "VipPools"];
/// And those that they can do without.
const OTHERS: [&str; 3] = ["EdgeNodes", "EdgeConfigs", "BgpPeers"];

impl Steer {
    async fn run(&mut self, lead: &mut Lead) -> Result<(), watch::error::RecvError> {
        let mut events = self.events();
        loop {
            let due = self.due.map(|(_, at)| at).filter(|_| self.leads);
            let quiet = async {
                match due {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            let mut ended = self.ended.clone();
            let is_over = async { ended.wait_for(|ended| *ended).await.map_or((), drop) };
            tokio::select! {
                biased;
                () = is_over => return Ok(()),
                leads = lead.changed() => {
                    self.leads = leads?;
                    self.change(Change::Yes);
                }
                () = quiet => self.carry_out(lead).await,
                Some(event) = events.next() => self.take(event),
            }
            self.tell();
        }
    }

    /// How things stand, for who asks.
    fn tell(&self) {
        let lists = KINDS.iter().zip(&self.lists);
        let unlisted: Vec<&str> = lists.filter(|(_, list)| !list.is_known).map(|(&kind, _)| kind).collect();
        self.standing.send_if_modified(|standing| {
            let changed = standing.leads != self.leads || standing.unlisted != unlisted;
            (standing.leads, standing.unlisted) = (self.leads, unlisted);
            changed
        });
    }

    fn events(&self) -> BoxStream<'static, Told> {
        fn all<K: Resource + 'static>(
            stream: BoxStream<'static, Result<Event<K>, Error>>,
            kind: &'static str,
            item: fn(Event<K>) -> Item,
        ) -> BoxStream<'static, Told> {
            stream.map(move |event| event.map(item).map_err(|error| (kind, error))).boxed()
        }
        let (client, pace) = (&self.client, self.pace);
        select_all([
            all(follow(Api::all(client.clone()), None, pace), KINDS[0], Item::Service),
            all(follow(Api::all(client.clone()), None, pace), KINDS[1], Item::Namespace),
            all(follow(Api::all(client.clone()), None, pace), KINDS[2], Item::Pool),
            all(follow(Api::all(client.clone()), None, pace), OTHERS[0], Item::Edge),
            all(follow(Api::all(client.clone()), None, pace), OTHERS[1], Item::Config),
            all(follow(Api::all(client.clone()), None, pace), OTHERS[2], Item::Peer),
        ])
        .boxed()
    }

    fn take(&mut self, told: Told) {
        let item = match told {
            Ok(item) => item,
            Err((kind, error)) if OTHERS.contains(&kind) => {
                if self.without.insert(kind) {
                    warn!(objects = kind, "{error}; nothing is said of them and by them meanwhile");
                }
                return;
            }
            Err((kind, error)) => {
                if self.trouble.replace(kind).is_none() {
                    warn!(objects = kind, "{error}; what is known stays, and it is tried again");
                }
                return;
            }
        };
        let was_known = self.is_known();
        let controller = &mut self.controller;
        let change = match item {
            Item::Service(event) => turn(
                &mut self.lists[0],
                event,
                controller,
                Controller::service,
                |controller, service| controller.service_gone(&Key::of(&service.metadata)),
                Controller::services_are,
            ),
            Item::Namespace(event) => turn(
                &mut self.lists[1],
                event,
                controller,
                Controller::namespace,
                |controller, space| {
                    controller.namespace_gone(space.metadata.name.as_deref().unwrap_or_default())
                },
                Controller::namespaces_are,
            ),
            Item::Pool(event) => turn(
                &mut self.lists[2],
                event,
                controller,
                Controller::pool,
                |controller, pool| controller.pool_gone(pool.metadata.name.as_deref().unwrap_or_default()),
                Controller::pools_are,
            ),
            Item::Edge(event) => {
                self.without.remove(OTHERS[0]);
                turn(
                    &mut self.others[0],
                    event,
                    controller,
                    Controller::edge,
                    |controller, node| {
                        controller.edge_gone(node.metadata.name.as_deref().unwrap_or_default())
                    },
                    Controller::edges_are,
                )
            }
            Item::Config(event) => {
                self.without.remove(OTHERS[1]);
                turn(
                    &mut self.others[1],
                    event,
                    controller,
                    Controller::edge_config,
                    |controller, config| {
                        let name = config.metadata.name.as_deref().unwrap_or_default();
                        controller.setting_gone(Setting::EdgeConfig, name)
                    },
                    |controller, there| controller.settings_are(Setting::EdgeConfig, there),
                )
            }
            Item::Peer(event) => {
                self.without.remove(OTHERS[2]);
                turn(
                    &mut self.others[2],
                    event,
                    controller,
                    Controller::bgp_peer,
                    |controller, peer| {
                        let name = peer.metadata.name.as_deref().unwrap_or_default();
                        controller.setting_gone(Setting::BgpPeer, name)
                    },
                    |controller, there| controller.settings_are(Setting::BgpPeer, there),
                )
            }
        };
        let Some(change) = change else { return };
        if self.trouble.take().is_some() {
            info!("the API server answers again");
        }
        let is_first = self.is_known() && !was_known;
        self.change(if is_first { Change::Yes } else { change });
    }

    /// All kinds have been listed.
    fn is_known(&self) -> bool {
        self.lists.iter().all(|list| list.is_known)
    }

    /// Notes that there is something to plan, soon.
    fn change(&mut self, change: Change) {
        if change == Change::No {
            return;
        }
        let now = Instant::now();
        let first = self.due.map_or(now, |(first, _)| first);
        // After failures changes wait with everything else.
        let at = (now + self.pace.quiet).min(first + self.pace.longest).max(now + self.pause());
        self.due = Some((first, at));
    }

    /// Pause before the next try.
    fn pause(&self) -> Duration {
        match self.failed {
            0 => Duration::ZERO,
            failed => {
                (self.pace.retry * 2_u32.saturating_pow((failed - 1).min(16))).min(self.pace.retry_limit)
            }
        }
    }

    async fn carry_out(&mut self, lead: &Lead) {
        self.due = None;
        if !self.is_known() {
            // The end of the last list is a change.
            return;
        }
        let outcome = self.try_to(lead).await;
        self.standing.send_modify(|standing| match outcome {
            Ok(_) => standing.carried_out += 1,
            Err(Failed) => standing.failed += 1,
        });
        match outcome {
            Ok(wake) => {
                self.failed = 0;
                let pause = wake.map(|at| Duration::from_secs(u64::try_from(at - seconds()).unwrap_or(0)));
                let at = pause.map(|pause| Instant::now() + pause.max(self.pace.longest));
                self.due = self.due.or(at.map(|at| (at, at)));
            }
            Err(Failed) => {
                self.failed = self.failed.saturating_add(1);
                self.change(Change::Yes);
            }
        }
    }

    /// Plans and writes; what failed has been told.
    async fn try_to(&mut self, lead: &Lead) -> Result<Option<i64>, Failed> {
        let Plan { writes, wake } = self.controller.plan(seconds());
        let mut outcome = Ok(wake);
        let mut asked: Option<Instant> = None;
        for planned in &writes {
            if *self.ended.borrow() {
                break;
            }
            if asked.is_none_or(|asked| asked.elapsed() > TRUSTED) {
                holds(lead).await?;
                asked = Some(Instant::now());
            }
            let answer = timeout(ANSWER, write(&self.client, &self.identity, planned)).await;
            match answer.unwrap_or(Err(kube::Error::Service("no answer".into()))) {
                // What is written is known at once, or the next plan would write it again.
                Ok(Done::Service(service)) => _ = self.controller.service(&service),
                Ok(Done::Pool(pool)) => _ = self.controller.pool(&pool),
                Ok(Done::Config(config)) => _ = self.controller.edge_config(&config),
                Ok(Done::Peer(peer)) => _ = self.controller.bgp_peer(&peer),
                Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {
                    debug!(?planned, "{status}; it is another by now");
                    outcome = Err(Failed);
                }
                Err(error) => {
                    warn!(?planned, "{error}; it is tried again");
                    outcome = Err(Failed);
                    if !is_about_one(&error) {
                        break;
                    }
                }
            }
        }
        outcome
    }
}

/// Whether an error says nothing about other writes. Whoever cannot be reached, or has enough, is left alone for a while.
fn is_about_one(error: &kube::Error) -> bool {
    match error {
        kube::Error::Api(status) => status.code != 429 && status.code < 500,
        kube::Error::SerdeError(_) => true,
        _ => false,
    }
}

async fn holds(lead: &Lead) -> Result<(), Failed> {
    match timeout(ANSWER, lead.holds()).await {
        Ok(Ok(true)) => return Ok(()),
        Ok(Ok(false)) => warn!("the Lease is somebody else's or has expired: nothing is written"),
        Ok(Err(error)) => warn!("read the Lease: {error}; nothing is written"),
        Err(_) => warn!("read the Lease: no answer; nothing is written"),
    }
    Err(Failed)
}

/// What failed has been told.
#[derive(Clone, Copy)]
struct Failed;

/// Seconds since 1970.
fn seconds() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}
