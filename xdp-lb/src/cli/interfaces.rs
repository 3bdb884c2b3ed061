//! Names of this namespace's interfaces, for people.

use std::collections::BTreeMap;

use crate::netlink::{Requests, links};

/// Names by index; empty when the kernel does not tell, for names are a courtesy.
pub fn names() -> BTreeMap<u32, String> {
    super::wait_for(async {
        let links = links::links(&Requests::open()?).await?;
        anyhow::Ok(links.iter().map(|link| (link.index, link.name.clone())).collect())
    })
    .unwrap_or_default()
}
