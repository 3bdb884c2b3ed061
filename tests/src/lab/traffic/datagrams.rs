//! UDP streams with sequence numbers, as a call's media: every loss, reordering and move is counted.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

use super::seen::{SEQUENCE, Seen};
use super::{lock, udp_socket};
use crate::lab::namespace::Namespace;
use crate::lab::wait::wait_until;
use crate::lab::worker::{Stop, Worker};

/// How the streams behave.
#[derive(Clone, Debug)]
pub struct DatagramOptions {
    /// How many at the same time, each from a port of its own.
    pub flows: usize,
    /// Pause between two datagrams of a flow.
    pub interval: Duration,
    /// A datagram unanswered for so long is lost.
    pub timeout: Duration,
    /// Bytes of a datagram's payload, at least 8.
    pub size: usize,
    /// Datagrams after which a flow ends.
    pub datagrams: u64,
}

impl Default for DatagramOptions {
    fn default() -> Self {
        Self {
            flows: 10,
            interval: Duration::from_millis(20),
            timeout: Duration::from_secs(1),
            size: 160,
            datagrams: u64::MAX,
        }
    }
}

/// What happened to one flow.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flow {
    /// Our own address.
    pub local: Option<SocketAddr>,
    /// The servers that answered, in order, each named again when the flow comes back to it.
    pub servers: Vec<String>,
    /// Datagrams sent.
    pub sent: u64,
    /// Datagrams answered.
    pub answered: u64,
    /// Datagrams unanswered for longer than the timeout.
    pub lost: u64,
    /// Answers that overtook an earlier one.
    pub reordered: u64,
    /// Answers to what had been answered, or given up.
    pub duplicates: u64,
    /// Answers by a server that did not see our own address.
    pub wrong_client: u64,
    /// Sends or receives that failed (ICMP errors come out here).
    pub errors: u64,
}

impl Flow {
    /// Answers by another server than the one before.
    #[must_use]
    pub fn moved(&self) -> usize {
        self.servers.len().saturating_sub(1)
    }

    /// Whether everything was answered in time and in order by one server, which saw our address.
    #[must_use]
    pub fn is_unharmed(&self) -> bool {
        let bad = self.lost + self.reordered + self.duplicates + self.wrong_client + self.errors;
        bad == 0 && self.moved() == 0 && self.answered > 0
    }
}

/// A flow and its datagrams on the way.
#[derive(Debug, Default)]
struct State {
    flow: Flow,
    waiting: BTreeMap<u64, Instant>,
    highest: Option<u64>,
}

impl State {
    /// Gives up what has been unanswered for longer than `timeout`.
    fn expire(&mut self, timeout: Duration) {
        let before = self.waiting.len();
        self.waiting.retain(|_, sent| sent.elapsed() <= timeout);
        self.flow.lost += (before - self.waiting.len()) as u64;
    }

    fn answer(&mut self, sequence: u64, seen: Seen) {
        let flow = &mut self.flow;
        if self.waiting.remove(&sequence).is_none() {
            flow.duplicates += 1;
            return;
        }
        flow.answered += 1;
        flow.reordered += u64::from(self.highest > Some(sequence));
        self.highest = self.highest.max(Some(sequence));
        flow.wrong_client += u64::from(flow.local != Some(seen.client));
        if flow.servers.last() != Some(&seen.server) {
            flow.servers.push(seen.server);
        }
    }
}

/// A set of running UDP flows.
#[derive(Debug)]
pub struct Datagrams {
    worker: Worker,
    state: Arc<Vec<Mutex<State>>>,
}

impl Datagrams {
    /// Starts them in `ns`, to `target`.
    ///
    /// # Errors
    /// When the namespace cannot be entered.
    pub fn start(ns: &Namespace, target: SocketAddr, options: DatagramOptions) -> Result<Self> {
        let state: Arc<Vec<Mutex<State>>> = Arc::new((0..options.flows).map(|_| Mutex::default()).collect());
        let shared = Arc::clone(&state);
        let worker =
            ns.work(&format!("{} UDP flows to {target}", options.flows), move |stop| async move {
                let mut tasks = JoinSet::new();
                for index in 0..options.flows {
                    tasks.spawn(flow(target, options.clone(), Arc::clone(&shared), index, stop.clone()));
                }
                while let Some(ended) = tasks.join_next().await {
                    ended.context("a flow")??;
                }
                Ok(())
            })?;
        Ok(Self { worker, state })
    }

    /// What has happened so far, in a stable order.
    #[must_use]
    pub fn report(&self) -> Vec<Flow> {
        self.state.iter().map(|s| lock(s).flow.clone()).collect()
    }

    /// Waits until every flow has had `more` more datagrams answered.
    ///
    /// # Errors
    /// When one has not within `bound`.
    pub fn wait_answers(&self, more: u64, bound: Duration) -> Result<()> {
        let goals: Vec<u64> = self.report().iter().map(|f| f.answered + more).collect();
        let behind = || -> Vec<Flow> {
            let flows = self.report().into_iter().zip(&goals);
            flows.filter(|(flow, goal)| flow.answered < **goal).map(|(flow, _)| flow).collect()
        };
        wait_until(&format!("{more} more answers on every UDP flow"), bound, || behind().is_empty())
            .with_context(|| format!("these lag behind: {:#?}", behind()))
    }

    /// Waits for the flows to have sent their last datagram and returns what has happened.
    ///
    /// # Errors
    /// When they have not within `bound`.
    pub fn finish(mut self, bound: Duration) -> Result<Vec<Flow>> {
        self.worker.wait(bound)?;
        Ok(self.report())
    }

    /// Stops sending, waits for the last answers and returns what has happened.
    ///
    /// # Errors
    /// When the worker does not end.
    pub fn stop(mut self) -> Result<Vec<Flow>> {
        self.worker.stop()?;
        Ok(self.report())
    }
}

/// The life of one flow.
async fn flow(
    target: SocketAddr,
    options: DatagramOptions,
    states: Arc<Vec<Mutex<State>>>,
    index: usize,
    stop: Stop,
) -> Result<()> {
    let state = &states[index];
    let any =
        if target.is_ipv4() { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { IpAddr::V6(Ipv6Addr::UNSPECIFIED) };
    let socket = udp_socket((any, 0).into()).await?;
    socket.connect(target).await.with_context(|| format!("connect to {target}"))?;
    lock(state).flow.local = socket.local_addr().ok();
    let mut payload = vec![0xa5; options.size.max(SEQUENCE)];
    let mut reply = vec![0; 2048];
    let mut ticks = interval(options.interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut next = 0;
    let mut done = None;
    let given = stop.given();
    tokio::pin!(given);
    loop {
        if let Some(since) = done {
            let since: Instant = since;
            if lock(state).waiting.is_empty() || since.elapsed() > options.timeout {
                lock(state).expire(Duration::ZERO);
                return Ok(());
            }
        }
        tokio::select! {
            () = &mut given, if done.is_none() => done = Some(Instant::now()),
            _ = ticks.tick() => {
                lock(state).expire(options.timeout);
                if done.is_none() {
                    payload[..SEQUENCE].copy_from_slice(&u64::to_be_bytes(next));
                    // Noted first: the answer may be here before send returns.
                    {
                        let mut state = lock(state);
                        state.waiting.insert(next, Instant::now());
                        state.flow.sent += 1;
                    }
                    if socket.send(&payload).await.is_err() {
                        lock(state).flow.errors += 1;
                    }
                    next += 1;
                    if next >= options.datagrams {
                        done = Some(Instant::now());
                    }
                }
            }
            received = socket.recv(&mut reply) => match received {
                Ok(length) => {
                    let answer = reply[..length].split_first_chunk::<SEQUENCE>().and_then(|(sequence, text)| {
                        Some((u64::from_be_bytes(*sequence), Seen::parse(std::str::from_utf8(text).ok()?)?))
                    });
                    let mut state = lock(state);
                    match answer {
                        Some((sequence, seen)) => state.answer(sequence, seen),
                        None => state.flow.errors += 1,
                    }
                }
                Err(_) => lock(state).flow.errors += 1,
            },
        }
    }
}
