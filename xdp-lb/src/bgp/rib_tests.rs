//! Tests of [`super`].

use std::time::Duration;

use proptest::prelude::*;

use super::super::decide::{Verdict, Wish as Decision};
use super::super::settings::{Aggregate, When};
use super::super::testing::{bgp, peer, vip};
use super::*;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn net(text: &str, length: u8) -> Prefix {
    Prefix { address: ip(text), length }
}

fn terms(local: &str) -> Terms {
    Terms { local: ip(local), ipv4: true, ipv6: true, extended_next_hop: false, four_octets: true }
}

/// Presences in which these addresses are announced, or draining.
fn standing(announced: &[&str], draining: &[&str]) -> Presences {
    let mut presences = Presences::default();
    let verdicts = |wish: Decision, of: &[&str]| -> BTreeMap<IpAddr, Verdict> {
        of.iter().map(|a| (ip(a), Verdict { wish, reason: format!("because of {a}") })).collect()
    };
    let mut all = verdicts(Decision::Announce, announced);
    all.extend(verdicts(Decision::Announce, draining));
    presences.step(Duration::ZERO, &all, Duration::ZERO);
    all.extend(verdicts(Decision::Retire, draining));
    presences.step(Duration::ZERO, &all, Duration::from_secs(9));
    presences
}

fn wish(prefix: Prefix) -> Wish {
    Wish { prefix, draining: false, attributes: Overrides::default(), reason: "because".into() }
}

#[test]
fn ebgp_has_a_path_and_ibgp_a_preference() {
    let bgp = bgp(65_010);
    let wishes = [wish(net("203.0.113.10", 32))];
    let of = |remote| {
        let routes = routes(&bgp, &peer("10.0.0.1", remote), &terms("10.0.0.2"), &wishes);
        routes.told[&wishes[0].prefix].attributes.clone()
    };
    let (external, internal) = (of(65_001), of(65_010));
    assert_eq!((external.as_path, external.local_pref), (vec![65_010], None));
    assert_eq!((internal.as_path, internal.local_pref), (vec![], Some(100)));
    assert_eq!(internal.next_hop, ip("10.0.0.2"));
}

#[test]
fn the_most_specific_level_wins_and_communities_add_up() {
    let mut bgp = bgp(65_010);
    let level = |n: u32| Overrides {
        communities: vec![Community(n), Community(9)],
        large_communities: vec![LargeCommunity(n, 0, 0)],
        med: Some(n),
        local_pref: Some(n),
        prepend: Some(u8::try_from(n).unwrap()),
    };
    bgp.attributes = level(1);
    let mut external = peer("10.0.0.1", 65_001);
    let mut wish = wish(net("203.0.113.10", 32));
    let of = |bgp: &Bgp, peer: &Peer, wish: &Wish| attributes(bgp, peer, wish, ip("10.0.0.2"));
    let seen = of(&bgp, &external, &wish);
    assert_eq!((seen.med, seen.as_path.len()), (Some(1), 2));
    external.attributes = level(2);
    let seen = of(&bgp, &external, &wish);
    assert_eq!((seen.med, seen.as_path.len()), (Some(2), 3));
    wish.attributes = level(3);
    let seen = of(&bgp, &external, &wish);
    assert_eq!((seen.med, seen.as_path.len(), seen.local_pref), (Some(3), 4, None));
    assert_eq!(seen.communities, [1, 2, 3, 9].map(Community));
    assert_eq!(seen.large_communities, [1, 2, 3].map(|n| LargeCommunity(n, 0, 0)));
    let mut internal = peer("10.0.0.1", 65_010);
    internal.attributes.local_pref = Some(7);
    wish.attributes = Overrides::default();
    assert_eq!(of(&bgp, &internal, &wish).local_pref, Some(7));
}

#[test]
fn a_draining_route_is_unattractive() {
    let bgp = bgp(65_010);
    let draining = Wish { draining: true, ..wish(net("203.0.113.10", 32)) };
    let external = attributes(&bgp, &peer("10.0.0.1", 65_001), &draining, ip("10.0.0.2"));
    assert_eq!(external.as_path, [65_010; 4]);
    assert_eq!(external.med, Some(u32::MAX));
    assert_eq!(external.communities, [Community::GRACEFUL_SHUTDOWN]);
    let internal = attributes(&bgp, &peer("10.0.0.1", 65_010), &draining, ip("10.0.0.2"));
    assert_eq!((internal.local_pref, internal.as_path.len()), (Some(0), 0));
}

#[test]
fn next_hops_by_family_of_route_and_session() {
    let bgp = bgp(65_010);
    let (v4, v6) = (net("203.0.113.10", 32), net("2001:db8::10", 128));
    let wishes = [wish(v4), wish(v6)];
    let mut peer = peer("10.0.0.1", 65_001);
    let hop = |peer: &Peer, terms: &Terms, prefix| {
        routes(&bgp, peer, terms, &wishes).told.get(&prefix).map(|r| r.attributes.next_hop)
    };
    let four = terms("10.0.0.2");
    assert_eq!(hop(&peer, &four, v4), Some(ip("10.0.0.2")));
    assert_eq!(hop(&peer, &four, v6), None);
    assert!(routes(&bgp, &peer, &four, &wishes).untold[&v6].contains("next_hop_v6"));
    let six = terms("fd00::2");
    assert_eq!(hop(&peer, &six, v6), Some(ip("fd00::2")));
    assert_eq!(hop(&peer, &six, v4), None);
    assert!(routes(&bgp, &peer, &six, &wishes).untold[&v4].contains("RFC 8950"));
    assert_eq!(hop(&peer, &Terms { extended_next_hop: true, ..six }, v4), Some(ip("fd00::2")));
    assert_eq!(hop(&peer, &Terms { ipv6: false, ..six }, v6), None);
    assert_eq!(hop(&peer, &Terms { ipv4: false, ..four }, v4), None);
    peer.next_hop_v6 = Some("fd00::9".parse().unwrap());
    peer.next_hop_v4 = Some("10.0.0.9".parse().unwrap());
    assert_eq!(hop(&peer, &four, v6), Some(ip("fd00::9")));
    // A configured IPv4 next hop beats RFC 8950.
    assert_eq!(hop(&peer, &Terms { extended_next_hop: true, ..six }, v4), Some(ip("10.0.0.9")));
}

#[test]
fn aggregates_stand_for_the_vips_in_them() {
    let mut bgp = bgp(65_010);
    let names = ["203.0.113.10", "203.0.113.11", "192.0.2.1", "2001:db8::10"];
    bgp.vips = names.iter().map(|a| vip(a, &[("sip", When::AnyHealthy)])).collect();
    let prefix = net("203.0.113.0", 24);
    let shown = |bgp: &Bgp, presences: &Presences| -> Vec<(String, bool)> {
        wishes(bgp, presences).into_iter().map(|w| (w.prefix.to_string(), w.draining)).collect()
    };
    let row = |text: &str, draining| (text.to_owned(), draining);
    bgp.aggregates = vec![Aggregate { prefix, join: Join::Any, host_routes: false }];
    let one = standing(&["203.0.113.10", "192.0.2.1"], &[]);
    assert_eq!(shown(&bgp, &one), [row("192.0.2.1/32", false), row("203.0.113.0/24", false)]);
    assert!(wishes(&bgp, &one)[1].reason.contains("1 of 2 VIPs"));
    let none = standing(&["192.0.2.1"], &[]);
    assert_eq!(shown(&bgp, &none), [row("192.0.2.1/32", false)]);
    // Draining counts as announced, and the aggregate drains when too few are firm.
    let drained = standing(&[], &["203.0.113.10"]);
    assert_eq!(shown(&bgp, &drained), [row("203.0.113.0/24", true)]);
    bgp.aggregates[0].join = Join::All;
    assert_eq!(shown(&bgp, &one), [row("192.0.2.1/32", false)]);
    let both = standing(&["203.0.113.10", "203.0.113.11"], &[]);
    assert_eq!(shown(&bgp, &both), [row("203.0.113.0/24", false)]);
    bgp.aggregates[0].host_routes = true;
    assert_eq!(shown(&bgp, &both).len(), 3);
}

#[test]
fn only_what_differs_is_said() {
    let bgp = bgp(65_010);
    let peer = peer("10.0.0.1", 65_001);
    let of = |wishes: &[Wish]| routes(&bgp, &peer, &terms("10.0.0.2"), wishes).told;
    let [a, b] = ["203.0.113.1", "203.0.113.2"].map(|a| wish(net(a, 32)));
    let before = of(&[a.clone(), b.clone()]);
    assert!(changes(&before, &before).is_empty());
    // Another reason is nothing a router sees.
    let other = Wish { reason: "another".into(), ..a.clone() };
    assert!(changes(&before, &of(&[other, b.clone()])).is_empty());
    let drained = of(&[Wish { draining: true, ..a.clone() }]);
    let said = changes(&before, &drained);
    assert_eq!(said.withdraw, [(b.prefix, ip("10.0.0.2"))]);
    assert_eq!(said.announce.iter().map(|(_, p)| p.as_slice()).collect::<Vec<_>>(), [[a.prefix]]);
    let all = changes(&BTreeMap::new(), &before);
    assert_eq!(all.announce.len(), 1, "equal attributes are packed: {all:?}");
}

proptest! {
    /// Saying the changes turns what a router knows into what it should know.
    #[test]
    fn changes_lead_from_one_set_to_the_other(
        old in proptest::collection::btree_map(0u8..20, 0u32..3, 0..20),
        new in proptest::collection::btree_map(0u8..20, 0u32..3, 0..20),
    ) {
        let table = |rows: &BTreeMap<u8, u32>| -> BTreeMap<Prefix, Route> {
            rows.iter().map(|(host, med)| {
                let attributes = Attributes {
                    as_path: vec![1], next_hop: ip("10.0.0.2"), med: Some(*med), local_pref: None,
                    communities: vec![], large_communities: vec![],
                };
                let prefix = net(&format!("203.0.113.{host}"), 32);
                (prefix, Route { attributes, reason: "as before".into() })
            }).collect()
        };
        let (mut told, wanted) = (table(&old), table(&new));
        let said = changes(&told, &wanted);
        for (prefix, _) in &said.withdraw {
            prop_assert!(told.remove(prefix).is_some(), "withdrawn though never told");
        }
        for (attributes, prefixes) in said.announce {
            for prefix in prefixes {
                let route = Route { attributes: attributes.clone(), reason: "as before".into() };
                prop_assert_ne!(told.insert(prefix, route.clone()), Some(route), "told twice");
            }
        }
        prop_assert_eq!(told, wanted);
    }
}
