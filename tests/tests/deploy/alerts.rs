//! The alert rules name metrics and reasons that are there. The documents are held against the code by other tests.

use std::collections::BTreeSet;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use xdp_lb_tests::lab::skip::find_program;

use super::{documents, read};

/// Names in backticks at the head of a table's row.
fn documented(text: &str) -> BTreeSet<&str> {
    text.lines().filter_map(|line| Some(line.strip_prefix("| `")?.split_once('`')?.0)).collect()
}

fn expressions() -> Vec<String> {
    let rules = documents(&read("kustomize/monitoring/rules.yaml")).unwrap().remove(0);
    let groups = rules["spec"]["groups"].as_array().unwrap();
    let rules = groups.iter().flat_map(|group| group["rules"].as_array().unwrap());
    rules.map(|rule| rule["expr"].as_str().unwrap().to_owned()).collect()
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).filter(|word| !word.is_empty())
}

#[test]
fn every_metric_and_reason_is_there() {
    let (agent, controller) = (read("../docs/metrics.md"), read("../docs/controller.md"));
    let metrics = &documented(&agent) | &documented(&controller);
    let reasons = read("../docs/reasons.md");
    let reasons = documented(&reasons);
    let expressions = expressions();
    let named: BTreeSet<&str> =
        expressions.iter().flat_map(|e| words(e)).filter(|word| word.starts_with("xdp_lb_")).collect();
    assert!(named.len() >= 6, "{named:?}");
    for name in named {
        assert!(metrics.contains(name), "{name} is not served");
    }
    for expression in &expressions {
        for list in expression.split("reason!~\"").skip(1) {
            for reason in list.split('"').next().unwrap().split('|') {
                assert!(reasons.contains(reason), "{reason} is no reason");
            }
        }
    }
}

#[test]
fn prometheus_reads_them() -> Result<()> {
    let Some(promtool) = find_program("promtool") else {
        println!("skipped: there is no promtool");
        return Ok(());
    };
    let rules = documents(&read("kustomize/monitoring/rules.yaml"))?.remove(0);
    let file = std::env::temp_dir().join(format!("xdp-lb-rules-{}.json", std::process::id()));
    std::fs::write(&file, rules["spec"].to_string())?;
    let output =
        Command::new(promtool).args(["check", "rules"]).arg(&file).output().context("run promtool")?;
    std::fs::remove_file(&file)?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}
