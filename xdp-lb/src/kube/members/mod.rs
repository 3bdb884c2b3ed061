//! Who the backends of a port are: nodes with endpoints of it, or the endpoints themselves.
//!
//! ```text
//!   delivery node, host -> nodes: a node, its gate open in proportion to its ready endpoints
//!   delivery pod --------> pods: each endpoint, open or not
//! ```

mod nodes;
mod pods;

use super::cluster::Cluster;
use super::names::Key;
use super::note::Note;
use super::policy::Policy;
use super::slice::{Family, Place, Slice};
use super::wanted::{Port, Wanted};
use crate::config::import::Member;
use crate::model::{Delivery, Inherited};

/// One port of a Service, in one family.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked<'a> {
    pub key: &'a Key,
    pub wanted: &'a Wanted,
    pub port: &'a Port,
    pub family: Family,
    pub policy: &'a Policy,
    pub inherited: &'a Inherited,
}

impl Cluster {
    /// The backends of a port, sorted by address.
    pub(super) fn members(&self, asked: &Asked<'_>, notes: &mut Vec<Note>) -> Vec<Member> {
        match asked.policy.delivery(&self.settings) {
            Delivery::Node | Delivery::Host => self.nodes_of(asked, notes),
            Delivery::Pod => self.pods_of(asked, notes),
        }
    }

    /// Slices that have the port.
    fn slices_with(&self, asked: &Asked<'_>) -> Vec<&Slice> {
        let all = self.slices_of.get(asked.key).into_iter().flatten().map(|key| &self.slices[key]);
        all.filter(|slice| slice.family == asked.family && slice.port(asked.port).is_some()).collect()
    }

    /// The zone that hints are followed for. As service proxies do: they count only if all have one and somebody is hinted
    /// for here.
    fn hinted_zone(&self, slices: &[&Slice]) -> Option<&str> {
        let places = || slices.iter().flat_map(|slice| slice.places.iter()).filter(|place| place.ready > 0);
        self.settings.hints_for.as_deref().filter(|zone| {
            places().all(|place| !self.names.name(place.zones).is_empty())
                && places().any(|place| self.is_hinted(place, zone))
        })
    }

    /// Whether endpoints are for clients of a zone.
    fn is_hinted(&self, place: &Place, zone: &str) -> bool {
        self.names.name(place.zones).contains(&format!(",{zone},"))
    }
}

fn homeless(slice: &Slice) -> Option<Note> {
    let message = || format!("{} endpoints are on no node and get nothing", slice.homeless);
    (slice.homeless > 0).then(|| Note::warning("NoNode", message()))
}

fn unknown(node: &str) -> Note {
    Note::warning("UnknownNode", format!("endpoints on node {node}, which does not exist, get nothing"))
}
