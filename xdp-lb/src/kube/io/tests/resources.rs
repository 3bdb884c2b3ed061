//! Resources for an edge node: from an API server that does not know them yet, and from a real one with the agent's own rights.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::{Request, Response};
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{DeleteParams, ListParams};
use kube::client::Body;
use kube::{Api, Client};
use serde_json::{Value, json};
use tower::service_fn;

use super::live::{clients, put};
use crate::bgp::io::Secrets;
use crate::config::Document;
use crate::kube::crd::{BgpPeer, EdgeConfig, all};
use crate::kube::io::{Feed, Keys, Pace};
use crate::kube::tests::objects::file;

const BOUND: Duration = Duration::from_secs(30);

fn resource(kind: &str, name: &str, spec: Value) -> Value {
    json!({ "apiVersion": "xdp-lb.io/v1alpha1", "kind": kind, "metadata": { "name": name }, "spec": spec })
}

/// Waits until these are for the node.
async fn until(feed: &mut Feed<Vec<Document>>, wanted: &[&str]) {
    let wait = async {
        loop {
            let told = feed.latest();
            if told.is_some_and(|all| all.iter().map(|one| one.name.as_str()).eq(wanted.iter().copied())) {
                return;
            }
            feed.changed().await.unwrap();
        }
    };
    let came = tokio::time::timeout(BOUND, wait).await;
    assert!(came.is_ok(), "{wanted:?} never came: {:?}", feed.latest());
}

/// One whole answer to a request; a watch ends with it.
fn answer(uri: &str, is_defined: bool) -> (u16, Vec<Value>) {
    let (kind, object) = match uri {
        _ if uri.contains("/nodes") => {
            ("Node", json!({ "metadata": { "name": "n1", "resourceVersion": "7" } }))
        }
        _ if !is_defined => {
            let status = json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": 404, "reason": "NotFound", "message": "no such kind" });
            return (404, vec![status]);
        }
        _ if uri.contains("/edgeconfigs") => {
            let mut config = resource("EdgeConfig", "all", json!({ "encap": { "dscp": 46 } }));
            config["metadata"]["resourceVersion"] = "7".into();
            ("EdgeConfig", config)
        }
        _ => {
            let mut peer = resource("BgpPeer", "leaf", json!({ "address": "10.0.0.1", "remote_as": 65001 }));
            peer["metadata"]["resourceVersion"] = "7".into();
            ("BgpPeer", peer)
        }
    };
    let api = if kind == "Node" { "v1" } else { "xdp-lb.io/v1alpha1" };
    let end = json!({ "type": "BOOKMARK", "object": { "kind": kind, "apiVersion": api, "spec": {}, "metadata": {
        "resourceVersion": "9", "annotations": { "k8s.io/initial-events-end": "true" } } } });
    (
        200,
        if uri.contains("sendInitialEvents") {
            vec![json!({ "type": "ADDED", "object": object }), end]
        } else {
            Vec::new()
        },
    )
}

#[tokio::test]
async fn kinds_that_nobody_has_defined_are_none_until_they_come() {
    let is_defined = Arc::new(AtomicBool::new(false));
    let known = Arc::clone(&is_defined);
    let serve = move |request: Request<Body>| {
        let uri = request.uri().to_string();
        let known = known.load(Ordering::SeqCst);
        async move {
            let (code, lines) = answer(&uri, known);
            let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
            let body = Full::new(Bytes::from(text));
            Ok::<_, std::convert::Infallible>(Response::builder().status(code).body(body).unwrap())
        }
    };
    let client = Client::new(service_fn(serve), "default");
    let ms = Duration::from_millis;
    let pace = Pace { quiet: ms(5), longest: ms(50), retry: ms(1), retry_limit: ms(20), ..Pace::default() };
    let mut feed = Feed::resources(&client, "n1", file().inherited, pace);
    until(&mut feed, &[]).await;
    is_defined.store(true, Ordering::SeqCst);
    until(&mut feed, &["EdgeConfig all", "BgpPeer leaf"]).await;
}

#[tokio::test]
async fn a_real_api_server_tells_what_is_for_a_node_and_lets_the_agent_read_one_secret() {
    let Some((admin, agent)) = clients().await else { return };
    let crds = Api::<CustomResourceDefinition>::all(admin.clone());
    for crd in all() {
        put(&crds, &serde_json::to_value(&crd).unwrap()).await;
    }
    let (configs, peers) = (Api::<EdgeConfig>::all(admin.clone()), Api::<BgpPeer>::all(admin.clone()));
    let defined = async {
        while configs.list(&ListParams::default()).await.is_err()
            || peers.list(&ListParams::default()).await.is_err()
        {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(BOUND, defined).await.expect("the definitions are in force");
    // Other nodes must not take what this test makes for theirs.
    let name = format!("xdp-lb-settings-{}", std::process::id());
    let only = json!({ "matchLabels": { "xdp-lb-test": name } });
    let nodes = Api::<core::Node>::all(admin.clone());
    let node = |label: &str| json!({ "apiVersion": "v1", "kind": "Node", "metadata": { "name": name, "labels": { "xdp-lb-test": label } } });
    put(&nodes, &node("other")).await;
    put(&configs, &resource("EdgeConfig", &name, json!({ "nodeSelector": only, "encap": { "dscp": 46 } })))
        .await;
    let spec = json!({ "nodeSelector": only, "address": "10.0.0.1", "remote_as": 65001 });
    put(&peers, &resource("BgpPeer", &name, spec)).await;

    let mut feed = Feed::resources(&agent, &name, file().inherited, Pace::default());
    until(&mut feed, &[]).await;
    put(&nodes, &node(&name)).await;
    let (config, peer) = (format!("EdgeConfig {name}"), format!("BgpPeer {name}"));
    until(&mut feed, &[&config, &peer]).await;
    configs.delete(&name, &DeleteParams::default()).await.unwrap();
    until(&mut feed, &[&peer]).await;
    peers.delete(&name, &DeleteParams::default()).await.unwrap();
    until(&mut feed, &[]).await;
    nodes.delete(&name, &DeleteParams::default()).await.unwrap();

    // The Role allows this name and no other.
    let namespaces = Api::<core::Namespace>::all(admin.clone());
    put(&namespaces, &json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name } })).await;
    let secrets = Api::<core::Secret>::namespaced(admin.clone(), &name);
    for secret in ["xdp-lb-bgp", "other"] {
        let object = json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": secret, "namespace": name },
            "data": { "leaf": "czNjcmV0" } });
        put(&secrets, &object).await;
    }
    let known = Secrets::default();
    let keys = Keys::start(&agent, Some(&name), known.clone());
    keys.want(["xdp-lb-bgp", "other", "none"].map(str::to_owned).into());
    let all = known.told(&["xdp-lb-bgp", "other", "none"]);
    tokio::time::timeout(BOUND, all).await.expect("an answer for each");
    assert!(known.has("xdp-lb-bgp"));
    if Api::<core::Secret>::namespaced(agent, &name).list(&ListParams::default()).await.is_ok() {
        println!("skipped: no kubeconfig of a user with the agent's roles");
    } else {
        assert!(!known.has("other"), "the Role does not name it");
    }
    assert!(!known.has("none"));
    keys.end().await;
    for secret in ["xdp-lb-bgp", "other"] {
        secrets.delete(secret, &DeleteParams::default()).await.unwrap();
    }
    let _ = namespaces.delete(&name, &DeleteParams::default()).await;
}
