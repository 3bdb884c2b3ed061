//! What objects mean.

use serde_json::{Value, json};

use super::objects::{
    backends, cluster, endpoint, file, give, lay, map, node, notes, only, ready, service, slice,
};
use crate::config::beside::beside;
use crate::kube::Settings;
use crate::model::{Affinity, Delivery, Ports, Protocol, Removal};

fn conditions(ready: Option<bool>, serving: Option<bool>, terminating: Option<bool>) -> Value {
    json!({ "ready": ready, "serving": serving, "terminating": terminating })
}

#[test]
fn a_service_with_local_endpoints() {
    let mut endpoints = ready("n1", 2);
    endpoints.extend(ready("n2", 1));
    let mapped = map(&[service(json!({})), slice("web-1", endpoints)]);
    assert_eq!(notes(&mapped), []);
    let imported = only(mapped);
    let service = &imported.service;
    assert_eq!(service.name, "default/web/https");
    assert_eq!(service.vips, ["203.0.113.10".parse::<std::net::IpAddr>().unwrap()]);
    assert_eq!((service.protocol, &service.ports), (Protocol::Tcp, &Ports::Ranges(vec![443..=443])));
    assert_eq!((service.affinity, service.removal), (Affinity::FiveTuple, Removal::Down));
    assert_eq!(service.backends[0].zone.as_deref(), Some("a"));
    assert_eq!(backends(&imported), ["10.0.0.1 Active 2/16", "10.0.0.2 Active 1/16"]);
    assert!(beside(&file(), [&imported]).refused.is_empty());
}

#[test]
fn which_services_are_ours() {
    let rows = [
        (json!({}), true, true),
        (json!({ "spec": { "loadBalancerClass": null } }), false, true),
        (json!({ "spec": { "loadBalancerClass": "example.com/other" } }), false, false),
        (json!({ "spec": { "type": "ClusterIP" } }), false, false),
        (json!({ "metadata": { "deletionTimestamp": "2026-03-01T11:00:00Z" } }), false, false),
    ];
    for (more, usually, classless) in rows {
        for (with, expected) in [(false, usually), (true, classless)] {
            let settings = Settings { classless: with, ..Settings::default() };
            let objects = [service(more.clone()), slice("web-1", ready("n1", 1))];
            let mapped = cluster(settings, &objects).map(&file().inherited);
            assert_eq!(mapped.services.len(), usize::from(expected), "{more} {with}");
        }
    }
}

/// Each row: conditions of one endpoint on n1, beside a ready one on n2, and what becomes of n1.
#[test]
fn conditions_of_endpoints() {
    let (yes, no, nil) = (Some(true), Some(false), None);
    let rows = [
        (conditions(nil, nil, nil), "Active"),
        (conditions(yes, yes, no), "Active"),
        (conditions(no, no, no), "Down"),
        (conditions(no, nil, nil), "Down"),
        (conditions(no, yes, yes), "Drain"),
        (conditions(no, nil, yes), "Drain"),
        (conditions(no, no, yes), "Down"),
        (conditions(nil, yes, yes), "Drain"),
        (Value::Null, "Active"),
    ];
    for (conditions, state) in rows {
        let mut endpoints = ready("n2", 1);
        endpoints.push(endpoint("10.244.1.1", "n1", conditions.clone()));
        let imported = only(map(&[service(json!({})), slice("web-1", endpoints)]));
        let first = &imported.service.backends[0];
        assert_eq!(format!("{:?}", first.state), state, "{conditions}");
    }
}

#[test]
fn the_last_endpoints_serve_while_they_terminate() {
    let leaving = conditions(Some(false), Some(true), Some(true));
    let endpoints = vec![endpoint("10.244.1.1", "n1", leaving)];
    let imported = only(map(&[service(json!({})), slice("web-1", endpoints)]));
    assert_eq!(backends(&imported), ["10.0.0.1 Active 1/16"]);
}

#[test]
fn not_ready_addresses_are_published_where_asked_for() {
    let closed = conditions(Some(false), Some(false), Some(false));
    let endpoints = vec![endpoint("10.244.1.1", "n1", closed)];
    let slice = slice("web-1", endpoints);
    let asked = service(json!({ "spec": { "publishNotReadyAddresses": true } }));
    assert_eq!(backends(&only(map(&[asked, slice.clone()]))), ["10.0.0.1 Active 1/16"]);
    assert_eq!(backends(&only(map(&[service(json!({})), slice]))), ["10.0.0.1 Down 0/16"]);
}

#[test]
fn cluster_policy_works_and_says_what_it_costs() {
    let objects =
        [service(json!({ "spec": { "externalTrafficPolicy": "Cluster" } })), slice("web-1", ready("n1", 1))];
    let mapped = map(&objects);
    assert_eq!(notes(&mapped)[0].0, "ClientAddressHidden");
    assert_eq!(backends(&only(mapped)), ["10.0.0.1 Active 1/16"]);
}

#[test]
fn spec_fields_become_policy() {
    let spec = json!({ "spec": {
        "sessionAffinity": "ClientIP", "sessionAffinityConfig": { "clientIP": { "timeoutSeconds": 10800 } },
        "loadBalancerSourceRanges": ["10.0.0.0/8", " 192.0.2.9/24 ", "2001:db8::1/32"] } });
    let service = only(map(&[service(spec), slice("web-1", ready("n1", 1))])).service;
    assert_eq!(service.affinity, Affinity::ClientIp);
    let allow: Vec<String> = service.source_ranges.allow.iter().map(|(a, l)| format!("{a}/{l}")).collect();
    assert_eq!(allow, ["10.0.0.0/8", "192.0.2.0/24", "2001:db8::/32"], "host bits mean the network");
}

#[test]
fn families_and_protocols_are_services_of_their_own() {
    let spec = json!({
        "spec": { "ipFamilies": ["IPv4", "IPv6"], "ipFamilyPolicy": "RequireDualStack", "ports": [
            { "name": "sip", "protocol": "UDP", "port": 5060 }, { "name": "sip-tcp", "port": 5060 } ] },
        "status": { "loadBalancer": { "ingress": [{ "ip": "203.0.113.10" }, { "ip": "2001:db8::10" }, { "hostname": "x" }] } },
    });
    let ports = json!({ "ports": [{ "name": "sip", "protocol": "UDP", "port": 5060 }, { "name": "sip-tcp", "port": 5060 }] });
    let (mut v4, mut v6) = (slice("web-1", ready("n1", 1)), slice("web-2", ready("n2", 1)));
    lay(&mut v4, ports.clone());
    lay(&mut v6, ports);
    lay(&mut v6, json!({ "addressType": "IPv6" }));
    let mut fqdn = slice("web-3", ready("n3", 1));
    lay(&mut fqdn, json!({ "addressType": "FQDN" }));
    let mapped = map(&[service(spec), v4, v6, fqdn]);
    let shown: Vec<String> = mapped
        .services
        .iter()
        .map(|i| {
            format!("{} {:?} {} {:?}", i.service.name, i.service.protocol, i.service.vips[0], backends(i))
        })
        .collect();
    assert_eq!(
        shown,
        [
            r#"default/web/sip Udp 203.0.113.10 ["10.0.0.1 Active 1/16"]"#,
            r#"default/web/sip/v6 Udp 2001:db8::10 ["10.0.0.2 Active 1/16"]"#,
            r#"default/web/sip-tcp Tcp 203.0.113.10 ["10.0.0.1 Active 1/16"]"#,
            r#"default/web/sip-tcp/v6 Tcp 2001:db8::10 ["10.0.0.2 Active 1/16"]"#,
        ]
    );
    assert!(beside(&file(), &mapped.services).refused.is_empty());
}

/// A named port may lie on different pod ports in different slices.
#[test]
fn ports_are_found_by_name() {
    let mut other = slice("web-2", ready("n2", 1));
    lay(&mut other, json!({ "ports": [{ "name": "https", "port": 9443 }] }));
    let mut foreign = slice("web-3", ready("n3", 1));
    lay(&mut foreign, json!({ "ports": [{ "name": "metrics", "port": 443 }] }));
    let imported = only(map(&[service(json!({})), slice("web-1", ready("n1", 1)), other, foreign]));
    assert_eq!(backends(&imported), ["10.0.0.1 Active 1/16", "10.0.0.2 Active 1/16"]);

    let single = json!({ "spec": { "ports": [{ "port": 443 }] } });
    let mut unnamed = slice("web-1", ready("n1", 1));
    lay(&mut unnamed, json!({ "ports": [{ "name": "", "protocol": "TCP", "port": 8443 }] }));
    let imported = only(map(&[service(single), unnamed]));
    assert_eq!(imported.service.name, "default/web");
    assert_eq!(backends(&imported), ["10.0.0.1 Active 1/16"]);
}

#[test]
fn two_services_share_an_address() {
    let ports = json!({ "metadata": { "name": "dns" }, "spec": { "ports": [{ "name": "dns", "protocol": "UDP", "port": 53 }] } });
    let mapped = map(&[service(json!({})), service(ports)]);
    let joined = beside(&file(), &mapped.services);
    assert!(joined.refused.is_empty(), "{:?}", joined.refused);
    assert_eq!((joined.desired.vips.len(), joined.desired.services.len()), (1, 2));
}

#[test]
fn nodes_drain_by_label_and_annotation_never_by_cordon() {
    let endpoints = [ready("n1", 1), ready("n2", 1), ready("n3", 1)].concat();
    let mut cluster = cluster(Settings::default(), &[service(json!({})), slice("web-1", endpoints)]);
    for node in [
        node(
            1,
            json!({ "metadata": { "labels": { "node.kubernetes.io/exclude-from-external-load-balancers": "" } } }),
        ),
        node(2, json!({ "metadata": { "annotations": { "xdp-lb.io/drain": "true" } } })),
        node(
            3,
            json!({ "spec": { "unschedulable": true, "taints": [{ "key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule" }] } }),
        ),
    ] {
        let _ = give(&mut cluster, &node);
    }
    let states: Vec<String> = only(cluster.map(&file().inherited))
        .service
        .backends
        .iter()
        .map(|b| format!("{:?}", b.state))
        .collect();
    assert_eq!(states, ["Drain", "Drain", "Active"]);
}

#[test]
fn where_tunnels_to_a_node_end() {
    let rows = [
        (json!({}), "10.0.0.1"),
        (json!({ "metadata": { "annotations": { "xdp-lb.io/address": "10.9.0.1" } } }), "10.9.0.1"),
        (json!({ "status": { "addresses": [{ "type": "InternalIP", "address": "fd00::1" }] } }), "fd00::1"),
        (
            json!({ "status": { "addresses": [{ "type": "InternalIP", "address": "fd00::1" },
            { "type": "InternalIP", "address": "10.0.0.9" }] } }),
            "10.0.0.9",
        ),
    ];
    for (more, address) in rows {
        let imported = only(map(&[node(1, more), service(json!({})), slice("web-1", ready("n1", 1))]));
        assert_eq!(imported.service.backends[0].address.to_string(), address);
    }
}

#[test]
fn hints_are_followed_where_all_have_one() {
    let hinted = |node: &str, zone: &str| {
        let mut endpoint = ready(node, 1).remove(0);
        lay(&mut endpoint, json!({ "hints": { "forZones": [{ "name": zone }, { "name": "z" }] } }));
        endpoint
    };
    let shown = |zone: Option<&str>, endpoints: Vec<Value>| {
        let settings = Settings { hints_for: zone.map(str::to_owned), ..Settings::default() };
        let objects = [service(json!({})), slice("web-1", endpoints)];
        backends(&only(cluster(settings, &objects).map(&file().inherited)))
    };
    let both = || vec![hinted("n1", "a"), hinted("n2", "b")];
    assert_eq!(shown(Some("a"), both()), ["10.0.0.1 Active 1/16", "10.0.0.2 Active 0/16"]);
    assert_eq!(
        shown(Some("c"), both()),
        ["10.0.0.1 Active 1/16", "10.0.0.2 Active 1/16"],
        "nobody is hinted for c"
    );
    assert_eq!(shown(None, both()), ["10.0.0.1 Active 1/16", "10.0.0.2 Active 1/16"]);
    let mixed = [both(), ready("n3", 1)].concat();
    assert_eq!(shown(Some("a"), mixed).len(), 3);
    assert!(shown(Some("a"), [both(), ready("n3", 1)].concat())[1].ends_with("1/16"), "one has no hint");
}

#[test]
fn host_delivery_wants_equal_ports() {
    let host = json!({ "metadata": { "annotations": { "xdp-lb.io/delivery": "host" } } });
    let mapped = map(&[service(host.clone()), slice("web-1", ready("n1", 1))]);
    assert_eq!(notes(&mapped).iter().filter(|(reason, _)| *reason == "PortNotTranslated").count(), 1);
    assert!(only(mapped).service.backends.is_empty());
    let mut equal = slice("web-1", ready("n1", 1));
    lay(&mut equal, json!({ "ports": [{ "name": "https", "port": 443 }] }));
    let settings = Settings { delivery: Delivery::Host, ..Settings::default() };
    let imported = only(cluster(settings, &[service(json!({})), equal]).map(&file().inherited));
    assert_eq!(backends(&imported), ["10.0.0.1 Active 1/16"]);
}

#[test]
fn annotations_say_what_kubernetes_cannot() {
    let annotations = json!({ "metadata": { "annotations": {
        "example.com/other": "whatever", "xdp-lb.io/delivery": "host", "xdp-lb.io/ports": "https=20000-24999 30000",
        "xdp-lb.io/affinity": "dest-port", "xdp-lb.io/slices": "n1=20000-22499, n2=22500-24999 30000",
        "xdp-lb.io/drain-mode": "shed", "xdp-lb.io/drain-time": "10m", "xdp-lb.io/flow-timeout": "90s",
        "xdp-lb.io/health-check": "{ kind: tcp, port: 20000, interval: 5s }", "xdp-lb.io/advertise": "{ min_healthy: 2 }", "xdp-lb.io/dscp": "46",
        "xdp-lb.io/deny-source-ranges": "192.0.2.0/24, 198.51.100.7/24",
    } }, "spec": { "sessionAffinity": "ClientIP" } });
    let endpoints = [ready("n1", 1), ready("n2", 1)].concat();
    let mapped = map(&[service(annotations), slice("web-1", endpoints)]);
    let warnings = notes(&mapped);
    assert!(warnings.iter().all(|(reason, _)| *reason == "SeldomMeant"), "{warnings:?}");
    let imported = only(mapped);
    let service = imported.service;
    assert_eq!(service.ports, Ports::Ranges(vec![20000..=24999, 30000..=30000]));
    assert_eq!(service.affinity, Affinity::DestPort, "an annotation says more than the field can");
    assert_eq!(service.backends[1].slice, [22500..=24999, 30000..=30000]);
    assert_eq!((service.drain.max.as_secs(), service.flow_timeout.as_secs()), (600, 90));
    assert_eq!(service.health.unwrap().interval.as_secs(), 5);
    assert_eq!(format!("{:?}", service.encap.dscp), "Set(46)");
    assert_eq!(service.source_ranges.deny.len(), 2);
}

/// QUIC by connection ids: a node's id is its own, and a node without one gets nothing, which is said.
#[test]
fn server_ids_and_zones() {
    let annotations = json!({ "xdp-lb.io/affinity": "quic-cid", "xdp-lb.io/server-ids": "n1=0a01, n2=0a02" });
    let quic = service(
        json!({ "metadata": { "annotations": annotations }, "spec": { "ports": [{ "name": "https", "protocol": "UDP", "port": 443 }] } }),
    );
    let endpoints = [ready("n1", 1), ready("n2", 1), ready("n3", 1)].concat();
    let mut slice = slice("web-1", endpoints);
    slice["ports"] = json!([{ "name": "https", "protocol": "UDP", "port": 443 }]);
    let mapped = map(&[quic, slice]);
    let said: Vec<&str> = notes(&mapped).into_iter().map(|(reason, _)| reason).collect();
    assert!(said.contains(&"NoServerId"), "{:?}", mapped.notes);
    let imported = only(mapped);
    let id = |last| crate::model::ServerIdBytes::new(&[0x0a, last]);
    let ids: Vec<_> =
        imported.service.backends.iter().map(|b| (b.address.to_string(), b.server_id)).collect();
    assert_eq!(ids, [("10.0.0.1".to_owned(), id(1)), ("10.0.0.2".to_owned(), id(2))]);

    let zoned = service(
        json!({ "metadata": { "annotations": { "xdp-lb.io/zone-policy": "{ prefer: local, spill_below: 40% }" } } }),
    );
    let mut cluster = cluster(Settings::default(), &[zoned, super::objects::slice("web-1", ready("n1", 1))]);
    let mut inherited = file().inherited;
    assert!(cluster.map(&inherited).services.is_empty(), "an edge node of no zone cannot prefer its own");
    inherited.zone = Some("a".to_owned());
    let imported = only(cluster.map(&inherited));
    assert!(imported.service.zone_policy.is_some());
}
