//! What a file asks for together with its cluster, as of now: for `plan`, which writes nothing.

use super::{Role, cluster::Cluster};
use crate::model::Desired;

/// A file's services and the cluster's.
#[derive(Clone, Debug)]
pub enum Foreseen {
    /// All of them; the file's alone where it names no cluster.
    Known(Box<Desired>),
    /// The cluster could not be asked: the file's alone.
    FileAlone {
        /// Them.
        desired: Box<Desired>,
        /// Why the cluster was not asked.
        why: String,
    },
}

/// Asks the file's cluster once, as an agent does that starts: for three seconds at most.
pub async fn foresee(file: Desired) -> Foreseen {
    if file.kubernetes.is_none() {
        return Foreseen::Known(Box::new(file));
    }
    let mut cluster = Cluster::new(Role::Balancer);
    // Whose tunnels are taken off is no service.
    let asked = cluster.configure(&Desired { decap: None, ..file.clone() }).await;
    let why = match asked {
        Ok(()) if cluster.first().await => None,
        Ok(()) => Some("the API server has not told its services within 3 s".to_owned()),
        Err(e) => Some(format!("{e:#}")),
    };
    let foreseen = match why {
        None => Foreseen::Known(Box::new(cluster.beside(&file))),
        Some(why) => Foreseen::FileAlone { desired: Box::new(file), why },
    };
    // Nothing depends on how its tasks end: the answer is there.
    drop(cluster.end().await);
    foreseen
}
