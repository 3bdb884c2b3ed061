//! Settings of edge nodes in the cluster, folded: which EdgeConfigs and BgpPeers are for this node. Fed by
//! `io::resources`; what comes out is joined with the node's file by [`crate::config::parse_with`].

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1 as core;

use super::cluster::Change;
use super::crd::{BgpPeer, EdgeConfig};
use super::ipam::Selector;
use super::names::Key;
use crate::config::Document;

/// The picture.
#[derive(Debug, Default)]
pub struct Resources {
    /// Of this node; none where it is no Node, so that a selector which asks for a label does not select it.
    labels: BTreeMap<String, String>,
    configs: BTreeMap<String, Resource>,
    peers: BTreeMap<String, Resource>,
}

#[derive(Debug, PartialEq, Eq)]
struct Resource {
    nodes: Selector,
    document: Document,
}

impl Resources {
    /// This node is there, or is another.
    pub fn node(&mut self, node: &core::Node) -> Change {
        let labels = node.metadata.labels.clone().unwrap_or_default();
        let differs = self.labels != labels;
        self.labels = labels;
        Change::of(differs)
    }

    /// This node is no Node.
    pub fn node_gone(&mut self) -> Change {
        Change::of(!std::mem::take(&mut self.labels).is_empty())
    }

    /// An EdgeConfig is there, or is another.
    pub fn config(&mut self, config: &EdgeConfig) -> Change {
        let resource = Resource { nodes: (&config.spec.node_selector).into(), document: config.document() };
        put(&mut self.configs, config.metadata.name.as_deref(), resource)
    }

    /// A BgpPeer is there, or is another.
    pub fn peer(&mut self, peer: &BgpPeer) -> Change {
        let resource = Resource { nodes: (&peer.spec.node_selector).into(), document: peer.document() };
        put(&mut self.peers, peer.metadata.name.as_deref(), resource)
    }

    /// An EdgeConfig is gone.
    pub fn config_gone(&mut self, name: &str) -> Change {
        Change::of(self.configs.remove(name).is_some())
    }

    /// A BgpPeer is gone.
    pub fn peer_gone(&mut self, name: &str) -> Change {
        Change::of(self.peers.remove(name).is_some())
    }

    /// A full list of EdgeConfigs has come: who is not in it is gone.
    pub fn configs_are(&mut self, there: &BTreeSet<Key>) -> Change {
        keep(&mut self.configs, there)
    }

    /// A full list of BgpPeers has come: who is not in it is gone.
    pub fn peers_are(&mut self, there: &BTreeSet<Key>) -> Change {
        keep(&mut self.peers, there)
    }

    /// Those that are for this node: EdgeConfigs, then BgpPeers, each by name.
    #[must_use]
    pub fn selected(&self) -> Vec<Document> {
        let all = self.configs.values().chain(self.peers.values());
        all.filter(|one| one.nodes.selects(&self.labels)).map(|one| one.document.clone()).collect()
    }
}

fn put(all: &mut BTreeMap<String, Resource>, name: Option<&str>, resource: Resource) -> Change {
    let name = name.unwrap_or_default();
    let differs = all.get(name) != Some(&resource);
    all.insert(name.to_owned(), resource);
    Change::of(differs)
}

fn keep(all: &mut BTreeMap<String, Resource>, there: &BTreeSet<Key>) -> Change {
    let before = all.len();
    all.retain(|name, _| there.contains(&Key::new("", name)));
    Change::of(all.len() < before)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn config(name: &str, selector: Value, dscp: u8) -> EdgeConfig {
        let object = json!({ "apiVersion": "xdp-lb.io/v1alpha1", "kind": "EdgeConfig", "metadata": { "name": name },
            "spec": { "nodeSelector": selector, "encap": { "dscp": dscp } } });
        serde_json::from_value(object).unwrap()
    }

    fn peer(name: &str, selector: Value) -> BgpPeer {
        let object = json!({ "apiVersion": "xdp-lb.io/v1alpha1", "kind": "BgpPeer", "metadata": { "name": name },
            "spec": { "nodeSelector": selector, "address": "10.0.0.1", "remote_as": 65001 } });
        serde_json::from_value(object).unwrap()
    }

    fn node(labels: Value) -> core::Node {
        serde_json::from_value(json!({ "metadata": { "name": "n1", "labels": labels } })).unwrap()
    }

    fn names(resources: &Resources) -> Vec<String> {
        resources.selected().into_iter().map(|document| document.name).collect()
    }

    #[test]
    fn labels_select() {
        let mut resources = Resources::default();
        let rack = json!({ "matchLabels": { "rack": "1" } });
        let spare = json!({ "matchExpressions": [{ "key": "spare", "operator": "DoesNotExist" }] });
        assert_eq!(resources.peer(&peer("leaf", rack)), Change::Yes);
        assert_eq!(resources.config(&config("b-all", json!({}), 1)), Change::Yes);
        assert_eq!(resources.config(&config("a-used", spare, 2)), Change::Yes);
        // Nobody has said what this node is.
        assert_eq!(names(&resources), ["EdgeConfig a-used", "EdgeConfig b-all"]);
        assert_eq!(resources.node(&node(json!({ "rack": "1", "spare": "" }))), Change::Yes);
        assert_eq!(names(&resources), ["EdgeConfig b-all", "BgpPeer leaf"]);
        assert_eq!(resources.node(&node(json!({ "rack": "1", "spare": "" }))), Change::No);
        assert_eq!(resources.node_gone(), Change::Yes);
        assert_eq!(names(&resources), ["EdgeConfig a-used", "EdgeConfig b-all"]);
    }

    #[test]
    fn what_changes_nothing_is_no_change() {
        let mut resources = Resources::default();
        assert_eq!(resources.config(&config("a", json!({}), 1)), Change::Yes);
        let mut judged = config("a", json!({}), 1);
        judged.status = Some(Default::default());
        assert_eq!(resources.config(&judged), Change::No, "its status is not ours");
        assert_eq!(resources.config(&config("a", json!({}), 2)), Change::Yes);
        assert_eq!(resources.configs_are(&[Key::new("", "a")].into()), Change::No);
        assert_eq!(resources.configs_are(&BTreeSet::new()), Change::Yes);
        assert_eq!((resources.config_gone("a"), resources.selected()), (Change::No, Vec::new()));
    }
}
