//! `BgpPeer`: a router that edge nodes announce VIPs to.

#![expect(clippy::duplicated_attributes, reason = "columns of one type")]

use std::borrow::Cow;
use std::collections::BTreeMap;

use kube::CustomResource;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::schema::{key, object, rule, text};
use super::{Judged, LabelSelector, sections::peer};
use crate::config::{Document, Kind};

/// A router that edge nodes announce VIPs to: an entry of `bgp.peers`, key by key.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "xdp-lb.io",
    version = "v1alpha1",
    kind = "BgpPeer",
    status = "Judged",
    derive = "PartialEq",
    category = "xdp-lb",
    doc = "A router that edge nodes announce VIPs to: an entry of bgp.peers of their files, key by key.",
    printcolumn(name = "Address", type_ = "string", json_path = ".spec.address"),
    printcolumn(name = "AS", type_ = "integer", json_path = ".spec.remote_as"),
    printcolumn(name = "BFD", type_ = "string", json_path = ".spec.bfd.interval"),
    printcolumn(name = "Nodes", type_ = "string", json_path = ".spec.nodeSelector.matchLabels"),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status"
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct BgpPeerSpec {
    /// Nodes that speak with it, by their labels. Default: all edge nodes.
    #[serde(default)]
    pub node_selector: LabelSelector,
    /// Where the key of TCP-MD5 is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_secret_ref: Option<Value>,
    /// The router's keys as they are written: the file's readers judge them.
    #[serde(flatten)]
    pub peer: BTreeMap<String, Value>,
}

impl JsonSchema for BgpPeerSpec {
    fn schema_name() -> Cow<'static, str> {
        "BgpPeerSpec".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let nodes = super::selector_schema(generator);
        let secret = object([
            key("name", text("^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", 253), "Name of the Secret.").required(),
            key("key", text("^[-._a-zA-Z0-9]+$", 253), "Which of its values. Default: password."),
        ]);
        let keys = [
            key("nodeSelector", nodes, "Nodes that speak with it, by their labels. Default: all edge nodes."),
            key(
                "passwordSecretRef",
                secret,
                "Key of TCP-MD5 (RFC 2385), in a Secret of the agents' namespace.",
            ),
        ];
        let spec = object(keys.into_iter().chain(peer()));
        let spec = rule(
            spec,
            "!has(self.source) || self.source.contains('${XDP_LB_') || ip(self.source).family() == ip(self.address).family()",
            "source must be of the family of address",
        );
        super::spec_schema(rule(
            spec,
            "duration(has(self.send_hold_time) ? self.send_hold_time : '8m') > duration(has(self.hold_time) ? self.hold_time : '9s')",
            "send_hold_time must be longer than hold_time (RFC 9687)",
        ))
    }
}

impl BgpPeer {
    /// As a document beside the files.
    #[must_use]
    pub fn document(&self) -> Document {
        let name = format!("BgpPeer {}", self.metadata.name.as_deref().unwrap_or_default());
        let mut peer = self.spec.peer.clone();
        if let Some(secret) = &self.spec.password_secret_ref {
            peer.insert("password_secret".to_owned(), secret.clone());
        }
        Document { kind: Kind::Peer, name, text: json!({ "bgp": { "peers": [peer] } }).to_string() }
    }
}
