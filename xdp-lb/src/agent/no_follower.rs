//! In place of `follower`, where the feature `kubernetes` is off: there are no resources.

use std::sync::Arc;

use anyhow::Result;

use super::Role;
use crate::{bgp::io::Secrets, config::Document, model::Desired};

/// Nothing is followed.
#[derive(Debug)]
pub(super) struct Follower;

impl Follower {
    pub(super) fn new(_: Role, _: Secrets) -> Self {
        Self
    }

    pub(super) async fn configure(&mut self, _: &Desired) -> Result<()> {
        Ok(())
    }

    pub(super) async fn end(&mut self) -> Result<()> {
        Ok(())
    }

    pub(super) fn is_known(&self) -> bool {
        true
    }

    pub(super) fn latest(&self) -> Option<Arc<Vec<Document>>> {
        None
    }

    pub(super) async fn changed(&mut self) {
        std::future::pending().await
    }
}
