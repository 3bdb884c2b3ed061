//! An edge node whose file says who it is and no more: tunnels and routers come from the cluster, change there, are wrong there,
//! outlive agent and API server, and go.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use xdp_lb_tests::lab::apiserver::ApiServer;
use xdp_lb_tests::lab::bgp::{EDGE_AS, ROUTER_AS, status_file};
use xdp_lb_tests::lab::files::{self, VIP, WEB};
use xdp_lb_tests::lab::product::run_to_end;
use xdp_lb_tests::lab::routers::FRR;
use xdp_lb_tests::lab::traffic::{Load, LoadOptions};
use xdp_lb_tests::lab::{Frr, Lab, Mode, Options, Role, Tier, plan, skip, wait_until};

const BOUND: Duration = Duration::from_secs(40);
const PASSWORD: &str = "s3cret-of-the-leaf";
const PASSWORD_BASE64: &str = "czNjcmV0LW9mLXRoZS1sZWFm";

fn resource(kind: &str, name: &str, spec: Value) -> Value {
    json!({ "apiVersion": "xdp-lb.io/v1alpha1", "kind": kind, "metadata": { "name": name }, "spec": spec })
}

fn config(lab: &Lab, med: u32, dscp: u32) -> Value {
    let [v4, v6] = plan::tunnel_sources(1).map(|(ip, length)| format!("{ip}/{length}"));
    resource(
        "EdgeConfig",
        "edge",
        json!({ "encap": { "source_v4": v4, "source_v6": v6, "dscp": dscp },
            "bgp": { "local_as": EDGE_AS, "router_id": Role::Edge(1).address().v4, "med": med, "withdraw_grace": "1s",
                "status_file": status_file(lab, 1) } }),
    )
}

fn peer(name: &str, rack: &str, address: &str) -> Value {
    let spec = json!({ "nodeSelector": { "matchLabels": { "rack": rack } }, "address": address, "remote_as": ROUTER_AS,
        "families": ["ipv4"], "passwordSecretRef": { "name": "xdp-lb-bgp", "key": "leaf" } });
    resource("BgpPeer", name, spec)
}

/// Two nodes with a pod each, and a Service of theirs.
fn put_service(api: &ApiServer) {
    for n in 1..=2 {
        let address = Role::Backend(n).address().v4;
        api.put(
            "nodes",
            json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": format!("n{n}") },
            "status": { "addresses": [{ "type": "InternalIP", "address": address }] } }),
        );
    }
    api.put("services", json!({ "apiVersion": "v1", "kind": "Service",
        "metadata": { "name": "web", "namespace": "default", "annotations": { "xdp-lb.io/delivery": "host" } },
        "spec": { "type": "LoadBalancer", "loadBalancerClass": "xdp-lb.io/edge", "externalTrafficPolicy": "Local",
            "ports": [{ "name": "http", "protocol": "TCP", "port": WEB }] },
        "status": { "loadBalancer": { "ingress": [{ "ip": plan::vip(VIP).v4 }] } } }));
    let endpoint = |n: u8| json!({ "addresses": [format!("10.244.0.{n}")], "nodeName": format!("n{n}"), "conditions": { "ready": true } });
    api.put("endpointslices", json!({ "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": { "name": "web-1", "namespace": "default", "labels": { "kubernetes.io/service-name": "web" } },
        "ports": [{ "name": "http", "protocol": "TCP", "port": WEB }], "endpoints": [endpoint(1), endpoint(2)] }));
}

fn answers(lab: &Lab) -> u64 {
    let options =
        LoadOptions { requests: 20, rate: 500.0, timeout: Duration::from_secs(1), ..LoadOptions::default() };
    let load =
        Load::start(&lab.client(1).ns, &files::at(WEB)[..1], options).and_then(|load| load.finish(BOUND));
    load.map_or(0, |report| report.answers())
}

/// The file of an edge node that takes everything else from the cluster.
fn file(lab: &Lab, api: &ApiServer) -> Result<String> {
    let kubeconfig = lab.scratch().write("kubeconfig", &api.kubeconfig())?;
    Ok(format!(
        "version: 1\nnode: {{ name: edge1 }}\ninterfaces: [{{ name: eth0 }}]\nmaglev: {{ table_size: 4093, seed: 0x78646c62 }}\n\
         flow_table: {{ entries: 65536 }}\nkubernetes: {{ kubeconfig: {} }}\n",
        kubeconfig.display()
    ))
}

/// The router's route to the VIP.
fn route(lab: &Lab) -> Result<String> {
    let mut ip = std::process::Command::new("ip");
    ip.args(["-4", "route", "show", &format!("{}/32", plan::vip(VIP).v4)]);
    Ok(run_to_end(lab.router(), "ip", ip, BOUND)?.stdout)
}

#[test]
fn tunnels_and_routers_come_from_the_cluster_and_go_with_it() -> Result<()> {
    if !skip::can_run(&[skip::LAB, &[FRR]].concat()) {
        return Ok(());
    }
    let lab = Lab::start(&Options { edges: 1, ..Options::default() })?;
    lab.leave_vips_to_bgp()?;
    let (own, router) = (Role::Edge(1).address().v4, Role::Edge(1).gateway().v4);
    let neighbour = format!(
        " neighbor {own} remote-as {EDGE_AS}\n neighbor {own} timers 3 9\n neighbor {own} passive\n neighbor {own} password {PASSWORD}\n"
    );
    let text = format!(
        "frr defaults datacenter\nno zebra nexthop kernel enable\nrouter bgp {ROUTER_AS}\n bgp router-id 10.1.1.1\n no bgp ebgp-requires-policy\n \
         bgp graceful-restart\n{neighbour}exit\n"
    );
    let frr = Frr::start(lab.router(), lab.scratch().path(), &text, "")?;
    let _servers = files::serve(lab.backends())?;
    let api = ApiServer::start(&lab.edge(1).ns)?;
    put_service(&api);
    api.put("nodes", json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": "edge1", "labels": { "rack": "1" } } }));
    api.put("edgeconfigs", config(&lab, 50, 0));
    api.put("bgppeers", peer("leaf", "1", &router.to_string()));
    api.put("bgppeers", peer("other", "2", "10.99.99.99"));
    let file = file(&lab, &api)?;
    let mut tier = Tier::start(&lab, Mode::Native, |_| file.clone())?;
    let is_announced = || route(&lab).is_ok_and(|route| route.contains("to-edge1"));
    let bgp_status = |tier: &Tier<'_>| -> Result<Value> {
        let said =
            tier.edges[0].command("status", &["bgp", "-o", "json", "--bgp-file", &status_file(&lab, 1)])?;
        serde_json::from_str(&said.stdout).context(said.stderr)
    };
    // The password is not there yet.
    wait_until("the router to be missed", BOUND, || {
        let why =
            bgp_status(&tier).map(|status| status["peers"][0]["failing"].to_string()).unwrap_or_default();
        why.contains("read Secret xdp-lb-bgp: there is none in the namespace default")
    })?;
    api.put(
        "secrets",
        json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "xdp-lb-bgp", "namespace": "default" },
        "data": { "leaf": PASSWORD_BASE64 } }),
    );
    wait_until("the route", BOUND, is_announced)
        .with_context(|| frr.ask(&["show bgp neighbors"]).unwrap_or_default())?;
    assert_eq!(answers(&lab), 20);
    let shown = bgp_status(&tier)?;
    assert_eq!(
        shown["peers"].as_array().map(Vec::len),
        Some(1),
        "the other rack's router is none of ours: {shown:#}"
    );

    // A change.
    let med = |wanted: u32| {
        let question = format!("show bgp ipv4 unicast {}/32 json", plan::vip(VIP).v4);
        frr.json(&question).is_ok_and(|told| told["paths"][0]["metric"] == wanted)
    };
    wait_until("the first MED", BOUND, || med(50))?;
    api.put("edgeconfigs", config(&lab, 77, 0));
    wait_until("another MED", BOUND, || med(77))?;

    // A mistake, told with its place; everything goes on.
    let mark = tier.edges[0].product.process().mark();
    api.put("edgeconfigs", config(&lab, 88, 99));
    wait_until("the mistake to be told", BOUND, || {
        let said = tier.edges[0].product.process().log().split_off(mark).join("\n");
        said.contains("EdgeConfig edge: spec.encap.dscp: must be") && said.contains("stay in force")
    })?;
    let said = tier.edges[0].command("status", &[])?.stdout;
    ensure!(said.contains("spec.encap.dscp") && said.contains("EdgeConfig edge, BgpPeer leaf"), "{said}");
    ensure!(med(77) && is_announced());
    assert_eq!(answers(&lab), 20);

    // Another agent finds nobody to ask, then only the mistake: what was in force last is.
    api.away(true);
    tier.edges[0].product.kill();
    tier.edges[0].restart()?;
    assert_eq!(answers(&lab), 20, "the maps of the agent before forward");
    api.away(false);
    wait_until("the session of another agent", BOUND, || {
        bgp_status(&tier).is_ok_and(|status| status["peers"][0]["state"] == "Established")
    })?;
    wait_until("the MED of what was in force", BOUND, || med(77))?;
    assert_eq!(answers(&lab), 20);

    // Mended; the router goes, then the rest.
    api.put("edgeconfigs", config(&lab, 99, 0));
    wait_until("the mended one", BOUND, || med(99))?;
    let said = tier.edges[0].command("status", &["-o", "json"])?.stdout;
    ensure!(!said.contains("spec.encap.dscp"), "{said}");
    let shown: Value = serde_json::from_str(&said)?;
    assert_eq!(shown["generation"], 1, "the file was never another");
    api.remove("bgppeers", "leaf");
    wait_until("the route to go", BOUND, || !is_announced())?;
    api.remove("edgeconfigs", "edge");
    let backends = || {
        let said =
            tier.edges[0].command("status", &["-o", "json"]).map(|said| said.stdout).unwrap_or_default();
        let shown: Value = serde_json::from_str(&said).unwrap_or_default();
        shown["services"][0]["backends"].as_array().map(Vec::len)
    };
    wait_until("the tunnels to go", BOUND, || backends() == Some(0))?;

    let told =
        tier.edges[0].product.process().log().join("\n") + &bgp_status(&tier).unwrap_or_default().to_string();
    ensure!(!told.contains(PASSWORD) && !told.contains(PASSWORD_BASE64), "the password is told");
    Ok(())
}

/// Routers hold a restarting speaker's routes for `restart_time` and no longer. An agent that finds nobody to ask announces what
/// the maps hold.
#[test]
fn routes_outlive_agent_and_api_server() -> Result<()> {
    if !skip::can_run(&[skip::LAB, &[FRR]].concat()) {
        return Ok(());
    }
    let lab = Lab::start(&Options { edges: 1, ..Options::default() })?;
    lab.leave_vips_to_bgp()?;
    let (own, router) = (Role::Edge(1).address().v4, Role::Edge(1).gateway().v4);
    let text = format!(
        "frr defaults datacenter\nno zebra nexthop kernel enable\nrouter bgp {ROUTER_AS}\n bgp router-id 10.1.1.1\n no bgp ebgp-requires-policy\n \
         bgp graceful-restart\n neighbor {own} remote-as {EDGE_AS}\n neighbor {own} timers 3 9\n neighbor {own} passive\nexit\n"
    );
    let frr = Frr::start(lab.router(), lab.scratch().path(), &text, "")?;
    let _servers = files::serve(lab.backends())?;
    let api = ApiServer::start(&lab.edge(1).ns)?;
    put_service(&api);
    let kubeconfig = lab.scratch().write("kubeconfig", &api.kubeconfig())?;
    let [v4, v6] = plan::tunnel_sources(1).map(|(ip, length)| format!("{ip}/{length}"));
    let file = format!(
        "version: 1\nnode: {{ name: edge1 }}\ninterfaces: [{{ name: eth0 }}]\nmaglev: {{ table_size: 4093, seed: 0x78646c62 }}\n\
         encap: {{ source_v4: {v4}, source_v6: \"{v6}\" }}\n\
         flow_table: {{ entries: 65536 }}\nkubernetes: {{ kubeconfig: {} }}\n\
         bgp: {{ local_as: {EDGE_AS}, router_id: {own}, restart_time: 3s, withdraw_grace: 1s, status_file: {:?},\n  \
         peers: [{{ address: {router}, remote_as: {ROUTER_AS}, families: [ipv4] }}] }}\n",
        kubeconfig.display(),
        status_file(&lab, 1)
    );
    let mut tier = Tier::start(&lab, Mode::Native, |_| file.clone())?;
    let vip = plan::vip(VIP).v4;
    // Told by this session, and not kept from the one before.
    let is_fresh = || {
        let told = frr.json(&format!("show bgp ipv4 unicast {vip}/32 json")).unwrap_or_default();
        told["paths"].as_array().is_some_and(|paths| paths.len() == 1 && paths[0]["stale"].is_null())
    };
    wait_until("the route", BOUND, || {
        route(&lab).is_ok_and(|route| route.contains("to-edge1")) && is_fresh()
    })?;
    let established = || {
        let told = frr.json(&format!("show bgp neighbors {own} json")).unwrap_or_default();
        told[own.to_string()]["connectionsEstablished"].as_u64().unwrap_or(0)
    };
    let before = established();
    ensure!(before > 0, "the router does not count sessions");

    api.away(true);
    tier.edges[0].product.kill();
    assert_eq!(answers(&lab), 20, "nobody is there, and all is forwarded");
    tier.edges[0].restart()?;
    wait_until("another session", BOUND, || established() > before)?;
    wait_until("the route to be told again", BOUND, is_fresh)?;
    // Its end of RIB is what would take away whatever it does not announce.
    let status = || -> Result<Value> {
        let said =
            tier.edges[0].command("status", &["bgp", "-o", "json", "--bgp-file", &status_file(&lab, 1)])?;
        serde_json::from_str(&said.stdout).context(said.stderr)
    };
    // The agent writes its status a moment later.
    let is_why = |shown: Value| {
        shown["vips"][0]["reason"].as_str().is_some_and(|why| why.contains("2 of 2 backends healthy"))
    };
    wait_until("the reason", BOUND, || status().is_ok_and(is_why))
        .with_context(|| format!("{:?}", status()))?;
    ensure!(route(&lab)?.contains("to-edge1") && answers(&lab) == 20);

    // The cluster says something else meanwhile; then it is followed.
    api.remove("services", "web");
    api.away(false);
    wait_until("the route to go", BOUND, || !route(&lab).is_ok_and(|route| route.contains("to-edge1")))
}

#[test]
fn a_section_moves_between_file_and_cluster_without_a_gap() -> Result<()> {
    if !skip::can_run(skip::LAB) {
        return Ok(());
    }
    let lab = Lab::start(&Options { edges: 1, ..Options::default() })?;
    let _servers = files::serve(lab.backends())?;
    let api = ApiServer::start(&lab.edge(1).ns)?;
    put_service(&api);
    let [v4, v6] = plan::tunnel_sources(1).map(|(ip, length)| format!("{ip}/{length}"));
    let with = resource("EdgeConfig", "edge", json!({ "encap": { "source_v4": v4, "source_v6": v6 } }));
    let without = resource("EdgeConfig", "edge", json!({}));
    let alone = file(&lab, &api)?;
    let whole = format!("{alone}encap: {{ source_v4: {v4}, source_v6: \"{v6}\" }}\n");
    api.put("edgeconfigs", with.clone());
    let mut tier = Tier::start(&lab, Mode::Native, |_| alone.clone())?;
    let edge = &mut tier.edges[0];
    assert_eq!(answers(&lab), 20);
    let load = || {
        let options = LoadOptions {
            requests: 4000,
            rate: 400.0,
            timeout: Duration::from_secs(2),
            ..LoadOptions::default()
        };
        Load::start(&lab.client(1).ns, &files::at(WEB)[..1], options)
    };
    let meanwhile = load()?;

    // To the file: it stands twice, then it is there.
    let outcome = edge.try_reload(&whole)?;
    ensure!(!outcome.done, "{}", outcome.line);
    let places = "EdgeConfig edge: spec.encap: stands elsewhere, too (encap in ";
    wait_until("both places to be told", BOUND, || edge.product.process().log().join("\n").contains(places))?;
    let twice = lab.scratch().write("twice.yaml", &whole)?;
    let planned = edge.command("plan", &[&twice.display().to_string()])?;
    ensure!(planned.status.code() == Some(3) && planned.stderr.contains(places), "{planned:?}");
    let mark = edge.product.process().mark();
    api.put("edgeconfigs", without);
    let in_force = |line: &str| line.contains("changed configuration in force");
    edge.product.process().wait_line_that(mark, "the file that waited", BOUND, in_force)?;
    assert_eq!(answers(&lab), 20);

    // And back.
    let mark = edge.product.process().mark();
    api.put("edgeconfigs", with);
    edge.product
        .process()
        .wait_line_that(mark, "the mistake", BOUND, |line| line.contains("the cluster's resources: "))?;
    edge.reload(&alone)?;
    let report = meanwhile.finish(BOUND)?;
    ensure!(report.failures() == 0, "{report:?}");
    assert_eq!(answers(&lab), 20);
    let status = edge.command("status", &[])?.stdout;
    ensure!(!status.contains("stands elsewhere"), "{status}");
    Ok(())
}

/// Both edge nodes take what they balance, and how they tell each other, from the cluster: through an outage and another start,
/// too.
#[test]
fn services_and_peers_come_from_the_cluster() -> Result<()> {
    if !skip::can_run(skip::LAB) {
        return Ok(());
    }
    let lab = Lab::start(&Options::default())?;
    let _servers = files::serve(lab.backends())?;
    let mut api = ApiServer::start(&lab.edge(1).ns)?;
    api.also_in(&lab.edge(2).ns)?;
    let key = lab.scratch().write("peers.key", "a secret of more than thirty-two bytes\n")?;
    std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    let own = |n: u8| Role::Edge(n).address().v4;
    for n in [1, 2] {
        let name = format!("edge{n}");
        let [v4, v6] = plan::tunnel_sources(n).map(|(ip, length)| format!("{ip}/{length}"));
        api.put("nodes", json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": name, "labels": { "name": name } } }));
        // One list: each node leaves itself out.
        let spec = json!({ "nodeSelector": { "matchLabels": { "name": name } }, "encap": { "source_v4": v4, "source_v6": v6 },
            "peers": { "listen": format!("{}:9411", own(n)), "key_file": key, "nodes": [own(1), own(2)] } });
        api.put("edgeconfigs", resource("EdgeConfig", &name, spec));
    }
    let backends = [1, 2, 3].map(|n| json!({ "address": Role::Backend(n).address().v4 }));
    let service = json!({ "name": "web", "vip": plan::vip(VIP).v4, "protocol": "tcp", "ports": WEB, "backends": backends });
    api.put("edgeconfigs", resource("EdgeConfig", "services", json!({ "services": [service] })));
    let text = file(&lab, &api)?;
    let mut tier =
        Tier::start(&lab, Mode::Native, |n| text.replace("name: edge1", &format!("name: edge{n}")))?;
    assert_eq!(answers(&lab), 20);
    // What one drains by command the other is told, and shows.
    let is_told = |tier: &Tier<'_>, backend: u8| -> Result<()> {
        let address = Role::Backend(backend).address().v4.to_string();
        let output = tier.edges[0].command("drain", &[&address])?;
        ensure!(output.status.success(), "{output:?}");
        wait_until("edge2 to know of the drain", BOUND, || {
            let said = tier.edges[1].command("status", &["-o", "json"]).map(|said| said.stdout);
            let shown: Value = serde_json::from_str(&said.unwrap_or_default()).unwrap_or_default();
            let drains = shown["agent"]["peer_drains"].as_array().cloned().unwrap_or_default();
            drains.iter().any(|drain| drain["backend"] == address.as_str())
        })
    };
    is_told(&tier, 1)?;

    // The name stands twice: nothing changes.
    let mark = tier.edges[0].product.process().mark();
    let twice = json!({ "services": [{ "name": "web", "vip": "203.0.113.99", "protocol": "tcp", "ports": 1, "backends": [] }] });
    api.put("edgeconfigs", resource("EdgeConfig", "twice", twice));
    wait_until("the mistake to be told", BOUND, || {
        let said = tier.edges[0].product.process().log().split_off(mark).join("\n");
        said.contains("EdgeConfig twice: spec.services[0].name: \"web\" is the name of another service too (EdgeConfig services: ")
    })?;
    api.remove("edgeconfigs", "twice");
    assert_eq!(answers(&lab), 20);

    // Other agents find nobody to ask.
    api.away(true);
    for edge in &mut tier.edges {
        edge.product.kill();
        edge.restart()?;
    }
    assert_eq!(answers(&lab), 20);
    let count = |node: usize, tier: &Tier<'_>| {
        let said = tier.edges[node].command("status", &["-o", "json"]).map(|said| said.stdout);
        let shown: Value = serde_json::from_str(&said.unwrap_or_default()).unwrap_or_default();
        shown["services"].as_array().map(Vec::len)
    };
    for node in [0, 1] {
        assert_eq!(count(node, &tier), Some(1), "what was in force last");
    }
    is_told(&tier, 2)?;

    // What the cluster says by now is followed: one service more, then none.
    let both = json!({ "services": [service, { "name": "more", "vip": "203.0.113.99", "protocol": "udp", "ports": "all", "backends": backends }] });
    api.put("edgeconfigs", resource("EdgeConfig", "services", both));
    api.away(false);
    wait_until("another service", BOUND, || [0, 1].iter().all(|&node| count(node, &tier) == Some(2)))?;
    assert_eq!(answers(&lab), 20);
    api.remove("edgeconfigs", "services");
    wait_until("the services to go", BOUND, || [0, 1].iter().all(|&node| count(node, &tier) == Some(0)))
}
