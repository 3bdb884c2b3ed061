//! What a file asks for together with its cluster, as of now: for `plan`, which writes nothing.

use anyhow::Result;

use super::{
    Role,
    cluster::Cluster,
    resources::{Resources, joined},
};
use crate::{config::Checked, file::Texts, model::Desired};

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

/// Asks the file's cluster once, as an agent does that starts: for a few seconds at most.
///
/// # Errors
/// [`crate::file::Refused`]: the file cannot be used with what the cluster says of this node's settings.
pub async fn foresee(texts: &Texts, alone: Checked) -> Result<Foreseen> {
    if alone.desired.kubernetes.is_none() {
        return Ok(Foreseen::Known(Box::new(alone.desired)));
    }
    let (mut cluster, mut resources) = (Cluster::new(Role::Balancer), Resources::new(Role::Balancer));
    let foreseen = ask(texts, &alone, &mut cluster, &mut resources).await;
    // Nothing depends on how its tasks end: the answer is there.
    drop((cluster.end().await, resources.end().await));
    match foreseen? {
        Ok(desired) => Ok(Foreseen::Known(Box::new(desired))),
        Err(why) => Ok(Foreseen::FileAlone { desired: Box::new(alone.desired), why }),
    }
}

/// The inner error is why there is no answer.
async fn ask(
    texts: &Texts,
    alone: &Checked,
    cluster: &mut Cluster,
    resources: &mut Resources,
) -> Result<Result<Desired, String>> {
    let silent = || Ok(Err("the API server has not told its services within 3 s".to_owned()));
    if let Err(e) = resources.configure(&alone.desired).await {
        return Ok(Err(format!("{e:#}")));
    }
    if !resources.first().await {
        return silent();
    }
    let file = joined(texts, alone, &resources.latest().unwrap_or_default())?.desired;
    // Whose tunnels are taken off is no service.
    if let Err(e) = cluster.configure(&Desired { decap: None, ..file.clone() }).await {
        return Ok(Err(format!("{e:#}")));
    }
    if !cluster.first().await {
        return silent();
    }
    Ok(Ok(cluster.beside(&file)))
}
