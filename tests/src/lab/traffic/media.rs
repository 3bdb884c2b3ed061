//! RTP streams with their RTCP, as media servers get them: loss, reordering and jitter (RFC 3550 section 6.4.1) of each.
//!
//! ```text
//!   0        1        2         4              8         12
//!  | 2 0 0 0 | PT 8  | sequence | timestamp     | SSRC    | 160 bytes of sound     every 20 ms, to an even port
//!  | 2 0 0 0 | 200   | length   | SSRC          | ...                              every 200 ms, to the odd port above
//! ```
//!
//! The servers of [`super::server`] send the first eight bytes back, with their name and whom they saw.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

use super::seen::{SEQUENCE, Seen};
use super::{lock, udp_socket};
use crate::lab::namespace::Namespace;
use crate::lab::wait::wait_until;
use crate::lab::worker::{Stop, Worker};

/// Packets of sound.
const PACKET: Duration = Duration::from_millis(20);
/// RTCP comes once in so many.
const REPORT_EVERY: u64 = 10;
/// Ticks of the RTP clock in a second.
const CLOCK: f64 = 8000.0;

/// What happened to one stream.
#[derive(Clone, Debug, Default)]
pub struct Stream {
    /// Packets of sound sent.
    pub sent: u64,
    /// Packets of sound that came back.
    pub answered: u64,
    /// Packets that came back after a later one.
    pub reordered: u64,
    /// Packets that came back twice.
    pub duplicates: u64,
    /// Reports sent and come back.
    pub reports: (u64, u64),
    /// Who answered sound.
    pub servers: BTreeSet<String>,
    /// Who answered reports.
    pub report_servers: BTreeSet<String>,
    /// Answers by a server that did not see our own address.
    pub wrong_client: u64,
    /// Interarrival jitter as of now, in seconds.
    pub jitter: f64,
    highest: Option<u64>,
    transit: Option<f64>,
}

impl Stream {
    /// Packets of sound that never came back; some may be under way.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.sent - self.answered
    }

    /// `sequence` counts from 0 and `elapsed` from the stream's first packet.
    fn sound(&mut self, sequence: u64, elapsed: f64) {
        self.answered += 1;
        match self.highest {
            Some(highest) if sequence == highest => self.duplicates += 1,
            Some(highest) if sequence < highest => self.reordered += 1,
            _ => self.highest = Some(sequence),
        }
        let transit = elapsed - sequence as f64 * PACKET.as_secs_f64();
        if let Some(before) = self.transit.replace(transit) {
            self.jitter += ((transit - before).abs() - self.jitter) / 16.0;
        }
    }
}

/// A set of running streams.
#[derive(Debug)]
pub struct Media {
    worker: Worker,
    streams: Arc<Vec<Mutex<Stream>>>,
}

impl Media {
    /// Starts one in `ns` to each of `targets`, whose ports are even.
    ///
    /// # Errors
    /// When the namespace cannot be entered.
    pub fn start(ns: &Namespace, targets: &[SocketAddr]) -> Result<Self> {
        let streams: Arc<Vec<Mutex<Stream>>> = Arc::new(targets.iter().map(|_| Mutex::default()).collect());
        let (shared, targets) = (Arc::clone(&streams), targets.to_owned());
        let worker = ns.work(&format!("{} RTP streams", targets.len()), move |stop| async move {
            let mut tasks = JoinSet::new();
            for (index, target) in targets.into_iter().enumerate() {
                tasks.spawn(stream(target, index, Arc::clone(&shared), stop.clone()));
            }
            while let Some(ended) = tasks.join_next().await {
                ended.context("a stream")??;
            }
            Ok(())
        })?;
        Ok(Self { worker, streams })
    }

    /// What has happened so far, in the order of the targets.
    #[must_use]
    pub fn report(&self) -> Vec<Stream> {
        self.streams.iter().map(|stream| lock(stream).clone()).collect()
    }

    /// Waits until every stream has had `more` more packets answered.
    ///
    /// # Errors
    /// When one has not within `bound`.
    pub fn wait(&self, more: u64, bound: Duration) -> Result<()> {
        let goals: Vec<u64> = self.report().iter().map(|stream| stream.answered + more).collect();
        wait_until(&format!("{more} more packets of every stream"), bound, || {
            self.report().iter().zip(&goals).all(|(stream, goal)| stream.answered >= *goal)
        })
    }

    /// Stops sending, waits for what is under way and returns what has happened.
    ///
    /// # Errors
    /// When the worker does not end.
    pub fn stop(mut self) -> Result<Vec<Stream>> {
        self.worker.stop()?;
        Ok(self.report())
    }
}

/// The life of one stream. Once told to stop it waits for what is under way, for a second at most.
async fn stream(
    target: SocketAddr,
    index: usize,
    streams: Arc<Vec<Mutex<Stream>>>,
    stop: Stop,
) -> Result<()> {
    ensure!(target.port().is_multiple_of(2), "RTP goes to even ports, not {target}");
    let state = &streams[index];
    let any =
        if target.is_ipv4() { IpAddr::V4(Ipv4Addr::UNSPECIFIED) } else { IpAddr::V6(Ipv6Addr::UNSPECIFIED) };
    let (rtp, rtcp) = (udp_socket((any, 0).into()).await?, udp_socket((any, 0).into()).await?);
    rtp.connect(target).await?;
    rtcp.connect(SocketAddr::new(target.ip(), target.port() + 1)).await?;
    let ssrc = (index as u32).to_be_bytes();
    let (mut sound, mut report) = ([0; 2048], [0; 2048]);
    let mut ticks = interval(PACKET);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut next, started, mut done) = (0u64, Instant::now(), None::<Instant>);
    let given = stop.given();
    tokio::pin!(given);
    loop {
        if let Some(since) = done {
            let all = {
                let now = lock(state);
                now.lost() == 0 && now.reports.0 == now.reports.1
            };
            if all || since.elapsed() > Duration::from_secs(1) {
                return Ok(());
            }
        }
        tokio::select! {
            () = &mut given, if done.is_none() => done = Some(Instant::now()),
            _ = ticks.tick() => if done.is_none() {
                let timestamp = (next as f64 * PACKET.as_secs_f64() * CLOCK) as u32;
                let head = [&[0x80, 8][..], &(next as u16).to_be_bytes(), &timestamp.to_be_bytes(), &ssrc].concat();
                lock(state).sent += 1;
                rtp.send(&[&head[..], &[0xd5; 160]].concat()).await?;
                if next.is_multiple_of(REPORT_EVERY) {
                    lock(state).reports.0 += 1;
                    rtcp.send(&[&[0x80, 200, 0, 6][..], &ssrc, &[0; 20]].concat()).await?;
                }
                next += 1;
            },
            received = rtp.recv(&mut sound) => {
                let length = received.with_context(|| format!("sound from {target}"))?;
                let (head, seen) = parse(&sound[..length])?;
                let low = u16::from_be_bytes([head[2], head[3]]);
                // The last packet sent is less than half a round of 16 bits ahead.
                let sequence = next - 1 - u64::from((next.wrapping_sub(1) as u16).wrapping_sub(low));
                let mut state = lock(state);
                state.wrong_client += u64::from(Some(seen.client.port()) != rtp.local_addr().ok().map(|a| a.port()));
                state.servers.insert(seen.server);
                state.sound(sequence, started.elapsed().as_secs_f64());
            },
            received = rtcp.recv(&mut report) => {
                let length = received.with_context(|| format!("reports from {target}"))?;
                let (_, seen) = parse(&report[..length])?;
                let mut state = lock(state);
                state.reports.1 += 1;
                state.report_servers.insert(seen.server);
            },
        }
    }
}

fn parse(answer: &[u8]) -> Result<([u8; SEQUENCE], Seen)> {
    let (head, text) = answer.split_first_chunk::<SEQUENCE>().context("a short answer")?;
    let seen = Seen::parse(std::str::from_utf8(text)?).context("an answer that is none")?;
    Ok((*head, seen))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_and_jitter() {
        let mut stream = Stream { sent: 5, ..Stream::default() };
        for (sequence, elapsed) in [(0, 0.001), (1, 0.021), (3, 0.061), (2, 0.061), (3, 0.062)] {
            stream.sound(sequence, elapsed);
        }
        assert_eq!((stream.reordered, stream.duplicates, stream.lost()), (1, 1, 0));
        // Differences of 0, 0, 20 ms and 19 ms, each by a sixteenth.
        assert!(
            (stream.jitter - (0.02 / 16.0 * 15.0 / 16.0 + 0.019 / 16.0)).abs() < 1e-9,
            "{}",
            stream.jitter
        );
    }
}
