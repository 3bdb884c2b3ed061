//! What a cluster lets a backend's node take off.

use std::time::Duration;

use k8s_openapi::api::core::v1 as core;
use serde_json::{Value, json};

use super::objects::{node, service};
use crate::config::accept::OnHost;
use crate::kube::lingering::LINGER;
use crate::kube::{Change, Ended, Ends, Key, Settings};

fn give(ends: &mut Ends, object: Value) -> Change {
    match object["kind"].as_str().unwrap() {
        "Service" => ends.service(&serde_json::from_value::<core::Service>(object).unwrap()),
        _ => ends.edge(&serde_json::from_value::<core::Node>(object).unwrap()),
    }
}

fn ends(objects: impl IntoIterator<Item = Value>) -> Ends {
    let mut ends = Ends::new(Settings::default(), "n1", LINGER);
    for object in objects {
        assert_eq!(give(&mut ends, object), Change::Yes);
    }
    ends
}

/// VIPs, those on the host with a star, and sources.
fn shown(Ended { accepted, .. }: &Ended) -> (String, String) {
    let star = |on: &OnHost| if *on == OnHost::Yes { "*" } else { "" };
    let vips: Vec<_> = accepted.vips.iter().map(|(vip, on)| format!("{vip}{}", star(on))).collect();
    let sources: Vec<_> = accepted.sources.iter().map(|(a, length)| format!("{a}/{length}")).collect();
    (vips.join(" "), sources.join(" "))
}

fn text(ends: &mut Ends) -> (String, String) {
    shown(&ends.ended(Duration::ZERO))
}

fn said(ends: &mut Ends) -> Vec<String> {
    ends.ended(Duration::ZERO)
        .notes
        .iter()
        .map(|(subject, note)| format!("{subject}: {}", note.message))
        .collect()
}

fn both(vips: &str, sources: &str) -> (String, String) {
    (vips.to_owned(), sources.to_owned())
}

#[test]
fn services_name_vips_and_edge_nodes_sources() {
    let of_two = json!({ "status": { "addresses": [
        { "type": "InternalIP", "address": "10.0.0.2" }, { "type": "InternalIP", "address": "fd00::2" },
        { "type": "ExternalIP", "address": "198.51.100.1" }, { "type": "InternalIP", "address": "no" } ] } });
    let mut ends = ends([service(json!({})), node(1, json!({})), node(2, of_two)]);
    assert_eq!(text(&mut ends), both("203.0.113.10", "10.0.0.1/32 10.0.0.2/32 fd00::2/128"));
    assert_eq!(give(&mut ends, node(1, json!({ "metadata": { "labels": { "a": "b" } } }))), Change::No);
    assert_eq!(ends.edge_gone("n2"), Change::Yes);
    assert_eq!(ends.edge_gone("n2"), Change::No);
    assert_eq!(text(&mut ends), both("203.0.113.10", "10.0.0.1/32"));
    assert_eq!(said(&mut ends), [""; 0]);
}

#[test]
fn an_edge_node_says_what_its_sources_are() {
    let with = |sources: &str| {
        ends([node(1, json!({ "metadata": { "annotations": { "xdp-lb.io/sources": sources } } }))])
    };
    assert_eq!(text(&mut with("172.16.1.0/24, fd00:7864:7001::/64")).1, "172.16.1.0/24 fd00:7864:7001::/64");
    let mut wrong = with("172.16.1.1");
    assert_eq!(text(&mut wrong).1, "10.0.0.1/32", "as if it were not there");
    assert!(
        said(&mut wrong)[0].starts_with("Node n1: xdp-lb.io/sources: must be a prefix"),
        "{:?}",
        said(&mut wrong)
    );
    let mut nowhere = ends([node(1, json!({ "status": { "addresses": [] } }))]);
    assert!(text(&mut nowhere).1.is_empty() && said(&mut nowhere)[0].contains("its tunnels are dropped"));
}

#[test]
fn only_services_of_ours_with_an_address_are_let_in() {
    for more in [
        json!({ "spec": { "loadBalancerClass": "example.com/other" } }),
        json!({ "spec": { "type": "ClusterIP" } }),
        json!({ "metadata": { "deletionTimestamp": "2026-03-01T11:00:00Z" } }),
    ] {
        let mut ends = Ends::new(Settings::default(), "n1", LINGER);
        assert_eq!(give(&mut ends, service(more)), Change::No);
        assert_eq!(text(&mut ends), both("", ""));
    }
    let odd = json!({ "status": { "loadBalancer": { "ingress": [{ "ip": "127.0.0.1" }, { "ip": "0.0.0.0" }, { "hostname": "x" }] } } });
    assert_eq!(text(&mut ends([service(odd)])).0, "", "no VIP can be such an address");
}

#[test]
fn the_host_has_what_is_delivered_to_it() {
    let delivered = |name: &str, delivery: &str| {
        service(json!({ "metadata": { "name": name, "annotations": { "xdp-lb.io/delivery": delivery } } }))
    };
    let mut ends = ends([delivered("a", "host")]);
    assert_eq!(text(&mut ends).0, "203.0.113.10*");
    let mut wrong = delivered("a", "moon");
    wrong["status"]["loadBalancer"]["ingress"][0]["ip"] = "203.0.113.11".into();
    assert_eq!(give(&mut ends, wrong), Change::Yes);
    assert_eq!(text(&mut ends).0, "203.0.113.11*", "a mistake leaves the delivery as it was");
    assert_eq!(give(&mut ends, delivered("a", "node")), Change::Yes);
    assert_eq!(text(&mut ends).0, "203.0.113.10");
    assert_eq!(give(&mut ends, delivered("b", "host")), Change::Yes);
    assert_eq!(text(&mut ends).0, "203.0.113.10*", "one of two is enough");
}

#[test]
fn who_is_not_in_a_full_list_is_gone() {
    let mut ends = ends([service(json!({})), node(1, json!({})), node(2, json!({}))]);
    let there = |name: &str| [Key::new("", name)].into();
    assert_eq!(ends.edges_are(&there("n2")), Change::Yes);
    assert_eq!(ends.edges_are(&there("n2")), Change::No);
    assert_eq!(ends.services_are(&there("none")), Change::Yes);
    assert_eq!(text(&mut ends), both("", "10.0.0.2/32"));
}
