//! Settings of edge nodes that stand elsewhere than in their files: resources of a cluster, one document each. Made by
//! `kube`, joined with the files by [`super::join`], judged by the same readers.

use serde::{Deserialize, Serialize};

use super::finding::Source;

/// One resource.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Document {
    /// What it holds.
    pub kind: Kind,
    /// Kind and name of the object: `EdgeConfig edge`.
    pub name: String,
    /// Its settings in a file's words, as a mapping of a file's top level: JSON, which is YAML.
    pub text: String,
}

/// What a document holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Sections of the top level.
    Sections,
    /// One entry of `bgp.peers`.
    Peer,
}

/// Sections that all edge nodes may have alike; the others say what one node is.
pub(super) const SHARED: [&str; 8] =
    ["bgp", "encap", "flow_table", "limits", "maglev", "peers", "services", "vips"];

impl Document {
    /// How its places are told.
    pub(super) fn source(&self) -> Source {
        let paths: &[(&str, &str)] = match self.kind {
            Kind::Sections => &[("", "spec")],
            Kind::Peer => {
                &[("bgp.peers[0].password_secret", "spec.passwordSecretRef"), ("bgp.peers[0]", "spec")]
            }
        };
        Source { name: self.name.clone(), paths: Some(paths) }
    }
}
