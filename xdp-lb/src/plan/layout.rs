//! Who shares a ring with whom: services that are equal in all that decides slots, members and headers.
//!
//! ```text
//!   file:  a = b, c, d new = a            groups:  a b, keeping R1
//!   maps:  R1 { a b c }                            c, leaving R1 for a copy of it
//!                                                  d joins a b: nobody remembers a flow of it
//! ```
//!
//! A ring is kept by one specification; services on it that want another leave for a copy, which has the same
//! members under the same indices and the same slots, dirty ones included.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use super::{Inputs, PlanError, room::Room};
use crate::{
    gates,
    model::{self, AdminState, DrainPolicy, Encap, Removal, Share, TableSize},
    state::{Observed, Place, Ring},
    template::from_map,
};

/// The groups of one configuration over what is there.
pub(super) struct Layout<'a> {
    pub(super) groups: Vec<Group<'a>>,
    /// Groups by specification.
    pub(super) specs: Vec<Vec<usize>>,
    /// Id of every service, in the file's order.
    pub(super) ids: Vec<u16>,
}

/// A service with its id.
pub(super) type Named<'a> = (&'a model::Service, u16);

/// Services that will share a ring after this plan.
pub(super) struct Group<'a> {
    /// One of them: what all have in common.
    pub(super) like: &'a model::Service,
    /// Those that are there, with their ids, in the file's order.
    pub(super) present: Vec<Named<'a>>,
    /// Those that are not there yet.
    pub(super) newcomers: Vec<Named<'a>>,
    /// What becomes of the ring that those present are on.
    pub(super) source: Source,
    /// Nothing is wanted of its services that was not before: neither they nor their ring are looked at.
    pub(super) is_left: bool,
}

/// Where the ring of a group comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// It is new.
    Nothing,
    /// This ring, changed in place.
    Keeps(Place),
    /// A copy of this ring, which others keep.
    Leaves(Place),
}

impl Group<'_> {
    /// The ring that is kept.
    pub(super) fn kept(&self) -> Option<Place> {
        match self.source {
            Source::Keeps(place) => Some(place),
            Source::Nothing | Source::Leaves(_) => None,
        }
    }
}

/// Everything that decides slots, members and headers.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Spec<'a> {
    table_size: TableSize,
    encap: &'a Encap,
    drain: DrainPolicy,
    removal: Removal,
    /// Number of the list of backends, equal for equal lists.
    backends: usize,
}

impl<'a> Layout<'a> {
    pub(super) fn of(
        inputs: &Inputs<'a>,
        there: &HashMap<&str, u16>,
        room: &mut Room,
    ) -> Result<Self, PlanError> {
        let Inputs { desired, observed, .. } = *inputs;
        let services = &desired.services;
        let id = |s: &model::Service| there.get(&*s.name).map_or_else(|| room.id(), |&id| Ok(id));
        let ids: Vec<u16> = services.iter().map(id).collect::<Result<_, _>>()?;
        let spec_of = specs(services);
        let specs = spec_of.iter().max().map_or(0, |last| last + 1);

        // Services by specification and by the ring that they are on; the new ones apart.
        let mut present: Vec<BTreeMap<Place, Vec<Named>>> = vec![BTreeMap::new(); specs];
        let mut newcomers: Vec<Vec<Named>> = vec![Vec::new(); specs];
        for ((service, &id), &spec) in services.iter().zip(&ids).zip(&spec_of) {
            match observed.services.get(&id) {
                Some(entry) => {
                    present[spec].entry(Place::of(entry.config())).or_default().push((service, id));
                }
                None => newcomers[spec].push((service, id)),
            }
        }
        let keepers = keepers(&present, observed);
        let mut layout = Self { groups: Vec::new(), specs: vec![Vec::new(); specs], ids };
        for (spec, (present, newcomers)) in present.into_iter().zip(newcomers).enumerate() {
            layout.specify(spec, present, newcomers, &keepers, inputs.only);
        }
        Ok(layout)
    }

    /// Adds the groups of one specification, the one that is best to join first.
    fn specify(
        &mut self,
        spec: usize,
        present: BTreeMap<Place, Vec<Named<'a>>>,
        mut newcomers: Vec<Named<'a>>,
        keepers: &BTreeMap<Place, usize>,
        only: Option<&BTreeSet<String>>,
    ) {
        let mut rings: Vec<(Place, Vec<Named>)> = present.into_iter().collect();
        let keeps = |place: &Place| keepers.get(place) == Some(&spec);
        rings.sort_by_key(|(place, services)| (!keeps(place), Reverse(services.len())));
        for (place, present) in rings {
            let Some(&(like, _)) = present.first() else { continue };
            let source = if keeps(&place) { Source::Keeps(place) } else { Source::Leaves(place) };
            // Nobody remembers a flow of a service that is new: any ring of its specification will do.
            let newcomers = std::mem::take(&mut newcomers);
            let wanted = |(s, _): &Named| only.is_none_or(|only| only.contains(&s.name));
            let is_left = keeps(&place) && newcomers.is_empty() && !present.iter().any(wanted);
            self.add(spec, Group { like, present, newcomers, source, is_left });
        }
        if let Some(&(like, _)) = newcomers.first() {
            let (present, source) = (Vec::new(), Source::Nothing);
            self.add(spec, Group { like, present, newcomers, source, is_left: false });
        }
    }

    fn add(&mut self, spec: usize, group: Group<'a>) {
        self.specs[spec].push(self.groups.len());
        self.groups.push(group);
    }
}

/// What of a backend shows in a ring: its address, its weight, its state and its gate. Ports and ids that it owns are each
/// service's own, and its zone is for people.
pub(crate) type Listed = (IpAddr, u16, AdminState, Share);

/// What of a backend shows in a ring.
pub(crate) fn listed(backend: &model::Backend) -> Listed {
    let gate = gates::opening(backend.state, backend.share);
    (backend.address, backend.weight, backend.state, gate)
}

/// Everything that decides slots, members and headers, by its content: services of one are on one ring.
pub(crate) type RingSpec = (TableSize, Encap, DrainPolicy, Removal, Vec<Listed>);

/// The specification of a service's ring.
pub(crate) fn ring_spec(service: &model::Service) -> RingSpec {
    let model::Service { table_size, encap, drain, removal, backends, .. } = service;
    (*table_size, *encap, *drain, *removal, backends.iter().map(listed).collect())
}

/// The specification of every service, numbered in the order of their first appearance: services of one number share
/// a ring.
#[must_use]
pub fn specs(services: &[model::Service]) -> Vec<usize> {
    let mut known: HashMap<Spec, usize> = HashMap::new();
    let mut lists: HashMap<Vec<Listed>, usize> = HashMap::new();
    // To read a list of hundreds once for each of thousands of services would be the whole cost of a plan.
    let mut seen: HashMap<*const Vec<model::Backend>, usize> = HashMap::new();
    services
        .iter()
        .map(|s| {
            let backends = *seen.entry(s.backends.identity()).or_insert_with(|| {
                let next = lists.len();
                *lists.entry(s.backends.iter().map(listed).collect()).or_insert(next)
            });
            let (table_size, drain, removal) = (s.table_size, s.drain, s.removal);
            let next = known.len();
            *known.entry(Spec { table_size, encap: &s.encap, drain, removal, backends }).or_insert(next)
        })
        .collect()
}

/// A specification, and its services on a ring.
type Claim<'a> = (usize, &'a [Named<'a>]);

/// Which specification keeps each ring: the one of most services, so that few entries are rewritten; among
/// equals the one that changes fewest members, then the one of the lowest id.
fn keepers(present: &[BTreeMap<Place, Vec<Named>>], observed: &Observed) -> BTreeMap<Place, usize> {
    let mut claims: BTreeMap<Place, Vec<Claim>> = BTreeMap::new();
    for (spec, rings) in present.iter().enumerate() {
        for (place, services) in rings {
            claims.entry(*place).or_default().push((spec, services));
        }
    }
    let keeper = |place: &Place, claims: &[Claim]| {
        let ring = observed.rings.get(place);
        let best = claims.iter().min_by_key(|(_, services)| {
            let differs = match (claims.len(), ring, services.first()) {
                (2.., Some(ring), Some((like, _))) => changed_members(ring, like),
                _ => 0,
            };
            (Reverse(services.len()), differs, services.iter().map(|(_, id)| *id).min())
        });
        best.map(|(spec, _)| *spec)
    };
    claims.iter().filter_map(|(place, claims)| Some((*place, keeper(place, claims)?))).collect()
}

/// Members that come, go, or change their state.
fn changed_members(ring: &Ring, like: &model::Service) -> usize {
    let wanted: BTreeMap<_, _> = like.backends.iter().map(|b| (b.address, b.state)).collect();
    let states: BTreeMap<_, _> =
        ring.members.values().map(|m| (from_map(m.address), super::state_name(m.state))).collect();
    let same = |state: AdminState, name: &str| match state {
        AdminState::Active => name == "active",
        AdminState::Drain | AdminState::DrainBy(_) => name == "draining" || name == "drained",
        AdminState::Down => name == "down",
    };
    let come = wanted.iter().filter(|(a, w)| states.get(*a).is_none_or(|name| !same(**w, name))).count();
    come + states.iter().filter(|(a, name)| !wanted.contains_key(*a) && **name == "active").count()
}
