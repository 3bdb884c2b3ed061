//! What calls feel when the tier changes under them: nothing, unless their own backend dies.
//!
//! 100 long TCP connections and 16 UDP streams, in all four pairs of inner and outer family, live through each change.
//! A connection is harmed when it is reset or closed, an answer is late, or another server answers; a stream when
//! a datagram is lost, out of order or answered by another server.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use xdp_lb_tests::lab::traffic::{CallReport, Calls, End, Load, LoadOptions, LoadReport};
use xdp_lb_tests::lab::{
    EdgeFile, Lab, Leaks, Mode, Node, Options, Role, State, Tier, files, release, skip, wait_until,
};

const BOUND: Duration = Duration::from_secs(30);
const CONNECTIONS: usize = 100;
const FLOWS: usize = 16;
/// Answers after which a change has been felt by everyone, if it is felt at all.
const ENOUGH: u64 = 5;

fn calls(lab: &Lab) -> Result<Calls> {
    let calls = Calls::start(&lab.client(1).ns, (&files::tcp(), CONNECTIONS), (&files::udp(), FLOWS))?;
    calls.wait(ENOUGH, BOUND)?;
    let report = calls.report();
    report.unharmed("before any change")?;
    assert_eq!((report.connections.len(), report.flows.len()), (CONNECTIONS, FLOWS));
    // 100 fair dice with three sides: nobody gets fewer than five once in 10^9 runs.
    let by_server = report.open_by_server();
    ensure!(by_server.len() == 3 && by_server.values().all(|n| *n >= 5), "{by_server:?}");
    Ok(calls)
}

/// New requests on every service over both families: all are answered. Says by whom.
fn requests(lab: &Lab) -> Result<LoadReport> {
    let options = LoadOptions { requests: 400, rate: 2000.0, ..LoadOptions::default() };
    let report = Load::start(&lab.client(1).ns, &files::tcp(), options)?.finish(BOUND)?;
    ensure!(report.failures() == 0 && report.answers() == 400, "{report:?}");
    Ok(report)
}

/// The calls go on, unharmed, and stay where they are.
fn all_well(calls: &Calls, at_first: &CallReport, when: &str) -> Result<()> {
    calls.wait(ENOUGH, BOUND).with_context(|| when.to_owned())?;
    let report = calls.report();
    report.unharmed(when)?;
    assert_eq!(report.open_by_server(), at_first.open_by_server(), "{when}");
    assert_eq!(report.flows_by_server(), at_first.flows_by_server(), "{when}");
    Ok(())
}

#[test]
fn calls_outlive_the_draining_of_their_backend_and_of_others() -> Result<()> {
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
        let calls = calls(&lab)?;
        let at_first = calls.report();

        let drained = file.with(1, State::Drain);
        tier.reload(|n| drained.text(n))?;
        all_well(&calls, &at_first, "backend1 drains")?;
        let report = requests(&lab)?;
        assert_eq!(report.answered.get("backend1"), None, "{:?}", report.answered);

        // A rolling replacement: the next one drains when the first is back.
        let next = file.with(2, State::Drain);
        tier.reload(|n| next.text(n))?;
        all_well(&calls, &at_first, "backend1 is back, backend2 drains")?;
        let report = requests(&lab)?;
        assert!(report.answered.contains_key("backend1"), "{:?}", report.answered);
        assert_eq!(report.answered.get("backend2"), None, "{:?}", report.answered);

        // Changes overlap: a second one drains while the first still does.
        let both = next.with(3, State::Drain);
        tier.reload(|n| both.text(n))?;
        all_well(&calls, &at_first, "backend2 and backend3 drain")?;
        let report = requests(&lab)?;
        assert_eq!(report.answered, BTreeMap::from([("backend1".to_owned(), 400)]));

        tier.reload(|n| file.text(n))?;
        all_well(&calls, &at_first, "all are back")?;
        assert_eq!(requests(&lab)?.answered.len(), 3);

        // Another weight is for new ones alone: a fifth of a share beside two whole ones is 36 of 400.
        let lighter = |n| {
            let weigh = |text: String, address: IpAddr| {
                let own = format!("address: \"{address}\", ");
                text.replace(&own, &format!("{own}weight: 20, "))
            };
            Role::Backend(2).address().both().into_iter().fold(file.text(n), weigh)
        };
        tier.reload(lighter)?;
        all_well(&calls, &at_first, "backend2 weighs less")?;
        let answered = requests(&lab)?.answered;
        assert!((1..80).contains(&answered["backend2"]), "{answered:?}");
        tier.reload(|n| file.text(n))?;
        all_well(&calls, &at_first, "it weighs what it did")?;
        let answered = requests(&lab)?.answered;
        assert!(answered["backend2"] >= 80, "{answered:?}");
        calls.stop()?.unharmed("at the end")?;
    }
    drop(lab);
    before.check(id)
}

#[test]
fn calls_outlive_other_sizes_of_every_table() -> Result<()> {
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
        let calls = calls(&lab)?;
        let at_first = calls.report();
        // A drain, so that there are flows which the flow table alone can place.
        let drained = file.with(1, State::Drain);
        tier.reload(|n| drained.text(n))?;
        all_well(&calls, &at_first, "backend1 drains")?;

        let large =
            "limits: { services: 9000, vips: 900, backends: 9000, ring_slots: 500000, server_ids: 9000 }\n";
        for (entries, limits) in [("262144", large), ("32768", "")] {
            let sized =
                |n| drained.text(n).replace("entries: 65536", &format!("entries: {entries}")) + limits;
            for (n, node) in (1..).zip(&mut tier.edges) {
                let outcome = node.try_reload(&sized(n))?;
                ensure!(!outcome.done && outcome.line.contains("restart it"), "{}", outcome.line);
                node.product.kill();
                node.restart()?;
            }
            all_well(&calls, &at_first, &format!("{entries} entries"))?;
            assert_eq!(requests(&lab)?.answered.get("backend1"), None, "the drain goes on");
        }
        calls.stop()?.unharmed("at the end")?;
    }
    drop(lab);
    before.check(id)
}

#[test]
fn calls_outlive_the_kill_of_the_agents_and_their_restart() -> Result<()> {
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
        let calls = calls(&lab)?;
        let at_first = calls.report();

        for node in tier.edges.iter_mut().chain(&mut tier.decaps) {
            node.product.kill();
        }
        all_well(&calls, &at_first, "every agent has been killed")?;
        assert_eq!(requests(&lab)?.answered.len(), 3);

        for node in tier.edges.iter_mut().chain(&mut tier.decaps) {
            node.restart()?;
        }
        all_well(&calls, &at_first, "every agent is back")?;
        assert_eq!(requests(&lab)?.answered.len(), 3);

        // The agent that took over is in charge: a change gets through, a kill in the middle of it harms nobody.
        let drained = file.with(1, State::Drain);
        tier.reload(|n| drained.text(n))?;
        for node in &mut tier.edges {
            node.product.kill();
            node.restart()?;
        }
        all_well(&calls, &at_first, "backend1 drains, and the agents were killed again")?;
        assert_eq!(requests(&lab)?.answered.get("backend1"), None);

        for node in &mut tier.edges {
            let status = node.product.terminate()?;
            ensure!(status.success(), "an agent told to end: {status}");
        }
        all_well(&calls, &at_first, "the agents have ended in order")?;
        assert_eq!(requests(&lab)?.answered.get("backend1"), None);
        calls.stop()?.unharmed("at the end")?;
    }
    drop(lab);
    before.check(id)
}

/// The tag of the program that runs on a node's interface: of its instructions, as the kernel has them.
fn tag(node: &Node<'_>) -> Result<String> {
    let shown = |kind: &str, of: &[&str]| -> Result<serde_json::Value> {
        let output =
            Command::new("bpftool").args(["-j", kind, "show"]).args(of).output().context("bpftool")?;
        serde_json::from_slice(&output.stdout).with_context(|| format!("{output:?}"))
    };
    let link = node.bpffs.join("links/eth0");
    let link = shown("link", &["pinned", link.to_str().context("no UTF-8")?])?;
    let program = shown("prog", &["id", &link["prog_id"].to_string()])?;
    Ok(program["tag"].as_str().with_context(|| program.to_string())?.to_owned())
}

#[test]
fn calls_outlive_an_upgrade_to_another_release_and_back() -> Result<()> {
    if !skip::can_run(skip::LAB) {
        return Ok(());
    }
    let before = Leaks::note()?;
    let lab = Lab::start(&Options { edges: 1, ..Options::default() })?;
    let id = lab.id();
    {
        let _servers = files::serve(lab.backends())?;
        let file = EdgeFile::new(3);
        let mut tier = Tier::start(&lab, Mode::Native, |n| file.text(n))?;
        let calls = calls(&lab)?;
        let at_first = calls.report();
        // A drain, so that there are flows which the flow table alone can place.
        let drained = file.with(1, State::Drain);
        tier.reload(|n| drained.text(n))?;
        all_well(&calls, &at_first, "backend1 drains")?;

        let own = [tag(&tier.edges[0])?, tag(&tier.decaps[0])?];
        let another = release::another(lab.scratch().path())?;
        for (binary, version) in [(Some(&another), release::VERSION), (None, env!("CARGO_PKG_VERSION"))] {
            for node in [&mut tier.edges[0], &mut tier.decaps[0]] {
                node.binary = binary.cloned();
                // There with a kill, back in order.
                match binary {
                    Some(_) => node.product.kill(),
                    None => _ = node.product.terminate()?,
                }
                node.restart()?;
            }
            all_well(&calls, &at_first, &format!("version {version} has taken over"))?;
            let status = tier.edges[0].command("status", &["-o", "json"])?;
            let status: serde_json::Value = serde_json::from_str(&status.stdout)?;
            assert_eq!(status["agent"]["version"], version);
            let now = [tag(&tier.edges[0])?, tag(&tier.decaps[0])?];
            let same = now.iter().zip(&own).filter(|(a, b)| a == b).count();
            assert_eq!(same, if binary.is_some() { 0 } else { 2 }, "{own:?} {now:?}");
            assert_eq!(requests(&lab)?.answered.get("backend1"), None, "the drain goes on");
        }
        // The agent is in charge of the program that it found: a change gets through.
        tier.reload(|n| file.text(n))?;
        all_well(&calls, &at_first, "backend1 is back")?;
        assert!(requests(&lab)?.answered.contains_key("backend1"));
        calls.stop()?.unharmed("at the end")?;
    }
    drop(lab);
    before.check(id)
}

#[test]
fn calls_outlive_the_loss_of_an_edge_node() -> Result<()> {
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
        let calls = calls(&lab)?;
        let at_first = calls.report();

        lab.withdraw_edge(1)?;
        let counters = lab.router_counters(lab.edge(1))?;
        all_well(&calls, &at_first, "edge1 is withdrawn")?;
        assert_eq!(requests(&lab)?.answered.len(), 3);
        let stray = lab.router_counters(lab.edge(1))?.since(counters).tx_packets;
        assert!(stray < ENOUGH * 10, "edge1 still gets packets: {stray}");

        lab.announce_edge(1)?;
        all_well(&calls, &at_first, "edge1 is back")?;

        // The hard way: no goodbye, what is on the cable is lost. TCP sends it again; a stream may miss a datagram, but
        // nobody is reset and nobody moves.
        lab.cut(lab.edge(2))?;
        calls.wait(ENOUGH, BOUND)?;
        let report = calls.report();
        let harmed: Vec<_> = report.connections.iter().filter(|c| !c.is_unharmed()).collect();
        assert!(harmed.is_empty(), "{harmed:#?}");
        for flow in &report.flows {
            assert_eq!((flow.moved(), flow.wrong_client), (0, 0), "{flow:?}");
            assert!(flow.lost <= 2, "{flow:?}");
        }
        assert_eq!(report.open_by_server(), at_first.open_by_server());
        assert_eq!(requests(&lab)?.answered.len(), 3);
        calls.stop()?;
    }
    drop(lab);
    before.check(id)
}

#[test]
fn the_death_of_a_backend_harms_its_own_calls_alone() -> Result<()> {
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
        let calls = calls(&lab)?;
        let at_first = calls.report();

        lab.cut(lab.backend(3))?;
        let silent = || calls.report().flows.iter().map(|flow| flow.lost).sum::<u64>() > 0;
        wait_until("the death of backend3 to be felt", BOUND, silent)?;
        calls.report().except("backend3").unharmed("backend3 is dead, nobody has said so")?;

        let dead = file.with(3, State::Down);
        tier.reload(|n| dead.text(n))?;
        let report = requests(&lab)?;
        assert_eq!(report.answered.get("backend3"), None, "{:?}", report.answered);
        // Its connections end at last: the next segment goes to a server that does not know them. Its streams go on.
        wait_until("connections of backend3 to be reset", BOUND, || {
            calls.report().connections.iter().all(|c| {
                let harmed = c.server.as_deref() == Some("backend3");
                if harmed { c.end == End::Reset } else { c.end == End::Open }
            })
        })?;
        calls.wait(ENOUGH, BOUND)?;
        let report = calls.report();
        report.except("backend3").unharmed("backend3 is dead")?;
        for flow in report.flows.iter().filter(|f| f.servers[0] == "backend3") {
            assert!(flow.moved() == 1 && flow.wrong_client == 0, "{flow:?}");
        }
        assert_eq!(report.except("backend3").open_by_server(), at_first.except("backend3").open_by_server());

        // Its return moves nobody who is with another server.
        lab.mend(lab.backend(3))?;
        tier.reload(|n| file.text(n))?;
        calls.wait(ENOUGH, BOUND)?;
        assert_eq!(calls.report().flows_by_server(), report.flows_by_server(), "remembered streams stay");
        calls.stop()?.except("backend3").unharmed("at the end")?;
        wait_until("new requests to reach backend3 again", BOUND, || {
            requests(&lab).is_ok_and(|report| report.answered.contains_key("backend3"))
        })?;
    }
    drop(lab);
    before.check(id)
}
