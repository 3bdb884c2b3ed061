//! Services of a cluster on an edge node: they come, scale, drain and go, and nothing happens to them while the API
//! server is away.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use xdp_lb_tests::lab::apiserver::ApiServer;
use xdp_lb_tests::lab::cluster::edge_file;
use xdp_lb_tests::lab::files::{self, VIP, WEB};
use xdp_lb_tests::lab::traffic::{ConnectionOptions, Connections, Load, LoadOptions, LoadReport};
use xdp_lb_tests::lab::{Daemon, EdgeFile, Lab, Mode, Node, Options, Role, Tier, plan, skip, wait_until};

const BOUND: Duration = Duration::from_secs(20);

fn node(n: u8) -> Value {
    let address = Role::Backend(n).address().both()[0];
    json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": format!("n{n}") },
        "status": { "addresses": [{ "type": "InternalIP", "address": address }] } })
}

fn service() -> Value {
    let vip = plan::vip(VIP).both()[0];
    json!({ "apiVersion": "v1", "kind": "Service",
        "metadata": { "name": "web", "namespace": "default", "annotations": { "xdp-lb.io/delivery": "host" } },
        "spec": { "type": "LoadBalancer", "loadBalancerClass": "xdp-lb.io/edge", "externalTrafficPolicy": "Local",
            "ports": [{ "name": "http", "protocol": "TCP", "port": WEB }] },
        "status": { "loadBalancer": { "ingress": [{ "ip": vip }] } } })
}

/// One endpoint on each node that is named; a node with a minus terminates and still serves.
fn slice(nodes: &[i8]) -> Value {
    let endpoint = |node: &i8| {
        let stays = *node > 0;
        json!({ "addresses": [format!("10.244.0.{}", node.abs())], "nodeName": format!("n{}", node.abs()),
            "conditions": { "ready": stays, "serving": true, "terminating": !stays } })
    };
    let endpoints: Vec<Value> = nodes.iter().map(endpoint).collect();
    json!({ "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": { "name": "web-1", "namespace": "default", "labels": { "kubernetes.io/service-name": "web" } },
        "ports": [{ "name": "http", "protocol": "TCP", "port": WEB }], "endpoints": endpoints })
}

fn load(lab: &Lab, requests: u64) -> Result<LoadReport> {
    let timeout = Duration::from_secs(1);
    let options = LoadOptions { requests, rate: 2000.0, timeout, ..LoadOptions::default() };
    Load::start(&lab.client(1).ns, &files::at(WEB)[..1], options)?.finish(BOUND)
}

/// New requests, all answered; by whom.
fn answered(lab: &Lab) -> Result<Vec<String>> {
    let report = load(lab, 200)?;
    ensure!(report.failures() == 0, "{report:?}");
    Ok(report.answered.into_keys().collect())
}

/// What `plan` says of a file.
fn planned(edge: &Node, file: &Path) -> Result<Value> {
    let said = edge.command("plan", &[&file.display().to_string(), "-o", "json"])?;
    serde_json::from_str(&said.stdout).context(said.stderr)
}

#[test]
fn a_cluster_is_followed_and_outlived() -> Result<()> {
    if !skip::can_run(skip::LAB) {
        return Ok(());
    }
    let lab = Lab::start(&Options { edges: 1, ..Options::default() })?;
    let _servers = files::serve(lab.backends())?;
    let api = ApiServer::start(&lab.edge(1).ns)?;
    (1..=3).for_each(|n| api.put("nodes", node(n)));
    api.put("services", service());
    api.put("endpointslices", slice(&[1, 2]));
    let kubeconfig = lab.scratch().write("kubeconfig", &api.kubeconfig())?;
    let text = format!("{}kubernetes: {{ kubeconfig: {} }}\n", edge_file(1), kubeconfig.display());
    let mut tier = Tier::start(&lab, Mode::Native, |_| text.clone())?;
    assert_eq!(
        answered(&lab)?,
        ["backend1", "backend2"],
        "the first list is there before the agent is ready"
    );

    wait_until("the edge node to tell how it is", BOUND, || {
        let told = api.get("edgenodes", "edge1").unwrap_or_default();
        let conditions = told["status"]["conditions"].as_array().cloned().unwrap_or_default();
        conditions.len() == 2 && conditions.iter().all(|condition| condition["status"] == "True")
    })?;

    // One more node. That all is written is said behind the last write, so the first one was earlier.
    let process = tier.edges[0].product.process();
    let (mark, begun) = (process.mark(), Instant::now());
    api.put("endpointslices", slice(&[1, 2, 3]));
    process.wait_line(mark, "the cluster's services in force", BOUND)?;
    println!("a node more: written {:?} after the API server has it", begun.elapsed());
    wait_until("the third node", BOUND, || answered(&lab).is_ok_and(|who| who.len() == 3))?;

    // One that terminates keeps its connections and takes no more; one that is gone is gone.
    let connections = Connections::start(
        &lab.client(1).ns,
        files::at(WEB)[0],
        ConnectionOptions { connections: 60, ..ConnectionOptions::default() },
    )?;
    connections.wait_records(3, BOUND)?;
    api.put("endpointslices", slice(&[-1, 2, 3]));
    wait_until("the first node to drain", BOUND, || {
        answered(&lab).is_ok_and(|who| who == ["backend2", "backend3"])
    })?;
    connections.wait_records(3, BOUND)?;
    ensure!(
        connections.open_by_server().contains_key("backend1"),
        "none was there: {:?}",
        connections.open_by_server()
    );
    ensure!(connections.harmed().is_empty(), "{:?}", connections.harmed());
    drop(connections);
    api.put("endpointslices", slice(&[2, 3]));

    // The file as it is changes nothing of the cluster's services, which it does not name.
    let file = lab.scratch().write("planned.yaml", &text)?;
    let mut told = Value::Null;
    let same = || {
        told = planned(&tier.edges[0], &file).unwrap_or_default();
        told["services"] == json!([]) && told["unchanged"] == 1
    };
    wait_until("the agent to have what plan foresees", BOUND, same)?;
    ensure!(told["left_out"] == 0 && told["cluster_not_asked"].is_null(), "{told:#}");

    // A mistake changes nothing.
    let mut wrong = service();
    wrong["metadata"]["annotations"]["xdp-lb.io/affinity"] = "sticky".into();
    let mark = tier.edges[0].product.process().mark();
    api.put("services", wrong);
    wait_until("the mistake to be told", BOUND, || {
        let said = tier.edges[0].product.process().log().split_off(mark).join("\n");
        said.contains("xdp-lb.io/affinity") && said.contains("stays in force")
    })?;
    assert_eq!(answered(&lab)?, ["backend2", "backend3"]);
    api.put("services", service());

    // The API server goes, then the agent too; another agent finds nobody to ask.
    api.away(true);
    let told = planned(&tier.edges[0], &file)?;
    ensure!(told["services"] == json!([]) && told["left_out"] == 1, "{told:#}");
    ensure!(told["cluster_not_asked"].is_string(), "{told:#}");
    assert_eq!(answered(&lab)?, ["backend2", "backend3"]);
    tier.edges[0].product.kill();
    assert_eq!(answered(&lab)?, ["backend2", "backend3"]);
    tier.edges[0].restart()?;
    assert_eq!(answered(&lab)?, ["backend2", "backend3"], "what nobody knows of stays");
    api.put("endpointslices", slice(&[1, 3]));
    api.away(false);
    wait_until("the state to converge", BOUND, || {
        answered(&lab).is_ok_and(|who| who == ["backend1", "backend3"])
    })?;

    // What the file has now is the file's; the cluster's services go with the section.
    api.remove("services", "web");
    wait_until("the service to go", BOUND, || load(&lab, 4).is_ok_and(|report| report.answers() == 0))?;
    let shown = tier.edges[0].command("status", &["-o", "json"])?;
    ensure!(!shown.stdout.contains("default/web"), "{}", shown.stdout);
    Ok(())
}

/// The edge node as a Node; without the label it is none.
fn edge_node(is_edge: bool) -> Value {
    let sources = plan::tunnel_sources(1).map(|(ip, length)| format!("{ip}/{length}")).join(",");
    let labels = if is_edge { json!({ "xdp-lb.io/edge": "true" }) } else { json!({}) };
    json!({ "apiVersion": "v1", "kind": "Node",
        "metadata": { "name": "edge1", "labels": labels, "annotations": { "xdp-lb.io/sources": sources } },
        "status": { "addresses": [{ "type": "InternalIP", "address": Role::Edge(1).address().both()[0] }] } })
}

#[test]
fn a_backends_node_takes_off_what_the_cluster_names() -> Result<()> {
    if !skip::can_run(skip::LAB) {
        return Ok(());
    }
    let lab = Lab::start(&Options { edges: 1, ..Options::default() })?;
    let _servers = files::serve(lab.backends())?;
    let api = ApiServer::start(&lab.backend(1).ns)?;
    let mut other = service();
    other["metadata"]["name"] = "other".into();
    other["status"]["loadBalancer"]["ingress"][0]["ip"] = "203.0.113.99".into();
    api.put("services", other);
    api.put("nodes", edge_node(false));
    let kubeconfig = lab.scratch().write("kubeconfig", &api.kubeconfig())?;
    let decap = format!(
        "version: 1\ndecap: {{ interfaces: [{{ name: eth0 }}] }}\nkubernetes: {{ kubeconfig: {} }}\n",
        kubeconfig.display()
    );
    let edge = EdgeFile::new(1);
    let mut decap = Node::start(&lab, lab.backend(1), Daemon::Decap, &decap)?;
    let mut edge = Node::start(&lab, lab.edge(1), Daemon::Run, &edge.text(1))?;
    decap.product.wait_ready()?;
    edge.product.wait_ready()?;
    let answers = || load(&lab, 20).map(|report| report.answers());
    let refused = |decap: &Node<'_>| -> Result<u64> {
        let shown: Value = serde_json::from_str(&decap.command("status", &["-o", "json"])?.stdout)?;
        let rows = shown["drops"].as_array().cloned().unwrap_or_default();
        let row = rows.iter().find(|row| row["reason"] == "tunnel_source");
        Ok(row.and_then(|row| row["packets"].as_u64()).unwrap_or(0))
    };
    assert_eq!(answers()?, 0, "nobody has said that this is a VIP, nor that this is an edge node");

    // The VIP alone lets nobody in, and says so.
    api.put("services", service());
    wait_until("strangers' tunnels to be counted", BOUND, || {
        answers().is_ok_and(|answers| answers == 0) && refused(&decap).is_ok_and(|count| count > 0)
    })?;
    api.put("nodes", edge_node(true));
    wait_until("the edge node to be let in", BOUND, || answers().is_ok_and(|answers| answers == 20))?;

    // Nobody to ask: what was let in stays so, whoever runs.
    api.away(true);
    decap.product.kill();
    assert_eq!(answers()?, 20);
    decap.restart()?;
    assert_eq!(answers()?, 20, "what nobody knows of stays");
    api.put("nodes", edge_node(false));
    api.away(false);
    wait_until("who is no edge node any more to be shut out", BOUND, || {
        answers().is_ok_and(|answers| answers == 0)
    })?;
    let before = refused(&decap)?;
    assert_eq!(answers()?, 0);
    ensure!(refused(&decap)? > before, "dropped and not counted");
    Ok(())
}
