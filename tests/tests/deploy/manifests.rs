//! The manifests: what they ask for, and what an API server says to them.

use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use xdp_lb_tests::lab::product;

use super::{by_name, deploy, documents, folders, kustomized, program, read};

/// The agents' DaemonSets.
fn daemon_sets() -> Vec<Value> {
    ["agent", "decap"]
        .map(|folder| documents(&read(&format!("kustomize/{folder}/daemonset.yaml"))).unwrap().remove(0))
        .into()
}

#[test]
fn nothing_is_privileged() {
    for set in daemon_sets() {
        let pod = &set["spec"]["template"]["spec"];
        assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
        assert_eq!(pod["priorityClassName"], "system-node-critical");
        for container in pod["containers"].as_array().unwrap() {
            let context = &container["securityContext"];
            assert_eq!(context["privileged"], false);
            assert_eq!(context["allowPrivilegeEscalation"], false);
            assert_eq!(context["readOnlyRootFilesystem"], true);
            assert_eq!(context["capabilities"]["drop"], serde_json::json!(["ALL"]));
            let added = context["capabilities"]["add"].as_array().unwrap();
            assert!(!added.iter().any(|name| name == "SYS_ADMIN"), "{added:?}");
            for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
                assert_eq!(container[probe]["httpGet"]["port"], "metrics", "{probe}");
            }
            assert!(!container["resources"]["requests"]["memory"].is_null());
        }
    }
}

/// Both on one node would want one interface.
#[test]
fn a_node_is_edge_or_backend_and_never_both_programs() {
    let [edge, decap] = <[Value; 2]>::try_from(daemon_sets()).unwrap();
    assert_eq!(edge["spec"]["template"]["spec"]["nodeSelector"]["xdp-lb.io/edge"], "true");
    let affinity = &decap["spec"]["template"]["spec"]["affinity"]["nodeAffinity"];
    let terms = &affinity["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"];
    let expression = &terms[0]["matchExpressions"][0];
    assert_eq!(
        (&expression["key"], &expression["operator"], &expression["values"][0]),
        (&"xdp-lb.io/edge".into(), &"NotIn".into(), &"true".into())
    );
    assert_eq!(edge["spec"]["updateStrategy"]["rollingUpdate"]["maxUnavailable"], 1);
}

/// As a pod would read them.
#[test]
fn the_configurations_are_good() -> Result<()> {
    for file in ["agent/edge.yaml", "decap/decap.yaml"] {
        let check = |node: bool| {
            let mut command = Command::new(product::binary()?);
            command.arg("check").arg(deploy().join("kustomize").join(file)).env_remove("XDP_LB_NODE_NAME");
            if node {
                command.env("XDP_LB_NODE_NAME", "n1").env("XDP_LB_NODE_IP", "10.0.0.11");
            }
            command.output().context("run xdp-lb check")
        };
        let good = check(true)?;
        let said = String::from_utf8_lossy(&good.stderr).into_owned();
        ensure!(good.status.code() == Some(0), "{file}: {said}");
        // One outer source for each edge node is what the API server can tell the others.
        let odd: Vec<_> = said.lines().filter(|line| !line.contains("encap.source_v4")).collect();
        ensure!(odd.is_empty(), "{file}: {odd:?}");
        let bad = check(false)?;
        let said = String::from_utf8_lossy(&bad.stderr).into_owned();
        ensure!(bad.status.code() == Some(3), "{file}: {said}");
        ensure!(said.contains("${XDP_LB_NODE_NAME} is not set"), "{said}");
    }
    Ok(())
}

#[test]
fn everything_is_in_the_namespace_and_bears_the_version() -> Result<()> {
    let Some(text) = kustomized("")? else { return Ok(()) };
    let objects = by_name(documents(&text)?);
    for ((kind, name), object) in &objects {
        let namespace = object["metadata"]["namespace"].as_str();
        let is_of_cluster =
            kind.starts_with("Cluster") || kind == "Namespace" || kind == "CustomResourceDefinition";
        ensure!(namespace == (!is_of_cluster).then_some("xdp-lb-system"), "{kind} {name}: {namespace:?}");
        for container in object["spec"]["template"]["spec"]["containers"].as_array().into_iter().flatten() {
            let image = container["image"].as_str().unwrap_or_default();
            ensure!(image.ends_with(concat!(":", env!("CARGO_PKG_VERSION"))), "{kind} {name}: {image}");
        }
    }
    for (kind, count) in [("DaemonSet", 2), ("ServiceAccount", 2), ("ClusterRole", 2), ("ConfigMap", 2)] {
        let have = objects.keys().filter(|(k, _)| k == kind).count();
        ensure!(have >= count, "{have} of {kind}");
    }
    Ok(())
}

/// Strict validation of fields and a dry run, object by object: what that API server does not know is told.
#[test]
fn an_api_server_takes_them() -> Result<()> {
    let Some(kubeconfig) = std::env::var_os("XDP_LB_TEST_KUBECONFIG") else {
        println!("skipped: XDP_LB_TEST_KUBECONFIG names no API server");
        return Ok(());
    };
    let Some(kubectl) = program("kubectl") else {
        println!("skipped: there is no kubectl");
        return Ok(());
    };
    let apply = |object: &Value, more: &[&str]| -> Result<(bool, String)> {
        let file = std::env::temp_dir().join(format!("xdp-lb-manifest-{}.json", std::process::id()));
        std::fs::write(&file, object.to_string())?;
        let mut command = Command::new(&kubectl);
        command.arg("--kubeconfig").arg(&kubeconfig).args([
            "apply",
            "--server-side",
            "--request-timeout=20s",
        ]);
        let output =
            command.args(more).arg("-f").arg(&file).stdin(Stdio::null()).output().context("run kubectl")?;
        std::fs::remove_file(&file)?;
        Ok((output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned()))
    };
    let dry = ["--dry-run=server", "--validate=strict"];
    let mut taken = 0;
    for folder in folders() {
        let Some(text) = kustomized(folder)? else { return Ok(()) };
        for object in documents(&text)? {
            if object["kind"] == "Namespace" {
                // What follows is in it, also in a dry run.
                let (is_there, said) = apply(&object, &[])?;
                ensure!(is_there, "{said}");
            }
            let (is_taken, said) = apply(&object, &dry)?;
            let name = format!("{} {}", object["kind"], object["metadata"]["name"]);
            if said.contains("no matches for kind") {
                println!("skipped: this API server does not know {name}");
                continue;
            }
            ensure!(is_taken, "{name}: {said}");
            taken += 1;
        }
        if folder.is_empty() {
            ensure!(taken >= 8, "only {taken} objects were judged");
        }
    }
    // It does judge.
    let mut wrong = daemon_sets().remove(0);
    wrong["metadata"]["namespace"] = "xdp-lb-system".into();
    wrong["spec"]["template"]["spec"]["hostNetwrok"] = true.into();
    let (is_taken, said) = apply(&wrong, &dry)?;
    ensure!(!is_taken && said.contains("hostNetwrok"), "{said}");
    Ok(())
}
