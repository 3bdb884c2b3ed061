//! A cluster on a lab: its Nodes are edge nodes and backends, its pods have servers, and its objects are what a Kubernetes
//! API server has of them.

use anyhow::Result;
use serde_json::{Value, json};

use super::files::{self, EdgeFile, WEB};
use super::plan::{self, Role};
use super::pods::Pod;
use super::tier::Node;
use super::topology::{Host, Lab};
use super::traffic::Server;

/// What a pod listens on: another port than the Service's.
pub const TARGET: u16 = WEB + 8000;

/// Where a pod is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// There, and not ready yet.
    Starts,
    /// Takes requests.
    Serves,
    /// Takes nothing new.
    Ends,
}

/// A pod, what answers in it, and its Node's name.
#[derive(Debug)]
pub struct Running {
    /// Its network.
    pub pod: Pod,
    _server: Server,
    /// Its Node's name.
    pub node: String,
    /// Where it is in its life.
    pub life: Life,
}

impl Running {
    /// Starts pod `k` of the network `net` on a host.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn start(lab: &Lab, host: &Host, net: u8, k: u8, life: Life) -> Result<Self> {
        let pod = Pod::start_on(lab, host, net, k)?;
        let at = files::at(WEB).map(|vip| pod.at(vip.ip(), TARGET));
        let server = Server::start(&pod.ns, &pod.name, &at)?;
        Ok(Self { pod, _server: server, node: host.role.name(), life })
    }
}

/// A Service of our class with the port [`WEB`] at another port of its pods, without an address.
#[must_use]
pub fn service(name: &str, delivery: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": "Service",
        "metadata": { "name": name, "namespace": "default", "annotations": { "xdp-lb.io/delivery": delivery } },
        "spec": { "type": "LoadBalancer", "loadBalancerClass": "xdp-lb.io/edge", "externalTrafficPolicy": "Local",
            "ports": [{ "name": "http", "protocol": "TCP", "port": WEB, "targetPort": TARGET }] } })
}

/// A Node of the host's name and addresses; an edge node says where its tunnels come from.
#[must_use]
pub fn node(role: Role) -> Value {
    let (labels, annotations) = match role {
        Role::Edge(n) => {
            let sources = plan::tunnel_sources(n).map(|(ip, length)| format!("{ip}/{length}")).join(",");
            (json!({ "xdp-lb.io/edge": "true" }), json!({ "xdp-lb.io/sources": sources }))
        }
        _ => (json!({}), json!({})),
    };
    let addresses = role.address().both().map(|ip| json!({ "type": "InternalIP", "address": ip }));
    json!({ "apiVersion": "v1", "kind": "Node",
        "metadata": { "name": role.name(), "labels": labels, "annotations": annotations },
        "status": { "addresses": addresses } })
}

/// The EndpointSlices of a Service with these pods, one of each family.
#[must_use]
pub fn slices<'a>(service: &str, pods: impl IntoIterator<Item = &'a Running> + Clone) -> [Value; 2] {
    [0, 1].map(|at| {
        let family = ["IPv4", "IPv6"][at];
        let endpoint = |Running { pod, node, life, .. }: &Running| {
            json!({ "addresses": [pod.address.both()[at]], "nodeName": node,
                "targetRef": { "kind": "Pod", "namespace": "default", "name": pod.name, "uid": pod.name },
                "conditions": { "ready": *life == Life::Serves, "serving": *life != Life::Starts, "terminating": *life == Life::Ends } })
        };
        json!({ "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": family,
            "metadata": { "name": format!("{service}-{}", family.to_lowercase()), "namespace": "default",
                "labels": { "kubernetes.io/service-name": service } },
            "ports": [{ "name": "http", "protocol": "TCP", "port": TARGET }],
            "endpoints": pods.clone().into_iter().map(endpoint).collect::<Vec<_>>() })
    })
}

/// The file of an edge node: everything but services.
#[must_use]
pub fn edge_file(n: u8) -> String {
    EdgeFile::new(0).text(n).split("services:").next().unwrap_or_default().to_owned()
}

/// The file of a node that takes tunnels off.
#[must_use]
pub fn decap_file(host: &Host) -> String {
    format!(
        "version: 1\nnode: {{ name: {} }}\ndecap: {{ interfaces: [{{ name: eth0, mode: native }}] }}\n",
        host.role.name()
    )
}

/// Whether a node leads to a pod, by both its addresses.
#[must_use]
pub fn knows(node: &Node<'_>, pod: &Pod) -> bool {
    let shown = node.command("status", &["pods"]).map(|said| said.stdout).unwrap_or_default();
    let lines = || shown.lines().filter(|line| line.contains(&TARGET.to_string()));
    pod.address
        .both()
        .iter()
        .all(|ip| lines().any(|line| line.split_whitespace().any(|word| word == ip.to_string())))
}
