//! The way to every backend, as the configured interfaces say: by the kernel's routes, or by a fixed MAC.

use std::collections::{BTreeSet, HashSet};
use std::net::IpAddr;

use crate::{
    model::{AttachMode, Desired, Interface, NextHopSource},
    nexthop::{
        Below, Links, NextHop, Resolution, Snapshot, Tags, UnresolvedReason,
        below::{self, NoCarrier},
    },
    path_mtu::PathMtus,
    state::Observed,
    template::from_map,
};

/// Addresses whose way must be followed: backends of the file, and those that are gone from it and still drain.
#[must_use]
pub fn followed(desired: &Desired, observed: &Observed) -> BTreeSet<IpAddr> {
    // Ten thousand services may share a hundred lists.
    let mut lists = HashSet::new();
    let wanted = desired.services.iter().map(|s| &s.backends).filter(|list| lists.insert(list.identity()));
    let wanted = wanted.flatten().map(|b| b.address);
    let present = observed.rings.values().flat_map(|ring| ring.members.values()).map(|m| from_map(m.address));
    wanted.chain(present).collect()
}

/// The interfaces that run the program, and how: those of the file, or what is below them.
///
/// # Errors
/// [`NoCarrier`].
pub fn carriers(wanted: &[Interface], links: &Links) -> Result<Vec<(String, AttachMode)>, NoCarrier> {
    let mut all: Vec<(String, AttachMode)> = Vec::new();
    for Interface { name, mode, .. } in wanted {
        for carrier in below::carriers(name, links)? {
            match all.iter_mut().find(|(name, _)| name == carrier) {
                // Two VLAN devices on one interface: who says more is heard.
                Some((_, agreed)) if *agreed == AttachMode::Auto => *agreed = *mode,
                Some(_) => {}
                None => all.push((carrier.to_owned(), *mode)),
            }
        }
    }
    Ok(all)
}

/// Their names; of an interface below which nothing is, its own.
#[must_use]
pub fn carrying<'a>(names: impl Iterator<Item = &'a String>, links: &Links) -> BTreeSet<String> {
    let below = |name: &'a String| below::carriers(name, links).unwrap_or_else(|_| vec![name.as_str()]);
    names.flat_map(|name| below(name).into_iter().map(str::to_owned).collect::<Vec<_>>()).collect()
}

/// The way to `address`, as wide as routers on it let it be. The first interface with a fixed MAC takes all traffic to
/// backends.
#[must_use]
pub fn resolve(desired: &Desired, snapshot: &Snapshot, mtus: &PathMtus, address: IpAddr) -> Resolution {
    match way(desired, snapshot, address) {
        Resolution::Resolved(hop) => {
            let below = untagged(desired, snapshot, &hop).or(hop.below);
            Resolution::Resolved(NextHop { path_mtu: mtus.of(address), below, ..hop })
        }
        other => other,
    }
}

/// Where the file names a VLAN device, packets come with that device's tag. It does not go along to a next hop that is in
/// no VLAN.
fn untagged(desired: &Desired, snapshot: &Snapshot, hop: &NextHop) -> Option<Below> {
    let ifindex = match hop.below {
        None => hop.ifindex,
        Some(Below { ifindex, tags: Tags::AsTheyCame }) => ifindex,
        Some(_) => return None,
    };
    let by_vlan = desired.interfaces.iter().any(|i| below::is_vlan(&i.name, &snapshot.links));
    by_vlan.then_some(Below { ifindex, tags: Tags::None })
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config, nexthop::Link};

    fn link(index: u32, name: &str, kind: Option<&str>, lower: Option<u32>, controller: Option<u32>) -> Link {
        Link {
            kind: kind.map(Into::into),
            lower,
            controller,
            vlan: kind.filter(|kind| *kind == "vlan").map(|_| [0x81, 0, 0, 7]),
            ..Link::card(index, name)
        }
    }

    fn links() -> Links {
        Links::from_iter([
            link(2, "eth0", None, None, None),
            link(3, "eth0.7", Some("vlan"), Some(2), None),
            link(4, "eth0.8", Some("vlan"), Some(2), None),
            link(5, "bond0", Some("bond"), None, None),
            link(6, "eth1", None, None, Some(5)),
            link(7, "eth2", None, None, Some(5)),
        ])
    }

    fn wanted(names: &[(&str, AttachMode)]) -> Vec<Interface> {
        let next_hop = NextHopSource::Auto;
        names.iter().map(|(name, mode)| Interface { name: (*name).into(), mode: *mode, next_hop }).collect()
    }

    #[test]
    fn an_interface_below_several_runs_the_program_once() {
        let all = wanted(&[
            ("eth0.7", AttachMode::Auto),
            ("eth0.8", AttachMode::Native),
            ("bond0", AttachMode::Generic),
        ]);
        let run = carriers(&all, &links()).unwrap();
        let run: Vec<(&str, AttachMode)> = run.iter().map(|(name, mode)| (name.as_str(), *mode)).collect();
        assert_eq!(
            run,
            [("eth0", AttachMode::Native), ("eth1", AttachMode::Generic), ("eth2", AttachMode::Generic)]
        );
        let names = ["eth0.7", "bond0", "eth9"].map(str::to_owned);
        let names = carrying(names.iter(), &links());
        assert_eq!(names.iter().map(String::as_str).collect::<Vec<_>>(), ["eth0", "eth1", "eth2", "eth9"]);
    }

    /// A tag that is kept is meant for the VLAN that the packet came in.
    #[test]
    fn the_tag_of_a_vlan_in_the_file_does_not_go_into_another_network() {
        let desired = |name| {
            let text = format!("version: 1\ninterfaces: [{{ name: {name} }}]\nservices: []\n");
            config::parse(&text).unwrap().desired
        };
        let snapshot = Snapshot { links: links(), ..Snapshot::default() };
        let hop = |below| NextHop {
            ifindex: 2,
            below,
            interface: "eth0".into(),
            source_mac: [2; 6],
            destination_mac: [4; 6],
            mtu: 1500,
            path_mtu: None,
        };
        let bare = Some(Below { ifindex: 2, tags: Tags::None });
        assert_eq!(untagged(&desired("eth0.7"), &snapshot, &hop(None)), bare);
        assert_eq!(untagged(&desired("eth0"), &snapshot, &hop(None)), None, "who names no VLAN keeps tags");
        let other = Some(Below { ifindex: 6, tags: Tags::AsTheyCame });
        let bare = Some(Below { ifindex: 6, tags: Tags::None });
        assert_eq!(untagged(&desired("eth0.7"), &snapshot, &hop(other)), bare, "a member of a bond");
        let tagged = Some(Below { ifindex: 2, tags: Tags::One([0x81, 0, 0, 8]) });
        assert_eq!(untagged(&desired("eth0.7"), &snapshot, &hop(tagged)), None);
    }
}
