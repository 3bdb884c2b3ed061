//! What the cluster says of this node's own settings, as it changes, and the passwords that these name.

use std::collections::BTreeSet;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use tracing::error;

use super::{Role, cluster::name};
use crate::{
    bgp::{
        io::Secrets,
        settings::{Password, SecretKey},
    },
    config::Document,
    kube::io::{Feed, Keys, Pace, client},
    model::{Desired, Kubernetes},
};

/// What is followed, if the file names a cluster.
#[derive(Debug)]
pub(super) struct Follower {
    role: Role,
    secrets: Secrets,
    running: Option<Running>,
    latest: Option<Arc<Vec<Document>>>,
}

#[derive(Debug)]
struct Running {
    kubernetes: Kubernetes,
    node: String,
    feed: Feed<Vec<Document>>,
    keys: Keys,
}

impl Follower {
    pub(super) fn new(role: Role, secrets: Secrets) -> Self {
        Self { role, secrets, running: None, latest: None }
    }

    /// Follows the file. What runs goes on if nothing has changed. The backend side has no resources.
    ///
    /// # Errors
    /// When there is no client for the API server; what was followed before is followed on.
    pub(super) async fn configure(&mut self, file: &Desired) -> Result<()> {
        let Some(kubernetes) = file.kubernetes.as_ref().filter(|_| self.role == Role::Balancer) else {
            return self.end().await;
        };
        let node = name(&file.node);
        let is_same = |running: &Running| running.kubernetes == *kubernetes && running.node == node;
        if !self.running.as_ref().is_some_and(is_same) {
            let client = client(kubernetes.kubeconfig.as_deref()).await.context("kubernetes")?;
            self.end().await?;
            let feed = Feed::resources(&client, &node, file.inherited.clone(), Pace::default());
            let keys = Keys::start(&client, kubernetes.namespace.as_deref(), self.secrets.clone());
            self.running = Some(Running { kubernetes: kubernetes.clone(), node, feed, keys });
        }
        if let Some(running) = &self.running {
            running.keys.want(named(file));
        }
        Ok(())
    }

    /// Ends it.
    ///
    /// # Errors
    /// When it had died.
    pub(super) async fn end(&mut self) -> Result<()> {
        self.latest = None;
        let Some(Running { feed, keys, .. }) = self.running.take() else { return Ok(()) };
        keys.end().await;
        feed.end().await.context("end the task of the cluster's resources")
    }

    /// Whether everything that is followed has been listed once.
    pub(super) fn is_known(&self) -> bool {
        self.running.is_none() || self.latest.is_some()
    }

    /// What is for this node; `None` before it is known.
    pub(super) fn latest(&self) -> Option<Arc<Vec<Document>>> {
        self.latest.clone()
    }

    /// Waits until that is something else; for ever without a cluster.
    pub(super) async fn changed(&mut self) {
        let Some(Running { feed, .. }) = &mut self.running else { return std::future::pending().await };
        if feed.changed().await.is_err() {
            error!(
                "the task that follows the cluster's resources has ended; restart the agent, forwarding goes on meanwhile"
            );
            return std::future::pending().await;
        }
        self.latest = feed.latest();
    }
}

/// Secrets that routers' passwords are in.
fn named(file: &Desired) -> BTreeSet<String> {
    let peers = file.bgp.iter().flat_map(|bgp| &bgp.peers);
    let secret = |password: &Option<Password>| match password {
        Some(Password::Secret(SecretKey { name, .. })) => Some(name.clone()),
        Some(Password::File(_)) | None => None,
    };
    peers.filter_map(|peer| secret(&peer.link.password)).collect()
}
