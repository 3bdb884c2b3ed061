//! Calls under changes that never stop, and under a flow table with no room left.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use xdp_lb_tests::lab::traffic::{Calls, Load, LoadOptions};
use xdp_lb_tests::lab::{EdgeFile, Lab, Leaks, Mode, Node, Options, Role, State, Tier, files, http, skip};

const BOUND: Duration = Duration::from_secs(60);
const METRICS: &str = "127.0.0.1:9410";
/// As many as there are, one after the other.
const RELOADS: u32 = 1000;

/// Requests that need an answer, which all get one.
fn requests(lab: &Lab) -> Result<()> {
    let options = LoadOptions { requests: 200, rate: 2000.0, ..LoadOptions::default() };
    let report = Load::start(&lab.client(1).ns, &files::tcp(), options)?.finish(BOUND)?;
    ensure!(report.failures() == 0 && report.answers() == 200, "{report:?}");
    Ok(())
}

fn figure(node: &Node<'_>, name: &str) -> Result<f64> {
    http::figure(&node.host().ns, METRICS, name)
}

/// The file with services beside those that carry the calls: they come, go, and have their backends drained and down.
fn changing(n: u32) -> String {
    let mut text = EdgeFile::new(3).text(1);
    let backends = [1, 2, 3].map(|n| Role::Backend(n).address().v4);
    let states = ["active", "drain", "down"];
    for service in 0..n % 4 {
        text += &format!("  - name: other-{service}\n    vip: 203.0.113.99\n    protocol: tcp\n");
        text += &format!("    ports: {}\n    backends:\n", 7000 + service);
        for (i, backend) in (0..).zip(backends) {
            let state = states[((n / 4 + i + service) % 3) as usize];
            let weight = 50 + (n / 12 + i) % 3 * 50;
            text += &format!("      - {{ address: {backend}, state: {state}, weight: {weight} }}\n");
        }
    }
    // Small tables: each reload looks at all of them.
    text + &format!(
        "limits: {{ services: 4095, vips: 64, backends: 16384 }}\nmetrics: {{ listen: \"{METRICS}\" }}\n"
    )
}

#[test]
fn a_thousand_reloads_in_a_row_harm_nobody() -> Result<()> {
    if !skip::can_run(skip::LAB) {
        return Ok(());
    }
    let before = Leaks::note()?;
    let lab = Lab::start(&Options { edges: 1, ..Options::default() })?;
    let id = lab.id();
    {
        let _servers = files::serve(lab.backends())?;
        let mut tier = Tier::start(&lab, Mode::Native, |_| changing(0))?;
        let edge = &mut tier.edges[0];
        let calls = Calls::start(&lab.client(1).ns, (&files::tcp(), 40), (&files::udp(), 16))?;
        calls.wait(3, BOUND)?;
        let first = figure(edge, "config_generation")?;
        for n in 1..=RELOADS {
            edge.reload(&changing(n)).with_context(|| format!("reload {n}"))?;
        }
        let after = figure(edge, "config_generation")?;
        // The file's own change may have been noticed before the signal: it counts once more then.
        ensure!(after >= first + f64::from(RELOADS), "{first} and {after}");
        calls.wait(3, BOUND)?;
        requests(&lab)?;
        calls.stop()?.unharmed("a thousand reloads")?;
        ensure!(figure(edge, "config_last_apply_success")? == 1.0);
    }
    drop(lab);
    before.check(id)
}

#[test]
fn a_full_flow_table_moves_nobody_who_is_in_it() -> Result<()> {
    if !skip::can_run(skip::LAB) {
        return Ok(());
    }
    let before = Leaks::note()?;
    let lab = Lab::start(&Options { edges: 1, ..Options::default() })?;
    let id = lab.id();
    {
        let _servers = files::serve(lab.backends())?;
        let file = EdgeFile::new(3);
        let text = |file: &EdgeFile| {
            let text = file.text(1).replace("entries: 65536", "entries: 1024");
            format!("{text}metrics: {{ listen: \"{METRICS}\" }}\n")
        };
        let mut tier = Tier::start(&lab, Mode::Native, |_| text(&file))?;
        let edge = &mut tier.edges[0];
        let calls = Calls::start(&lab.client(1).ns, (&files::tcp(), 40), (&files::udp(), 16))?;
        calls.wait(3, BOUND)?;
        // From here on every slot of backend1 is dirty, and every connection there is remembered.
        edge.reload(&text(&file.with(1, State::Drain)))?;
        calls.wait(3, BOUND)?;
        let more = Calls::start(&lab.client(1).ns, (&files::tcp(), 0), (&files::udp(), 1000))?;
        more.wait(3, BOUND)?;
        let full = figure(edge, "flow_table_unremembered_total{reason=\"set_full\"}")?;
        ensure!(full > 0.0, "there was room for everybody");
        requests(&lab)?;
        calls.wait(3, BOUND)?;
        calls.stop()?.unharmed("the table is full")?;
        // Who found no room goes by its slot, which does not change.
        more.stop()?.unharmed("not remembered")?;
    }
    drop(lab);
    before.check(id)
}
