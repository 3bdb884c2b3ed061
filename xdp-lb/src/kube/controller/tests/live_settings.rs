//! Against a real API server, with the controller's own rights: what is wrong with an EdgeConfig is in its status.

use kube::Api;
use kube::api::DeleteParams;
use serde_json::{Value, json};

use super::live::{ALONE, Place, Running, clients, put, until};
use crate::kube::crd::{BgpPeer, EdgeConfig};

#[tokio::test]
async fn settings_bear_their_condition() {
    let Some((admin, held)) = clients().await else { return };
    let _alone = ALONE.lock().await;
    let place = Place::new(&admin, "settings", json!(["192.0.2.0/30"])).await;
    let (configs, peers) = (Api::<EdgeConfig>::all(admin.clone()), Api::<BgpPeer>::all(admin.clone()));
    let name = place.name();
    let object = |kind: &str, spec: Value| json!({ "apiVersion": "xdp-lb.io/v1alpha1", "kind": kind, "metadata": { "name": name }, "spec": spec });
    // No agent takes this test's for its own.
    let nobody = json!({ "matchLabels": { "xdp-lb-test": name } });
    let config =
        |size: u32| object("EdgeConfig", json!({ "nodeSelector": nobody, "maglev": { "table_size": size } }));
    put(&configs, &config(1000)).await.unwrap();
    put(
        &peers,
        &object("BgpPeer", json!({ "nodeSelector": nobody, "address": "10.0.0.1", "remote_as": 65001 })),
    )
    .await
    .unwrap();
    let running = Running::start(&held, place.candidate("one"));
    let ready = async || {
        let config = configs.get(name).await.unwrap();
        let condition = config.status?.conditions.into_iter().find(|condition| condition.type_ == "Ready")?;
        Some(format!("{} {}", condition.status, condition.message))
    };
    let told = async |wanted: &str| {
        until(wanted, async || ready().await.filter(|said| said.starts_with(wanted))).await;
    };
    told("False spec.maglev.table_size: must be a prime number, is 1000").await;
    put(&configs, &config(997)).await.unwrap();
    told("True").await;
    let is_ready = async || {
        let status = peers.get(name).await.unwrap().status?;
        status.conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True").then_some(())
    };
    until("the BgpPeer's", is_ready).await;
    running.end().await;
    configs.delete(name, &DeleteParams::default()).await.unwrap();
    peers.delete(name, &DeleteParams::default()).await.unwrap();
    place.clear().await;
}
