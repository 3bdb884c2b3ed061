//! What is in `deploy/`: manifests, chart, alert rules, configurations.
//!
//! Rendering wants `kustomize` or `kubectl`, judging an API server (`XDP_LB_TEST_KUBECONFIG`); tests that want them say
//! so where they are missing. `cargo xtask test kube` runs this.

mod alerts;
mod chart;
mod gotmpl;
mod image;
mod manifests;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use xdp_lb_tests::lab::skip::find_program;

/// Where everything is.
fn deploy() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy")
}

fn read(path: &str) -> String {
    let path = deploy().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// A YAML text of any number of documents; empty ones are left out.
fn documents(text: &str) -> Result<Vec<Value>> {
    let parts = text
        .split("\n---\n")
        .map(|part| serde_yaml::from_str::<Value>(part).with_context(|| part.to_owned()));
    let mut all: Vec<Value> =
        parts.collect::<Result<Vec<_>>>()?.into_iter().filter(|value| !value.is_null()).collect();
    all.iter_mut().for_each(whole_numbers);
    Ok(all)
}

/// A limit of a schema is a float where a type says it, and an integer when kustomize has written it.
fn whole_numbers(value: &mut Value) {
    match value {
        Value::Number(number) => {
            if let Some(float) = number.as_f64().filter(|f| number.is_f64() && f.fract() == 0.0) {
                // Small enough, or it would not be a limit.
                *value = (float as i64).into();
            }
        }
        Value::Array(items) => items.iter_mut().for_each(whole_numbers),
        Value::Object(map) => map.values_mut().for_each(whole_numbers),
        _ => {}
    }
}

/// Objects by kind and name.
fn by_name(objects: Vec<Value>) -> BTreeMap<(String, String), Value> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    objects.into_iter().map(|o| ((text(&o["kind"]), text(&o["metadata"]["name"])), o)).collect()
}

/// A program beside the API server of the tests, or in `PATH`.
fn program(name: &str) -> Option<PathBuf> {
    let cache = || {
        let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
        Some(std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).or_else(home)?.join("kube-api"))
    };
    let beside = std::env::var_os("KUBE_API_BIN").map(PathBuf::from).or_else(cache)?.join(name);
    if beside.is_file() { Some(beside) } else { find_program(name) }
}

/// What `kubectl apply -k` would apply. `None`, said, where nobody can render it.
fn kustomized(folder: &str) -> Result<Option<String>> {
    let folder = deploy().join("kustomize").join(folder);
    let mut command = match (program("kustomize"), program("kubectl")) {
        (Some(kustomize), _) => {
            let mut command = Command::new(kustomize);
            command.arg("build");
            command
        }
        (None, Some(kubectl)) => {
            let mut command = Command::new(kubectl);
            command.arg("kustomize");
            command
        }
        (None, None) => {
            println!("skipped: there is no kustomize and no kubectl");
            return Ok(None);
        }
    };
    let output = command.arg(folder).stdin(Stdio::null()).output().context("run kustomize")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(Some(String::from_utf8(output.stdout)?))
}

/// Every folder that somebody may apply.
fn folders() -> [&'static str; 2] {
    ["", "monitoring"]
}
