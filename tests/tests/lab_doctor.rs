//! What `doctor` calls wrong loses packets, and where it finds nothing wrong they arrive.

use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::Value;
use xdp_lb_tests::lab::product::{READY_BOUND, run_to_end};
use xdp_lb_tests::lab::traffic::{Load, LoadOptions};
use xdp_lb_tests::lab::{EdgeFile, Host, Lab, Leaks, Mode, Node, Options, Tier, files, skip};

const BOUND: Duration = Duration::from_secs(30);

/// Backends that answered new requests, and how many went unanswered.
fn answers(lab: &Lab) -> Result<(Vec<String>, u64)> {
    let timeout = Duration::from_millis(500);
    let options = LoadOptions { requests: 60, rate: 2000.0, timeout, ..LoadOptions::default() };
    let report = Load::start(&lab.client(1).ns, &files::tcp()[..1], options)?.finish(BOUND)?;
    let unanswered = report.failures();
    Ok((report.answered.into_keys().collect(), unanswered))
}

/// What is wrong by `doctor`, as subject and sentence.
fn wrong(node: &Node<'_>, more: &[&str]) -> Result<Vec<String>> {
    let output = node.command("doctor", &[more, &["-o", "json"]].concat())?;
    let findings: Vec<Value> = serde_json::from_str(&output.stdout)?;
    let wrong = findings.iter().filter(|finding| finding["verdict"] == "wrong");
    let wrong: Vec<String> = wrong
        .map(|f| format!("{}: {}", f["subject"].as_str().unwrap_or(""), f["says"].as_str().unwrap_or("")))
        .collect();
    let code = output.status.code();
    ensure!(code == Some(if wrong.is_empty() { 0 } else { 3 }), "{code:?}: {wrong:?}");
    Ok(wrong)
}

fn ip(host: &Host, words: &str) -> Result<()> {
    let mut command = Command::new("ip");
    command.args(words.split(' '));
    let output = run_to_end(&host.ns, "ip", command, READY_BOUND)?;
    ensure!(output.status.success(), "ip {words}: {}", output.stderr);
    Ok(())
}

#[test]
fn what_is_wrong_loses_packets() -> Result<()> {
    if !skip::can_run(skip::LAB) {
        return Ok(());
    }
    let before = Leaks::note()?;
    let lab = Lab::start(&Options { edges: 1, ..Options::default() })?;
    let id = lab.id();
    {
        let _servers = files::serve(lab.backends())?;
        let mut tier = Tier::start(&lab, Mode::Native, |n| EdgeFile::new(3).text(n))?;
        for node in tier.decaps.iter().chain(&tier.edges) {
            ensure!(wrong(node, &[])?.is_empty(), "{}: {:?}", node.host().role.name(), wrong(node, &[])?);
        }
        ensure!(answers(&lab)? == (["backend1", "backend2", "backend3"].map(String::from).into(), 0));

        // Strict rp_filter, as the lab has it, and the way to the client elsewhere: packets reach the backend, and nothing answers.
        let (host, node) = (lab.backend(1), &tier.decaps[0]);
        let client = lab.client(1).role.address().v4.to_string();
        ensure!(wrong(node, &["--client", &client])?.is_empty(), "strict is fine while the way is the same");
        ip(host, "link add elsewhere type veth peer name nowhere")?;
        ip(host, "link set elsewhere up")?;
        ip(host, "link set nowhere up")?;
        ip(host, &format!("route add {client}/32 dev elsewhere"))?;
        let said = wrong(node, &["--client", &client])?;
        ensure!(
            said.len() == 1 && said[0].contains("rp_filter") && said[0].contains("elsewhere"),
            "{said:?}"
        );
        let (who, lost) = answers(&lab)?;
        ensure!(who == ["backend2", "backend3"] && lost > 0, "{who:?}, {lost} lost");
        ip(host, "link delete elsewhere")?;
        ensure!(wrong(node, &["--client", &client])?.is_empty() && answers(&lab)?.1 == 0);

        // The VIP on lo, and ARP for it answered.
        host.ns.sysctl("net/ipv4/conf/all/arp_ignore", "0")?;
        host.ns.sysctl("net/ipv4/conf/eth0/arp_ignore", "0")?;
        let said = wrong(node, &[])?;
        ensure!(said.len() == 1 && said[0].starts_with("ARP: eth0 answers ARP"), "ARP: {said:?}");
        host.ns.sysctl("net/ipv4/conf/all/arp_ignore", "1")?;

        // Nobody follows what happens, though all is forwarded.
        let edge = &mut tier.edges[0];
        edge.product.kill();
        let said = wrong(edge, &[])?;
        ensure!(
            said.len() == 1 && said[0].starts_with("agent: the agent does not answer"),
            "agent: {said:?}"
        );
        ensure!(answers(&lab)?.1 == 0);
        edge.restart()?;
        ensure!(wrong(edge, &[])?.is_empty());
    }
    drop(lab);
    before.check(id)
}
