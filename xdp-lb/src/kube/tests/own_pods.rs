//! Delivery `pod` on the pods' nodes: what a port of a VIP leads to there, from before the edge nodes know it until after.

use std::collections::BTreeSet;
use std::time::Duration;

use k8s_openapi::api::{core::v1 as core, discovery::v1 as discovery};
use proptest::prelude::*;
use proptest::sample::{Index, select};
use serde_json::{Value, json};

use super::objects::{endpoint, lay, service, slice};
use crate::kube::lingering::LINGER;
use crate::kube::{Change, Ended, Ends, Key, Settings};
use crate::model::{Delivery, PodPort};

const START: Duration = Duration::from_secs(1000);
const SECOND: Duration = Duration::from_secs(1);

fn ends() -> Ends {
    Ends::new(Settings { delivery: Delivery::Pod, ..Settings::default() }, "n1", LINGER)
}

fn give(ends: &mut Ends, object: &Value) -> Change {
    let object = object.clone();
    match object["kind"].as_str().unwrap() {
        "Service" => ends.service(&serde_json::from_value::<core::Service>(object).unwrap()),
        _ => ends.slice(&serde_json::from_value::<discovery::EndpointSlice>(object).unwrap()),
    }
}

/// A pod of the node n1.
fn pod(address: &str) -> Value {
    endpoint(address, "n1", json!({ "ready": true, "serving": true, "terminating": false }))
}

fn named(name: &str, more: Value) -> Value {
    let mut named = service(json!({ "metadata": { "name": name } }));
    lay(&mut named, more);
    named
}

fn of(service: &str, mut slice: Value) -> Value {
    slice["metadata"]["labels"]["kubernetes.io/service-name"] = service.into();
    slice
}

fn port(PodPort { vip, protocol, port, pod, target }: &PodPort) -> String {
    format!("{vip} {protocol:?} {port} > {pod} {target}")
}

/// Who is there, and who has left.
fn shown(Ended { accepted, .. }: &Ended) -> (Vec<String>, Vec<String>) {
    (accepted.pods.iter().map(port).collect(), accepted.leaving.iter().map(port).collect())
}

fn there(ends: &mut Ends) -> Vec<String> {
    shown(&ends.ended(START)).0
}

#[test]
fn endpoints_of_this_node_are_led_to_whatever_their_state() {
    let state = |address: &str, ready: bool, serving: bool, terminating: bool| {
        endpoint(address, "n1", json!({ "ready": ready, "serving": serving, "terminating": terminating }))
    };
    let mut ends = ends();
    assert!(!ends.wants_slices());
    assert_eq!(give(&mut ends, &service(json!({}))), Change::Yes);
    assert!(ends.wants_slices());
    let endpoints = vec![
        state("10.244.1.1", true, true, false),
        state("10.244.1.2", false, false, false),
        state("10.244.1.3", false, true, true),
        endpoint("10.244.2.1", "n2", Value::Null),
        pod("127.0.0.1"),
        pod("fd00::1"),
    ];
    assert_eq!(give(&mut ends, &slice("web-1", endpoints)), Change::Yes);
    let all = [1, 2, 3].map(|n| format!("203.0.113.10 Tcp 443 > 10.244.1.{n} 8443"));
    assert_eq!(there(&mut ends), all);
    let elsewhere = slice("web-2", vec![endpoint("10.244.2.2", "n2", Value::Null)]);
    assert_eq!(give(&mut ends, &elsewhere), Change::No);
    let ended = ends.ended(START);
    assert!(ended.accepted.vips.is_empty() && ended.notes.is_empty(), "{ended:?}");
}

/// Ports by name, VIPs by family, targets as each slice says.
#[test]
fn ports_lead_to_what_pods_listen_on() {
    let mut ends = ends();
    let dual = json!({
        "spec": { "ports": [{ "name": "https", "port": 443 }, { "name": "dns", "protocol": "UDP", "port": 53 }] },
        "status": { "loadBalancer": { "ingress": [{ "ip": "203.0.113.10" }, { "ip": "2001:db8::10" }] } } });
    let _ = give(&mut ends, &service(dual));
    let mut v4 = slice("web-1", vec![pod("10.244.1.1")]);
    lay(
        &mut v4,
        json!({ "ports": [{ "name": "https", "port": 8443 }, { "name": "dns", "protocol": "UDP", "port": 1053 }] }),
    );
    let mut other = slice("web-2", vec![pod("10.244.1.2")]);
    lay(
        &mut other,
        json!({ "ports": [{ "name": "https", "port": 9443 }, { "name": "dns", "protocol": "TCP", "port": 1 }] }),
    );
    let mut v6 = slice("web-3", vec![pod("fd00:0:244:1::1")]);
    lay(&mut v6, json!({ "addressType": "IPv6" }));
    for slice in [v4, other, v6] {
        assert_eq!(give(&mut ends, &slice), Change::Yes);
    }
    assert_eq!(
        there(&mut ends),
        [
            "203.0.113.10 Tcp 443 > 10.244.1.1 8443",
            "203.0.113.10 Tcp 443 > 10.244.1.2 9443",
            "203.0.113.10 Udp 53 > 10.244.1.1 1053",
            "2001:db8::10 Tcp 443 > fd00:0:244:1::1 8443",
        ]
    );
}

/// The node itself has VIPs of other Services alone.
#[test]
fn each_service_is_delivered_as_it_says() {
    let mut ends = ends();
    let delivered = |delivery: &str| {
        service(json!({ "metadata": { "annotations": { "xdp-lb.io/delivery": delivery } } }))
    };
    let _ = give(&mut ends, &slice("web-1", vec![pod("10.244.1.1")]));
    let _ = give(&mut ends, &delivered("node"));
    let ended = ends.ended(START);
    assert_eq!((shown(&ended).0.len(), ended.accepted.vips.len(), ends.wants_slices()), (0, 1, false));
    let _ = give(&mut ends, &delivered("pod"));
    let ended = ends.ended(START);
    assert_eq!((shown(&ended).0.len(), ended.accepted.vips.len(), ends.wants_slices()), (1, 0, true));
    assert_eq!(give(&mut ends, &delivered("moon")), Change::No, "a mistake changes nothing");
    let _ = give(
        &mut ends,
        &named("other", json!({ "metadata": { "annotations": { "xdp-lb.io/delivery": "node" } } })),
    );
    let ended = ends.ended(START);
    assert_eq!((shown(&ended).0.len(), ended.accepted.vips.len()), (1, 1), "one address, both ways");
}

#[test]
fn the_older_service_has_the_port_and_the_other_is_told() {
    let mut ends = ends();
    let older = json!({ "metadata": { "creationTimestamp": "2025-03-01T10:00:00Z" } });
    let mut slices =
        [of("a", slice("a-1", vec![pod("10.244.1.1")])), of("b", slice("b-1", vec![pod("10.244.1.1")]))];
    slices[1]["ports"][0]["port"] = 9443.into();
    for object in [named("a", json!({})), named("b", older)].iter().chain(&slices) {
        let _ = give(&mut ends, object);
    }
    let ended = ends.ended(START);
    assert_eq!(shown(&ended).0, ["203.0.113.10 Tcp 443 > 10.244.1.1 9443"]);
    let said: Vec<String> =
        ended.notes.iter().map(|(subject, note)| format!("{subject}: {}", note.message)).collect();
    assert_eq!(
        said,
        [
            "Service default/a: TCP port 443 of 203.0.113.10 leads to port 9443 of pod 10.244.1.1 already, and not to 8443"
        ]
    );
}

#[test]
fn a_pod_that_has_left_is_known_for_a_while() {
    let mut ends = ends();
    let both = slice("web-1", vec![pod("10.244.1.1"), pod("10.244.1.2")]);
    for object in [&service(json!({})), &both] {
        let _ = give(&mut ends, object);
    }
    assert_eq!(there(&mut ends).len(), 2);
    assert_eq!(ends.wakes(), None);
    let _ = give(&mut ends, &slice("web-1", vec![pod("10.244.1.1")]));
    let (there, left) = shown(&ends.ended(START + SECOND));
    assert_eq!(there, ["203.0.113.10 Tcp 443 > 10.244.1.1 8443"]);
    assert_eq!(left, ["203.0.113.10 Tcp 443 > 10.244.1.2 8443"]);
    let over = ends.wakes().unwrap();
    assert_eq!(over, START + 31 * SECOND);
    // The rest leaves later and stays longer.
    assert_eq!(ends.slice_gone(&Key::new("default", "web-1")), Change::Yes);
    assert_eq!(shown(&ends.ended(over - SECOND)).1.len(), 2);
    assert_eq!(shown(&ends.ended(over)).1, ["203.0.113.10 Tcp 443 > 10.244.1.1 8443"]);
    // It is back, and leaves with its Service.
    let _ = give(&mut ends, &slice("web-1", vec![pod("10.244.1.1")]));
    let (there, left) = shown(&ends.ended(over + SECOND));
    assert_eq!((there.len(), left.len(), ends.wakes()), (1, 0, None));
    assert_eq!(ends.service_gone(&Key::new("default", "web")), Change::Yes);
    assert_eq!(shown(&ends.ended(over + SECOND)).1.len(), 1);
    assert_eq!(shown(&ends.ended(over + 32 * SECOND)), Default::default());
}

/// Each row: what comes, and who is known then.
#[test]
fn who_has_left_gives_way() {
    let rename = |mut pod: Value| {
        pod["targetRef"]["name"] = "another".into();
        pod
    };
    let mut target = slice("web-2", vec![pod("10.244.1.1")]);
    target["ports"][0]["port"] = 9443.into();
    let rows = [
        ("the port leads elsewhere", target, vec!["203.0.113.10 Tcp 443 > 10.244.1.1 9443"], 0),
        (
            "the address is another pod's",
            of("foreign", slice("x", vec![rename(pod("10.244.1.1"))])),
            vec![],
            0,
        ),
        ("the pod is in another Service", of("foreign", slice("x", vec![pod("10.244.1.1")])), vec![], 1),
    ];
    for (name, slice_then, wanted, left) in rows {
        let mut ends = ends();
        for object in [&service(json!({})), &slice("web-1", vec![pod("10.244.1.1")])] {
            let _ = give(&mut ends, object);
        }
        assert_eq!(there(&mut ends).len(), 1);
        let _ = ends.slice_gone(&Key::new("default", "web-1"));
        assert_eq!(shown(&ends.ended(START)).1.len(), 1, "{name}");
        assert_eq!(give(&mut ends, &slice_then), Change::Yes, "{name}");
        let (there, leaving) = shown(&ends.ended(START));
        assert_eq!((there, leaving.len()), (wanted.into_iter().map(str::to_owned).collect(), left), "{name}");
    }
}

#[test]
fn who_is_not_in_a_full_list_of_slices_is_gone() {
    let mut ends = ends();
    let slices = [slice("web-1", vec![pod("10.244.1.1")]), slice("web-2", vec![pod("10.244.1.2")])];
    for object in [service(json!({}))].iter().chain(&slices) {
        let _ = give(&mut ends, object);
    }
    let list: BTreeSet<Key> = [Key::new("default", "web-2"), Key::new("default", "web-3")].into();
    assert_eq!(ends.slices_are(&list), Change::Yes);
    assert_eq!(ends.slices_are(&list), Change::No);
    assert_eq!(there(&mut ends), ["203.0.113.10 Tcp 443 > 10.244.1.2 8443"]);
}

fn object() -> impl Strategy<Value = Value> {
    let name = || select(vec!["web", "sip"]);
    let services = (name(), any::<bool>(), 1..3u8).prop_map(|(name, to_pods, vip)| {
        let delivery = if to_pods { "pod" } else { "node" };
        named(
            name,
            json!({
            "metadata": { "creationTimestamp": null, "annotations": { "xdp-lb.io/delivery": delivery } },
            "status": { "loadBalancer": { "ingress": [{ "ip": format!("203.0.113.{vip}") }] } } }),
        )
    });
    let pods = prop::collection::vec((1..3u8, 1..4u8), 0..4);
    let slices = (name(), 0..3u8, pods, 1..3u16).prop_map(|(name, number, pods, target)| {
        let pod = |(node, last): (u8, u8)| {
            endpoint(&format!("10.244.{node}.{last}"), &format!("n{node}"), Value::Null)
        };
        let mut slice = of(name, slice(&format!("s{number}"), pods.into_iter().map(pod).collect()));
        slice["ports"][0]["port"] = (8000 + target).into();
        slice
    });
    prop_oneof![services, slices]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    /// What is there follows from the last word on each object, whatever came in which order.
    #[test]
    fn only_the_end_counts(objects in prop::collection::vec(object(), 1..30), turn in any::<Index>()) {
        let id = |object: &Value| (object["kind"].to_string(), object["metadata"]["name"].to_string());
        let mut ends = ends();
        let mut before = ends.ended(START);
        let mut last: Vec<Value> = Vec::new();
        for object in &objects {
            let change = give(&mut ends, object);
            let after = ends.ended(START);
            if change == Change::No {
                prop_assert_eq!(&after, &before, "an event that is said to change nothing changes nothing");
            }
            before = after;
            last.retain(|other| id(other) != id(object));
            last.push(object.clone());
        }
        let turn = turn.index(last.len());
        last.rotate_left(turn);
        let mut fresh = self::ends();
        for object in &last {
            let _ = give(&mut fresh, object);
        }
        let (told, fresh) = (before, fresh.ended(START));
        prop_assert_eq!((&told.accepted.pods, &told.accepted.vips), (&fresh.accepted.pods, &fresh.accepted.vips));
    }
}
