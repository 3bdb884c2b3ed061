//! Long TCP connections that exchange numbered records and count everything that happens to them.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::lock;
use super::seen::{REPLY_HEAD, SEQUENCE, Seen};
use crate::lab::namespace::Namespace;
use crate::lab::wait::wait_until;
use crate::lab::worker::{Stop, Worker};

/// After so many timeouts in a row a connection is given up.
const PATIENCE: u32 = 10;

/// How the connections behave.
#[derive(Clone, Debug)]
pub struct ConnectionOptions {
    /// How many at the same time.
    pub connections: usize,
    /// Pause between an answer and the next request.
    pub interval: Duration,
    /// An answer later than this is counted as a timeout; it is still waited for, ten times as long.
    pub timeout: Duration,
    /// Bytes sent with every request.
    pub payload: u32,
    /// Records after which a connection is closed.
    pub records: u64,
}

impl Default for ConnectionOptions {
    fn default() -> Self {
        Self {
            connections: 100,
            interval: Duration::from_millis(50),
            timeout: Duration::from_secs(2),
            payload: 64,
            records: u64::MAX,
        }
    }
}

/// How far a connection got.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum End {
    /// Not connected yet.
    #[default]
    Connecting,
    /// In use.
    Open,
    /// We closed it, having done what we wanted.
    Done,
    /// It could not be made: why.
    Refused(String),
    /// The other side reset it.
    Reset,
    /// The other side closed it.
    Closed,
    /// No answer for ten timeouts.
    Stalled,
    /// Anything else.
    Broken(String),
}

/// What happened to one connection.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Connection {
    /// Our own address.
    pub local: Option<SocketAddr>,
    /// Who answered first.
    pub server: Option<String>,
    /// Records answered in time or late.
    pub records: u64,
    /// Answers that were late.
    pub timeouts: u64,
    /// Answers by another server than the first.
    pub moved: u64,
    /// Answers by a server that did not see our own address.
    pub wrong_client: u64,
    /// Where it stands.
    pub end: End,
}

impl Connection {
    /// Whether nothing bad has happened to it: it is open or ended as we wanted, with every answer in time, from
    /// one server, which saw our address.
    #[must_use]
    pub fn is_unharmed(&self) -> bool {
        matches!(self.end, End::Open | End::Done)
            && self.timeouts == 0
            && self.moved == 0
            && self.wrong_client == 0
    }
}

/// A set of running connections.
#[derive(Debug)]
pub struct Connections {
    worker: Worker,
    state: Arc<Vec<Mutex<Connection>>>,
}

impl Connections {
    /// Starts them in `ns`, to `target`.
    ///
    /// # Errors
    /// When the namespace cannot be entered.
    pub fn start(ns: &Namespace, target: SocketAddr, options: ConnectionOptions) -> Result<Self> {
        let state: Arc<Vec<Mutex<Connection>>> =
            Arc::new((0..options.connections).map(|_| Mutex::default()).collect());
        let shared = Arc::clone(&state);
        let worker =
            ns.work(&format!("{} connections to {target}", options.connections), move |stop| async move {
                let mut tasks = JoinSet::new();
                for index in 0..options.connections {
                    tasks.spawn(hold(target, options.clone(), Arc::clone(&shared), index, stop.clone()));
                }
                tasks.join_all().await;
                Ok(())
            })?;
        Ok(Self { worker, state })
    }

    /// What has happened so far, in a stable order.
    #[must_use]
    pub fn report(&self) -> Vec<Connection> {
        self.state.iter().map(|c| lock(c).clone()).collect()
    }

    /// The connections that something bad has happened to.
    #[must_use]
    pub fn harmed(&self) -> Vec<Connection> {
        self.report().into_iter().filter(|c| !c.is_unharmed()).collect()
    }

    /// Open connections of each server.
    #[must_use]
    pub fn open_by_server(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for connection in self.report() {
            if let (End::Open, Some(server)) = (connection.end, connection.server) {
                *counts.entry(server).or_default() += 1;
            }
        }
        counts
    }

    /// Waits until every connection that still lives has had `more` more records answered: proof that all of them
    /// work now.
    ///
    /// # Errors
    /// When one has not within `bound`; says how many.
    pub fn wait_records(&self, more: u64, bound: Duration) -> Result<()> {
        let goals: Vec<u64> = self.report().iter().map(|c| c.records + more).collect();
        let mut behind = 0;
        wait_until(&format!("{more} more records on every connection"), bound, || {
            let late = |(c, goal): (Connection, &u64)| {
                matches!(c.end, End::Connecting | End::Open) && c.records < *goal
            };
            behind = self.report().into_iter().zip(&goals).filter(|(c, g)| late((c.clone(), g))).count();
            behind == 0
        })
        .with_context(|| format!("{behind} of {} connections lag behind", goals.len()))
    }

    /// Closes all connections and returns what has happened to them.
    ///
    /// # Errors
    /// When the worker does not end.
    pub fn stop(mut self) -> Result<Vec<Connection>> {
        self.worker.stop()?;
        Ok(self.report())
    }
}

/// The life of one connection.
async fn hold(
    target: SocketAddr,
    options: ConnectionOptions,
    state: Arc<Vec<Mutex<Connection>>>,
    index: usize,
    stop: Stop,
) {
    let state = &state[index];
    let end = tokio::select! {
        end = exchange(target, &options, state) => end,
        () = stop.given() => match lock(state).end {
            End::Connecting => End::Refused("stopped before it was made".into()),
            _ => End::Done,
        },
    };
    lock(state).end = end;
}

async fn exchange(target: SocketAddr, options: &ConnectionOptions, state: &Mutex<Connection>) -> End {
    let mut stream = match timeout(options.timeout * PATIENCE, TcpStream::connect(target)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return End::Refused(error.to_string()),
        Err(_) => return End::Refused("no answer".into()),
    };
    let local = stream.local_addr().ok();
    {
        let mut state = lock(state);
        state.local = local;
        state.end = End::Open;
    }
    if let Err(error) = stream.set_nodelay(true) {
        return End::Broken(error.to_string());
    }
    let mut request = vec![0; SEQUENCE + 4];
    request[SEQUENCE..].copy_from_slice(&options.payload.to_be_bytes());
    request.resize(request.len() + options.payload as usize, 0xa5);
    for sequence in 0..options.records {
        request[..SEQUENCE].copy_from_slice(&sequence.to_be_bytes());
        let seen = match ask(&mut stream, &request, options.timeout, state).await {
            Ok(seen) => seen,
            Err(end) => return end,
        };
        {
            let mut state = lock(state);
            state.records += 1;
            state.wrong_client += u64::from(Some(seen.client) != local);
            let elsewhere = state.server.get_or_insert_with(|| seen.server.clone()) != &seen.server;
            state.moved += u64::from(elsewhere);
        }
        tokio::time::sleep(options.interval).await;
    }
    End::Done
}

/// Sends one record and reads its answer, counting how often it was late.
async fn ask(
    stream: &mut TcpStream,
    request: &[u8],
    late: Duration,
    state: &Mutex<Connection>,
) -> Result<Seen, End> {
    let whole = async {
        stream.write_all(request).await.map_err(|e| broken(&e))?;
        let mut head = [0; REPLY_HEAD];
        stream.read_exact(&mut head).await.map_err(|e| broken(&e))?;
        let mut text = vec![0; head[SEQUENCE].into()];
        stream.read_exact(&mut text).await.map_err(|e| broken(&e))?;
        if head[..SEQUENCE] != request[..SEQUENCE] {
            return Err(End::Broken("answer to another record".into()));
        }
        String::from_utf8(text)
            .ok()
            .and_then(|t| Seen::parse(&t))
            .ok_or_else(|| End::Broken("garbled answer".into()))
    };
    tokio::pin!(whole);
    for _ in 0..PATIENCE {
        match timeout(late, &mut whole).await {
            Ok(outcome) => return outcome,
            Err(_) => lock(state).timeouts += 1,
        }
    }
    Err(End::Stalled)
}

fn broken(error: &std::io::Error) -> End {
    match error.kind() {
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => End::Reset,
        ErrorKind::UnexpectedEof => End::Closed,
        _ => End::Broken(error.to_string()),
    }
}
