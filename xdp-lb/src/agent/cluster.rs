//! The cluster beside the file, as the daemon's loop sees it: services of an edge node, and whom and what a node that
//! takes tunnels off lets in.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use kube::Client;
use tokio::sync::watch::{self, error::RecvError};
use tracing::{error, info, warn};

use super::{Role, announce::Announcer, endpoint::Reporter};
use crate::{
    config::{
        accept::{LeftOut, accept, wait_for_own},
        beside::{Beside, beside},
    },
    kube::{
        Ended, Mapped, Note, Settings, Severity, Subject,
        io::{Feed, Pace, Sources, Teller, client},
    },
    model::{Desired, Kubernetes, Node},
};

/// How long the start waits for the first full list.
const FIRST: Duration = Duration::from_secs(3);

/// What is followed, if the file names a cluster.
pub(super) struct Cluster {
    role: Role,
    running: Option<Running>,
    /// What it asked for last.
    services: Option<Arc<Mapped>>,
    /// What it lets in last.
    ends: Option<Arc<Ended>>,
    /// What has been said.
    said: watch::Sender<Arc<BTreeSet<(Subject, Note)>>>,
    /// What the cluster is told of this node; `None` before it forwards.
    tells: Option<Sources>,
    left_out: LeftOut,
    /// What it asks for could not be carried out, and is tried again.
    is_behind: bool,
}

/// The feeds, and what they were begun with.
struct Running {
    of: Of,
    services: Option<Feed>,
    ends: Option<Feed<Ended>>,
    client: Client,
    teller: Option<Teller>,
}

/// What of the file the feeds depend on.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Of {
    kubernetes: Kubernetes,
    node: Node,
    takes_tunnels_off: bool,
}

impl Cluster {
    /// Nothing is followed yet.
    pub(super) fn new(role: Role) -> Self {
        Self {
            role,
            running: None,
            services: None,
            ends: None,
            said: watch::Sender::default(),
            tells: None,
            left_out: LeftOut::default(),
            is_behind: false,
        }
    }

    /// Follows the file. What runs goes on if nothing has changed.
    ///
    /// # Errors
    /// When there is no client for the API server; what was followed before is followed on.
    pub(super) async fn configure(&mut self, file: &Desired) -> Result<()> {
        let Some(kubernetes) = &file.kubernetes else {
            (self.services, self.ends) = (None, None);
            return self.end().await;
        };
        let of = Of {
            kubernetes: kubernetes.clone(),
            node: file.node.clone(),
            takes_tunnels_off: file.decap.is_some(),
        };
        if let Some(running) = self.running.as_ref().filter(|running| running.of == of) {
            running.services.iter().for_each(|feed| feed.inherit(&file.inherited));
            return Ok(());
        }
        let client = client(kubernetes.kubeconfig.as_deref()).await.context("kubernetes")?;
        self.end().await?;
        let settings = Settings {
            class: kubernetes.class.clone(),
            classless: kubernetes.classless,
            delivery: kubernetes.delivery,
            hints_for: of.node.zone.clone().filter(|_| kubernetes.hints),
            own: Some(name(&of.node)),
            reaches_own: of.takes_tunnels_off,
        };
        let pace = Pace::default();
        let services = (self.role == Role::Balancer)
            .then(|| Feed::start(&client, settings.clone(), file.inherited.clone(), pace));
        let ends = of.takes_tunnels_off.then(|| {
            let (node, edges) = (name(&of.node), &kubernetes.edge_nodes);
            Feed::ends(&client, settings, &node, edges, file.inherited.clone(), pace)
        });
        self.running = Some(Running { of, services, ends, client, teller: None });
        self.tell();
        Ok(())
    }

    /// From now on the cluster is told how this node is, if it is an edge node.
    pub(super) fn tells(&mut self, reporter: &Reporter, announcer: &Announcer) {
        if self.role == Role::Balancer {
            let (bgp, condition) = (announcer.status(), reporter.conditions());
            self.tells = Some(Sources { bgp, condition, notes: self.said.subscribe() });
            self.tell();
        }
    }

    fn tell(&mut self) {
        if let (Some(running), Some(sources)) = (&mut self.running, &self.tells) {
            let (name, zone) = (name(&running.of.node), running.of.node.zone.as_deref());
            running.teller = Some(Teller::start(&running.client, &name, zone, sources.clone()));
        }
    }

    /// Ends it.
    ///
    /// # Errors
    /// When it had died.
    pub(super) async fn end(&mut self) -> Result<()> {
        let Some(Running { services, ends, teller, .. }) = self.running.take() else { return Ok(()) };
        if let Some(teller) = teller {
            teller.end().await.context("end the task that tells the cluster of this node")?;
        }
        if let Some(feed) = services {
            feed.end().await.context("end the task of the cluster's services")?;
        }
        if let Some(feed) = ends {
            feed.end().await.context("end the task of the cluster's edge nodes")?;
        }
        Ok(())
    }

    /// Gives the first lists a moment to come. False if they have not: the cluster is not known yet.
    pub(super) async fn first(&mut self) -> bool {
        let all = async {
            while !self.is_known() {
                self.changed().await;
            }
        };
        let came = tokio::time::timeout(FIRST, all).await.is_ok();
        if !came {
            warn!("the API server has told nothing yet: what is forwarded for the cluster stays as it is");
        }
        came
    }

    /// Whether everything that is followed has been listed once.
    pub(super) fn is_known(&self) -> bool {
        let Some(running) = &self.running else { return true };
        (running.services.is_none() || self.services.is_some())
            && (running.ends.is_none() || self.ends.is_some())
    }

    /// Waits until it asks for something else; for ever without a cluster.
    pub(super) async fn changed(&mut self) {
        let Some(Running { services, ends, .. }) = &mut self.running else {
            return std::future::pending().await;
        };
        let changed = tokio::select! {
            changed = of(services) => changed.map(|told| self.services = told),
            changed = of(ends) => changed.map(|told| self.ends = told),
        };
        if changed.is_err() {
            error!(
                "the task that follows the cluster has ended; restart the agent, forwarding goes on meanwhile"
            );
            std::future::pending().await
        }
    }

    /// The file's state and the cluster's. What is wrong is said once.
    pub(super) fn beside(&mut self, file: &Desired) -> Desired {
        if file.kubernetes.is_none() {
            return file.clone();
        }
        let mut notes = BTreeSet::new();
        let mut desired = file.clone();
        if let Some(ends) = &self.ends {
            let (opened, left) = accept(file, &ends.accepted);
            desired = opened;
            notes.extend(ends.notes.iter().cloned());
            tell_left(&left, &self.left_out);
            self.left_out = left;
        }
        if let Some(services) = &self.services {
            let put = beside(&desired, &services.services);
            let Beside { desired: all, refused } = put;
            desired = all;
            wait_for_own(&mut desired, &services.own);
            notes.extend(services.notes.iter().cloned());
            notes.extend(refused.into_iter().map(|(at, message)| {
                let note = Note { severity: Severity::Warning, reason: "Refused", message };
                (Subject::Service(services.owners[at].clone()), note)
            }));
        }
        for (subject, Note { severity, reason, message }) in notes.difference(&self.said.borrow()) {
            match severity {
                Severity::Warning => warn!(%subject, reason, "{message}"),
                Severity::Normal => info!(%subject, reason, "{message}"),
            }
        }
        self.said.send_if_modified(|said| {
            let differs = **said != notes;
            if differs {
                *said = Arc::new(notes);
            }
            differs
        });
        desired
    }

    /// Notes whether what it asks for is carried out.
    pub(super) fn carried_out(&mut self, is_done: bool) {
        self.is_behind = !is_done;
    }

    /// Whether what it asks for waits for another try.
    pub(super) fn is_behind(&self) -> bool {
        self.is_behind
    }
}

/// What the cluster calls this node.
pub(super) fn name(node: &Node) -> String {
    let host = || nix::unistd::gethostname().unwrap_or_default().to_string_lossy().into_owned();
    if node.name.is_empty() { host() } else { node.name.clone() }
}

/// Waits for a feed; for ever without one.
async fn of<T: PartialEq + Send + Sync + 'static>(
    feed: &mut Option<Feed<T>>,
) -> Result<Option<Arc<T>>, RecvError> {
    let Some(feed) = feed else { return std::future::pending().await };
    feed.changed().await?;
    Ok(feed.latest())
}

fn tell_left(left: &LeftOut, before: &LeftOut) {
    if left.vips.len() > before.vips.len() {
        let count = left.vips.len();
        warn!(count, first = ?left.vips.first(), "VIPs of the cluster do not fit: raise `limits.vips`");
    }
    if left.pods.len() > before.pods.len() {
        let count = left.pods.len();
        warn!(count, first = ?left.pods.first(), "ports of VIPs at pods of this node do not fit: raise `limits.pod_ports`");
    }
    if left.clashes.len() > before.clashes.len() {
        let count = left.clashes.len();
        warn!(
            count,
            first = ?left.clashes.first(),
            "ports of VIPs at pods of this node are left out: the file leads them elsewhere, or the pod's address is a VIP"
        );
    }
    if left.sources.len() > before.sources.len() {
        warn!(
            count = left.sources.len(),
            first = ?left.sources.first(),
            "too many edge nodes to compare with: their tunnels are dropped; give them sources of one prefix and name it in \
             `decap.allow_sources`"
        );
    }
}
