//! This namespace's interfaces, for people.

use std::collections::BTreeMap;

use crate::{
    netlink::{Requests, links},
    nexthop::Links,
};

/// All of them; none when the kernel does not tell, for what is made of them is a courtesy.
pub fn links() -> Links {
    super::wait_for(async { anyhow::Ok(links::links(&Requests::open()?).await?) }).unwrap_or_default()
}

/// Their names by index.
pub fn names(links: &Links) -> BTreeMap<u32, String> {
    links.iter().map(|link| (link.index, link.name.clone())).collect()
}
