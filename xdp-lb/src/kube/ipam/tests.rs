//! Tables of who gets what, and what is true whatever happens.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use proptest::prelude::*;

use super::{
    Family, Given, Inputs, Kept, Operator, Outcome, Pool, Released, Requirement, Selector, Wish, assign,
};
use crate::kube::Key;
use crate::model::Protocol;

fn pool(name: &str, ranges: &[&str]) -> Pool {
    Pool {
        name: name.to_owned(),
        ranges: ranges.iter().map(|range| range.parse().unwrap()).collect(),
        auto_assign: true,
        sharing: true,
        ..Pool::default()
    }
}

/// A Service of the namespace default that wants an IPv4 address and takes TCP port 443 of it. Younger ones come later.
fn wish(name: &str, created: i64) -> Wish {
    Wish {
        key: Key::new("default", name),
        created,
        labels: BTreeMap::new(),
        namespace_labels: BTreeMap::new(),
        families: BTreeSet::from([Family::V4]),
        optional: BTreeSet::new(),
        addresses: Vec::new(),
        pool: None,
        sharing: None,
        ports: BTreeSet::from([(Protocol::Tcp, 443)]),
        has: Vec::new(),
    }
}

fn inputs(pools: Vec<Pool>, wishes: Vec<Wish>) -> Inputs {
    Inputs { pools, wishes, ..Inputs::default() }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// `a=203.0.113.1 b=203.0.113.2,2001:db8::1`.
fn shown(outcome: &Outcome) -> String {
    let one = |(key, given): (&Key, &Vec<Given>)| {
        let addresses: Vec<String> = given.iter().map(|given| given.address.to_string()).collect();
        format!("{}={}", key.name, addresses.join(","))
    };
    outcome.given.iter().map(one).collect::<Vec<_>>().join(" ")
}

fn refused(outcome: &Outcome, name: &str) -> String {
    outcome.refused.get(&Key::new("default", name)).map(|why| why.join("; ")).unwrap_or_default()
}

#[test]
fn older_ones_come_first_and_pools_by_priority() {
    let pools = vec![
        pool("b", &["203.0.113.10-203.0.113.11"]),
        Pool { priority: 1, ..pool("z", &["203.0.113.20"]) },
        Pool { auto_assign: false, priority: 9, ..pool("private", &["10.0.0.0/30"]) },
    ];
    let wishes = vec![wish("young", 3), wish("old", 1), wish("middle", 2), wish("late", 4)];
    let outcome = assign(&inputs(pools, wishes));
    assert_eq!(shown(&outcome), "middle=203.0.113.10 old=203.0.113.20 young=203.0.113.11");
    assert_eq!(refused(&outcome, "late"), "pool z has no free IPv4 address; pool b has no free IPv4 address");
    let used: Vec<(&str, usize)> = outcome.used.iter().map(|(name, used)| (name.as_str(), *used)).collect();
    assert_eq!(used, [("b", 2), ("private", 0), ("z", 1)]);
}

#[test]
fn what_is_asked_for_by_name_and_address() {
    let private = Pool { auto_assign: false, ..pool("private", &["10.0.0.0/30"]) };
    let pools = vec![pool("public", &["203.0.113.0/29"]), private];
    let by_pool = Wish { pool: Some("private".into()), ..wish("a", 1) };
    let by_address = Wish { addresses: vec![ip("203.0.113.5")], ..wish("b", 2) };
    let taken = Wish { addresses: vec![ip("203.0.113.5")], ..wish("c", 3) };
    let foreign = Wish { addresses: vec![ip("198.51.100.1")], ..wish("d", 4) };
    let nowhere = Wish { pool: Some("secret".into()), ..wish("e", 5) };
    let other = Wish { addresses: vec![ip("2001:db8::1")], ..wish("f", 6) };
    let outcome = assign(&inputs(pools, vec![by_pool, by_address, taken, foreign, nowhere, other]));
    assert_eq!(shown(&outcome), "a=10.0.0.0 b=203.0.113.5 f=203.0.113.0");
    assert!(refused(&outcome, "c").contains("another Service's"), "{}", refused(&outcome, "c"));
    assert_eq!(refused(&outcome, "d"), "198.51.100.1 is in no pool");
    assert_eq!(refused(&outcome, "e"), "there is no pool secret");
    assert!(refused(&outcome, "f").contains("ipFamilies"));
}

#[test]
fn families() {
    let both = BTreeSet::from([Family::V4, Family::V6]);
    let dual = |name: &str, optional: bool| Wish {
        families: both.clone(),
        optional: if optional { BTreeSet::from([Family::V6]) } else { BTreeSet::new() },
        ..wish(name, 1)
    };
    let pools = vec![pool("four", &["203.0.113.1-203.0.113.9"]), pool("six", &["2001:db8::/127"])];
    let wishes = vec![dual("a", false), dual("b", false), dual("c", true), dual("d", false)];
    let outcome = assign(&inputs(pools, wishes));
    assert_eq!(
        shown(&outcome),
        "a=203.0.113.1,2001:db8:: b=203.0.113.2,2001:db8::1 c=203.0.113.3 d=203.0.113.4"
    );
    assert!(refused(&outcome, "c").is_empty(), "it can do without");
    assert!(refused(&outcome, "d").contains("no free IPv6 address"));
}

#[test]
fn selectors() {
    let of = |key: &str, operator, values: &[&str]| {
        let values = values.iter().map(|value| (*value).to_owned()).collect();
        Selector(vec![Requirement { key: key.into(), operator, values }])
    };
    let labels = BTreeMap::from([("tier".to_owned(), "gold".to_owned())]);
    let rows = [
        (Selector::default(), true),
        (of("tier", Operator::In, &["gold", "silver"]), true),
        (of("tier", Operator::In, &["silver"]), false),
        (of("tier", Operator::NotIn, &["gold"]), false),
        (of("other", Operator::NotIn, &["gold"]), true),
        (of("other", Operator::In, &["gold"]), false),
        (of("tier", Operator::Exists, &[]), true),
        (of("tier", Operator::DoesNotExist, &[]), false),
    ];
    for (selector, expected) in rows {
        assert_eq!(selector.selects(&labels), expected, "{selector:?}");
        for by_namespace in [false, true] {
            let (mut of_pool, mut wish) = (pool("p", &["203.0.113.1"]), wish("a", 1));
            if by_namespace {
                (of_pool.namespaces, wish.namespace_labels) = (selector.clone(), labels.clone());
            } else {
                (of_pool.services, wish.labels) = (selector.clone(), labels.clone());
            }
            let outcome = assign(&inputs(vec![of_pool], vec![wish]));
            assert_eq!(shown(&outcome) == "a=203.0.113.1", expected, "{selector:?}");
            assert_eq!(refused(&outcome, "a").contains("selectors"), !expected);
        }
    }
}

#[test]
fn quotas_are_of_namespaces() {
    let limited = Pool { quota: Some(1), ..pool("p", &["203.0.113.0/24"]) };
    let elsewhere = Wish { key: Key::new("other", "c"), ..wish("c", 3) };
    let outcome = assign(&inputs(vec![limited], vec![wish("a", 1), wish("b", 2), elsewhere]));
    assert_eq!(shown(&outcome), "a=203.0.113.0 c=203.0.113.1");
    assert_eq!(refused(&outcome, "b"), "the namespace has all its 1 addresses of pool p");
}

#[test]
fn an_address_is_shared_by_who_says_so() {
    let shared = |name: &str, created, port, key: &str| Wish {
        sharing: Some(key.to_owned()),
        ports: BTreeSet::from([(Protocol::Tcp, port)]),
        ..wish(name, created)
    };
    let pools = vec![Pool { quota: Some(3), ..pool("p", &["203.0.113.0/24"]) }];
    let foreign = Wish { key: Key::new("other", "f"), ..shared("f", 6, 6, "k") };
    let asked = Wish { addresses: vec![ip("203.0.113.0")], ..shared("g", 7, 7, "k") };
    let wishes = vec![
        shared("a", 1, 443, "k"),
        shared("b", 2, 80, "k"),
        shared("c", 3, 443, "k"),
        shared("d", 4, 1, "other"),
        foreign,
        asked,
    ];
    let outcome = assign(&inputs(pools, wishes));
    assert_eq!(
        shown(&outcome),
        "a=203.0.113.0 b=203.0.113.0 c=203.0.113.1 d=203.0.113.2 g=203.0.113.0 f=203.0.113.3",
        "the same port, another key and another namespace part them"
    );
    assert_eq!(outcome.used["p"], 4);
}

#[test]
fn a_pool_may_forbid_sharing() {
    let alone = Pool { sharing: false, ..pool("p", &["203.0.113.0"]) };
    let sharer = |name: &str, created, port| Wish {
        sharing: Some("k".to_owned()),
        ports: BTreeSet::from([(Protocol::Tcp, port)]),
        addresses: vec![ip("203.0.113.0")],
        ..wish(name, created)
    };
    let outcome = assign(&inputs(vec![alone], vec![sharer("a", 1, 80), sharer("b", 2, 81)]));
    assert_eq!(shown(&outcome), "a=203.0.113.0");
    assert!(refused(&outcome, "b").contains("lets nobody share"), "{outcome:?}");
}

#[test]
fn what_is_held_stays() {
    let pools = vec![pool("p", &["203.0.113.0/29"])];
    let held = |name: &str, created, address: &str| Wish { has: vec![ip(address)], ..wish(name, created) };
    let outcome = assign(&inputs(pools.clone(), vec![wish("old", 1), held("young", 2, "203.0.113.0")]));
    assert_eq!(shown(&outcome), "old=203.0.113.1 young=203.0.113.0", "also from who is older");
    // Two have the same by mistake: the older keeps it.
    let outcome =
        assign(&inputs(pools.clone(), vec![held("b", 2, "203.0.113.3"), held("a", 1, "203.0.113.3")]));
    assert_eq!(shown(&outcome), "a=203.0.113.3 b=203.0.113.0");
    // What is of another family, or not what is asked for now, is given up.
    let moved = Wish { addresses: vec![ip("203.0.113.6")], ..held("a", 1, "203.0.113.3") };
    let named = Wish { pool: Some("p".to_owned()), ..held("b", 2, "198.51.100.1") };
    let outcome = assign(&inputs(pools, vec![moved, named, held("c", 3, "2001:db8::1")]));
    assert_eq!(shown(&outcome), "a=203.0.113.6 b=203.0.113.0 c=203.0.113.1");
}

/// Whatever is done to a pool, nobody loses an address by it, and nobody else gets that.
#[test]
fn an_edited_pool_takes_nothing_away() {
    let held = |name: &str, created, address: &str| Wish { has: vec![ip(address)], ..wish(name, created) };
    let wishes = || vec![held("a", 1, "203.0.113.0"), held("b", 2, "203.0.113.1"), wish("c", 3)];
    let kept = |pool: Pool| {
        let outcome = assign(&inputs(vec![pool], wishes()));
        let show =
            |(key, kept): (&Key, &Vec<Kept>)| format!("{} {}: {}", key.name, kept[0].address, kept[0].why);
        (outcome.kept.iter().map(show).collect::<Vec<_>>().join("; "), shown(&outcome), outcome.used["p"])
    };
    let whole = pool("p", &["203.0.113.0/29"]);
    let smaller = pool("p", &["203.0.113.1-203.0.113.3"]);
    assert_eq!(
        kept(smaller),
        ("a 203.0.113.0: 203.0.113.0 is in no pool".to_owned(), "b=203.0.113.1 c=203.0.113.2".to_owned(), 2)
    );
    let quota = Pool { quota: Some(1), ..whole.clone() };
    let why = "b 203.0.113.1: the namespace has all its 1 addresses of pool p";
    assert_eq!(kept(quota), (why.to_owned(), "a=203.0.113.0".to_owned(), 2));
    let choosy = Requirement { key: "team".to_owned(), operator: Operator::Exists, values: BTreeSet::new() };
    let (all, given, used) = kept(Pool { services: Selector(vec![choosy]), ..whole });
    assert!(
        all.contains("a 203.0.113.0: pool p is not for") && all.contains("b 203.0.113.1: pool p is not for"),
        "{all}"
    );
    assert_eq!((given.as_str(), used), ("", 2));
}

#[test]
fn a_released_address_rests() {
    let resting = Pool { release_delay: Duration::from_secs(60), ..pool("p", &["203.0.113.1-203.0.113.2"]) };
    let released =
        BTreeMap::from([(ip("203.0.113.1"), Released { by: Key::new("default", "gone"), at: 1000 })]);
    let at = |now, wishes| {
        assign(&Inputs { pools: vec![resting.clone()], wishes, released: released.clone(), now })
    };
    let outcome = at(1059, vec![wish("a", 1), wish("b", 2)]);
    assert_eq!(shown(&outcome), "a=203.0.113.2");
    assert!(refused(&outcome, "b").contains("until a released one"));
    assert_eq!(outcome.wake, Some(1060));
    assert_eq!(shown(&at(1060, vec![wish("a", 1), wish("b", 2)])), "a=203.0.113.1 b=203.0.113.2");
    let asked = Wish { addresses: vec![ip("203.0.113.1")], ..wish("a", 1) };
    let outcome = at(1059, vec![asked]);
    assert_eq!((shown(&outcome).as_str(), outcome.wake), ("", Some(1060)));
    assert_eq!(shown(&at(1001, vec![wish("gone", 1)])), "gone=203.0.113.1", "who had it has it again");
}

#[test]
fn ranges() {
    use super::Range;
    let good = [
        ("203.0.113.0/24", 256),
        ("203.0.113.7", 1),
        ("203.0.113.7-203.0.113.9", 3),
        ("2001:db8::/64", u64::MAX),
        ("::/0", u64::MAX),
        ("2001:db8::1-2001:db8::2", 2),
        ("0.0.0.0/0", 1 << 32),
    ];
    for (text, len) in good {
        let range: Range = text.parse().unwrap();
        assert_eq!(range.count(), len, "{text}");
        assert_eq!(range.to_string().parse(), Ok(range));
    }
    for text in [
        "",
        "x",
        "203.0.113.1/24",
        "203.0.113.0/33",
        "203.0.113.9-203.0.113.7",
        "203.0.113.1-2001:db8::1",
        "1-2",
    ] {
        assert!(text.parse::<Range>().is_err(), "{text}");
    }
    let [a, b, c] =
        ["203.0.113.0/29", "203.0.113.7-203.0.113.9", "203.0.113.8"].map(|t| t.parse::<Range>().unwrap());
    assert_eq!([a.overlaps(&b), a.overlaps(&c), b.overlaps(&c)], [true, false, true]);
}

fn any_inputs() -> impl Strategy<Value = Inputs> {
    let any_pool = (0..3usize, 0..3i32, any::<bool>(), prop::option::of(1..4usize)).prop_map(
        |(n, priority, auto_assign, quota)| {
            let ranges: &[&str] = [
                &["203.0.113.0/30", "2001:db8::/126"][..],
                &["203.0.113.8-203.0.113.10"],
                &["2001:db8:1::/127"],
            ][n];
            (
                n,
                Pool {
                    priority,
                    auto_assign,
                    quota,
                    release_delay: Duration::from_secs(60),
                    ..pool(&format!("p{n}"), ranges)
                },
            )
        },
    );
    let address = prop::sample::select(vec![
        "203.0.113.0",
        "203.0.113.2",
        "203.0.113.9",
        "2001:db8::1",
        "2001:db8:1::",
        "198.51.100.1",
    ]);
    let addresses = prop::collection::vec(address.prop_map(ip), 0..2);
    let any_wish = (
        0..8u8,
        0..4i64,
        0..3usize,
        addresses.clone(),
        addresses.clone(),
        prop::option::of(0..3usize),
        any::<(bool, bool, bool)>(),
    )
        .prop_map(|(n, created, port, has, asked, from, (dual, shares, asks))| Wish {
            key: Key::new(if n % 2 == 0 { "default" } else { "other" }, &format!("s{n}")),
            families: if dual {
                BTreeSet::from([Family::V4, Family::V6])
            } else {
                BTreeSet::from([Family::V4])
            },
            sharing: shares.then(|| "k".to_owned()),
            ports: BTreeSet::from([(Protocol::Tcp, 80 + port as u16)]),
            has,
            addresses: if asks { asked } else { Vec::new() },
            pool: from.filter(|_| !asks).map(|n| format!("p{n}")),
            ..wish("", created)
        });
    let released = prop::collection::btree_map(
        prop::sample::select(vec![ip("203.0.113.1"), ip("203.0.113.8")]),
        950..1000i64,
        0..2,
    );
    (prop::collection::vec(any_pool, 0..4), prop::collection::vec(any_wish, 0..9), released).prop_map(
        |(pools, wishes, released)| {
            let mut by_name: BTreeMap<usize, Pool> = BTreeMap::new();
            by_name.extend(pools);
            let wishes: BTreeMap<Key, Wish> =
                wishes.into_iter().map(|wish| (wish.key.clone(), wish)).collect();
            let released = released
                .into_iter()
                .map(|(a, at)| (a, Released { by: Key::new("default", "s0"), at }))
                .collect();
            Inputs {
                pools: by_name.into_values().collect(),
                wishes: wishes.into_values().collect(),
                released,
                now: 1000,
            }
        },
    )
}

/// All addresses of a Service.
fn has(outcome: &Outcome, key: &Key) -> BTreeSet<IpAddr> {
    let given = outcome.given.get(key).into_iter().flatten().map(|given| given.address);
    given.chain(outcome.kept.get(key).into_iter().flatten().map(|kept| kept.address)).collect()
}

/// The same Services, with what they were given as their status.
fn after(inputs: &Inputs, outcome: &Outcome) -> Inputs {
    let mut inputs = inputs.clone();
    for wish in &mut inputs.wishes {
        wish.has = has(outcome, &wish.key).into_iter().collect();
    }
    inputs
}

proptest! {
    /// No address is given twice but to who shares it, each is of the pool that is named, and quotas hold.
    #[test]
    fn nobody_has_what_is_another_s(inputs in any_inputs()) {
        let outcome = assign(&inputs);
        let wishes: BTreeMap<&Key, &Wish> = inputs.wishes.iter().map(|wish| (&wish.key, wish)).collect();
        let mut holders: BTreeMap<IpAddr, Vec<&Wish>> = BTreeMap::new();
        for (key, kept) in &outcome.kept {
            for Kept { address, .. } in kept {
                prop_assert!(wishes[key].has.contains(address));
                holders.entry(*address).or_default().push(wishes[key]);
            }
        }
        let kept: BTreeSet<IpAddr> = outcome.kept.values().flatten().map(|kept| kept.address).collect();
        for (key, given) in &outcome.given {
            let wish = wishes[key];
            let families: BTreeSet<Family> = given.iter().map(|given| Family::of(given.address)).collect();
            prop_assert!(families.is_subset(&wish.families) && families.len() == given.len());
            for Given { address, pool } in given {
                let of = inputs.pools.iter().find(|p| p.name == *pool).unwrap();
                prop_assert!(of.ranges.iter().any(|range| range.contains(*address)));
                prop_assert!(wish.pool.as_ref().is_none_or(|wanted| wanted == pool));
                holders.entry(*address).or_default().push(wish);
            }
        }
        for of in holders.values().filter(|of| of.len() > 1) {
            let ports: usize = of.iter().map(|wish| wish.ports.len()).sum();
            let all: BTreeSet<_> = of.iter().flat_map(|wish| &wish.ports).collect();
            prop_assert_eq!(ports, all.len());
            prop_assert!(of.iter().all(|w| w.sharing.is_some() && w.sharing == of[0].sharing && w.key.namespace == of[0].key.namespace));
        }
        for pool in &inputs.pools {
            let own = holders.iter().filter(|(address, _)| pool.ranges.iter().any(|range| range.contains(**address)));
            let mut by_namespace: BTreeMap<&str, usize> = BTreeMap::new();
            own.clone().filter(|(address, _)| !kept.contains(address)).for_each(|(_, of)| *by_namespace.entry(&of[0].key.namespace).or_default() += 1);
            prop_assert!(by_namespace.values().all(|count| pool.quota.is_none_or(|quota| *count <= quota)));
            prop_assert_eq!(outcome.used[&pool.name], own.count());
        }
        // Who has not all of what it needs is told why.
        for wish in &inputs.wishes {
            let got = outcome.given.get(&wish.key).map_or(0, Vec::len) + outcome.kept.get(&wish.key).map_or(0, Vec::len);
            prop_assert_eq!(got < wish.families.len(), !refused_of(&outcome, wish).is_empty() && got < wish.families.len());
        }
    }

    /// A controller that starts anew finds everything as it was.
    #[test]
    fn a_restart_changes_nothing(inputs in any_inputs()) {
        let outcome = assign(&inputs);
        let again = assign(&after(&inputs, &outcome));
        for wish in &inputs.wishes {
            prop_assert_eq!(has(&again, &wish.key), has(&outcome, &wish.key));
        }
    }

    /// Whoever comes or goes, everybody else keeps what they have.
    #[test]
    fn nobody_moves_for_another(inputs in any_inputs(), who in any::<prop::sample::Index>()) {
        let outcome = assign(&inputs);
        let settled = after(&inputs, &outcome);
        if !settled.wishes.is_empty() {
            let mut fewer = settled.clone();
            fewer.wishes.remove(who.index(settled.wishes.len()));
            let without = assign(&fewer);
            for wish in fewer.wishes {
                // Whether it would be given again may change, and it may get what was missing.
                prop_assert!(has(&without, &wish.key).is_superset(&has(&outcome, &wish.key)), "{} moved", wish.key);
            }
        }
    }

    /// The order in which they are listed does not matter.
    #[test]
    fn order_does_not_matter(inputs in any_inputs()) {
        let mut turned = inputs.clone();
        turned.wishes.reverse();
        turned.pools.reverse();
        prop_assert_eq!(assign(&turned), assign(&inputs));
    }
}

fn refused_of(outcome: &Outcome, wish: &Wish) -> Vec<String> {
    outcome.refused.get(&wish.key).cloned().unwrap_or_default()
}
