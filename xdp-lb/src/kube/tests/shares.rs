//! Gates by numbers of endpoints: what scaling moves, and how evenly clients are spread.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde_json::json;

use super::objects::{cluster, file, give, node, only, ready, service, slice};
use crate::gates::{assign, opening};
use crate::kube::Settings;
use crate::maglev::{MaglevTable, Member};
use crate::model::{Backend, TableSize};

/// Who has each slot, where so many ready endpoints are on each node.
fn slots(counts: &[usize], shares: Option<&str>) -> Vec<IpAddr> {
    let mut web = service(json!({}));
    if let Some(shares) = shares {
        web["metadata"]["annotations"] = json!({ "xdp-lb.io/shares": shares });
    }
    let mut cluster = cluster(Settings::default(), &[web]);
    let mut endpoints = Vec::new();
    for (number, &count) in (1u8..).zip(counts) {
        let _ = give(&mut cluster, &node(number, json!({})));
        endpoints.extend(ready(&format!("n{number}"), count));
    }
    let _ = give(&mut cluster, &slice("web-1", endpoints));
    let service = only(cluster.map(&file().inherited)).service;
    let members: Vec<Member> =
        service.backends.iter().map(|b| Member { address: b.address, weight: b.weight }).collect();
    let table = MaglevTable::new(members, TableSize::DEFAULT, 7).unwrap();
    let by_address: BTreeMap<IpAddr, &Backend> = service.backends.iter().map(|b| (b.address, b)).collect();
    let share = |member: &Member| {
        let backend = by_address[&member.address];
        opening(backend.state, backend.share)
    };
    assign(&table, share).into_iter().map(|at| table.members()[usize::from(at)].address).collect()
}

fn part(slots: &[IpAddr], number: u8) -> f64 {
    let of = IpAddr::from([10, 0, 0, number]);
    slots.iter().filter(|slot| **slot == of).count() as f64 / slots.len() as f64
}

#[test]
fn clients_are_spread_by_endpoints() {
    for counts in [&[1, 1, 1][..], &[4, 1], &[3, 2, 1], &[1, 1, 2, 4, 8], &[10, 9, 11, 10, 1]] {
        let slots = slots(counts, None);
        let all: usize = counts.iter().sum();
        for (number, &count) in (1u8..).zip(counts) {
            let (is, wanted) = (part(&slots, number), count as f64 / all as f64);
            assert!(
                (is - wanted).abs() < 0.12 * wanted + 0.005,
                "{counts:?}: n{number} has {is:.3}, {wanted:.3} wanted"
            );
        }
    }
}

/// What moves goes to the node that grew, or comes from the one that shrank.
#[test]
fn scaling_moves_nobody_else() {
    let before = slots(&[2, 2, 1, 3], None);
    for (after, changed, grows) in
        [(&[2, 3, 1, 3][..], 2, true), (&[2, 2, 1, 2], 4, false), (&[2, 2, 1, 4], 4, true)]
    {
        let after = slots(after, None);
        let node = IpAddr::from([10, 0, 0, changed]);
        let moves: Vec<(IpAddr, IpAddr)> =
            before.iter().copied().zip(after).filter(|(a, b)| a != b).collect();
        assert!(!moves.is_empty());
        assert!(moves.iter().all(|(from, to)| if grows { *to == node } else { *from == node }));
    }
}

#[test]
fn a_canary_is_a_share_of_a_node() {
    let slots = slots(&[2, 2, 2], Some("n3=10%"));
    let canary = part(&slots, 3);
    assert!((0.03..0.07).contains(&canary), "{canary}");
}
