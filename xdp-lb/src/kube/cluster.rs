//! What is known of the cluster, folded object by object. Fed by the source, read by [`super::map`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::{core::v1 as core, discovery::v1 as discovery};

use super::Settings;
use super::names::Key;
use super::node::Node;
use super::policy::Policy;
use super::slice::{Interner, Slice};
use super::wanted::Wanted;
use crate::model::Delivery;

/// Whether an event changed anything that we keep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Change {
    /// Another picture.
    Yes,
    /// The same: most events are about what we do not look at.
    No,
}

impl Change {
    pub(super) fn of(differs: bool) -> Self {
        if differs { Self::Yes } else { Self::No }
    }
}

/// The cluster as we know it.
#[derive(Debug)]
pub struct Cluster {
    pub(super) settings: Settings,
    pub(super) names: Interner,
    pub(super) services: BTreeMap<Key, Wanted>,
    pub(super) slices: BTreeMap<Key, Slice>,
    /// Slices by Service.
    pub(super) slices_of: BTreeMap<Key, BTreeSet<Key>>,
    pub(super) nodes: BTreeMap<String, Node>,
    /// The last policy of a Service that could be used.
    pub(super) good: BTreeMap<Key, Arc<Policy>>,
}

impl Cluster {
    /// Nothing is known.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        Self {
            settings,
            names: Interner::default(),
            services: BTreeMap::new(),
            slices: BTreeMap::new(),
            slices_of: BTreeMap::new(),
            nodes: BTreeMap::new(),
            good: BTreeMap::new(),
        }
    }

    /// A Service is there, or is another.
    pub fn service(&mut self, service: &core::Service) -> Change {
        let key = Key::of(&service.metadata);
        match Wanted::of(service, &self.settings) {
            None => self.service_gone(&key),
            Some(wanted) => {
                let differs = self.services.get(&key) != Some(&wanted);
                self.services.insert(key, wanted);
                Change::of(differs)
            }
        }
    }

    /// A Service is gone.
    pub fn service_gone(&mut self, key: &Key) -> Change {
        self.good.remove(key);
        Change::of(self.services.remove(key).is_some())
    }

    /// An EndpointSlice is there, or is another.
    pub fn slice(&mut self, slice: &discovery::EndpointSlice) -> Change {
        let key = Key::of(&slice.metadata);
        let Some(folded) = Slice::of(slice, &mut self.names) else { return self.slice_gone(&key) };
        match self.slices.get_mut(&key) {
            Some(old) if *old == folded => return Change::No,
            // Addresses are kept whoever asks for them, and matter where tunnels end at them.
            Some(old) if old.is_like(&folded) => {
                let change = Change::of(self.services.get(&folded.service).is_some_and(|wanted| {
                    let good = self.good.get(&folded.service);
                    let policies = wanted.policy.as_ref().ok().into_iter().chain(good);
                    policies.into_iter().any(|policy| policy.delivery(&self.settings) == Delivery::Pod)
                }));
                *old = folded;
                return change;
            }
            _ => {}
        }
        let of_ours = self.slice_gone(&key);
        let changed = of_ours == Change::Yes || self.services.contains_key(&folded.service);
        self.slices_of.entry(folded.service.clone()).or_default().insert(key.clone());
        self.slices.insert(key, folded);
        Change::of(changed)
    }

    /// An EndpointSlice is gone.
    pub fn slice_gone(&mut self, key: &Key) -> Change {
        let Some(Slice { service, .. }) = self.slices.remove(key) else { return Change::No };
        if let Some(slices) = self.slices_of.get_mut(&service) {
            slices.remove(key);
            if slices.is_empty() {
                self.slices_of.remove(&service);
            }
        }
        Change::of(self.services.contains_key(&service))
    }

    /// A Node is there, or is another.
    pub fn node(&mut self, node: &core::Node) -> Change {
        let name = node.metadata.name.clone().unwrap_or_default();
        let folded = Node::of(node);
        let differs = self.nodes.get(&name) != Some(&folded);
        self.nodes.insert(name, folded);
        Change::of(differs)
    }

    /// A Node is gone.
    pub fn node_gone(&mut self, name: &str) -> Change {
        Change::of(self.nodes.remove(name).is_some())
    }

    /// A full list of Services has come: who is not in it is gone.
    pub fn services_are(&mut self, there: &BTreeSet<Key>) -> Change {
        let gone: Vec<Key> = self.services.keys().filter(|key| !there.contains(*key)).cloned().collect();
        gone.iter().fold(Change::No, |changed, key| either(self.service_gone(key), changed))
    }

    /// A full list of EndpointSlices has come: who is not in it is gone.
    pub fn slices_are(&mut self, there: &BTreeSet<Key>) -> Change {
        let gone: Vec<Key> = self.slices.keys().filter(|key| !there.contains(*key)).cloned().collect();
        gone.iter().fold(Change::No, |changed, key| either(self.slice_gone(key), changed))
    }

    /// A full list of Nodes has come: who is not in it is gone.
    pub fn nodes_are(&mut self, there: &BTreeSet<Key>) -> Change {
        let gone: Vec<String> =
            self.nodes.keys().filter(|name| !there.contains(&Key::new("", name))).cloned().collect();
        gone.iter().fold(Change::No, |changed, name| either(self.node_gone(name), changed))
    }
}

fn either(a: Change, b: Change) -> Change {
    Change::of(a == Change::Yes || b == Change::Yes)
}
