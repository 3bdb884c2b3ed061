//! Random configurations: up to five services with overlapping claims on ports, in all states of life.

use std::collections::BTreeSet;
use std::time::Duration;

use proptest::collection::{btree_map, vec};
use proptest::option::weighted;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use xdp_lb::model::{
    AdminState, Affinity, Backend, Decap, Desired, DrainMode, DrainPolicy, Mss, PodPort, Ports, Protocol,
    ServerIdBytes, Service, Share, SourceRanges, TableSize, Tracking, Unmatched,
};

use crate::common::wanted::{backend, desired, service, vip};

/// Most services of a configuration.
pub const SERVICES: u16 = 5;

/// Ports at which some service's claim begins, ends, or is overlaid.
pub fn ports() -> impl Iterator<Item = u16> {
    let edges = |i: u16| {
        let (near, far) = (2000 + 100 * i, 10_000 + 1000 * i);
        [80 + i, 1000 + i, near, near + 50, near + 51, far, far + 7, far + 8, far + 999]
    };
    (0..SERVICES).flat_map(edges).chain([0, 1, u16::MAX])
}

/// What services have in common that share a ring.
type Common = (TableSize, DrainPolicy, Vec<Backend>);

/// One configuration, of services that have a part of `pool` in common, or nothing.
fn configuration(pool: Vec<Common>) -> impl Strategy<Value = Desired> {
    let services = (0..SERVICES).map(|i| weighted(0.7, one(i, pool.clone()))).collect::<Vec<_>>();
    (services, any::<u8>(), weighted(0.3, vec(0u8..5, 1..4))).prop_map(|(services, unmatched, decap)| {
        let mut services: Vec<Service> = services.into_iter().flatten().collect();
        one_whole_address(&mut services);
        let mut desired = desired(services);
        for (bit, vip) in desired.vips.iter_mut().enumerate() {
            vip.unmatched = if unmatched >> bit & 1 == 1 { Unmatched::Pass } else { Unmatched::Drop };
        }
        desired.decap = decap.map(|vips| Decap {
            interfaces: Vec::new(),
            ipip: true,
            gue: None,
            allow_sources: vec![([172, 16, 0, 0].into(), 12), (vip(1), 64)],
            translate: vips.iter().filter(|&&n| n > 1).map(|&n| translated(n)).collect(),
            vips: vips.into_iter().map(vip).collect(),
            vip_on_lo: false,
            on_lo: Vec::new(),
            mss: Mss::Off,
        });
        desired
    })
}

/// A port of a VIP at a pod.
fn translated(n: u8) -> PodPort {
    let pod = ([0xfd, 0, 2, 0x44, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, n % 2]).into();
    PodPort { vip: vip(n), protocol: Protocol::Tcp, port: 80, pod, target: 8080 + u16::from(n) }
}

/// A change of mind about one configuration: the same, or something else altogether. Services share rings, part and
/// join.
pub fn two_configurations() -> impl Strategy<Value = (Desired, Desired)> {
    vec(common(), 2).prop_flat_map(|pool| (configuration(pool.clone()), configuration(pool)))
}

fn common() -> impl Strategy<Value = Common> {
    let size = select(vec![13u32, 31, 31, 31]);
    let drain = (any::<bool>(), select(vec![0u64, 1000]));
    (size, drain, backends()).prop_map(|(size, (shed, max), backends)| {
        let mode = if shed { DrainMode::Shed } else { DrainMode::Stick };
        (TableSize::new(size).unwrap(), DrainPolicy { mode, max: Duration::from_secs(max) }, backends)
    })
}

fn one(i: u16, pool: Vec<Common>) -> impl Strategy<Value = Service> {
    let claims = select(vec![
        Ports::All,
        Ports::Ranges(vec![1000 + i..=1000 + i]),
        Ports::Ranges(vec![2000 + 100 * i..=2050 + 100 * i]),
        Ports::Ranges(vec![80 + i..=80 + i, 10_000 + 1000 * i..=10_999 + 1000 * i]),
        // A single port inside the range of the next service.
        Ports::Ranges(vec![{
            let other = 10_007 + 1000 * ((i + 1) % SERVICES);
            other..=other
        }]),
    ]);
    let tracking = select(vec![Tracking::Exact, Tracking::Sampled, Tracking::Off]);
    let affinity = select(vec![
        Affinity::FiveTuple,
        Affinity::FiveTuple,
        Affinity::ClientIp,
        Affinity::DestPort,
        Affinity::QuicCid,
        Affinity::IceUfrag,
    ]);
    let looks = (any::<bool>(), affinity, source_ranges());
    let common = prop_oneof![2 => select(pool), 1 => common()];
    (claims, subsequence(vec![0, 1, 2, 3], 1..=3), looks, tracking, common).prop_map(
        move |(ports, vips, (udp, affinity, source_ranges), tracking, (table_size, drain, mut backends))| {
            let protocol = if udp { Protocol::Udp } else { Protocol::Tcp };
            for (place, backend) in (0u8..).zip(&mut backends) {
                // What the weight says moves from one configuration to the next.
                let turn = place.wrapping_add(backend.weight as u8);
                backend.server_id =
                    affinity.has_server_ids().then(|| ServerIdBytes::new(&[1, turn]).unwrap());
                let first = 1000 + 100 * u16::from(turn);
                backend.slice =
                    if affinity == Affinity::DestPort { vec![first..=first + 99] } else { Vec::new() };
            }
            // No two claim the same: the configuration would have been refused.
            let mut ids = BTreeSet::new();
            backends.retain(|b| {
                (b.server_id.is_none() && b.slice.is_empty())
                    || ids.insert((b.server_id, b.slice.first().map(|r| *r.start())))
            });
            Service {
                source_ranges,
                vips: vips.into_iter().map(vip).collect(),
                ports,
                tracking,
                affinity,
                table_size,
                drain,
                ..service(&format!("s{i}"), protocol, [])
            }
        },
    )
}

/// Mostly open; else a few prefixes, which two configurations may well have in common.
fn source_ranges() -> impl Strategy<Value = SourceRanges> {
    let prefixes =
        vec![(vip(1), 64), ([10, 0, 0, 0].into(), 8), ([10, 1, 0, 0].into(), 16), ([0, 0, 0, 0].into(), 0)];
    weighted(0.4, (subsequence(prefixes.clone(), 0..=3), subsequence(prefixes, 0..=2))).prop_map(|lists| {
        let (allow, deny) = lists.unwrap_or_default();
        let deny = deny.into_iter().filter(|prefix| !allow.contains(prefix)).collect();
        SourceRanges { allow, deny }
    })
}

/// None, a few, or more than fit the smallest block.
fn backends() -> impl Strategy<Value = Vec<Backend>> {
    let state = select(vec![
        AdminState::Active,
        AdminState::Active,
        AdminState::Active,
        AdminState::Drain,
        AdminState::Down,
    ]);
    let share = select(vec![0.0, 0.5, 1.0, 1.0, 1.0]);
    let some = |n| btree_map(1u8..24, (state.clone(), share.clone(), 0u16..4), n);
    prop_oneof![1 => some(0..1), 4 => some(1..6), 1 => some(9..18)].prop_map(|chosen| {
        let mut backends: Vec<Backend> = chosen
            .into_iter()
            .map(|(n, (state, share, weight))| Backend {
                state,
                share: Share::from_fraction(share),
                weight,
                ..backend(n)
            })
            .collect();
        backends.sort_by_key(|b| b.address);
        backends
    })
}

/// Two services that claim all of one address are an error of the configuration.
fn one_whole_address(services: &mut [Service]) {
    let mut seen = false;
    for (i, service) in (0u16..).zip(services) {
        if service.ports == Ports::All && std::mem::replace(&mut seen, true) {
            service.ports = Ports::Ranges(vec![1100 + i..=1100 + i]);
        }
    }
}
