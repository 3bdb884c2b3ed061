//! What is wrong with an EdgeConfig or a BgpPeer by itself, said where `kubectl get` shows it.
//!
//! An edge node's readers judge it, beside a file in which nothing is missing. What depends on a node (its file, its environment, which
//! others select it, our AS) is that node's business, and in its log, its status and its EdgeNode.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::ObjectMeta;
use serde_json::Value;

use super::plan::condition;
use super::{Controller, Write};
use crate::config::{self, Document, Kind};
use crate::kube::cluster::Change;
use crate::kube::crd::{BgpPeer, EdgeConfig, Judged};
use crate::kube::names::Key;

/// Which kind of object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Setting {
    /// EdgeConfig.
    EdgeConfig,
    /// BgpPeer.
    BgpPeer,
}

/// All of them, by kind and name.
pub(super) type Configured = BTreeMap<(Setting, String), Judgement>;

/// What is thought of one, and what it says so far.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Judgement {
    document: Document,
    mistakes: Vec<String>,
    generation: Option<i64>,
    conditions: Vec<Condition>,
}

impl Controller {
    /// An EdgeConfig is there, or is another.
    pub fn edge_config(&mut self, object: &EdgeConfig) -> Change {
        self.judged(Setting::EdgeConfig, &object.metadata, object.document(), object.status.as_ref())
    }

    /// A BgpPeer is there, or is another.
    pub fn bgp_peer(&mut self, object: &BgpPeer) -> Change {
        self.judged(Setting::BgpPeer, &object.metadata, object.document(), object.status.as_ref())
    }

    /// One of them is gone.
    pub fn setting_gone(&mut self, setting: Setting, name: &str) -> Change {
        Change::of(self.configured.remove(&(setting, name.to_owned())).is_some())
    }

    /// A full list of a kind has come: who is not in it is gone.
    pub fn settings_are(&mut self, setting: Setting, there: &BTreeSet<Key>) -> Change {
        let before = self.configured.len();
        self.configured.retain(|(kind, name), _| *kind != setting || there.contains(&Key::new("", name)));
        Change::of(self.configured.len() < before)
    }

    fn judged(
        &mut self,
        setting: Setting,
        meta: &ObjectMeta,
        document: Document,
        status: Option<&Judged>,
    ) -> Change {
        let key = (setting, meta.name.clone().unwrap_or_default());
        let old = self.configured.get(&key);
        let mistakes = match old.filter(|old| old.document == document) {
            Some(old) => old.mistakes.clone(),
            None => mistakes(&document),
        };
        let conditions = status.map(|status| status.conditions.clone()).unwrap_or_default();
        let new = Judgement { document, mistakes, generation: meta.generation, conditions };
        let differs = old != Some(&new);
        self.configured.insert(key, new);
        Change::of(differs)
    }
}

/// Statuses that are not as they should be.
pub(super) fn writes(configured: &Configured, now: i64) -> impl Iterator<Item = Write> {
    configured.iter().filter_map(move |((setting, name), judgement)| {
        let old = judgement.conditions.iter().find(|condition| condition.type_ == "Ready");
        let (ready, reason) =
            if judgement.mistakes.is_empty() { (true, "Valid") } else { (false, "Invalid") };
        let message = judgement.mistakes.join("; ");
        let ready = condition("Ready", ready, reason, message, judgement.generation, old, now);
        // Others' conditions are theirs.
        (old != Some(&ready)).then(|| Write::Setting {
            setting: *setting,
            name: name.clone(),
            condition: ready,
        })
    })
}

/// What is wrong with it whatever the node: `spec.encap.dscp: must be ...`.
fn mistakes(document: &Document) -> Vec<String> {
    let file = "version: 1\nnode: { name: n, zone: z }\ninterfaces: [{ name: eth0 }]\nkubernetes: {}\n";
    let files = match document.kind {
        Kind::Sections => vec![format!("{file}{}", elsewhere(document))],
        // Some keys are for routers of our own AS, others for those of another.
        Kind::Peer => [remote_as(document), remote_as(document) % 64_512 + 1]
            .map(|local_as| format!("{file}bgp: {{ local_as: {local_as}, router_id: 192.0.2.1 }}\n"))
            .into(),
    };
    let mut all: Option<BTreeMap<String, String>> = None;
    for (file, own) in files.iter().flat_map(|file| ["192.0.2.1", "2001:db8::1"].map(|own| (file, own))) {
        let document = Document { text: filled(&document.text, own), ..document.clone() };
        let name = document.name.clone();
        let found =
            config::parse_with(&[("file".to_owned(), file.clone())], &[document]).err().unwrap_or_default();
        let ours = found.into_iter().filter(|error| error.file.as_ref() == Some(&name));
        let found: BTreeMap<String, String> = ours.map(|error| (error.path, error.message)).collect();
        // Only what no variant takes is wrong.
        all = Some(match all {
            None => found,
            Some(all) => all.into_iter().filter(|(path, _)| found.contains_key(path)).collect(),
        });
    }
    all.unwrap_or_default().into_iter().map(|(path, message)| format!("{path}: {message}")).collect()
}

/// What services rest on and another place may say, as far as this one does not: tunnels, and room.
fn elsewhere(document: &Document) -> String {
    let text: Value = serde_json::from_str(&document.text).unwrap_or_default();
    let sections = [
        ("encap", "encap: { source_v4: 192.0.2.0/24, source_v6: \"2001:db8::/64\" }\n"),
        (
            "limits",
            "limits: { services: 16383, vips: 1048576, backends: 1048576, ring_slots: 268435456, port_pages: 1048576, \
             server_ids: 1048576, source_ranges: 16777216 }\n",
        ),
    ];
    let missing = sections.into_iter().filter(|(key, _)| text.get(key).is_none());
    missing.map(|(_, section)| section).collect()
}

/// The router's AS, if it has one that a file may have.
fn remote_as(document: &Document) -> u64 {
    let text: Value = serde_json::from_str(&document.text).unwrap_or_default();
    text["bgp"]["peers"][0]["remote_as"]
        .as_u64()
        .filter(|number| (1..u64::from(u32::MAX)).contains(number))
        .unwrap_or(64_512)
}

/// With an address in every place that each node fills.
fn filled(text: &str, own: &str) -> String {
    let mut parts = text.split("${XDP_LB_");
    let mut filled = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        filled.push_str(own);
        filled.push_str(part.split_once('}').map_or(part, |(_, rest)| rest));
    }
    filled
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn config(spec: Value) -> Document {
        let object = json!({ "apiVersion": "xdp-lb.io/v1alpha1", "kind": "EdgeConfig", "metadata": { "name": "edge" }, "spec": spec });
        serde_json::from_value::<EdgeConfig>(object).unwrap().document()
    }

    fn peer(more: Value) -> Document {
        let mut spec = json!({ "address": "10.0.0.1", "remote_as": 65001 });
        spec.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let object = json!({ "apiVersion": "xdp-lb.io/v1alpha1", "kind": "BgpPeer", "metadata": { "name": "leaf" }, "spec": spec });
        serde_json::from_value::<BgpPeer>(object).unwrap().document()
    }

    fn service(name: &str, vip: &str) -> Value {
        json!({ "name": name, "vip": vip, "protocol": "tcp", "ports": 80,
            "backends": [{ "address": "10.1.2.11" }, { "address": "fd00::2" }] })
    }

    #[test]
    fn what_a_node_may_make_good_is_no_mistake() {
        let fine = [
            config(json!({})),
            config(
                json!({ "encap": { "source_v4": "${XDP_LB_NODE_IP}/32", "source_v6": "${XDP_LB_SIX}/128" },
                "bgp": { "local_as": 65010, "router_id": "${XDP_LB_NODE_IP}" } }),
            ),
            config(json!({ "services": [service("web", "203.0.113.10"), service("web6", "2001:db8:1::10")],
                "peers": { "listen": "${XDP_LB_NODE_IP}:9411", "key_file": "/etc/key", "nodes": ["192.0.2.1", "192.0.2.2"] } })),
            config(
                json!({ "peers": { "listen": "[${XDP_LB_SIX}]:9411", "key_file": "/etc/key", "nodes": ["192.0.2.2"] } }),
            ),
            peer(json!({ "source": "${XDP_LB_NODE_IP}", "next_hop_v6": "${XDP_LB_SIX}" })),
            peer(json!({ "local_pref": 200, "passwordSecretRef": { "name": "leaf" } })),
            peer(json!({ "prepend": 2 })),
            peer(json!({ "remote_as": 64512, "prepend": 2 })),
        ];
        for document in fine {
            assert_eq!(mistakes(&document), [""; 0], "{}", document.text);
        }
    }

    #[test]
    fn what_no_node_takes_is_told_with_its_place() {
        let rows = [
            (
                config(json!({ "maglev": { "table_size": 1000 } })),
                "spec.maglev.table_size: must be a prime number",
            ),
            (
                config(json!({ "encap": { "source_v4": "${XDP_LB_NODE_IP}/33" } })),
                "spec.encap.source_v4: must be",
            ),
            (
                config(
                    json!({ "services": [service("web", "203.0.113.10"), service("shop", "203.0.113.10")] }),
                ),
                "spec.services[1].ports: overlaps spec.services[0].ports (service \"web\"): both want TCP port 80",
            ),
            (
                config(
                    json!({ "services": [service("web", "203.0.113.10"), service("web", "203.0.113.11")] }),
                ),
                "spec.services[1].name: \"web\" is the name of another service too (spec.services[0].name)",
            ),
            (
                config(
                    json!({ "encap": { "source_v4": "192.0.2.0/24" }, "services": [service("web", "2001:db8:1::10")] }),
                ),
                "spec.services[0].backends[1].address: the tunnel to fd00::2 needs an IPv6 outer source",
            ),
            (
                config(
                    json!({ "peers": { "listen": "${XDP_LB_NODE_IP}:9411", "key_file": "key", "nodes": ["192.0.2.2"] } }),
                ),
                "spec.peers.key_file: must be the absolute path",
            ),
            (peer(json!({ "hold_time": "9m" })), "spec.send_hold_time: must be longer than hold_time"),
        ];
        for (document, said) in rows {
            let mistakes = mistakes(&document);
            assert!(mistakes.len() == 1 && mistakes[0].starts_with(said), "{mistakes:?}");
        }
    }
}
