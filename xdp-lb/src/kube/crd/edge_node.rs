//! `EdgeNode`: what an edge node says of itself, for people and for the controller.

#![expect(clippy::duplicated_attributes, reason = "columns of one type")]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use super::conditions;

/// Nothing is asked of an edge node here: its agent writes all of the object.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[kube(
    group = "xdp-lb.io",
    version = "v1alpha1",
    kind = "EdgeNode",
    status = "EdgeNodeStatus",
    derive = "PartialEq",
    category = "xdp-lb",
    doc = "What an edge node says of itself. Its agent writes it; editing it changes nothing.",
    printcolumn(name = "Zone", type_ = "string", json_path = ".status.zone"),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status"
    ),
    printcolumn(name = "Routers", type_ = "string", json_path = ".status.bgp.sessions"),
    printcolumn(name = "Announced", type_ = "integer", json_path = ".status.bgp.announced"),
    printcolumn(name = "Withdrawn", type_ = "integer", json_path = ".status.bgp.withdrawn"),
    printcolumn(name = "Remarks", type_ = "integer", json_path = ".status.remarked"),
    printcolumn(name = "Version", type_ = "string", priority = 1, json_path = ".status.version"),
    printcolumn(name = "Seen", type_ = "date", json_path = ".status.renewed")
)]
pub struct EdgeNodeSpec {}

/// An edge node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct EdgeNodeStatus {
    /// When the agent last said that this still holds. It does so every 20 seconds.
    #[schemars(extend("format" = "date-time"))]
    pub renewed: String,
    /// Version of the agent.
    pub version: String,
    /// node.zone of its configuration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// What routers are told; not there on a node that speaks no BGP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bgp: Option<EdgeNodeBgp>,
    /// What it has to say of Services and Nodes. The first 256.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub remarks: Vec<Remark>,
    /// How many there are in all.
    #[serde(default)]
    pub remarked: i64,
    /// Ready: it forwards, and its maps hold what is asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "conditions")]
    pub conditions: Vec<Condition>,
}

/// What routers are told.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct EdgeNodeBgp {
    /// Sessions that are established, of all: 2/2.
    pub sessions: String,
    /// How many addresses are announced.
    pub announced: i64,
    /// How many are not.
    pub withdrawn: i64,
    /// Addresses that are announced on a session.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<String>,
    /// Addresses that are not, and why not. The first 256.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub without: Vec<Unannounced>,
}

/// An address that is not announced.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Unannounced {
    /// The address.
    pub address: String,
    /// Why not.
    pub reason: String,
}

/// What an edge node has to say of an object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Remark {
    /// Service or Node.
    pub kind: String,
    /// Its name; a Service's namespace and name.
    pub name: String,
    /// One word for machines.
    pub reason: String,
    /// For people.
    pub message: String,
}
