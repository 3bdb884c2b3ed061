//! The chart: with its own values it is what `deploy/kustomize` is, and its schema knows its values.
//!
//! Rendered by `gotmpl`, and by `helm` too where there is one.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use xdp_lb_tests::lab::skip::find_program;

use super::gotmpl::{Context, render};
use super::{by_name, deploy, documents, kustomized, read};

const CHART: &str = "helm/xdp-lb";

fn values() -> Value {
    serde_yaml::from_str(&read(&format!("{CHART}/values.yaml"))).unwrap()
}

/// Objects by kind and name, as `helm template` renders them into the namespace of the manifests.
fn rendered(values: &Value) -> Result<BTreeMap<(String, String), Value>> {
    let chart: Value = serde_yaml::from_str(&read(&format!("{CHART}/Chart.yaml")))?;
    let root = json!({ "Values": values, "Release": { "Namespace": "xdp-lb-system" },
        "Chart": { "AppVersion": chart["appVersion"] } });
    let context = Context { root, files: |name| read(&format!("{CHART}/{name}")) };
    let mut objects = Vec::new();
    for entry in std::fs::read_dir(deploy().join(CHART).join("templates"))? {
        let path = entry?.path();
        let text =
            render(&std::fs::read_to_string(&path)?, &context).with_context(|| path.display().to_string())?;
        if path.extension().is_some_and(|extension| extension == "yaml") {
            objects.extend(documents(&text)?);
        }
    }
    Ok(by_name(objects))
}

fn everything() -> Value {
    let mut values = values();
    values["monitoring"] = json!({ "podMonitor": true, "rules": true });
    values
}

/// Names both sides where they differ.
fn compare(
    ours: BTreeMap<(String, String), Value>,
    kustomize: &BTreeMap<(String, String), Value>,
) -> Result<()> {
    let names = |map: &BTreeMap<(String, String), Value>| map.keys().cloned().collect::<BTreeSet<_>>();
    ensure!(names(&ours) == names(kustomize), "{:?} and {:?}", names(&ours), names(kustomize));
    for (name, object) in ours {
        let other = &kustomize[&name];
        ensure!(object == *other, "{name:?}: the chart says\n{object:#}\nand the manifests\n{other:#}");
    }
    Ok(())
}

fn manifests() -> Result<Option<BTreeMap<(String, String), Value>>> {
    let (Some(all), Some(monitoring)) = (kustomized("")?, kustomized("monitoring")?) else { return Ok(None) };
    let mut objects = by_name([documents(&all)?, documents(&monitoring)?].concat());
    // `helm install --create-namespace` makes it.
    objects.retain(|(kind, _), _| kind != "Namespace");
    Ok(Some(objects))
}

#[test]
fn it_is_what_the_manifests_are() -> Result<()> {
    let Some(manifests) = manifests()? else { return Ok(()) };
    compare(rendered(&everything())?, &manifests)
}

#[test]
fn helm_agrees() -> Result<()> {
    let (Some(helm), Some(manifests)) = (find_program("helm"), manifests()?) else {
        println!("skipped: there is no helm");
        return Ok(());
    };
    let mut command = Command::new(helm);
    command.args(["template", "xdp-lb", "--namespace", "xdp-lb-system"]).arg(deploy().join(CHART));
    command.args(["--set", "monitoring.podMonitor=true,monitoring.rules=true"]);
    let output = command.output().context("run helm")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    compare(by_name(documents(&String::from_utf8(output.stdout)?)?), &manifests)
}

#[test]
fn what_is_off_is_not_there() -> Result<()> {
    let mut values = values();
    values["decap"]["enabled"] = false.into();
    let names: Vec<String> = rendered(&values)?.into_keys().map(|(_, name)| name).collect();
    ensure!(
        !names.is_empty() && names.iter().all(|name| name != "xdp-lb-decap" && name != "xdp-lb"),
        "{names:?}"
    );
    Ok(())
}

#[test]
fn a_value_arrives() -> Result<()> {
    let mut values = values();
    values["image"] =
        json!({ "repository": "registry.example/xdp-lb", "tag": "1.2.3", "pullPolicy": "Always" });
    values["edge"]["capabilities"] = json!(["BPF", "NET_ADMIN", "SYS_ADMIN"]);
    let objects = rendered(&values)?;
    let set = &objects[&("DaemonSet".to_owned(), "xdp-lb-edge".to_owned())];
    let container = &set["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(container["image"], "registry.example/xdp-lb:1.2.3");
    assert_eq!(container["securityContext"]["capabilities"]["add"], values["edge"]["capabilities"]);
    Ok(())
}

/// The schema allows nothing that is not there, and requires nothing more: each value has its place.
#[test]
fn the_schema_knows_every_value() {
    let schema: Value = serde_json::from_str(&read(&format!("{CHART}/values.schema.json"))).unwrap();
    known("", &values(), &schema);
}

fn known(path: &str, value: &Value, schema: &Value) {
    if let Some(wanted) = schema["type"].as_str() {
        let is = match value {
            Value::Object(_) => "object",
            Value::Array(_) => "array",
            Value::Bool(_) => "boolean",
            Value::Number(_) => "integer",
            Value::String(_) => "string",
            Value::Null => "null",
        };
        assert_eq!(is, wanted, "{path}");
    }
    if let Some(allowed) = schema["enum"].as_array() {
        assert!(allowed.contains(value), "{path}: {value}");
    }
    let Some(map) = value.as_object() else { return };
    for required in schema["required"].as_array().into_iter().flatten() {
        assert!(map.contains_key(required.as_str().unwrap()), "{path}: {required} is missing");
    }
    let Some(properties) = schema["properties"].as_object() else { return };
    for (key, value) in map {
        match properties.get(key) {
            Some(schema) => known(&format!("{path}.{key}"), value, schema),
            None => assert_ne!(schema["additionalProperties"], false, "{path}.{key} is not in the schema"),
        }
    }
}
