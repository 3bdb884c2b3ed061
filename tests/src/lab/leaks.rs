//! The check that a lab leaves nothing behind: take the note before, compare after.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context, Result};

use super::id::LabId;
use super::netlink::Netlink;
use super::remains;
use super::topology::is_lab_interface;
use super::wait::wait_until;

/// The kernel takes namespaces and their interfaces apart in the background.
const GONE_BOUND: Duration = Duration::from_secs(10);

/// What there was before.
#[derive(Debug)]
pub struct Leaks {
    links: BTreeSet<String>,
}

impl Leaks {
    /// Notes the interfaces of the namespace we run in.
    ///
    /// # Errors
    /// When they cannot be listed.
    pub fn note() -> Result<Self> {
        Ok(Self { links: own_links()? })
    }

    /// Waits until nothing of lab `id` is left: no process, namespace, pin, file, and no new interface of a lab's
    /// name out here.
    ///
    /// # Errors
    /// Lists what is left.
    pub fn check(&self, id: LabId) -> Result<()> {
        let mut left = Vec::new();
        let outcome = wait_until("a lab to be gone", GONE_BOUND, || {
            left = remains::list(|other| other == id).iter().map(|r| format!("{r:?}")).collect();
            match own_links() {
                Ok(now) => left.extend(now.difference(&self.links).filter(|l| is_lab_interface(l)).cloned()),
                Err(error) => left.push(format!("{error:#}")),
            }
            left.is_empty()
        });
        outcome.with_context(|| format!("lab {id} left behind: {}", left.join(", ")))
    }
}

fn own_links() -> Result<BTreeSet<String>> {
    Ok(Netlink::open()?.link_names()?.into_iter().collect())
}
