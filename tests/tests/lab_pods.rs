//! To the pod: packets that leave the tunnel at a node reach unmodified pods, and answers go to the client straight.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use xdp_lb_tests::lab::files::{self, ECHO, MEDIA, MEDIA6, WEB};
use xdp_lb_tests::lab::pods::{self, Forward};
use xdp_lb_tests::lab::traffic::{
    Bulk, DatagramOptions, Datagrams, Load, LoadOptions, Server, download, upload,
};
use xdp_lb_tests::lab::{EdgeFile, Lab, Leaks, Mode, Options, Pod, Tier, skip};

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
