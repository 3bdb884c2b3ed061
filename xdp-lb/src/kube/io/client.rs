//! A client from a kubeconfig, or from what a pod is given.

use std::path::{Path, PathBuf};
use std::time::Duration;

use kube::config::{InClusterError, KubeConfigOptions, Kubeconfig, KubeconfigError};
use thiserror::Error;

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(5);
/// How long nothing may come of a request: longer than a watch is silent ([`super::follow`]). An API server that hangs keeps its
/// connections, and whoever waits on them never hears of the others.
const ANSWER: Duration = Duration::from_secs(75);

/// There is no client.
#[derive(Debug, Error)]
pub enum Unreachable {
    /// The kubeconfig cannot be used.
    #[error("read the kubeconfig {}: {error}", .path.display())]
    Kubeconfig {
        /// Which.
        path: PathBuf,
        /// Why.
        error: KubeconfigError,
    },
    /// No kubeconfig is named, and this is no pod.
    #[error("kubernetes.kubeconfig names no file, and this is no pod with a service account: {0}")]
    NoPod(#[from] InClusterError),
    /// Certificates or TLS.
    #[error("make a client: {0}")]
    Client(#[from] kube::Error),
}

/// A client for the API server that the kubeconfig names; without one, of the pod's service account.
///
/// # Errors
/// When there is none. Nothing is asked of the API server yet.
pub async fn client(kubeconfig: Option<&Path>) -> Result<kube::Client, Unreachable> {
    let mut config = match kubeconfig {
        Some(path) => {
            let of = |error| Unreachable::Kubeconfig { path: path.to_owned(), error };
            let read = Kubeconfig::read_from(path).map_err(of)?;
            kube::Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await.map_err(of)?
        }
        None => kube::Config::incluster()?,
    };
    config.connect_timeout = Some(CONNECT);
    Ok(patient(config, ANSWER)?)
}

/// A client that waits so long for an answer, and for each part of one.
pub(super) fn patient(mut config: kube::Config, answer: Duration) -> kube::Result<kube::Client> {
    config.read_timeout = Some(answer);
    // Counted from the request: its connection may have been there for long.
    config.reset_reader_on_write = true;
    kube::Client::try_from(config)
}
