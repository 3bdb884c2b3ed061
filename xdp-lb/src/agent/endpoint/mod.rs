//! `metrics.listen`: `/metrics`, `/healthz` and `/readyz` over HTTP.
//!
//! ```text
//!   daemon -> Reporter -> watch<Condition> --+
//!   health -> watch<HealthSnapshot> ---------+-> Source -> metrics::text, metrics::ready -> scrape
//!   pinned maps, mapped to be read ----------+
//! ```
//!
//! Nothing here waits for the reconcile task or keeps it waiting, and nothing here writes to a map. The server has a
//! thread of its own: plans of thousands of services take seconds, and the daemon's runtime does nothing else meanwhile.

mod report;
mod source;

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use tokio::{
    runtime::Builder,
    sync::watch,
    task::{JoinHandle, spawn_blocking},
};
use tracing::info;

pub use self::report::Reporter;
use self::source::Source;
use crate::{dataplane::BpffsRoot, health::HealthSnapshot, model::Desired, scrape};

/// The endpoint, listening or not.
pub struct Endpoint {
    root: BpffsRoot,
    reporter: Reporter,
    health: watch::Receiver<Arc<HealthSnapshot>>,
    source: Option<Arc<Source>>,
    server: Option<Server>,
}

struct Server {
    address: SocketAddr,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Endpoint {
    /// Name of its task.
    pub const TASK: &'static str = "metrics";

    /// Listens where `desired` says, if it does. The maps must be pinned.
    ///
    /// # Errors
    /// When nobody can listen there, or the maps cannot be read.
    pub async fn start(
        root: &BpffsRoot,
        desired: &Desired,
        reporter: Reporter,
        health: watch::Receiver<Arc<HealthSnapshot>>,
    ) -> Result<Self> {
        let mut endpoint = Self { root: root.clone(), reporter, health, source: None, server: None };
        endpoint.configure(desired).await?;
        Ok(endpoint)
    }

    /// Follows a change of the configuration.
    ///
    /// # Errors
    /// When nobody can listen there: then it goes on where it listened.
    pub async fn configure(&mut self, desired: &Desired) -> Result<()> {
        let wanted = desired.metrics.listen;
        if let Some(source) = &self.source {
            source.follow(desired);
        }
        if wanted == self.server.as_ref().map(|server| server.address) {
            return Ok(());
        }
        let next = match wanted {
            Some(address) => Some(self.listen(address, desired)?),
            None => None,
        };
        self.close().await?;
        self.server = next;
        Ok(())
    }

    fn listen(&mut self, address: SocketAddr, desired: &Desired) -> Result<Server> {
        let listener = scrape::bind("metrics.listen", address)?;
        let source = match &self.source {
            Some(source) => Arc::clone(source),
            None => {
                let source = Source::open(&self.root, &self.reporter, self.health.clone())?;
                source.follow(desired);
                Arc::clone(self.source.insert(Arc::new(source)))
            }
        };
        let (stop, stopped) = watch::channel(false);
        let runtime =
            Builder::new_current_thread().enable_all().build().context("start a runtime for metrics")?;
        let task = spawn_blocking(move || runtime.block_on(scrape::serve(listener, source, stopped)));
        info!(%address, "metrics can be scraped");
        Ok(Server { address, stop, task })
    }

    async fn close(&mut self) -> Result<()> {
        let Some(server) = self.server.take() else { return Ok(()) };
        server.stop.send_replace(true);
        server.task.await.with_context(|| format!("end the task {}", Self::TASK))
    }

    /// Ends it, and gives up the maps.
    ///
    /// # Errors
    /// When the task panicked.
    pub async fn end(mut self) -> Result<()> {
        self.close().await
    }
}
