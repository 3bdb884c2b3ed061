//! What an edge node tells a real API server, under the agent's role.

use std::sync::Arc;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{DeleteParams, ListParams};
use kube::{Api, ResourceExt as _};
use serde_json::json;
use tokio::sync::watch;

use super::live::{BOUND, clients, put};
use crate::bgp::status::{Status, VipStatus};
use crate::kube::crd::{EdgeNode, all};
use crate::kube::io::{Sources, Teller};
use crate::kube::tests::objects::node;
use crate::kube::{Key, Note, Severity, Subject};
use crate::metrics::Condition;

/// Waits until the object is as `look` wants it.
async fn until(nodes: &Api<EdgeNode>, name: &str, look: impl Fn(&EdgeNode) -> bool) -> EdgeNode {
    let wait = async {
        loop {
            match nodes.get_opt(name).await {
                Ok(Some(found)) if look(&found) => return found,
                _ => tokio::time::sleep(std::time::Duration::from_millis(20)).await,
            }
        }
    };
    match tokio::time::timeout(BOUND, wait).await {
        Ok(found) => found,
        Err(_) => panic!("never: {:#?}", nodes.get_opt(name).await),
    }
}

fn ready(node: &EdgeNode) -> String {
    let conditions = node.status.iter().flat_map(|status| &status.conditions);
    conditions.map(|c| format!("{} {} {}", c.type_, c.status, c.message)).collect::<Vec<_>>().join(", ")
}

#[tokio::test]
async fn an_edge_node_tells_how_it_is() {
    let Some((admin, agent)) = clients().await else { return };
    let definitions = Api::<CustomResourceDefinition>::all(admin.clone());
    for crd in all() {
        put(&definitions, &serde_json::to_value(&crd).unwrap()).await;
    }
    let name = format!("xdp-lb-told-{}", std::process::id());
    let nodes = Api::<core::Node>::all(admin.clone());
    put(&nodes, &node(9, json!({ "metadata": { "name": name } }))).await;
    let uid = nodes.get(&name).await.unwrap().uid().unwrap();

    let (bgp, condition, notes) = (
        watch::Sender::new(None),
        watch::Sender::new(Condition::default()),
        watch::Sender::new(Arc::default()),
    );
    let sources =
        Sources { bgp: bgp.subscribe(), condition: condition.subscribe(), notes: notes.subscribe() };
    let teller = Teller::start(&agent, &name, Some("a"), sources);
    let edges = Api::<EdgeNode>::all(admin);
    let first = until(&edges, &name, |node| node.status.is_some()).await;
    assert_eq!(ready(&first), "Ready False starting: the tables are being filled, Configured True ");
    let owner = &first.owner_references()[0];
    assert_eq!((owner.kind.as_str(), owner.name.as_str(), owner.uid.as_str()), ("Node", &*name, &*uid));
    let status = first.status.unwrap();
    assert_eq!((status.zone.as_deref(), status.bgp), (Some("a"), None));

    condition.send_modify(|c| c.started = true);
    let vip = VipStatus {
        address: "203.0.113.8".parse().unwrap(),
        state: "announced".to_owned(),
        since: 0,
        reason: "fine".to_owned(),
    };
    bgp.send_replace(Some(Arc::new(Status { vips: vec![vip], ..Status::default() })));
    let note = Note {
        severity: Severity::Warning,
        reason: "NoNode",
        message: "two endpoints are on no node".to_owned(),
    };
    notes.send_replace(Arc::new([(Subject::Service(Key::new("default", "web")), note)].into()));
    let told = until(&edges, &name, |node| {
        let status = node.status.as_ref();
        ready(node).starts_with("Ready True")
            && status.is_some_and(|s| s.remarked == 1 && s.bgp.as_ref().is_some_and(|bgp| bgp.withdrawn == 1))
    });
    let status = told.await.status.unwrap();
    assert_eq!(status.remarks[0].name, "default/web");
    assert_eq!(status.bgp.unwrap().without[0].reason, "no BGP session is established");

    // Who deletes it gets it back with the next news; what was refused is told.
    edges.delete(&name, &DeleteParams::default()).await.unwrap();
    condition.send_modify(|c| c.refused = Some("edge.yaml: line 3".to_owned()));
    until(&edges, &name, |node| ready(node).ends_with("Configured False edge.yaml: line 3")).await;

    teller.end().await.unwrap();
    let last = edges.get(&name).await.unwrap();
    assert!(ready(&last).starts_with("Ready False the agent has ended"), "{}", ready(&last));
    assert!(
        edges.list(&ListParams::default()).await.unwrap().items.iter().any(|edge| edge.name_any() == name)
    );
    edges.delete(&name, &DeleteParams::default()).await.unwrap();
    nodes.delete(&name, &DeleteParams::default()).await.unwrap();
}
