//! The cluster, followed: a task that folds what the API server sends and tells what it asks for.
//!
//! ```text
//!   Services, EndpointSlices, Nodes --follow--> Cluster --quiet for a moment--> map --> Mapped
//! ```
//!
//! Nothing is told before all three kinds have been listed once, for half a list looks like a cluster that lost half of
//! its services. While the API server is away, what was told last stays.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{BoxStream, StreamExt as _, select_all};
use k8s_openapi::api::{core::v1 as core, discovery::v1 as discovery};
use kube::runtime::watcher::{Error, Event};
use kube::{Api, Client, Resource};
use tokio::sync::watch;
use tokio::task::{JoinError, JoinHandle};
use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};

use super::follow::follow;
use crate::kube::{Change, Cluster, Key, Mapped, Settings};
use crate::model::Inherited;

/// Slices of Services with an address of their own.
const SLICES: &str = "kubernetes.io/service-name,!service.kubernetes.io/headless";

/// How the feed goes with time.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// A burst of changes is over after so long without one.
    pub quiet: Duration,
    /// Or after so long, if changes never cease.
    pub longest: Duration,
    /// First pause after an error; it doubles.
    pub retry: Duration,
    /// Longest pause.
    pub retry_limit: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            quiet: Duration::from_millis(10),
            longest: Duration::from_millis(50),
            retry: Duration::from_millis(200),
            retry_limit: Duration::from_secs(5),
        }
    }
}

/// What a cluster asks for, as it changes.
#[derive(Debug)]
pub struct Feed {
    mapped: watch::Receiver<Option<Arc<Mapped>>>,
    inherited: watch::Sender<Inherited>,
    task: JoinHandle<()>,
}

impl Feed {
    /// Begins to follow.
    #[must_use]
    pub fn start(client: &Client, settings: Settings, inherited: Inherited, pace: Pace) -> Self {
        let (told, mapped) = watch::channel(None);
        let (inherited, follows) = watch::channel(inherited);
        let events = select_all([
            all(follow(Api::<core::Service>::all(client.clone()), None, pace), Item::Service),
            all(
                follow(Api::<discovery::EndpointSlice>::all(client.clone()), Some(SLICES), pace),
                Item::Slice,
            ),
            all(follow(Api::<core::Node>::all(client.clone()), None, pace), Item::Node),
        ]);
        let run = Run {
            cluster: Cluster::new(settings),
            lists: Default::default(),
            trouble: None,
            due: None,
            pace,
            told,
        };
        Self { mapped, inherited, task: tokio::spawn(run.run(events.boxed(), follows)) }
    }

    /// What it asks for; `None` before the first full list.
    #[must_use]
    pub fn latest(&mut self) -> Option<Arc<Mapped>> {
        self.mapped.borrow_and_update().clone()
    }

    /// Waits until it asks for something else. Nothing is lost if the wait is given up.
    ///
    /// # Errors
    /// The task has died.
    pub async fn changed(&mut self) -> Result<(), watch::error::RecvError> {
        self.mapped.changed().await
    }

    /// Services take other things from the file now.
    pub fn inherit(&self, inherited: &Inherited) {
        self.inherited.send_if_modified(|old| {
            let differs = old != inherited;
            if differs {
                *old = inherited.clone();
            }
            differs
        });
    }

    /// Ends it.
    ///
    /// # Errors
    /// It had died.
    pub async fn end(self) -> Result<(), JoinError> {
        self.task.abort();
        match self.task.await {
            Err(e) if e.is_cancelled() => Ok(()),
            ended => ended,
        }
    }
}

/// An event of any kind.
#[expect(clippy::large_enum_variant, reason = "there is one at a time, on its way")]
enum Item {
    Service(Event<core::Service>),
    Slice(Event<discovery::EndpointSlice>),
    Node(Event<core::Node>),
}

/// What the streams tell: an event, or an error with the kind of object it is about.
type Told = Result<Item, (&'static str, Error)>;

fn all<K: Resource<DynamicType = ()> + 'static>(
    stream: BoxStream<'static, Result<Event<K>, Error>>,
    item: fn(Event<K>) -> Item,
) -> BoxStream<'static, Told> {
    let kind: &'static str = match K::kind(&()).as_ref() {
        "Service" => "Services",
        "Node" => "Nodes",
        _ => "EndpointSlices",
    };
    stream.map(move |event| event.map(item).map_err(|error| (kind, error))).boxed()
}

/// The list of one kind.
#[derive(Debug, Default)]
pub(super) struct List {
    /// Who is in the list that is being read.
    there: BTreeSet<Key>,
    /// One has been read to its end.
    pub(super) is_known: bool,
}

struct Run {
    cluster: Cluster,
    /// Of Services, EndpointSlices, Nodes.
    lists: [List; 3],
    /// What does not work.
    trouble: Option<&'static str>,
    /// First change that was not told, and when it will be.
    due: Option<(Instant, Instant)>,
    pace: Pace,
    told: watch::Sender<Option<Arc<Mapped>>>,
}

impl Run {
    async fn run(mut self, mut events: BoxStream<'static, Told>, mut inherited: watch::Receiver<Inherited>) {
        loop {
            let due = self.due.map(|(_, at)| at);
            let quiet = async {
                match due {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = quiet => self.tell(&inherited.borrow_and_update().clone()),
                changed = inherited.changed() => match changed {
                    Ok(()) => self.change(Change::Yes),
                    Err(_) => return,
                },
                Some(event) = events.next() => self.take(event),
            }
        }
    }

    fn take(&mut self, told: Told) {
        let item = match told {
            Ok(item) => item,
            Err((kind, error)) => {
                if self.trouble.replace(kind).is_none() {
                    warn!(objects = kind, "{error}; what is known stays in force, and it is tried again");
                }
                return;
            }
        };
        let cluster = &mut self.cluster;
        let change = match item {
            Item::Service(event) => turn(
                &mut self.lists[0],
                event,
                cluster,
                Cluster::service,
                |cluster, service| cluster.service_gone(&Key::of(&service.metadata)),
                Cluster::services_are,
            ),
            Item::Slice(event) => turn(
                &mut self.lists[1],
                event,
                cluster,
                Cluster::slice,
                |cluster, slice| cluster.slice_gone(&Key::of(&slice.metadata)),
                Cluster::slices_are,
            ),
            Item::Node(event) => turn(
                &mut self.lists[2],
                event,
                cluster,
                Cluster::node,
                |cluster, node| cluster.node_gone(node.metadata.name.as_deref().unwrap_or_default()),
                Cluster::nodes_are,
            ),
        };
        let Some(change) = change else { return };
        if self.trouble.take().is_some() {
            info!("the API server answers again");
        }
        self.change(change);
    }

    /// Notes that there is something to tell, soon.
    fn change(&mut self, change: Change) {
        let is_known = self.lists.iter().all(|list| list.is_known);
        let is_first = self.told.borrow().is_none();
        if is_known && (change == Change::Yes || is_first) {
            let now = Instant::now();
            let first = self.due.map_or(now, |(first, _)| first);
            self.due = Some((first, (now + self.pace.quiet).min(first + self.pace.longest)));
        }
    }

    fn tell(&mut self, inherited: &Inherited) {
        self.due = None;
        let mapped = self.cluster.map(inherited);
        self.told.send_if_modified(|told| {
            let differs = told.as_deref() != Some(&mapped);
            if differs {
                *told = Some(Arc::new(mapped));
            }
            differs
        });
    }
}

/// Takes an event in. `None`: it says nothing of the cluster yet.
pub(super) fn turn<C, K: Resource>(
    list: &mut List,
    event: Event<K>,
    cluster: &mut C,
    there: fn(&mut C, &K) -> Change,
    gone: fn(&mut C, &K) -> Change,
    are: fn(&mut C, &BTreeSet<Key>) -> Change,
) -> Option<Change> {
    Some(match event {
        Event::Apply(object) => there(cluster, &object),
        Event::Delete(object) => gone(cluster, &object),
        Event::Init => {
            list.there.clear();
            return None;
        }
        Event::InitApply(object) => {
            list.there.insert(Key::of(object.meta()));
            there(cluster, &object)
        }
        Event::InitDone => {
            list.is_known = true;
            are(cluster, &std::mem::take(&mut list.there))
        }
    })
}
