//! A mistake is told with its place, costs its own Service alone, and never what was good before.

use serde_json::{Value, json};

use super::objects::{backends, cluster, file, give, map, node, notes, ready, service, slice};
use crate::kube::{Key, Mapped, Settings, Severity, Subject};
use crate::model::Affinity;

fn annotated(name: &str, value: &str) -> Value {
    let mut annotations = serde_json::Map::new();
    annotations.insert(format!("xdp-lb.io/{name}"), value.into());
    service(json!({ "metadata": { "annotations": annotations } }))
}

fn complaints(mapped: &Mapped) -> Vec<String> {
    notes(mapped).into_iter().filter(|(reason, _)| *reason == "InvalidPolicy").map(|(_, text)| text).collect()
}

/// Every annotation is checked: a value that is none of its values, and what is said of it.
#[test]
fn every_annotation_is_checked() {
    let rows = [
        ("affinity", "sticky", "five-tuple"),
        ("fragments", "keep", "forward"),
        ("tracking", "maybe", "exact"),
        ("flow-timeout", "5", "duration"),
        ("new-flow-limit", "many", "0..="),
        ("table-size", "100", "prime"),
        ("slow-start", "slowly", "duration"),
        ("drain-mode", "slow", "stick"),
        ("drain-time", "soon", "duration"),
        ("health-check", "{ kind: pigeon }", "tcp"),
        ("on-all-down", "panic", "keep"),
        ("advertise", "never", "always"),
        ("dscp", "64", "0..=63"),
        ("mtu", "100", "576"),
        ("delivery", "pigeon", "node, pod or host"),
        ("deny-source-ranges", "everybody", "prefix"),
        ("ports", "https=0", "1..=65535"),
        ("shares", "n1=200%", "0%..=100%"),
        ("slices", "n1=x", "port"),
        ("zone-policy", "{ prefer: remote }", "local"),
        ("server-ids", "n1=0a01", "quic-cid"),
        ("afinity", "client-ip", "unknown"),
    ];
    use super::super::policy::{KEYS, OTHERS};
    for name in KEYS.iter().map(|(name, _)| name).chain(OTHERS) {
        assert!(rows.iter().any(|(row, ..)| row == name), "{name} has no row");
    }
    let mut unsaid = Vec::new();
    for (name, value, word) in rows {
        let mapped = map(&[annotated(name, value), slice("web-1", ready("n1", 1))]);
        assert!(mapped.services.is_empty(), "{name}");
        let complaints = complaints(&mapped);
        let place = format!("xdp-lb.io/{name}");
        let is_said = complaints.iter().any(|text| text.starts_with(&place) && text.contains(word));
        if !is_said || !complaints.iter().all(|text| text.ends_with("; not balanced")) {
            unsaid.push(complaints);
        }
    }
    assert!(unsaid.is_empty(), "{unsaid:#?}");
}

#[test]
fn all_mistakes_are_told_together() {
    let bad = service(json!({ "metadata": { "annotations": {
        "xdp-lb.io/affinity": "sticky", "xdp-lb.io/drain-time": "soon" } },
        "spec": { "loadBalancerSourceRanges": ["here"] } }));
    let complaints = complaints(&map(&[bad]));
    let places: Vec<&str> = complaints.iter().map(|text| text.split(": ").next().unwrap()).collect();
    assert_eq!(places, ["spec.loadBalancerSourceRanges[0]", "xdp-lb.io/affinity", "xdp-lb.io/drain-time"]);
}

#[test]
fn what_was_good_stays_and_endpoints_are_followed_all_the_same() {
    let mut cluster =
        cluster(Settings::default(), &[annotated("affinity", "client-ip"), slice("web-1", ready("n1", 1))]);
    assert_eq!(cluster.map(&file().inherited).services[0].service.affinity, Affinity::ClientIp);
    let _ = give(&mut cluster, &annotated("affinity", "sticky"));
    let _ = give(&mut cluster, &slice("web-1", ready("n2", 2)));
    let mapped = cluster.map(&file().inherited);
    assert_eq!(mapped.services[0].service.affinity, Affinity::ClientIp);
    assert_eq!(backends(&mapped.services[0]), ["10.0.0.2 Active 2/16"]);
    assert!(complaints(&mapped)[0].ends_with("what was said before stays in force"));
    let _ = cluster.service_gone(&Key::new("default", "web"));
    let _ = give(&mut cluster, &annotated("affinity", "sticky"));
    assert!(
        cluster.map(&file().inherited).services.is_empty(),
        "another Service of the same name inherits nothing"
    );
}

#[test]
fn it_costs_its_own_service_alone() {
    let mut bad = annotated("affinity", "sticky");
    bad["metadata"]["name"] = "bad".into();
    let mapped = map(&[bad, service(json!({}))]);
    assert_eq!(mapped.owners, [Key::new("default", "web")]);
}

#[test]
fn an_unsupported_port_costs_that_port() {
    let ports = json!({ "spec": { "ports": [{ "name": "m3ua", "protocol": "SCTP", "port": 2905 }, { "name": "https", "port": 443 }] } });
    let mapped = map(&[service(ports), slice("web-1", ready("n1", 1))]);
    assert_eq!(mapped.services.len(), 1);
    assert_eq!(
        notes(&mapped),
        [("UnsupportedProtocol", "port 2905: SCTP is not balanced, TCP and UDP are".to_owned())]
    );
}

#[test]
fn ports_need_the_host_and_a_name() {
    let rows = [
        ("https=20000-24999", "need xdp-lb.io/delivery: host"),
        ("rtp=20000", "no port named rtp"),
        ("20000", "must name ports"),
    ];
    for (value, word) in rows {
        let mapped = map(&[annotated("ports", value)]);
        assert!(complaints(&mapped).iter().any(|text| text.contains(word)), "{value}: {:#?}", mapped.notes);
    }
}

#[test]
fn endpoints_that_cannot_be_reached_are_told() {
    let mut homeless = ready("n1", 1);
    homeless[0].as_object_mut().unwrap().remove("nodeName");
    let endpoints = [homeless, ready("gone", 1), ready("n3", 1), ready("n2", 1)].concat();
    let addressless =
        node(3, json!({ "status": { "addresses": [{ "type": "ExternalIP", "address": "198.51.100.3" }] } }));
    let mapped = map(&[addressless, service(json!({})), slice("web-1", endpoints)]);
    let reasons: Vec<&str> = notes(&mapped).into_iter().map(|(reason, _)| reason).collect();
    assert_eq!(reasons, ["NoNode", "NoNodeAddress", "UnknownNode"]);
    assert_eq!(backends(&mapped.services[0]), ["10.0.0.2 Active 1/16"]);
}

#[test]
fn nodes_are_checked_too() {
    let rows = [
        ("weight", "heavy", "0..=1000"),
        ("address", "here", "addresses"),
        ("drain", "yes", "true or false"),
        ("wait", "1", "unknown"),
    ];
    for (name, value, word) in rows {
        let mut annotations = serde_json::Map::new();
        annotations.insert(format!("xdp-lb.io/{name}"), value.into());
        let bad = node(1, json!({ "metadata": { "annotations": annotations } }));
        let mapped = map(&[bad, service(json!({})), slice("web-1", ready("n1", 1))]);
        let (subject, note) = mapped.notes.first().unwrap();
        assert_eq!((subject, note.severity), (&Subject::Node("n1".to_owned()), Severity::Warning));
        assert!(note.message.contains(word), "{note:?}");
        assert_eq!(backends(&mapped.services[0]), ["10.0.0.1 Active 1/16"]);
    }
}

#[test]
fn a_service_without_an_address_waits() {
    let mapped = map(&[
        service(json!({ "status": { "loadBalancer": { "ingress": null } } })),
        slice("web-1", ready("n1", 1)),
    ]);
    assert!(mapped.services.is_empty());
    assert_eq!(notes(&mapped)[0].0, "NoAddress");
}

#[test]
fn long_names_end_with_a_hash() {
    let long = "a".repeat(63);
    let mapped = map(&[
        service(json!({ "metadata": { "name": long } })),
        service(json!({ "metadata": { "name": format!("{}b", &long[1..]) } })),
    ]);
    let names: Vec<&str> = mapped.services.iter().map(|imported| imported.service.name.as_str()).collect();
    assert!(names.iter().all(|name| name.len() == 63), "{names:?}");
    assert_ne!(names[0], names[1]);
}
