//! The cluster's resources for this node beside its files: what of both is in force.
//!
//! ```text
//!   files, latest ---+
//!   resources, latest +--> parse_with: good? -> in force, kept for a start without the cluster
//!   those in force ---'              not good? -> told; files with the resources in force, or the other way round, or nothing new
//! ```
//!
//! A section that moves from one to the other stands in both for a while, which is a mistake, and what is in force stays. Whoever
//! takes it away where it was has no gap: both are judged anew when either changes.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use tracing::{error, info, warn};

use super::{Role, follower::Follower};
use crate::{
    bgp::io::Secrets,
    config::{Checked, Document},
    file::{Refused, Texts},
    intake::Offer,
    keep::Keep,
    model::Desired,
};

/// How long the start waits for the first full list.
const FIRST: Duration = Duration::from_secs(3);

/// Resources that are for one node.
pub(super) type Documents = Arc<Vec<Document>>;

/// What is known of them, and what of it is in force.
#[derive(Debug)]
pub(super) struct Resources {
    follower: Follower,
    secrets: Secrets,
    in_force: Documents,
    /// What was judged last, whatever came of it.
    judged: Documents,
    /// Files that are good by themselves and not with what is in force.
    pending: Option<Offer>,
}

impl Resources {
    pub(super) fn new(role: Role) -> Self {
        let secrets = Secrets::default();
        Self {
            follower: Follower::new(role, secrets.clone()),
            secrets,
            in_force: Documents::default(),
            judged: Documents::default(),
            pending: None,
        }
    }

    /// Passwords of routers.
    pub(super) fn secrets(&self) -> Secrets {
        self.secrets.clone()
    }

    /// Follows the file. What runs goes on if nothing has changed.
    ///
    /// # Errors
    /// When there is no client for the API server; what was followed before is followed on.
    pub(super) async fn configure(&mut self, file: &Desired) -> Result<()> {
        if file.kubernetes.is_none() {
            self.judged = Documents::default();
        }
        self.follower.configure(file).await
    }

    /// Ends it.
    ///
    /// # Errors
    /// When it had died.
    pub(super) async fn end(&mut self) -> Result<()> {
        self.follower.end().await
    }

    /// Gives the first lists a moment to come. False if they have not.
    pub(super) async fn first(&mut self) -> bool {
        let all = async {
            while !self.is_known() {
                self.changed().await;
            }
        };
        let came = tokio::time::timeout(FIRST, all).await.is_ok();
        if !came {
            warn!("the API server has not told what is set for this node: what was in force last is");
        }
        came
    }

    /// Whether they have been listed once, where there is a cluster.
    pub(super) fn is_known(&self) -> bool {
        self.follower.is_known()
    }

    /// Those that are for this node; `None` before they are known.
    pub(super) fn latest(&self) -> Option<Documents> {
        self.follower.latest()
    }

    /// Waits until they are others; for ever without a cluster.
    pub(super) async fn changed(&mut self) {
        self.follower.changed().await;
    }

    /// What is in force at the start, and why it is not what the cluster says. The files are good by themselves.
    pub(super) fn begin(&mut self, offer: &Offer, keep: &Keep) -> (Checked, Option<String>) {
        let kept = keep.resources().unwrap_or_else(|e| {
            error!("what the cluster's resources said last is not known: {e}");
            None
        });
        let mut why = None;
        let latest = self.latest();
        self.judged = latest.clone().unwrap_or_default();
        for documents in latest.into_iter().chain(kept.map(Arc::new)) {
            match joined(&offer.texts, &offer.checked, &documents) {
                Ok(checked) => {
                    self.in_force = documents;
                    return (checked, why);
                }
                Err(e) => _ = why.get_or_insert(e.to_string()),
            }
        }
        (offer.checked.clone(), why)
    }

    /// With what files may be in force, the best first.
    pub(super) fn choices(&mut self) -> Vec<Documents> {
        let mut choices: Vec<Documents> = self.latest().into_iter().collect();
        if let Some(latest) = choices.first() {
            self.judged = Arc::clone(latest);
        }
        if !choices.contains(&self.in_force) {
            choices.push(Arc::clone(&self.in_force));
        }
        choices
    }

    /// Those of the cluster, if they have not been judged.
    pub(super) fn news(&mut self) -> Option<Documents> {
        let latest = self.latest().filter(|latest| *latest != self.judged)?;
        self.judged = Arc::clone(&latest);
        Some(latest)
    }

    /// Files that wait for other resources.
    pub(super) fn pending(&self) -> Option<Offer> {
        self.pending.clone()
    }

    /// These files wait for other resources; `None`: the latest are in force, or do not count.
    pub(super) fn wait(&mut self, offer: Option<Offer>) {
        self.pending = offer;
    }

    /// Kind and name of those that are in force.
    pub(super) fn names(&self) -> Vec<String> {
        self.in_force.iter().map(|document| document.name.clone()).collect()
    }

    /// What the cluster said at the start is in force, if it could be used.
    pub(super) fn started(&self, keep: Option<&Keep>) {
        if self.latest().as_ref() == Some(&self.in_force) {
            store(&self.in_force, keep);
        }
    }

    /// These are in force now.
    pub(super) fn hold(&mut self, documents: Documents, keep: Option<&Keep>) {
        if self.in_force == documents {
            return;
        }
        store(&documents, keep);
        self.in_force = documents;
        info!(resources = ?self.names(), "the cluster's resources in force");
    }
}

/// For a start without the API server.
fn store(documents: &[Document], keep: Option<&Keep>) {
    if let Some(Err(e)) = keep.map(|keep| keep.set_resources(documents)) {
        warn!("a start without the API server will not know of what it says: {e}");
    }
}

/// What files ask for with these resources. `alone` is what they ask for by themselves.
///
/// # Errors
/// [`Refused`].
pub(super) fn joined(texts: &Texts, alone: &Checked, documents: &[Document]) -> Result<Checked, Refused> {
    if alone.desired.kubernetes.is_none() { Ok(alone.clone()) } else { texts.check_with(documents) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Kind;

    const ALONE: &str = "version: 1\ninterfaces: [{ name: eth0 }]\nkubernetes: {}\n";

    fn offer(more: &str) -> Offer {
        let texts = Texts::one("edge.yaml", &format!("{ALONE}{more}"));
        Offer { checked: texts.check().unwrap(), texts }
    }

    fn config(text: &str) -> Vec<Document> {
        vec![Document { kind: Kind::Sections, name: "EdgeConfig edge".into(), text: text.into() }]
    }

    fn keep(name: &str) -> Keep {
        let dir = std::env::temp_dir().join(format!("xdp-lb-resources-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        Keep::at(&dir)
    }

    #[test]
    fn a_start_without_the_cluster_is_as_it_was_last() {
        let keep = keep("start");
        let seed = config(r#"{"maglev":{"seed":7}}"#);
        let start = |more: &str| {
            let mut resources = Resources::new(Role::Balancer);
            let (checked, why) = resources.begin(&offer(more), &keep);
            (checked.desired.seed, why, resources.in_force.len())
        };
        assert_eq!(start(""), (0, None, 0), "nothing was ever in force");
        let mut before = Resources::new(Role::Balancer);
        before.hold(Arc::new(seed), Some(&keep));
        assert_eq!(start(""), (7, None, 1));
        // The file has the section by now: it counts alone, and that is told.
        let (seed, why, documents) = start("maglev: { seed: 9 }\n");
        assert_eq!((seed, documents), (9, 0));
        assert!(
            why.unwrap().contains(
                "EdgeConfig edge: spec.maglev: stands elsewhere, too (maglev in edge.yaml, line 4)"
            )
        );
        before.hold(Arc::default(), Some(&keep));
        assert_eq!(start(""), (0, None, 0), "what is gone is not kept");
        std::fs::remove_dir_all(keep.path()).unwrap();
    }

    #[test]
    fn a_file_without_a_cluster_has_no_resources() {
        let offer = offer("");
        let other = Texts::one("edge.yaml", &ALONE.replace("kubernetes: {}", "services: []"));
        let alone = other.check().unwrap();
        let seed = config(r#"{"maglev":{"seed":7}}"#);
        assert_eq!(joined(&other, &alone, &seed).unwrap().desired.seed, 0);
        assert_eq!(joined(&offer.texts, &offer.checked, &seed).unwrap().desired.seed, 7);
    }

    #[test]
    fn a_name_of_the_environment_that_is_not_set_is_a_mistake_with_its_place() {
        let said =
            offer("").texts.check_with(&config(r#"{"encap":{"source_v4":"${XDP_LB_NOT_SET_HERE}/32"}}"#));
        let said = said.unwrap_err().to_string();
        assert!(said.starts_with("EdgeConfig edge: spec: ${XDP_LB_NOT_SET_HERE} is not set"), "{said}");
    }
}
