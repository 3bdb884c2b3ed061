//! Clients that a service lets in: from the configured prefixes to entries of the `source_ranges` trie, the order in
//! which they may change, and the look-up for whoever has a copy. Pure; called by the planner, `explain` and the memory twin.
//!
//! **Order.** New prefixes go in from the longest to the shortest, then those that are no longer wanted go from the shortest
//! to the longest. So at every moment a client's longest prefix is either the one it has in the new list or the one it
//! had in the old: who is kept out by both never gets in meanwhile, and who is let in by both is never kept out.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use xdp_lb_common::{
    parse::Words,
    source::{ALLOW, DENY, KEY_BITS, MAPPED_BITS, SERVICE_BITS, SourceKey},
};

use crate::{model::SourceRanges, state::MapOp, template::map_address};

/// The entries of a service; none when everybody may come.
#[must_use]
pub fn entries(service: u16, ranges: &SourceRanges) -> BTreeMap<SourceKey, u32> {
    if ranges.is_open() {
        return BTreeMap::new();
    }
    let others = if ranges.allow.is_empty() { ALLOW } else { DENY };
    // One for IPv4 as well: `::/0` would hold its mapped form too.
    let everybody = [IpAddr::V6(Ipv6Addr::UNSPECIFIED), IpAddr::V4(Ipv4Addr::UNSPECIFIED)];
    let prefixes = |list: &[(IpAddr, u8)], value| {
        list.iter().map(|&prefix| (key(service, prefix), value)).collect::<Vec<_>>()
    };
    let mut entries = BTreeMap::from(everybody.map(|address| (key(service, (address, 0)), others)));
    entries.extend(prefixes(&ranges.allow, ALLOW));
    entries.extend(prefixes(&ranges.deny, DENY));
    entries
}

fn key(service: u16, (address, length): (IpAddr, u8)) -> SourceKey {
    let mapped = if address.is_ipv4() { MAPPED_BITS } else { 0 };
    let prefix_len = SERVICE_BITS + mapped + u32::from(length);
    SourceKey { prefix_len, service: service.into(), address: map_address(address) }
}

/// The writes from one set of entries to another, in order.
#[must_use]
pub fn changes(old: &BTreeMap<SourceKey, u32>, new: &BTreeMap<SourceKey, u32>) -> Vec<MapOp> {
    let fresh = new.iter().filter(|(key, value)| old.get(key) != Some(value));
    let stale = old.keys().filter(|key| !new.contains_key(key));
    // Keys are sorted by their length first.
    let puts = fresh.rev().map(|(&key, &value)| MapOp::PutSource { key, value });
    puts.chain(stale.map(|&key| MapOp::DropSource { key })).collect()
}

/// What the packet path's look-up says: the longest prefix wins, and no prefix lets nobody in.
#[must_use]
pub fn admits(entries: &BTreeMap<SourceKey, u32>, service: u16, client: Words) -> bool {
    let whole = SourceKey::of(service, client);
    let longest = (SERVICE_BITS..=KEY_BITS).rev().find_map(|prefix_len| {
        let bits = prefix_len - SERVICE_BITS;
        let mask = u128::MAX.checked_shl(128 - bits).unwrap_or(0);
        let address = (u128::from_be_bytes(whole.address) & mask).to_be_bytes();
        entries.get(&SourceKey { prefix_len, service: service.into(), address })
    });
    longest == Some(&ALLOW)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{collection::vec, prelude::*, sample::select};
    use xdp_lb_common::parse::words;

    fn ranges(allow: &[&str], deny: &[&str]) -> SourceRanges {
        let list = |texts: &[&str]| {
            texts
                .iter()
                .map(|text| {
                    let (address, length) = text.split_once('/').unwrap();
                    (address.parse().unwrap(), length.parse().unwrap())
                })
                .collect()
        };
        SourceRanges { allow: list(allow), deny: list(deny) }
    }

    fn admitted(ranges: &SourceRanges, client: &str) -> bool {
        admits(&entries(7, ranges), 7, words(&map_address(client.parse().unwrap())))
    }

    #[test]
    fn the_longest_prefix_wins_and_an_empty_allow_list_is_everybody() {
        let deny_some = ranges(&[], &["198.51.100.0/24", "2001:db8::/32"]);
        for (client, may) in
            [("198.51.100.7", false), ("198.51.101.7", true), ("2001:db8::1", false), ("2001:db9::1", true)]
        {
            assert_eq!(admitted(&deny_some, client), may, "{client}");
        }
        let nested = ranges(&["10.0.0.0/8", "10.1.2.3/32", "0.0.0.0/0"], &["10.1.0.0/16"]);
        for (client, may) in
            [("10.0.0.1", true), ("10.1.2.4", false), ("10.1.2.3", true), ("9.9.9.9", true), ("::1", false)]
        {
            assert_eq!(admitted(&nested, client), may, "{client}");
        }
        let six = ranges(&["::/0"], &[]);
        assert!(admitted(&six, "2001:db8::1") && !admitted(&six, "198.51.100.7"), "families are apart");
        assert!(entries(7, &ranges(&[], &[])).is_empty());
        assert!(!admits(&BTreeMap::new(), 7, words(&[0; 16])), "a service whose ranges are missing");
        assert!(!admits(&entries(8, &deny_some), 7, words(&[1; 16])), "another service's");
    }

    fn some_ranges() -> impl Strategy<Value = SourceRanges> {
        let prefix = (
            select(vec![0u8, 1, 2, 3, 8, 15, 16, 24, 31, 32]),
            select(vec![0u32, 0x0a00_0000, 0x0a01_0203, 0xc633_6407]),
        );
        let prefix = prefix.prop_map(|(length, address)| {
            let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
            (IpAddr::from((address & mask).to_be_bytes()), length)
        });
        (vec(prefix.clone(), 0..5), vec(prefix, 0..5)).prop_map(|(allow, deny)| {
            let deny: Vec<_> = deny.into_iter().filter(|prefix| !allow.contains(prefix)).collect();
            SourceRanges { allow, deny }
        })
    }

    proptest! {
        /// Whatever the two lists, at no moment does a client meet a verdict that neither of them gives.
        #[test]
        fn no_moment_between_two_lists_is_worse_than_both(
            old in some_ranges(),
            new in some_ranges(),
            clients in vec(select(vec![0x0a00_0001u32, 0x0a01_0203, 0x0a01_0204, 0xc633_6407, 0xc633_6408, 7]), 1..4),
        ) {
            prop_assume!(!old.is_open() && !new.is_open());
            let (old, new) = (entries(7, &old), entries(7, &new));
            let mut now = old.clone();
            for op in changes(&old, &new) {
                match op {
                    MapOp::PutSource { key, value } => _ = now.insert(key, value),
                    MapOp::DropSource { key } => _ = now.remove(&key),
                    _ => unreachable!(),
                }
                for client in &clients {
                    let client = words(&map_address(client.to_be_bytes().into()));
                    let either = [admits(&old, 7, client), admits(&new, 7, client)];
                    prop_assert!(either.contains(&admits(&now, 7, client)));
                }
            }
            prop_assert_eq!(now, new);
        }
    }
}
