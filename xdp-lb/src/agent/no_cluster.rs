//! In place of `cluster`, where the feature `kubernetes` is off: a file that names a cluster is refused.

use anyhow::{Result, bail};

use super::{Role, announce::Announcer, endpoint::Reporter};
use crate::model::Desired;

/// No cluster.
#[derive(Debug)]
pub(super) struct Cluster;

impl Cluster {
    pub(super) fn new(_: Role) -> Self {
        Self
    }

    pub(super) fn is_known(&self) -> bool {
        true
    }

    pub(super) async fn configure(&mut self, file: &Desired) -> Result<()> {
        if file.kubernetes.is_some() {
            bail!("kubernetes: this xdp-lb was built without it");
        }
        Ok(())
    }

    pub(super) async fn end(&mut self) -> Result<()> {
        Ok(())
    }

    pub(super) async fn first(&mut self) -> bool {
        true
    }

    pub(super) async fn changed(&mut self) {
        std::future::pending().await
    }

    pub(super) fn beside(&mut self, file: &Desired) -> Desired {
        file.clone()
    }

    pub(super) fn tells(&mut self, _: &Reporter, _: &Announcer) {}

    pub(super) fn carried_out(&mut self, _: bool) {}

    pub(super) fn is_behind(&self) -> bool {
        false
    }
}
