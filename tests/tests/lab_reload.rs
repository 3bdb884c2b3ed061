//! Changes of a running tier: what is refused, what is followed, what two edge nodes agree on, and what is left at the end.

use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use xdp_lb_tests::lab::files::{self, VIP, WEB};
use xdp_lb_tests::lab::product::{self, Output};
use xdp_lb_tests::lab::topology::HOST_INTERFACE;
use xdp_lb_tests::lab::traffic::{
    Calls, ConnectionOptions, Connections, DatagramOptions, Datagrams, Load, LoadOptions, LoadReport,
};
use xdp_lb_tests::lab::{
    Daemon, EdgeFile, Lab, Leaks, Mode, Node, Options, Role, Signal, State, Tier, http, plan, skip,
    wait_until,
};

const BOUND: Duration = Duration::from_secs(20);
const METRICS: &str = "127.0.0.1:9410";

fn load(lab: &Lab, requests: u64) -> Result<LoadReport> {
    let timeout = Duration::from_secs(1);
    let options = LoadOptions { requests, rate: 2000.0, timeout, ..LoadOptions::default() };
    Load::start(&lab.client(1).ns, &files::tcp(), options)?.finish(BOUND)
}

/// New requests on every service over both families, all answered.
fn requests(lab: &Lab, requests: u64) -> Result<LoadReport> {
    let report = load(lab, requests)?;
    ensure!(report.failures() == 0 && report.answers() == requests, "{report:?}");
    Ok(report)
}

#[test]
fn a_bad_file_is_reported_and_changes_nothing() -> Result<()> {
    if !skip::can_run(skip::LAB) {
        return Ok(());
    }
    let lab = Lab::start(&Options { edges: 1, ..Options::default() })?;
    let _servers = files::serve(lab.backends())?;
    let file = EdgeFile::new(3);
    let good = file.text(1);
    let mut tier = Tier::start(&lab, Mode::Native, |_| good.clone())?;
    let calls = Calls::start(&lab.client(1).ns, (&files::tcp(), 20), (&files::udp(), 8))?;
    calls.wait(3, BOUND)?;

    let bad: [(&str, String); 5] = [
        ("no YAML at all", "services: [".into()),
        ("an unknown key", good.replace("ports: 80\n", "ports: 80\n    colour: blue\n")),
        // The second half of the file would be fine, and every backend would drain: nothing of it may be used.
        ("one bad value in many good", file.with(1, State::Down).text(1).replace("4093", "4094")),
        ("nothing", String::new()),
        ("a capacity that does not fit", format!("{good}limits: {{ services: 1 }}\n")),
    ];
    for (what, text) in &bad {
        ensure!(*text != good, "{what}: the mistake was not made");
        let outcome = tier.edges[0].try_reload(text)?;
        ensure!(!outcome.done, "{what} was taken: {}", outcome.line);
        assert_eq!(requests(&lab, 100)?.answered.len(), 3, "{what}");
        // A good file right after is taken: one bad one leaves no trace.
        tier.edges[0].reload(&good).with_context(|| format!("after {what}"))?;
    }
    fs::remove_file(&tier.edges[0].config)?;
    let outcome = tier.edges[0].product.reload()?;
    ensure!(!outcome.done, "a missing file was taken: {}", outcome.line);
    assert_eq!(requests(&lab, 100)?.answered.len(), 3);

    // Every mistake is named with its place.
    let two = good.replace("4093", "4094").replace("protocol: udp", "protocol: sctp");
    let mark = tier.edges[0].product.process().mark();
    ensure!(!tier.edges[0].try_reload(&two)?.done);
    let mut said = || tier.edges[0].product.process().log().split_off(mark).join("\n");
    wait_until("both mistakes to be named", BOUND, || {
        let said = said();
        ["maglev.table_size", "services[2].protocol", "services[3].protocol"].iter().all(|p| said.contains(p))
    })
    .with_context(&mut said)?;

    // Someone who signals twice in a row, or while a change is under way, does no harm either.
    lab.scratch().write("edge1.yaml", &good)?;
    for _ in 0..20 {
        tier.edges[0].product.process().signal(Signal::Hup)?;
    }
    tier.edges[0].reload(&good)?;
    calls.wait(3, BOUND)?;
    calls.stop()?.unharmed("at the end")
}

#[test]
fn a_bad_file_at_the_start_is_exit_code_3_and_attaches_nothing() -> Result<()> {
    if !skip::can_run(skip::LAB) {
        return Ok(());
    }
    let lab = Lab::start(&Options { edges: 1, backends: 1, ..Options::default() })?;
    for (daemon, host, text) in [
        (Daemon::Run, lab.edge(1), EdgeFile::new(1).text(1).replace("4093", "4094")),
        (Daemon::Decap, lab.backend(1), files::decap_file(Mode::Native).replace("native", "naive")),
    ] {
        let mut node = Node::start(&lab, host, daemon, &text)?;
        let status = node.product.process().wait_exit(BOUND)?;
        assert_eq!(status.code(), Some(3), "{daemon:?}");
        assert!(!host.ns.netlink().has_xdp(HOST_INTERFACE)?, "{daemon:?}");
        assert!(!node.bpffs.exists(), "{daemon:?} left {}", node.bpffs.display());
    }
    Ok(())
}

#[test]
fn the_next_hop_is_followed_to_another_mac() -> Result<()> {
    if !skip::can_run(skip::LAB) {
        return Ok(());
    }
    let lab = Lab::start(&Options { edges: 1, ..Options::default() })?;
    let _servers = files::serve(lab.backends())?;
    let file = EdgeFile::new(3);
    let mut tier = Tier::start(&lab, Mode::Native, |n| file.text(n))?;
    assert_eq!(requests(&lab, 100)?.answered.len(), 3);
    let port = lab.edge(1).router_interface();
    // The router announces its new address as one that takes over another's does (gratuitous ARP, unsolicited NA).
    lab.router().sysctl(&format!("net/ipv4/conf/{port}/arp_notify"), "1")?;
    lab.router().sysctl(&format!("net/ipv6/conf/{port}/ndisc_notify"), "1")?;
    for round in [7, 8] {
        let mut mac = Role::Edge(1).gateway_mac();
        mac[1] = round;
        lab.router().netlink().set_mac(&port, mac)?;
        wait_until("the next hop to be followed", BOUND, || load(&lab, 8).is_ok_and(|r| r.failures() == 0))?;
        assert_eq!(requests(&lab, 200)?.answered.len(), 3);
    }
    // It is followed with the agent's own eyes: without the agent, packets go where they went.
    tier.edges[0].product.kill();
    lab.router().netlink().set_mac(&port, Role::Edge(1).gateway_mac())?;
    let lost = load(&lab, 8)?;
    assert_eq!(lost.answers(), 0, "somebody else follows next hops: {lost:?}");
    // One that starts later finds out, too.
    tier.edges[0].restart()?;
    wait_until("the next hop to be found", BOUND, || load(&lab, 8).is_ok_and(|r| r.failures() == 0))?;
    assert_eq!(requests(&lab, 200)?.answered.len(), 3);
    Ok(())
}

/// Lines of the log since `mark` that say this of the address.
fn said(node: &mut Node<'_>, mark: usize, what: &str, address: IpAddr) -> usize {
    let is_one = |line: &String| line.contains(what) && line.contains(&format!("address={address} "));
    node.product.process().log().iter().skip(mark).filter(|line| is_one(line)).count()
}

/// The router forwards, and does not answer for itself: first from the beginning, then from one moment to the other.
#[test]
fn a_neighbour_that_is_silent_is_counted_said_once_and_healed() -> Result<()> {
    if !skip::can_run(skip::LAB) {
        return Ok(());
    }
    let lab = Lab::start(&Options { edges: 1, ..Options::default() })?;
    let _servers = files::serve(lab.backends())?;
    let ns = &lab.edge(1).ns;
    let port = lab.edge(1).router_interface();
    // It knows its neighbour, or its own questions would tell where it is.
    let edge1 = Role::Edge(1);
    lab.router().netlink().set_neighbour(&port, edge1.address().v4.into(), edge1.mac())?;
    let silence = |on: &str| lab.router().sysctl(&format!("net/ipv4/conf/{port}/arp_ignore"), on);
    let forget = || -> Result<Output> {
        let mut command = Command::new("ip");
        command.args(["neigh", "del", &edge1.gateway().v4.to_string(), "dev", "eth0"]);
        product::run_to_end(ns, "ip", command, BOUND)
    };
    silence("8")?;
    forget()?;
    let text = format!("{}metrics: {{ listen: \"{METRICS}\" }}\n", EdgeFile::new(3).text(1));
    let mut tier = Tier::start(&lab, Mode::Native, |_| text.clone())?;
    let edge = &mut tier.edges[0];
    let dropped = || http::figure(ns, METRICS, "drops_total{reason=\"next_hop_unresolved\"}");
    let backends = [1, 2, 3].map(|n| Role::Backend(n).address().both()[0]);
    let back = || wait_until("the next hop", BOUND, || load(&lab, 8).is_ok_and(|r| r.failures() == 0));

    // One service of the two goes over IPv4: its requests have no way, and each packet of them counts.
    let lost = load(&lab, 40)?;
    let of_web = lost.failures.iter().all(|failure| failure.target.port() == WEB);
    ensure!(lost.failures() > 5 && lost.answers() > 5 && of_web, "{lost:?}");
    ensure!(dropped()? >= lost.failures() as f64, "{} dropped: {lost:?}", dropped()?);
    silence("0")?;
    back()?;
    let healed = dropped()?;
    assert_eq!(requests(&lab, 100)?.answered.len(), 3);
    assert_eq!(dropped()?, healed, "nothing is dropped any more");
    for backend in backends {
        let lines = ["next hop lost", "next hop resolved"].map(|what| said(edge, 0, what, backend));
        assert_eq!(lines, [0, 1], "{backend}");
    }

    // Who was there is believed to be there still: calls go on, and it is said once.
    let calls = Calls::start(&lab.client(1).ns, (&files::tcp(), 20), (&files::udp(), 8))?;
    calls.wait(3, BOUND)?;
    let mark = edge.product.process().mark();
    silence("8")?;
    ensure!(forget()?.status.success());
    wait_until("the loss to be said", BOUND, || backends.iter().all(|b| said(edge, mark, "lost", *b) > 0))?;
    calls.wait(10, BOUND)?;
    requests(&lab, 100)?;
    silence("0")?;
    wait_until("the answer to be said", BOUND, || {
        backends.iter().all(|b| said(edge, mark, "next hop resolved", *b) > 0)
    })?;
    requests(&lab, 100)?;
    for backend in backends {
        let lines = ["next hop lost", "next hop resolved"].map(|what| said(edge, mark, what, backend));
        assert_eq!(lines, [1, 1], "{backend}");
    }
    assert_eq!(dropped()?, healed);
    calls.stop()?.unharmed("the neighbour was silent")
}

#[test]
fn backends_come_and_go_and_calls_stay() -> Result<()> {
    if !skip::can_run(skip::LAB) {
        return Ok(());
    }
    let lab = Lab::start(&Options::default())?;
    let _servers = files::serve(lab.backends())?;
    let all = EdgeFile::new(3);
    let two = all.without(3);
    let mut tier = Tier::start(&lab, Mode::Native, |n| two.text(n))?;
    let calls = Calls::start(&lab.client(1).ns, (&files::tcp(), 60), (&files::udp(), 16))?;
    calls.wait(3, BOUND)?;
    assert_eq!(requests(&lab, 200)?.answered.len(), 2);

    tier.reload(|n| all.text(n))?;
    assert_eq!(requests(&lab, 200)?.answered.len(), 3);
    calls.wait(3, BOUND).context("backend3 was added")?;
    calls.report().unharmed("backend3 was added")?;

    // One that is taken out of the file is drained before it is forgotten.
    let without = all.without(1);
    tier.reload(|n| without.text(n))?;
    assert_eq!(requests(&lab, 200)?.answered.get("backend1"), None);
    calls.wait(3, BOUND).context("backend1 was removed")?;
    let report = calls.report();
    report.unharmed("backend1 was removed")?;
    assert!(report.open_by_server().contains_key("backend1"), "{:?}", report.open_by_server());

    tier.reload(|n| all.text(n))?;
    assert_eq!(requests(&lab, 200)?.answered.len(), 3);
    calls.wait(3, BOUND).context("backend1 came back")?;
    calls.stop()?.unharmed("backend1 came back")?;

    // Nobody left: a service that drops, and takes up its work again.
    let none = EdgeFile::new(0);
    tier.reload(|n| none.text(n))?;
    assert_eq!(load(&lab, 8)?.answers(), 0);
    tier.reload(|n| all.text(n))?;
    assert_eq!(requests(&lab, 200)?.answered.len(), 3);
    Ok(())
}

/// Which backend `explain` names for a flow, and all that it says.
fn explain(node: &Node<'_>, protocol: &str, from: SocketAddr, to: SocketAddr) -> Result<(IpAddr, String)> {
    let (from, to) = (from.to_string(), to.to_string());
    let mut args = vec!["--proto", protocol, "--src", &from, "--dst", &to, "-o", "json"];
    if protocol == "tcp" {
        // What a new connection gets. A later segment, of a connection that this node has not seen, may belong to one that
        // is older than a change that only this node has been through.
        args.push("--syn");
    }
    let output = node.command("explain", &args)?;
    ensure!(output.status.success(), "explain {from} {to}: {}", output.stderr);
    let json: serde_json::Value = serde_json::from_str(&output.stdout).context("explain's JSON")?;
    let backend = json["backend"].as_str().and_then(|b| b.parse().ok());
    Ok((backend.with_context(|| format!("no backend in {json:#}"))?, format!("{json:#}")))
}

#[test]
fn edge_nodes_agree_with_each_other_and_with_the_traffic() -> Result<()> {
    if !skip::can_run(skip::LAB) {
        return Ok(());
    }
    let lab = Lab::start(&Options::default())?;
    let _servers = files::serve(lab.backends())?;
    let file = EdgeFile::new(3);
    let turned = |file: &EdgeFile, n| EdgeFile { reversed: n == 2, ..file.clone() }.text(n);
    // Edge2 reads everything the other way round, and has met its backends in another order.
    let mut tier = Tier::start(&lab, Mode::Native, |n| {
        let first = if n == 2 {
            EdgeFile { backends: file.backends[2..].to_vec(), ..file.clone() }
        } else {
            file.clone()
        };
        turned(&first, n)
    })?;
    tier.reload(|n| turned(&file, n))?;
    for state in [State::Active, State::Down] {
        let now = file.with(2, state);
        tier.reload(|n| turned(&now, n))?;
        for (tcp, udp) in files::tcp().into_iter().zip(files::udp()) {
            let options = ConnectionOptions { connections: 12, ..ConnectionOptions::default() };
            let connections = Connections::start(&lab.client(1).ns, tcp, options)?;
            let options = DatagramOptions { flows: 6, ..DatagramOptions::default() };
            let streams = Datagrams::start(&lab.client(1).ns, udp, options)?;
            connections.wait_records(1, BOUND)?;
            streams.wait_answers(1, BOUND)?;
            let from = |local: Option<SocketAddr>| local.context("a flow without an address");
            let mut flows = Vec::new();
            for c in connections.report() {
                flows.push(("tcp", from(c.local)?, tcp, c.server.context("nobody answered")?));
            }
            for f in streams.report() {
                flows.push(("udp", from(f.local)?, udp, f.servers[0].clone()));
            }
            for (protocol, from, to, server) in flows {
                let [first, second] = [0, 1].map(|edge| explain(&tier.edges[edge], protocol, from, to));
                let ((first, why_first), (second, why_second)) = (first?, second?);
                assert_eq!(first, second, "{protocol} {from} -> {to}: {why_first} {why_second}");
                let backend = lab.backends().iter().find(|b| b.role.address().both().contains(&first));
                let backend = backend.map(|b| b.role.name());
                assert_eq!(backend.as_deref(), Some(server.as_str()), "{protocol} {from} -> {to}: {first}");
            }
        }
    }
    Ok(())
}

#[test]
fn detach_leaves_nothing() -> Result<()> {
    if !skip::can_run(skip::LAB) {
        return Ok(());
    }
    let before = Leaks::note()?;
    let lab = Lab::start(&Options::default())?;
    let id = lab.id();
    {
        let _servers = files::serve(lab.backends())?;
        let file = EdgeFile::new(3);
        let mut tier = Tier::start(&lab, Mode::Native, |n| file.text(n))?;
        assert_eq!(requests(&lab, 100)?.answered.len(), 3);
        let on_lo = |node: &Node<'_>| -> Result<Vec<IpAddr>> {
            let vips = plan::vip(VIP).both();
            let addresses = node.host().ns.netlink().addresses("lo")?;
            Ok(addresses.into_iter().map(|(ip, _)| ip).filter(|ip| vips.contains(ip)).collect())
        };
        // Under an agent's hands nothing is taken away.
        let refused = tier.edges[0].command("detach", &[])?;
        assert!(!refused.status.success() && refused.stderr.contains("stop it first"), "{}", refused.stderr);
        assert_eq!(requests(&lab, 100)?.answered.len(), 3);
        for node in tier.edges.iter_mut().chain(&mut tier.decaps) {
            let status = node.product.terminate()?;
            ensure!(status.success(), "{status}");
            // By default everything stays.
            assert!(node.host().ns.netlink().has_xdp(HOST_INTERFACE)?);
            assert!(fs::read_dir(node.bpffs.join("links"))?.next().is_some());
        }
        assert!(tier.decaps.iter().all(|node| on_lo(node).is_ok_and(|vips| vips.len() == 2)));
        assert_eq!(requests(&lab, 100)?.answered.len(), 3);

        for node in tier.edges.iter().chain(&tier.decaps) {
            let output = node.command("detach", &[])?;
            ensure!(output.status.success(), "detach: {}", output.stderr);
            let name = node.host().ns.name();
            assert!(!node.host().ns.netlink().has_xdp(HOST_INTERFACE)?, "{name} still has its program");
            assert!(!node.bpffs.exists(), "{name} still has {}", node.bpffs.display());
            assert_eq!(on_lo(node)?, [] as [IpAddr; 0], "{name}");
            // A second time there is nothing to do, and that is no failure.
            ensure!(node.command("detach", &[])?.status.success());
        }
        assert_eq!(load(&lab, 4)?.answers(), 0, "something still forwards");

        // And back again, as if nothing had been; this time the agents themselves take everything away.
        for node in tier.edges.iter_mut().chain(&mut tier.decaps) {
            node.extra = vec!["--on-exit".into(), "detach".into()];
            node.restart()?;
        }
        assert_eq!(requests(&lab, 100)?.answered.len(), 3);
        for node in tier.edges.iter_mut().chain(&mut tier.decaps) {
            let status = node.product.terminate()?;
            ensure!(status.success(), "{status}");
            assert!(!node.host().ns.netlink().has_xdp(HOST_INTERFACE)?);
            assert!(!node.bpffs.exists(), "{} is left", node.bpffs.display());
        }
        assert!(tier.decaps.iter().all(|node| on_lo(node).is_ok_and(|vips| vips.is_empty())));
    }
    drop(lab);
    before.check(id)
}

#[test]
fn a_backend_that_is_back_starts_slowly() -> Result<()> {
    if !skip::can_run(skip::LAB) {
        return Ok(());
    }
    let lab = Lab::start(&Options { edges: 1, ..Options::default() })?;
    let _servers = files::serve(lab.backends())?;
    let slowly = vec!["slow_start: 8s".to_owned()];
    let file = EdgeFile { more: [slowly.clone(), slowly], ..EdgeFile::new(3) };
    // All are new: nobody waits.
    let mut tier = Tier::start(&lab, Mode::Native, |n| file.text(n))?;
    let part = |report: &LoadReport| report.answered.get("backend1").copied().unwrap_or(0);
    assert!(part(&requests(&lab, 600)?) > 120);
    tier.reload(|n| file.with(1, State::Down).text(n))?;
    assert_eq!(part(&requests(&lab, 600)?), 0);
    let calls = Calls::start(&lab.client(1).ns, (&files::tcp(), 40), (&files::udp(), 8))?;
    calls.wait(3, BOUND)?;
    tier.reload(|n| file.text(n))?;
    let first = part(&requests(&lab, 600)?);
    // A ninth of a third, and what a step more would be; all of it would be 200.
    assert!(first < 120, "{first} of 600 at once");
    wait_until("the whole part", BOUND, || requests(&lab, 600).is_ok_and(|report| part(&report) > 150))?;
    calls.stop()?.unharmed("while backend1 came back")
}
