//! Which way of a multipath route a backend's packets take: its own favourite among the ways that work.
//!
//! Weighted rendezvous hashing of (backend, gateway, interface): every backend ranks the ways in an order of its own, so
//! backends spread over the uplinks by the route's weights, a way that dies moves only the backends that used it, and
//! when it is back they return. No state, no seed, no interface index (a reboot changes those): edge nodes with equally
//! named uplinks agree, and a restarted agent changes nothing.

use std::cmp::Ordering;
use std::net::IpAddr;

use xdp_lb_common::hash::mix;

use super::{Link, Links, Resolution, UnresolvedReason};
use crate::gates::neg_log2;

/// Keeps these hashes apart from other uses of [`mix`].
const DOMAIN: u64 = 0x7761_7973_0000_0001;

/// One way of a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    /// Index of the interface.
    pub interface: u32,
    /// Next router; may be of the other family (RFC 8950). `None`: the address is on the link.
    pub gateway: Option<IpAddr>,
    /// The route's weight for it, from 1 to 65536; means nothing where there is one way.
    pub weight: u32,
}

impl Way {
    /// The only way of a route.
    #[must_use]
    pub const fn only(interface: u32, gateway: Option<IpAddr>) -> Self {
        Self { interface, gateway, weight: 1 }
    }
}

/// Decides each way and takes the best: one that works before one that waits for its neighbour's first answer, before
/// one that does not work; among equals this address's favourite.
pub(super) fn best(
    address: IpAddr,
    ways: &[Way],
    links: &Links,
    decide: impl Fn(&Way) -> Resolution,
) -> Option<Resolution> {
    let ranked = |way| {
        let resolution = decide(way);
        (class(&resolution), Claim::of(address, way, links), resolution)
    };
    let better = |a: &(u8, Claim, Resolution), b: &(u8, Claim, Resolution)| {
        (a.0, Claim::order(&a.1, &b.1)).cmp(&(b.0, Ordering::Equal))
    };
    ways.iter().map(ranked).min_by(better).map(|(.., resolution)| resolution)
}

/// The link that an address likes best, by the same hash; `None` of none.
pub(super) fn favourite<'a>(address: IpAddr, links: impl Iterator<Item = &'a Link>) -> Option<&'a Link> {
    let ranked = links.map(|link| (Claim::by_name(address, &Way::only(link.index, None), &link.name), link));
    ranked.min_by(|a, b| Claim::order(&a.0, &b.0)).map(|(_, link)| link)
}

/// 0 is best.
fn class(resolution: &Resolution) -> u8 {
    match resolution {
        Resolution::Resolved(_) | Resolution::Local | Resolution::Pod => 0,
        Resolution::Unresolved(UnresolvedReason::NeighbourPending { .. }) => 1,
        // A neighbour in doubt may still be there; an interface that is down is not.
        Resolution::Unresolved(reason) if reason.keeps_last() => 2,
        Resolution::Unresolved(_) => 3,
    }
}

/// How much a way wants an address: `cost / weight`, the smaller the more.
struct Claim {
    cost: u64,
    weight: u64,
    hash: u64,
}

impl Claim {
    fn of(address: IpAddr, way: &Way, links: &Links) -> Self {
        Self::by_name(address, way, links.by_index(way.interface).map_or("", |link| &link.name))
    }

    fn by_name(address: IpAddr, way: &Way, name: &str) -> Self {
        let hash = fold(fold(DOMAIN, &octets(Some(address))), &octets(way.gateway));
        let hash = fold(hash, name.as_bytes());
        Self { cost: neg_log2(hash), weight: way.weight.max(1).into(), hash }
    }

    /// Costs are below 2^31, weights at most 2^16. Equal only for the same way given twice.
    fn order(&self, other: &Self) -> Ordering {
        (self.cost * other.weight).cmp(&(other.cost * self.weight)).then(self.hash.cmp(&other.hash))
    }
}

/// IPv4 as `::ffff:a.b.c.d`, nothing as nothing.
fn octets(address: Option<IpAddr>) -> Vec<u8> {
    match address {
        Some(IpAddr::V4(v4)) => v4.to_ipv6_mapped().octets().to_vec(),
        Some(IpAddr::V6(v6)) => v6.octets().to_vec(),
        None => Vec::new(),
    }
}

/// The length goes in first, so that no two sequences of fields look alike.
fn fold(hash: u64, bytes: &[u8]) -> u64 {
    let words = bytes.chunks(8).map(|chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        u64::from_le_bytes(word)
    });
    words.fold(mix(hash ^ bytes.len() as u64), |hash, word| mix(hash.wrapping_add(word)))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::{Neighbour, Neighbours, NextHop, Route, decide};
    use super::*;

    /// Uplinks `up0`, `up1`, ... with indices from `first` on, each with a router of its own.
    struct Fabric {
        first: u32,
        weights: Vec<u32>,
        links: Links,
        neighbours: Neighbours,
    }

    impl Fabric {
        fn new(first: u32, weights: &[u32]) -> Self {
            let link = |i: u32| Link {
                mac: Some([2, 0, 0, 0, 0, i as u8]),
                ..Link::card(first + i, &format!("up{i}"))
            };
            let count = weights.len() as u32;
            let usable = |i: u32| Neighbour::Usable { mac: Some([4, 0, 0, 0, 0, i as u8]) };
            Self {
                first,
                weights: weights.to_vec(),
                links: (0..count).map(link).collect(),
                neighbours: (0..count).map(|i| ((first + i, Self::router(i)), usable(i))).collect(),
            }
        }

        fn router(i: u32) -> IpAddr {
            IpAddr::from([10, 0, i as u8, 1])
        }

        fn route(&self) -> Route {
            let way = |(i, weight): (usize, &u32)| Way {
                interface: self.first + i as u32,
                gateway: Some(Self::router(i as u32)),
                weight: *weight,
            };
            Route::Via { ways: self.weights.iter().enumerate().map(way).collect(), mtu: None }
        }

        fn neighbour(&mut self, i: u32, is: Neighbour) -> &mut Self {
            self.neighbours.insert((self.first + i, Self::router(i)), is);
            self
        }

        /// The uplink of every one of a thousand backends.
        fn uplinks(&self) -> BTreeMap<IpAddr, String> {
            let backends = (0..1000u32).map(|i| IpAddr::from((0x0a09_0000 + i).to_be_bytes()));
            backends.map(|b| (b, self.hop(b).interface)).collect()
        }

        fn hop(&self, backend: IpAddr) -> NextHop {
            self.resolution(backend).next_hop().cloned().unwrap()
        }

        fn resolution(&self, backend: IpAddr) -> Resolution {
            decide(backend, &self.route(), &self.links, &self.neighbours)
        }
    }

    fn on(uplinks: &BTreeMap<IpAddr, String>, name: &str) -> usize {
        uplinks.values().filter(|uplink| *uplink == name).count()
    }

    #[test]
    fn backends_spread_by_the_routes_weights() {
        let even = Fabric::new(2, &[1, 1]).uplinks();
        assert!((450..550).contains(&on(&even, "up0")), "{}", on(&even, "up0"));
        let uneven = Fabric::new(2, &[3, 1]).uplinks();
        assert!((700..800).contains(&on(&uneven, "up0")), "{}", on(&uneven, "up0"));
    }

    #[test]
    fn a_way_that_dies_moves_only_its_own_and_gets_them_back() {
        let before = Fabric::new(2, &[1, 1, 1]).uplinks();
        let mut silent = Fabric::new(2, &[1, 1, 1]);
        silent.neighbour(1, Neighbour::Failed);
        let mut dark = Fabric::new(2, &[1, 1, 1]);
        dark.links = dark.links.iter().cloned().map(|l| Link { carrier: l.name != "up1", ..l }).collect();
        for after in [silent.uplinks(), dark.uplinks()] {
            for (backend, uplink) in &before {
                if uplink == "up1" {
                    assert_ne!(after[backend], "up1");
                } else {
                    assert_eq!(after[backend], *uplink, "{backend} need not move");
                }
            }
            assert!(on(&after, "up0") > 420 && on(&after, "up2") > 420, "both take over");
        }
        assert_eq!(Fabric::new(2, &[1, 1, 1]).uplinks(), before);
    }

    #[test]
    fn indices_and_the_order_of_the_ways_do_not_matter() {
        let fabric = Fabric::new(2, &[1, 1, 1]);
        assert_eq!(fabric.uplinks(), Fabric::new(70, &[1, 1, 1]).uplinks());
        let Route::Via { mut ways, mtu } = fabric.route() else { panic!() };
        ways.reverse();
        let turned = Route::Via { ways, mtu };
        for (backend, uplink) in fabric.uplinks() {
            let got = decide(backend, &turned, &fabric.links, &fabric.neighbours);
            assert_eq!(got.next_hop().unwrap().interface, uplink);
        }
    }

    /// Unnumbered BGP: the routers have the same link-local address on every uplink.
    #[test]
    fn equal_gateways_on_several_interfaces_are_several_ways() {
        let fabric = Fabric::new(2, &[1, 1]);
        let gateway: IpAddr = "fe80::1".parse().unwrap();
        let ways = vec![Way::only(2, Some(gateway)), Way::only(3, Some(gateway))];
        let usable = |i| Neighbour::Usable { mac: Some([4, 0, 0, 0, 0, i]) };
        let neighbours = Neighbours::from([((2, gateway), usable(0)), ((3, gateway), usable(1))]);
        let route = Route::Via { ways, mtu: None };
        let first = |i: u32| {
            let backend = IpAddr::from((0x0a09_0000 + i).to_be_bytes());
            decide(backend, &route, &fabric.links, &neighbours).next_hop().unwrap().interface == "up0"
        };
        let first = (0..1000).filter(|&i| first(i)).count();
        assert!((450..550).contains(&first), "{first}");
    }

    #[test]
    fn a_way_that_works_goes_before_one_that_waits_and_that_before_one_that_failed() {
        let backend = IpAddr::from([10, 9, 0, 1]);
        let mut fabric = Fabric::new(2, &[1, 1]);
        fabric.neighbour(0, Neighbour::Pending);
        assert_eq!(fabric.hop(backend).interface, "up1");
        fabric.neighbour(1, Neighbour::Failed);
        let waits = |r| matches!(r, Resolution::Unresolved(UnresolvedReason::NeighbourPending { interface, .. }) if interface == "up0");
        assert!(waits(fabric.resolution(backend)));
        fabric.neighbour(0, Neighbour::Failed);
        let Resolution::Unresolved(reason) = fabric.resolution(backend) else { panic!() };
        assert!(reason.keeps_last(), "an earlier next hop may be kept: {reason}");
    }
}
