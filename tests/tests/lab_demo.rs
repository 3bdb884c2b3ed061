//! `xdp-lb-lab`, what `cargo xtask run` starts: run as a program, in a pipe, to its end and interrupted.

use std::process::Command;
use std::time::Duration;

use anyhow::Result;
use xdp_lb_tests::lab::id::LabId;
use xdp_lb_tests::lab::process::Stream;
use xdp_lb_tests::lab::routers::FRR;
use xdp_lb_tests::lab::{Lab, Leaks, Options, Process, Signal, product, skip};

/// Two cores, a debug build and a busy machine.
const BOUND: Duration = Duration::from_secs(120);

/// A lab whose client's namespace hosts the show: it would see it if the show touched the network around it.
fn host() -> Result<Lab> {
    Lab::start(&Options { backends: 1, edges: 1, ..Options::default() })
}

fn start(host: &Lab, args: &[&str]) -> Result<(Process, LabId)> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_xdp-lb-lab"));
    command.args(args).env("XDP_LB_BIN", product::binary()?);
    let process = host.client(1).ns.spawn("the show", command)?;
    let id = LabId::parse(&format!("xlb-{}-0", process.pid())).expect("a lab's name");
    Ok((process, id))
}

#[test]
fn the_show_runs_to_its_end_and_every_request_is_answered() -> Result<()> {
    if !skip::can_run(skip::LAB) {
        return Ok(());
    }
    let (leaks, host) = (Leaks::note()?, host()?);
    let (mut show, id) = start(&host, &["--for", "12s"])?;
    let status = show.wait_exit(BOUND)?;
    let said = show.output(Stream::Stdout)?;
    assert_eq!(status.code(), Some(0), "{said}\n{}", show.output(Stream::Stderr)?);
    assert!(!said.contains('\x1b'), "escapes in a pipe");
    for part in [
        "client1",
        "backend2 drains",
        "of them by backend2; 0 failed",
        "backend3 has died",
        "backend3 is marked down",
        "reset by their new backend",
        "edge2 is away",
        "requests lost otherwise: 0",
        "Every request was answered",
        "The lab is gone",
    ] {
        assert!(said.contains(part), "{part:?} is not in\n{said}");
    }
    leaks.check(id)
}

#[test]
fn with_bgp_a_dead_pool_is_withdrawn_and_a_leaving_node_loses_nothing() -> Result<()> {
    if !skip::can_run(&[skip::LAB, &[FRR]].concat()) {
        return Ok(());
    }
    let (leaks, host) = (Leaks::note()?, host()?);
    let (mut show, id) = start(&host, &["--bgp", "--for", "12s"])?;
    let status = show.wait_exit(BOUND)?;
    let said = show.output(Stream::Stdout)?;
    assert_eq!(status.code(), Some(0), "{said}\n{}", show.output(Stream::Stderr)?);
    for part in [
        "both edge nodes announce the VIPs",
        "dev to-edge2",
        "no route",
        "the backends are back",
        "edge2 is away",
        "requests lost otherwise: 0",
        "The lab is gone",
    ] {
        assert!(said.contains(part), "{part:?} is not in\n{said}");
    }
    leaks.check(id)
}

#[test]
fn ctrl_c_ends_it_in_order_at_any_moment() -> Result<()> {
    if !skip::can_run(skip::LAB) {
        return Ok(());
    }
    let (leaks, host) = (Leaks::note()?, host()?);
    for (when, code, last) in [
        // While the lab is being built there is nothing to judge yet.
        ("building a lab", 130, "The lab is gone"),
        ("== 0.0 s", 0, "Every request was answered"),
        ("backend2 drains", 0, "Every request was answered"),
        ("backend3 has died", 0, "Every request was answered"),
    ] {
        let (mut show, id) = start(&host, &["--for", "12s"])?;
        show.wait_line(0, when, BOUND)?;
        show.signal(Signal::Int)?;
        // An impatient second one must not stop the clean-up.
        show.signal(Signal::Int)?;
        let status = show.wait_exit(BOUND)?;
        let said = show.output(Stream::Stdout)?;
        assert_eq!(status.code(), Some(code), "{when}: {said}\n{}", show.output(Stream::Stderr)?);
        assert!(said.contains(last), "{when}: {last:?} is not in\n{said}");
        leaks.check(id)?;
    }
    Ok(())
}

#[test]
fn bad_usage_is_exit_code_2() -> Result<()> {
    for args in [&["--for", "5s"][..], &["--for", "30"], &["--fast"]] {
        let output = Command::new(env!("CARGO_BIN_EXE_xdp-lb-lab")).args(args).output()?;
        assert_eq!(output.status.code(), Some(2), "{args:?}");
    }
    Ok(())
}
