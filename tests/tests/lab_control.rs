//! What operators do to a running edge node, with nobody telling it to look: files that change by themselves.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use xdp_lb_tests::lab::files;
use xdp_lb_tests::lab::traffic::{Calls, Load, LoadOptions, LoadReport};
use xdp_lb_tests::lab::{EdgeFile, Lab, Leaks, Mode, Node, Options, State, Tier, http, skip};

const BOUND: Duration = Duration::from_secs(20);
const LISTEN: &str = "127.0.0.1:9410";
/// What the agent says of a change that it noticed itself.
const TAKEN: &str = "changed configuration in force";
const REFUSED: &str = "changed configuration refused";

/// New requests on every service over both families, all answered.
fn requests(lab: &Lab) -> Result<LoadReport> {
    let timeout = Duration::from_secs(1);
    let options = LoadOptions { requests: 200, rate: 2000.0, timeout, ..LoadOptions::default() };
    let report = Load::start(&lab.client(1).ns, &files::tcp(), options)?.finish(BOUND)?;
    ensure!(report.failures() == 0 && report.answers() == 200, "{report:?}");
    Ok(report)
}

/// One figure of the node's own.
fn figure(node: &Node<'_>, name: &str) -> Result<String> {
    let address: SocketAddr = LISTEN.parse()?;
    let (status, body) = http::get(&node.host().ns, address, "/metrics")?;
    ensure!(status == 200, "{status}: {body}");
    let line = body.lines().find_map(|line| line.strip_prefix(&format!("xdp_lb_{name} ")));
    Ok(line.with_context(|| format!("{name} is not there"))?.to_owned())
}

fn text(file: &EdgeFile) -> String {
    format!("{}metrics: {{ listen: \"{LISTEN}\" }}\n", file.text(1))
}

/// Changes something and waits for the word.
fn after(node: &mut Node<'_>, word: &str, change: impl FnOnce() -> Result<()>) -> Result<String> {
    let mark = node.product.process().mark();
    change()?;
    node.product.process().wait_line(mark, word, BOUND)
}

/// Whether new connections reach backend1.
fn backend1_takes(lab: &Lab) -> Result<bool> {
    Ok(requests(lab)?.answered.contains_key("backend1"))
}

#[test]
fn files_are_followed_without_being_told() -> Result<()> {
    if !skip::can_run(skip::LAB) {
        return Ok(());
    }
    let before = Leaks::note()?;
    let lab = Lab::start(&Options { edges: 1, ..Options::default() })?;
    let id = lab.id();
    {
        let _servers = files::serve(lab.backends())?;
        let active = EdgeFile::new(3);
        let drained = active.with(1, State::Drain);
        let mut tier = Tier::start(&lab, Mode::Native, |_| text(&active))?;
        let edge = &mut tier.edges[0];
        let config = edge.config.clone();
        let replace = |text: &str| lab.scratch().write("edge1.yaml", text).map(drop);
        let calls = Calls::start(&lab.client(1).ns, (&files::tcp(), 40), (&files::udp(), 16))?;
        calls.wait(3, BOUND)?;

        // By a rename, as careful editors do; in place, as the others do.
        after(edge, TAKEN, || replace(&text(&drained)))?;
        assert!(!backend1_takes(&lab)?);
        after(edge, TAKEN, || Ok(fs::write(&config, text(&active))?))?;
        assert!(backend1_takes(&lab)?);
        calls.wait(3, BOUND)?;

        // What cannot be used changes nothing, once.
        let bad = text(&drained).replace("4093", "4094");
        let line = after(edge, REFUSED, || replace(&bad))?;
        assert!(line.contains("maglev.table_size"), "{line}");
        assert!(backend1_takes(&lab)?);
        assert_eq!(figure(edge, "config_last_apply_success")?, "0");
        after(edge, TAKEN, || replace(&text(&active)))?;
        assert_eq!(figure(edge, "config_last_apply_success")?, "1");

        // Fifty in a row are few, and the last one counts.
        let generation = |edge: &Node<'_>| -> Result<u64> { Ok(figure(edge, "config_generation")?.parse()?) };
        let was = generation(edge)?;
        after(edge, TAKEN, || {
            (0..50).try_for_each(|n| {
                let file = if n % 2 == 0 { &active } else { &drained };
                replace(&format!("{}# {n}\n", text(file)))
            })
        })?;
        // The burst's last word may come after its first.
        xdp_lb_tests::lab::wait_until("the last of the burst", BOUND, || {
            backend1_takes(&lab).is_ok_and(|t| !t)
        })?;
        let applied = generation(edge)? - was;
        assert!((1..=5).contains(&applied), "{applied} configurations of a burst of 50 were applied");
        calls.wait(3, BOUND)?;

        // As Kubernetes does: the file is a link to a link, and that is swapped.
        let versions = lab.scratch().path();
        for (version, file) in [("..1", &drained), ("..2", &active)] {
            fs::create_dir(versions.join(version))?;
            fs::write(versions.join(version).join("edge1.yaml"), text(file))?;
        }
        swap(&versions.join("..data"), "..1")?;
        swap(&config, "..data/edge1.yaml")?;
        after(edge, TAKEN, || swap(&versions.join("..data"), "..2"))?;
        assert!(backend1_takes(&lab)?);
        after(edge, TAKEN, || swap(&versions.join("..data"), "..1"))?;
        assert!(!backend1_takes(&lab)?);

        // A directory of files: by the next start, and followed as it grows.
        let directory = versions.join("conf.d");
        fs::create_dir(&directory)?;
        let all = text(&active);
        let (node, services) = all.split_once("services:\n").context("no services")?;
        let (services, metrics) = services.split_once("metrics:").context("no metrics")?;
        fs::write(directory.join("10-node.yaml"), format!("{node}metrics:{metrics}"))?;
        fs::write(directory.join("20-services.yaml"), format!("version: 1\nservices:\n{services}"))?;
        edge.config = directory.clone();
        edge.product.terminate()?;
        edge.restart()?;
        assert!(backend1_takes(&lab)?);
        let more = format!(
            "version: 1\nservices:\n{}",
            services.replace("- name: ", "- name: more-").replace("ports: ", "ports: 1")
        );
        after(edge, TAKEN, || Ok(fs::write(directory.join("30-more.yaml"), &more)?))?;
        let line = after(edge, REFUSED, || Ok(fs::write(directory.join("40-again.yaml"), &more)?))?;
        assert!(line.contains("conf.d/40-again.yaml:3:"), "{line}");
        assert!(line.contains("conf.d/30-more.yaml, line 3"), "{line}");

        calls.wait(3, BOUND)?;
        calls.stop()?.unharmed("at the end")?;
    }
    drop(lab);
    before.check(id)
}

/// Makes `link` point to `target` in one step.
fn swap(link: &Path, target: &str) -> Result<()> {
    let fresh = link.with_file_name("..tmp");
    symlink(target, &fresh)?;
    Ok(fs::rename(&fresh, link)?)
}
