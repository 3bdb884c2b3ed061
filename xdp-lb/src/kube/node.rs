//! A Node, folded: where its tunnels end and what it may take.

use std::net::IpAddr;

use k8s_openapi::api::core::v1 as core;

use super::names::{EXCLUDE, OURS, ZONE};
use super::note::Note;
use crate::config::values;

/// The default of a file's backend.
const WEIGHT: u16 = 100;

/// What we keep of a Node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Node {
    /// Where tunnels may end, in the order of preference.
    pub addresses: Vec<IpAddr>,
    pub zone: Option<String>,
    /// Takes no new flows.
    pub drains: bool,
    pub weight: u16,
    pub notes: Vec<Note>,
}

impl Node {
    pub fn of(node: &core::Node) -> Self {
        let mut notes = Vec::new();
        let annotations = node.metadata.annotations.iter().flatten();
        let mut weight = WEIGHT;
        let mut own = None;
        let mut drains = false;
        for (name, text) in annotations.filter_map(|(k, v)| Some((k.strip_prefix(OURS)?, v.trim()))) {
            let read: Result<(), String> = match name {
                "weight" => values::weight(text).map(|w| weight = w),
                "address" => addresses(text).map(|a| own = Some(a)),
                "drain" => boolean(text).map(|b| drains = b),
                // Of edge nodes, for those that take their tunnels off: `ends` reads it.
                "sources" => Ok(()),
                _ => Err("is unknown; known on a Node: address, drain, sources, weight".to_owned()),
            };
            if let Err(why) = read {
                notes.push(Note::warning("InvalidAnnotation", format!("{OURS}{name}: {why}")));
            }
        }
        let labels = node.metadata.labels.as_ref();
        let internal = || {
            let all = node.status.iter().flat_map(|status| status.addresses.iter().flatten());
            all.filter(|a| a.type_ == "InternalIP").filter_map(|a| a.address.parse().ok()).collect()
        };
        Self {
            addresses: own.unwrap_or_else(internal),
            zone: labels.and_then(|labels| labels.get(ZONE)).cloned(),
            drains: drains || labels.is_some_and(|labels| labels.contains_key(EXCLUDE)),
            weight,
            notes,
        }
    }

    /// Where a tunnel ends: the first address of a family that tunnels can have, `v4` before `v6`.
    pub fn address(&self, v4: bool, v6: bool) -> Option<IpAddr> {
        let first =
            |wanted: bool, is: fn(&IpAddr) -> bool| self.addresses.iter().copied().find(|a| wanted && is(a));
        first(v4, IpAddr::is_ipv4).or_else(|| first(v6, IpAddr::is_ipv6))
    }
}

fn addresses(text: &str) -> Result<Vec<IpAddr>, String> {
    let one = |part: &str| {
        part.trim().parse().map_err(|_| format!("must be addresses with commas between, is {text:?}"))
    };
    text.split(',').map(one).collect()
}

fn boolean(text: &str) -> Result<bool, String> {
    match text {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err(format!("must be true or false, is {text:?}")),
    }
}
