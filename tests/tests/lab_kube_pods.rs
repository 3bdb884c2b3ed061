//! To the pods of a cluster: edge nodes and the pods' nodes know everything from the API server, whoever hears of it first.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use xdp_lb::dataplane::{BpffsRoot, KernelMaps};
use xdp_lb_common::{reason::DropCounts, stats::Counters};
use xdp_lb_tests::lab::apiserver::ApiServer;
use xdp_lb_tests::lab::cluster::{self, Life, Running, TARGET, decap_file, edge_file, knows, node, slices};
use xdp_lb_tests::lab::files::{self, VIP, WEB};
use xdp_lb_tests::lab::pods::{self, Forward};
use xdp_lb_tests::lab::traffic::{Load, LoadOptions};
use xdp_lb_tests::lab::{Daemon, Host, Lab, Leaks, Node, Options, plan, skip, wait_until};

const BOUND: Duration = Duration::from_secs(30);

/// The Service with both VIPs.
fn service(delivery: &str) -> Value {
    let mut service = cluster::service("web", delivery);
    let ingress = plan::vip(VIP).both().map(|ip| json!({ "ip": ip }));
    service["status"] = json!({ "loadBalancer": { "ingress": ingress } });
    service
}

/// Tells the API server of all pods.
fn publish(api: &ApiServer, all: &[Running]) {
    slices("web", all).into_iter().for_each(|slice| api.put("endpointslices", slice));
}

/// An API server that all hosts reach, with their Nodes and the Service; and how they reach it.
fn api(lab: &Lab, delivery: &str) -> Result<(ApiServer, String)> {
    let hosts: Vec<&Host> = lab.edges().iter().chain(lab.backends()).collect();
    let mut api = ApiServer::start(&hosts[0].ns)?;
    for host in &hosts[1..] {
        api.also_in(&host.ns)?;
    }
    hosts.iter().for_each(|host| api.put("nodes", node(host.role)));
    api.put("services", service(delivery));
    let kubeconfig = lab.scratch().write("kubeconfig", &api.kubeconfig())?;
    Ok((api, format!("kubernetes: {{ kubeconfig: {} }}\n", kubeconfig.display())))
}

/// Requests to both VIPs, all answered, by whom.
fn answered(lab: &Lab, requests: u64) -> Result<Vec<String>> {
    let options = LoadOptions { requests, rate: 1000.0, ..LoadOptions::default() };
    let report = Load::start(&lab.client(1).ns, &files::at(WEB), options)?.finish(BOUND)?;
    ensure!(report.failures() == 0 && report.answers() == requests, "{report:?}");
    Ok(report.answered.into_keys().collect())
}

fn counters(node: &Node<'_>) -> Result<Counters> {
    Ok(KernelMaps::open_read_only(&BpffsRoot::new(&node.bpffs))?.counters()?)
}

fn nothing_bad(hosts: &[Host]) -> Result<()> {
    for host in hosts {
        let met = pods::met(host)?;
        ensure!(
            !met.is_empty() && met.iter().all(|(_, packets)| *packets == 0),
            "{}: {met:?}",
            host.role.name()
        );
    }
    Ok(())
}

/// Pods come, are replaced one by one under load and grow in number; then the API server is away, and a node's agent too.
#[test]
fn pods_of_a_cluster_are_reached_and_replaced_and_no_request_fails() -> Result<()> {
    if !skip::can_run(&[skip::LAB, &[skip::NFT]].concat()) {
        return Ok(());
    }
    let before = Leaks::note()?;
    let lab = Lab::start(&Options { edges: 1, backends: 2, ..Options::default() })?;
    let id = lab.id();
    {
        for n in [1, 2] {
            pods::forward(lab.backend(n))?;
            pods::route_pods(&lab, n)?;
            pods::filters(&lab, lab.backend(n))?;
        }
        let (api, kubernetes) = api(&lab, "pod")?;
        let mut all = vec![
            Running::start(&lab, lab.backend(1), 1, 1, Life::Serves)?,
            Running::start(&lab, lab.backend(2), 2, 1, Life::Serves)?,
        ];
        publish(&api, &all);
        let mut nodes = Vec::new();
        for host in lab.backends() {
            nodes.push(Node::start(&lab, host, Daemon::Decap, &(decap_file(host) + &kubernetes))?);
        }
        for node in &mut nodes {
            node.product.wait_ready()?;
        }
        let mut edge = Node::start(&lab, lab.edge(1), Daemon::Run, &(edge_file(1) + &kubernetes))?;
        edge.product.wait_ready()?;
        ensure!(
            answered(&lab, 200)? == ["pod1-1", "pod2-1"],
            "the first lists are there before the agents are ready"
        );
        ensure!(knows(&nodes[0], &all[0].pod) && !knows(&nodes[0], &all[1].pod), "a node knows its own pods");
        let on_lo = lab.backend(1).ns.netlink().addresses("lo")?;
        ensure!(on_lo.iter().all(|(ip, _)| !plan::vip(VIP).both().contains(ip)), "{on_lo:?}");

        let options = LoadOptions { rate: 300.0, ..LoadOptions::default() };
        let load = Load::start(&lab.client(1).ns, &files::at(WEB), options)?;
        load.wait_answers(50, BOUND)?;
        for n in [1u8, 2] {
            // As a Deployment does it: one that starts, until it is ready; then another ends, and is gone.
            all.push(Running::start(&lab, lab.backend(n), n, 2, Life::Starts)?);
            publish(&api, &all);
            let new = all.len() - 1;
            wait_until("the node to know a pod that is not ready", BOUND, || {
                knows(&nodes[usize::from(n) - 1], &all[new].pod)
            })?;
            all[new].life = Life::Serves;
            publish(&api, &all);
            let name = all[new].pod.name.clone();
            wait_until("the new pod to answer", BOUND, || load.report().answered.contains_key(&name))?;
            all[0].life = Life::Ends;
            publish(&api, &all);
            let old = all[0].pod.address.v4.to_string();
            wait_until("the old pod to drain", BOUND, || {
                let shown = edge.command("status", &["backends"]).map(|said| said.stdout).unwrap_or_default();
                shown.lines().any(|line| line.contains(&old) && line.contains("drain"))
            })?;
            let at_first = load.report();
            wait_until("requests in flight to be over", BOUND, || {
                load.report().since(&at_first).answers() > 100
            })?;
            let gone = all.remove(0);
            publish(&api, &all);
            load.wait_answers(50, BOUND)?;
            drop(gone);
            load.wait_answers(50, BOUND)?;
        }
        let report = load.stop()?;
        ensure!(report.failures() == 0, "{report:#?}");
        ensure!(report.answered.len() == 4, "{:?}", report.answered);

        // Nobody to ask, and an agent that starts anew: what nobody knows of stays.
        api.away(true);
        nodes[0].product.kill();
        answered(&lab, 100)?;
        nodes[0].restart()?;
        ensure!(answered(&lab, 100)? == ["pod1-2", "pod2-2"]);
        all.push(Running::start(&lab, lab.backend(1), 1, 3, Life::Serves)?);
        publish(&api, &all);
        api.away(false);
        wait_until("the third pod to answer", BOUND, || {
            answered(&lab, 100).is_ok_and(|who| who == ["pod1-2", "pod1-3", "pod2-2"])
        })?;

        // All that came through the edge node came to pods, and back.
        let sent = counters(&edge)?;
        ensure!(sent.drops == DropCounts::default(), "{:?}", sent.drops);
        for node in &nodes {
            let Counters { drops, passes, .. } = counters(node)?;
            ensure!(passes.decap_pod > 0 && passes.from_pod > 0 && passes.decapsulated == 0, "{passes:?}");
            // Before the third pod's node had it, perhaps.
            let early = DropCounts { pod_port: drops.pod_port, ..DropCounts::default() };
            ensure!(drops == early, "{drops:?}");
        }
        nothing_bad(lab.backends())?;

        // With the Service everything goes.
        api.remove("services", "web");
        let options =
            LoadOptions { requests: 4, timeout: Duration::from_millis(300), ..LoadOptions::default() };
        wait_until("the service to go", BOUND, || {
            let load = Load::start(&lab.client(1).ns, &files::at(WEB), options.clone());
            load.and_then(|load| load.finish(BOUND)).is_ok_and(|report| report.answers() == 0)
        })?;
    }
    drop(lab);
    before.check(id)
}

/// One node is both: a tunnel's other end and, by its own choice, no tunnel at all. It and all others hear of it from the API
/// server alone.
#[test]
fn an_edge_node_runs_pods_and_is_a_node_of_its_own_tier() -> Result<()> {
    if !skip::can_run(&[skip::LAB, &[skip::NFT]].concat()) {
        return Ok(());
    }
    let before = Leaks::note()?;
    let lab = Lab::start(&Options { edges: 2, backends: 1, ..Options::default() })?;
    let id = lab.id();
    {
        let (api, kubernetes) = api(&lab, "node")?;
        let mut all = Vec::new();
        for (host, net) in [(lab.edge(1), 9), (lab.backend(1), 1)] {
            let own = Running::start(&lab, host, net, 1, Life::Serves)?;
            let forward = |vip: std::net::SocketAddr| Forward {
                protocol: "tcp",
                vip,
                endpoints: vec![own.pod.at(vip.ip(), TARGET)],
            };
            pods::service_proxy(&lab, host, &files::at(WEB).map(forward))?;
            all.push(own);
        }
        publish(&api, &all);
        let both = edge_file(1) + "decap: { interfaces: [{ name: eth0, mode: native }] }\n" + &kubernetes;
        let far = decap_file(lab.backend(1)) + &kubernetes;
        let mut daemons = vec![
            Node::start(&lab, lab.backend(1), Daemon::Decap, &far)?,
            Node::start(&lab, lab.edge(1), Daemon::Run, &both)?,
            Node::start(&lab, lab.edge(2), Daemon::Run, &(edge_file(2) + &kubernetes))?,
        ];
        for daemon in &mut daemons {
            daemon.product.wait_ready()?;
        }
        let shares = |when: &str| -> Result<()> {
            let who = answered(&lab, 200)?;
            ensure!(who == ["pod1-1", "pod9-1"], "{when}: {who:?}");
            Ok(())
        };
        shares("both edges")?;
        lab.withdraw_edge(2)?;
        let (local, tunnels) = {
            let passes = counters(&daemons[1])?.passes;
            (passes.local_backend, passes.decapsulated)
        };
        shares("through edge1, which chooses itself")?;
        let passes = counters(&daemons[1])?.passes;
        ensure!(passes.local_backend > local && passes.decapsulated == tunnels, "{passes:?}");
        lab.announce_edge(2)?;
        lab.withdraw_edge(1)?;
        shares("through edge2, which sends tunnels to edge1")?;
        ensure!(counters(&daemons[1])?.passes.decapsulated > tunnels, "no tunnel was taken off");
        lab.announce_edge(1)?;
        // Its pod ends, and the node goes on as an edge node.
        all[0].life = Life::Ends;
        publish(&api, &all);
        wait_until("the edge node's own pod to drain", BOUND, || {
            answered(&lab, 100).is_ok_and(|who: Vec<String>| who == ["pod1-1"])
        })?;
        for daemon in &daemons {
            let drops = counters(daemon)?.drops;
            ensure!(drops == DropCounts::default(), "{drops:?}");
        }
        nothing_bad(lab.backends())?;
        nothing_bad(&lab.edges()[..1])?;
    }
    drop(lab);
    before.check(id)
}

/// The same with tunnels that end at pods: an edge node hands its own pods what it chose them for, and others send it tunnels.
#[test]
fn an_edge_node_hands_packets_to_its_own_pods() -> Result<()> {
    if !skip::can_run(&[skip::LAB, &[skip::NFT]].concat()) {
        return Ok(());
    }
    let before = Leaks::note()?;
    let lab = Lab::start(&Options { edges: 2, backends: 1, ..Options::default() })?;
    let id = lab.id();
    {
        let (edge1, backend1) = (lab.edge(1), lab.backend(1));
        for (host, net) in [(edge1, 9), (backend1, 1)] {
            pods::forward(host)?;
            pods::route_network(&lab, host, net)?;
            pods::filters(&lab, host)?;
        }
        let (api, kubernetes) = api(&lab, "pod")?;
        let mut all = vec![
            Running::start(&lab, edge1, 9, 1, Life::Serves)?,
            Running::start(&lab, backend1, 1, 1, Life::Serves)?,
        ];
        publish(&api, &all);
        let both = edge_file(1) + "decap: { interfaces: [{ name: eth0, mode: native }] }\n" + &kubernetes;
        let mut daemons = vec![
            Node::start(&lab, edge1, Daemon::Run, &both)?,
            Node::start(&lab, lab.edge(2), Daemon::Run, &(edge_file(2) + &kubernetes))?,
            Node::start(&lab, backend1, Daemon::Decap, &(decap_file(backend1) + &kubernetes))?,
        ];
        for daemon in &mut daemons {
            daemon.product.wait_ready()?;
        }
        let passes = |of: &Node<'_>| counters(of).map(|counters| counters.passes);
        let shares = |when: &str| -> Result<()> {
            let who = answered(&lab, 200)?;
            ensure!(who == ["pod1-1", "pod9-1"], "{when}: {who:?}");
            Ok(())
        };
        shares("both edges")?;
        lab.withdraw_edge(2)?;
        let first = passes(&daemons[0])?;
        shares("through edge1, which chooses its own pod")?;
        let then = passes(&daemons[0])?;
        ensure!(
            then.local_backend > first.local_backend && then.decap_pod == first.decap_pod,
            "{first:?} {then:?}"
        );
        lab.announce_edge(2)?;
        lab.withdraw_edge(1)?;
        shares("through edge2, which sends tunnels to the pod on edge1")?;
        ensure!(passes(&daemons[0])?.decap_pod > then.decap_pod, "no tunnel was taken off");
        lab.announce_edge(1)?;

        // Its pod is replaced under load.
        let options = LoadOptions { rate: 300.0, ..LoadOptions::default() };
        let load = Load::start(&lab.client(1).ns, &files::at(WEB), options)?;
        load.wait_answers(50, BOUND)?;
        all.push(Running::start(&lab, edge1, 9, 2, Life::Starts)?);
        publish(&api, &all);
        wait_until("edge1 to know a pod that is not ready", BOUND, || knows(&daemons[0], &all[2].pod))?;
        all[2].life = Life::Serves;
        publish(&api, &all);
        wait_until("the new pod to answer", BOUND, || load.report().answered.contains_key("pod9-2"))?;
        all[0].life = Life::Ends;
        publish(&api, &all);
        let old = all[0].pod.address.v4.to_string();
        wait_until("the old pod to drain everywhere", BOUND, || {
            daemons[..2].iter().all(|edge| {
                let shown = edge.command("status", &["backends"]).map(|said| said.stdout).unwrap_or_default();
                shown.lines().any(|line| line.contains(&old) && line.contains("drain"))
            })
        })?;
        let at_first = load.report();
        wait_until("requests in flight to be over", BOUND, || {
            load.report().since(&at_first).answers() > 100
        })?;
        let gone = all.remove(0);
        publish(&api, &all);
        load.wait_answers(50, BOUND)?;
        drop(gone);
        load.wait_answers(50, BOUND)?;
        let report = load.stop()?;
        ensure!(report.failures() == 0, "{report:#?}");
        ensure!(report.answered.len() == 3, "{:?}", report.answered);

        // Nobody to ask, and another agent: all goes on, also while there is none.
        lab.withdraw_edge(2)?;
        api.away(true);
        daemons[0].product.kill();
        ensure!(answered(&lab, 100)? == ["pod1-1", "pod9-2"]);
        daemons[0].restart()?;
        ensure!(answered(&lab, 100)? == ["pod1-1", "pod9-2"]);
        api.away(false);
        for daemon in &daemons {
            let drops = counters(daemon)?.drops;
            ensure!(drops == DropCounts::default(), "{}: {drops:?}", daemon.host().role.name());
        }
        nothing_bad(lab.backends())?;
        nothing_bad(&lab.edges()[..1])?;
    }
    drop(lab);
    before.check(id)
}
