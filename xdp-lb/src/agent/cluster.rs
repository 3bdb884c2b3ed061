//! The cluster's services beside the file's, as the daemon's loop sees them.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tracing::{error, info, warn};

use crate::{
    config::beside::{Beside, beside},
    kube::{
        Mapped, Note, Settings, Severity, Subject,
        io::{Feed, Pace, client},
    },
    model::{Desired, Kubernetes},
};

/// How long the start waits for the first full list.
const FIRST: Duration = Duration::from_secs(3);

/// What is followed, if the file names a cluster.
#[derive(Debug, Default)]
pub(super) struct Cluster {
    running: Option<(Kubernetes, Option<String>, Feed)>,
    /// What it asked for last.
    latest: Option<Arc<Mapped>>,
    /// What has been said.
    said: BTreeSet<(Subject, Note)>,
    /// What it asks for could not be carried out, and is tried again.
    is_behind: bool,
}

impl Cluster {
    /// Follows the file. What runs goes on if nothing has changed.
    ///
    /// # Errors
    /// When there is no client for the API server; what was followed before is followed on.
    pub(super) async fn configure(&mut self, file: &Desired) -> Result<()> {
        let zone = file.node.zone.clone();
        let same = |(settings, of, _): &(Kubernetes, Option<String>, Feed)| {
            file.kubernetes.as_ref() == Some(settings) && *of == zone
        };
        if let Some((_, _, feed)) = self.running.as_ref().filter(|running| same(running)) {
            feed.inherit(&file.inherited);
            return Ok(());
        }
        let Some(kubernetes) = &file.kubernetes else {
            self.latest = None;
            return self.end().await;
        };
        let client = client(kubernetes.kubeconfig.as_deref()).await.context("kubernetes")?;
        self.end().await?;
        let settings = Settings {
            class: kubernetes.class.clone(),
            classless: kubernetes.classless,
            delivery: kubernetes.delivery,
            hints_for: zone.clone().filter(|_| kubernetes.hints),
        };
        let feed = Feed::start(&client, settings, file.inherited.clone(), Pace::default());
        self.running = Some((kubernetes.clone(), zone, feed));
        Ok(())
    }

    /// Ends it.
    ///
    /// # Errors
    /// When it had died.
    pub(super) async fn end(&mut self) -> Result<()> {
        match self.running.take() {
            Some((_, _, feed)) => feed.end().await.context("end the task of the cluster"),
            None => Ok(()),
        }
    }

    /// Gives the first list a moment to come. False if it has not: the cluster is not known yet.
    pub(super) async fn first(&mut self) -> bool {
        let Some(_) = self.running else { return true };
        let came = tokio::time::timeout(FIRST, self.changed()).await.is_ok();
        if !came {
            warn!("the API server has told nothing yet: what is forwarded for the cluster stays as it is");
        }
        came
    }

    /// Waits until it asks for something else; for ever without a cluster.
    pub(super) async fn changed(&mut self) {
        let Some((_, _, feed)) = &mut self.running else { return std::future::pending().await };
        if feed.changed().await.is_err() {
            error!(
                "the task that follows the cluster has ended; restart the agent, forwarding goes on meanwhile"
            );
            return std::future::pending().await;
        }
        self.latest = feed.latest();
    }

    /// The file's services and the cluster's. What is wrong is said once.
    pub(super) fn beside(&mut self, file: &Desired) -> Desired {
        let Some(latest) = self.latest.as_ref().filter(|_| file.kubernetes.is_some()) else {
            return file.clone();
        };
        let Beside { desired, refused } = beside(file, &latest.services);
        let mut notes = latest.notes.clone();
        notes.extend(refused.into_iter().map(|(at, message)| {
            let note = Note { severity: Severity::Warning, reason: "Refused", message };
            (Subject::Service(latest.owners[at].clone()), note)
        }));
        for (subject, Note { severity, reason, message }) in notes.difference(&self.said) {
            match severity {
                Severity::Warning => warn!(%subject, reason, "{message}"),
                Severity::Normal => info!(%subject, reason, "{message}"),
            }
        }
        self.said = notes;
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
