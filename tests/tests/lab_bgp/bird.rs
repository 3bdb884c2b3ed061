//! Our BGP against BIRD 2, by way of a route reflector, and against a router that misbehaves.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;

use crate::common::{BOUND, OURS, Speaker, VIP4, VIP6, healthy};
use anyhow::{Context, Result, ensure};
use xdp_lb::bgp::io::Leave;
use xdp_lb::bgp::status::PeerStatus;
use xdp_lb_tests::lab::product::run_to_end;
use xdp_lb_tests::lab::routers::{BIRD, FRR};
use xdp_lb_tests::lab::wait::{wait_for, wait_until};
use xdp_lb_tests::lab::{Bird, Frr, Rig, skip};

fn wait_route(bird: &Bird<'_>, prefix: &str, what: &str, is: impl Fn(&str) -> bool) -> Result<String> {
    let mut last = String::new();
    let found = wait_for(&format!("{prefix} {what}"), BOUND, || {
        last = bird.route(prefix).unwrap_or_default();
        is(&last).then(|| last.clone())
    });
    found.with_context(|| last.clone())
}

#[test]
fn ibgp_with_every_attribute_over_both_families() -> Result<()> {
    if !skip::can_run(&[skip::LAB, &[BIRD]].concat()) {
        return Ok(());
    }
    let mut rig = Rig::start(&["us", "rtr"])?;
    rig.link("us", "rtr")?;
    let config = format!(
        "router id 10.99.1.254;
protocol device {{ }}
protocol direct {{ ipv4; ipv6; }}
protocol kernel {{ ipv4 {{ export all; }}; }}
protocol kernel {{ ipv6 {{ export all; }}; }}
protocol bgp lb4 {{ local 10.99.1.2 as {OURS}; neighbor 10.99.1.1 as {OURS};
  password \"s3cret\"; passive yes; hold time 9; graceful restart aware;
  ipv4 {{ import all; export none; }}; ipv6 {{ import all; export none; }}; }}
protocol bgp lb6 {{ local fd99:1::2 as {OURS}; neighbor fd99:1::1 as {OURS}; passive yes;
  ipv4 {{ import all; export none; extended next hop on; }}; ipv6 {{ import all; export none; }}; }}
"
    );
    let bird = Bird::start(rig.host("rtr"), rig.path(), &config)?;
    let key = rig.scratch().write("key", "s3cret")?;
    let mut us = Speaker::start(
        &rig,
        "us",
        &format!(
            "  drain_time: 2s
  communities: [\"64500:100\"]
  large_communities: [\"4200000001:7:8\"]
  peers:
    - {{ address: 10.99.1.2, remote_as: {OURS}, password_file: {}, local_pref: 200, med: 7, next_hop_v6: \"fd99:1::1\" }}
    - {{ address: \"fd99:1::2\", remote_as: {OURS} }}",
            key.display()
        ),
    )?;
    us.wait_up("10.99.1.2")?;
    ensure!(us.wait_up("fd99:1::2")?.extended_next_hop);
    let both = |text: &str| text.contains("lb4") && text.contains("lb6");
    for (prefix, hop) in [(VIP4, "BGP.next_hop: 10.99.1.1"), (VIP6, "BGP.next_hop: fd99:1::1")] {
        let text = wait_route(&bird, prefix, "from both sessions", both)?;
        for line in [
            "BGP.origin: IGP",
            "BGP.local_pref: 200",
            "BGP.local_pref: 100",
            "BGP.med: 7",
            "BGP.community: (64500,100)",
            "BGP.large_community: (4200000001, 7, 8)",
            hop,
        ] {
            ensure!(text.contains(line), "{line} in\n{text}");
        }
        // iBGP: an empty path.
        ensure!(
            text.lines().filter(|l| l.contains("BGP.as_path")).all(|l| l.trim() == "BGP.as_path:"),
            "{text}"
        );
    }
    // IPv4 by RFC 8950, and the kernel takes the better one.
    ensure!(bird.route(VIP4)?.contains("BGP.next_hop: fd99:1::1"));
    let mut ip = std::process::Command::new("ip");
    ip.args(["route", "show", "203.0.113.10"]);
    let kernel = run_to_end(rig.host("rtr"), "ip", ip, BOUND)?.stdout;
    ensure!(kernel.contains("via 10.99.1.1"), "{kernel}");
    // Leaving: unattractive by LOCAL_PREF 0, then gone.
    let leaver = std::thread::spawn(move || {
        us.leave(Leave::Withdraw);
    });
    wait_route(&bird, VIP4, "with LOCAL_PREF 0", |text| {
        text.contains("BGP.local_pref: 0")
            && text.contains("(65535,0)")
            && !text.contains("BGP.local_pref: 200")
    })?;
    wait_route(&bird, VIP4, "gone", str::is_empty)?;
    ensure!(bird.ask("show protocols lb4")?.contains("lb4"));
    leaver.join().unwrap();
    Ok(())
}

#[test]
fn ebgp_with_bird_and_a_crash() -> Result<()> {
    if !skip::can_run(&[skip::LAB, &[BIRD]].concat()) {
        return Ok(());
    }
    let mut rig = Rig::start(&["us", "rtr"])?;
    rig.link("us", "rtr")?;
    let config = format!(
        "router id 10.99.1.254;
protocol device {{ }}
protocol direct {{ ipv4; ipv6; }}
protocol bgp lb4 {{ local 10.99.1.2 as 65001; neighbor 10.99.1.1 as {OURS}; passive yes; hold time 9;
  graceful restart aware; ipv4 {{ import all; export all; }}; }}
"
    );
    let bird = Bird::start(rig.host("rtr"), rig.path(), &config)?;
    let peers = "  peers: [{ address: 10.99.1.2, remote_as: 65001, families: [ipv4], prepend: 1 }]";
    let us = Speaker::start(&rig, "us", peers)?;
    let text = wait_route(&bird, VIP4, "announced", |t| !t.is_empty())?;
    ensure!(text.contains(&format!("BGP.as_path: {OURS} {OURS}")), "{text}");
    let told = us.wait_up("10.99.1.2")?;
    ensure!(told.untold.keys().any(|p| p == VIP6), "{told:?}");
    us.crash();
    // BIRD marks a stale route with an s.
    wait_until("the session to be gone", BOUND, || {
        bird.ask("show protocols all lb4").is_ok_and(|text| !text.contains("Established"))
    })?;
    ensure!(!bird.route(VIP4)?.is_empty(), "kept over the crash");
    let next = Speaker::start_as(&rig, "us", peers, true)?;
    next.wait_up("10.99.1.2")?;
    ensure!(!bird.route(VIP4)?.is_empty());
    next.facts(healthy(0));
    wait_route(&bird, VIP4, "withdrawn", str::is_empty)?;
    Ok(())
}

#[test]
fn a_route_reflector_hands_it_on() -> Result<()> {
    if !skip::can_run(&[skip::LAB, &[BIRD, FRR]].concat()) {
        return Ok(());
    }
    // us -- rr -- leaf: the leaf hears of us from the reflector alone.
    let mut rig = Rig::start(&["us", "rr", "leaf"])?;
    let (near, far) = (rig.link("us", "rr")?, rig.link("rr", "leaf")?);
    rig.route("us", far.b, "rr", near.b)?;
    rig.route("leaf", near.a, "rr", far.a)?;
    let config = format!(
        "frr defaults datacenter
router bgp {OURS}
 bgp router-id 10.99.1.254
 bgp cluster-id 10.99.1.254
 no bgp default ipv4-unicast
 neighbor 10.99.1.1 remote-as {OURS}
 neighbor 10.99.1.1 passive
 neighbor 10.99.2.2 remote-as {OURS}
 address-family ipv4 unicast
  neighbor 10.99.1.1 activate
  neighbor 10.99.1.1 route-reflector-client
  neighbor 10.99.2.2 activate
  neighbor 10.99.2.2 route-reflector-client
 exit-address-family
exit
"
    );
    let _reflector = Frr::start(rig.host("rr"), rig.path(), &config, "")?;
    let config = format!(
        "router id 10.99.2.253;
protocol device {{ }}
protocol direct {{ ipv4; }}
protocol kernel {{ learn; ipv4 {{ import all; export where source = RTS_BGP; }}; }}
protocol bgp up {{ local 10.99.2.2 as {OURS}; neighbor 10.99.2.1 as {OURS}; ipv4 {{ import all; export none; }}; }}
"
    );
    let leaf = Bird::start(rig.host("leaf"), rig.path(), &config)?;
    let us = Speaker::start(
        &rig,
        "us",
        &format!(
            "  peers: [{{ address: 10.99.1.2, remote_as: {OURS}, multihop: 4, local_pref: 150, source: 10.99.1.1 }}]"
        ),
    )?;
    let text = wait_route(&leaf, VIP4, "reflected", |t| t.contains("BGP.cluster_list"))?;
    for line in ["BGP.next_hop: 10.99.1.1", "BGP.local_pref: 150", "BGP.originator_id: 10.0.0.11"] {
        ensure!(text.contains(line), "{line} in\n{text}");
    }
    us.facts(healthy(0));
    wait_route(&leaf, VIP4, "withdrawn", str::is_empty)?;
    Ok(())
}

/// A message: marker, length, type, body.
fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(19 + body.len()).unwrap().to_be_bytes();
    [&[0xff; 16][..], &length, &[kind], body].concat()
}

/// OPEN of AS 65001 that speaks IPv4 unicast and four-octet AS numbers, hold time 9 s.
fn open() -> Vec<u8> {
    let capabilities = [&[1, 4, 0, 1, 0, 1][..], &[65, 4, 0, 0, 0xfd, 0xe9]].concat();
    let parameter = [&[2, capabilities.len() as u8][..], &capabilities].concat();
    let head = [4, 0xfd, 0xe9, 0, 9, 10, 99, 1, 254, parameter.len() as u8];
    message(1, &[&head[..], &parameter].concat())
}

/// Reads until a message of that kind has come, and returns its body.
fn read_until(stream: &mut std::net::TcpStream, kind: u8) -> Result<Vec<u8>> {
    loop {
        let mut head = [0; 19];
        stream.read_exact(&mut head)?;
        let mut body = vec![0; usize::from(u16::from_be_bytes([head[16], head[17]])) - 19];
        stream.read_exact(&mut body)?;
        if head[18] == kind {
            return Ok(body);
        }
    }
}

#[test]
fn a_router_may_only_withdraw_and_another_may_talk_garbage() -> Result<()> {
    if !skip::can_run(skip::LAB) {
        return Ok(());
    }
    let mut rig = Rig::start(&["us", "rtr"])?;
    rig.link("us", "rtr")?;
    let listener = rig.host("rtr").enter(|| TcpListener::bind("10.99.1.2:179"))??;
    let us = Speaker::start(&rig, "us", "  peers: [{ address: 10.99.1.2, remote_as: 65001 }]")?;
    let accept = || -> Result<std::net::TcpStream> {
        let (mut stream, _) = listener.accept()?;
        stream.set_read_timeout(Some(BOUND))?;
        read_until(&mut stream, 1)?;
        stream.write_all(&open())?;
        read_until(&mut stream, 4)?;
        stream.write_all(&message(4, &[]))?;
        // Our routes.
        read_until(&mut stream, 2)?;
        Ok(stream)
    };
    let mut stream = accept()?;
    // Withdrawals of what was never announced, and nothing but those.
    for i in 0..200u8 {
        stream.write_all(&message(2, &[0, 4, 24, 10, 9, i, 0, 0]))?;
    }
    let view = us.wait_peer("200 withdrawals", "10.99.1.2", |p| p.updates_received == 200)?;
    ensure!(view.is_up() && view.prefixes_received == 0 && view.established == 1, "{view:?}");
    let garbage: [(&str, Vec<u8>, [u8; 2]); 4] = [
        ("noise", (0..=255).cycle().take(5000).collect(), [1, 1]),
        ("a length beyond all", [&[0xff; 16][..], &[0xff, 0xff, 2]].concat(), [1, 2]),
        ("an UPDATE whose parts do not fit", message(2, &[0xff, 0xff, 0, 0]), [3, 1]),
        ("a second OPEN", open(), [5, 0]),
    ];
    for (round, (what, bytes, code)) in (2u64..).zip(garbage) {
        stream.write_all(&bytes)?;
        let said = read_until(&mut stream, 3).with_context(|| format!("no NOTIFICATION for {what}"))?;
        assert_eq!(said[..2], code, "{what}");
        us.wait_peer(what, "10.99.1.2", |p| !p.is_up() && p.last_down_reason.is_some())?;
        drop(stream);
        // And again from the start.
        stream = accept()?;
        us.wait_peer("another session", "10.99.1.2", |p| p.is_up() && p.established == round)?;
    }
    // Broken attributes of a route that is ignored anyway do no harm (RFC 7606).
    let attributes = [0x40, 1, 1, 9, 0x40, 2, 0, 0x40, 3, 4, 10, 99, 1, 2];
    let body = [&[0, 0, 0, attributes.len() as u8][..], &attributes, &[24, 10, 9, 1]].concat();
    let updates = us.wait_up("10.99.1.2")?.updates_received;
    stream.write_all(&message(2, &body))?;
    let view = us.wait_peer("a broken attribute", "10.99.1.2", |p| p.updates_received > updates)?;
    ensure!(view.is_up(), "{view:?}");
    // A router that falls silent.
    let view = us.wait_peer("the hold timer", "10.99.1.2", |p: &PeerStatus| !p.is_up())?;
    ensure!(
        view.last_down_reason.as_ref().is_some_and(|why| why.contains("hold timer: nothing heard for 9 s")),
        "{view:?}"
    );
    assert_eq!(read_until(&mut stream, 3)?[..2], [4, 0]);
    ensure!(view.hold_time.is_none() || view.hold_time == Some(9));
    drop(stream);
    Ok(())
}
