//! Objects, written as JSON.

use k8s_openapi::api::{core::v1 as core, discovery::v1 as discovery};
use serde_json::{Value, json};

use crate::config::import::Imported;
use crate::kube::{Cluster, Mapped, Settings, Subject};
use crate::model::{Backend, Desired};

/// The file of an edge node without services of its own.
pub fn file() -> Desired {
    let text = "
version: 1
interfaces: [{ name: eth0 }]
encap: { source_v4: 172.16.0.0/16, source_v6: 'fd00:7864:7000::/64' }
maglev: { table_size: 1021, seed: 1 }
services: []
";
    crate::config::parse(text).unwrap().desired
}

/// A Service of ours with the port https, TCP 443, and the address 203.0.113.10; `more` is laid over it.
pub fn service(more: Value) -> Value {
    let mut service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {
            "name": "web", "namespace": "default", "uid": "7ab8d6a6-1c0f-4d5b-9d4c-2a3f7c1f2a11",
            "resourceVersion": "4711", "creationTimestamp": "2026-03-01T10:00:00Z",
            "managedFields": [{ "manager": "kubectl", "operation": "Apply", "apiVersion": "v1", "fieldsType": "FieldsV1",
                "time": "2026-03-01T10:00:00Z", "fieldsV1": { "f:spec": {} } }],
        },
        "spec": {
            "type": "LoadBalancer", "loadBalancerClass": "xdp-lb.io/edge", "externalTrafficPolicy": "Local",
            "internalTrafficPolicy": "Cluster", "sessionAffinity": "None", "clusterIP": "10.96.3.7", "clusterIPs": ["10.96.3.7"],
            "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack", "healthCheckNodePort": 30123,
            "selector": { "app": "web" },
            "ports": [{ "name": "https", "protocol": "TCP", "port": 443, "targetPort": 8443, "nodePort": 30443 }],
        },
        "status": { "loadBalancer": { "ingress": [{ "ip": "203.0.113.10", "ipMode": "VIP" }] } },
    });
    lay(&mut service, more);
    service
}

/// An endpoint of the pod `address` on a node.
pub fn endpoint(address: &str, node: &str, conditions: Value) -> Value {
    json!({ "addresses": [address], "nodeName": node, "zone": "a", "conditions": conditions,
            "targetRef": { "kind": "Pod", "namespace": "default", "name": format!("web-{address}") } })
}

/// So many ready endpoints on a node.
pub fn ready(node: &str, count: usize) -> Vec<Value> {
    let condition = json!({ "ready": true, "serving": true, "terminating": false });
    (0..count).map(|n| endpoint(&format!("10.244.0.{n}"), node, condition.clone())).collect()
}

/// A slice of the Service web for https.
pub fn slice(name: &str, endpoints: Vec<Value>) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": { "name": name, "namespace": "default", "generateName": "web-",
            "labels": { "kubernetes.io/service-name": "web", "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io" } },
        "ports": [{ "name": "https", "protocol": "TCP", "port": 8443 }],
        "endpoints": endpoints,
    })
}

/// The node n1, n2, .. with the address 10.0.0.1, .. in zone a; `more` is laid over it.
pub fn node(number: u8, more: Value) -> Value {
    let mut node = json!({
        "apiVersion": "v1", "kind": "Node",
        "metadata": { "name": format!("n{number}"), "labels": { "kubernetes.io/os": "linux", "topology.kubernetes.io/zone": "a" } },
        "spec": { "podCIDR": "10.244.0.0/24" },
        "status": { "addresses": [
            { "type": "Hostname", "address": format!("n{number}") }, { "type": "InternalIP", "address": format!("10.0.0.{number}") },
            { "type": "ExternalIP", "address": "198.51.100.1" } ] },
    });
    lay(&mut node, more);
    node
}

/// Lays mappings over mappings; everything else replaces.
pub fn lay(under: &mut Value, over: Value) {
    match (under, over) {
        (Value::Object(under), Value::Object(over)) => {
            for (key, value) in over {
                lay(under.entry(key).or_insert(Value::Null), value);
            }
        }
        (under, over) => *under = over,
    }
}

/// Gives a cluster an object.
pub fn give(cluster: &mut Cluster, object: &Value) -> crate::kube::Change {
    let kind = object["kind"].as_str().unwrap();
    let object = object.clone();
    match kind {
        "Service" => cluster.service(&serde_json::from_value::<core::Service>(object).unwrap()),
        "Node" => cluster.node(&serde_json::from_value::<core::Node>(object).unwrap()),
        _ => cluster.slice(&serde_json::from_value::<discovery::EndpointSlice>(object).unwrap()),
    }
}

/// A cluster of these objects and three nodes.
pub fn cluster(settings: Settings, objects: &[Value]) -> Cluster {
    let mut cluster = Cluster::new(settings);
    for number in 1..=3 {
        let _ = give(&mut cluster, &node(number, json!({})));
    }
    for object in objects {
        let _ = give(&mut cluster, object);
    }
    cluster
}

/// What these objects and three nodes ask for.
pub fn map(objects: &[Value]) -> Mapped {
    cluster(Settings::default(), objects).map(&file().inherited)
}

/// The only service.
pub fn only(mapped: Mapped) -> Imported {
    assert_eq!(mapped.services.len(), 1, "{:#?}", mapped.notes);
    mapped.services.into_iter().next().unwrap()
}

/// Backends as `10.0.0.1 Active 4/16`.
pub fn backends(imported: &Imported) -> Vec<String> {
    let show = |b: &Backend| format!("{} {:?} {}/16", b.address, b.state, f64::from(b.share.get()) / 4096.0);
    imported.service.backends.iter().map(show).collect()
}

/// What is said of Services: reason and message.
pub fn notes(mapped: &Mapped) -> Vec<(&'static str, String)> {
    let of_service = mapped.notes.iter().filter(|(subject, _)| matches!(subject, Subject::Service(_)));
    of_service.map(|(_, note)| (note.reason, note.message.clone())).collect()
}
