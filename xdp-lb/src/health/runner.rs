//! The one scheduler: asks every backend when it is due, a bounded number at a time, and publishes what came of it.
//!
//! ```text
//!   Health::set -> Board (shared) <- answers -- rounds (a task for each question under way) <- due -- scheduler
//!                    \-> watch: HealthSnapshot, at every change at once, else once a second for the counters
//! ```

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::join_all;
use tokio::{
    sync::{Notify, Semaphore, watch},
    task::{JoinHandle, JoinSet, spawn_blocking},
    time::{Instant, sleep_until},
};
use tracing::{debug, info, warn};

use super::{Answer, Board, Due, Failure, HealthSnapshot, Key, State, Suspect, Target, Way, probe::Prober};
use crate::dataplane::sys;

/// Questions under way at once; each has a socket.
const CONCURRENT: usize = 2048;
/// How often counters are published when nothing else is.
const PUBLISH: Duration = Duration::from_secs(1);
/// How long the scheduler sleeps without anything to do.
const IDLE: Duration = Duration::from_secs(3600);

/// What the daemon holds: sets what is asked, reads what is known.
#[derive(Debug)]
pub struct Health {
    shared: Arc<Shared>,
    snapshots: watch::Receiver<Arc<HealthSnapshot>>,
}

#[derive(Debug)]
struct Shared {
    board: Mutex<Board>,
    /// The targets are others.
    set: Notify,
    started: Instant,
}

impl Health {
    /// Name of the task.
    pub const TASK: &'static str = "health";

    /// Starts the scheduler, which ends with `shutdown` after its last question has been given up. `seed` decides
    /// phases and jitter: another one on every node.
    ///
    /// It has a thread and a runtime of its own: while the daemon's task is at its plans, answers must not be late.
    ///
    /// # Errors
    /// When the system gives no thread or descriptor for it.
    pub fn start(
        prober: Arc<impl Prober>,
        seed: u64,
        shutdown: watch::Receiver<bool>,
    ) -> io::Result<(Self, JoinHandle<()>)> {
        sys::lift_nofile();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (publish, snapshots) = watch::channel(Arc::default());
        let shared = Arc::new(Shared {
            board: Mutex::new(Board::new(seed)),
            set: Notify::new(),
            started: Instant::now(),
        });
        let scheduler = Scheduler {
            shared: Arc::clone(&shared),
            prober,
            publish,
            room: Arc::new(Semaphore::new(CONCURRENT)),
            rounds: JoinSet::new(),
            published: Published { changes: (0, 0), at: shared.started },
        };
        let task = spawn_blocking(move || runtime.block_on(scheduler.run(shutdown)));
        Ok((Self { shared, snapshots }, task))
    }

    /// Makes `targets` the ones that are asked, new ones with the state that `known` has of them, and returns what is
    /// known now.
    pub fn set(&self, targets: BTreeMap<Key, Target>, known: &BTreeMap<Key, State>) -> HealthSnapshot {
        let now = self.shared.now();
        let mut board = self.shared.board();
        board.sync(targets, known, now);
        let snapshot = board.snapshot(now);
        drop(board);
        self.shared.set.notify_one();
        snapshot
    }

    /// Snapshots, the latest first.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<Arc<HealthSnapshot>> {
        self.snapshots.clone()
    }

    /// What is known now, for the metrics.
    #[must_use]
    pub fn snapshot(&self) -> HealthSnapshot {
        self.shared.board().snapshot(self.shared.now())
    }

    /// Time on the snapshots' clock.
    #[must_use]
    pub fn now(&self) -> Duration {
        self.shared.now()
    }
}

impl Shared {
    fn board(&self) -> MutexGuard<'_, Board> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }
}

struct Scheduler<P> {
    shared: Arc<Shared>,
    prober: Arc<P>,
    publish: watch::Sender<Arc<HealthSnapshot>>,
    room: Arc<Semaphore>,
    rounds: JoinSet<Done>,
    published: Published,
}

struct Published {
    changes: (u64, u64),
    at: Instant,
}

/// What a task of the scheduler found out.
enum Done {
    Answer(Due, Answer),
    Suspect(Due, IpAddr, Suspect),
}

impl<P: Prober> Scheduler<P> {
    async fn run(mut self, mut shutdown: watch::Receiver<bool>) {
        loop {
            let wake = self.ask();
            self.publish();
            let shared = Arc::clone(&self.shared);
            tokio::select! {
                _ = shutdown.wait_for(|stop| *stop) => break,
                () = shared.set.notified() => {}
                Some(done) = self.rounds.join_next() => {
                    let mut next = Some(done);
                    while let Some(done) = next {
                        match done {
                            Ok(done) => self.note(done),
                            Err(error) => warn!(%error, "a health check's task failed"),
                        }
                        next = self.rounds.try_join_next();
                    }
                }
                () = sleep_until(wake) => {}
            }
        }
        self.rounds.shutdown().await;
    }

    /// Asks whoever is due; returns when to come again.
    fn ask(&mut self) -> Instant {
        let (due, wake) = {
            let mut board = self.shared.board();
            (board.due(self.shared.now()), board.wake())
        };
        for due in due {
            let (prober, room) = (Arc::clone(&self.prober), Arc::clone(&self.room));
            self.rounds.spawn(async move {
                let answer = round(&*prober, &room, &due).await;
                Done::Answer(due, answer)
            });
        }
        let wake = wake.map_or(Instant::now() + IDLE, |at| self.shared.started + at);
        wake.min(self.published.at + PUBLISH).max(Instant::now())
    }

    fn note(&mut self, done: Done) {
        let now = self.shared.now();
        let shared = Arc::clone(&self.shared);
        let mut board = shared.board();
        match done {
            Done::Answer(due, answer) => {
                let unable = if let Answer::Unable(unable) = &answer { Some(unable.clone()) } else { None };
                if unable.is_some() && unable.as_ref() != board.unable(&due.key) {
                    let Key { service, backend } = &due.key;
                    let reason = unable.map(|unable| unable.to_string());
                    warn!(%service, %backend, reason, "health check not asked, states stay as they are");
                }
                let silent = match &answer {
                    Answer::Bad(Failure::Silent { address, suspect: Suspect::Unknown }) => Some(*address),
                    _ => None,
                };
                let change = board.answer(&due.key, due.serial, now, answer);
                if let Some(change) = change {
                    self.tell(&due.key, change.to, board.state(&due.key).and_then(|m| m.reason()));
                }
                let through_tunnel = matches!(due.target.way, Way::Tunnel { .. });
                if let Some(address) = silent.filter(|_| through_tunnel && board.wants_suspect(&due.key)) {
                    drop(board);
                    self.look_into(due, address);
                }
            }
            Done::Suspect(due, address, suspect) => {
                let better = Failure::Silent { address, suspect };
                let reason = better.to_string();
                if board.explain(&due.key, due.serial, better)
                    && board.state(&due.key).is_some_and(|machine| machine.state() == State::Down)
                {
                    let Key { service, backend } = &due.key;
                    info!(%service, %backend, reason, "why the backend is down");
                }
            }
        }
    }

    fn tell(&self, key: &Key, to: State, reason: Option<&Failure>) {
        let Key { service, backend } = key;
        match to {
            State::Up => info!(%service, %backend, "backend up"),
            State::Down => {
                let reason = reason.map(ToString::to_string);
                warn!(%service, %backend, reason, "backend down");
            }
            State::Starting => {}
        }
    }

    /// Asks, beside the questions, whether a silent backend's node lives.
    fn look_into(&mut self, due: Due, address: IpAddr) {
        let (prober, room) = (Arc::clone(&self.prober), Arc::clone(&self.room));
        self.rounds.spawn(async move {
            let _permit = room.acquire().await;
            let suspect = prober.suspect(Arc::clone(&due.target), due.key.backend).await;
            Done::Suspect(due, address, suspect)
        });
    }

    /// A changed state or reason at once, counters now and then.
    fn publish(&mut self) {
        let now = Instant::now();
        let board = self.shared.board();
        let changed = board.changes() != self.published.changes;
        if !changed && now < self.published.at + PUBLISH {
            return;
        }
        let snapshot = board.snapshot(self.shared.now());
        drop(board);
        debug!(targets = snapshot.targets.len(), changes = snapshot.changes, "health published");
        self.published = Published { changes: (snapshot.changes, snapshot.words), at: now };
        self.publish.send_replace(Arc::new(snapshot));
    }
}

/// Asks a backend on every VIP at once. The first bad answer in the order of the VIPs is the backend's, but that any other
/// says more than a silence.
async fn round(prober: &impl Prober, room: &Semaphore, due: &Due) -> Answer {
    let Due { key, target, .. } = due;
    let addresses = match target.way {
        Way::Direct => vec![key.backend],
        Way::Local | Way::Pod(_) | Way::Tunnel { .. } | Way::None(_) | Way::NoMark | Way::OtherTunnel => {
            target.vips.clone()
        }
    };
    let asked = addresses.into_iter().map(|address| async move {
        let _permit = room.acquire().await;
        prober.ask(Arc::clone(target), key.backend, address).await
    });
    let mut worst = Answer::Good(Duration::ZERO);
    for answer in join_all(asked).await {
        worst = match (worst, answer) {
            (Answer::Good(a), Answer::Good(b)) => Answer::Good(a.max(b)),
            (Answer::Bad(Failure::Silent { .. }), bad @ Answer::Bad(_)) => bad,
            (bad @ Answer::Bad(_), _) | (_, bad @ Answer::Bad(_)) => bad,
            (unable @ Answer::Unable(_), _) | (_, unable @ Answer::Unable(_)) => unable,
        };
    }
    worst
}

#[cfg(test)]
mod tests;
