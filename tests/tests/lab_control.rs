//! What operators do to a running edge node: files that change by themselves, and commands.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use xdp_lb_tests::lab::files;
use xdp_lb_tests::lab::plan::Role;
use xdp_lb_tests::lab::traffic::{Calls, Load, LoadOptions, LoadReport};
use xdp_lb_tests::lab::{EdgeFile, Lab, Leaks, Mode, Node, Options, State, Tier, http, skip, wait_until};

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
fn figure(node: &Node<'_>, name: &str) -> Result<f64> {
    http::figure(&node.host().ns, LISTEN, name)
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
        assert_eq!(figure(edge, "config_last_apply_success")?, 0.0);
        after(edge, TAKEN, || replace(&text(&active)))?;
        assert_eq!(figure(edge, "config_last_apply_success")?, 1.0);

        // Fifty in a row are few, and the last one counts.
        let generation = |edge: &Node<'_>| figure(edge, "config_generation");
        let was = generation(edge)?;
        after(edge, TAKEN, || {
            (0..50).try_for_each(|n| {
                let file = if n % 2 == 0 { &active } else { &drained };
                replace(&format!("{}# {n}\n", text(file)))
            })
        })?;
        // The burst's last word may come after its first.
        wait_until("the last of the burst", BOUND, || backend1_takes(&lab).is_ok_and(|t| !t))?;
        let applied = generation(edge)? - was;
        assert!((1.0..=5.0).contains(&applied), "{applied} configurations of a burst of 50 were applied");
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

/// A command that must succeed, and what it printed.
fn done(node: &Node<'_>, verb: &str, args: &[&str]) -> Result<String> {
    let output = node.command(verb, args)?;
    ensure!(output.status.success(), "{verb} {args:?}: {} {}", output.status, output.stderr);
    Ok(output.stdout)
}

/// The same as JSON.
fn json(node: &Node<'_>, verb: &str, args: &[&str]) -> Result<serde_json::Value> {
    let text = done(node, verb, &[args, &["-o", "json"]].concat())?;
    serde_json::from_str(&text).with_context(|| format!("{verb}: {text}"))
}

/// Both addresses of a backend: two of the four services have it by each.
fn both(n: u8) -> [String; 2] {
    Role::Backend(n).address().both().map(|ip| ip.to_string())
}

#[test]
fn a_drain_by_command_keeps_calls_and_survives_the_agent() -> Result<()> {
    if !skip::can_run(skip::LAB) {
        return Ok(());
    }
    let before = Leaks::note()?;
    let lab = Lab::start(&Options { edges: 1, ..Options::default() })?;
    let id = lab.id();
    {
        let _servers = files::serve(lab.backends())?;
        let mut file = EdgeFile::new(3);
        // Short, so that streams that have ended are soon forgotten.
        file.more[1] = vec!["flow_timeout: 5s".into()];
        let mut tier = Tier::start(&lab, Mode::Native, |_| text(&file))?;
        let edge = &mut tier.edges[0];
        // Many streams: backend1 has some of each service, or there is nobody to wait for.
        let calls = Calls::start(&lab.client(1).ns, (&files::tcp(), 60), (&files::udp(), 48))?;
        calls.wait(3, BOUND)?;
        let mine = |report: &xdp_lb_tests::lab::traffic::CallReport| {
            (
                report.open_by_server().get("backend1").copied(),
                report.flows_by_server().get("backend1").copied(),
            )
        };
        let held = mine(&calls.report());
        assert!(held.0 > Some(0) && held.1 > Some(0), "{held:?}: nobody to keep");

        // What cannot be, says why.
        for (verb, args, words) in [
            ("drain", vec!["192.0.2.99"], "no service has the backend 192.0.2.99"),
            ("drain", vec![&*both(1)[0], "--service", "nobody"], "there is no service nobody"),
            ("undrain", vec![&*both(1)[0]], "no command drains"),
        ] {
            let output = edge.command(verb, &args)?;
            assert_eq!(output.status.code(), Some(1), "{verb} {args:?}");
            assert!(output.stderr.contains(words), "{verb} {args:?}: {}", output.stderr);
        }
        assert!(backend1_takes(&lab)?);

        for address in both(1) {
            done(edge, "drain", &[&address])?;
        }
        assert!(!backend1_takes(&lab)?, "new flows go elsewhere at once");
        calls.wait(3, BOUND)?;
        calls.report().unharmed("drained")?;
        assert_eq!(mine(&calls.report()), held);

        // What is left is shown: streams as soon as they are remembered, connections likewise.
        let drains = json(edge, "drain", &[])?;
        let drains = drains.as_array().context("no list")?;
        ensure!(drains.len() == 2, "{drains:?}");
        let left: Vec<_> =
            drains.iter().flat_map(|drain| drain["left"].as_array().cloned().unwrap_or_default()).collect();
        let flows = |service: &str| -> u64 {
            let of = left.iter().filter(|left| left["service"] == service || service.is_empty());
            of.filter_map(|left| left["flows"].as_u64()).sum()
        };
        assert_eq!(flows(""), u64::try_from(held.0.unwrap_or(0) + held.1.unwrap_or(0))?, "{left:?}");
        assert!(flows("media") > 0 && flows("media6") > 0, "{left:?}");
        let shown = done(edge, "status", &["backends"])?;
        assert!(shown.contains("draining (command)"), "{shown}");
        let agent = &json(edge, "status", &[])?["agent"];
        assert_eq!((&agent["state"], agent["drains"].as_array().map(Vec::len)), (&"running".into(), Some(2)));

        // The file does not know of it, and does not take it back.
        after(edge, TAKEN, || Ok(fs::write(edge_file(&lab), format!("{}# again\n", text(&file)))?))?;
        assert!(!backend1_takes(&lab)?);

        // The agent is killed: packets do not notice, status still says so; the next one knows.
        edge.product.kill();
        calls.wait(3, BOUND)?;
        assert!(!backend1_takes(&lab)?);
        let silent = json(edge, "status", &[])?;
        assert_eq!(silent["agent"]["state"], "silent");
        let text = silent.to_string();
        assert!(text.contains("\"drained_by_command\":true"), "{text}");
        let refused = edge.command("undrain", &[&both(1)[0]])?;
        assert!(
            refused.status.code() == Some(1) && refused.stderr.contains("no agent answers"),
            "{refused:?}"
        );
        edge.restart()?;
        assert!(!backend1_takes(&lab)?);
        calls.wait(3, BOUND)?;
        calls.report().unharmed("the agent was killed")?;
        assert_eq!(mine(&calls.report()), held);

        for address in both(1) {
            done(edge, "undrain", &[&address])?;
        }
        assert!(backend1_takes(&lab)?);
        calls.wait(3, BOUND)?;
        calls.report().unharmed("undrained")?;
        assert_eq!(json(edge, "drain", &[])?, serde_json::json!([]));

        // The time is up with streams left: a no, and they have moved.
        let media = both(1)[0].clone();
        let output = edge.command("drain", &[&media, "--service", "media", "--max", "3s", "--wait"])?;
        assert_eq!(output.status.code(), Some(3), "{output:?}");
        assert!(output.stderr.contains("the time is up"), "{}", output.stderr);
        // Those of media6 stay.
        wait_until("the streams of backend1 to move", BOUND, || {
            let now = mine(&calls.report()).1;
            Some(0) < now && now < held.1
        })?;
        let moved =
            |edge: &Node<'_>, reason| figure(edge, &format!("flows_moved_total{{reason=\"{reason}\"}}"));
        let over = moved(edge, "max")?;
        ensure!(over > 0.0 && moved(edge, "shed")? == 0.0, "{over} moved by max");
        // Nobody else has: what was with others from the beginning is where it was.
        calls.report().except("backend1").unharmed("the time was up")?;
        done(edge, "undrain", &[&media])?;

        // Shed: they go at once.
        let media6 = both(1)[1].clone();
        done(edge, "drain", &[&media6, "--service", "media6", "--mode", "shed"])?;
        wait_until("the streams of backend1 to be shed", BOUND, || {
            !calls.report().flows_by_server().contains_key("backend1")
        })?;
        calls.report().except("backend1").unharmed("shed")?;
        // Each stream of backend1 for one reason, and nobody for another.
        let (all, shed) = (held.1.unwrap_or(0), moved(edge, "shed")?);
        ensure!(shed > 0.0 && over + shed == f64::from(u32::try_from(all)?), "{over} + {shed} of {all}");
        ensure!(moved(edge, "down")? + moved(edge, "configuration")? == 0.0);
        done(edge, "undrain", &[&media6])?;

        // Nobody is left once the streams have ended and are forgotten: a yes.
        drop(calls.stop()?);
        let output = edge.command("drain", &[&media, "--service", "media", "--wait"])?;
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        // Who leaves is told that it still drains when it is asked for again.
        done(edge, "undrain", &[&media])?;
    }
    drop(lab);
    before.check(id)
}

#[test]
fn flows_are_listed_and_forgotten_by_command() -> Result<()> {
    if !skip::can_run(skip::LAB) {
        return Ok(());
    }
    let lab = Lab::start(&Options { edges: 1, ..Options::default() })?;
    let _servers = files::serve(lab.backends())?;
    let file = EdgeFile::new(3);
    let mut tier = Tier::start(&lab, Mode::Native, |n| file.text(n))?;
    let edge = &mut tier.edges[0];
    let calls = Calls::start(&lab.client(1).ns, (&files::tcp(), 4), (&files::udp(), 24))?;
    calls.wait(3, BOUND)?;
    let listed = json(edge, "flows", &["--list", "--limit", "5"])?;
    assert_eq!(listed["total"], calls.report().flows.len(), "those of TCP are on clean slots: {listed}");
    assert_eq!(listed["flows"].as_array().map(Vec::len), Some(5));

    // A drain keeps them, away from what their slots say; then they are forgotten.
    let media6 = both(1)[1].clone();
    done(edge, "drain", &[&media6, "--service", "media6"])?;
    let mine = ["--service", "media6", "--backend", &media6];
    let held = json(edge, "flows", &mine)?;
    let count = held["total"].as_u64().filter(|n| *n > 0).context("nobody to forget")?;
    assert_eq!(held["counts"][0]["away"], count, "{held}");
    let left = usize::try_from(count)?;
    let before = calls.report().flows_by_server().get("backend1").copied();
    let forgotten = done(edge, "flows", &[&mine[..], &["--remove"]].concat())?;
    assert!(forgotten.contains(&format!("{count} flows forgotten")), "{forgotten}");
    wait_until("the forgotten streams to move", BOUND, || {
        calls.report().flows_by_server().get("backend1").copied().unwrap_or(0) + left == before.unwrap_or(0)
    })?;
    calls.wait(3, BOUND)?;
    calls.report().except("backend1").unharmed("flows of backend1 were forgotten")?;

    // What cannot be meant is bad usage, or says why. Without the agent they are still listed.
    assert_eq!(edge.command("flows", &["--remove"])?.status.code(), Some(2));
    let nobody = edge.command("flows", &["--remove", "--service", "nobody"])?;
    assert!(nobody.stderr.contains("there is no service nobody"), "{nobody:?}");
    edge.product.kill();
    assert_eq!(json(edge, "flows", &mine)?["total"], 0);
    let refused = edge.command("flows", &[&mine[..], &["--remove"]].concat())?;
    assert!(refused.stderr.contains("no agent answers"), "{refused:?}");
    Ok(())
}

/// The file of edge node 1.
fn edge_file(lab: &Lab) -> std::path::PathBuf {
    lab.scratch().path().join("edge1.yaml")
}

#[test]
fn a_rollback_is_in_force_until_the_file_changes() -> Result<()> {
    if !skip::can_run(skip::LAB) {
        return Ok(());
    }
    let lab = Lab::start(&Options { edges: 1, ..Options::default() })?;
    let _servers = files::serve(lab.backends())?;
    let file = EdgeFile::new(3);
    let mut tier = Tier::start(&lab, Mode::Native, |n| file.text(n))?;
    let edge = &mut tier.edges[0];
    let calls = Calls::start(&lab.client(1).ns, (&files::tcp(), 20), (&files::udp(), 8))?;
    calls.wait(3, BOUND)?;
    let nothing = edge.command("rollback", &[])?;
    assert!(
        nothing.status.code() == Some(1) && nothing.stderr.contains("no earlier configuration"),
        "{nothing:?}"
    );

    // What a change would do is told before: nobody moves by a drain, everybody of backend1 by its death.
    let drained = file.with(1, State::Drain).text(1);
    let planned = |edge: &Node<'_>, text: &str, more: &[&str]| -> Result<(Option<i32>, serde_json::Value)> {
        let path = lab.scratch().write("planned.yaml", text)?;
        let path = path.to_str().context("no UTF-8")?;
        let output = edge.command("plan", &[&[path, "-o", "json"], more].concat())?;
        let told = serde_json::from_str(&output.stdout).with_context(|| format!("{output:?}"))?;
        Ok((output.status.code(), told))
    };
    let (code, same) = planned(edge, &file.text(1), &["--max-moved", "0%"])?;
    assert_eq!((code, &same["services"], &same["unchanged"]), (Some(0), &serde_json::json!([]), &4.into()));
    let (code, told) = planned(edge, &drained, &["--max-moved", "5%"])?;
    assert_eq!((code, &told["flows_moved"]), (Some(3), &0.into()), "{told:#}");
    let (code, told) = planned(edge, &file.with(1, State::Down).text(1), &["--max-moved", "90"])?;
    let with_1 = calls.report().flows_by_server().get("backend1").copied().unwrap_or(0);
    assert_eq!((code, &told["flows_moved"]), (Some(0), &with_1.into()), "{told:#}");

    edge.reload(&drained)?;
    assert!(!backend1_takes(&lab)?);
    assert_eq!(done(edge, "rollback", &[])?, "generation 3 is in force\n");
    assert!(backend1_takes(&lab)?);
    let shown = done(edge, "status", &[])?;
    assert!(shown.contains("ROLLED BACK"), "{shown}");
    let listed = json(edge, "rollback", &["--list"])?;
    let numbers: Vec<_> =
        listed.as_array().context("no list")?.iter().map(|g| g["generation"].as_u64()).collect();
    assert_eq!(numbers, [1, 2, 3].map(Some));
    assert_eq!(done(edge, "rollback", &["2", "--show"])?, drained);

    // A new agent reads the file, and knows that it is not in force.
    edge.product.kill();
    edge.restart()?;
    assert!(backend1_takes(&lab)?);
    assert_eq!(json(edge, "status", &[])?["agent"]["rolled_back_to"], 1);
    assert_eq!(json(edge, "status", &[])?["generation"], 3);

    // Forward again by number; by the file; by SIGHUP.
    done(edge, "rollback", &["2"])?;
    assert!(!backend1_takes(&lab)?);
    done(edge, "rollback", &["1"])?;
    assert!(backend1_takes(&lab)?);
    after(edge, TAKEN, || Ok(fs::write(edge_file(&lab), format!("{drained}# changed\n"))?))?;
    assert!(!backend1_takes(&lab)?);
    assert!(json(edge, "status", &[])?["agent"].get("rolled_back_to").is_none());
    done(edge, "rollback", &["1"])?;
    assert!(backend1_takes(&lab)?);
    ensure!(edge.product.reload()?.done);
    assert!(!backend1_takes(&lab)?);
    calls.wait(3, BOUND)?;
    calls.stop()?.unharmed("at the end")
}

#[test]
fn the_own_zone_comes_first_then_others_then_backups() -> Result<()> {
    if !skip::can_run(skip::LAB) {
        return Ok(());
    }
    let lab = Lab::start(&Options { edges: 1, ..Options::default() })?;
    let _servers = files::serve(lab.backends())?;
    // Backend 1 is in the node's zone, 2 in another, 3 a backup.
    let text = |file: &EdgeFile| {
        let mut text = file.text(1).replace("node: { name: edge1 }", "node: { name: edge1, zone: a }");
        for (n, more) in [(1, "zone: a"), (2, "zone: b"), (3, "zone: a, backup: true")] {
            for address in both(n) {
                text = text.replace(
                    &format!("address: \"{address}\","),
                    &format!("address: \"{address}\", {more},"),
                );
            }
        }
        text.replace("    backends:", "    zone_policy: { prefer: local, spill_below: 50% }\n    backends:")
    };
    let all = EdgeFile::new(3);
    let mut tier = Tier::start(&lab, Mode::Native, |_| text(&all))?;
    let edge = &mut tier.edges[0];
    let takers = |lab: &Lab| -> Result<Vec<String>> { Ok(requests(lab)?.answered.into_keys().collect()) };
    assert_eq!(takers(&lab)?, ["backend1"]);
    let calls = Calls::start(&lab.client(1).ns, (&files::tcp(), 20), (&files::udp(), 8))?;
    calls.wait(3, BOUND)?;
    for (state, next) in [(State::Drain, "backend2"), (State::Active, "backend1")] {
        edge.reload(&text(&all.with(1, state)))?;
        assert_eq!(takers(&lab)?, [next], "backend1 {state}");
        calls.wait(3, BOUND)?;
        calls.report().unharmed(&format!("backend1 {state}"))?;
    }
    edge.reload(&text(&all.with(1, State::Drain).with(2, State::Drain)))?;
    assert_eq!(takers(&lab)?, ["backend3"]);
    // A command drains as the file does, and explain and plan know of pools.
    edge.reload(&text(&all))?;
    for address in both(1) {
        done(edge, "drain", &[&address])?;
    }
    assert_eq!(takers(&lab)?, ["backend2"]);
    calls.wait(3, BOUND)?;
    calls.stop()?.unharmed("at the end")
}
