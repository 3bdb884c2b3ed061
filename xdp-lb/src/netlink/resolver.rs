//! Follows the way to every backend address: one task that turns the kernel's notifications into snapshots.
//!
//! A route is looked up when the address is new, when a changed prefix covers it, or when an interface or
//! address changed (the kernel takes routes away with those and does not say so). Neighbours are read once
//! and then followed, so a gateway shared by thousands of backends costs one entry. Every
//! [`Timing::audit`] everything is read anew, as a net below what notifications do not tell (nexthop
//! objects with `nexthop_compat_mode` off, bugs).
//!
//! Called by the reconcile task, which reads snapshots and never waits for this one.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt, stream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep};
use tracing::{debug, info, warn};

use super::events::{Dirt, Events, Routes};
use super::neighbours::{self, Care, Entry};
use super::{NetlinkError, NextHops, Requests, links, routes};
use crate::nexthop::{
    Links, Neighbour, NeighbourKey, Neighbours, Resolution, Route, Snapshot, decide, neighbours_of,
};

/// Requests on the way to the kernel at a time: enough to keep the socket busy, far below its buffer.
const IN_FLIGHT: usize = 32;

/// A pass is followed by a pause of at least this many times its own length, so that a routing storm costs
/// at most a fifth of one CPU ...
const PAUSE_FACTOR: u32 = 4;

/// ... and never longer than this.
const PAUSE_LIMIT: Duration = Duration::from_secs(1);

/// How often and how long.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// Notifications of so long a time are handled together.
    pub coalesce: Duration,
    /// Stale and failed neighbours are asked again this often.
    pub probe: Duration,
    /// Everything is read anew this often.
    pub audit: Duration,
    /// Pause before sockets that failed are opened again.
    pub reopen: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            coalesce: Duration::from_millis(20),
            probe: Duration::from_secs(5),
            audit: Duration::from_secs(30),
            reopen: Duration::from_secs(1),
        }
    }
}

/// The handle of the task that follows the kernel.
#[derive(Debug)]
pub struct Resolver {
    followed: watch::Sender<BTreeSet<IpAddr>>,
    snapshot: watch::Receiver<Arc<Snapshot>>,
}

impl Resolver {
    /// The task's name in logs.
    pub const TASK: &'static str = "next-hops";

    /// Starts to follow `addresses` in the calling thread's network namespace.
    ///
    /// On return the first snapshot names every address: local, refused, resolved, or waiting for a
    /// neighbour that has just been asked for ([`super::settle`] waits for those). The task ends when
    /// `shutdown` becomes true or its sender is dropped, or when the resolver is dropped; await the handle.
    ///
    /// # Errors
    /// When the sockets cannot be opened or the kernel does not answer. Later failures are logged, the
    /// last snapshot stays, and the task tries again.
    pub async fn start(
        addresses: BTreeSet<IpAddr>,
        timing: Timing,
        shutdown: watch::Receiver<bool>,
    ) -> Result<(Self, JoinHandle<()>), NetlinkError> {
        let (followed, follow) = watch::channel(addresses);
        let (publish, snapshot) = watch::channel(Arc::new(Snapshot::default()));
        let mut task = Task { timing, follow, publish, shutdown, view: View::default() };
        let sockets = Sockets::open()?;
        task.pass(&sockets, sockets.events.take()).await?;
        Ok((Self { followed, snapshot }, tokio::spawn(task.run(sockets))))
    }
}

impl NextHops for Resolver {
    fn follow(&self, addresses: BTreeSet<IpAddr>) {
        self.followed.send_if_modified(|current| {
            let news = *current != addresses;
            *current = addresses;
            news
        });
    }

    fn changes(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.snapshot.clone()
    }
}

/// Two sockets: notifications that overflow one do not cost an answer on the other.
struct Sockets {
    events: Events,
    requests: Requests,
}

impl Sockets {
    fn open() -> Result<Self, NetlinkError> {
        Ok(Self { events: Events::subscribe()?, requests: Requests::open()? })
    }
}

/// What we know of the kernel.
#[derive(Debug, Default)]
struct View {
    links: Links,
    routes: BTreeMap<IpAddr, Route>,
    neighbours: BTreeMap<NeighbourKey, Entry>,
    /// Missing neighbours asked for since the last probe tick: not asked twice.
    asked: BTreeSet<NeighbourKey>,
}

impl View {
    fn snapshot(&self) -> Snapshot {
        let neighbours: Neighbours =
            self.neighbours.iter().map(|(key, entry)| (*key, entry.neighbour)).collect();
        let decided = |(address, route): (&IpAddr, &Route)| {
            (*address, decide(*address, route, &self.links, &neighbours))
        };
        Snapshot { resolutions: self.routes.iter().map(decided).collect(), links: self.links.clone() }
    }

    fn set_neighbour(&mut self, key: NeighbourKey, entry: Option<Entry>) {
        match entry {
            Some(entry) => {
                let entry = entry.after(self.neighbours.get(&key));
                self.neighbours.insert(key, entry);
            }
            None if self.failed(&key) => {}
            None => drop(self.neighbours.remove(&key)),
        }
    }

    /// The kernel forgets a failed neighbour within seconds. We do not: every retry would look like news.
    fn failed(&self, key: &NeighbourKey) -> bool {
        self.neighbours.get(key).is_some_and(|entry| entry.neighbour == Neighbour::Failed)
    }

    /// Takes the whole table as the kernel tells it.
    fn set_neighbours(&mut self, told: Vec<(NeighbourKey, Entry)>) {
        let told: BTreeMap<_, _> = told.into_iter().collect();
        let needed = self.needed();
        self.neighbours.retain(|key, entry| {
            told.contains_key(key) || (entry.neighbour == Neighbour::Failed && needed.contains(key))
        });
        for (key, entry) in told {
            self.set_neighbour(key, Some(entry));
        }
    }

    /// Takes the interfaces; says whether they changed. After a change every failure deserves another try.
    fn set_links(&mut self, links: Links) -> bool {
        if links == self.links {
            return false;
        }
        self.links = links;
        self.asked.clear();
        self.neighbours.retain(|_, entry| entry.neighbour != Neighbour::Failed);
        true
    }

    /// Neighbours that the followed addresses need, on interfaces that can be asked.
    fn needed(&self) -> BTreeSet<NeighbourKey> {
        self.routes
            .iter()
            .flat_map(|(address, route)| neighbours_of(*address, route))
            .filter(|(interface, _)| {
                self.links.by_index(*interface).is_some_and(|link| link.usable() && link.mac.is_some())
            })
            .collect()
    }
}

struct Task {
    timing: Timing,
    follow: watch::Receiver<BTreeSet<IpAddr>>,
    publish: watch::Sender<Arc<Snapshot>>,
    shutdown: watch::Receiver<bool>,
    view: View,
}

impl Task {
    /// Until shutdown: follow, and open the sockets anew when they fail.
    async fn run(mut self, mut sockets: Sockets) {
        let mut shutdown = self.shutdown.clone();
        let stop = async move { drop(shutdown.wait_for(|stop| *stop).await) };
        let work = async {
            while let Err(error) = self.follow_kernel(&sockets).await {
                warn!(task = Resolver::TASK, %error, "next hops are not followed; trying again");
                sockets = self.reopen().await;
            }
        };
        tokio::select! {
            () = stop => {}
            () = work => {}
        }
        debug!(task = Resolver::TASK, "stopped");
    }

    async fn reopen(&self) -> Sockets {
        loop {
            sleep(self.timing.reopen).await;
            match Sockets::open() {
                Ok(sockets) => return sockets,
                Err(error) => warn!(task = Resolver::TASK, %error, "still no netlink"),
            }
        }
    }

    /// Returns `Ok` when the resolver has been dropped.
    async fn follow_kernel(&mut self, sockets: &Sockets) -> Result<(), NetlinkError> {
        let first = Instant::now();
        let mut probe = interval_at(first + self.timing.probe, self.timing.probe);
        let mut audit = interval_at(first + self.timing.audit, self.timing.audit);
        for tick in [&mut probe, &mut audit] {
            tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        }
        loop {
            let mut dirt = Dirt::default();
            tokio::select! {
                () = sockets.events.wait() => sleep(self.timing.coalesce).await,
                changed = self.follow.changed() => if changed.is_err() { return Ok(()) },
                _ = probe.tick() => self.care(sockets).await?,
                _ = audit.tick() => dirt = Dirt::everything(),
            }
            if sockets.events.closed() {
                return Err(NetlinkError::Silent { what: "listen for changes".into() });
            }
            if !dirt.everything {
                dirt = sockets.events.take();
            }
            let started = Instant::now();
            self.pass(sockets, dirt).await?;
            let pause = started.elapsed() * PAUSE_FACTOR;
            if pause > self.timing.coalesce {
                sleep(pause.min(PAUSE_LIMIT)).await;
            }
        }
    }

    /// Brings the view up to date, publishes it, and asks for the neighbours it lacks.
    async fn pass(&mut self, sockets: &Sockets, dirt: Dirt) -> Result<(), NetlinkError> {
        let requests = &sockets.requests;
        let mut stale = dirt.routes;
        if dirt.everything {
            self.view.set_links(links::links(requests).await?);
            self.view.set_neighbours(neighbours::dump(requests).await?);
            stale = Routes::All;
        } else {
            for (key, entry) in dirt.neighbours {
                self.view.set_neighbour(key, entry);
            }
            if dirt.links && self.view.set_links(links::links(requests).await?) {
                stale = Routes::All;
            }
        }
        self.look_up(requests, &stale).await?;
        self.publish();
        self.ask_for_missing(requests).await
    }

    /// Looks up the routes of new addresses and of those that `stale` touches.
    async fn look_up(&mut self, requests: &Requests, stale: &Routes) -> Result<(), NetlinkError> {
        let followed = self.follow.borrow_and_update().clone();
        self.view.routes.retain(|address, _| followed.contains(address));
        let wanted = followed
            .into_iter()
            .filter(|address| stale.touch(*address) || !self.view.routes.contains_key(address));
        let answers: Vec<(IpAddr, Route)> = stream::iter(wanted)
            .map(|address| async move { Ok((address, routes::lookup(requests, address).await?)) })
            .buffer_unordered(IN_FLIGHT)
            .try_collect()
            .await?;
        self.view.routes.extend(answers);
        Ok(())
    }

    fn publish(&self) {
        let next = self.view.snapshot();
        let earlier = Arc::clone(&self.publish.borrow());
        if next == *earlier {
            return;
        }
        report(&earlier, &next);
        self.publish.send_replace(Arc::new(next));
    }

    /// Asks for needed neighbours that the kernel does not know, each once until the next probe tick.
    async fn ask_for_missing(&mut self, requests: &Requests) -> Result<(), NetlinkError> {
        let unknown =
            |key: &NeighbourKey| !self.view.neighbours.contains_key(key) && !self.view.asked.contains(key);
        let missing: Vec<_> = self.view.needed().into_iter().filter(unknown).collect();
        self.view.asked.extend(&missing);
        self.probe(requests, missing).await
    }

    /// Asks again for needed neighbours that are stale, failed or still missing.
    async fn care(&mut self, sockets: &Sockets) -> Result<(), NetlinkError> {
        self.view.asked.clear();
        let wants =
            |key: &NeighbourKey| self.view.neighbours.get(key).is_none_or(|entry| entry.care == Care::Probe);
        let tended = self.view.needed().into_iter().filter(wants).collect();
        self.probe(&sockets.requests, tended).await
    }

    async fn probe(&mut self, requests: &Requests, keys: Vec<NeighbourKey>) -> Result<(), NetlinkError> {
        let known = &self.view.neighbours;
        let full: Vec<NeighbourKey> = stream::iter(keys)
            .map(|key| async move {
                match neighbours::probe(requests, key, known.get(&key)).await {
                    Ok(()) => Ok(None),
                    Err(error) if error.errno() == Some(libc::ENOBUFS) => Ok(Some(key)),
                    // The interface went away meanwhile, or refuses neighbours: its own event says so.
                    Err(error) if error.errno().is_some() => {
                        debug!(task = Resolver::TASK, %error, "neighbour not asked");
                        Ok(None)
                    }
                    Err(error) => Err(error),
                }
            })
            .buffer_unordered(IN_FLIGHT)
            .try_filter_map(async |full| Ok(full))
            .try_collect()
            .await?;
        if full.is_empty() {
            return Ok(());
        }
        for key in full {
            self.view.neighbours.entry(key).or_insert(Entry::TABLE_FULL);
        }
        self.publish();
        Ok(())
    }
}

/// Says what changed: a lost or moved way at INFO, waiting and first answers at DEBUG.
fn report(earlier: &Snapshot, next: &Snapshot) {
    for (address, now) in &next.resolutions {
        let before = earlier.resolve(*address);
        if before == Some(now) {
            continue;
        }
        match now {
            Resolution::Resolved(hop) => {
                info!(%address, interface = hop.interface, ifindex = hop.ifindex, "next hop resolved");
            }
            Resolution::Local => info!(%address, "the backend is this node itself"),
            Resolution::Pod => info!(%address, "the backend is a pod of this node"),
            Resolution::Unresolved(reason) if before.is_some_and(|b| b.next_hop().is_some()) => {
                warn!(%address, %reason, "next hop lost");
            }
            Resolution::Unresolved(reason) => debug!(%address, %reason, "no next hop"),
        }
    }
}
