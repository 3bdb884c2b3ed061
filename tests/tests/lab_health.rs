//! Health checks through the tunnel, in the lab: what dies, how soon it is out, why it says so, and who notices.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use xdp_lb_tests::lab::{EdgeFile, Lab, Leaks, Mode, Node, Options, Tier, files, skip, wait_for, wait_until};

const BOUND: Duration = Duration::from_secs(20);

/// A file whose services all check their backends.
fn checked(backends: u8) -> EdgeFile {
    let times = "interval: 300ms, timeout: 200ms, rise: 2, fall: 2";
    EdgeFile {
        more: [
            vec![format!("health_check: {{ kind: tcp, {times} }}")],
            vec![format!("health_check: {{ kind: udp, payload: \"12345678\", {times} }}")],
        ],
        ..EdgeFile::new(backends)
    }
}

/// Every backend with what status says of it: service, address, state, health.
fn status(node: &Node<'_>) -> Result<Vec<(String, String, String, String)>> {
    let output = node.command("status", &["backends", "-o", "json"])?;
    ensure!(output.status.success(), "{output:?}");
    let rows: Vec<Value> = serde_json::from_str(&output.stdout).context("read status")?;
    let text = |row: &Value, key: &str| row[key].as_str().unwrap_or_default().to_owned();
    Ok(rows
        .iter()
        .map(|row| {
            let health = row["health"]["words"].as_str().unwrap_or("-").to_owned();
            (text(row, "service"), text(row, "address"), text(row, "state"), health)
        })
        .collect())
}

fn all_up(node: &Node<'_>) -> bool {
    status(node).is_ok_and(|rows| rows.iter().all(|row| row.2 == "active" && row.3 == "up"))
}

#[test]
fn first_light() -> Result<()> {
    if !skip::can_run(skip::LAB) {
        return Ok(());
    }
    let before = Leaks::note()?;
    let lab = Lab::start(&Options { edges: 1, ..Options::default() })?;
    let id = lab.id();
    {
        let _servers = files::serve(lab.backends())?;
        let file = checked(3);
        let tier = Tier::start(&lab, Mode::Native, |n| file.text(n))?;
        let up = wait_until("all to be up", BOUND, || all_up(&tier.edges[0]));
        eprintln!("{:#?}", status(&tier.edges[0])?);
        up?;
    }
    drop(lab);
    before.check(id)
}
