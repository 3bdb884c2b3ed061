//! Our custom resources: types, and the definitions that are made from them.
//!
//! `deploy/kustomize/crds` holds what [`all`] gives; a test compares both, and `xdp-lb crds` prints it. What a schema
//! can say is refused by the API server already; the rest is told in the object's conditions.

mod bgp_peer;
mod edge_config;
mod edge_node;
mod schema;
mod sections;
mod selector;
mod services;
mod status;
#[cfg(test)]
mod tests;
mod vip_pool;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt as _;
use schemars::{JsonSchema as _, Schema, SchemaGenerator};
use serde_json::{Value, json};

pub use self::bgp_peer::{BgpPeer, BgpPeerSpec};
pub use self::edge_config::{EdgeConfig, EdgeConfigSpec};
pub use self::edge_node::{EdgeNode, EdgeNodeBgp, EdgeNodeSpec, EdgeNodeStatus, Remark, Unannounced};
pub use self::selector::{LabelSelector, SelectorOperator, SelectorRequirement};
pub use self::status::Judged;
pub use self::vip_pool::{Resting, VipPool, VipPoolSpec, VipPoolStatus};

/// Every definition.
#[must_use]
pub fn all() -> Vec<CustomResourceDefinition> {
    vec![BgpPeer::crd(), EdgeConfig::crd(), EdgeNode::crd(), VipPool::crd()]
}

/// Every definition as YAML, by its plural: `vippools`.
///
/// # Errors
/// Never, as a test knows.
pub fn texts() -> Result<Vec<(String, String)>, serde_yaml::Error> {
    let text =
        |crd: &CustomResourceDefinition| Ok((crd.spec.names.plural.clone(), serde_yaml::to_string(crd)?));
    all().iter().map(text).collect()
}

/// A label selector inside a schema that is written by hand.
fn selector_schema(generator: &mut SchemaGenerator) -> Value {
    let mut schema = LabelSelector::json_schema(generator).to_value();
    schema["default"] = json!({});
    schema
}

fn spec_schema(schema: Value) -> Schema {
    Schema::try_from(schema).unwrap_or_default()
}

/// Kubernetes' conditions: a map by type.
fn conditions(_: &mut SchemaGenerator) -> Schema {
    schemars::json_schema!({
        "type": "array",
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
        "items": {
            "type": "object",
            "required": ["type", "status", "reason", "message", "lastTransitionTime"],
            "properties": {
                "type": { "type": "string" },
                "status": { "type": "string", "enum": ["True", "False", "Unknown"] },
                "reason": { "type": "string" },
                "message": { "type": "string" },
                "lastTransitionTime": { "type": "string", "format": "date-time" },
                "observedGeneration": { "type": "integer", "format": "int64" },
            },
        },
    })
}
