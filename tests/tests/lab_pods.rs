//! To the pod: packets that leave the tunnel at a node reach unmodified pods, and answers go to the client straight.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use xdp_lb::dataplane::{BpffsRoot, KernelMaps};
use xdp_lb_common::{reason::DropCounts, stats::Counters};
use xdp_lb_tests::lab::files::{self, ECHO, MEDIA, MEDIA6, WEB};
use xdp_lb_tests::lab::pods::{self, Forward, ToPods};
use xdp_lb_tests::lab::traffic::{
    Bulk, DatagramOptions, Datagrams, Load, LoadOptions, Server, download, upload,
};
use xdp_lb_tests::lab::{
    Daemon, EdgeFile, Lab, Leaks, Mode, Node, Options, Pod, State, Tier, skip, wait_until,
};

const BOUND: Duration = Duration::from_secs(30);
/// A download or an upload, on a busy machine of two cores without segmentation offload.
const LONG: Duration = Duration::from_secs(120);
const HUNDRED_MEGABYTES: u64 = 100_000_000;
/// Port of the service whose pods give and take large bodies.
const BULK: u16 = ECHO;

/// What a pod's application listens on for a service's port: never the same.
fn target(port: u16) -> u16 {
    port + 8000
}

/// What is expected of no node, ever.
fn nothing_bad(lab: &Lab) -> Result<()> {
    for node in lab.backends() {
        let met = pods::met(node)?;
        ensure!(
            !met.is_empty() && met.iter().all(|(_, packets)| *packets == 0),
            "{}: {met:?}",
            node.role.name()
        );
    }
    Ok(())
}

/// Rules of every node and every pod.
fn rule_sets(lab: &Lab, all: &[Pod]) -> Result<Vec<String>> {
    let nodes = lab.backends().iter().map(|node| &node.ns);
    nodes.chain(all.iter().map(|pod| &pod.ns)).map(pods::rule_set).collect()
}

/// Servers of a pod: answers on the targets of WEB and the media ports, large bodies on that of BULK.
fn serve(pod: &Pod) -> Result<(Server, Bulk)> {
    let own = |ports: &[u16]| -> Vec<SocketAddr> {
        let at = |port: &u16| pod.address.both().map(|ip| SocketAddr::new(ip, target(*port)));
        ports.iter().flat_map(at).collect()
    };
    Ok((
        Server::start(&pod.ns, &pod.name, &own(&[WEB, MEDIA, MEDIA6]))?,
        Bulk::start(&pod.ns, &own(&[BULK]))?,
    ))
}

/// Requests to both addresses of the VIP, all answered, by pods that see the client; who they were.
fn requests(lab: &Lab, requests: u64) -> Result<BTreeMap<String, u64>> {
    let options = LoadOptions { requests, rate: 1000.0, ..LoadOptions::default() };
    let report = Load::start(&lab.client(1).ns, &files::at(WEB), options)?.finish(BOUND)?;
    ensure!(report.failures() == 0 && report.answers() == requests, "{report:?}");
    Ok(report.answered)
}

/// Streams of datagrams to all UDP addresses, small ones and such as come in fragments: all answered, none by two pods.
fn datagrams(lab: &Lab, to: &[SocketAddr], size: usize) -> Result<()> {
    for target in to {
        let options = DatagramOptions { flows: 12, size, datagrams: 20, ..DatagramOptions::default() };
        let flows = Datagrams::start(&lab.client(1).ns, *target, options)?.finish(BOUND)?;
        let bad: Vec<_> = flows.iter().filter(|flow| !flow.is_unharmed()).collect();
        ensure!(bad.is_empty(), "{target}, {size} bytes: {bad:#?}");
    }
    Ok(())
}

/// 100 MB each way; what comes back passes no edge node.
fn bodies(lab: &Lab, bulks: &[&Bulk]) -> Result<()> {
    let client = lab.client(1);
    for to in files::at(BULK) {
        let through_edges =
            |lab: &Lab| -> Result<u64> { lab.edges().iter().map(|edge| Ok(edge.counters()?.rx_bytes)).sum() };
        let before = through_edges(lab)?;
        download(&client.ns, to, HUNDRED_MEGABYTES, LONG).with_context(|| format!("download from {to}"))?;
        let passed = through_edges(lab)? - before;
        ensure!(passed < HUNDRED_MEGABYTES / 10, "{to}: {passed} bytes went through the edge nodes");
        upload(&client.ns, lab.scratch(), to, HUNDRED_MEGABYTES, LONG)
            .with_context(|| format!("upload to {to}"))?;
        let seen: Vec<IpAddr> = bulks.iter().flat_map(|bulk| bulk.clients()).collect();
        ensure!(seen == [client.role.address().like(to.ip()); 2], "{to}: the pods saw {seen:?}");
    }
    Ok(())
}

/// Services of all ports whose backends are these pods.
fn to_pods(pods: &[(&Pod, State)]) -> Vec<ToPods> {
    let mut services = Vec::new();
    for (name, protocol, port) in
        [("web", "tcp", WEB), ("bulk", "tcp", BULK), ("media", "udp", MEDIA), ("media6", "udp", MEDIA6)]
    {
        for vip in files::at(port) {
            let pods = pods.iter().map(|(pod, state)| (pod.address.like(vip.ip()), *state)).collect();
            let name = format!("{name}-{}", if vip.is_ipv4() { 4 } else { 6 });
            services.push(ToPods { name, protocol, vip, target: target(port), pods });
        }
    }
    services
}

/// Files of all nodes.
struct Cluster {
    edges: String,
    nodes: Vec<String>,
}

fn cluster(pods: &[(&Pod, State)]) -> Cluster {
    let services = to_pods(pods);
    let nodes = [1, 2].map(|n| {
        let prefix = format!("pod{n}-");
        let here: Vec<&Pod> =
            pods.iter().map(|(pod, _)| *pod).filter(|pod| pod.name.starts_with(&prefix)).collect();
        pods::decap_file(&services, &here)
    });
    Cluster { edges: pods::edge_file(1, &services), nodes: nodes.into() }
}

fn daemons<'lab>(lab: &'lab Lab, files: &Cluster) -> Result<Tier<'lab>> {
    let decaps = lab.backends().iter().zip(&files.nodes);
    let mut decaps: Vec<Node<'lab>> =
        decaps.map(|(host, text)| Node::start(lab, host, Daemon::Decap, text)).collect::<Result<_>>()?;
    let mut edges = vec![Node::start(lab, lab.edge(1), Daemon::Run, &files.edges)?];
    for node in decaps.iter_mut().chain(&mut edges) {
        node.product.wait_ready()?;
    }
    Ok(Tier { edges, decaps })
}

/// Nodes first, so that no packet comes for what is not led to its pod yet.
fn bring(tier: &mut Tier<'_>, files: &Cluster) -> Result<()> {
    for (node, text) in tier.decaps.iter_mut().zip(&files.nodes) {
        node.reload(text)?;
    }
    tier.edges[0].reload(&files.edges)
}

fn counters(node: &Node<'_>) -> Result<Counters> {
    Ok(KernelMaps::open_read_only(&BpffsRoot::new(&node.bpffs))?.counters()?)
}

/// Two nodes with a network of pods that the fabric routes.
fn nodes() -> Result<Lab> {
    nodes_on(Options::default().fabric_mtu)
}

/// The same over links of so many bytes.
fn nodes_on(fabric_mtu: u32) -> Result<Lab> {
    let lab = Lab::start(&Options { edges: 1, backends: 2, fabric_mtu, ..Options::default() })?;
    for n in [1, 2] {
        pods::forward(lab.backend(n))?;
        pods::route_pods(&lab, n)?;
        pods::filters(&lab, lab.backend(n))?;
    }
    Ok(lab)
}

/// `delivery: pod`. The tunnel ends at the pod, whose node translates; no service proxy is there.
#[test]
fn a_pod_is_a_backend_of_its_own_whatever_its_port() -> Result<()> {
    if !skip::can_run(&[skip::LAB, &[skip::NFT, skip::CURL]].concat()) {
        return Ok(());
    }
    let before = Leaks::note()?;
    let lab = nodes()?;
    let id = lab.id();
    {
        let all = [Pod::start(&lab, 1, 1)?, Pod::start(&lab, 1, 2)?, Pod::start(&lab, 2, 1)?];
        let servers = all.iter().map(serve).collect::<Result<Vec<_>>>()?;
        let rules = rule_sets(&lab, &all)?;
        let files = cluster(&all.each_ref().map(|pod| (pod, State::Active)));
        let mut tier = daemons(&lab, &files)?;

        let who = requests(&lab, 300)?;
        ensure!(who.len() == 3, "not all pods: {who:?}");
        datagrams(&lab, &files::udp(), 160)?;
        // Three fragments each way, which conntrack puts together and the node's stack cuts again.
        datagrams(&lab, &files::at(MEDIA), 4000)?;
        bodies(&lab, &servers.iter().map(|(_, bulk)| bulk).collect::<Vec<_>>())?;
        for node in &tier.decaps {
            let seen = counters(node)?;
            ensure!(seen.drops == DropCounts::default(), "{:?}", seen.drops);
            ensure!(seen.passes.decap_pod > 0 && seen.passes.from_pod > 0, "{:?}", seen.passes);
            ensure!(seen.passes.decapsulated == 0, "{:?}", seen.passes);
        }

        let shown = tier.decaps[0].command("status", &["pods"])?.stdout;
        let has = |pod: &Pod| shown.contains(&format!("{} ", pod.address.v4));
        ensure!(has(&all[0]) && has(&all[1]) && !has(&all[2]), "{shown}");
        ensure!(shown.contains(&target(WEB).to_string()), "{shown}");

        // The agent is away, killed and back: both ways go on being translated.
        tier.decaps[0].product.kill();
        requests(&lab, 100)?;
        tier.decaps[0].restart()?;
        requests(&lab, 100)?;
        datagrams(&lab, &files::udp(), 160)?;

        nothing_bad(&lab)?;
        ensure!(rule_sets(&lab, &all)? == rules, "somebody changed the rules");
        // Nothing stays.
        for node in &mut tier.decaps {
            node.product.terminate()?;
            node.command("detach", &[])?;
        }
        let options =
            LoadOptions { requests: 4, timeout: Duration::from_millis(300), ..LoadOptions::default() };
        let report = Load::start(&lab.client(1).ns, &files::at(WEB), options)?.finish(BOUND)?;
        ensure!(report.answers() == 0, "{report:?}");
    }
    drop(lab);
    before.check(id)
}

/// Through a fabric as narrow as the clients' links nothing has to be told to clients whose pods say what fits.
#[test]
fn what_pods_offer_fits_the_tunnel() -> Result<()> {
    if !skip::can_run(&[skip::LAB, &[skip::NFT, skip::CURL]].concat()) {
        return Ok(());
    }
    let before = Leaks::note()?;
    let lab = nodes_on(1500)?;
    let id = lab.id();
    {
        let pod = Pod::start(&lab, 1, 1)?;
        let _servers = serve(&pod)?;
        let offers = cluster(&[(&pod, State::Active)]);
        let silent =
            offers.nodes.iter().map(|text| text.replace("decap:\n", "decap:\n  mss: off\n")).collect();
        let mut tier = daemons(&lab, &Cluster { edges: offers.edges.clone(), nodes: silent })?;
        let client = &lab.client(1).ns;
        let told = |tier: &Tier<'_>| -> Result<u64> {
            let was = counters(&tier.edges[0])?.passes.too_big_answered;
            for to in files::at(BULK) {
                upload(client, lab.scratch(), to, 1_000_000, LONG)
                    .with_context(|| format!("upload to {to}"))?;
            }
            Ok(counters(&tier.edges[0])?.passes.too_big_answered - was)
        };
        ensure!(told(&tier)? > 0, "nobody had to be told, and the pods offer what their links hold");
        client.sysctl("net/ipv4/route/flush", "1")?;
        client.sysctl("net/ipv6/route/flush", "1")?;
        let mark = tier.decaps[0].product.process().mark();
        bring(&mut tier, &offers)?;
        tier.decaps[0].product.process().wait_line(mark, "servers offer this MSS", BOUND)?;
        let told = told(&tier)?;
        ensure!(told == 0, "{told} segments did not fit, despite the MSS");
    }
    drop(lab);
    before.check(id)
}

/// Every pod is replaced by another, one after the other, as a Deployment does it.
#[test]
fn all_pods_are_replaced_under_load_and_no_request_fails() -> Result<()> {
    if !skip::can_run(&[skip::LAB, &[skip::NFT]].concat()) {
        return Ok(());
    }
    let lab = nodes()?;
    let mut pods = vec![Pod::start(&lab, 1, 1)?, Pod::start(&lab, 2, 1)?];
    let mut servers = pods.iter().map(serve).collect::<Result<Vec<_>>>()?;
    let of = |pods: &[Pod], drained: Option<usize>| -> Cluster {
        let state = |n| if Some(n) == drained { State::Drain } else { State::Active };
        cluster(&pods.iter().enumerate().map(|(n, pod)| (pod, state(n))).collect::<Vec<_>>())
    };
    let mut tier = daemons(&lab, &of(&pods, None))?;
    let load = Load::start(
        &lab.client(1).ns,
        &files::at(WEB),
        LoadOptions { rate: 300.0, ..LoadOptions::default() },
    )?;
    load.wait_answers(50, BOUND)?;
    for (n, k) in [(1, 2), (2, 2)] {
        // One more that is ready, then one that drains, then one that is gone with everything that it was.
        pods.push(Pod::start(&lab, n, k)?);
        servers.push(serve(&pods[pods.len() - 1])?);
        bring(&mut tier, &of(&pods, None))?;
        load.wait_answers(50, BOUND)?;
        bring(&mut tier, &of(&pods, Some(0)))?;
        let at_first = load.report();
        wait_until("requests in flight to be over", BOUND, || {
            load.report().since(&at_first).answers() > 100
        })?;
        drop(servers.remove(0));
        let gone = pods.remove(0);
        // Edge nodes first, this time: nobody is sent to where nothing leads.
        let files = of(&pods, None);
        tier.edges[0].reload(&files.edges)?;
        bring(&mut tier, &files)?;
        drop(gone);
        load.wait_answers(50, BOUND)?;
    }
    let report = load.stop()?;
    ensure!(report.failures() == 0, "{report:#?}");
    ensure!(report.answered.len() == 4, "{:?}", report.answered);
    nothing_bad(&lab)
}

/// Whether a client's datagram is answered by the word that nobody listens there.
fn is_refused(lab: &Lab, to: SocketAddr) -> Result<bool> {
    lab.client(1).ns.enter(|| -> Result<bool> {
        let socket = std::net::UdpSocket::bind(if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" })?;
        socket.connect(to)?;
        socket.set_read_timeout(Some(BOUND))?;
        socket.send(b"is anybody there?")?;
        let said = socket.recv(&mut [0; 16]);
        Ok(said.is_err_and(|e| e.kind() == std::io::ErrorKind::ConnectionRefused))
    })?
}

/// Errors find their way: a router's to the pod that sent what did not fit, the pod's to the client.
#[test]
fn errors_reach_the_pod_and_the_client() -> Result<()> {
    if !skip::can_run(&[skip::LAB, &[skip::NFT, skip::CURL]].concat()) {
        return Ok(());
    }
    let lab = nodes()?;
    let client = lab.client(1);
    // Narrower than both ends know.
    lab.router().netlink().set_mtu(&client.router_interface(), 1300)?;
    let pod = Pod::start(&lab, 1, 1)?;
    let servers = serve(&pod)?;
    let tier = daemons(&lab, &cluster(&[(&pod, State::Active)]))?;
    for to in files::at(BULK) {
        download(&client.ns, to, 1_000_000, BOUND).with_context(|| format!("download from {to}"))?;
    }
    let drops = counters(&tier.decaps[0])?.drops;
    ensure!(drops == DropCounts::default(), "{drops:?}");
    // Nobody listens there any more: the pod's refusal comes from the VIP, or the client would not believe it.
    drop(servers);
    for to in files::at(MEDIA) {
        ensure!(is_refused(&lab, to)?, "{to}: the client was not told");
    }
    nothing_bad(&lab)
}

/// An edge node's own pod gets by its choice what others get through a tunnel: datagrams in fragments, large bodies, routers'
/// words, and questions after its health.
#[test]
fn an_edge_node_is_its_own_pods_node() -> Result<()> {
    if !skip::can_run(&[skip::LAB, &[skip::NFT, skip::CURL]].concat()) {
        return Ok(());
    }
    let before = Leaks::note()?;
    let lab = nodes()?;
    let id = lab.id();
    {
        let (client, edge) = (lab.client(1), lab.edge(1));
        pods::forward(edge)?;
        pods::route_network(&lab, edge, 9)?;
        pods::filters(&lab, edge)?;
        let (own, far) = (Pod::start_on(&lab, edge, 9, 1)?, Pod::start(&lab, 1, 1)?);
        let (answers, bulk) = serve(&own)?;
        let _far = serve(&far)?;
        let file = |pods: &[(&Pod, State)]| {
            let services = to_pods(pods);
            let decap = pods::decap_file(&services, &[&own]).replace("version: 1\n", "");
            let checked = |line: &str| match line.split_once("backends: ") {
                Some((service, backends)) if line.contains("name: web-") => {
                    let check = "{ kind: tcp, interval: 200ms, fall: 1 }";
                    format!("{service}health_check: {check}, backends: {backends}\n")
                }
                _ => format!("{line}\n"),
            };
            pods::edge_file(1, &services).lines().map(checked).collect::<String>() + &decap
        };
        let alone = [(&own, State::Active)];
        let mut files = cluster(&[(&own, State::Active), (&far, State::Active)]);
        files.edges = file(&alone);
        let mut tier = daemons(&lab, &files)?;

        wait_until("the pod to be found alive", BOUND, || {
            requests(&lab, 100).is_ok_and(|who| who.into_keys().eq(["pod9-1"]))
        })?;
        datagrams(&lab, &files::udp(), 160)?;
        datagrams(&lab, &files::at(MEDIA), 4000)?;
        // Narrower than both ends know.
        lab.router().netlink().set_mtu(&client.router_interface(), 1300)?;
        for to in files::at(BULK) {
            download(&client.ns, to, HUNDRED_MEGABYTES, LONG)
                .with_context(|| format!("download from {to}"))?;
            upload(&client.ns, lab.scratch(), to, HUNDRED_MEGABYTES, LONG)
                .with_context(|| format!("upload to {to}"))?;
            let seen: Vec<IpAddr> = bulk.clients();
            ensure!(seen == [client.role.address().like(to.ip()); 2], "{to}: the pod saw {seen:?}");
        }
        let seen = counters(&tier.edges[0])?;
        // Before it was known to live.
        let early = DropCounts { empty_service: seen.drops.empty_service, ..DropCounts::default() };
        ensure!(seen.drops == early, "{:?}", seen.drops);
        ensure!(
            seen.passes.local_backend > 0 && seen.passes.from_pod > 0 && seen.passes.decap_pod == 0,
            "{:?}",
            seen.passes
        );
        for vip in files::at(WEB) {
            let from = SocketAddr::new(client.role.address().like(vip.ip()), 40000).to_string();
            let args = ["--proto", "tcp", "--src", &from, "--dst", &vip.to_string(), "-o", "json"];
            let said = tier.edges[0].command("explain", &args)?.stdout;
            let said: serde_json::Value = serde_json::from_str(&said)?;
            ensure!(
                said["path"]["kind"] == "pod" && said["outcome"].to_string().contains("local_backend"),
                "{said:#}"
            );
        }

        // Beside another, it is asked whether it lives, and left when it does not.
        files.edges = file(&[(&own, State::Active), (&far, State::Active)]);
        bring(&mut tier, &files)?;
        wait_until("both pods to answer", BOUND, || requests(&lab, 100).is_ok_and(|who| who.len() == 2))?;
        drop((answers, bulk));
        wait_until("the dead one to be left", BOUND, || {
            requests(&lab, 100).is_ok_and(|who| who.into_keys().eq(["pod1-1"]))
        })?;
        // Nobody listens there any more: the pod's refusal comes from the VIP.
        files.edges = file(&alone);
        bring(&mut tier, &files)?;
        for to in files::at(MEDIA) {
            ensure!(is_refused(&lab, to)?, "{to}: the client was not told");
        }
        nothing_bad(&lab)?;
        ensure!(pods::met(edge)?.iter().all(|(_, packets)| *packets == 0), "{:?}", pods::met(edge)?);
    }
    drop(lab);
    before.check(id)
}

/// `delivery: node`. The tunnel ends at the node, and the service proxy does the rest.
#[test]
fn the_service_proxy_takes_packets_from_the_node_to_its_pods() -> Result<()> {
    if !skip::can_run(&[skip::LAB, &[skip::NFT, skip::CURL]].concat()) {
        return Ok(());
    }
    let before = Leaks::note()?;
    let lab = Lab::start(&Options { edges: 1, backends: 2, ..Options::default() })?;
    let id = lab.id();
    {
        let mut all = Vec::new();
        for n in [1, 2] {
            let own = [Pod::start(&lab, n, 1)?, Pod::start(&lab, n, 2)?];
            let mut forwards = Vec::new();
            for (protocol, port) in [("tcp", WEB), ("tcp", BULK), ("udp", MEDIA), ("udp", MEDIA6)] {
                for vip in files::at(port) {
                    let endpoints = own.iter().map(|pod| pod.at(vip.ip(), target(port))).collect();
                    forwards.push(Forward { protocol, vip, endpoints });
                }
            }
            pods::service_proxy(&lab, lab.backend(n), &forwards)?;
            all.extend(own);
        }
        let servers = all.iter().map(serve).collect::<Result<Vec<_>>>()?;
        let rules = rule_sets(&lab, &all)?;
        let file = EdgeFile::new(2);
        // The VIP is nobody's own: on `lo` it would never reach the service proxy's pods.
        let decap = files::decap_file(Mode::Native).replace("decap:\n", "decap:\n  vip_on_lo: false\n");
        let _tier = Tier::start_with(&lab, &decap, |n| file.text(n))?;

        let who = requests(&lab, 400)?;
        ensure!(who.len() == 4, "not all pods: {who:?}");
        datagrams(&lab, &files::udp(), 160)?;
        bodies(&lab, &servers.iter().map(|(_, bulk)| bulk).collect::<Vec<_>>())?;
        nothing_bad(&lab)?;
        ensure!(rule_sets(&lab, &all)? == rules, "somebody changed the rules");
    }
    drop(lab);
    before.check(id)
}

/// `delivery: host`. A pod in the node's own network listens on the VIP, which is on `lo`.
#[test]
fn a_pod_in_the_nodes_network_has_the_vip_itself() -> Result<()> {
    if !skip::can_run(&[skip::LAB, &[skip::NFT]].concat()) {
        return Ok(());
    }
    let lab = nodes()?;
    let _servers = files::serve(lab.backends())?;
    let file = EdgeFile::new(2);
    let _tier = Tier::start(&lab, Mode::Native, |n| file.text(n))?;
    ensure!(requests(&lab, 200)?.into_keys().eq(["backend1", "backend2"]));
    datagrams(&lab, &files::udp(), 160)?;
    nothing_bad(&lab)
}
