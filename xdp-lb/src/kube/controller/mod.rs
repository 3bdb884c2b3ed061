//! The controller: addresses from pools for Services, told by their status, conditions and Events.
//!
//! ```text
//!   Service ---> asking: wish, status --+                        +--> status of Services, Events
//!   Namespace -> labels ----------------+-> plan: ipam::assign --+
//!   VipPool ---> pools, resting --------+                        +--> status of pools
//!   EdgeNode --> edges: what they say --+
//! ```
//!
//! The plan is data, computed anew from the whole picture; [`crate::kube::io`] carries it out while this controller is the
//! leader. Nothing is kept but what the API server says and what was just released, so whoever leads next, or starts
//! anew, decides the same. docs/controller.md says what is promised.

mod asking;
mod configured;
mod edges;
mod judge;
mod plan;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use k8s_openapi::api::core::v1 as core;

use self::asking::Asking;
pub use self::asking::{ADDRESSES, ANNOUNCED, BALANCED, POLICY};
use self::configured::Configured;
pub use self::configured::Setting;
use self::edges::Edges;
pub use self::judge::Judge;
pub use self::plan::{Object, Plan, Write};
use super::cluster::Change;
use super::crd::{EdgeNode, VipPool};
use super::ipam::{Pool, Released};
use super::names::Key;

/// What the command line says.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Which Services are ours, and where edge nodes' tunnels end.
    pub cluster: super::Settings,
}

/// A pool, and what its object says.
#[derive(Debug)]
struct Offered {
    pool: Pool,
    mistakes: Vec<String>,
    object: VipPool,
}

/// The picture, folded object by object.
#[derive(Debug)]
pub struct Controller {
    settings: Settings,
    judge: Judge,
    services: BTreeMap<Key, Asking>,
    /// Labels of namespaces.
    namespaces: BTreeMap<String, BTreeMap<String, String>>,
    pools: BTreeMap<String, Offered>,
    edges: Edges,
    configured: Configured,
    /// Addresses that Services had at the last plan, and those of Services that went since.
    held: BTreeMap<IpAddr, Key>,
    /// Addresses that nobody has any more.
    released: BTreeMap<IpAddr, Released>,
}

impl Controller {
    /// Nothing is known.
    #[must_use]
    pub fn new(settings: Settings, judge: Judge) -> Self {
        Self {
            settings,
            judge,
            services: BTreeMap::new(),
            namespaces: BTreeMap::new(),
            pools: BTreeMap::new(),
            edges: Edges::default(),
            configured: Configured::new(),
            held: BTreeMap::new(),
            released: BTreeMap::new(),
        }
    }

    /// `loadBalancerClass` of the Services that are ours.
    #[must_use]
    pub fn class(&self) -> &str {
        &self.settings.cluster.class
    }

    /// A Service is there, or is another.
    pub fn service(&mut self, service: &core::Service) -> Change {
        let key = Key::of(&service.metadata);
        match Asking::of(service, &self.settings, &self.judge) {
            None => self.service_gone(&key),
            Some(asking) => {
                // The version changes with everything, and says nothing by itself.
                let same = |old: &Asking| Asking { version: asking.version.clone(), ..old.clone() } == asking;
                let differs = !self.services.get(&key).is_some_and(same);
                self.services.insert(key, asking);
                Change::of(differs)
            }
        }
    }

    /// A Service is gone.
    pub fn service_gone(&mut self, key: &Key) -> Change {
        let gone = self.services.remove(key);
        // There may have been no plan since it got them.
        for address in gone.iter().flat_map(|asking| &asking.has) {
            self.held.entry(*address).or_insert_with(|| key.clone());
        }
        Change::of(gone.is_some())
    }

    /// A Namespace is there, or is another.
    pub fn namespace(&mut self, namespace: &core::Namespace) -> Change {
        let name = namespace.metadata.name.clone().unwrap_or_default();
        let labels = namespace.metadata.labels.clone().unwrap_or_default();
        let old = self.namespaces.insert(name, labels.clone());
        Change::of(old != Some(labels))
    }

    /// A Namespace is gone.
    pub fn namespace_gone(&mut self, name: &str) -> Change {
        Change::of(self.namespaces.remove(name).is_some())
    }

    /// A pool is there, or is another.
    pub fn pool(&mut self, object: &VipPool) -> Change {
        let (pool, mistakes) = object.read();
        let name = pool.name.clone();
        let differs = self.pools.get(&name).is_none_or(|old| {
            old.pool != pool || old.mistakes != mistakes || old.object.status != object.status
        });
        self.pools.insert(name, Offered { pool, mistakes, object: object.clone() });
        Change::of(differs)
    }

    /// A pool is gone.
    pub fn pool_gone(&mut self, name: &str) -> Change {
        Change::of(self.pools.remove(name).is_some())
    }

    /// An edge node is there, or says something else.
    pub fn edge(&mut self, node: &EdgeNode) -> Change {
        Change::of(self.edges.put(node))
    }

    /// An edge node is gone.
    pub fn edge_gone(&mut self, name: &str) -> Change {
        Change::of(self.edges.remove(name))
    }

    /// A full list of edge nodes has come: who is not in it is gone.
    pub fn edges_are(&mut self, there: &BTreeSet<Key>) -> Change {
        Change::of(self.edges.are(there))
    }

    /// A full list of Services has come: who is not in it is gone.
    pub fn services_are(&mut self, there: &BTreeSet<Key>) -> Change {
        let gone: Vec<Key> = self.services.keys().filter(|key| !there.contains(key)).cloned().collect();
        gone.iter().for_each(|key| _ = self.service_gone(key));
        Change::of(!gone.is_empty())
    }

    /// A full list of Namespaces has come: who is not in it is gone.
    pub fn namespaces_are(&mut self, there: &BTreeSet<Key>) -> Change {
        let before = self.namespaces.len();
        self.namespaces.retain(|name, _| there.contains(&Key::new("", name)));
        Change::of(self.namespaces.len() != before)
    }

    /// A full list of pools has come: who is not in it is gone.
    pub fn pools_are(&mut self, there: &BTreeSet<Key>) -> Change {
        let before = self.pools.len();
        self.pools.retain(|name, _| there.contains(&Key::new("", name)));
        Change::of(self.pools.len() != before)
    }
}
