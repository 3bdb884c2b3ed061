//! Datagrams of 6 kB in fragments through the whole tier, over a fabric that has room for the tunnel: in order, reversed,
//! spread over two edge nodes.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use socket2::{Domain, Protocol, Socket, Type};
use xdp_lb_tests::lab::files::{self, MEDIA};
use xdp_lb_tests::lab::{EdgeFile, Host, Lab, Leaks, Mode, Node, Options, Tier, skip, wait_until};
use xdp_lb_tests::packet::eth;

const BOUND: Duration = Duration::from_secs(10);
const MACS: (&str, &str) = ("02:00:00:00:00:01", "02:00:00:00:00:02");
const LENGTH: usize = 6000;

/// Sends every datagram back as it came, until it is dropped.
struct Echo {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Echo {
    fn start(hosts: &[Host]) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let mut threads = Vec::new();
        for host in hosts {
            // Replies leave in fragments that the client's link can carry: nobody may cut IPv6 on its way.
            host.ns.sysctl("net/ipv6/conf/eth0/mtu", "1500")?;
            for address in files::at(MEDIA) {
                let socket = host.ns.enter(|| UdpSocket::bind(address))??;
                socket.set_read_timeout(Some(Duration::from_millis(100)))?;
                let stop = Arc::clone(&stop);
                threads.push(thread::spawn(move || {
                    let mut buffer = vec![0; 1 << 16];
                    while !stop.load(Relaxed) {
                        if let Ok((length, client)) = socket.recv_from(&mut buffer) {
                            // What cannot be sent is lost, and the client misses it.
                            drop(socket.send_to(&buffer[..length], client));
                        }
                    }
                }));
            }
        }
        Ok(Self { stop, threads })
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.stop.store(true, Relaxed);
        for thread in self.threads.drain(..) {
            drop(thread.join());
        }
    }
}

/// A client of one VIP that may send its datagrams in fragments of its own making.
struct Client {
    own: SocketAddr,
    vip: SocketAddr,
    socket: UdpSocket,
    raw: Socket,
    datagrams: u16,
}

impl Client {
    fn new(host: &Host, vip: SocketAddr) -> Result<Self> {
        let own = SocketAddr::new(host.role.address().like(vip.ip()), 0);
        let socket = host.ns.enter(|| UdpSocket::bind(own))??;
        socket.set_read_timeout(Some(BOUND))?;
        let domain = if vip.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
        // IPPROTO_RAW: we write the IP header.
        let raw = host.ns.enter(|| Socket::new(domain, Type::RAW, Some(Protocol::from(255))))??;
        Ok(Self { own: socket.local_addr()?, vip, socket, raw, datagrams: 0 })
    }

    fn payload(&mut self) -> Vec<u8> {
        self.datagrams += 1;
        let number = self.datagrams;
        (0..LENGTH as u16).map(|n| (n.wrapping_mul(31) ^ number) as u8).collect()
    }

    /// The packets of one datagram in order, and what it holds.
    fn fragments(&mut self) -> (Vec<Vec<u8>>, Vec<u8>) {
        let payload = self.payload();
        let (id, to, from) = (self.datagrams, MACS.0, MACS.1);
        let (source, destination) = (self.own.port(), self.vip.port());
        let packets = match (self.own.ip(), self.vip.ip()) {
            (IpAddr::V4(client), IpAddr::V4(vip)) => {
                let ip = || eth(to, from).ipv4(client, vip).id(id);
                let udp = ip().udp(source, destination).payload(&payload).build().split_off(14 + 20);
                let part = |(n, part): (usize, &[u8])| {
                    let at = n * 1480;
                    let ip = ip().fragment(at as u16, at + part.len() < udp.len()).protocol(17);
                    ip.payload(part).build().split_off(14)
                };
                udp.chunks(1480).enumerate().map(part).collect()
            }
            (IpAddr::V6(client), IpAddr::V6(vip)) => {
                let ip = || eth(to, from).ipv6(client, vip);
                let udp = ip().udp(source, destination).payload(&payload).build().split_off(14 + 40);
                let part = |(n, part): (usize, &[u8])| {
                    let at = n * 1448;
                    let ip = ip().fragment_header(at as u16, at + part.len() < udp.len(), id.into());
                    ip.next_header(17).payload(part).build().split_off(14)
                };
                udp.chunks(1448).enumerate().map(part).collect()
            }
            _ => unreachable!("both addresses are of one family"),
        };
        (packets, payload)
    }

    fn send(&self, packets: &[Vec<u8>]) -> Result<()> {
        let to = SocketAddr::new(self.vip.ip(), 0).into();
        for packet in packets {
            self.raw.send_to(packet, &to).context("send a fragment")?;
        }
        Ok(())
    }

    /// The answer is what was sent.
    fn is_answered(&self, payload: &[u8]) -> Result<()> {
        let mut buffer = vec![0; 1 << 16];
        let (length, from) = self.socket.recv_from(&mut buffer).context("no answer")?;
        ensure!(
            from == self.vip && &buffer[..length] == payload,
            "another answer, {length} bytes from {from}"
        );
        Ok(())
    }
}

/// The file of an edge node with one UDP service only.
fn file(n: u8, affinity: &str) -> String {
    let text = EdgeFile::new(3).text(n);
    let (text, _) = text.split_once("  - name: media6").expect("the last service");
    text.replace("    protocol: udp\n", &format!("    protocol: udp\n    affinity: {affinity}\n"))
}

/// Packets dropped for `reason`.
fn drops(node: &Node, reason: &str) -> Result<u64> {
    let said = node.command("status", &["-o", "json"])?;
    let status: serde_json::Value = serde_json::from_str(&said.stdout)?;
    let drops = status["drops"].as_array().context("no drops")?;
    let of_reason = drops.iter().find(|drop| drop["reason"] == reason);
    Ok(of_reason.and_then(|drop| drop["packets"].as_u64()).unwrap_or(0))
}

#[test]
fn by_client_fragments_come_in_any_order_to_any_edge() -> Result<()> {
    if !skip::can_run(skip::LAB) {
        return Ok(());
    }
    let before = Leaks::note()?;
    let lab = Lab::start(&Options::default())?;
    let id = lab.id();
    {
        let _servers = Echo::start(lab.backends())?;
        let tier = Tier::start(&lab, Mode::Native, |n| file(n, "client-ip"))?;
        for vip in files::at(MEDIA) {
            let mut client = Client::new(lab.client(1), vip)?;
            for _ in 0..20 {
                // The kernel's own fragments.
                let payload = client.payload();
                client.socket.send_to(&payload, vip)?;
                client.is_answered(&payload).context("in order")?;
                let (mut packets, payload) = client.fragments();
                ensure!(packets.len() == 5);
                packets.reverse();
                client.send(&packets)?;
                client.is_answered(&payload).context("reversed")?;
            }
            for (here, there) in [(1, 2), (2, 1)] {
                let (packets, payload) = client.fragments();
                lab.withdraw_edge(there)?;
                client.send(&packets[..2])?;
                lab.announce_edge(there)?;
                lab.withdraw_edge(here)?;
                client.send(&packets[2..])?;
                lab.announce_edge(here)?;
                client.is_answered(&payload).context("spread")?;
            }
        }
        for edge in &tier.edges {
            let said = edge.command("status", &["-o", "json"])?.stdout;
            ensure!(!said.contains("fragment_"), "{said}");
        }
    }
    drop(lab);
    before.check(id)
}

#[test]
fn by_ports_fragments_follow_their_first_and_others_are_counted() -> Result<()> {
    if !skip::can_run(skip::LAB) {
        return Ok(());
    }
    let before = Leaks::note()?;
    let lab = Lab::start(&Options::default())?;
    let id = lab.id();
    {
        let _servers = Echo::start(lab.backends())?;
        let tier = Tier::start(&lab, Mode::Native, |n| file(n, "five-tuple"))?;
        let (one, two) = (&tier.edges[0], &tier.edges[1]);
        let (mut early_at_one, mut early_at_two) = (0, 0);
        for vip in files::at(MEDIA) {
            lab.withdraw_edge(2)?;
            // Many ports: the datagrams go to all backends.
            for _ in 0..20 {
                let mut client = Client::new(lab.client(1), vip)?;
                let payload = client.payload();
                client.socket.send_to(&payload, vip)?;
                client.is_answered(&payload).context("in order")?;
                let (packets, payload) = client.fragments();
                client.send(&packets[..1])?;
                client.send(&[&packets[3..], &packets[1..3]].concat())?;
                client.is_answered(&payload).context("the first one first")?;
            }
            let mut client = Client::new(lab.client(1), vip)?;
            // Four before their first one: all lost.
            let (mut packets, _) = client.fragments();
            packets.reverse();
            client.send(&packets)?;
            early_at_one += 4;
            wait_until("early fragments at edge1", BOUND, || {
                drops(one, "fragment_early").is_ok_and(|drops| drops == early_at_one)
            })?;
            // The first one at one edge node, the others at another.
            let (packets, _) = client.fragments();
            client.send(&packets[..1])?;
            lab.announce_edge(2)?;
            lab.withdraw_edge(1)?;
            client.send(&packets[1..])?;
            early_at_two += 4;
            wait_until("early fragments at edge2", BOUND, || {
                drops(two, "fragment_early").is_ok_and(|drops| drops == early_at_two)
            })?;
            lab.announce_edge(1)?;
            // None of the two has been answered: the next answer is the next datagram's.
            let payload = client.payload();
            client.socket.send_to(&payload, vip)?;
            client.is_answered(&payload).context("afterwards")?;
        }
    }
    drop(lab);
    before.check(id)
}
