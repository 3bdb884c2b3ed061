//! Real packets through the product's own binary: a client, a router, an edge node and two backends in namespaces.
//!
//! First the edge node alone, with a raw socket on the backend that sees the tunnel packet as it arrives; then decap
//! on the backends, servers, and requests of both protocols in all four pairs of inner and outer header.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use xdp_lb::dataplane::{BpffsRoot, KernelMaps};
use xdp_lb::state::Maps as _;

use super::sys;
use crate::lab::files::{self, MEDIA, VIP};
use crate::lab::product::Daemon;
use crate::lab::traffic::{DatagramOptions, Datagrams, Load, LoadOptions};
use crate::lab::{EdgeFile, Lab, Mode, Node, Options, plan};
use crate::prog::Tally;

/// An emulated machine is a tenth as fast as it looks.
const BOUND: Duration = Duration::from_secs(60);
/// Times that a real machine's bound is waited for.
const PATIENCE: u32 = 4;
/// Datagrams of the first part.
const DATAGRAMS: u64 = 8;
/// Requests to each TCP service.
const REQUESTS: u64 = 60;

pub fn check() -> Result<()> {
    let lab = Lab::start(&Options { edges: 1, backends: 2, ..Options::default() })?;
    let file = EdgeFile::new(2);
    let mut edge = Node::start(&lab, lab.edge(1), Daemon::Run, &file.text(1))?;
    ready(&mut edge).context("xdp-lb run")?;
    let root = BpffsRoot::new(&edge.bpffs);

    let before = tally(&root)?;
    tunnelled(&lab)?;
    let after = tally(&root)?;
    let forwarded = after.forwarded.packets - before.forwarded.packets;
    ensure!(forwarded == DATAGRAMS, "{DATAGRAMS} datagrams sent, {forwarded} counted");
    ensure!(after.counters.drops == before.counters.drops, "drops: {:?}", after.counters.drops);

    let decap = files::decap_file(Mode::Native);
    let mut decaps = Vec::new();
    for host in lab.backends() {
        decaps.push(Node::start(&lab, host, Daemon::Decap, &decap)?);
    }
    for node in &mut decaps {
        ready(node).context("xdp-lb decap")?;
    }
    let _servers = files::serve(lab.backends())?;
    requests(&lab)?;
    let end = tally(&root)?;
    ensure!(
        end.forwarded.packets - after.forwarded.packets > 4 * REQUESTS,
        "requests were answered, but not through the balancer: {end:?}"
    );
    ensure!(end.counters.drops == before.counters.drops, "drops: {:?}", end.counters.drops);

    for node in decaps.iter_mut().chain([&mut edge]) {
        node.product.terminate()?;
        let detached = node.command("detach", &[])?;
        ensure!(detached.status.success(), "xdp-lb detach: {}", detached.stderr);
        ensure!(!node.bpffs.exists(), "{} is left", node.bpffs.display());
        ensure!(!node.host().ns.netlink().has_xdp("eth0")?, "{} still runs a program", node.host().ns.name());
    }
    Ok(())
}

/// Waits until a daemon is ready, a few times as long as on a real machine: its programs are verified by an emulated
/// processor.
fn ready(node: &mut Node<'_>) -> Result<()> {
    for _ in 1..PATIENCE {
        if node.product.wait_ready().is_ok() {
            break;
        }
    }
    node.product.wait_ready()
}

/// What the edge node has counted.
fn tally(root: &BpffsRoot) -> Result<Tally> {
    let maps = KernelMaps::open_read_only(root)?;
    let mut tally = Tally::from(maps.counters()?);
    for id in maps.observe().services.keys() {
        tally.forwarded.packets += maps.service_traffic(*id)?.packets;
    }
    Ok(tally)
}

/// Sends datagrams to the VIP and looks at each as it reaches the one backend that has the flow.
fn tunnelled(lab: &Lab) -> Result<()> {
    let sockets: Vec<UdpSocket> = lab
        .backends()
        .iter()
        .map(|host| {
            let socket =
                host.ns.enter(|| sys::raw_socket(libc::IPPROTO_IPIP))?.context("open a raw socket")?;
            // The one that does not have the flow is asked as well, and waits in vain.
            socket.set_nonblocking(true)?;
            Ok(socket)
        })
        .collect::<Result<_>>()?;
    let target = SocketAddr::new(plan::vip(VIP).v4.into(), MEDIA);
    let client = lab.client(1).ns.enter(|| -> std::io::Result<UdpSocket> {
        let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        socket.connect(target)?;
        Ok(socket)
    })??;
    let SocketAddr::V4(source) = client.local_addr()? else { bail!("an IPv4 socket with another address") };
    for number in (0..DATAGRAMS).map(|n| n as u8) {
        client.send(&[number; 32])?;
        let mut packet = [0; 2048];
        let (length, backend) = crate::lab::wait_for("a tunnel packet at a backend", BOUND, || {
            sockets
                .iter()
                .zip(lab.backends())
                .find_map(|(socket, host)| Some((socket.recv(&mut packet).ok()?, host.role.address().v4)))
        })?;
        let wanted = Wanted { backend, source: *source.ip(), port: source.port(), number };
        wanted
            .compare(&packet[..length])
            .with_context(|| format!("tunnel packet {:02x?}", &packet[..length]))?;
    }
    Ok(())
}

/// The tunnel packet of a datagram.
struct Wanted {
    backend: Ipv4Addr,
    source: Ipv4Addr,
    port: u16,
    number: u8,
}

impl Wanted {
    /// Outer header, inner header, and the payload byte for byte.
    fn compare(&self, packet: &[u8]) -> Result<()> {
        let length = 20 + 20 + 8 + 32;
        ensure!(packet.len() == length, "{} bytes, not {length}", packet.len());
        let (outer, inner) = packet.split_at(20);
        let address = |bytes: &[u8]| <[u8; 4]>::try_from(bytes).map(Ipv4Addr::from).context("no address");
        ensure!(outer[0] == 0x45 && outer[9] == 4, "not IP in IP");
        ensure!(outer[6..8] == [0x40, 0], "the outer header may be fragmented");
        // The balancer's 64, and one router.
        ensure!(outer[8] == 63, "outer TTL {}", outer[8]);
        ensure!(crate::packet::internet_checksum(&[outer]) == 0, "outer checksum");
        let (IpAddr::V4(network), bits) = plan::tunnel_sources(1)[0] else { bail!("no IPv4 prefix") };
        let mask = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
        let from = address(&outer[12..16])?;
        ensure!(u32::from(from) & mask == u32::from(network), "outer source {from}");
        ensure!(address(&outer[16..20])? == self.backend, "outer destination");
        ensure!(inner[0] == 0x45 && inner[9] == 17 && inner[8] == 63, "inner header");
        ensure!(address(&inner[12..16])? == self.source, "inner source");
        ensure!(address(&inner[16..20])? == plan::vip(VIP).v4, "inner destination");
        ensure!(inner[20..24] == [self.port.to_be_bytes(), MEDIA.to_be_bytes()].concat(), "inner ports");
        ensure!(inner[28..] == [self.number; 32], "payload");
        Ok(())
    }
}

/// Requests and streams to every service, all answered by a server that saw the client's own address.
fn requests(lab: &Lab) -> Result<()> {
    let ns = &lab.client(1).ns;
    for target in files::tcp() {
        let options =
            LoadOptions { clients: 4, rate: 100.0, timeout: Duration::from_secs(20), requests: REQUESTS };
        let report = Load::start(ns, &[target], options)?.finish(BOUND)?;
        ensure!(report.failures() == 0 && report.answers() == REQUESTS, "{target}: {report:?}");
        ensure!(report.answered.len() == 2, "{target}: {:?}", report.answered);
    }
    for target in files::udp() {
        let options = DatagramOptions {
            flows: 4,
            datagrams: 10,
            timeout: Duration::from_secs(20),
            ..DatagramOptions::default()
        };
        let flows = Datagrams::start(ns, target, options)?.finish(BOUND)?;
        ensure!(flows.iter().all(|flow| flow.is_unharmed() && flow.answered == 10), "{target}: {flows:#?}");
    }
    Ok(())
}
