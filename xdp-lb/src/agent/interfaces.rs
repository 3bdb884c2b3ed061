//! The way to every backend, as the configured interfaces say: by the kernel's routes, or by a fixed MAC.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::{
    model::{Desired, NextHopSource},
    nexthop::{NextHop, Resolution, Snapshot, UnresolvedReason},
    path_mtu::PathMtus,
    state::Observed,
    template::from_map,
};

/// Addresses whose way must be followed: backends of the file, and those that are gone from it and still drain.
#[must_use]
pub fn followed(desired: &Desired, observed: &Observed) -> BTreeSet<IpAddr> {
    let wanted = desired.services.iter().flat_map(|s| &s.backends).map(|b| b.address);
    let present = observed.rings.values().flat_map(|ring| ring.members.values()).map(|m| from_map(m.address));
    wanted.chain(present).collect()
}

/// The way to `address`, as wide as routers on it let it be. The first interface with a fixed MAC takes all traffic to
/// backends.
#[must_use]
pub fn resolve(desired: &Desired, snapshot: &Snapshot, mtus: &PathMtus, address: IpAddr) -> Resolution {
    match way(desired, snapshot, address) {
        Resolution::Resolved(hop) => Resolution::Resolved(NextHop { path_mtu: mtus.of(address), ..hop }),
        other => other,
    }
}

fn way(desired: &Desired, snapshot: &Snapshot, address: IpAddr) -> Resolution {
    let fixed = desired.interfaces.iter().find_map(|i| match i.next_hop {
        NextHopSource::Mac(mac) => Some((&i.name, mac)),
        NextHopSource::Auto => None,
    });
    match fixed {
        Some((interface, mac)) => snapshot.resolve_through(address, interface, mac),
        None => {
            snapshot.resolve(address).cloned().unwrap_or(Resolution::Unresolved(UnresolvedReason::NoRoute))
        }
    }
}
