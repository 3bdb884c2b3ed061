//! The lab itself under test: it carries traffic as a real network does, counts every packet, and leaves nothing.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::process::Command;
use std::sync::mpsc;
use std::time::Duration;

use anyhow::Result;
use xdp_lb_tests::lab::id::LabId;
use xdp_lb_tests::lab::netlink::Via;
use xdp_lb_tests::lab::remains::{self, Remain};
use xdp_lb_tests::lab::topology::{HOST_INTERFACE, XDP_TX};
use xdp_lb_tests::lab::traffic::{
    ConnectionOptions, Connections, DatagramOptions, Datagrams, End, Load, LoadOptions, Nginx, Seen, Server,
    curl,
};
use xdp_lb_tests::lab::{
    Forwarder, Host, Lab, Leaks, Lifetime, Namespace, Options, Role, Signal, janitor, plan, skip, sys,
    wait_until,
};

const BOUND: Duration = Duration::from_secs(20);
const PORT: u16 = 8080;
/// Neighbour discovery and the like: packets that a test has not sent but counts.
const NOISE: u64 = 30;

fn at(addresses: [IpAddr; 2]) -> [SocketAddr; 2] {
    addresses.map(|ip| SocketAddr::new(ip, PORT))
}

/// Every edge node has the VIP and answers itself: what a client meets is the router's choice.
fn edges_answer(lab: &Lab, vip: [IpAddr; 2]) -> Vec<Server> {
    let start = |edge: &Host| {
        edge.add_to_lo(&vip).unwrap();
        Server::start(&edge.ns, &edge.role.name(), &at(vip)).unwrap()
    };
    lab.edges().iter().map(start).collect()
}

#[test]
fn a_client_reaches_every_backend_over_both_families() -> Result<()> {
    if !skip::can_run(&[skip::LAB, &[skip::NGINX, skip::CURL]].concat()) {
        return Ok(());
    }
    let before = Leaks::note()?;
    let lab = Lab::start(&Options::default())?;
    let id = lab.id();
    let client = lab.client(1);
    for backend in lab.backends() {
        let name = backend.role.name();
        let _nginx = Nginx::start(&backend.ns, &name, &at(backend.role.address().both()), lab.scratch())?;
        for target in at(backend.role.address().both()) {
            let seen = curl(&client.ns, target, BOUND)?;
            assert_eq!(seen.server, name);
            assert_eq!(seen.client.ip(), client.role.address().like(target.ip()));
            let load = LoadOptions { requests: 50, rate: 1000.0, ..LoadOptions::default() };
            let report = Load::start(&client.ns, &[target], load)?.finish(BOUND)?;
            assert_eq!((report.answered.get(&name), report.failures()), (Some(&50), 0), "{report:?}");
        }
    }
    drop(lab);
    before.check(id)
}

#[test]
fn the_router_spreads_flows_over_the_edges_and_follows_withdrawals() -> Result<()> {
    if !skip::can_run(skip::LAB) {
        return Ok(());
    }
    let lab = Lab::start(&Options::default())?;
    let vip = plan::vip(10).both();
    let servers = edges_answer(&lab, vip);
    let client = lab.client(1);
    for target in at(vip) {
        let load = || {
            let options = LoadOptions { requests: 200, rate: 2000.0, ..LoadOptions::default() };
            Load::start(&client.ns, &[target], options)?.finish(BOUND)
        };
        let report = load()?;
        assert_eq!(report.failures(), 0, "{report:?}");
        for edge in ["edge1", "edge2"] {
            // 200 fair coins: fewer than 60 heads is a chance of 1 in 10^8.
            assert!(report.answered.get(edge).is_some_and(|n| *n >= 60), "{target}: {report:?}");
        }

        lab.withdraw_edge(1)?;
        let report = load()?;
        assert_eq!(
            (report.answered.get("edge2"), report.failures()),
            (Some(&200), 0),
            "{target}: {report:?}"
        );
        lab.announce_edge(1)?;

        lab.cut(lab.edge(2))?;
        let report = load()?;
        assert_eq!(
            (report.answered.get("edge1"), report.failures()),
            (Some(&200), 0),
            "{target}: {report:?}"
        );
        lab.mend(lab.edge(2))?;
        lab.announce_edge(2)?;
        let report = load()?;
        assert_eq!((report.answered.len(), report.failures()), (2, 0), "{target}: {report:?}");
    }
    assert!(lab.withdraw_edge(1).and_then(|()| lab.withdraw_edge(2)).is_err(), "the last edge cannot go");
    servers.into_iter().try_for_each(Server::stop)
}

#[test]
fn long_connections_and_streams_count_what_happens_to_them() -> Result<()> {
    if !skip::can_run(skip::LAB) {
        return Ok(());
    }
    let lab = Lab::start(&Options::default())?;
    let vip = plan::vip(10).both();
    let mut servers = edges_answer(&lab, vip);
    let client = lab.client(1);
    for target in at(vip) {
        let options = ConnectionOptions { connections: 20, payload: 4000, ..ConnectionOptions::default() };
        let connections = Connections::start(&client.ns, target, options)?;
        let streams = Datagrams::start(
            &client.ns,
            target,
            DatagramOptions { flows: 20, ..DatagramOptions::default() },
        )?;
        connections.wait_records(5, BOUND)?;
        streams.wait_answers(5, BOUND)?;
        assert_eq!(connections.harmed(), []);
        assert_eq!(connections.open_by_server().len(), 2, "{:?}", connections.report());
        assert!(streams.report().iter().all(|flow| flow.is_unharmed()), "{:?}", streams.report());

        // The router sends edge1's flows to edge2, which knows none of them: TCP is reset, UDP moves.
        let of_edge1 = connections.open_by_server()["edge1"];
        lab.withdraw_edge(1)?;
        wait_until("connections of edge1 to break", BOUND, || connections.harmed().len() == of_edge1)?;
        streams.wait_answers(5, BOUND)?;
        lab.announce_edge(1)?;
        let report = connections.stop()?;
        let reset = report.iter().filter(|c| c.end == End::Reset).count();
        assert_eq!(reset, of_edge1, "{report:?}");
        let moved = streams.stop()?.iter().filter(|flow| flow.moved() > 0).count();
        assert!(moved > 0 && moved < 20, "{moved} UDP flows moved");
    }

    // A silent server: every datagram is lost and counted.
    drop(servers.pop());
    lab.withdraw_edge(1)?;
    let silent = lab.edge(2).ns.enter(|| UdpSocket::bind(at(vip)[0]))??;
    let options = DatagramOptions {
        flows: 2,
        datagrams: 10,
        timeout: Duration::from_millis(50),
        interval: Duration::from_millis(1),
        ..DatagramOptions::default()
    };
    for flow in Datagrams::start(&client.ns, at(vip)[0], options)?.finish(BOUND)? {
        assert_eq!((flow.sent, flow.lost, flow.answered), (10, 10, 0), "{flow:?}");
    }
    drop(silent);
    Ok(())
}

#[test]
fn counters_count_every_packet() -> Result<()> {
    const PACKETS: u64 = 1000;
    if !skip::can_run(skip::LAB) {
        return Ok(());
    }
    let lab = Lab::start(&Options::default())?;
    let (client, backend, edge) = (lab.client(1), lab.backend(1), lab.edge(1));
    let near = |what: &str, count: u64| {
        assert!((PACKETS..=PACKETS + NOISE).contains(&count), "{what}: {count} for {PACKETS} packets");
    };
    for target in at(backend.role.address().both()) {
        let server = Server::start(&backend.ns, "backend1", &[target])?;
        let before =
            (client.counters()?, backend.counters()?, lab.router_counters(backend)?, edge.counters()?);
        let options = DatagramOptions {
            flows: 10,
            datagrams: PACKETS / 10,
            interval: Duration::from_millis(1),
            ..DatagramOptions::default()
        };
        let flows = Datagrams::start(&client.ns, target, options)?.finish(BOUND)?;
        assert!(flows.iter().all(|f| f.is_unharmed()), "{flows:?}");
        near("client sent", client.counters()?.since(before.0).tx_packets);
        near("client received", client.counters()?.since(before.0).rx_packets);
        near("backend received", backend.counters()?.since(before.1).rx_packets);
        near("backend sent", backend.counters()?.since(before.1).tx_packets);
        // This end runs XDP, which counts in its own way.
        near("router received", lab.router_counters(backend)?.since(before.2).rx_packets);
        near("router sent", lab.router_counters(backend)?.since(before.2).tx_packets);
        let edge = edge.counters()?.since(before.3);
        assert!(edge.rx_packets <= NOISE, "{edge:?} on an edge that nobody asked");
        server.stop()?;
    }
    Ok(())
}

#[test]
fn xdp_tx_comes_back_over_veth() -> Result<()> {
    const PACKETS: u64 = 1000;
    if !skip::can_run(skip::LAB) {
        return Ok(());
    }
    for xdp_peers in [true, false] {
        let lab = Lab::start(&Options { xdp_peers, ..Options::default() })?;
        let (client, edge) = (lab.client(1), lab.edge(1));
        lab.withdraw_edge(2)?;
        // Sends every frame back as it came; the router counts it and finds that it is not for itself.
        let reflect = sys::load_xdp_return(XDP_TX)?;
        // Neighbours first: ARP would be sent back, too.
        for address in edge.role.address().both() {
            lab.router().netlink().set_neighbour(&edge.router_interface(), address, edge.role.mac())?;
        }
        edge.ns.netlink().attach_xdp(HOST_INTERFACE, reflect.as_fd())?;
        for target in at(plan::vip(1).both()) {
            let before = lab.router_counters(edge)?;
            let any = if target.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            let socket = client.ns.enter(|| UdpSocket::bind(any))??;
            for _ in 0..PACKETS {
                socket.send_to(b"there and back", target)?;
            }
            let back = || lab.router_counters(edge).unwrap().since(before).rx_packets;
            if xdp_peers {
                wait_until("all frames to come back", BOUND, || back() >= PACKETS)?;
            } else {
                wait_until("all frames to get there", BOUND, || {
                    lab.router_counters(edge).unwrap().since(before).tx_packets >= PACKETS
                })?;
                // What the edge says by itself (neighbour discovery) is sent by its stack and does arrive.
                assert!(back() <= NOISE, "the pass program is not needed after all: simplify the lab");
            }
        }
    }
    Ok(())
}

#[test]
fn packets_of_the_fabrics_size_pass_whole() -> Result<()> {
    if !skip::can_run(skip::LAB) {
        return Ok(());
    }
    let lab = Lab::start(&Options::default())?;
    let (edge, backend) = (lab.edge(1), lab.backend(1));
    for (target, headers) in at(backend.role.address().both()).into_iter().zip([28, 48]) {
        let server = Server::start(&backend.ns, "backend1", &[target])?;
        let send = |size| {
            let options = DatagramOptions { flows: 1, datagrams: 1, size, ..DatagramOptions::default() };
            Datagrams::start(&edge.ns, target, options)?.finish(BOUND)
        };
        // Neighbour discovery may add packets to any one of them; the least of several is the datagram alone.
        let packets = |size| -> Result<u64> {
            let mut least = u64::MAX;
            for _ in 0..5 {
                let before = backend.counters()?;
                assert!(send(size)?[0].is_unharmed(), "{target}, {size} bytes");
                least = least.min(backend.counters()?.since(before).rx_packets);
            }
            Ok(least)
        };
        assert_eq!(packets(1600 - headers)?, 1, "{target}: as large as the fabric's MTU");
        assert_eq!(packets(1601 - headers)?, 2, "{target}: one more byte takes two fragments");
        server.stop()?;
    }
    Ok(())
}

/// What `address` says to who connects from inside; an error if nobody takes the connection or says anything.
fn heard(ns: &Namespace, address: SocketAddr) -> Result<String> {
    ns.enter(|| {
        let mut stream = TcpStream::connect_timeout(&address, BOUND)?;
        stream.set_read_timeout(Some(BOUND))?;
        let mut word = [0; 5];
        stream.read_exact(&mut word)?;
        Ok(String::from_utf8_lossy(&word).into_owned())
    })?
}

#[test]
fn a_forwarder_leads_out_until_it_is_cut() -> Result<()> {
    if !skip::can_run(skip::LAB) {
        return Ok(());
    }
    let lab = Lab::start(&Options { edges: 1, backends: 1, ..Options::default() })?;
    let ns = &lab.edge(1).ns;
    let server = TcpListener::bind("127.0.0.1:0")?;
    let at = server.local_addr()?;
    let (said, heard_of) = mpsc::channel();
    std::thread::spawn(move || {
        // Each is told, and kept until its client is gone.
        for mut stream in server.incoming().take(2).flatten() {
            let _ = stream.write_all(b"hello");
            let _ = said.send(stream.read(&mut [0]).is_ok_and(|length| length == 0));
        }
    });
    assert!(heard(ns, at).is_err(), "nothing leads out yet");
    let mut forwarder = Forwarder::start(ns, at)?;
    assert_eq!(heard(ns, at)?, "hello");
    assert!(heard_of.recv_timeout(BOUND)?, "the server hears that its client has gone");
    let mut open = ns.enter(|| TcpStream::connect_timeout(&at, BOUND))??;
    open.set_read_timeout(Some(BOUND))?;
    open.read_exact(&mut [0; 5])?;
    forwarder.cut()?;
    assert!(open.read(&mut [0]).is_ok_and(|length| length == 0), "it was open");
    heard_of.recv_timeout(BOUND)?;
    let refused = heard(ns, at).unwrap_err();
    assert_eq!(
        refused.downcast_ref::<io::Error>().map(io::Error::kind),
        Some(io::ErrorKind::ConnectionRefused)
    );
    forwarder.mend()?;
    assert!(ns.enter(|| TcpStream::connect_timeout(&at, BOUND))?.is_ok());
    Ok(())
}

#[test]
fn nothing_is_left_after_a_panic() -> Result<()> {
    if !skip::can_run(skip::LAB) {
        return Ok(());
    }
    let before = Leaks::note()?;
    let (tell, told) = mpsc::channel();
    let doomed = std::thread::spawn(move || {
        let lab = Lab::start(&Options::default()).unwrap();
        tell.send(lab.id()).unwrap();
        std::fs::create_dir(lab.bpf().of("edge1")).unwrap();
        lab.scratch().write("a.yaml", "version: 1\n").unwrap();
        let mut shell = Command::new("sh");
        // A child of a child, as a daemon's helper would be.
        shell.args(["-c", "sleep 300 & echo started; wait"]);
        let process = lab.edge(1).ns.spawn("a shell", shell).unwrap();
        let mut process = process.quiet();
        process.wait_line(0, "started", BOUND).unwrap();
        // Forgotten: only the namespace remembers it.
        std::mem::forget(process);
        let vip = plan::vip(1).both();
        let _servers = edges_answer(&lab, vip);
        let _load = Load::start(&lab.client(1).ns, &at(vip), LoadOptions::default()).unwrap();
        panic!("a test that fails half-way (this panic is wanted)");
    });
    assert!(doomed.join().is_err());
    before.check(told.recv()?)
}

#[test]
fn the_check_for_leaks_sees_leaks() -> Result<()> {
    if !skip::can_run(skip::LAB) {
        return Ok(());
    }
    let before = Leaks::note()?;
    let lab = Lab::start(&Options::default())?;
    let id = lab.id();
    let mut sleep = Command::new("sleep");
    sleep.arg("300");
    let process = lab.backend(1).ns.spawn("sleep", sleep)?;
    let pid = process.pid();
    std::fs::create_dir(lab.bpf().of("x"))?;
    let found = remains::list(|other| other == id);
    assert!(found.iter().any(|r| matches!(r, Remain::Process(p, _) if *p == pid)), "{found:?}");
    assert_eq!(found.iter().filter(|r| matches!(r, Remain::Namespace(_))).count(), 7, "{found:?}");
    assert!(found.iter().any(|r| matches!(r, Remain::Pins(_))), "{found:?}");
    assert!(found.iter().any(|r| matches!(r, Remain::Files(_))), "{found:?}");
    drop(process);
    drop(lab);
    before.check(id)
}

/// Whether the helper's processes outlive it.
const KEEP: &str = "XLB_SELFTEST_KEEP";

/// Not a test of its own: what `processes_die_with_a_killed_run_...` runs in a process that it kills.
#[test]
#[ignore = "run by the test of what a killed run leaves"]
fn helper_that_is_killed() {
    let kept = std::env::var_os(KEEP).is_some();
    let lifetime = if kept { Lifetime::Kept } else { Lifetime::Dropped };
    let lab = Lab::start(&Options { lifetime, ..Options::default() }).unwrap();
    let mut sleep = Command::new("sleep");
    sleep.arg("300");
    let _process = lab.backend(1).ns.spawn("sleep", sleep).unwrap();
    std::fs::create_dir(lab.bpf().of("edge1")).unwrap();
    eprintln!("made {}", lab.id());
    // The bound of this helper: it is killed long before.
    std::thread::sleep(Duration::from_secs(60));
}

/// Runs the helper in `ns` until it has made its lab, and kills it, and it alone.
fn killed_run(ns: &Namespace, keep: bool) -> Result<LabId> {
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["--ignored", "--exact", "--nocapture", "helper_that_is_killed"]);
    if keep {
        command.env(KEEP, "1");
    }
    let mut victim = ns.spawn("a test run", command)?.quiet();
    let line = victim.wait_line(0, "made xlb-", BOUND)?;
    let id = LabId::parse(line.rsplit(' ').next().unwrap()).unwrap();
    assert!(has_process(id) && namespaces(id) == 7, "{:?}", remains::list(|other| other == id));
    victim.signal(Signal::Kill)?;
    victim.wait_exit(BOUND)?;
    Ok(id)
}

fn has_process(id: LabId) -> bool {
    remains::list(|other| other == id).iter().any(|r| matches!(r, Remain::Process(..)))
}

fn namespaces(id: LabId) -> usize {
    remains::list(|other| other == id).iter().filter(|r| matches!(r, Remain::Namespace(_))).count()
}

/// One test and not two: the helper sweeps when it starts, so two at once would clear away each other's evidence.
#[test]
fn processes_die_with_a_killed_run_and_the_janitor_clears_the_rest() -> Result<()> {
    if !skip::can_run(skip::LAB) {
        return Ok(());
    }
    // A living lab, which must survive the sweeps; its client's namespace hosts the runs that are killed.
    let lab = Lab::start(&Options { backends: 1, edges: 1, ..Options::default() })?;

    let dead = killed_run(&lab.client(1).ns, false)?;
    wait_until("processes of a killed run to die", BOUND, || !has_process(dead))?;
    assert_eq!(namespaces(dead), 7, "nobody was there to remove them");
    janitor::sweep();
    assert_eq!(remains::list(|other| other == dead), []);

    let dead = killed_run(&lab.client(1).ns, true)?;
    assert!(has_process(dead) && namespaces(dead) == 7, "told to be kept");
    janitor::sweep();
    assert_eq!(remains::list(|other| other == dead), []);

    assert!(lab.client(1).ns.netlink().counters(HOST_INTERFACE).is_ok());
    assert_eq!(namespaces(lab.id()), 4);
    Ok(())
}

#[test]
fn people_can_look_around_with_ip_netns() -> Result<()> {
    if !skip::can_run(&[skip::LAB, &[skip::Need::Program("ip", "iproute2")]].concat()) {
        return Ok(());
    }
    let lab = Lab::start(&Options::default())?;
    let shown =
        Command::new("ip").args(["netns", "exec", lab.edge(2).ns.name(), "ip", "-o", "address"]).output()?;
    let shown = String::from_utf8(shown.stdout)?;
    for address in lab.edge(2).role.address().both() {
        assert!(shown.contains(&format!("{address}/")), "{address} in {shown}");
    }
    assert!(!shown.contains("tentative"), "{shown}");
    Ok(())
}

#[test]
fn strict_reverse_path_filtering_is_on() -> Result<()> {
    if !skip::can_run(skip::LAB) {
        return Ok(());
    }
    let lab = Lab::start(&Options::default())?;
    let (client, backend) = (lab.client(1), lab.backend(1));
    let target = at(backend.role.address().both())[0];
    // A second way back that is not the way in: the filter must drop what now comes by eth0.
    let _listener = backend.ns.enter(|| TcpListener::bind(target))??;
    let knocks =
        || client.ns.enter(|| TcpStream::connect_timeout(&target, Duration::from_millis(500)).is_ok());
    assert!(knocks()?);
    let theirs = Role::Client(1).address().v4.into();
    backend.ns.netlink().set_route((theirs, 32), &[Via::link("lo")])?;
    assert!(!knocks()?, "rp_filter does not filter");
    Ok(())
}

#[test]
fn an_answer_text_of_nginx_is_ours() {
    assert!(Seen::parse("backend1 2001:db8:c:1::2 40000\n").is_some());
}
