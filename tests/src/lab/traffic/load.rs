//! Short HTTP/1.0 requests at a steady rate, each on a connection of its own, from many clients at once.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::Result;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval_at, timeout};

use super::lock;
use super::seen::Seen;
use crate::lab::namespace::Namespace;
use crate::lab::wait::wait_until;
use crate::lab::worker::{Stop, Worker};

/// Failures kept one by one; beyond that they are only counted.
const FAILURES_KEPT: usize = 1000;
/// Longest answer read.
const ANSWER: u64 = 64 << 10;

/// How the clients behave.
#[derive(Clone, Debug)]
pub struct LoadOptions {
    /// Clients at the same time; each has one request in flight.
    pub clients: usize,
    /// Requests a second of all together, as long as answers come in time.
    pub rate: f64,
    /// A request not answered within this has failed.
    pub timeout: Duration,
    /// Requests after which the load ends.
    pub requests: u64,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self { clients: 20, rate: 500.0, timeout: Duration::from_secs(2), requests: u64::MAX }
    }
}

/// Why a request failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FailureKind {
    /// Nobody listens, or the network says it cannot be reached.
    Refused,
    /// The connection was reset.
    Reset,
    /// No answer in time.
    Timeout,
    /// An answer that is none of ours, or cut short.
    Garbled,
    /// The server saw another address than ours.
    WrongClient,
    /// Anything else.
    Other,
}

/// One failed request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// When it was sent, since the load began.
    pub sent: Duration,
    /// When it failed, since the load began.
    pub failed: Duration,
    /// Port it was sent from; with the client's address and `target` this is the flow.
    pub port: u16,
    /// Where it was sent.
    pub target: SocketAddr,
    /// Why it failed.
    pub kind: FailureKind,
}

/// What has happened so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LoadReport {
    /// Time since the load began.
    pub elapsed: Duration,
    /// Requests sent.
    pub sent: u64,
    /// Requests answered well, by server.
    pub answered: BTreeMap<String, u64>,
    /// Requests failed, by reason.
    pub failed: BTreeMap<FailureKind, u64>,
    /// The first thousand failures.
    pub failures: Vec<Failure>,
    /// Longest time to a good answer.
    pub slowest: Duration,
}

impl LoadReport {
    /// Requests answered well.
    #[must_use]
    pub fn answers(&self) -> u64 {
        self.answered.values().sum()
    }

    /// Requests failed.
    #[must_use]
    pub fn failures(&self) -> u64 {
        self.failed.values().sum()
    }

    /// Requests in flight.
    #[must_use]
    pub fn in_flight(&self) -> u64 {
        self.sent - self.answers() - self.failures()
    }

    /// What happened between `earlier` and now: rates, shares and failures of an interval. Its `slowest` is of the whole run.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        fn less<K: Ord + Clone>(now: &BTreeMap<K, u64>, before: &BTreeMap<K, u64>) -> BTreeMap<K, u64> {
            now.iter()
                .map(|(k, n)| (k.clone(), n - before.get(k).unwrap_or(&0)))
                .filter(|(_, n)| *n > 0)
                .collect()
        }
        Self {
            elapsed: self.elapsed.saturating_sub(earlier.elapsed),
            sent: self.sent - earlier.sent,
            answered: less(&self.answered, &earlier.answered),
            failed: less(&self.failed, &earlier.failed),
            failures: self.failures.iter().skip(earlier.failures.len()).cloned().collect(),
            slowest: self.slowest,
        }
    }

    /// Good answers a second.
    #[must_use]
    pub fn rate(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "a count of requests is far below 2^52")]
        let answers = self.answers() as f64;
        if self.elapsed.is_zero() { 0.0 } else { answers / self.elapsed.as_secs_f64() }
    }
}

/// A running load.
#[derive(Debug)]
pub struct Load {
    worker: Worker,
    began: Instant,
    report: Arc<Mutex<LoadReport>>,
}

impl Load {
    /// Starts it in `ns`; the clients go round the `targets`.
    ///
    /// # Errors
    /// When the namespace cannot be entered.
    pub fn start(ns: &Namespace, targets: &[SocketAddr], options: LoadOptions) -> Result<Self> {
        let report = Arc::new(Mutex::new(LoadReport::default()));
        let began = Instant::now();
        let (shared, targets) = (Arc::clone(&report), targets.to_owned());
        let worker = ns.work(&format!("load on {targets:?}"), move |stop| async move {
            let mut tasks = JoinSet::new();
            for index in 0..options.clients {
                let client = Client {
                    targets: targets.clone(),
                    options: options.clone(),
                    began,
                    report: Arc::clone(&shared),
                    stop: stop.clone(),
                };
                tasks.spawn(client.run(index));
            }
            tasks.join_all().await;
            Ok(())
        })?;
        Ok(Self { worker, began, report })
    }

    /// What has happened so far.
    #[must_use]
    pub fn report(&self) -> LoadReport {
        LoadReport { elapsed: self.began.elapsed(), ..lock(&self.report).clone() }
    }

    /// Waits for `more` more good answers.
    ///
    /// # Errors
    /// When they do not come within `bound`.
    pub fn wait_answers(&self, more: u64, bound: Duration) -> Result<()> {
        let goal = lock(&self.report).answers() + more;
        wait_until(&format!("{more} more answers"), bound, || lock(&self.report).answers() >= goal)
    }

    /// Waits for the load to end by itself.
    ///
    /// # Errors
    /// When it has not within `bound`.
    pub fn finish(mut self, bound: Duration) -> Result<LoadReport> {
        self.worker.wait(bound)?;
        Ok(self.report())
    }

    /// Sends nothing more, waits for the requests in flight and returns what has happened.
    ///
    /// # Errors
    /// When the worker does not end.
    pub fn stop(mut self) -> Result<LoadReport> {
        self.worker.stop()?;
        Ok(self.report())
    }
}

/// One client.
struct Client {
    targets: Vec<SocketAddr>,
    options: LoadOptions,
    began: Instant,
    report: Arc<Mutex<LoadReport>>,
    stop: Stop,
}

impl Client {
    async fn run(self, index: usize) {
        #[expect(clippy::cast_precision_loss, reason = "a handful of clients")]
        let clients = self.options.clients as f64;
        let period = clients / self.options.rate.max(0.001);
        #[expect(clippy::cast_precision_loss, reason = "a handful of clients")]
        // Not all at once.
        let first = tokio::time::Instant::now() + Duration::from_secs_f64(period * index as f64 / clients);
        let mut ticks = interval_at(first, Duration::from_secs_f64(period));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for target in self.targets.iter().cycle().skip(index) {
            tokio::select! {
                _ = ticks.tick() => {}
                () = self.stop.given() => return,
            }
            {
                let mut report = lock(&self.report);
                if report.sent >= self.options.requests {
                    return;
                }
                report.sent += 1;
            }
            let sent = self.began.elapsed();
            // A request in flight is never given up by `stop`: it is answered or fails within its own bound.
            let (port, outcome) = match socket(*target) {
                Err(error) => (0, Err(kind(&error))),
                Ok((socket, port)) => match timeout(self.options.timeout, get(socket, *target)).await {
                    Ok(outcome) => (port, outcome),
                    Err(_) => (port, Err(FailureKind::Timeout)),
                },
            };
            let now = self.began.elapsed();
            let mut report = lock(&self.report);
            match outcome {
                Ok(server) => {
                    *report.answered.entry(server).or_default() += 1;
                    report.slowest = report.slowest.max(now.saturating_sub(sent));
                }
                Err(kind) => {
                    *report.failed.entry(kind).or_default() += 1;
                    if report.failures.len() < FAILURES_KEPT {
                        report.failures.push(Failure { sent, failed: now, port, target: *target, kind });
                    }
                }
            }
        }
    }
}

/// A socket to send one request from, and its port: known before the request may fail.
fn socket(target: SocketAddr) -> io::Result<(TcpSocket, u16)> {
    let (socket, any) = if target.is_ipv4() {
        (TcpSocket::new_v4()?, IpAddr::V4(Ipv4Addr::UNSPECIFIED))
    } else {
        (TcpSocket::new_v6()?, IpAddr::V6(Ipv6Addr::UNSPECIFIED))
    };
    socket.bind((any, 0).into())?;
    let port = socket.local_addr()?.port();
    Ok((socket, port))
}

/// One request: the name of the server that answered it.
async fn get(socket: TcpSocket, target: SocketAddr) -> Result<String, FailureKind> {
    let mut stream = socket.connect(target).await.map_err(|e| kind(&e))?;
    let local = stream.local_addr().map_err(|e| kind(&e))?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").await.map_err(|e| kind(&e))?;
    let mut answer = String::new();
    stream.take(ANSWER).read_to_string(&mut answer).await.map_err(|e| kind(&e))?;
    let body = answer.split_once("\r\n\r\n").filter(|(head, _)| head.contains(" 200 ")).map(|(_, body)| body);
    let seen = body.and_then(Seen::parse).ok_or(FailureKind::Garbled)?;
    if seen.client == local { Ok(seen.server) } else { Err(FailureKind::WrongClient) }
}

fn kind(error: &io::Error) -> FailureKind {
    match error.kind() {
        ErrorKind::ConnectionRefused | ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => {
            FailureKind::Refused
        }
        ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => FailureKind::Reset,
        ErrorKind::TimedOut => FailureKind::Timeout,
        ErrorKind::InvalidData => FailureKind::Garbled,
        _ => FailureKind::Other,
    }
}
