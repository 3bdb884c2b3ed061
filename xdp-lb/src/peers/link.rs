//! The connections: one listener, and for each peer a task that connects when there is something to tell.
//!
//! ```text
//!   we connect, they answer:   hello <- | flows -> | answer <- | flows -> | answer <- | ...
//! ```
//!
//! A peer that cannot be reached costs nobody anything: its task tries again with every look at the flow table, and says
//! so once.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc, oneshot, watch},
    task::JoinSet,
    time::{sleep, timeout},
};
use tracing::{debug, info, warn};

use super::apart::{DRAINS, REPEAT};
use super::channel::{Channel, Key};
use super::message::{Answer, Hashing, Message, VERSION};
use super::{Exception, Flows, Ledger};
use crate::drains::Written;

/// Longest wait for a connection, a handshake or an answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// A connection on which nothing was said for so long is closed.
const IDLE: Duration = Duration::from_secs(60);
/// Pause after an address could not be listened on.
const REBIND: Duration = Duration::from_secs(10);
/// Pause after a connection could not be accepted.
const BREATH: Duration = Duration::from_millis(100);
/// Connections that are answered at a time.
const VISITORS: usize = 64;
/// Messages on the way to the agent's loop.
const QUEUE: usize = 16;

/// Whom to tell, and where others tell us.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where we listen.
    pub listen: SocketAddr,
    /// Everybody's key.
    pub key: Key,
    /// The others.
    pub nodes: Vec<SocketAddr>,
    /// Our `node.name`.
    pub name: String,
}

/// What there is to tell.
#[derive(Clone, Debug, Default)]
pub struct Look {
    /// All exceptions.
    pub exceptions: Vec<Exception>,
    /// How the hashes of each service are made.
    pub hashing: HashMap<String, Hashing>,
    /// Drains by command; more than [`DRAINS`] are not told.
    pub drains: Vec<Written>,
}

/// What a peer has told us; it waits for the answer.
#[derive(Debug)]
pub struct Told {
    /// The peer's `node.name`.
    pub node: String,
    /// Flows.
    pub flows: Option<Flows>,
    /// All its drains by command.
    pub drains: Option<Vec<Written>>,
    /// Where the answer goes.
    pub answer: oneshot::Sender<Answer>,
}

/// Flows that were told, by what came of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Told to a peer, once for each peer.
    pub sent: u64,
    /// Told by a peer and remembered here.
    pub received: u64,
    /// Told by a peer and of no use here.
    pub refused: u64,
}

/// What runs. Dropping it ends all connections.
#[derive(Debug)]
pub struct Peers {
    looks: watch::Sender<Arc<Look>>,
    told: mpsc::Receiver<Told>,
    ledgers: Vec<Arc<Mutex<Ledger>>>,
    sent: watch::Receiver<u64>,
    started: Instant,
    _tasks: JoinSet<()>,
}

/// The first frame of who was called.
#[derive(Debug, Serialize, Deserialize)]
struct Hello {
    version: u32,
    node: String,
    /// Another number after every start: what was told before may be forgotten.
    start: u64,
}

impl Peers {
    /// Starts to listen and to wait for something to tell.
    #[must_use]
    pub fn start(settings: Settings) -> Self {
        let (looks, look) = watch::channel(Arc::default());
        let (to_loop, told) = mpsc::channel(QUEUE);
        let (counted, sent) = watch::channel(0);
        let (counted, started) = (Arc::new(counted), Instant::now());
        let mut tasks = JoinSet::new();
        let mut ledgers = Vec::new();
        let settings = Arc::new(settings);
        for &node in &settings.nodes {
            let ledger = Arc::new(Mutex::new(Ledger::default()));
            ledgers.push(ledger.clone());
            let (settings, counted, drains) = (settings.clone(), counted.clone(), (Vec::new(), started));
            let teller = Teller { node, settings, ledger, started, counted, drains };
            tasks.spawn(teller.run(look.clone()));
        }
        tasks.spawn(listen(settings, to_loop));
        Self { looks, told, ledgers, sent, started, _tasks: tasks }
    }

    /// Tells everybody what they do not know yet.
    pub fn tell(&self, look: Look) {
        self.looks.send_replace(Arc::new(look));
    }

    /// Flows that a peer told: nobody needs to be told by us.
    pub fn learned(&self, flows: &[Exception]) {
        let now = self.started.elapsed();
        self.ledgers.iter().for_each(|ledger| lock(ledger).told(flows, now));
    }

    /// The next message.
    pub async fn told(&mut self) -> Option<Told> {
        self.told.recv().await
    }

    /// Flows that were told to peers, once for each peer.
    #[must_use]
    pub fn sent(&self) -> u64 {
        *self.sent.borrow()
    }
}

/// The task that tells one peer.
struct Teller {
    node: SocketAddr,
    settings: Arc<Settings>,
    ledger: Arc<Mutex<Ledger>>,
    started: Instant,
    counted: Arc<watch::Sender<u64>>,
    /// What the peer was told last of our drains, and when.
    drains: (Vec<Written>, Instant),
}

/// A connection, and which start of the peer it leads to.
struct Open {
    channel: Channel<TcpStream>,
    start: u64,
}

impl Teller {
    async fn run(mut self, mut looks: watch::Receiver<Arc<Look>>) {
        let mut open: Option<Open> = None;
        let mut start = 0;
        let mut reachable = true;
        loop {
            match timeout(IDLE, looks.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return,
                Err(_) => {
                    open = None;
                    lock(&self.ledger).expire(self.started.elapsed());
                    continue;
                }
            }
            let look = looks.borrow_and_update().clone();
            let done = self.tell(&look, &mut open, &mut start).await;
            if let Err(e) = &done {
                open = None;
                if reachable {
                    warn!(peer = %self.node, "flows that this peer could not guess, and drains, are not told to it: {e}");
                }
            } else if !reachable {
                info!(peer = %self.node, "reached again, flows are told");
            }
            reachable = done.is_ok();
        }
    }

    /// Tells what is due; on an error what was answered for stays told.
    async fn tell(&mut self, look: &Look, open: &mut Option<Open>, start: &mut u64) -> io::Result<()> {
        let (ledger, started) = (self.ledger.clone(), self.started);
        let due = || {
            let mut ledger = lock(&ledger);
            let now = started.elapsed();
            ledger.expire(now);
            ledger.due(&look.exceptions, now)
        };
        if due().0.is_empty() && !self.owes_drains(look) {
            return Ok(());
        }
        let Open { channel, start: theirs } = match open {
            Some(open) => open,
            None => open.insert(within(self.connect()).await?),
        };
        // Before the first word with a peer, all that is in mind was learned from the others.
        let before = std::mem::replace(start, *theirs);
        if before != 0 && before != *theirs {
            *lock(&self.ledger) = Ledger::default();
            self.drains.0.clear();
        }
        // First, for they say what the flows are told for.
        if self.owes_drains(look) {
            self.tell_drains(look, channel).await?;
        }
        let (due, left_out) = due();
        if left_out > 0 {
            warn!(peer = %self.node, flows = left_out, most = super::MOST, "too many flows to tell, these are left out");
        }
        for flows in Flows::pack(&due, |service| look.hashing.get(service).cloned()) {
            let part = flows.unpack();
            let answer = self.say(channel, Some(flows), None).await?;
            debug!(peer = %self.node, flows = part.len(), ?answer, "flows told");
            lock(&self.ledger).told(&part, self.started.elapsed());
            self.counted.send_modify(|sent| *sent += part.len() as u64);
        }
        Ok(())
    }

    /// Whether the peer has to be told of our drains: they are others than it knows, or go on and were told long ago.
    fn owes_drains(&self, look: &Look) -> bool {
        let (told, when) = &self.drains;
        *told != look.drains || !told.is_empty() && when.elapsed() >= REPEAT
    }

    async fn tell_drains(&mut self, look: &Look, channel: &mut Channel<TcpStream>) -> io::Result<()> {
        let most = look.drains.len().min(DRAINS);
        if most < look.drains.len() {
            warn!(peer = %self.node, drains = look.drains.len(), most, "too many drains by command to tell, the last are left out");
        }
        self.say(channel, None, Some(look.drains[..most].to_vec())).await?;
        self.drains = (look.drains.clone(), Instant::now());
        Ok(())
    }

    async fn say(
        &self,
        channel: &mut Channel<TcpStream>,
        flows: Option<Flows>,
        drains: Option<Vec<Written>>,
    ) -> io::Result<Answer> {
        let message = Message { version: VERSION, node: self.settings.name.clone(), flows, drains };
        channel.send(&serde_json::to_vec(&message)?).await?;
        Ok(serde_json::from_slice(&within(channel.receive()).await?)?)
    }

    async fn connect(&self) -> io::Result<Open> {
        let socket = match self.node {
            SocketAddr::V4(_) => tokio::net::TcpSocket::new_v4()?,
            SocketAddr::V6(_) => tokio::net::TcpSocket::new_v6()?,
        };
        // From the address that we listen on: what the fabric's filters know.
        if self.node.is_ipv4() == self.settings.listen.is_ipv4()
            && !self.settings.listen.ip().is_unspecified()
        {
            socket.bind(SocketAddr::new(self.settings.listen.ip(), 0))?;
        }
        let stream = socket.connect(self.node).await?;
        stream.set_nodelay(true)?;
        let mut channel = Channel::connect(stream, &self.settings.key).await?;
        let hello: Hello = serde_json::from_slice(&channel.receive().await?)?;
        if hello.version != VERSION {
            let what = format!("{} speaks version {}, not {VERSION}", hello.node, hello.version);
            return Err(io::Error::new(io::ErrorKind::Unsupported, what));
        }
        info!(peer = %self.node, node = %hello.node, "connected to tell flows");
        Ok(Open { channel, start: hello.start })
    }
}

async fn listen(settings: Arc<Settings>, to_loop: mpsc::Sender<Told>) {
    let room = Arc::new(Semaphore::new(VISITORS));
    let start = std::hash::BuildHasher::hash_one(&std::collections::hash_map::RandomState::new(), 0) | 1;
    let listener = bind(settings.listen).await;
    info!(listen = %settings.listen, "peers may tell us flows");
    let mut visitors = JoinSet::new();
    loop {
        while visitors.try_join_next().is_some() {}
        let Ok(place) = room.clone().acquire_owned().await else { return };
        let (stream, from) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(e) => {
                // Out of file descriptors, or a visitor who has gone again.
                debug!("accept: {e}");
                sleep(BREATH).await;
                continue;
            }
        };
        let (settings, to_loop) = (settings.clone(), to_loop.clone());
        visitors.spawn(async move {
            if let Err(e) = visit(stream, &settings, start, &to_loop).await
                && e.kind() != io::ErrorKind::UnexpectedEof
            {
                warn!(%from, "a peer's connection ended: {e}");
            }
            drop(place);
        });
    }
}

/// Listens; the address may come to the node later than we do.
async fn bind(listen: SocketAddr) -> TcpListener {
    let mut said = false;
    loop {
        match TcpListener::bind(listen).await {
            Ok(listener) => return listener,
            Err(e) if !said => {
                warn!(%listen, "peers cannot tell us flows: {e}; trying again");
                said = true;
            }
            Err(_) => {}
        }
        sleep(REBIND).await;
    }
}

async fn visit(
    stream: TcpStream,
    settings: &Settings,
    start: u64,
    to_loop: &mpsc::Sender<Told>,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut channel = within(Channel::accept(stream, &settings.key)).await?;
    let hello = Hello { version: VERSION, node: settings.name.clone(), start };
    channel.send(&serde_json::to_vec(&hello)?).await?;
    loop {
        let Ok(frame) = timeout(IDLE * 2, channel.receive()).await else { return Ok(()) };
        let message: Message = serde_json::from_slice(&frame?)?;
        if message.version != VERSION {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "another version of the protocol"));
        }
        let (answer, answered) = oneshot::channel();
        let Message { node, flows, drains, .. } = message;
        let told = Told { node, flows, drains, answer };
        if to_loop.send(told).await.is_err() {
            return Ok(());
        }
        let Ok(answer) = answered.await else { return Ok(()) };
        channel.send(&serde_json::to_vec(&answer)?).await?;
    }
}

async fn within<T>(action: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(PATIENCE, action).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

fn lock(ledger: &Mutex<Ledger>) -> std::sync::MutexGuard<'_, Ledger> {
    ledger.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
