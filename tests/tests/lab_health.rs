//! Health checks through the tunnel, in the lab: what dies, how soon it is out, why it says so, and who notices.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use xdp_lb::{
    dataplane::{BpffsRoot, KernelMaps},
    plan,
    state::Maps as _,
    template::from_map,
};
use xdp_lb_common::backend::BACKEND_ALIVE;
use xdp_lb_tests::lab::files::{VIP, WEB};
use xdp_lb_tests::lab::plan::vip;
use xdp_lb_tests::lab::product::run_to_end;
use xdp_lb_tests::lab::traffic::{Calls, FailureKind, Load, LoadOptions, Server, curl};
use xdp_lb_tests::lab::{
    EdgeFile, Lab, Leaks, Mode, Node, Options, Role, State, Tier, files, skip, wait_for, wait_until,
};

const BOUND: Duration = Duration::from_secs(20);
/// Answers after which a change has been felt by everyone, if it is felt at all.
const ENOUGH: u64 = 5;
/// fall x interval + timeout + jitter + 100 ms.
const DETECTION: Duration = Duration::from_millis(2 * 300 + 200 + 30 + 100);
/// What a build without optimization takes for the four plans of four services that fall one after the other.
const SLACK: Duration = if cfg!(debug_assertions) { Duration::from_secs(1) } else { Duration::ZERO };

/// A file whose services all check their backends.
fn checked(backends: u8) -> EdgeFile {
    let times = "interval: 300ms, timeout: 200ms, rise: 2, fall: 2";
    EdgeFile {
        more: [
            vec![format!("health_check: {{ kind: tcp, {times} }}")],
            vec![format!("health_check: {{ kind: udp, payload: \"12345678\", {times} }}")],
        ],
        ..EdgeFile::new(backends)
    }
}

/// Every backend with what status says of it: service, address, state, health.
fn status(node: &Node<'_>) -> Result<Vec<(String, String, String, String)>> {
    let output = node.command("status", &["backends", "-o", "json"])?;
    ensure!(output.status.success(), "{output:?}");
    let rows: Vec<Value> = serde_json::from_str(&output.stdout).context("read status")?;
    let text = |row: &Value, key: &str| row[key].as_str().unwrap_or_default().to_owned();
    Ok(rows
        .iter()
        .map(|row| {
            let health = row["health"]["words"].as_str().unwrap_or("-").to_owned();
            (text(row, "service"), text(row, "address"), text(row, "state"), health)
        })
        .collect())
}

fn all_up(node: &Node<'_>) -> bool {
    status(node).is_ok_and(|rows| rows.iter().all(|row| row.2 == "active" && row.3 == "up"))
}

fn wait_all_up(tier: &Tier<'_>) -> Result<()> {
    let up = || tier.edges.iter().all(all_up);
    wait_until("all backends to be up", BOUND, up).with_context(|| format!("{:#?}", status(&tier.edges[0])))
}

/// Whether the maps let flows go to a backend, by its services in the file's order; read as packets read it.
fn alive(maps: &KernelMaps, backend: Role) -> BTreeMap<String, bool> {
    let observed = maps.observe();
    let addresses = backend.address().both();
    let services = observed.services.iter().flat_map(|(id, service)| {
        let members = observed.ring(*id).into_iter().flat_map(|ring| ring.members.values());
        let its = members.filter(|member| addresses.contains(&from_map(member.address)));
        its.map(|member| (plan::name(service).to_owned(), member.state & BACKEND_ALIVE != 0))
    });
    services.collect()
}

fn open_maps(node: &Node<'_>) -> Result<KernelMaps> {
    Ok(KernelMaps::open_read_only(&BpffsRoot::new(&node.bpffs))?)
}

/// New requests on every TCP service over both families: all are answered. Says by whom.
fn requests(lab: &Lab) -> Result<BTreeMap<String, u64>> {
    let options = LoadOptions { requests: 400, rate: 2000.0, ..LoadOptions::default() };
    let report = Load::start(&lab.client(1).ns, &files::tcp(), options)?.finish(BOUND)?;
    ensure!(report.failures() == 0 && report.answers() == 400, "{report:?}");
    Ok(report.answered)
}

/// What is done to backend3.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    DeadApplication,
    MissingVip,
    StoppedDecap,
    DeadHost,
}

impl Fate {
    /// What status must say, in every service.
    fn reason(self) -> &'static str {
        match self {
            Self::DeadApplication => "connection refused",
            Self::MissingVip => "is the VIP on its lo?",
            Self::StoppedDecap => "refuses tunnels",
            Self::DeadHost => "unreachable: it is dead or cut off",
        }
    }
}

#[test]
fn every_death_is_found_in_time_with_its_own_reason_and_harms_nobody_else() -> Result<()> {
    if !skip::can_run(skip::LAB) {
        return Ok(());
    }
    let before = Leaks::note()?;
    let lab = Lab::start(&Options { edges: 1, ..Options::default() })?;
    let id = lab.id();
    {
        let mut servers = files::serve(lab.backends())?;
        let file = checked(3);
        let mut tier = Tier::start(&lab, Mode::Native, |n| file.text(n))?;
        wait_all_up(&tier)?;
        let vips = vip(VIP).both();
        let victim = lab.backend(3);
        for fate in [Fate::DeadApplication, Fate::MissingVip, Fate::StoppedDecap, Fate::DeadHost] {
            let maps = open_maps(&tier.edges[0])?;
            let calls = Calls::start(&lab.client(1).ns, (&files::tcp(), 30), (&files::udp(), 12))?;
            calls.wait(ENOUGH, BOUND)?;
            let at_first = calls.report();
            ensure!(at_first.open_by_server().len() == 3, "{:?}", at_first.open_by_server());

            let begun = Instant::now();
            match fate {
                Fate::DeadApplication => servers.pop().context("three servers")?.stop()?,
                Fate::MissingVip => victim.remove_from_lo(&vips)?,
                Fate::StoppedDecap => {
                    tier.decaps[2].product.terminate()?;
                    tier.decaps[2].command("detach", &[])?;
                }
                Fate::DeadHost => lab.cut(victim)?,
            }
            let done = begun.elapsed();
            let all_out = || alive(&maps, victim.role).values().all(|alive| !alive).then(|| begun.elapsed());
            let took = wait_for("backend3 to be out", BOUND, all_out)?;
            eprintln!("{fate:?}: out of all services after {took:?} of {DETECTION:?}");
            ensure!(took <= done + DETECTION + SLACK, "{fate:?}: {took:?}, done after {done:?}");
            assert_eq!(alive(&maps, victim.role).len(), 4);

            let said = |node: &Node<'_>| {
                let rows = status(node).unwrap_or_default();
                let its = rows.into_iter().filter(|row| is_of(&row.1, victim.role));
                its.map(|row| row.3).collect::<Vec<_>>()
            };
            let explained = || said(&tier.edges[0]).iter().all(|words| words.contains(fate.reason()));
            wait_until("the reason to be told", BOUND, explained)
                .with_context(|| format!("{fate:?}: {:#?}", said(&tier.edges[0])))?;

            assert_eq!(requests(&lab)?.get("backend3"), None, "{fate:?}");
            calls.wait(ENOUGH, BOUND)?;
            calls.stop()?.except("backend3").unharmed(&format!("{fate:?}"))?;

            match fate {
                Fate::DeadApplication => servers.extend(files::serve([victim])?),
                Fate::MissingVip => victim.add_to_lo(&vips)?,
                Fate::StoppedDecap => tier.decaps[2].restart()?,
                Fate::DeadHost => lab.mend(victim)?,
            }
            wait_all_up(&tier)?;
            ensure!(requests(&lab)?.contains_key("backend3"), "{fate:?}");
        }
    }
    drop(lab);
    before.check(id)
}

fn is_of(address: &str, role: Role) -> bool {
    role.address().both().iter().any(|ip| ip.to_string() == address)
}

#[test]
fn nobody_up_is_kept_or_dropped_as_the_file_says() -> Result<()> {
    if !skip::can_run(skip::LAB) {
        return Ok(());
    }
    let lab = Lab::start(&Options { edges: 1, backends: 2, ..Options::default() })?;
    let servers = files::serve(lab.backends())?;
    let mut file = checked(2);
    // TCP keeps, UDP drops.
    file.more[1].push("on_all_down: drop".into());
    let tier = Tier::start(&lab, Mode::Native, |n| file.text(n))?;
    wait_all_up(&tier)?;
    let maps = open_maps(&tier.edges[0])?;
    for server in servers {
        server.stop()?;
    }
    let expected = [("echo", true), ("media", false), ("media6", false), ("web", true)];
    let expected = BTreeMap::from(expected.map(|(name, alive)| (name.to_owned(), alive)));
    let told = || {
        let rows = status(&tier.edges[0]).unwrap_or_default();
        rows.len() == 8 && rows.iter().all(|row| row.3.starts_with("down: "))
    };
    wait_until("all to be down", BOUND, told)?;
    for backend in [Role::Backend(1), Role::Backend(2)] {
        wait_until("the verdict", BOUND, || alive(&maps, backend) == expected)
            .with_context(|| format!("{backend:?}: {:?}", alive(&maps, backend)))?;
    }
    // What is kept is sent on: the backend's node says that nobody listens.
    let [v4, _] = files::at(WEB);
    let options = LoadOptions { requests: 20, ..LoadOptions::default() };
    let report = Load::start(&lab.client(1).ns, &[v4], options)?.finish(BOUND)?;
    ensure!(report.answers() == 0, "{report:?}");
    ensure!(report.failed.keys().all(|kind| *kind == FailureKind::Refused), "{report:?}");
    // One is back: health counts again.
    let _one = files::serve([lab.backend(1)])?;
    let all = |alive: bool| expected.keys().map(|name| (name.clone(), alive)).collect::<BTreeMap<_, _>>();
    let settled =
        || alive(&maps, Role::Backend(1)) == all(true) && alive(&maps, Role::Backend(2)) == all(false);
    wait_until("the first to return", BOUND, settled)
}

#[test]
fn a_new_backend_waits_until_it_has_risen_and_a_restarted_agent_forgets_nothing() -> Result<()> {
    if !skip::can_run(skip::LAB) {
        return Ok(());
    }
    let lab = Lab::start(&Options { edges: 1, ..Options::default() })?;
    let mut servers = files::serve([lab.backend(1), lab.backend(2)])?;
    let file = checked(2);
    let mut tier = Tier::start(&lab, Mode::Native, |n| file.text(n))?;
    wait_all_up(&tier)?;
    let maps = open_maps(&tier.edges[0])?;
    let three = checked(3);
    tier.reload(|n| three.text(n))?;
    let is = |backend: u8, wanted: bool| alive(&maps, Role::Backend(backend)).values().all(|a| *a == wanted);
    assert!(is(3, false) && is(1, true) && is(2, true), "new ones are closed, others are as they were");
    let words = |node: &Node<'_>| {
        let rows = status(node).unwrap_or_default();
        rows.into_iter().filter(|row| is_of(&row.1, Role::Backend(3))).map(|row| row.3).collect::<Vec<_>>()
    };
    let fallen = || words(&tier.edges[0]).iter().all(|words| words.starts_with("down: "));
    wait_until("backend3 to be found down", BOUND, fallen)?;

    // The next agent knows at once what this one knew, though it has asked nobody.
    tier.edges[0].product.kill();
    tier.edges[0].restart()?;
    assert!(is(3, false) && is(1, true) && is(2, true), "as the maps have it");
    assert_eq!(requests(&lab)?.keys().collect::<Vec<_>>(), ["backend1", "backend2"]);
    servers.extend(files::serve([lab.backend(3)])?);
    wait_all_up(&tier)?;
    assert!(is(3, true));

    // Checks that come later close nobody who is at work.
    let plain = EdgeFile::new(3);
    tier.reload(|n| plain.text(n))?;
    assert!(status(&tier.edges[0])?.iter().all(|row| row.3 == "-"));
    tier.reload(|n| three.text(n))?;
    assert!((1..=3).all(|n| is(n, true)), "{:?}", status(&tier.edges[0]));
    wait_all_up(&tier)
}

/// As kube-proxy's nftables mode has it: packets to the VIP go to one endpoint, made here or come by; what belongs to
/// no connection is dropped.
const SERVICE_PROXY: &str = r#"
table inet kube-proxy {
  chain services {
    ip daddr VIP4 dnat ip to ENDPOINT4
    ip6 daddr VIP6 dnat ip6 to ENDPOINT6
  }
  chain nat-output { type nat hook output priority -100; jump services; }
  chain nat-prerouting { type nat hook prerouting priority -100; jump services; }
  chain invalid-input { type filter hook input priority 0; ct state invalid drop; }
  chain invalid-forward { type filter hook forward priority 0; ct state invalid drop; }
}
"#;

#[test]
fn questions_get_out_and_answers_back_on_a_node_with_a_service_proxy() -> Result<()> {
    if !skip::can_run(&[skip::LAB, &[skip::NFT, skip::CURL]].concat()) {
        return Ok(());
    }
    let before = Leaks::note()?;
    let lab = Lab::start(&Options { edges: 1, ..Options::default() })?;
    let id = lab.id();
    {
        let mut servers = files::serve(lab.backends())?;
        let (vips, endpoint) = (vip(VIP), Role::Backend(1).address());
        let rules = SERVICE_PROXY
            .replace("VIP4", &vips.v4.to_string())
            .replace("VIP6", &vips.v6.to_string())
            .replace("ENDPOINT4", &endpoint.v4.to_string())
            .replace("ENDPOINT6", &endpoint.v6.to_string());
        let rules = lab.scratch().write("kube-proxy.nft", &rules)?;
        let mut nft = Command::new("nft");
        nft.arg("-f").arg(&rules);
        let edge = lab.edge(1);
        let loaded = run_to_end(&edge.ns, "nft", nft, BOUND)?;
        ensure!(loaded.status.success(), "{loaded:?}");
        // It is one: a server on the endpoint's own address answers what is sent to the VIP.
        let own: Vec<_> = endpoint.both().map(|ip| SocketAddr::new(ip, WEB)).to_vec();
        let trap = Server::start(&lab.backend(1).ns, "trap", &own)?;
        for target in files::at(WEB) {
            assert_eq!(curl(&edge.ns, target, BOUND)?.server, "trap");
        }

        let file = checked(3);
        let tier = Tier::start(&lab, Mode::Native, |n| file.text(n))?;
        wait_all_up(&tier)?;
        let maps = open_maps(&tier.edges[0])?;
        let out = |backend: u8| alive(&maps, Role::Backend(backend)).values().all(|alive| !alive);
        // Each question meets its own backend, whatever the trap says.
        drop(servers.remove(1));
        wait_until("backend2 to be out", BOUND, || out(2))?;
        assert!(!out(1) && !out(3));
        // An address of the VIP on the node itself, as kube-ipvs0 has them, is no way out and no way in either.
        edge.add_to_lo(&vips.both())?;
        drop(servers.remove(1));
        wait_until("backend3 to be out", BOUND, || out(3))?;
        servers.extend(files::serve([lab.backend(2), lab.backend(3)])?);
        wait_all_up(&tier)?;
        trap.stop()?;
    }
    drop(lab);
    before.check(id)
}

#[test]
fn an_edge_node_that_is_a_backend_asks_itself_at_home() -> Result<()> {
    if !skip::can_run(skip::LAB) {
        return Ok(());
    }
    let lab = Lab::start(&Options { edges: 1, backends: 1, ..Options::default() })?;
    let file = EdgeFile {
        backends: [Role::Edge(1), Role::Backend(1)].map(|role| (role, State::Active)).to_vec(),
        decap: true,
        ..checked(0)
    };
    let tier = Tier::start(&lab, Mode::Native, |n| file.text(n))?;
    let mut servers = files::serve([lab.edge(1), lab.backend(1)])?;
    wait_all_up(&tier)?;
    assert_eq!(requests(&lab)?.keys().collect::<Vec<_>>(), ["backend1", "edge1"]);
    let maps = open_maps(&tier.edges[0])?;
    drop(servers.remove(0));
    wait_until("edge1 to be out as a backend", BOUND, || {
        alive(&maps, Role::Edge(1)).values().all(|alive| !alive)
    })?;
    assert_eq!(requests(&lab)?.keys().collect::<Vec<_>>(), ["backend1"]);
    Ok(())
}

#[test]
fn direct_questions_see_the_application_and_not_the_way_there() -> Result<()> {
    if !skip::can_run(skip::LAB) {
        return Ok(());
    }
    let lab = Lab::start(&Options { edges: 1, backends: 1, ..Options::default() })?;
    let own = |n: u8| lab.backend(n).role.address().both().map(|ip| SocketAddr::new(ip, WEB)).to_vec();
    let web = Server::start(&lab.backend(1).ns, "own", &own(1))?;
    let times = "interval: 200ms, timeout: 200ms, rise: 1, fall: 1";
    let tcp = vec![format!("health_check: {{ kind: http, port: {WEB}, via: direct, {times} }}")];
    let file = EdgeFile { more: [tcp, Vec::new()], ..EdgeFile::new(1) };
    let tier = Tier::start(&lab, Mode::Native, |n| file.text(n))?;
    let words = |service: &str| {
        let rows = status(&tier.edges[0]).unwrap_or_default();
        rows.into_iter().find(|row| row.0 == service).map(|row| row.3).unwrap_or_default()
    };
    let both = |expected: &dyn Fn(String) -> bool| expected(words("web")) && expected(words("echo"));
    wait_until("both families to be up", BOUND, || both(&|words| words == "up"))?;
    // Without the VIP no client is served, which this way of asking does not see: nobody is asked through tunnels, and
    // no namespace was made.
    lab.backend(1).remove_from_lo(&vip(VIP).both())?;
    assert!(!lab.edge(1).ns.netlink().link_names()?.contains(&"xdp-lb-probe".to_owned()));
    assert!(both(&|words| words == "up"));
    web.stop()?;
    wait_until("both to be down", BOUND, || both(&|words| words.contains("connection refused")))
}
