//! VLAN devices and a bond, as an operator names them: the product runs below, and packets leave with the right tag.
//!
//! ```text
//!   world                                                  edge
//!     p0.100  10.100.0.2, the client   --.    .-- e0.100   10.100.0.1   interfaces: e0.100, bond0
//!     p0.200  10.200.0.2, a backend   ----p0--e0- e0.200   10.200.0.1
//!     bond0   10.44.0.2,  a backend -+----p1--e1--+- bond0 10.44.0.1    one member carries, the other waits
//!                                    '----p2--e2--'
//! ```

use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::os::fd::AsFd as _;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use super::sys;
use crate::lab::netlink::{VethEnd, Via};
use crate::lab::product::{Daemon, Product};
use crate::lab::sys::{Offload, load_xdp_return};
use crate::lab::{Rig, wait_for};

/// An emulated machine is a tenth as fast as it looks.
const BOUND: Duration = Duration::from_secs(60);
/// Times that a real machine's bound is waited for.
const PATIENCE: u32 = 4;
/// `XDP_PASS`.
const PASS: u32 = 2;
const VIP: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 100, 0, 2);
const IN_VLAN: Ipv4Addr = Ipv4Addr::new(10, 200, 0, 2);
const BEHIND_BOND: Ipv4Addr = Ipv4Addr::new(10, 44, 0, 2);
/// Ports of the services, one for each backend.
const PORTS: [(u16, Ipv4Addr); 2] = [(7000, IN_VLAN), (7001, BEHIND_BOND)];

const CONFIG: &str = r#"
version: 1
node: { name: vlans }
interfaces:
  - { name: e0.100, mode: native }
  - { name: bond0, mode: native }
encap: { kind: ipip, source_v4: 172.16.0.1/32 }
maglev: { table_size: 251, seed: 20240229 }
flow_table: { entries: 1024 }
limits: { services: 64, vips: 64, backends: 256, ring_slots: 8192, port_pages: 512, backend_stats: 64 }
services:
  - { name: in-vlan, vip: 203.0.113.10, protocol: udp, ports: 7000, backends: [{ address: 10.200.0.2 }] }
  - { name: behind-bond, vip: 203.0.113.10, protocol: udp, ports: 7001, backends: [{ address: 10.44.0.2 }] }
"#;

pub fn check() -> Result<()> {
    let rig = Rig::start(&["edge", "world"])?;
    draw(&rig)?;
    let (edge, world) = (rig.host("edge"), rig.host("world"));
    let file = rig.path().join("edge.yaml");
    std::fs::write(&file, CONFIG).context("write the configuration")?;
    let bpffs = std::path::PathBuf::from(format!("/sys/fs/bpf/xlb-vlans-{}", std::process::id()));
    let extra = ["--on-exit", "detach"];
    let mut product = Product::start_unready(edge, Daemon::Run, &file, &bpffs, &extra)?;
    for _ in 1..PATIENCE {
        if product.wait_ready().is_ok() {
            break;
        }
    }
    product.wait_ready()?;
    for (name, runs) in [("e0", true), ("e1", true), ("e2", true), ("e0.100", false), ("bond0", false)] {
        ensure!(edge.netlink().has_xdp(name)? == runs, "{name} runs a program: {}", !runs);
    }

    let sniffer = world.enter(|| sys::raw_socket(libc::IPPROTO_IPIP))?.context("open a raw socket")?;
    sniffer.set_nonblocking(true)?;
    let client = world.enter(|| UdpSocket::bind((CLIENT, 0)))??;
    for (port, backend) in PORTS {
        tunnelled(&client, &sniffer, port, backend)?;
    }
    let came = |name: &str| Ok::<_, anyhow::Error>(world.netlink().counters(name)?.rx_packets);
    let before = [came("p0.200")?, came("p1")?, came("p2")?];
    for (port, backend) in PORTS {
        for _ in 0..8 {
            tunnelled(&client, &sniffer, port, backend)?;
        }
    }
    ensure!(came("p0.200")? >= before[0] + 8, "the tunnels did not come in VLAN 200");
    ensure!(came("p1")? >= before[1] + 8, "the tunnels did not come by the first member");

    // The first member fails. Its packets are lost until the agent has heard of it.
    edge.netlink().set_up("e1", false)?;
    wait_for("a tunnel by the other member", BOUND, || {
        tunnelled_soon(&client, &sniffer, 7001, BEHIND_BOND).ok()
    })?;
    ensure!(came("p2")? > before[2], "the tunnel did not come by the other member");
    product.terminate()?;
    ensure!(!edge.netlink().has_xdp("e0")?, "e0 still runs a program");
    ensure!(!bpffs.exists(), "{} is left", bpffs.display());
    Ok(())
}

fn draw(rig: &Rig) -> Result<()> {
    let (edge, world) = (rig.host("edge"), rig.host("world"));
    let pass = load_xdp_return(PASS).context("load the pass program")?;
    for n in 0..3 {
        let end = |side: &str, last| VethEnd {
            name: format!("{side}{n}"),
            mac: [2, 0x76, 0x6c, n, 0, last],
            mtu: 1600,
            queues: 2,
        };
        edge.netlink().add_veth(&end("e", 1), &end("p", 2), world.fd())?;
        for (ns, name) in [(edge, format!("e{n}")), (world, format!("p{n}"))] {
            for offload in [Offload::Tso, Offload::Gso, Offload::Gro, Offload::TxChecksum, Offload::Flags] {
                ns.set_offload(&name, offload, false)?;
            }
        }
    }
    for (ns, side, host) in [(edge, "e", 1), (world, "p", 2)] {
        let name = |n: u8| format!("{side}{n}");
        ns.netlink().set_up(&name(0), true)?;
        ns.netlink().add_bond("bond0", &[&name(1), &name(2)])?;
        for (third, id) in [(100, 100), (200, 200)] {
            let vlan = format!("{side}0.{id}");
            ns.netlink().add_vlan(&name(0), &vlan, id)?;
            ns.netlink().add_address(&vlan, (Ipv4Addr::new(10, third, 0, host).into(), 24))?;
        }
        ns.netlink().add_address("bond0", (Ipv4Addr::new(10, 44, 0, host).into(), 24))?;
    }
    // What XDP sends arrives where a program is.
    for n in 0..3 {
        world.netlink().attach_xdp(&format!("p{n}"), pass.as_fd())?;
    }
    let way = Via::gateway("p0.100", Ipv4Addr::new(10, 100, 0, 1).into());
    world.netlink().set_route((VIP.into(), 32), &[way])
}

/// Sends a datagram and waits for its tunnel.
fn tunnelled(client: &UdpSocket, sniffer: &UdpSocket, port: u16, backend: Ipv4Addr) -> Result<()> {
    client.send_to(b"vlan", (VIP, port))?;
    wait_for(&format!("a tunnel to {backend}"), BOUND, || received(sniffer, backend).ok())
}

/// The same, for one that may be lost.
fn tunnelled_soon(client: &UdpSocket, sniffer: &UdpSocket, port: u16, backend: Ipv4Addr) -> Result<()> {
    client.send_to(b"vlan", (VIP, port))?;
    wait_for(&format!("a tunnel to {backend}"), Duration::from_secs(1), || received(sniffer, backend).ok())
}

fn received(sniffer: &UdpSocket, backend: Ipv4Addr) -> Result<()> {
    let mut packet = [0; 256];
    let length = sniffer.recv(&mut packet)?;
    let address =
        |at: usize| <[u8; 4]>::try_from(&packet[at..at + 4]).map(|a| IpAddr::from(Ipv4Addr::from(a)));
    ensure!(length == 20 + 20 + 8 + 4, "{length} bytes");
    ensure!(address(16)? == backend && address(20 + 12)? == CLIENT && address(20 + 16)? == VIP, "another's");
    Ok(())
}
