//! Services that share a ring in the configuration, and for which health or a drain says different things of its backends,
//! part: each lot gets a ring of its own. Where there is no room for all of these, the smallest lots stay with the largest one,
//! whose states they get; nobody else waits for them. Pure.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use crate::model::{Desired, Service, share_lists};
use crate::plan;

/// A lot that would part.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parting {
    /// Its services, by their place in the configuration.
    pub services: Vec<usize>,
    /// One of the lot that it can stay with.
    pub like: usize,
}

/// Who would part, the largest lots first. `file` is what the configuration says, `judged` what health and drains make of
/// it: the same services with the same lists of backends.
#[must_use]
pub fn partings(file: &[Service], judged: &[Service]) -> Vec<Parting> {
    let mut rings: BTreeMap<usize, BTreeMap<usize, Vec<usize>>> = BTreeMap::new();
    for (service, (ring, lot)) in plan::specs(file).into_iter().zip(plan::specs(judged)).enumerate() {
        rings.entry(ring).or_default().entry(lot).or_default().push(service);
    }
    let mut all = Vec::new();
    for lots in rings.into_values() {
        let mut lots: Vec<Vec<usize>> = lots.into_values().collect();
        // Stable: of equal ones the first in the file.
        lots.sort_by_key(|lot| Reverse(lot.len()));
        let mut lots = lots.into_iter();
        let Some(like) = lots.next().and_then(|stays| stays.first().copied()) else { continue };
        all.extend(lots.map(|services| Parting { services, like }));
    }
    all.sort_by_key(|parting| Reverse(parting.services.len()));
    all
}

/// `judged`, where these lots stay with those that they can stay with.
#[must_use]
pub fn without(judged: &Desired, partings: &[Parting]) -> Desired {
    let mut desired = judged.clone();
    for Parting { services, like } in partings {
        let states = judged.services[*like].backends.clone();
        for &service in services {
            for (n, backend) in states.iter().enumerate() {
                let own = &mut desired.services[service].backends[n];
                (own.state, own.share) = (backend.state, backend.share);
            }
        }
    }
    share_lists(&mut desired.services);
    desired
}
