//! Real requests through the whole tier, with every packet accounted for.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Result, ensure};
use xdp_lb_tests::lab::files::{self, MEDIA, MEDIA6, VIP, WEB};
use xdp_lb_tests::lab::netlink::Via;
use xdp_lb_tests::lab::product::Daemon;
use xdp_lb_tests::lab::topology::HOST_INTERFACE;
use xdp_lb_tests::lab::traffic::{
    DatagramOptions, Datagrams, Load, LoadOptions, LoadReport, Nginx, curl, ping,
};
use xdp_lb_tests::lab::{
    Counters, EdgeFile, Host, Lab, Leaks, Mode, Node, Options, Role, State, Tier, plan, skip, wait_until,
};

const BOUND: Duration = Duration::from_secs(20);
/// Packets on a link that no test has sent: neighbour discovery of both families, at both ends.
const NOISE: u64 = 40;

/// `requests` new requests to the targets in turn, all answered. A client that the server did not see by its own
/// address is a failure.
fn requests(client: &Host, targets: &[SocketAddr], requests: u64) -> Result<LoadReport> {
    let options = LoadOptions { requests, rate: 2000.0, ..LoadOptions::default() };
    let report = Load::start(&client.ns, targets, options)?.finish(BOUND)?;
    ensure!(report.failures() == 0 && report.answers() == requests, "{targets:?}: {report:?}");
    Ok(report)
}

/// What every kind of host has sent and received, by the router's ends of the links: those see XDP's packets as well.
#[derive(Clone, Copy, Debug, Default)]
struct Ledger {
    from_client: u64,
    to_edges: u64,
    from_edges: u64,
    to_backends: u64,
    from_backends: u64,
    to_client: u64,
}

impl Ledger {
    fn read(lab: &Lab) -> Result<Self> {
        let sum = |hosts: &[Host]| -> Result<Counters> {
            hosts.iter().try_fold(Counters::default(), |sum, host| {
                let one = lab.router_counters(host)?;
                Ok(Counters {
                    rx_packets: sum.rx_packets + one.rx_packets,
                    tx_packets: sum.tx_packets + one.tx_packets,
                    ..sum
                })
            })
        };
        let (client, edges, backends) =
            (lab.router_counters(lab.client(1))?, sum(lab.edges())?, sum(lab.backends())?);
        Ok(Self {
            from_client: client.rx_packets,
            to_edges: edges.tx_packets,
            from_edges: edges.rx_packets,
            to_backends: backends.tx_packets,
            from_backends: backends.rx_packets,
            to_client: client.tx_packets,
        })
    }

    fn since(self, earlier: Self) -> Self {
        Self {
            from_client: self.from_client - earlier.from_client,
            to_edges: self.to_edges - earlier.to_edges,
            from_edges: self.from_edges - earlier.from_edges,
            to_backends: self.to_backends - earlier.to_backends,
            from_backends: self.from_backends - earlier.from_backends,
            to_client: self.to_client - earlier.to_client,
        }
    }

    /// Direct server return: what the client sends passes the edge nodes once, what it gets passes none of them.
    fn is_direct(self) -> Result<()> {
        let same = |a: u64, b: u64| a.abs_diff(b) <= NOISE;
        ensure!(
            same(self.from_client, self.to_edges)
                && same(self.to_edges, self.from_edges)
                && same(self.from_edges, self.to_backends)
                && same(self.from_backends, self.to_client)
                // Or the equations above would hold of silence.
                && self.from_client > 10 * NOISE
                && self.to_client > 10 * NOISE,
            "{self:?}"
        );
        Ok(())
    }
}

#[test]
fn requests_go_through_both_edges_to_all_backends_and_straight_back() -> Result<()> {
    if !skip::can_run(skip::LAB) {
        return Ok(());
    }
    let before = Leaks::note()?;
    let lab = Lab::start(&Options::default())?;
    let id = lab.id();
    {
        let _servers = files::serve(lab.backends())?;
        let file = EdgeFile::new(3);
        let _tier = Tier::start(&lab, Mode::Native, |n| file.text(n))?;
        let client = lab.client(1);
        for target in files::tcp() {
            let (start, edges) = (Ledger::read(&lab)?, to_edges(&lab)?);
            let report = requests(client, &[target], 600)?;
            // Two hundred each; fewer than 130 is a chance of 1 in 10^9.
            ensure!(report.answered.len() == 3, "{target}: {:?}", report.answered);
            ensure!(report.answered.values().all(|n| *n >= 130), "{target}: {:?}", report.answered);
            Ledger::read(&lab)?.since(start).is_direct()?;
            let by_edge: Vec<u64> = to_edges(&lab)?.iter().zip(&edges).map(|(now, was)| now - was).collect();
            ensure!(by_edge.iter().all(|packets| *packets > 10 * NOISE), "{target}: {by_edge:?}");
        }
        for target in files::udp() {
            let start = Ledger::read(&lab)?;
            let options = DatagramOptions {
                flows: 60,
                datagrams: 25,
                interval: Duration::from_millis(5),
                ..DatagramOptions::default()
            };
            let flows = Datagrams::start(&client.ns, target, options)?.finish(BOUND)?;
            ensure!(flows.iter().all(|flow| flow.is_unharmed()), "{target}: {flows:?}");
            let servers: BTreeSet<_> = flows.iter().flat_map(|flow| &flow.servers).collect();
            assert_eq!(servers.len(), 3, "{target}: {servers:?}");
            let ledger = Ledger::read(&lab)?.since(start);
            ledger.is_direct()?;
            // One packet there and one back for each of 60 x 25, counted on every link.
            for count in [ledger.from_client, ledger.from_edges, ledger.from_backends, ledger.to_client] {
                assert!((1500..=1500 + NOISE).contains(&count), "{target}: {ledger:?}");
            }
        }
    }
    drop(lab);
    before.check(id)
}

/// Packets that the router has sent to each edge node.
fn to_edges(lab: &Lab) -> Result<Vec<u64>> {
    lab.edges().iter().map(|edge| Ok(lab.router_counters(edge)?.tx_packets)).collect()
}

#[test]
fn nginx_and_curl_meet_through_the_balancer() -> Result<()> {
    if !skip::can_run(&[skip::LAB, &[skip::NGINX, skip::CURL]].concat()) {
        return Ok(());
    }
    let lab = Lab::start(&Options::default())?;
    let vip = files::at(WEB);
    let start = |host: &Host| Nginx::start(&host.ns, &host.role.name(), &vip, lab.scratch());
    let _nginx = lab.backends().iter().map(start).collect::<Result<Vec<_>>>()?;
    let file = EdgeFile::new(3);
    let _tier = Tier::start(&lab, Mode::Native, |n| file.text(n))?;
    let client = lab.client(1);
    for target in vip {
        let mut servers = BTreeSet::new();
        // All three within 60 fetches; not to see one of them is a chance of 1 in 10^10.
        for _ in 0..60 {
            let seen = curl(&client.ns, target, BOUND)?;
            assert_eq!(seen.client.ip(), client.role.address().like(target.ip()));
            servers.insert(seen.server);
            if servers.len() == 3 {
                break;
            }
        }
        assert_eq!(servers.len(), 3, "{target}: {servers:?}");
        assert_eq!(requests(client, &[target], 200)?.answered.len(), 3);
    }
    Ok(())
}

#[test]
fn the_vip_answers_to_ping() -> Result<()> {
    if !skip::can_run(skip::LAB) {
        return Ok(());
    }
    for mode in [Mode::Native, Mode::Generic] {
        let lab = Lab::start(&Options::default())?;
        let file = EdgeFile { mode, ..EdgeFile::new(3) };
        let _tier = Tier::start(&lab, mode, |n| file.text(n))?;
        let (client, start) = (lab.client(1), Ledger::read(&lab)?);
        for ip in plan::vip(VIP).both() {
            // Empty, odd, and large enough for a checksum with many carries.
            for size in [0, 1, 56, 1400] {
                ping(&client.ns, ip, size, BOUND)?;
            }
        }
        // By the edge node itself: no backend has heard of it.
        let ledger = Ledger::read(&lab)?.since(start);
        assert!(ledger.from_edges >= 8 && ledger.to_client >= 8, "{mode}: {ledger:?}");
        // The same network, but no VIP: nobody answers.
        for ip in plan::vip(VIP + 1).both() {
            assert!(ping(&client.ns, ip, 56, Duration::from_millis(300)).is_err(), "{ip} answers");
        }
    }
    Ok(())
}

#[test]
fn tunnels_leave_by_another_interface() -> Result<()> {
    if !skip::can_run(skip::LAB) {
        return Ok(());
    }
    let lab = Lab::start(&Options { edges: 1, ..Options::default() })?;
    let _servers = files::serve(lab.backends())?;
    let edge = lab.edge(1);
    let second = lab.second_link(edge)?;
    for backend in lab.backends() {
        for ip in backend.role.address().both() {
            let via = Via::gateway(&second.host_interface, second.gateway.like(ip));
            edge.ns.netlink().set_route((ip, if ip.is_ipv4() { 32 } else { 128 }), &[via])?;
        }
    }
    let file = EdgeFile {
        interfaces: vec![HOST_INTERFACE.into(), second.host_interface.clone()],
        ..EdgeFile::new(3)
    };
    let _tier = Tier::start(&lab, Mode::Native, |n| file.text(n))?;
    for target in files::tcp() {
        // Neighbours become known by the first request.
        requests(lab.client(1), &[target], 1)?;
        let count = || -> Result<_> {
            let first = lab.router_counters(edge)?;
            Ok((
                first.tx_packets,
                first.rx_packets,
                lab.router().netlink().counters(&second.router_interface)?,
            ))
        };
        let before = count()?;
        assert_eq!(requests(lab.client(1), &[target], 300)?.answered.len(), 3);
        let after = count()?;
        let (arrived, back) = (after.0 - before.0, after.1 - before.1);
        let left = after.2.since(before.2).rx_packets;
        assert!(arrived >= 300 * 4 && arrived.abs_diff(left) <= NOISE, "{target}: {arrived} in, {left} out");
        assert!(back <= NOISE, "{target}: {back} went back out of the interface they came by");
    }
    Ok(())
}

#[test]
fn generic_mode_does_the_same() -> Result<()> {
    if !skip::can_run(skip::LAB) {
        return Ok(());
    }
    // No pass programs on the router's ends: generic XDP needs none.
    let lab = Lab::start(&Options { xdp_peers: false, ..Options::default() })?;
    let _servers = files::serve(lab.backends())?;
    let file = EdgeFile { mode: Mode::Generic, ..EdgeFile::new(3) };
    let _tier = Tier::start(&lab, Mode::Generic, |n| file.text(n))?;
    for target in files::tcp() {
        let start = Ledger::read(&lab)?;
        assert_eq!(requests(lab.client(1), &[target], 300)?.answered.len(), 3);
        Ledger::read(&lab)?.since(start).is_direct()?;
    }
    for port in [MEDIA, MEDIA6] {
        for target in files::at(port) {
            let options = DatagramOptions { flows: 20, datagrams: 10, ..DatagramOptions::default() };
            let flows = Datagrams::start(&lab.client(1).ns, target, options)?.finish(BOUND)?;
            ensure!(flows.iter().all(|flow| flow.is_unharmed()), "{target}: {flows:?}");
        }
    }
    Ok(())
}

#[test]
fn an_edge_node_may_be_the_chosen_backend() -> Result<()> {
    if !skip::can_run(skip::LAB) {
        return Ok(());
    }
    let lab = Lab::start(&Options { backends: 1, ..Options::default() })?;
    let file = EdgeFile {
        backends: [Role::Edge(1), Role::Backend(1)].map(|role| (role, State::Active)).to_vec(),
        ..EdgeFile::new(0)
    };
    // Only edge1 is a backend. What it chooses itself for is handed up at once, what edge2 sends comes in a tunnel.
    let mut tier = Tier::start(&lab, Mode::Native, |n| EdgeFile { decap: n == 1, ..file.clone() }.text(n))?;
    let vips: Vec<IpAddr> = plan::vip(VIP).both().to_vec();
    let on_lo = || -> Result<usize> {
        let addresses = lab.edge(1).ns.netlink().addresses("lo")?;
        Ok(addresses.iter().filter(|(ip, _)| vips.contains(ip)).count())
    };
    assert_eq!(on_lo()?, 2, "`decap` puts the VIPs on lo");
    let _servers = files::serve([lab.edge(1), lab.backend(1)])?;
    let shares = |when: &str| -> Result<()> {
        for target in files::tcp() {
            let report = requests(lab.client(1), &[target], 200)?;
            // A fair coin tossed 200 times: fewer than 55 heads is a chance of 1 in 10^10.
            let fair = ["edge1", "backend1"].iter().all(|name| report.answered.get(*name) >= Some(&55));
            ensure!(fair && report.answered.len() == 2, "{when}: {target}: {:?}", report.answered);
        }
        Ok(())
    };
    shares("both edges")?;
    lab.withdraw_edge(2)?;
    shares("through edge1, which chooses itself")?;
    lab.announce_edge(2)?;
    lab.withdraw_edge(1)?;
    shares("through edge2, which sends tunnels to edge1")?;
    lab.announce_edge(1)?;
    // It drains like any backend.
    tier.reload(|n| {
        let backends = vec![(Role::Edge(1), State::Drain), (Role::Backend(1), State::Active)];
        EdgeFile { decap: n == 1, backends, ..file.clone() }.text(n)
    })?;
    let report = requests(lab.client(1), &files::tcp(), 200)?;
    assert_eq!(report.answered, BTreeMap::from([("backend1".to_owned(), 200)]));
    Ok(())
}

#[test]
fn a_tunnel_from_a_stranger_is_dropped() -> Result<()> {
    if !skip::can_run(skip::LAB) {
        return Ok(());
    }
    let lab = Lab::start(&Options { edges: 1, backends: 1, ..Options::default() })?;
    let _servers = files::serve(lab.backends())?;
    // An edge node whose outer sources the backend's `allow_sources` does not name.
    let [ours, _] = plan::tunnel_sources(1);
    let text = EdgeFile::new(1).text(1).replace(&format!("{}/24", ours.0), "192.0.2.0/24");
    let strict = Node::start(&lab, lab.backend(1), Daemon::Decap, &files::decap_file(Mode::Native));
    let (mut decap, mut edge) = (strict?, Node::start(&lab, lab.edge(1), Daemon::Run, &text)?);
    decap.product.wait_ready()?;
    edge.product.wait_ready()?;
    let [v4, _] = files::at(WEB);
    let options = LoadOptions {
        requests: 5,
        clients: 5,
        timeout: Duration::from_millis(500),
        ..LoadOptions::default()
    };
    let before = lab.backend(1).counters()?.tx_packets;
    let report = Load::start(&lab.client(1).ns, &[v4], options)?.finish(BOUND)?;
    assert_eq!((report.answers(), report.failures()), (0, 5), "{report:?}");
    let said = lab.backend(1).counters()?.tx_packets - before;
    assert!(said <= NOISE, "the backend answered strangers: {said} packets");
    // The same edge node with the right sources.
    edge.reload(&EdgeFile::new(1).text(1))?;
    wait_until("requests to be answered", BOUND, || requests(lab.client(1), &[v4], 5).is_ok())
}
