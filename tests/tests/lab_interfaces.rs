//! Interfaces that do what interfaces do: they go and come back, and carry frames of 9000 bytes.

use std::io::Read as _;
use std::net::{Ipv4Addr, UdpSocket};
use std::os::fd::AsFd as _;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use socket2::{Domain, Protocol, Socket, Type};
use xdp_lb::dataplane::{BpffsRoot, KernelMaps, load::knows_frags};
use xdp_lb_tests::lab::bpffs::BpfRoot;
use xdp_lb_tests::lab::netlink::{VethEnd, Via};
use xdp_lb_tests::lab::product::{READY_BOUND, run_to_end};
use xdp_lb_tests::lab::sys::{Offload, load_xdp_frags_return};
use xdp_lb_tests::lab::{Daemon, Leaks, Lifetime, Product, Rig, skip, wait_until};

const BOUND: Duration = Duration::from_secs(20);
const VIP: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
/// IPv4 in IPv4.
const IPIP: i32 = 4;
/// `XDP_PASS`.
const PASS: u32 = 2;
/// MTU of the jumbo frames.
const JUMBO: u32 = 9000;
/// Payload of the longest datagram that fits the tunnel: less two IPv4 headers and one of UDP.
const LONGEST: usize = 9000 - 48;

/// An edge node on two interfaces, `router` and `spare`.
const CONFIG: &str = r#"
version: 1
node: { name: interfaces }
interfaces: [{ name: router, mode: generic }, { name: spare, mode: generic }]
encap: { kind: ipip, source_v4: 172.16.0.1/32 }
maglev: { table_size: 251, seed: 20240229 }
flow_table: { entries: 1024 }
limits: { services: 64, vips: 64, backends: 256, ring_slots: 8192, port_pages: 512, backend_stats: 64 }
services:
  - { name: sip, vip: 203.0.113.10, protocol: udp, ports: 5060, backends: [{ address: 10.99.1.2 }] }
"#;

/// The agent attaches to what comes back by itself, and what stays is never without the program.
#[test]
fn an_interface_that_went_and_came_back_runs_the_program() -> Result<()> {
    if !skip::can_run(skip::LAB) {
        return Ok(());
    }
    let before = Leaks::note()?;
    let mut rig = Rig::start(&["edge", "router", "spare"])?;
    let id = rig.id();
    rig.link("edge", "router")?;
    rig.link("edge", "spare")?;
    {
        let bpffs = BpfRoot::create(id, Lifetime::Dropped)?;
        let file = rig.path().join("edge.yaml");
        std::fs::write(&file, CONFIG)?;
        let edge = rig.host("edge");
        let extra = ["--on-exit", "detach"];
        let mut product = Product::start(edge, Daemon::Run, &file, &bpffs.of("edge"), &extra)?;
        ensure!(edge.netlink().has_xdp("spare")?, "the program is not there to begin with");

        let mark = product.process().mark();
        let mut delete = Command::new("ip");
        delete.args(["link", "del", "spare"]);
        ensure!(run_to_end(edge, "ip", delete, READY_BOUND)?.status.success(), "ip link del spare");
        product.process().wait_line(mark, "there is no interface spare", BOUND)?;
        ensure!(edge.netlink().has_xdp("router")?, "the other interface has lost the program");

        let end = |name: &str, last| VethEnd {
            name: name.into(),
            mac: [2, 0x72, 0x67, 9, 0, last],
            mtu: 1500,
            queues: 1,
        };
        edge.netlink().add_veth(&end("spare", 1), &end("back", 2), rig.host("spare").fd())?;
        wait_until("the program on the interface that came back", BOUND, || {
            edge.netlink().has_xdp("spare").unwrap_or_default()
        })?;
        product.terminate()?;
        ensure!(!edge.netlink().has_xdp("spare")?, "the program stays after detach");
    }
    drop(rig);
    before.check(id)
}

/// Packets of several pages: into the tunnel whole, and answered where they do not fit.
#[test]
fn jumbo_frames_are_balanced_in_the_driver() -> Result<()> {
    if !skip::can_run(skip::LAB) {
        return Ok(());
    }
    if !knows_frags() {
        skip::say("the kernel knows XDP with one buffer alone; Linux 5.18 knows more");
        return Ok(());
    }
    let before = Leaks::note()?;
    let mut rig = Rig::start(&["edge", "router"])?;
    let id = rig.id();
    let ends = rig.link("edge", "router")?;
    {
        let (edge, router) = (rig.host("edge"), rig.host("router"));
        edge.netlink().set_mtu("router", JUMBO)?;
        router.netlink().set_mtu("edge", JUMBO)?;
        for offload in [Offload::Tso, Offload::Gso, Offload::TxChecksum] {
            router.set_offload("edge", offload, false)?;
        }
        // What XDP sends arrives where a program is.
        let pass = load_xdp_frags_return(PASS)?;
        router.netlink().attach_xdp("edge", pass.as_fd())?;
        router.netlink().set_route((VIP.into(), 32), &[Via::gateway("edge", ends.a.v4.into())])?;
        let bpffs = BpfRoot::create(id, Lifetime::Dropped)?;
        let file = rig.path().join("edge.yaml");
        let config = CONFIG.replace(", { name: spare, mode: generic }", "").replace("generic", "native");
        std::fs::write(&file, config)?;
        let root = bpffs.of("edge");
        let mut product = Product::start(edge, Daemon::Run, &file, &root, &["--on-exit", "detach"])?;

        let backend = router.enter(|| raw_socket(Protocol::from(IPIP)))??;
        backend.set_read_timeout(Some(BOUND))?;
        let client = router.enter(|| UdpSocket::bind((ends.b.v4, 0)))??;
        client.connect((VIP, 5060))?;
        for length in [100, 3400, 3500, 8000, LONGEST] {
            let payload: Vec<u8> = (0..length).map(|n| (n % 251) as u8).collect();
            client.send(&payload)?;
            let mut packet = vec![0; 16_384];
            let received = (&backend).read(&mut packet).with_context(|| format!("{length} bytes"))?;
            ensure!(received == 48 + length, "{received} bytes for {length}");
            ensure!(packet[48..received] == payload[..], "a datagram of {length} bytes came changed");
        }
        // One byte more does not fit, and the sender hears of it.
        let maps = KernelMaps::open_read_only(&BpffsRoot::new(&root))?;
        client.send(&vec![0; LONGEST + 1])?;
        wait_until("an answer to what does not fit", BOUND, || {
            maps.counters().is_ok_and(|counters| counters.passes.too_big_answered == 1)
        })?;
        wait_until("the path's MTU at the sender", BOUND, || {
            let mut route = Command::new("ip");
            route.args(["route", "get", "203.0.113.10"]);
            run_to_end(router, "ip", route, READY_BOUND).is_ok_and(|said| said.stdout.contains("mtu 8980"))
        })?;
        let drops = maps.counters()?.drops;
        ensure!(drops == Default::default(), "{drops:?}");
        product.terminate()?;
    }
    drop(rig);
    before.check(id)
}

fn raw_socket(protocol: Protocol) -> std::io::Result<Socket> {
    Socket::new(Domain::IPV4, Type::RAW, Some(protocol))
}
