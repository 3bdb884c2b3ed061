//! Our BGP against FRR 8.4: what the router sees of every attribute, and what becomes of routes when things happen.

use std::time::{Duration, Instant};

use crate::common::{BOUND, OURS, Speaker, VIP4, VIP6, healthy};
use anyhow::{Result, ensure};
use serde_json::{Value, json};
use xdp_lb::bgp::decide::{Facts, Fault};
use xdp_lb::bgp::io::Leave;
use xdp_lb_tests::lab::routers::FRR;
use xdp_lb_tests::lab::wait::{wait_for, wait_until};
use xdp_lb_tests::lab::{Frr, Leaks, Rig, skip};

fn can_run() -> bool {
    skip::can_run(&[skip::LAB, &[FRR]].concat())
}

/// FRR's side of sessions with `neighbours`, of which each has lines of its own.
pub fn frr_config(own_as: u32, neighbours: &[(&str, u32, &[&str])]) -> String {
    let mut text = format!(
        "frr defaults datacenter
router bgp {own_as}
 bgp router-id 10.99.1.254
 no bgp ebgp-requires-policy
 no bgp default ipv4-unicast
 bgp graceful-restart
"
    );
    for (address, remote, lines) in neighbours {
        text += &format!(
            " neighbor {address} remote-as {remote}\n neighbor {address} timers 3 9\n neighbor {address} passive\n"
        );
        text += &lines.iter().map(|line| format!(" neighbor {address} {line}\n")).collect::<String>();
    }
    for family in ["ipv4", "ipv6"] {
        text += &format!(" address-family {family} unicast\n");
        for (address, ..) in neighbours {
            text += &format!(
                "  neighbor {address} activate\n  neighbor {address} soft-reconfiguration inbound\n"
            );
        }
        text += " exit-address-family\n";
    }
    text + "exit\n"
}

pub fn wait_paths(frr: &Frr<'_>, prefix: &str, count: usize) -> Result<Vec<Value>> {
    let mut last = Vec::new();
    let found = wait_for(&format!("{count} paths to {prefix}"), BOUND, || {
        last = frr.paths(prefix).unwrap_or_default();
        (last.len() == count).then(|| last.clone())
    });
    found.map_err(|e| e.context(format!("{last:#?}")))
}

#[test]
fn ebgp_over_both_families_with_every_attribute() -> Result<()> {
    if !can_run() {
        return Ok(());
    }
    let before = Leaks::note()?;
    let mut rig = Rig::start(&["us", "rtr"])?;
    rig.link("us", "rtr")?;
    let id = rig.id();
    {
        let config = frr_config(
            65_001,
            &[("10.99.1.1", OURS, &[]), ("fd99:1::1", OURS, &["capability extended-nexthop"])],
        );
        let frr = Frr::start(rig.host("rtr"), rig.path(), &config, "")?;
        let mut us = Speaker::start(
            &rig,
            "us",
            "  communities: [\"64500:100\", no-export]
  large_communities: [\"4200000001:7:8\"]
  med: 20
  peers:
    - { address: 10.99.1.2, remote_as: 65001, next_hop_v6: \"fd99:1::1\", prepend: 2, communities: [\"64500:1\"] }
    - { address: \"fd99:1::2\", remote_as: 65001, med: 50 }",
        )?;
        us.wait_up("10.99.1.2")?;
        let over_v6 = us.wait_up("fd99:1::2")?;
        ensure!(over_v6.extended_next_hop && over_v6.untold.is_empty(), "{over_v6:?}");
        for prefix in [VIP4, VIP6] {
            let paths = wait_paths(&frr, prefix, 2)?;
            let of = |peer: &str| {
                let found = paths.iter().find(|p| p["peer"]["peerId"] == json!(peer));
                found.cloned().unwrap_or_else(|| panic!("{paths:#?}"))
            };
            let (one, other) = (of("10.99.1.1"), of("fd99:1::1"));
            assert_eq!(one["aspath"]["string"], json!(format!("{OURS} {OURS} {OURS}")), "{one:#}");
            assert_eq!(other["aspath"]["string"], json!(OURS.to_string()));
            assert_eq!((&one["metric"], &other["metric"]), (&json!(20), &json!(50)), "{one:#}");
            assert_eq!(one["community"]["string"], json!("64500:1 64500:100 no-export"));
            assert_eq!(other["community"]["string"], json!("64500:100 no-export"));
            assert_eq!(one["largeCommunity"]["string"], json!("4200000001:7:8"));
            assert_eq!(one["origin"], json!("IGP"));
            assert_eq!(one["locPrf"], json!(null), "LOCAL_PREF on eBGP: {one:#}");
            let hop = |path: &Value| path["nexthops"][0]["ip"].as_str().unwrap().to_owned();
            let expected = if prefix == VIP4 { "10.99.1.1" } else { "fd99:1::1" };
            assert_eq!(hop(&one), expected);
            // IPv4 over an IPv6 next hop (RFC 8950).
            assert_eq!(hop(&other), "fd99:1::1");
        }
        // The router asks for everything again.
        let refreshes = us.wait_up("10.99.1.2")?.refreshes;
        frr.ask(&["clear bgp ipv4 unicast 10.99.1.1 soft in"]).ok();
        frr.ask(&[
            "conf t",
            "router bgp 65001",
            "address-family ipv4 unicast",
            "no neighbor 10.99.1.1 soft-reconfiguration inbound",
        ])?;
        frr.ask(&["clear bgp ipv4 unicast 10.99.1.1 soft in"])?;
        us.wait_peer("a route refresh", "10.99.1.2", |p| p.refreshes > refreshes)?;
        assert_eq!(wait_paths(&frr, VIP4, 2)?.len(), 2);
        // An orderly stop: routes are gone while the sessions still stand.
        let mark = Instant::now();
        let took = us.leave(Leave::Withdraw);
        ensure!(took >= Duration::from_secs(1), "withdraw_grace is 1 s, took {took:?}");
        wait_paths(&frr, VIP4, 0)?;
        let log = frr.log();
        let position = |needle: &str| log.rfind(needle);
        ensure!(mark.elapsed() < BOUND);
        ensure!(
            position("rcvd NOTIFICATION").or(position("received NOTIFICATION")).is_none_or(|n| n > 0),
            "{log}"
        );
        let last = frr.neighbour("10.99.1.1")?;
        assert_eq!(last["lastErrorCodeSubcode"], json!("0602"), "{last:#}");
        assert_eq!(last["lastShutdownDescription"], json!("the agent ends"), "{last:#}");
    }
    drop(rig);
    before.check(id)
}

#[test]
fn announcements_follow_health_and_faults() -> Result<()> {
    if !can_run() {
        return Ok(());
    }
    let mut rig = Rig::start(&["us", "rtr"])?;
    rig.link("us", "rtr")?;
    let frr = Frr::start(rig.host("rtr"), rig.path(), &frr_config(65_001, &[("10.99.1.1", OURS, &[])]), "")?;
    let mut us = Speaker::start(
        &rig,
        "us",
        "  drain_time: 2s\n  peers: [{ address: 10.99.1.2, remote_as: 65001, next_hop_v6: \"fd99:1::1\" }]",
    )?;
    for prefix in [VIP4, VIP6] {
        wait_paths(&frr, prefix, 1)?;
    }
    let kernel = || -> Result<String> {
        let ns = rig.host("rtr");
        let mut ip = std::process::Command::new("ip");
        ip.args(["route", "show", "proto", "bgp"]);
        Ok(xdp_lb_tests::lab::product::run_to_end(ns, "ip", ip, BOUND)?.stdout)
    };
    wait_until("the kernel's route", BOUND, || kernel().is_ok_and(|r| r.contains("203.0.113.10")))?;
    // The last healthy backend dies: at once, drain_time or not, and within 200 ms, as long as this machine has a CPU for
    // the router as well; hence the median.
    let mut took = Vec::new();
    for _ in 0..20 {
        let begun = Instant::now();
        us.facts(healthy(0));
        while kernel()?.contains("203.0.113.10") {
            ensure!(begun.elapsed() < BOUND, "never withdrawn");
        }
        took.push(begun.elapsed());
        us.facts(healthy(1));
        wait_until("the kernel's route", BOUND, || kernel().is_ok_and(|r| r.contains("203.0.113.10")))?;
    }
    took.sort();
    println!("from the facts to the router's kernel, 20 times: {took:?}");
    ensure!(took[took.len() / 2] < Duration::from_millis(200), "{took:?}");
    // A fault of the node.
    wait_paths(&frr, VIP6, 1)?;
    us.facts(Facts { faults: [Fault::NoLink].into(), ..healthy(4) });
    wait_paths(&frr, VIP6, 0)?;
    wait_until("the reason in the status", BOUND, || {
        let vip = us.status().and_then(|status| status.vips.first().cloned());
        vip.is_some_and(|vip| vip.state == "withdrawn" && vip.reason == "no interface is up and has carrier")
    })?;
    us.facts(healthy(4));
    wait_paths(&frr, VIP6, 1)?;
    // Leaving with drain_time: first unattractive, then gone.
    let leaver = std::thread::spawn(move || (us.leave(Leave::Withdraw), us));
    let unattractive = |p: &Value| {
        p["metric"] == json!(u32::MAX)
            && p["aspath"]["length"] == json!(4)
            && p["community"]["string"]
                .as_str()
                .is_some_and(|c| c.contains("graceful-shutdown") || c.contains("65535:0"))
    };
    wait_until("an unattractive route", BOUND, || {
        frr.paths(VIP4).is_ok_and(|paths| paths.first().is_some_and(unattractive))
    })?;
    wait_paths(&frr, VIP4, 0)?;
    let (took, _) = leaver.join().unwrap();
    ensure!(took >= Duration::from_secs(3), "drain_time 2 s and withdraw_grace 1 s, took {took:?}");
    Ok(())
}

#[test]
fn ibgp_multihop_md5_and_a_wrong_key() -> Result<()> {
    if !can_run() {
        return Ok(());
    }
    let mut rig = Rig::start(&["us", "mid", "rtr"])?;
    let (near, far) = (rig.link("us", "mid")?, rig.link("mid", "rtr")?);
    rig.route("us", far.b, "mid", near.b)?;
    rig.route("rtr", near.a, "mid", far.a)?;
    let key = rig.scratch().write("key", "s3cret\n")?;
    let lines = ["password s3cret", "ebgp-multihop 2"];
    let config = frr_config(65_001, &[("10.99.1.1", OURS, &lines), ("fd99:1::1", OURS, &lines)]);
    let frr = Frr::start(rig.host("rtr"), rig.path(), &config, "")?;
    let peers = |hops: u8| {
        format!(
            "  peers:
    - {{ address: 10.99.2.2, remote_as: 65001, multihop: {hops}, password_file: {key} }}
    - {{ address: \"fd99:2::2\", remote_as: 65001, multihop: {hops}, password_file: {key}, next_hop_v4: 10.99.1.1, source: \"fd99:1::1\" }}",
            key = key.display()
        )
    };
    let us = Speaker::start(&rig, "us", &peers(2))?;
    us.wait_up("10.99.2.2")?;
    us.wait_up("fd99:2::2")?;
    wait_paths(&frr, VIP4, 2)?;
    us.crash();
    // One hop is not enough.
    let near = Speaker::start(&rig, "us", &peers(1))?;
    let failing = |p: &xdp_lb::bgp::status::PeerStatus| !p.is_up() && p.failing.is_some();
    near.wait_peer("a session that does not come up", "10.99.2.2", failing)?;
    near.crash();
    // The wrong key: the router drops our SYN, and we say what that may mean.
    rig.scratch().write("key", "wrong")?;
    let wrong = Speaker::start(&rig, "us", &peers(2))?;
    for peer in ["10.99.2.2", "fd99:2::2"] {
        let view = wrong.wait_peer("a wrong key to be noticed", peer, failing)?;
        let why = view.failing.unwrap();
        ensure!(why.contains("TCP-MD5 key"), "{why}");
    }
    // Keys are read before every connection: the right one is enough.
    rig.scratch().write("key", "s3cret")?;
    wrong.wait_up("10.99.2.2")?;
    wrong.wait_up("fd99:2::2")?;
    Ok(())
}

#[test]
fn gtsm_both_ways() -> Result<()> {
    if !can_run() {
        return Ok(());
    }
    let mut rig = Rig::start(&["us", "rtr"])?;
    rig.link("us", "rtr")?;
    let lines = ["ttl-security hops 1"];
    let config = frr_config(65_001, &[("10.99.1.1", OURS, &lines), ("fd99:1::1", OURS, &lines)]);
    let _frr = Frr::start(rig.host("rtr"), rig.path(), &config, "")?;
    let peers = "  peers:
    - { address: 10.99.1.2, remote_as: 65001, gtsm: true }
    - { address: \"fd99:1::2\", remote_as: 65001, gtsm: true, interface: rtr }";
    let us = Speaker::start(&rig, "us", peers)?;
    us.wait_up("10.99.1.2")?;
    us.wait_up("fd99:1::2")?;
    us.crash();
    // Without it our packets are not near enough for the router. It says so to its socket only after it has accepted the
    // connection: a handshake that is faster comes up, and nothing more is heard.
    let far = Speaker::start(&rig, "us", &peers.replace("gtsm: true", "gtsm: false"))?;
    far.wait_peer("trouble", "10.99.1.2", |p| p.failing.is_some() || p.last_down_reason.is_some())?;
    Ok(())
}

#[test]
fn another_as_is_a_notification_at_both_ends() -> Result<()> {
    if !can_run() {
        return Ok(());
    }
    let mut rig = Rig::start(&["us", "rtr"])?;
    rig.link("us", "rtr")?;
    let config = frr_config(65_001, &[("10.99.1.1", 65_099, &[]), ("fd99:1::1", OURS, &[])]);
    let _frr = Frr::start(rig.host("rtr"), rig.path(), &config, "")?;
    let us = Speaker::start(
        &rig,
        "us",
        "  peers:
    - { address: 10.99.1.2, remote_as: 65001 }
    - { address: \"fd99:1::2\", remote_as: 65002 }",
    )?;
    let reason = |peer: &str, words: &str| {
        let is = |p: &xdp_lb::bgp::status::PeerStatus| p.failing.as_ref().is_some_and(|r| r.contains(words));
        us.wait_peer(words, peer, is)
    };
    // The router does not know our AS; we do not know the router's.
    reason("10.99.1.2", "the router ended it: NOTIFICATION 2/2 Bad Peer AS")?;
    reason("fd99:1::2", "we ended it: NOTIFICATION 2/2 Bad Peer AS")?;
    Ok(())
}

#[test]
fn routers_restart_links_flap_and_routes_come_back() -> Result<()> {
    if !can_run() {
        return Ok(());
    }
    let mut rig = Rig::start(&["us", "rtr"])?;
    rig.link("us", "rtr")?;
    let config = frr_config(65_001, &[("10.99.1.1", OURS, &[]), ("fd99:1::1", OURS, &[])]);
    let mut frr = Frr::start(rig.host("rtr"), rig.path(), &config, "")?;
    let us = Speaker::start(
        &rig,
        "us",
        "  peers: [{ address: 10.99.1.2, remote_as: 65001 }, { address: \"fd99:1::2\", remote_as: 65001 }]",
    )?;
    wait_paths(&frr, VIP4, 1)?;
    wait_paths(&frr, VIP6, 1)?;
    // A session reset by hand.
    let count = us.wait_up("10.99.1.2")?.established;
    frr.ask(&["clear bgp 10.99.1.1"])?;
    us.wait_peer("another session", "10.99.1.2", |p| p.is_up() && p.established > count)?;
    wait_paths(&frr, VIP4, 1)?;
    // The router's daemon dies and comes back.
    for orderly in [false, true] {
        if orderly {
            frr.terminate("bgpd")?
        } else {
            frr.kill("bgpd")
        }
        us.wait_peer("the loss of the session", "10.99.1.2", |p| !p.is_up())?;
        frr.start_daemon("bgpd")?;
        wait_paths(&frr, VIP4, 1)?;
        wait_paths(&frr, VIP6, 1)?;
    }
    // The path may be back before our status says so.
    us.wait_up("10.99.1.2")?;
    // The link goes for longer than the hold time, and with it IPv6 addresses stay by the lab's settings.
    rig.host("us").netlink().set_up("rtr", false)?;
    let down = us.wait_peer("the hold timer", "10.99.1.2", |p| !p.is_up())?;
    let why = down.last_down_reason.unwrap_or_default();
    ensure!(why.contains("hold timer") || why.contains("broke"), "{why}");
    rig.host("us").netlink().set_up("rtr", true)?;
    wait_paths(&frr, VIP4, 1)?;
    wait_paths(&frr, VIP6, 1)?;
    Ok(())
}

#[test]
fn a_crash_keeps_the_routes_and_a_restart_takes_them_over() -> Result<()> {
    if !can_run() {
        return Ok(());
    }
    let mut rig = Rig::start(&["us", "rtr"])?;
    rig.link("us", "rtr")?;
    let frr = Frr::start(rig.host("rtr"), rig.path(), &frr_config(65_001, &[("10.99.1.1", OURS, &[])]), "")?;
    let peers = "  restart_time: 60s\n  peers: [{ address: 10.99.1.2, remote_as: 65001 }]";
    for keep in [false, true] {
        let mut us = Speaker::start(&rig, "us", peers)?;
        wait_paths(&frr, VIP4, 1)?;
        let gr = frr.neighbour("10.99.1.1")?["gracefulRestartInfo"].clone();
        ensure!(gr["nBit"] == json!(false) && gr["rBit"] == json!(false), "{gr:#}");
        ensure!(gr["ipv4Unicast"]["fBit"] == json!(true), "{gr:#}");
        ensure!(gr["endOfRibRecv"] == json!({ "ipv4Unicast": true, "ipv6Unicast": true }), "{gr:#}");
        ensure!(gr["timers"]["receivedRestartTimer"] == json!(60), "{gr:#}");
        // A process that is killed leaves its connections to the kernel, which cuts them; `on_stop: keep` does the same.
        if keep {
            _ = us.leave(Leave::Keep)
        } else {
            us.crash()
        }
        wait_until("the route to be stale", BOUND, || {
            frr.paths(VIP4).is_ok_and(|p| p.first().is_some_and(|p| p["stale"] == json!(true)))
        })?;
        let next = Speaker::start_as(&rig, "us", peers, true)?;
        next.wait_up("10.99.1.2")?;
        ensure!(
            frr.neighbour("10.99.1.1")?["gracefulRestartInfo"]["rBit"] == json!(true),
            "it has restarted"
        );
        // Never gone meanwhile, and fresh after the end of the RIB.
        wait_until("the route to be fresh", BOUND, || {
            let paths = frr.paths(VIP4).unwrap_or_default();
            assert_eq!(paths.len(), 1, "the route was gone");
            paths[0].get("stale").is_none()
        })?;
        let mut next = next;
        next.leave(Leave::Withdraw);
        wait_paths(&frr, VIP4, 0)?;
    }
    // Without graceful restart it goes with the session.
    let us = Speaker::start(&rig, "us", &peers.replace("restart_time: 60s", "graceful_restart: false"))?;
    wait_paths(&frr, VIP4, 1)?;
    us.crash();
    wait_paths(&frr, VIP4, 0)?;
    Ok(())
}

#[test]
fn a_reload_changes_what_it_changes_and_nothing_else() -> Result<()> {
    if !can_run() {
        return Ok(());
    }
    let mut rig = Rig::start(&["us", "rtr"])?;
    rig.link("us", "rtr")?;
    let config = frr_config(65_001, &[("10.99.1.1", OURS, &[]), ("fd99:1::1", OURS, &[])]);
    let frr = Frr::start(rig.host("rtr"), rig.path(), &config, "")?;
    let mut us = Speaker::start(
        &rig,
        "us",
        "  peers:
    - { address: 10.99.1.2, remote_as: 65001, med: 5 }
    - { address: \"fd99:1::2\", remote_as: 65001, next_hop_v4: 10.99.1.1 }",
    )?;
    wait_paths(&frr, VIP4, 2)?;
    // Attributes: another UPDATE on the same session.
    us.configure("med: 5", "med: 6");
    wait_until("another MED", BOUND, || {
        frr.paths(VIP4).is_ok_and(|paths| paths.iter().any(|p| p["metric"] == json!(6)))
    })?;
    assert_eq!(us.wait_up("10.99.1.2")?.established, 1);
    // A peer goes: its session ends, the other stays.
    us.configure("    - { address: \"fd99:1::2\", remote_as: 65001, next_hop_v4: 10.99.1.1 }", "");
    wait_paths(&frr, VIP4, 1)?;
    assert_eq!(us.wait_up("10.99.1.2")?.established, 1);
    // Another AS of ours: the router refuses it, and takes the old one again.
    us.configure("local_as: 4200000001", "local_as: 65077");
    us.wait_peer("the router to refuse our AS", "10.99.1.2", |p| {
        p.failing.as_ref().is_some_and(|why| why.contains("2/2 Bad Peer AS"))
    })?;
    wait_paths(&frr, VIP4, 0)?;
    us.configure("local_as: 65077", "local_as: 4200000001");
    wait_paths(&frr, VIP4, 1)?;
    // An aggregate takes the host route's place.
    us.configure("  peers:", "  aggregates: [{ prefix: 203.0.113.0/24 }]\n  peers:");
    wait_paths(&frr, "203.0.113.0/24", 1)?;
    wait_paths(&frr, VIP4, 0)?;
    us.facts(healthy(0));
    wait_paths(&frr, "203.0.113.0/24", 0)?;
    Ok(())
}

#[test]
fn ten_thousand_routes_are_counted_and_too_many_end_the_session() -> Result<()> {
    if !can_run() {
        return Ok(());
    }
    let mut rig = Rig::start(&["us", "rtr"])?;
    rig.link("us", "rtr")?;
    let mut config = frr_config(65_001, &[("10.99.1.1", OURS, &[])]);
    let networks: String =
        (0..10_000u32).map(|i| format!("  network 10.{}.{}.0/24\n", 100 + i / 256, i % 256)).collect();
    config = config
        .replace(" address-family ipv4 unicast\n", &format!(" address-family ipv4 unicast\n{networks}"));
    config = config.replace("router bgp 65001\n", "router bgp 65001\n no bgp network import-check\n");
    let frr = Frr::start(rig.host("rtr"), rig.path(), &config, "")?;
    let us = Speaker::start(
        &rig,
        "us",
        "  peers: [{ address: 10.99.1.2, remote_as: 65001, max_received: 20000 }]",
    )?;
    let view = us.wait_peer("10000 prefixes", "10.99.1.2", |p| p.prefixes_received >= 10_000)?;
    ensure!(view.is_up() && view.established == 1, "{view:?}");
    wait_paths(&frr, VIP4, 1)?;
    // Some are withdrawn.
    frr.ask(&["conf t", "router bgp 65001", "address-family ipv4 unicast", "no network 10.100.0.0/24"])?;
    us.wait_peer("a withdrawal", "10.99.1.2", |p| p.prefixes_received == view.prefixes_received - 1)?;
    us.crash();
    let few =
        Speaker::start(&rig, "us", "  peers: [{ address: 10.99.1.2, remote_as: 65001, max_received: 500 }]")?;
    few.wait_peer("the limit", "10.99.1.2", |p| {
        p.last_down_reason.as_ref().is_some_and(|why| why.contains("max_received"))
    })?;
    wait_until("the router to hear why", BOUND, || {
        frr.neighbour("10.99.1.1").is_ok_and(|n| n["lastErrorCodeSubcode"] == json!("0601"))
    })?;
    Ok(())
}
