//! `EdgeConfig`: sections that edge nodes have in common.

#![expect(clippy::duplicated_attributes, reason = "columns of one type")]

use std::borrow::Cow;
use std::collections::BTreeMap;

use kube::CustomResource;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::schema::{key, object};
use super::{Judged, LabelSelector, sections::sections};
use crate::config::{Document, Kind};

/// What edge nodes have in common. Sections are as in a node's file, key by key.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "xdp-lb.io",
    version = "v1alpha1",
    kind = "EdgeConfig",
    status = "Judged",
    derive = "PartialEq",
    category = "xdp-lb",
    doc = "What edge nodes have in common: sections of their files, key by key.",
    printcolumn(name = "AS", type_ = "integer", json_path = ".spec.bgp.local_as"),
    printcolumn(name = "Encap", type_ = "string", json_path = ".spec.encap.kind"),
    printcolumn(name = "Nodes", type_ = "string", json_path = ".spec.nodeSelector.matchLabels"),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status"
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct EdgeConfigSpec {
    /// Nodes that it is for, by their labels. Default: all edge nodes.
    #[serde(default)]
    pub node_selector: LabelSelector,
    /// The sections as they are written: the file's readers judge them.
    #[serde(flatten)]
    pub sections: BTreeMap<String, Value>,
}

impl JsonSchema for EdgeConfigSpec {
    fn schema_name() -> Cow<'static, str> {
        "EdgeConfigSpec".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let nodes = super::selector_schema(generator);
        let nodes =
            key("nodeSelector", nodes, "Nodes that it is for, by their labels. Default: all edge nodes.");
        super::spec_schema(object(std::iter::once(nodes).chain(sections())))
    }
}

impl EdgeConfig {
    /// As a document beside the files.
    #[must_use]
    pub fn document(&self) -> Document {
        let name = format!("EdgeConfig {}", self.metadata.name.as_deref().unwrap_or_default());
        let text = serde_json::to_string(&self.spec.sections).unwrap_or_default();
        Document { kind: Kind::Sections, name, text }
    }
}
