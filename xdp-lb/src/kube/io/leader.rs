//! Leader election by a Lease.
//!
//! `kube-lease-manager` takes and renews it. Two things it leaves open are closed here: a contender that frees an expired
//! lease may free one that was taken a moment before, and a leader that cannot reach the API server goes on believing. So
//! nobody writes before it has read its own name in a Lease that has not expired ([`Lead::holds`]); and every write names
//! the version of the object that it is about.

use std::time::{Duration, SystemTime};

use k8s_openapi::api::coordination::v1::Lease;
use kube::{Api, Client};
use kube_lease_manager::{LeaseManager, LeaseManagerBuilder, LeaseManagerError};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::sleep;
use tracing::{info, warn};

/// Pause after an error.
const RETRY: Duration = Duration::from_secs(1);
/// How long giving the Lease back may take.
const RELEASE: Duration = Duration::from_secs(2);

/// Who wants to lead.
#[derive(Clone, Debug)]
pub struct Candidate {
    /// Namespace of the Lease.
    pub namespace: String,
    /// Name of the Lease.
    pub lease: String,
    /// A name that nobody else has: the pod's.
    pub identity: String,
    /// Who has not renewed for so long does not lead any more. A third is what clocks may differ by, and how long before
    /// its end a Lease is renewed. At least two seconds.
    pub duration: Duration,
}

/// Whether we lead.
#[derive(Debug)]
pub struct Lead {
    leases: Api<Lease>,
    candidate: Candidate,
    leads: watch::Receiver<bool>,
    end: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Lead {
    /// Begins to run for it.
    #[must_use]
    pub fn start(client: &Client, candidate: Candidate) -> Self {
        let (told, leads) = watch::channel(false);
        let (end, ended) = watch::channel(false);
        let task = tokio::spawn(run(client.clone(), candidate.clone(), told, ended));
        let leases = Api::namespaced(client.clone(), &candidate.namespace);
        Self { leases, candidate, leads, end, task }
    }

    /// Waits until something changes, and says whether we lead. Nothing is lost if the wait is given up.
    ///
    /// # Errors
    /// The task has died: nobody renews.
    pub async fn changed(&mut self) -> Result<bool, watch::error::RecvError> {
        self.leads.changed().await?;
        Ok(*self.leads.borrow_and_update())
    }

    /// Whether the Lease says so, too.
    ///
    /// # Errors
    /// The API server's.
    pub async fn holds(&self) -> Result<bool, kube::Error> {
        let spec = self.leases.get_opt(&self.candidate.lease).await?.and_then(|lease| lease.spec);
        let Some(spec) = spec else { return Ok(false) };
        let is_ours = spec.holder_identity.as_deref() == Some(&self.candidate.identity);
        let end = spec.renew_time.map(|time| SystemTime::from(time.0) + self.candidate.duration);
        Ok(is_ours && end.is_some_and(|end| end > SystemTime::now()))
    }

    /// Gives the Lease back, so that somebody else leads at once.
    pub async fn end(self) {
        self.end.send_replace(true);
        // It ends by itself, and bounds what it asks.
        let _ = self.task.await;
    }
}

async fn run(
    client: Client,
    candidate: Candidate,
    told: watch::Sender<bool>,
    mut ended: watch::Receiver<bool>,
) {
    loop {
        let manager = tokio::select! {
            manager = manager(&client, &candidate) => manager,
            _ = ended.changed() => return,
        };
        // Whoever deletes the Lease makes it begin anew.
        let is_over = tokio::select! {
            () = follow(&manager, &candidate, &told) => false,
            _ = ended.changed() => true,
        };
        told.send_replace(false);
        if is_over {
            match tokio::time::timeout(RELEASE, manager.release()).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => warn!("give the Lease back: {error}; it ends by itself"),
                Err(_) => warn!("give the Lease back: no answer; it ends by itself"),
            }
            return;
        }
    }
}

async fn manager(client: &Client, candidate: &Candidate) -> LeaseManager {
    let seconds = candidate.duration.as_secs().max(2);
    loop {
        let built = LeaseManagerBuilder::new(client.clone(), &candidate.lease)
            .with_namespace(&candidate.namespace)
            .with_identity(&candidate.identity)
            .with_field_manager(format!("xdp-lb-{}", candidate.identity))
            .with_duration(seconds)
            .with_grace((seconds / 3).max(1))
            .build()
            .await;
        match built {
            Ok(manager) => return manager,
            Err(error) => {
                warn!(
                    lease = candidate.lease,
                    namespace = candidate.namespace,
                    "run for the Lease: {error}; it is tried again"
                );
                sleep(RETRY).await;
            }
        }
    }
}

/// Tells who leads until the Lease is gone.
async fn follow(manager: &LeaseManager, candidate: &Candidate, told: &watch::Sender<bool>) {
    loop {
        match manager.changed().await {
            Ok(leads) => {
                let identity = &candidate.identity;
                if leads {
                    info!(identity, "leads: gives addresses and writes status");
                } else {
                    warn!(identity, "does not lead any more");
                }
                told.send_replace(leads);
            }
            Err(error) => {
                warn!("renew or take the Lease: {error}; it is tried again");
                sleep(RETRY).await;
                if matches!(error, LeaseManagerError::NonexistentLease(_)) {
                    return;
                }
            }
        }
    }
}
