//! The recipes of docs/bgp.md, word for word: both sides as they are printed there, against each other.

use anyhow::{Context, Result, ensure};
use xdp_lb_tests::lab::routers::{BIRD, FRR};
use xdp_lb_tests::lab::wait::wait_until;
use xdp_lb_tests::lab::{Bird, Frr, Rig, skip};

use crate::common::{BOUND, Speaker, VIP4, VIP6};
use crate::frr::wait_paths;

const DOCS: &str = include_str!("../../../docs/bgp.md");

/// The first indented block after `heading` that begins with `first`, without its indent.
fn recipe(heading: &str, first: &str) -> String {
    let (_, section) = DOCS.split_once(heading).unwrap_or_else(|| panic!("{heading} is not in the docs"));
    let lines = section.lines().skip_while(|line| line.strip_prefix("    ") != Some(first));
    let block: Vec<&str> = lines.map_while(|line| line.strip_prefix("    ")).collect();
    assert!(!block.is_empty(), "{first} is not below {heading}");
    block.join("\n") + "\n"
}

/// Our side's `bgp` section below `heading`, with the key in a file of the rig.
fn ours(rig: &Rig, heading: &str) -> Result<String> {
    let key = rig.scratch().write("key", "s3cret\n")?;
    let text = recipe(heading, "bgp:").replace("/etc/xdp-lb/bgp.key", &key.display().to_string());
    // The speaker of the tests writes the beginning itself, with other numbers.
    Ok(text)
}

/// A host and a router with the addresses of the recipes.
fn rig() -> Result<Rig> {
    let mut rig = Rig::start(&["us", "rtr"])?;
    rig.link("us", "rtr")?;
    for (host, interface, end) in [("us", "rtr", 0x11), ("rtr", "us", 1)] {
        let netlink = rig.host(host).netlink();
        netlink.add_address(interface, (format!("10.0.0.{}", if end == 1 { 1 } else { 11 }).parse()?, 24))?;
        netlink.add_address(interface, (format!("fd00::{end:x}").parse()?, 64))?;
    }
    Ok(rig)
}

#[test]
fn frr_as_a_leaf() -> Result<()> {
    if !skip::can_run(&[skip::LAB, &[FRR]].concat()) {
        return Ok(());
    }
    let rig = rig()?;
    let text = recipe("## FRR", "frr defaults datacenter");
    let (config, bfd) = text.split_once("\nbfd\n").context("no bfd section")?;
    let frr = Frr::start(rig.host("rtr"), rig.path(), &format!("{config}\n"), &format!("bfd\n{bfd}"))?;
    let us = Speaker::start_with(&rig, "us", &ours(&rig, "# BGP")?)?;
    for peer in ["10.0.0.1", "fd00::1"] {
        us.wait_up(peer)?;
        us.wait_peer("BFD", peer, |p| p.bfd.as_ref().is_some_and(|bfd| bfd.state == "Up"))?;
    }
    let path = wait_paths(&frr, VIP4, 1)?.remove(0);
    ensure!(path["community"]["string"] == "64500:100" && path["valid"] == true, "{path:#}");
    wait_paths(&frr, VIP6, 1)?;
    Ok(())
}

#[test]
fn bird_as_a_leaf() -> Result<()> {
    if !skip::can_run(&[skip::LAB, &[BIRD]].concat()) {
        return Ok(());
    }
    let rig = rig()?;
    let bird = Bird::start(rig.host("rtr"), rig.path(), &recipe("## BIRD 2", "router id 10.0.0.1;"))?;
    let us = Speaker::start_with(&rig, "us", &ours(&rig, "# BGP")?)?;
    for peer in ["10.0.0.1", "fd00::1"] {
        us.wait_up(peer)?;
    }
    wait_until("both paths", BOUND, || {
        let four = bird.route(VIP4).unwrap_or_default();
        // By its own session, and by RFC 8950 over the other.
        four.contains("BGP.next_hop: 10.0.0.11")
            && four.contains("BGP.next_hop: fd00::11")
            && bird.route(VIP6).is_ok_and(|six| six.contains("BGP.next_hop: fd00::11"))
    })
}

#[test]
fn frr_as_a_route_reflector() -> Result<()> {
    if !skip::can_run(&[skip::LAB, &[FRR]].concat()) {
        return Ok(());
    }
    let rig = rig()?;
    rig.host("rtr").netlink().add_address("lo", ("10.255.0.1".parse()?, 32))?;
    let way = xdp_lb_tests::lab::netlink::Via::gateway("rtr", "10.0.0.1".parse()?);
    rig.host("us").netlink().set_route(("10.255.0.1".parse()?, 32), &[way])?;
    let config = recipe("## A route reflector", "router bgp 65001");
    let frr = Frr::start(rig.host("rtr"), rig.path(), &config, "")?;
    let us = Speaker::start_with(&rig, "us", &ours(&rig, "## A route reflector")?)?;
    us.wait_up("10.255.0.1")?;
    let path = wait_paths(&frr, VIP4, 1)?.remove(0);
    ensure!(path["locPrf"] == 150 && path["aspath"]["string"] == "Local", "{path:#}");
    Ok(())
}
