//! What a real API server makes of the schemas of EdgeConfig and BgpPeer; and every example, also those in the documentation.

use std::path::Path;

use kube::api::{ApiResource, DynamicObject, Patch, PatchParams, ValidationDirective};
use kube::core::GroupVersionKind;
use kube::{Api, Client};
use serde_json::{Value, json};

use super::live::{clients, define};
use crate::config;
use crate::kube::crd::{BgpPeer, EdgeConfig, VipPool};

/// What strict validation says of an object, without making it.
async fn judge(admin: &Client, object: &Value) -> Result<(), String> {
    let params = PatchParams {
        dry_run: true,
        field_validation: Some(ValidationDirective::Strict),
        ..PatchParams::apply("test").force()
    };
    let kind = object["kind"].as_str().unwrap();
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("xdp-lb.io", "v1alpha1", kind));
    let name = object["metadata"]["name"].as_str().unwrap();
    let api = Api::<DynamicObject>::all_with(admin.clone(), &resource);
    match api.patch(name, &params, &Patch::Apply(object)).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) => Err(status.message),
        Err(other) => panic!("{name}: {other}"),
    }
}

fn object(kind: &str, spec: &Value) -> Value {
    json!({ "apiVersion": "xdp-lb.io/v1alpha1", "kind": kind, "metadata": { "name": "judged" }, "spec": spec })
}

/// A peer with something replaced.
fn peer(more: Value) -> Value {
    let mut spec = json!({ "address": "10.0.0.1", "remote_as": 65001 });
    spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    spec
}

fn bgp(more: Value) -> Value {
    let mut bgp = json!({ "local_as": 65010, "router_id": "10.0.0.11" });
    bgp.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!({ "bgp": bgp })
}

/// A service with something replaced, or taken away.
fn service(more: Value) -> Value {
    let service = json!({ "name": "web", "vip": "203.0.113.10", "protocol": "tcp", "ports": 80, "backends": [{ "address": "10.1.2.11" }] });
    json!({ "services": [with(service, &more)] })
}

fn sync(more: Value) -> Value {
    let peers = json!({ "listen": "${XDP_LB_NODE_IP}:9411", "key_file": "/etc/xdp-lb/peers.key", "nodes": ["10.0.0.11"] });
    json!({ "peers": with(peers, &more) })
}

fn with(mut object: Value, more: &Value) -> Value {
    let keys = object.as_object_mut().unwrap();
    for (key, value) in more.as_object().unwrap() {
        if value.is_null() {
            keys.remove(key);
        } else {
            keys.insert(key.clone(), value.clone());
        }
    }
    object
}

#[tokio::test]
async fn what_a_schema_sees_is_refused() {
    let Some((admin, _)) = clients().await else { return };
    define(&admin).await;
    let edge = [
        (json!({ "interfaces": [] }), "interfaces"),
        (json!({ "metrics": {} }), "metrics"),
        (service(json!({ "vip": null })), "spec.services[0].vip"),
        (service(json!({ "vip": "web.example" })), "spec.services[0].vip"),
        (service(json!({ "vip": ["203.0.113.10", "web"] })), "spec.services[0].vip[1]"),
        (service(json!({ "vip": [] })), "spec.services[0].vip"),
        (service(json!({ "protocol": "sctp" })), "tcp"),
        (service(json!({ "ports": 65_536 })), "65535"),
        (service(json!({ "ports": "http" })), "spec.services[0].ports"),
        (service(json!({ "ports": [80, "90-"] })), "spec.services[0].ports[1]"),
        (service(json!({ "ports": ["all"] })), "spec.services[0].ports[0]"),
        (service(json!({ "affinity": "quic-cid" })), "for protocol udp"),
        (service(json!({ "affinity": "ice-ufrag", "protocol": "udp" })), "each backend needs one"),
        (service(json!({ "backends": [{ "address": "10.1.2.11", "server_id": "0a" }] })), "server_id is for"),
        (service(json!({ "quic_cid": {} })), "without affinity quic-cid"),
        (service(json!({ "flow_timeout": "3h" })), "1s..=2h10m"),
        (service(json!({ "drain": { "max": "721h" } })), "1s..=720h"),
        (service(json!({ "encap": { "dscp": 64 } })), "63"),
        (service(json!({ "backends": null })), "spec.services[0].backends"),
        (service(json!({ "backends": [{ "weight": 1 }] })), "omits all key fields [\"address\"]"),
        (service(json!({ "backends": [{ "address": "127.0.0.1" }] })), "of one host"),
        (service(json!({ "backends": [{ "address": "10.1.2.11", "weight": 1001 }] })), "1000"),
        (service(json!({ "backends": [{ "address": "10.1.2.11", "share": 1.5 }] })), "share"),
        (service(json!({ "backends": [{ "address": "10.1.2.11", "share": "half" }] })), "share"),
        (
            service(json!({ "backends": [{ "address": "10.1.2.11" }, { "address": "10.1.2.11" }] })),
            "duplicate entries for key",
        ),
        (service(json!({ "source_ranges": { "allow": ["10.0.0.1"] } })), "source_ranges.allow[0]"),
        (service(json!({ "zone_policy": {} })), "prefer"),
        (service(json!({ "advertise": { "when": "never" } })), "advertise.when"),
        (service(json!({ "advertise": { "when": { "min_healthy": 0 } } })), "min_healthy"),
        (service(json!({ "health_check": {} })), "kind"),
        (service(json!({ "health_check": { "kind": "tcp", "timeout": "3s" } })), "longer than interval"),
        (service(json!({ "health_check": { "kind": "udp" } })), "which needs it"),
        (service(json!({ "health_check": { "kind": "tcp", "path": "/" } })), "path is for"),
        (service(json!({ "health_check": { "kind": "stun", "host": "a" } })), "host is for"),
        (service(json!({ "health_check": { "kind": "tcp", "expect": 200 } })), "expect is for"),
        (
            service(json!({ "health_check": { "kind": "udp", "payload": "a", "expect": 255 } })),
            "expect of kind udp is text",
        ),
        (
            json!({ "services": [service(json!({}))["services"][0], service(json!({}))["services"][0]] }),
            "duplicate entries for key",
        ),
        (sync(json!({ "listen": "10.0.0.11" })), "an address and a port"),
        (sync(json!({ "listen": "node-1:9411" })), "an address and a port"),
        (sync(json!({ "key_file": "peers.key" })), "key_file"),
        (sync(json!({ "nodes": ["10.0.0.12", "node-2"] })), "with or without a port"),
        (sync(json!({ "nodes": null })), "nodes"),
        (sync(json!({ "nodes": [] })), "nodes"),
        (json!({ "encap": { "dspc": 1 } }), "spec.encap.dspc"),
        (json!({ "encap": { "dscp": 64 } }), "63"),
        (json!({ "encap": { "dscp": "paste" } }), "spec.encap.dscp"),
        (json!({ "encap": { "mtu": 575 } }), "576"),
        (json!({ "encap": { "kind": "gre" } }), "ipip"),
        (json!({ "encap": { "gue": { "variant": 2 } } }), "variant"),
        (json!({ "encap": { "source_v4": "172.16.0.1/16" } }), "without bits set"),
        (json!({ "encap": { "source_v4": "fd00::/64" } }), "an IPv4 prefix"),
        (json!({ "encap": { "source_v4": "10.0.0.0/7" } }), "length 8"),
        (json!({ "encap": { "source_v6": "172.16.0.0/16" } }), "an IPv6 prefix"),
        (json!({ "maglev": { "table_size": 131_072 } }), "131071"),
        (json!({ "maglev": { "seed": "five" } }), "spec.maglev.seed"),
        (json!({ "maglev": { "seed": -1 } }), "spec.maglev.seed"),
        (json!({ "flow_table": { "entries": 1000 } }), "spec.flow_table.entries"),
        (json!({ "flow_table": { "track_window": "500ms" } }), "1s..=10m"),
        (json!({ "flow_table": { "track_window": "5" } }), "spec.flow_table.track_window"),
        (json!({ "limits": { "services": 0 } }), "spec.limits.services"),
        (json!({ "vips": [{ "unmatched": "pass" }] }), "spec.vips[0].address"),
        (json!({ "vips": [{ "address": "127.0.0.1" }] }), "of one host"),
        (json!({ "vips": [{ "address": "203.0.113.0/24" }] }), "of one host"),
        (json!({ "vips": [{ "address": "203.0.113.1", "bgp": { "prepend": 21 } }] }), "prepend"),
        (json!({ "bgp": { "local_as": 65010 } }), "router_id"),
        (bgp(json!({ "peers": [] })), "peers"),
        (bgp(json!({ "local_as": 23456 })), "reserved"),
        (bgp(json!({ "router_id": "fd00::1" })), "an IPv4 address"),
        (bgp(json!({ "restart_time": "1500ms" })), "spec.bgp.restart_time"),
        (bgp(json!({ "drain_time": "25h" })), "0s..=24h"),
        (bgp(json!({ "drain": { "med": "best" } })), "spec.bgp.drain.med"),
        (bgp(json!({ "communities": ["64500"] })), "spec.bgp.communities"),
        (bgp(json!({ "aggregates": [{ "prefix": "203.0.113.1/24" }] })), "without bits set"),
        (json!({ "nodeSelector": { "matchLabel": {} } }), "matchLabel"),
    ];
    let peers = [
        (json!({ "remote_as": 65001 }), "spec.address"),
        (json!({ "address": "10.0.0.1" }), "spec.remote_as"),
        (peer(json!({ "address": "router-1" })), "of one host"),
        (peer(json!({ "remote_as": 4_294_967_295_u32 })), "spec.remote_as"),
        (peer(json!({ "hold_time": "2s" })), "3s..=18h12m15s"),
        (peer(json!({ "hold_time": "1m", "send_hold_time": "1m" })), "RFC 9687"),
        (peer(json!({ "hold_time": "9m" })), "RFC 9687"),
        (peer(json!({ "source": "fd00::11" })), "of the family"),
        (peer(json!({ "next_hop_v6": "10.0.0.11" })), "an IPv6 address"),
        (peer(json!({ "families": [] })), "spec.families"),
        (peer(json!({ "families": ["ipx"] })), "ipv4"),
        (peer(json!({ "interface": "a/b" })), "spec.interface"),
        (peer(json!({ "bfd": { "interval": "5ms" } })), "10ms..=1m"),
        (peer(json!({ "password_file": "/etc/key" })), "password_file"),
        (peer(json!({ "passwordSecretRef": { "key": "leaf" } })), "spec.passwordSecretRef.name"),
        (peer(json!({ "passwordSecretRef": { "name": "Leaf" } })), "spec.passwordSecretRef.name"),
    ];
    let rows = edge.iter().map(|(spec, word)| ("EdgeConfig", spec, *word));
    let mut unsaid = Vec::new();
    for (kind, spec, word) in rows.chain(peers.iter().map(|(spec, word)| ("BgpPeer", spec, *word))) {
        match judge(&admin, &object(kind, spec)).await {
            Err(said) if said.contains(word) => {}
            other => unsaid.push((spec, word, other)),
        }
    }
    assert!(unsaid.is_empty(), "{unsaid:#?}");
    let good = [
        ("EdgeConfig", json!({})),
        (
            "EdgeConfig",
            service(json!({ "vip": ["203.0.113.10", "2001:db8::10"], "ports": [80, "443", "8000-8010"],
            "backends": [{ "address": "10.1.2.11", "share": 0.5 }, { "address": "fd00::2", "share": "10%", "backup": true }],
            "advertise": { "when": { "min_healthy": 2 } }, "zone_policy": { "prefer": "local", "spill_below": "30%" },
            "health_check": { "kind": "http", "expect": 200, "timeout": "2s", "host": "web.example" } })),
        ),
        (
            "EdgeConfig",
            service(
                json!({ "protocol": "udp", "ports": "all", "affinity": "quic-cid", "advertise": { "when": "always" },
            "quic_cid": { "config_ids": [0, 6] }, "backends": [{ "address": "10.1.2.11", "server_id": "0a01" }],
            "health_check": { "kind": "udp", "payload": "0x00ff", "expect": "200-399", "port": 7 } }),
            ),
        ),
        (
            "EdgeConfig",
            service(
                json!({ "ports": "20000-20999", "affinity": "dest-port", "backends": [{ "address": "10.1.2.11", "ports": ["20000-20999"] }] }),
            ),
        ),
        ("EdgeConfig", service(json!({ "backends": [] }))),
        (
            "EdgeConfig",
            sync(json!({ "nodes": ["10.0.0.11", "10.0.0.12:9411", "fd00::13", "[fd00::14]:9411"] })),
        ),
        ("EdgeConfig", sync(json!({ "listen": "[${XDP_LB_NODE_IP6}]:9411" }))),
        ("EdgeConfig", sync(json!({ "listen": "[fd00::11]:9411" }))),
        (
            "EdgeConfig",
            json!({ "encap": { "dscp": "copy", "mtu": 1500, "source_v6": "${XDP_LB_SOURCE}/64" } }),
        ),
        ("EdgeConfig", json!({ "encap": { "dscp": 46, "mtu": "auto" }, "maglev": { "seed": 7 } })),
        (
            "EdgeConfig",
            bgp(
                json!({ "drain": { "med": 7 }, "communities": ["no-export", "64500:1"], "restart_time": "1h8m15s" }),
            ),
        ),
        ("BgpPeer", peer(json!({ "hold_time": "0s", "source": "${XDP_LB_NODE_IP}", "families": ["ipv4"] }))),
        (
            "BgpPeer",
            peer(
                json!({ "passwordSecretRef": { "name": "leaf.1" }, "send_hold_time": "1h5m", "hold_time": "3m" }),
            ),
        ),
    ];
    for (kind, spec) in &good {
        judge(&admin, &object(kind, spec)).await.unwrap_or_else(|said| panic!("{spec}: {said}"));
    }
}

/// Every example, and those in the documentation.
#[tokio::test]
async fn examples_are_applied() {
    let Some((admin, _)) = clients().await else { return };
    define(&admin).await;
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let read = |path: &str| std::fs::read_to_string(root.join(path)).unwrap();
    let mut texts: Vec<String> =
        ["pools", "edge"].map(|name| read(&format!("examples/kubernetes/{name}.yaml"))).into();
    for page in ["controller", "resources"] {
        let docs = read(&format!("docs/{page}.md"));
        let blocks = docs.split("\n\n").filter(|block| block.contains("    apiVersion: xdp-lb.io/"));
        let before = texts.len();
        texts.extend(blocks.map(|block| {
            block.lines().map(|line| line.strip_prefix("    ").unwrap_or(line)).collect::<Vec<_>>().join("\n")
        }));
        assert!(texts.len() > before, "docs/{page}.md has none");
    }
    for text in texts.iter().flat_map(|text| text.split("\n---\n")) {
        let object: Value = serde_yaml::from_str(text).unwrap();
        read_by_us(&object, text);
        judge(&admin, &object).await.unwrap_or_else(|e| panic!("{text}: {e}"));
    }
}

/// It has no mistake by our own rules either.
fn read_by_us(object: &Value, text: &str) {
    let document = match object["kind"].as_str() {
        Some("VipPool") => {
            let pool: VipPool = serde_json::from_value(object.clone()).unwrap();
            return assert_eq!(pool.read().1, [""; 0], "{text}");
        }
        Some("EdgeConfig") => serde_json::from_value::<EdgeConfig>(object.clone()).unwrap().document(),
        Some("BgpPeer") => serde_json::from_value::<BgpPeer>(object.clone()).unwrap().document(),
        other => panic!("{other:?}"),
    };
    let document =
        config::Document { text: document.text.replace("${XDP_LB_NODE_IP}", "10.0.0.11"), ..document };
    let bgp = if document.kind == config::Kind::Peer {
        "bgp: { local_as: 65010, router_id: 10.0.0.11 }\n"
    } else {
        ""
    };
    let file = format!("version: 1\ninterfaces: [{{ name: eth0 }}]\nkubernetes: {{}}\n{bgp}");
    let checked = config::parse_with(&[("edge.yaml".to_owned(), file)], &[document]);
    assert!(checked.is_ok(), "{text}: {:#?}", checked.err());
}
