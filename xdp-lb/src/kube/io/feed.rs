//! A picture of the cluster, followed: a task that folds what the API server sends and tells what comes of it.
//!
//! ```text
//!   objects --follow--> Picture --quiet for a moment--> what it tells
//! ```
//!
//! Nothing is told before all kinds of object have been listed once, for half a list looks like a cluster that lost half of
//! what it has. While the API server is away, what was told last stays. Which objects, and what is told of them, is
//! [`super::services`]' and [`super::ends`]' business.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::stream::{BoxStream, StreamExt as _};
use kube::Resource;
use kube::runtime::watcher::{Error, Event};
use tokio::sync::watch;
use tokio::task::{JoinError, JoinHandle};
use tokio::time::{Instant, sleep_until};
use tracing::{info, warn};

use crate::kube::lingering::LINGER;
use crate::kube::{Change, Key, Mapped};
use crate::model::Inherited;

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
    /// How long a pod that has left is still known on its node.
    pub linger: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            quiet: Duration::from_millis(10),
            longest: Duration::from_millis(50),
            retry: Duration::from_millis(200),
            retry_limit: Duration::from_secs(5),
            linger: LINGER,
        }
    }
}

/// What a picture tells, as it changes: what a cluster asks for of an edge node, unless said otherwise.
#[derive(Debug)]
pub struct Feed<T = Mapped> {
    told: watch::Receiver<Option<Arc<T>>>,
    inherited: watch::Sender<Inherited>,
    task: JoinHandle<()>,
}

/// What is folded.
pub(super) trait Picture: Send + 'static {
    /// An event of any kind of object.
    type Item: Send + 'static;
    /// What is told.
    type Told: PartialEq + Send + Sync + 'static;

    /// Takes an event in. `None`: it says nothing of the cluster yet.
    fn take(&mut self, item: Self::Item) -> Option<Change>;

    /// Whether every kind has been listed.
    fn is_known(&self) -> bool;

    /// What comes of it, `now` since the feed began.
    fn tell(&mut self, inherited: &Inherited, now: Duration) -> Self::Told;

    /// When to tell again though nothing has changed, since the feed began.
    fn wakes(&self) -> Option<Duration> {
        None
    }
}

/// What the streams tell: an event, or an error with the kind of object it is about.
pub(super) type Events<I> = BoxStream<'static, Result<I, (&'static str, Error)>>;

impl<T: PartialEq + Send + Sync + 'static> Feed<T> {
    /// Begins to follow.
    pub(super) fn of<P: Picture<Told = T>>(
        picture: P,
        events: Events<P::Item>,
        inherited: Inherited,
        pace: Pace,
    ) -> Self {
        let (tell, told) = watch::channel(None);
        let (inherited, follows) = watch::channel(inherited);
        let begun = Instant::now();
        let run = Run { picture, begun, trouble: None, is_untold: false, due: None, pace, told: tell };
        Self { told, inherited, task: tokio::spawn(run.run(events, follows)) }
    }

    /// What it tells; `None` before the first full list.
    #[must_use]
    pub fn latest(&mut self) -> Option<Arc<T>> {
        self.told.borrow_and_update().clone()
    }

    /// Waits until it tells something else. Nothing is lost if the wait is given up.
    ///
    /// # Errors
    /// The task has died.
    pub async fn changed(&mut self) -> Result<(), watch::error::RecvError> {
        self.told.changed().await
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

/// Events of a kind as items.
pub(super) fn all<K, I>(
    kind: &'static str,
    stream: BoxStream<'static, Result<Event<K>, Error>>,
    item: fn(Event<K>) -> I,
) -> Events<I>
where
    K: Resource + 'static,
    I: 'static,
{
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

struct Run<P: Picture> {
    picture: P,
    begun: Instant,
    /// What does not work.
    trouble: Option<&'static str>,
    /// Something has changed since it told the last time.
    is_untold: bool,
    /// First change that was not told, and when it will be.
    due: Option<(Instant, Instant)>,
    pace: Pace,
    told: watch::Sender<Option<Arc<P::Told>>>,
}

impl<P: Picture> Run<P> {
    async fn run(mut self, mut events: Events<P::Item>, mut inherited: watch::Receiver<Inherited>) {
        loop {
            let due = self.next();
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

    /// When to tell.
    fn next(&self) -> Option<Instant> {
        let wakes = self.picture.wakes().filter(|_| self.picture.is_known()).map(|at| self.begun + at);
        self.due.map(|(_, at)| at).into_iter().chain(wakes).min()
    }

    fn take(&mut self, told: Result<P::Item, (&'static str, Error)>) {
        let item = match told {
            Ok(item) => item,
            Err((kind, error)) => {
                if self.trouble.replace(kind).is_none() {
                    warn!(objects = kind, "{error}; what is known stays in force, and it is tried again");
                }
                return;
            }
        };
        let Some(change) = self.picture.take(item) else { return };
        if self.trouble.take().is_some() {
            info!("the API server answers again");
        }
        self.change(change);
    }

    /// Notes that there is something to tell, soon.
    fn change(&mut self, change: Change) {
        let is_known = self.picture.is_known();
        let is_first = self.told.borrow().is_none();
        self.is_untold |= change == Change::Yes;
        if is_known && (self.is_untold || is_first) {
            let now = Instant::now();
            let first = self.due.map_or(now, |(first, _)| first);
            self.due = Some((first, (now + self.pace.quiet).min(first + self.pace.longest)));
        }
    }

    fn tell(&mut self, inherited: &Inherited) {
        self.due = None;
        // What it has to know may have become more meanwhile.
        if !self.picture.is_known() {
            return;
        }
        self.is_untold = false;
        let tells = self.picture.tell(inherited, self.begun.elapsed());
        self.told.send_if_modified(|told| {
            let differs = told.as_deref() != Some(&tells);
            if differs {
                *told = Some(Arc::new(tells));
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
