//! The agents as their pods run: with the capabilities of the manifests and no other, on a root that cannot be written,
//! reached by the manifests' probes, ended within their grace period.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use xdp_lb_tests::lab::files::{self, VIP, WEB};
use xdp_lb_tests::lab::product::{READY_BOUND, binary, places, run_to_end};
use xdp_lb_tests::lab::skip::Need;
use xdp_lb_tests::lab::traffic::{Load, LoadOptions};
use xdp_lb_tests::lab::{EdgeFile, Host, Lab, Mode, Options, Process, http, plan, skip, wait_until};

const BOUND: Duration = Duration::from_secs(20);
const LISTEN: &str = "127.0.0.1:9410";

/// The container of a DaemonSet and how long it may take to end.
fn container(folder: &str) -> Result<(Value, Duration)> {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/kustomize").join(folder).join("daemonset.yaml");
    let set: Value = serde_yaml::from_str(&std::fs::read_to_string(&path)?)?;
    let pod = &set["spec"]["template"]["spec"];
    let grace = pod["terminationGracePeriodSeconds"].as_u64().context("no grace period")?;
    Ok((pod["containers"][0].clone(), Duration::from_secs(grace)))
}

fn capabilities(container: &Value) -> Vec<String> {
    let added = container["securityContext"]["capabilities"]["add"].as_array();
    added.into_iter().flatten().filter_map(Value::as_str).map(str::to_lowercase).collect()
}

/// Starts the container's command on a host, with these capabilities.
fn start(
    lab: &Lab,
    host: &Host,
    container: &Value,
    capabilities: &[String],
    text: &str,
) -> Result<(Process, PathBuf)> {
    let name = host.role.name();
    let config = lab.scratch().write(&format!("{name}.yaml"), text)?;
    let bpffs = lab.bpf().of(&name);
    let verb = container["args"][0].as_str().context("no command")?;
    let bounding: String = capabilities.iter().map(|name| format!(",+{name}")).collect();
    // What a pod may write, it has as mounts.
    let script = "mount --bind \"$0\" \"$0\" && mount --bind /proc/sys /proc/sys && mount -o remount,bind,ro /proc/sys \
                  && mount -o remount,bind,ro / && ! touch /xdp-lb-is-writable 2>/dev/null && exec \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-c", script]).arg(lab.scratch().path());
    command.args(["setpriv", "--no-new-privs", "--inh-caps=-all", &format!("--bounding-set=-all{bounding}")]);
    command.arg(binary()?).arg(verb).arg("--config").arg(config).args(places(&bpffs));
    let process = host.ns.spawn(&format!("xdp-lb {verb}"), command)?;
    Ok((process, bpffs))
}

fn wait_ready(process: &mut Process) -> Result<()> {
    process.wait_line(0, "ready: forwarding", READY_BOUND).map(drop)
}

/// A line of what the kernel says of it.
fn status(process: &Process, key: &str) -> Result<String> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.pid()))?;
    let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    Ok(line.with_context(|| format!("no {key}"))?.trim().to_owned())
}

/// The capabilities that it has.
fn effective(process: &Process) -> Result<BTreeSet<u32>> {
    let bits = u64::from_str_radix(&status(process, "CapEff")?, 16)?;
    Ok((0..64).filter(|bit| bits >> bit & 1 == 1).collect())
}

#[test]
fn the_manifests_rights_are_enough() -> Result<()> {
    if !skip::can_run(skip::LAB) || !skip::can_run(&[Need::Program("setpriv", "util-linux")]) {
        return Ok(());
    }
    let lab = Lab::start(&Options { edges: 1, ..Options::default() })?;
    let _servers = files::serve(lab.backends())?;
    let metrics = format!("metrics: {{ listen: \"{LISTEN}\" }}\n");
    let (decap, _) = container("decap")?;
    let decap_text = files::decap_file(Mode::Native) + &metrics;
    // A pod cannot write sysctls: VIPs of delivery `host` want them set on the node.
    let decap_text = decap_text.replace("decap:\n", "decap:\n  vip_on_lo: false\n");
    for host in lab.backends() {
        for vip in plan::vip(VIP).both() {
            let mut command = Command::new("ip");
            command.args(["address", "add", &vip.to_string(), "dev", "lo"]);
            let done = run_to_end(&host.ns, "ip", command, BOUND)?;
            ensure!(done.status.success(), "{}", done.stderr);
        }
    }
    let mut decaps = Vec::new();
    for host in lab.backends() {
        decaps.push(start(&lab, host, &decap, &capabilities(&decap), &decap_text)?.0);
    }
    let (edge, grace) = container("agent")?;
    let text = EdgeFile::new(3).text(1) + &metrics;
    let mut agent = start(&lab, lab.edge(1), &edge, &capabilities(&edge), &text)?.0;
    decaps.iter_mut().try_for_each(wait_ready)?;
    wait_ready(&mut agent)?;
    ensure!(effective(&agent)?.len() == capabilities(&edge).len(), "{:?}", effective(&agent)?);

    let options = LoadOptions {
        requests: 200,
        rate: 2000.0,
        timeout: Duration::from_secs(1),
        ..LoadOptions::default()
    };
    let report = Load::start(&lab.client(1).ns, &files::at(WEB), options)?.finish(BOUND)?;
    ensure!(report.failures() == 0, "{report:?}");
    for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
        for (host, container) in [(lab.edge(1), &edge), (lab.backend(1), &decap)] {
            let path = container[probe]["httpGet"]["path"].as_str().context("no path")?;
            let mut last = String::new();
            wait_until(&format!("{probe} of {}", host.role.name()), BOUND, || {
                let answer = http::get(&host.ns, LISTEN.parse().expect("an address"), path);
                last = format!("{answer:?}");
                matches!(answer, Ok((200, _)))
            })
            .with_context(|| last)?;
        }
    }
    let (edge_memory, decap_memory) = (status(&agent, "VmRSS")?, status(&decaps[0], "VmRSS")?);
    println!("resident memory: edge node {edge_memory}, decap {decap_memory}");
    let warned: Vec<String> =
        agent.log().into_iter().filter(|line| line.contains("WARN") || line.contains("ERROR")).collect();
    ensure!(warned.is_empty(), "{warned:?}");
    let status = agent.terminate(grace)?;
    ensure!(status.success(), "{status}");
    Ok(())
}

/// Each is there for a reason: without it the agent does not start, or says what it cannot do.
#[test]
fn none_of_the_rights_is_for_nothing() -> Result<()> {
    if !skip::can_run(skip::LAB) || !skip::can_run(&[Need::Program("setpriv", "util-linux")]) {
        return Ok(());
    }
    let lab = Lab::start(&Options { edges: 1, ..Options::default() })?;
    for (folder, text) in [("agent", EdgeFile::new(3).text(1)), ("decap", files::decap_file(Mode::Native))] {
        let (container, _) = container(folder)?;
        let all = capabilities(&container);
        for without in &all {
            let rest: Vec<String> = all.iter().filter(|name| *name != without).cloned().collect();
            let host = if folder == "agent" { lab.edge(1) } else { lab.backend(1) };
            let text = text.replace("decap:\n", "decap:\n  vip_on_lo: false\n");
            let mut process = start(&lab, host, &container, &rest, &text)?.0.quiet();
            let works = wait_ready(&mut process).is_ok();
            let log = process.log();
            let complains = log
                .iter()
                .any(|line| line.contains("WARN") || line.contains("ERROR") || line.contains("rror:"));
            println!(
                "{folder} without {without}: ready {works}; {:?}",
                log.iter().rfind(|l| l.contains("ermitted"))
            );
            ensure!(!works || complains, "{folder} works without {without}: {log:?}");
            process.kill();
        }
    }
    Ok(())
}
