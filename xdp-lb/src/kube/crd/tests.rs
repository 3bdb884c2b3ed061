//! The definitions in `deploy`, and what of an object the schema does not see.

use std::path::Path;

use serde_json::json;

use super::{VipPool, all, texts};
use crate::kube::ipam::Operator;

/// Somebody applies what is in the repository, not what the types say.
#[test]
fn deploy_has_what_the_types_say() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/kustomize/crds");
    for (plural, text) in texts().unwrap() {
        let path = directory.join(format!("{plural}.yaml"));
        let written = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(written == text, "run: xdp-lb crds {plural} >deploy/kustomize/crds/{plural}.yaml");
    }
}

/// What people see, and what the API server wants of a schema.
#[test]
fn definitions() {
    for crd in all() {
        let name = crd.metadata.name.clone().unwrap();
        let version = &crd.spec.versions[0];
        assert!(
            version.additional_printer_columns.as_ref().is_some_and(|columns| columns.len() > 3),
            "{name}"
        );
        let schema = serde_json::to_value(&version.schema).unwrap().to_string();
        // What an agent writes it has checked.
        assert!(name.starts_with("edgenodes.") || schema.contains("x-kubernetes-validations"), "{name}");
        // Help of `kubectl explain` says "default", not a Rust word.
        assert!(!schema.contains("Rust") && !schema.contains("Auto-generated"), "{name}");
    }
}

fn pool(spec: serde_json::Value) -> VipPool {
    let object = json!({ "apiVersion": "xdp-lb.io/v1alpha1", "kind": "VipPool", "metadata": { "name": "public" }, "spec": spec });
    serde_json::from_value(object).unwrap()
}

#[test]
fn a_pool_is_read() {
    let (read, mistakes) = pool(json!({ "addresses": ["203.0.113.0/30"] })).read();
    assert!(mistakes.is_empty(), "{mistakes:?}");
    assert_eq!(
        (read.name.as_str(), read.priority, read.auto_assign, read.sharing),
        ("public", 0, true, true)
    );
    assert_eq!((read.quota, read.release_delay.as_secs(), read.ranges[0].count()), (None, 60, 4));
    assert!(read.namespaces.0.is_empty() && read.services.0.is_empty());
    let (read, _) = pool(json!({ "addresses": ["2001:db8::/64", "203.0.113.5-203.0.113.9"], "priority": 7, "autoAssign": false, "sharing": false,
        "quotaPerNamespace": 2, "releaseDelay": "1h5m",
        "namespaceSelector": { "matchLabels": { "team": "voice" } },
        "serviceSelector": { "matchExpressions": [{ "key": "tier", "operator": "NotIn", "values": ["test"] }] } }))
    .read();
    assert_eq!((read.priority, read.auto_assign, read.sharing, read.quota), (7, false, false, Some(2)));
    assert_eq!((read.release_delay.as_secs(), read.ranges.len()), (3900, 2));
    let said = |selector: &crate::kube::ipam::Selector| (selector.0[0].key.clone(), selector.0[0].operator);
    assert_eq!(said(&read.namespaces), ("team".to_owned(), Operator::In));
    assert_eq!(said(&read.services), ("tier".to_owned(), Operator::NotIn));
}

#[test]
fn what_is_wrong_is_told_and_the_rest_is_used() {
    let (read, mistakes) = pool(json!({ "addresses": ["203.0.113.9-203.0.113.1", "203.0.113.0/30", "203.0.113.2", "x"], "releaseDelay": "1y" })).read();
    assert_eq!(read.ranges.len(), 1);
    let words = [
        "spec.addresses[0]: ",
        "upwards",
        "spec.addresses[2]: ",
        "before it already",
        "spec.addresses[3]: ",
        "spec.releaseDelay: ",
    ];
    let all = mistakes.join("\n");
    assert!(mistakes.len() == 4 && words.iter().all(|word| all.contains(word)), "{all}");
}
