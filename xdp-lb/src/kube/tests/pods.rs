//! Delivery `pod`: each endpoint is a backend of its own.

use serde_json::{Value, json};

use super::objects::{cluster, endpoint, file, give, lay, node, notes, only, service, slice};
use crate::kube::{Change, Cluster, Mapped, Settings};
use crate::model::{AdminState, Backend, Delivery, Share};

fn to_pods() -> Settings {
    Settings { delivery: Delivery::Pod, ..Settings::default() }
}

fn condition(ready: bool, serving: bool, terminating: bool) -> Value {
    json!({ "ready": ready, "serving": serving, "terminating": terminating })
}

fn ready(address: &str, node: &str) -> Value {
    endpoint(address, node, condition(true, true, false))
}

fn leaving(address: &str, node: &str) -> Value {
    endpoint(address, node, condition(false, true, true))
}

fn closed(address: &str, node: &str) -> Value {
    endpoint(address, node, condition(false, false, false))
}

fn annotated(name: &str, value: &str) -> Value {
    let mut annotations = serde_json::Map::new();
    annotations.insert(format!("xdp-lb.io/{name}"), value.into());
    service(json!({ "metadata": { "annotations": annotations } }))
}

fn map(settings: Settings, objects: &[Value]) -> Mapped {
    cluster(settings, objects).map(&file().inherited)
}

/// `10.244.1.1 Active`, and the share where it is not whole.
fn shown(mapped: Mapped) -> Vec<String> {
    let show = |b: &Backend| {
        let share =
            if b.share == Share::FULL { String::new() } else { format!(" {:.2}", b.share.fraction()) };
        format!("{} {:?}{share}", b.address, b.state)
    };
    only(mapped).service.backends.iter().map(show).collect()
}

#[test]
fn each_endpoint_is_a_backend_whatever_its_port() {
    let endpoints = vec![ready("10.244.2.7", "n2"), ready("10.244.1.9", "n1"), ready("10.244.1.3", "n1")];
    let wanted = ["10.244.1.3 Active", "10.244.1.9 Active", "10.244.2.7 Active"];
    let mapped = map(to_pods(), &[service(json!({})), slice("web-1", endpoints.clone())]);
    assert_eq!(notes(&mapped), []);
    assert_eq!(shown(mapped), wanted);
    let asked = annotated("delivery", "pod");
    assert_eq!(shown(map(Settings::default(), &[asked, slice("web-1", endpoints.clone())])), wanted);
    let other = annotated("delivery", "node");
    let by_node = shown(map(to_pods(), &[other, slice("web-1", endpoints)]));
    assert_eq!(by_node, ["10.0.0.1 Active 0.12", "10.0.0.2 Active 0.06"], "a Service says it otherwise");
}

/// Each row: what is there, and who takes what.
#[test]
fn states_are_the_endpoints_own() {
    let rows = [
        (
            vec![ready("10.244.1.1", "n1"), leaving("10.244.1.2", "n1"), closed("10.244.1.3", "n1")],
            vec!["10.244.1.1 Active", "10.244.1.2 Drain", "10.244.1.3 Down"],
        ),
        // The last ones that serve.
        (
            vec![leaving("10.244.1.1", "n1"), closed("10.244.1.2", "n1")],
            vec!["10.244.1.1 Active", "10.244.1.2 Down"],
        ),
        (vec![closed("10.244.1.1", "n1")], vec!["10.244.1.1 Down"]),
    ];
    for (endpoints, wanted) in rows {
        let slice = slice("web-1", endpoints);
        assert_eq!(shown(map(to_pods(), &[service(json!({})), slice.clone()])), wanted);
        let published = service(json!({ "spec": { "publishNotReadyAddresses": true } }));
        let all = shown(map(to_pods(), &[published, slice]));
        assert!(all.iter().all(|pod| pod.ends_with("Active")), "{all:?}");
    }
}

#[test]
fn what_a_node_says_holds_for_its_pods() {
    let endpoints = vec![
        ready("10.244.1.1", "n1"),
        ready("10.244.1.2", "n1"),
        ready("10.244.2.1", "n2"),
        leaving("10.244.2.2", "n2"),
        ready("10.244.3.1", "n3"),
    ];
    let objects = [
        annotated("shares", "n1=25%"),
        slice("web-1", endpoints),
        node(1, json!({ "metadata": { "annotations": { "xdp-lb.io/weight": "7" } } })),
        node(2, json!({ "metadata": { "annotations": { "xdp-lb.io/drain": "true" } } })),
        node(3, json!({ "metadata": { "labels": { "topology.kubernetes.io/zone": "c" } } })),
    ];
    let mapped = map(to_pods(), &objects);
    let backends = only(mapped.clone()).service.backends;
    let weights: Vec<u16> = backends.iter().map(|b| b.weight).collect();
    let zones: Vec<&str> = backends.iter().filter_map(|b| b.zone.as_deref()).collect();
    assert_eq!((weights, zones), (vec![7, 7, 100, 100, 100], vec!["a", "a", "a", "a", "c"]));
    let wanted = [
        "10.244.1.1 Active 0.25",
        "10.244.1.2 Active 0.25",
        "10.244.2.1 Drain",
        "10.244.2.2 Drain",
        "10.244.3.1 Active",
    ];
    assert_eq!(shown(mapped), wanted);
}

/// Without `decap` in its file it cannot translate for them.
#[test]
fn an_edge_nodes_own_pods_are_out_of_reach_without_decap() {
    let endpoints = vec![ready("10.244.1.1", "n1"), leaving("10.244.2.1", "n2")];
    let objects = [service(json!({})), slice("web-1", endpoints)];
    let mapped = map(Settings { own: Some("n1".to_owned()), ..to_pods() }, &objects);
    let reasons: Vec<&str> = notes(&mapped).into_iter().map(|(reason, _)| reason).collect();
    assert_eq!(reasons, ["OwnPods"]);
    assert_eq!(shown(mapped), ["10.244.1.1 Down", "10.244.2.1 Active"], "the last one in reach serves");
    let both = Settings { own: Some("n1".to_owned()), reaches_own: true, ..to_pods() };
    let mapped = map(both, &objects);
    assert_eq!(notes(&mapped), []);
    assert_eq!(mapped.own, ["10.244.1.1".parse().unwrap()].into());
    assert_eq!(shown(mapped), ["10.244.1.1 Active", "10.244.2.1 Drain"]);
    assert_eq!(shown(map(to_pods(), &objects)), ["10.244.1.1 Active", "10.244.2.1 Drain"]);
    let by_node = Settings { own: Some("n1".to_owned()), ..Settings::default() };
    assert!(shown(map(by_node, &objects))[0].starts_with("10.0.0.1 Active"));
}

#[test]
fn hints_are_followed_endpoint_by_endpoint() {
    let hinted = |address: &str, zone: &str| {
        let mut endpoint = ready(address, "n1");
        lay(&mut endpoint, json!({ "hints": { "forZones": [{ "name": zone }] } }));
        endpoint
    };
    let shown = |zone: &str, endpoints: Vec<Value>| {
        let settings = Settings { hints_for: Some(zone.to_owned()), ..to_pods() };
        shown(map(settings, &[service(json!({})), slice("web-1", endpoints)]))
    };
    let both = vec![hinted("10.244.1.1", "a"), hinted("10.244.1.2", "b")];
    assert_eq!(shown("a", both.clone()), ["10.244.1.1 Active", "10.244.1.2 Active 0.00"]);
    assert_eq!(shown("c", both), ["10.244.1.1 Active", "10.244.1.2 Active"], "nobody is hinted for c");
}

/// A family's endpoints serve that family's addresses.
#[test]
fn families_are_apart() {
    let dual = service(
        json!({ "status": { "loadBalancer": { "ingress": [{ "ip": "203.0.113.10" }, { "ip": "2001:db8::10" }] } } }),
    );
    let mut v6 = slice("web-2", vec![ready("fd00:0:244:1::7", "n1"), ready("10.244.1.9", "n1")]);
    lay(&mut v6, json!({ "addressType": "IPv6" }));
    let objects = [dual, slice("web-1", vec![ready("10.244.1.7", "n1")]), v6];
    let mapped = map(to_pods(), &objects);
    let of = |at: usize| -> Vec<String> {
        mapped.services[at].service.backends.iter().map(|b| b.address.to_string()).collect()
    };
    assert_eq!((of(0), of(1)), (vec!["10.244.1.7".to_owned()], vec!["fd00:0:244:1::7".to_owned()]));
    assert_eq!(
        notes(&mapped),
        [(
            "NoPodAddress",
            "1 endpoints have no address that a tunnel can end at, and get nothing".to_owned()
        )]
    );
    // An edge node without tunnels of IPv6.
    let mut inherited = file().inherited;
    inherited.encap.source_v6 = None;
    let mapped = cluster(to_pods(), &objects).map(&inherited);
    let said = notes(&mapped);
    assert!(
        said.iter().any(|(reason, text)| *reason == "NoTunnelSource" && text.contains("encap.source_v6")),
        "{said:?}"
    );
    assert_eq!(mapped.services[0].service.backends.len(), 1, "the other family is served");
    assert!(mapped.services[1].service.backends.is_empty());
}

#[test]
fn who_is_in_two_slices_is_one_backend() {
    let slices = [
        slice("web-1", vec![closed("10.244.1.1", "n1"), ready("10.244.1.2", "n1")]),
        slice("web-2", vec![ready("10.244.1.1", "n1"), leaving("10.244.1.2", "n1")]),
    ];
    let [a, b] = slices;
    for objects in [[service(json!({})), a.clone(), b.clone()], [service(json!({})), b, a]] {
        assert_eq!(shown(map(to_pods(), &objects)), ["10.244.1.1 Active", "10.244.1.2 Active"]);
    }
}

#[test]
fn who_cannot_be_reached_is_told() {
    let mut homeless = ready("10.244.1.1", "n1");
    homeless.as_object_mut().unwrap().remove("nodeName");
    let endpoints =
        vec![homeless, ready("10.244.9.1", "gone"), ready("127.0.0.1", "n1"), ready("10.244.2.1", "n2")];
    let mapped = map(to_pods(), &[service(json!({})), slice("web-1", endpoints)]);
    let reasons: Vec<&str> = notes(&mapped).into_iter().map(|(reason, _)| reason).collect();
    assert_eq!(reasons, ["NoNode", "NoPodAddress", "UnknownNode"]);
    assert_eq!(shown(mapped), ["10.244.2.1 Active"]);
}

#[test]
fn what_names_nodes_or_ranges_is_refused() {
    for (name, value, why) in [
        ("server-ids", "n1=0a01", "each pod is a backend of its own"),
        ("slices", "n1=443", "each pod is a backend of its own"),
        ("ports", "https=20000-24999", "pods' nodes translate port 443 alone"),
    ] {
        let mapped =
            map(to_pods(), &[annotated(name, value), slice("web-1", vec![ready("10.244.1.1", "n1")])]);
        let said = notes(&mapped);
        assert!(mapped.services.is_empty());
        let is_told = |(reason, text): &(&str, String)| {
            *reason == "InvalidPolicy" && text.contains(why) && text.contains(name)
        };
        assert!(said.iter().any(is_told), "{name}: {said:?}");
    }
}

/// No service proxy is on the way.
#[test]
fn the_traffic_policy_has_no_meaning() {
    let cluster = json!({ "spec": { "externalTrafficPolicy": "Cluster" } });
    let endpoints = || slice("web-1", vec![ready("10.244.1.1", "n1")]);
    assert_eq!(notes(&map(to_pods(), &[service(cluster.clone()), endpoints()])), []);
    assert_eq!(
        notes(&map(Settings::default(), &[service(cluster), endpoints()]))[0].0,
        "ClientAddressHidden"
    );
}

/// Another pod in another's place is no change to who delivers to nodes.
#[test]
fn addresses_matter_where_tunnels_end_at_them() {
    let before = slice("web-1", vec![ready("10.244.1.1", "n1"), ready("10.244.1.2", "n1")]);
    let turned = slice("web-1", vec![ready("10.244.1.2", "n1"), ready("10.244.1.1", "n1")]);
    let after = slice("web-1", vec![ready("10.244.1.1", "n1"), ready("10.244.1.3", "n1")]);
    for (settings, change) in [(Settings::default(), Change::No), (to_pods(), Change::Yes)] {
        let mut cluster: Cluster = cluster(settings, &[service(json!({})), before.clone()]);
        assert_eq!(give(&mut cluster, &turned), Change::No);
        assert_eq!(give(&mut cluster, &after), change);
        // Whoever asks for them later finds them.
        let _ = give(&mut cluster, &annotated("delivery", "pod"));
        assert_eq!(shown(cluster.map(&file().inherited)), ["10.244.1.1 Active", "10.244.1.3 Active"]);
    }
    // A mistake leaves the pods in force, and they are followed.
    let mut cluster = cluster(Settings::default(), &[annotated("delivery", "pod"), before]);
    let _ = cluster.map(&file().inherited);
    let _ = give(&mut cluster, &annotated("delivery", "moon"));
    assert_eq!(give(&mut cluster, &after), Change::Yes);
    assert_eq!(shown(cluster.map(&file().inherited)), ["10.244.1.1 Active", "10.244.1.3 Active"]);
    assert_eq!(only(cluster.map(&file().inherited)).service.backends[0].state, AdminState::Active);
}
