//! Tells the cluster how this edge node is: writes its `EdgeNode` when something changes, and now and then to say that it
//! still holds.
//!
//! Packets never wait for it, and nothing depends on it: what cannot be written is tried again.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ListParams, Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::{JoinError, JoinHandle};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::{info, warn};

use crate::bgp::status::Status as Bgp;
use crate::kube::crd::{EdgeNode, EdgeNodeStatus};
use crate::kube::edge_node::{Known, same, status};
use crate::kube::{Note, Subject};
use crate::metrics::Condition;

/// Who we are in managed fields.
const MANAGER: &str = "xdp-lb-agent";
/// How often it says that nothing has changed. The controller believes it for three times that.
const RENEW: Duration = Duration::from_secs(20);
/// What changes within so long is told together. After a failure the pause doubles, up to `RENEW`.
const GENTLE: Duration = Duration::from_secs(1);
/// How long the API server may take.
const ANSWER: Duration = Duration::from_secs(10);
/// The same at the end, for which somebody waits.
const LAST: Duration = Duration::from_secs(2);

/// Where what is told comes from.
#[derive(Clone, Debug)]
pub struct Sources {
    /// The speaker of BGP; `None` while there is none.
    pub bgp: watch::Receiver<Option<Arc<Bgp>>>,
    /// How the agent is.
    pub condition: watch::Receiver<Condition>,
    /// What it has to say of objects of the cluster.
    pub notes: watch::Receiver<Arc<BTreeSet<(Subject, Note)>>>,
}

/// The task that tells.
#[derive(Debug)]
pub struct Teller {
    end: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Teller {
    /// Begins to tell, by this name and zone.
    #[must_use]
    pub fn start(client: &Client, name: &str, zone: Option<&str>, sources: Sources) -> Self {
        let (end, ended) = watch::channel(false);
        let tell = Tell {
            client: client.clone(),
            name: name.to_owned(),
            zone: zone.map(str::to_owned),
            sources,
            written: None,
            is_there: false,
            in_trouble: false,
        };
        Self { end, task: tokio::spawn(tell.run(ended)) }
    }

    /// Tells for the last time, and ends.
    ///
    /// # Errors
    /// It had died.
    pub async fn end(self) -> Result<(), JoinError> {
        self.end.send_replace(true);
        self.task.await
    }
}

struct Tell {
    client: Client,
    name: String,
    zone: Option<String>,
    sources: Sources,
    /// What was written last, and when.
    written: Option<(EdgeNodeStatus, Instant)>,
    /// The object has been made.
    is_there: bool,
    in_trouble: bool,
}

impl Tell {
    async fn run(mut self, mut ended: watch::Receiver<bool>) {
        let mut pause = GENTLE;
        loop {
            let next = self.now(None);
            let due =
                self.written.as_ref().is_none_or(|(old, at)| !same(old, &next) || at.elapsed() >= RENEW);
            let outcome = if due { self.write(next, ANSWER).await } else { Ok(()) };
            match outcome {
                Ok(()) => {
                    pause = GENTLE;
                    if std::mem::take(&mut self.in_trouble) {
                        info!(name = self.name, "the EdgeNode is written again");
                    }
                }
                Err(error) => {
                    pause = (pause * 2).min(RENEW);
                    if !std::mem::replace(&mut self.in_trouble, true) {
                        warn!(name = self.name, "write the EdgeNode: {error}; it is tried again");
                    }
                }
            }
            tokio::select! {
                _ = ended.wait_for(|ended| *ended) => break,
                () = sleep(pause) => {}
            }
            if self.in_trouble {
                continue;
            }
            let renew = self.written.as_ref().map_or_else(Instant::now, |(_, at)| *at + RENEW);
            tokio::select! {
                _ = ended.wait_for(|ended| *ended) => break,
                () = sleep_until(renew) => {}
                () = self.changed() => {}
            }
        }
        let last = self.now(Some("the agent has ended"));
        if let Err(error) = self.write(last, LAST).await {
            info!(name = self.name, "write the EdgeNode for the last time: {error}");
        }
    }

    /// What is to be told. `ended`: why it forwards no more as far as this agent knows.
    fn now(&mut self, ended: Option<&str>) -> EdgeNodeStatus {
        let bgp = self.sources.bgp.borrow_and_update().clone();
        let notes = Arc::clone(&self.sources.notes.borrow_and_update());
        let condition = self.sources.condition.borrow_and_update().clone();
        let starting = (!condition.started).then(|| "starting: the tables are being filled".to_owned());
        let degraded = starting.or_else(|| condition.degraded());
        let refused = condition.refusal();
        let known = Known {
            zone: self.zone.as_deref(),
            bgp: bgp.as_deref(),
            notes: &notes,
            degraded: ended.or(degraded.as_deref()),
            refused: refused.as_deref(),
        };
        status(known, self.written.as_ref().map(|(old, _)| old), Timestamp::now())
    }

    /// Waits until a source says something else, other than that the agent's loop turns.
    async fn changed(&mut self) {
        let said = |c: &Condition| (c.started, c.degraded(), c.refusal());
        let before = said(&self.sources.condition.borrow());
        let Sources { bgp, condition, notes } = &mut self.sources;
        let turned = async { condition.wait_for(|now| said(now) != before).await.map(drop) };
        // A source that is gone says nothing any more.
        tokio::select! {
            Ok(()) = bgp.changed() => {}
            Ok(()) = notes.changed() => {}
            Ok(()) = turned => {}
            else => std::future::pending().await,
        }
    }

    async fn write(&mut self, status: EdgeNodeStatus, bound: Duration) -> Result<(), kube::Error> {
        let wrote = timeout(bound, async {
            if !self.is_there {
                self.make().await?;
            }
            self.patch(&status).await
        });
        let outcome = wrote.await.unwrap_or(Err(kube::Error::Service("no answer".into())));
        // Whoever deleted it gets a new one.
        self.is_there = outcome.is_ok();
        if outcome.is_ok() {
            self.written = Some((status, Instant::now()));
        }
        outcome
    }

    /// The object itself. It belongs to the Node of this name, if there is one, and goes with it.
    async fn make(&self) -> Result<(), kube::Error> {
        let nodes = Api::<Node>::all(self.client.clone());
        let named = ListParams::default().fields(&format!("metadata.name={}", self.name));
        let node = nodes.list(&named).await?.items.into_iter().next();
        let owners: Vec<Value> = node
            .and_then(|node| node.metadata.uid)
            .map(|uid| json!({ "apiVersion": "v1", "kind": "Node", "name": self.name, "uid": uid }))
            .into_iter()
            .collect();
        let body = json!({
            "apiVersion": "xdp-lb.io/v1alpha1", "kind": "EdgeNode",
            "metadata": { "name": self.name, "ownerReferences": owners }, "spec": {},
        });
        self.api().patch(&self.name, &params(), &Patch::Apply(body)).await.map(drop)
    }

    async fn patch(&self, status: &EdgeNodeStatus) -> Result<(), kube::Error> {
        let body = json!({
            "apiVersion": "xdp-lb.io/v1alpha1", "kind": "EdgeNode", "metadata": { "name": self.name }, "status": status,
        });
        self.api().patch_status(&self.name, &params(), &Patch::Apply(body)).await.map(drop)
    }

    fn api(&self) -> Api<EdgeNode> {
        Api::all(self.client.clone())
    }
}

/// Nobody else writes it.
fn params() -> PatchParams {
    PatchParams::apply(MANAGER).force()
}
