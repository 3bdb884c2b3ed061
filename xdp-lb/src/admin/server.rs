//! The server's life: a thread that listens where the configuration says, and what its answers are made of.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use tokio::{
    net::UnixListener,
    runtime::Builder,
    sync::{mpsc, watch},
    task::{JoinHandle, spawn_blocking},
};
use tracing::{error, info};

use super::{Asked, BindError, Queue, View, routes, socket};
use crate::{
    dataplane::{BpffsRoot, KernelMaps},
    keep::History,
    metrics::Condition,
    model,
};

/// Commands that wait for the loop.
const QUEUE: usize = 16;

/// Everything that answers are made of.
pub struct Desk {
    pub(super) commands: mpsc::Sender<Asked>,
    pub(super) view: watch::Receiver<View>,
    pub(super) condition: Box<dyn Fn() -> Condition + Send + Sync>,
    pub(super) history: History,
    pub(super) maps: KernelMaps,
}

impl Desk {
    /// Answers by what the loop says of itself, the history, and the maps that are pinned at `root`.
    ///
    /// # Errors
    /// Which map cannot be opened.
    pub fn open(
        root: &BpffsRoot,
        view: watch::Receiver<View>,
        condition: impl Fn() -> Condition + Send + Sync + 'static,
        history: History,
    ) -> Result<(Arc<Self>, Queue)> {
        let (commands, queue) = mpsc::channel(QUEUE);
        let maps = KernelMaps::open_read_only(root).context("open the maps for the admin API")?;
        Ok((Arc::new(Self { commands, view, condition: Box::new(condition), history, maps }), queue))
    }
}

/// The server, listening or not.
pub struct Server {
    desk: Arc<Desk>,
    /// The command line's word counts before the file's.
    fixed: Option<PathBuf>,
    running: Option<Running>,
}

struct Running {
    wanted: model::Admin,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
    /// The last of it: the socket's file.
    _bound: socket::Bound,
}

impl Server {
    /// Name of its task.
    pub const TASK: &'static str = "admin";

    /// Not listening yet. `fixed` is where the command line wants it.
    #[must_use]
    pub fn new(desk: Arc<Desk>, fixed: Option<PathBuf>) -> Self {
        Self { desk, fixed, running: None }
    }

    /// Listens where `wanted` says. A node without it forwards all the same: what fails is logged, and tried again with
    /// the next configuration.
    pub async fn configure(&mut self, wanted: &model::Admin) {
        if self.running.as_ref().is_some_and(|running| running.wanted == *wanted) {
            return;
        }
        self.close().await;
        let path = self.fixed.clone().unwrap_or_else(|| wanted.socket.clone());
        match self.listen(&path, wanted) {
            Ok(running) => {
                info!(socket = %path.display(), "commands are taken");
                self.running = Some(running);
            }
            Err(e) => error!("no commands can be taken: {e}"),
        }
    }

    fn listen(&self, path: &Path, wanted: &model::Admin) -> Result<Running, BindError> {
        let (listener, bound) = socket::bind(path, wanted.group.as_deref())?;
        let failed = |source| BindError::System { what: "listen at", path: path.to_owned(), source };
        let runtime = Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let (stop, mut stopped) = watch::channel(false);
        let router = routes::router(Arc::clone(&self.desk));
        let serve = async move {
            let listener = UnixListener::from_std(listener)?;
            let stopped = async move { drop(stopped.wait_for(|stop| *stop).await) };
            axum::serve(listener, router).with_graceful_shutdown(stopped).await
        };
        let task = spawn_blocking(move || {
            if let Err(e) = runtime.block_on(serve) {
                error!("the admin API has ended: {e}");
            }
            // Whoever still waits for an answer has hung on to a connection.
            runtime.shutdown_background();
        });
        Ok(Running { wanted: wanted.clone(), stop, task, _bound: bound })
    }

    async fn close(&mut self) {
        let Some(running) = self.running.take() else { return };
        running.stop.send_replace(true);
        if let Err(e) = running.task.await {
            error!("end the task {}: {e}", Self::TASK);
        }
    }

    /// Ends it.
    pub async fn end(mut self) {
        self.close().await;
    }
}
