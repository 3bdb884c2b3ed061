//! Which prefixes each router is told, with which attributes and why: from the VIPs' standing to the routes of one
//! session, and from two sets of routes to what must be said.
//!
//! Pure data, compared whole.
//!
//! ```text
//!   Presences --wishes--> [Wish] --routes (peer, session)--> Routes --changes--> announce / withdraw
//!              aggregates          attributes, next hop        sent before
//! ```

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::presence::{Presence, Presences};
use super::settings::{Bgp, Community, Join, LargeCommunity, Overrides, Peer, Prefix};

/// LOCAL_PREF where nobody says another.
pub const LOCAL_PREF: u32 = 100;

/// A prefix that should be announced to everybody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish {
    /// The prefix.
    pub prefix: Prefix,
    /// Whether it should look unattractive.
    pub draining: bool,
    /// Attributes of the VIP.
    pub attributes: Overrides,
    /// Why, in words.
    pub reason: String,
}

/// What should be announced at the moment, by prefix.
#[must_use]
pub fn wishes(bgp: &Bgp, presences: &Presences) -> Vec<Wish> {
    let standing: BTreeMap<IpAddr, _> = presences.iter().collect();
    let mut wishes: BTreeMap<Prefix, Wish> = BTreeMap::new();
    for aggregate in &bgp.aggregates {
        let inside = || bgp.vips.iter().filter(|vip| aggregate.prefix.contains(vip.address));
        let count = |is: fn(Presence) -> bool| inside().filter(|vip| is(presences.of(vip.address))).count();
        let (all, shown, firm) =
            (inside().count(), count(|p| p != Presence::Absent), count(|p| p == Presence::Announced));
        let enough = |n: usize| match aggregate.join {
            Join::All => n == all && n > 0,
            Join::Any => n > 0,
        };
        if enough(shown) {
            let prefix = aggregate.prefix;
            let reason = format!("{shown} of {all} VIPs in it are announced");
            let wish = Wish { prefix, draining: !enough(firm), attributes: Overrides::default(), reason };
            wishes.insert(prefix, wish);
        }
    }
    for vip in &bgp.vips {
        let Some(standing) = standing.get(&vip.address).filter(|s| s.presence != Presence::Absent) else {
            continue;
        };
        if bgp.aggregates.iter().any(|a| !a.host_routes && a.prefix.contains(vip.address)) {
            continue;
        }
        let prefix = Prefix::host(vip.address);
        let wish = Wish {
            prefix,
            draining: matches!(standing.presence, Presence::Draining { .. }),
            attributes: vip.attributes.clone(),
            reason: standing.reason.clone(),
        };
        wishes.insert(prefix, wish);
    }
    wishes.into_values().collect()
}

/// What a session has agreed on, as far as routes depend on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// Our address on it.
    pub local: IpAddr,
    /// IPv4 unicast is exchanged.
    pub ipv4: bool,
    /// IPv6 unicast is exchanged.
    pub ipv6: bool,
    /// IPv4 routes may have an IPv6 next hop (RFC 8950).
    pub extended_next_hop: bool,
    /// AS numbers have four octets.
    pub four_octets: bool,
}

/// Attributes of a route as a router sees them; ORIGIN is IGP always.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Attributes {
    /// AS_PATH, one sequence; empty on iBGP.
    pub as_path: Vec<u32>,
    /// NEXT_HOP.
    pub next_hop: IpAddr,
    /// MULTI_EXIT_DISC.
    pub med: Option<u32>,
    /// LOCAL_PREF, on iBGP always and on eBGP never.
    pub local_pref: Option<u32>,
    /// Sorted, each once.
    pub communities: Vec<Community>,
    /// Sorted, each once.
    pub large_communities: Vec<LargeCommunity>,
}

/// A route that a router is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// What it sees.
    pub attributes: Attributes,
    /// Why, in words.
    pub reason: String,
}

/// What a router should be told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Routes {
    /// By prefix.
    pub told: BTreeMap<Prefix, Route>,
    /// Wishes that cannot be told to it, and why not.
    pub untold: BTreeMap<Prefix, String>,
}

/// The routes of one session.
#[must_use]
pub fn routes(bgp: &Bgp, peer: &Peer, terms: &Terms, wishes: &[Wish]) -> Routes {
    let mut routes = Routes::default();
    for wish in wishes {
        match next_hop(peer, terms, wish.prefix) {
            Ok(next_hop) => {
                let attributes = attributes(bgp, peer, wish, next_hop);
                let mut reason = wish.reason.clone();
                if wish.draining {
                    reason = format!("unattractive before it is withdrawn: {reason}");
                }
                routes.told.insert(wish.prefix, Route { attributes, reason });
            }
            Err(why) => {
                routes.untold.insert(wish.prefix, why.to_owned());
            }
        }
    }
    routes
}

fn next_hop(peer: &Peer, terms: &Terms, prefix: Prefix) -> Result<IpAddr, &'static str> {
    let own_v6 = || peer.next_hop_v6.map(IpAddr::from).or(Some(terms.local).filter(IpAddr::is_ipv6));
    if prefix.address.is_ipv6() {
        if !terms.ipv6 {
            return Err("the router does not take IPv6 routes");
        }
        return own_v6().ok_or("no IPv6 next hop on an IPv4 session: give the peer next_hop_v6");
    }
    if !terms.ipv4 {
        return Err("the router does not take IPv4 routes");
    }
    let own_v4 = peer.next_hop_v4.map(IpAddr::from).or(Some(terms.local).filter(IpAddr::is_ipv4));
    match (own_v4, terms.extended_next_hop) {
        (Some(own), _) => Ok(own),
        (None, true) => own_v6().ok_or("no next hop"),
        (None, false) => {
            Err("no IPv4 next hop on an IPv6 session: give the peer next_hop_v4, or have the router offer \
                              extended next hops (RFC 8950)")
        }
    }
}

fn attributes(bgp: &Bgp, peer: &Peer, wish: &Wish, next_hop: IpAddr) -> Attributes {
    let levels = [&wish.attributes, &peer.attributes, &bgp.attributes];
    let drain = wish.draining.then_some(bgp.drain);
    let internal = peer.link.is_internal(bgp.local_as);
    let shut = drain.is_some_and(|drain| drain.graceful_shutdown);
    let prepend = levels.iter().find_map(|level| level.prepend).unwrap_or_default();
    let hops = 1 + usize::from(prepend) + usize::from(drain.map_or(0, |drain| drain.prepend));
    let local_pref = levels.iter().find_map(|level| level.local_pref).unwrap_or(LOCAL_PREF);
    let shutdown = shut.then_some(Community::GRACEFUL_SHUTDOWN);
    let communities = levels.iter().flat_map(|level| level.communities.iter().copied()).chain(shutdown);
    let large = levels.iter().flat_map(|level| level.large_communities.iter().copied());
    Attributes {
        as_path: if internal { Vec::new() } else { vec![bgp.local_as; hops] },
        next_hop,
        med: drain.and_then(|drain| drain.med).or(levels.iter().find_map(|level| level.med)),
        local_pref: internal.then_some(if shut { 0 } else { local_pref }),
        communities: sorted(communities),
        large_communities: sorted(large),
    }
}

fn sorted<T: Ord>(values: impl Iterator<Item = T>) -> Vec<T> {
    let mut values: Vec<T> = values.collect();
    values.sort();
    values.dedup();
    values
}

/// What must be said to turn one set of routes into another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Prefixes to withdraw, with the next hop they were told with.
    pub withdraw: Vec<(Prefix, IpAddr)>,
    /// Prefixes to announce, those with equal attributes together.
    pub announce: Vec<(Attributes, Vec<Prefix>)>,
}

impl Changes {
    /// Whether there is nothing to say.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.withdraw.is_empty() && self.announce.is_empty()
    }
}

/// Compares what a router was told with what it should be told.
#[must_use]
pub fn changes(sent: &BTreeMap<Prefix, Route>, wanted: &BTreeMap<Prefix, Route>) -> Changes {
    let gone = sent.iter().filter(|(prefix, _)| !wanted.contains_key(prefix));
    let withdraw = gone.map(|(prefix, route)| (*prefix, route.attributes.next_hop)).collect();
    let mut groups: BTreeMap<(bool, &Attributes), Vec<Prefix>> = BTreeMap::new();
    for (prefix, route) in wanted {
        if sent.get(prefix).is_none_or(|old| old.attributes != route.attributes) {
            groups.entry((prefix.address.is_ipv6(), &route.attributes)).or_default().push(*prefix);
        }
    }
    let announce = groups.into_iter().map(|((_, a), prefixes)| (a.clone(), prefixes)).collect();
    Changes { withdraw, announce }
}

#[cfg(test)]
#[path = "rib_tests.rs"]
mod tests;
