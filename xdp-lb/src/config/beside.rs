//! Services of another source beside those of the file. Called by whoever feeds the reconciler.
//!
//! A file is taken whole or not at all, for one person wrote it. Here many hands write, and one mistake must cost its
//! own service alone: services are admitted one by one, in the order given, and who clashes with an earlier one or
//! does not fit any more is left out. The same services in the same order give the same outcome on every node.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::IpAddr;

use super::import::Imported;
use super::overlap::Kind;
use super::{bgp, finish};
use crate::bgp::settings::When;
use crate::model::{Desired, Ports, Protocol, Service, share_lists};
use crate::plan::{RingSpec, ring_spec};

/// The outcome.
#[derive(Clone, Debug)]
pub struct Beside {
    /// The file's state with the services that were admitted.
    pub desired: Desired,
    /// Who was left out, by position, and why.
    pub refused: BTreeMap<usize, String>,
}

/// Puts `services` beside the file's.
#[must_use]
pub fn beside<'a>(file: &Desired, services: impl IntoIterator<Item = &'a Imported>) -> Beside {
    let mut desired = file.clone();
    let mut room = Room::new(file);
    let mut whens: BTreeMap<String, When> = BTreeMap::new();
    if let Some(bgp) = &file.bgp {
        whens.extend(bgp.vips.iter().flat_map(|vip| vip.services.iter().cloned()));
    }
    let mut refused = BTreeMap::new();
    for (position, Imported { service, when, .. }) in services.into_iter().enumerate() {
        match room.admit(service) {
            Ok(()) => {
                whens.insert(service.name.clone(), *when);
                desired.services.push(service.clone());
            }
            Err(why) => _ = refused.insert(position, why),
        }
    }
    let policies = &file.inherited.policies;
    share_lists(&mut desired.services);
    desired.vips = finish::vips(&desired.services, policies);
    if let Some(bgp) = &mut desired.bgp {
        bgp.vips = bgp::vips(&desired.services, &whens, policies);
    }
    Beside { desired, refused }
}

/// What is taken, and by whom.
#[derive(Default)]
struct Room {
    names: HashSet<String>,
    vips: BTreeSet<IpAddr>,
    /// Where tunnels end.
    ends: BTreeSet<IpAddr>,
    claims: BTreeMap<(IpAddr, Protocol, Kind), Taken>,
    limits: Vec<Limit>,
    /// Rings that equal services share.
    rings: HashSet<RingSpec>,
    vip_limit: usize,
}

/// Disjoint claims: first port to the last one and the service.
type Taken = BTreeMap<u16, (u16, String)>;

/// What is left of one of `limits`.
struct Limit {
    key: &'static str,
    /// A service's part. Rings have one for all services that share them.
    needs: fn(&Service) -> usize,
    of_ring: bool,
    left: usize,
}

impl Room {
    fn new(file: &Desired) -> Self {
        let limits = &file.limits;
        let prefixes = |s: &Service| s.source_ranges.allow.len() + s.source_ranges.deny.len();
        let slots = |s: &Service| if s.backends.is_empty() { 0 } else { s.table_size.get() as usize };
        let ids = |s: &Service| s.backends.iter().filter(|b| b.server_id.is_some()).count();
        let limit = |key, needs: fn(&Service) -> usize, left: u32| {
            let of_ring = matches!(key, "backends" | "ring_slots");
            Limit { key, needs, of_ring, left: left as usize }
        };
        let limits = vec![
            limit("services", |_| 1, limits.services),
            limit("backends", |s| s.backends.len(), limits.backends),
            limit("ring_slots", slots, limits.ring_slots),
            limit("source_ranges", prefixes, limits.source_ranges),
            limit("server_ids", ids, limits.server_ids),
        ];
        let mut room = Self { limits, vip_limit: file.limits.vips as usize, ..Self::default() };
        if let Some(decap) = &file.decap {
            room.vips.extend(&decap.vips);
            room.vips.extend(decap.translate.iter().map(|port| port.vip));
        }
        file.services.iter().for_each(|service| room.take(service));
        room
    }

    fn admit(&mut self, service: &Service) -> Result<(), String> {
        if self.names.contains(&service.name) {
            return Err(format!("{:?} is the name of another service too", service.name));
        }
        if let Some(clash) = claims(service).find_map(|claim| self.clash(service.protocol, claim)) {
            return Err(clash);
        }
        let vips: BTreeSet<IpAddr> = service.vips.iter().copied().collect();
        let ends: BTreeSet<IpAddr> = service.backends.iter().map(|backend| backend.address).collect();
        let loops = vips.intersection(&ends).chain(self.vips.intersection(&ends));
        if let Some(vip) = loops.chain(self.ends.intersection(&vips)).next() {
            return Err(format!("{vip} is a VIP and a backend; a tunnel to it would come back for ever"));
        }
        let shares = self.rings.contains(&ring_spec(service));
        for Limit { key, needs, of_ring, left } in &self.limits {
            let more = if *of_ring && shares { 0 } else { needs(service) };
            if more > *left {
                return Err(format!(
                    "does not fit: it needs {more} of `limits.{key}`, {left} are left; raise the limit"
                ));
            }
        }
        if self.vips.union(&vips).count() > self.vip_limit {
            return Err(format!("does not fit: all {} of `limits.vips` are taken; raise it", self.vip_limit));
        }
        self.take(service);
        Ok(())
    }

    /// Whose claim overlaps, in words.
    fn clash(&self, protocol: Protocol, (vip, kind, first, last): Claim) -> Option<String> {
        let taken = self.claims.get(&(vip, protocol, kind))?;
        let (&start, (end, other)) =
            taken.range(..=last).next_back().filter(|(_, (end, _))| *end >= first)?;
        let what = kind.show(protocol, first.max(start)..=last.min(*end));
        Some(format!("service {other:?} has {what} of {vip} already"))
    }

    fn take(&mut self, service: &Service) {
        for (vip, kind, first, last) in claims(service) {
            let taken = self.claims.entry((vip, service.protocol, kind)).or_default();
            taken.insert(first, (last, service.name.clone()));
        }
        let shares = !self.rings.insert(ring_spec(service));
        for limit in self.limits.iter_mut().filter(|limit| !(limit.of_ring && shares)) {
            limit.left = limit.left.saturating_sub((limit.needs)(service));
        }
        self.names.insert(service.name.clone());
        self.vips.extend(&service.vips);
        self.ends.extend(service.backends.iter().map(|backend| backend.address));
    }
}

/// Ports of an address.
type Claim = (IpAddr, Kind, u16, u16);

fn claims(service: &Service) -> impl Iterator<Item = Claim> {
    let ports = match &service.ports {
        Ports::All => vec![(Kind::All, 1, u16::MAX)],
        Ports::Ranges(ranges) => ranges.iter().map(|r| (Kind::of(r), *r.start(), *r.end())).collect(),
    };
    service.vips.iter().flat_map(move |&vip| {
        ports.clone().into_iter().map(move |(kind, first, last)| (vip, kind, first, last))
    })
}
