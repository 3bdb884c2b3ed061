//! The definitions in `deploy`, and what of an object the schema does not see.

use std::path::Path;

use serde_json::json;

use super::{BgpPeer, EdgeConfig, VipPool, all, texts};
use crate::config::{self, Document};
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

/// A section can be moved between a file and a resource as it is: one has the keys that the other has.
#[test]
fn schemas_have_the_keys_of_files() {
    let schema = |plural: &str| {
        let crd = all().into_iter().find(|crd| crd.spec.names.plural == plural).unwrap();
        serde_json::to_value(&crd.spec.versions[0].schema).unwrap()["openAPIV3Schema"]["properties"]["spec"]
            .clone()
    };
    let compare = |schema: &serde_json::Value, path: &str, except: &[&str], more: &[&str]| {
        let properties = schema["properties"].as_object().unwrap_or_else(|| panic!("{path}: {schema:#}"));
        let mut ours: Vec<&str> =
            properties.keys().map(String::as_str).filter(|key| !more.contains(key)).collect();
        let mut files: Vec<&str> =
            config::keys_of(path).into_iter().filter(|key| !except.contains(key)).collect();
        ours.sort_unstable();
        files.sort_unstable();
        assert_eq!(ours, files, "{path}");
    };
    let edge = schema("edgeconfigs");
    let of_one_node = ["version", "node", "interfaces", "metrics", "log", "decap", "admin", "kubernetes"];
    compare(&edge, "", &of_one_node, &["nodeSelector"]);
    let sections = &edge["properties"];
    for path in ["encap", "maglev", "flow_table", "limits", "peers"] {
        compare(&sections[path], path, &[], &[]);
    }
    compare(&sections["encap"]["properties"]["gue"], "encap.gue", &[], &[]);
    compare(&sections["bgp"], "bgp", &["peers"], &[]);
    compare(&sections["bgp"]["properties"]["drain"], "bgp.drain", &[], &[]);
    compare(&sections["bgp"]["properties"]["aggregates"]["items"], "bgp.aggregates[]", &[], &[]);
    compare(&sections["vips"]["items"], "vips[]", &[], &[]);
    compare(&sections["vips"]["items"]["properties"]["bgp"], "vips[].bgp", &[], &[]);
    let service = &sections["services"]["items"];
    compare(service, "services[]", &[], &[]);
    let keys = &service["properties"];
    for key in ["encap", "quic_cid", "source_ranges", "drain", "zone_policy", "health_check", "advertise"] {
        compare(&keys[key], &format!("services[].{key}"), &[], &[]);
    }
    compare(&keys["encap"]["properties"]["gue"], "services[].encap.gue", &[], &[]);
    compare(&keys["advertise"]["properties"]["when"], "services[].advertise.when", &[], &[]);
    compare(&keys["backends"]["items"], "services[].backends[]", &[], &[]);
    let peer = schema("bgppeers");
    compare(
        &peer,
        "bgp.peers[]",
        &["password_file", "password_secret"],
        &["nodeSelector", "passwordSecretRef"],
    );
    compare(&peer["properties"]["bfd"], "bgp.peers[].bfd", &[], &[]);
    compare(&peer["properties"]["passwordSecretRef"], "bgp.peers[].password_secret", &[], &[]);
}

/// What becomes of a node's file with these beside it.
fn joined(file: &str, documents: &[Document]) -> Result<crate::model::Desired, Vec<String>> {
    let checked = config::parse_with(&[("edge.yaml".to_owned(), file.to_owned())], documents);
    checked.map(|checked| checked.desired).map_err(|all| all.iter().map(ToString::to_string).collect())
}

const FILE: &str = "version: 1\nnode: { name: n1 }\ninterfaces: [{ name: eth0 }]\nkubernetes: {}\n";

fn edge(name: &str, spec: serde_json::Value) -> Document {
    let object = json!({ "apiVersion": "xdp-lb.io/v1alpha1", "kind": "EdgeConfig", "metadata": { "name": name }, "spec": spec });
    serde_json::from_value::<EdgeConfig>(object).unwrap().document()
}

fn peer(name: &str, spec: serde_json::Value) -> Document {
    let object = json!({ "apiVersion": "xdp-lb.io/v1alpha1", "kind": "BgpPeer", "metadata": { "name": name }, "spec": spec });
    serde_json::from_value::<BgpPeer>(object).unwrap().document()
}

#[test]
fn resources_are_what_the_file_would_say() {
    let documents = [
        edge(
            "all",
            json!({ "nodeSelector": {}, "encap": { "source_v4": "172.16.0.0/16", "dscp": 46, "gue": { "variant": 1 } },
            "maglev": { "seed": "0xfedcba9876543210", "table_size": 4093 } }),
        ),
        edge(
            "bgp",
            json!({ "bgp": { "local_as": 4_200_000_001_u32, "router_id": "10.0.0.11", "drain": { "med": "keep" } },
            "vips": [{ "address": "203.0.113.10", "unmatched": "pass" }] }),
        ),
        peer("b", json!({ "address": "fd00::1", "remote_as": 65001, "next_hop_v4": "10.0.0.11" })),
        peer(
            "a",
            json!({ "nodeSelector": { "matchLabels": { "rack": "1" } }, "address": "10.0.0.1", "remote_as": 65001,
            "hold_time": "3s", "bfd": { "interval": "100ms" }, "passwordSecretRef": { "name": "leaf" } }),
        ),
    ];
    let file = format!(
        "{FILE}encap: {{ source_v4: 172.16.0.0/16, dscp: 46, gue: {{ variant: 1 }} }}\nmaglev: {{ seed: 0xfedcba9876543210, table_size: 4093 }}\n\
         vips: [{{ address: 203.0.113.10, unmatched: pass }}]\nbgp: {{ local_as: 4200000001, router_id: 10.0.0.11, drain: {{ med: keep }}, peers: [\
         {{ address: 10.0.0.1, remote_as: 65001, hold_time: 3s, bfd: {{ interval: 100ms }}, password_secret: {{ name: leaf, key: password }} }},\
         {{ address: \"fd00::1\", remote_as: 65001, next_hop_v4: 10.0.0.11 }}] }}\n"
    );
    assert_eq!(joined(FILE, &documents), Ok(config::parse(&file).unwrap().desired));
}

#[test]
fn routers_of_file_and_resources_come_together() {
    let file = format!(
        "{FILE}bgp: {{ local_as: 65010, router_id: 10.0.0.11, peers: [{{ address: 10.0.0.1, remote_as: 65001 }}] }}\n"
    );
    let other = peer("b", json!({ "address": "10.0.0.2", "remote_as": 65001 }));
    let bgp = joined(&file, &[other]).unwrap().bgp.unwrap();
    assert_eq!(bgp.peers.len(), 2);
    let same = peer("b", json!({ "address": "10.0.0.1", "remote_as": 65001 }));
    let said = joined(&file, std::slice::from_ref(&same)).unwrap_err();
    assert_eq!(
        said,
        [
            "BgpPeer b: spec.address: 10.0.0.1 is listed twice, first as bgp.peers[0].address in edge.yaml, line 5"
        ]
    );
    let said = joined(FILE, std::slice::from_ref(&same)).unwrap_err();
    assert!(said.len() == 1 && said[0].starts_with("BgpPeer b: spec: needs a `bgp`"), "{said:?}");
    // Nobody has said whom to tell yet.
    let nobody = format!("{FILE}bgp: {{ local_as: 65010, router_id: 10.0.0.11 }}\n");
    assert!(joined(&nobody, &[]).unwrap().bgp.unwrap().peers.is_empty());
    assert_eq!(joined(&nobody, &[same]).unwrap().bgp.unwrap().peers.len(), 1);
    let without = nobody.replace("kubernetes: {}\n", "services: []\n");
    assert!(joined(&without, &[]).unwrap_err()[0].contains("bgp.peers: missing"));
}

#[test]
fn what_stands_twice_is_told_with_both_places() {
    let file = format!("{FILE}encap: {{ source_v4: 172.16.0.0/16 }}\nvips: [{{ address: 203.0.113.10 }}]\n");
    let documents = [
        edge("a", json!({ "encap": { "dscp": 46 }, "maglev": { "seed": 7 } })),
        edge(
            "b",
            json!({ "maglev": { "seed": 7 }, "vips": [{ "address": "203.0.113.11" }, { "address": "203.0.113.10" }] }),
        ),
    ];
    let wanted = [
        "EdgeConfig a: spec.encap: stands elsewhere, too (encap in edge.yaml, line 5); one place alone may have it",
        "EdgeConfig b: spec.maglev: stands elsewhere, too (EdgeConfig a: spec.maglev); one place alone may have it",
        "EdgeConfig b: spec.vips[1].address: 203.0.113.10 is listed twice, first as vips[0].address in edge.yaml, line 6",
    ];
    assert_eq!(joined(&file, &documents).unwrap_err(), wanted);
}

fn service(name: &str, vip: &str) -> serde_json::Value {
    json!({ "name": name, "vip": vip, "protocol": "tcp", "ports": 80, "backends": [{ "address": "10.1.2.11" }] })
}

/// Every form that a value may have.
#[test]
fn services_are_what_the_file_would_say() {
    let yaml = "services:
  - { name: web, vip: [203.0.113.10, \"2001:db8::10\"], protocol: tcp, ports: [80, \"443\", \"8000-8010\"], tracking: sampled,
      flow_timeout: 1h5m, table_size: 997, drain: { mode: shed, max: 10m }, encap: { dscp: 46, mtu: 1400, gue: { port: 6081 } },
      health_check: { kind: http, port: 8080, path: /up, expect: 200, interval: 1s, timeout: 500ms }, on_all_down: drop,
      source_ranges: { allow: [198.51.100.0/24], deny: [\"2001:db8::/32\"] }, advertise: { when: { min_healthy: 2 } },
      zone_policy: { prefer: local, spill_below: 30% }, slow_start: 1m, new_flow_limit: 7,
      backends: [{ address: 10.1.2.11, weight: 50, zone: a, share: 0.5 }, { address: 10.1.2.12, share: \"10%\", backup: true, state: drain }] }
  - { name: media, vip: 203.0.113.11, protocol: udp, ports: \"20000-20999\", affinity: dest-port, fragments: drop,
      backends: [{ address: 10.1.2.11, ports: [\"20000-20499\", \"20500-20999\"] }] }
  - { name: quic, vip: 203.0.113.12, protocol: udp, ports: all, affinity: quic-cid, quic_cid: { config_ids: [0, 1], nonce: 8, length_encoded: true },
      health_check: { kind: udp, payload: \"0x00ff\", expect: pong, port: 7 }, advertise: { when: always },
      backends: [{ address: 10.1.2.11, server_id: \"0a01\" }] }
";
    let file = FILE.replace("name: n1", "name: n1, zone: a") + "encap: { source_v4: 172.16.0.0/16 }\n";
    let sections: serde_json::Value = serde_yaml::from_str(yaml).unwrap();
    let whole = config::parse(&format!("{file}{yaml}")).unwrap().desired;
    assert_eq!(whole.services.len(), 3);
    assert_eq!(joined(&file, &[edge("all", sections.clone())]), Ok(whole.clone()));
    // One in the file, one each in two resources.
    let one = |n: usize| json!({ "services": [sections["services"][n]] });
    let first = serde_json::to_string(&one(0)["services"]).unwrap();
    let some = format!("{file}services: {first}\n");
    assert_eq!(joined(&some, &[edge("a", one(1)), edge("b", one(2))]), Ok(whole));
}

/// Services of the file and of all resources are judged together.
#[test]
fn a_service_that_stands_twice_is_told_with_both_places() {
    let file = format!(
        "{FILE}encap: {{ source_v4: 172.16.0.0/16 }}\nservices: [{}]\n",
        serde_json::to_string(&service("web", "203.0.113.10")).unwrap()
    );
    let documents = [
        edge("a", json!({ "services": [service("dns", "203.0.113.53"), service("shop", "203.0.113.10")] })),
        edge(
            "b",
            json!({ "services": [service("web", "203.0.113.11"), service("mail", "203.0.113.53"), service("self", "10.1.2.11")] }),
        ),
    ];
    let wanted = [
        "edge.yaml, line 6, column 36: services[0].backends[0].address: 10.1.2.11 is also a VIP (EdgeConfig b: spec.services[2].vip); give the backend's own address",
        "EdgeConfig a: spec.services[1].ports: overlaps services[0].ports in edge.yaml, line 6 (service \"web\"): both want TCP port 80 of 203.0.113.10; give it to one of them",
        "EdgeConfig b: spec.services[0].name: \"web\" is the name of another service too (services[0].name in edge.yaml, line 6); rename one",
        "EdgeConfig b: spec.services[1].ports: overlaps EdgeConfig a: spec.services[0].ports (service \"dns\"): both want TCP port 80 of 203.0.113.53; give it to one of them",
    ];
    let said = joined(&file, &documents).unwrap_err();
    for wanted in wanted {
        assert!(said.iter().any(|said| said == wanted), "{wanted}\n{said:#?}");
    }
}

/// Each node of one list leaves itself out.
#[test]
fn one_list_of_peers_serves_all_nodes() {
    let nodes = ["10.0.0.11", "10.0.0.12", "[fd00::13]:9412"];
    let listening = |listen: &str| {
        let peers = json!({ "listen": listen, "key_file": "/etc/xdp-lb/peers.key", "nodes": nodes });
        let peers = joined(FILE, &[edge("all", json!({ "peers": peers }))]).unwrap().peers.unwrap();
        peers.nodes.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(listening("10.0.0.11:9411"), ["10.0.0.12:9411", "[fd00::13]:9412"]);
    assert_eq!(listening("10.0.0.12:9411"), ["10.0.0.11:9411", "[fd00::13]:9412"]);
    assert_eq!(listening("[fd00::13]:9412"), ["10.0.0.11:9412", "10.0.0.12:9412"]);
    let peers =
        json!({ "listen": "10.0.0.11:9411", "key_file": "/k", "nodes": ["10.0.0.12", "10.0.0.12:9411"] });
    let said = joined(FILE, &[edge("all", json!({ "peers": peers }))]).unwrap_err();
    assert_eq!(
        said,
        ["EdgeConfig all: spec.peers.nodes[1]: 10.0.0.12:9411 is listed twice, first as spec.peers.nodes[0]"]
    );
    let file = format!("{FILE}peers: {{ listen: \"10.0.0.11:9411\", key_file: /k, nodes: [10.0.0.12] }}\n");
    let said = joined(
        &file,
        &[edge(
            "all",
            json!({ "peers": { "listen": "10.0.0.11:9411", "key_file": "/k", "nodes": ["10.0.0.12"] } }),
        )],
    );
    assert_eq!(
        said.unwrap_err(),
        [
            "EdgeConfig all: spec.peers: stands elsewhere, too (peers in edge.yaml, line 5); one place alone may have it"
        ]
    );
}

#[test]
fn a_mistake_is_told_with_its_place() {
    let documents = [
        edge(
            "a",
            json!({ "encap": { "dscp": 64, "colour": "blue" }, "bgp": { "local_as": 65010, "router_id": "10.0.0.11" } }),
        ),
        edge("b", json!({ "interfaces": [{ "name": "eth1" }] })),
        peer(
            "c",
            json!({ "address": "10.0.0.1", "remote_as": 65001, "hold_time": "1s", "passwordSecretRef": { "name": "-" } }),
        ),
    ];
    let said = joined(FILE, &documents).unwrap_err();
    let starts = [
        "EdgeConfig a: spec.encap.colour: unknown key",
        "EdgeConfig a: spec.encap.dscp: must be copy or 0..=63, is 64",
        "EdgeConfig b: spec.interfaces: belongs into the files",
        "BgpPeer c: spec.hold_time: must be",
        "BgpPeer c: spec.passwordSecretRef.name: must be the name of a Secret",
    ];
    assert!(
        said.len() == starts.len() && said.iter().zip(starts).all(|(a, b)| a.starts_with(b)),
        "{said:#?}"
    );
}

#[test]
fn a_password_in_a_secret_is_for_a_cluster_and_the_only_one() {
    let bgp = |password: &str| {
        format!(
            "bgp: {{ local_as: 65010, router_id: 10.0.0.11, peers: [{{ address: 10.0.0.1, remote_as: 65001, {password} }}] }}\n"
        )
    };
    let both = bgp("password_file: /k, password_secret: { name: leaf }");
    let said = joined(&format!("{FILE}{both}"), &[]).unwrap_err();
    assert!(
        said.len() == 1 && said[0].contains("password_secret: is given beside password_file"),
        "{said:?}"
    );
    let alone = FILE.replace("kubernetes: {}", "services: []") + &bgp("password_secret: { name: leaf }");
    let said = joined(&alone, &[]).unwrap_err();
    assert!(said.len() == 1 && said[0].contains("needs `kubernetes`"), "{said:?}");
}
