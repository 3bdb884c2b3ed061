//! Writes of the controller: statuses by server-side apply, Events.

use std::net::IpAddr;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};

use crate::kube::controller::{Object, Setting, Write};
use crate::kube::crd::{BgpPeer, EdgeConfig, VipPool, VipPoolStatus};
use crate::kube::note::{Note, Severity};

/// Who we are in managed fields and Events.
const MANAGER: &str = "xdp-lb-controller";
/// A longer message is cut: the API server refuses more.
const LONGEST: usize = 1024;

/// What the API server has now.
#[expect(clippy::large_enum_variant, reason = "there is one at a time, on its way")]
pub(super) enum Done {
    Service(core::Service),
    Pool(VipPool),
    Config(EdgeConfig),
    Peer(BgpPeer),
}

/// Carries one write out.
///
/// # Errors
/// The API server's. A conflict (409) says that the object is another by now.
pub(super) async fn write(client: &Client, identity: &str, write: &Write) -> Result<Done, kube::Error> {
    match write {
        Write::Service { object, version, addresses, conditions, events } => {
            let services = Api::<core::Service>::namespaced(client.clone(), &object.key.namespace);
            let body = service_status(object, version, addresses, conditions);
            // Nobody else writes the status of Services of our class.
            let params = PatchParams::apply(MANAGER).force();
            let service = services.patch_status(&object.key.name, &params, &Patch::Apply(body)).await?;
            for note in events {
                say(client, identity, object, note).await;
            }
            Ok(Done::Service(service))
        }
        Write::Setting { setting, name, condition } => {
            let params = PatchParams::apply(MANAGER).force();
            let kind = match setting {
                Setting::EdgeConfig => "EdgeConfig",
                Setting::BgpPeer => "BgpPeer",
            };
            let body = json!({ "apiVersion": "xdp-lb.io/v1alpha1", "kind": kind, "metadata": { "name": name },
                "status": { "conditions": [condition] } });
            Ok(match setting {
                Setting::EdgeConfig => {
                    let configs = Api::<EdgeConfig>::all(client.clone());
                    Done::Config(configs.patch_status(name, &params, &Patch::Apply(body)).await?)
                }
                Setting::BgpPeer => {
                    let peers = Api::<BgpPeer>::all(client.clone());
                    Done::Peer(peers.patch_status(name, &params, &Patch::Apply(body)).await?)
                }
            })
        }
        Write::Pool { name, status } => {
            let pools = Api::<VipPool>::all(client.clone());
            let params = PatchParams::apply(MANAGER).force();
            Ok(Done::Pool(pools.patch_status(name, &params, &Patch::Apply(pool_status(name, status))).await?))
        }
    }
}

/// What we apply: fields of ours that are not in it are taken away.
fn service_status(object: &Object, version: &str, addresses: &[IpAddr], conditions: &[Condition]) -> Value {
    let ingress: Vec<Value> =
        addresses.iter().map(|address| json!({ "ip": address, "ipMode": "VIP" })).collect();
    let mut status = json!({});
    if !ingress.is_empty() || !conditions.is_empty() {
        status = json!({ "loadBalancer": { "ingress": ingress }, "conditions": conditions });
    }
    json!({
        "apiVersion": "v1", "kind": "Service",
        // The version makes a status for another version a conflict, and the uid one for another object of this name.
        "metadata": { "name": object.key.name, "namespace": object.key.namespace, "uid": object.uid, "resourceVersion": version },
        "status": status,
    })
}

fn pool_status(name: &str, status: &VipPoolStatus) -> Value {
    json!({ "apiVersion": "xdp-lb.io/v1alpha1", "kind": "VipPool", "metadata": { "name": name }, "status": status })
}

/// Creates an Event. One that cannot be created is in the log: nothing depends on it.
async fn say(client: &Client, identity: &str, object: &Object, note: &Note) {
    let Note { severity, reason, message } = note;
    let service = &object.key;
    match severity {
        Severity::Normal => tracing::info!(%service, reason, "{message}"),
        Severity::Warning => tracing::warn!(%service, reason, "{message}"),
    }
    let events = Api::<core::Event>::namespaced(client.clone(), &object.key.namespace);
    let event = event(identity, object, note, Timestamp::now());
    if let Err(error) = events.create(&PostParams::default(), &event).await {
        tracing::warn!(%service, reason, "create an Event: {error}");
    }
}

fn event(identity: &str, object: &Object, note: &Note, now: Timestamp) -> core::Event {
    let (name, namespace) = (object.key.name.to_string(), object.key.namespace.to_string());
    let time = Some(Time(now));
    core::Event {
        metadata: ObjectMeta {
            name: Some(format!("{name}.{:x}", now.as_nanosecond())),
            namespace: Some(namespace.clone()),
            ..ObjectMeta::default()
        },
        involved_object: core::ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Service".to_owned()),
            name: Some(name),
            namespace: Some(namespace),
            uid: Some(object.uid.clone()),
            ..core::ObjectReference::default()
        },
        type_: Some(if note.severity == Severity::Normal { "Normal" } else { "Warning" }.to_owned()),
        reason: Some(note.reason.to_owned()),
        message: Some(note.message.chars().take(LONGEST).collect()),
        source: Some(core::EventSource { component: Some(MANAGER.to_owned()), host: None }),
        first_timestamp: time.clone(),
        last_timestamp: time,
        count: Some(1),
        reporting_component: Some("xdp-lb.io/controller".to_owned()),
        reporting_instance: Some(identity.to_owned()),
        ..core::Event::default()
    }
}
