//! How long a request takes through the balancer, and on the same way without it.
//!
//! ```text
//!   client -- router -- edge1 (xdp-lb) -- router -- backend1 (xdp-lb decap)    a VIP
//!   client -- router ----------------------------- backend1                    another address of its lo
//! ```
//!
//! Requests with and without the balancer take turns, one at a time, so both meet the same machine. Answers go from the
//! backend to the client directly either way. What the balancer's way has
//! more is two links of veth and two programs; what a wire would add is not there.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::lab::files::{EdgeFile, MEDIA, VIP, WEB};
use crate::lab::netlink::Via;
use crate::lab::traffic::Server;
use crate::lab::{Lab, Mode, Options, Tier, plan};

/// Number of the address that the router sends straight to the backend.
const STRAIGHT: u8 = 11;
/// No answer takes so long.
const BOUND: Duration = Duration::from_secs(2);
/// Requests that are not counted: neighbours and caches get to know each other.
const WARM_UP: u32 = 200;

/// Times of one kind of request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// Kind of request, and the way.
    pub name: String,
    /// Requests.
    pub requests: usize,
    /// In microseconds: half of the requests, nine of ten, 99 of 100 and 999 of 1000 took at most so long.
    pub percentiles: [f64; 4],
}

impl Latency {
    fn of(name: String, mut times: Vec<Duration>) -> Self {
        times.sort();
        let at = |thousandth: usize| {
            let index = (times.len() * thousandth).div_ceil(1000).saturating_sub(1);
            times.get(index).map_or(0.0, |took| took.as_nanos() as f64 / 1e3)
        };
        Self { name, requests: times.len(), percentiles: [500, 900, 990, 999].map(at) }
    }
}

/// Asks `requests` times each: UDP and TCP, IPv4 and IPv6, without and with the balancer.
///
/// # Errors
/// Says what failed, or which request had no answer.
pub fn latency(requests: u32) -> Result<Vec<Latency>> {
    let lab = Lab::start(&Options { edges: 1, backends: 1, ..Options::default() })?;
    let backend = lab.backend(1);
    let (vip, straight) = (plan::vip(VIP), plan::vip(STRAIGHT));
    backend.add_to_lo(&straight.both())?;
    for address in straight.both() {
        let length = if address.is_ipv4() { 32 } else { 128 };
        let way = Via::gateway(&backend.router_interface(), backend.role.address().like(address));
        lab.router().netlink().set_route((address, length), &[way])?;
    }
    let _tier = Tier::start(&lab, Mode::Native, |n| EdgeFile::new(1).text(n))?;
    let addresses: Vec<SocketAddr> = [vip, straight]
        .into_iter()
        .flat_map(|dual| dual.both())
        .flat_map(|ip| [WEB, MEDIA].map(|port| SocketAddr::new(ip, port)))
        .collect();
    let _server = Server::start(&backend.ns, "backend1", &addresses)?;
    let mut found = Vec::new();
    for (what, ask, port) in [
        ("UDP, a datagram and its echo", echo as Ask, MEDIA),
        ("TCP, connect to end of HTTP answer", http, WEB),
    ] {
        for (family, balanced, other) in
            [("IPv4", vip.v4.into(), straight.v4.into()), ("IPv6", vip.v6.into(), straight.v6.into())]
        {
            let to = |ip: IpAddr| SocketAddr::new(ip, port);
            let targets = [to(other), to(balanced)];
            let edge = lab.edge(1);
            let before = lab.router_counters(edge)?;
            let times = lab.client(1).ns.enter(|| turns(ask, targets, requests))?;
            let times = times.with_context(|| format!("{what}, {family}"))?;
            let through = lab.router_counters(edge)?.since(before).tx_packets;
            let asked = u64::from(WARM_UP + requests);
            // A datagram is one packet to the edge node, and the straight ones are none.
            let most = if port == MEDIA { asked + asked / 10 + 100 } else { asked * 10 };
            ensure!(
                (asked..=most).contains(&through),
                "{what}, {family}: {through} packets to the edge node for {asked} requests"
            );
            for (way, times) in ["without", "with"].into_iter().zip(times) {
                found.push(Latency::of(format!("{what}, {family}, {way}"), times));
            }
        }
    }
    Ok(found)
}

/// Sends a request and reads its answer.
type Ask = fn(SocketAddr, u64) -> Result<()>;

/// Times of either target, asked by turns.
fn turns(ask: Ask, targets: [SocketAddr; 2], requests: u32) -> Result<[Vec<Duration>; 2]> {
    let mut times = [Vec::new(), Vec::new()];
    for n in 0..WARM_UP + requests {
        for (target, times) in targets.into_iter().zip(&mut times) {
            let begun = Instant::now();
            ask(target, n.into()).with_context(|| format!("request {n} to {target}"))?;
            if n >= WARM_UP {
                times.push(begun.elapsed());
            }
        }
    }
    Ok(times)
}

/// From a port of its own, as a new client would.
fn echo(target: SocketAddr, n: u64) -> Result<()> {
    let any = if target.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any)?;
    socket.set_read_timeout(Some(BOUND))?;
    socket.connect(target)?;
    socket.send(&n.to_be_bytes())?;
    let mut answer = [0; 512];
    let length = socket.recv(&mut answer)?;
    ensure!(answer[..length].starts_with(&n.to_be_bytes()), "the answer is another's");
    Ok(())
}

fn http(target: SocketAddr, _: u64) -> Result<()> {
    let mut stream = TcpStream::connect_timeout(&target, BOUND)?;
    stream.set_read_timeout(Some(BOUND))?;
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    ensure!(answer.contains(" 200 "), "{answer}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_a_time_that_was_measured() {
        let times = (1..=1000).rev().map(Duration::from_micros).collect();
        assert_eq!(Latency::of("x".into(), times).percentiles, [500.0, 900.0, 990.0, 999.0]);
        let few = vec![Duration::from_micros(7), Duration::from_micros(3)];
        assert_eq!(Latency::of("x".into(), few).percentiles, [3.0, 7.0, 7.0, 7.0]);
        assert_eq!(Latency::of("x".into(), Vec::new()).percentiles, [0.0; 4]);
    }
}
