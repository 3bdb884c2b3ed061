//! Slices: a port has one owner, whoever sends and whatever was sent before.

use std::ops::RangeInclusive;
use std::time::Duration;

use xdp_lb::model::{AdminState, Affinity, Backend, Ports, Protocol, Service};
use xdp_lb::state::Maps;
use xdp_lb_common::affinity::Named::Nothing;
use xdp_lb_common::reason::{DropReason, FlowEvent};

use crate::common::wanted::{address, backend, service};
use crate::stand::Stand;

fn owning(n: u8, ports: RangeInclusive<u16>) -> Backend {
    Backend { slice: vec![ports], ..backend(n) }
}

fn stand() -> Stand {
    let mut backends =
        vec![owning(1, 20_000..=20_999), owning(2, 21_000..=21_999), owning(3, 22_000..=22_499)];
    backends.sort_by_key(|b| b.address);
    let media = service("media", Protocol::Udp, []);
    Stand::new(Service {
        affinity: Affinity::DestPort,
        ports: Ports::Ranges(vec![20_000..=22_999]),
        backends: backends.into(),
        ..media
    })
}

#[test]
fn every_port_goes_to_its_owner_and_nothing_is_remembered() {
    let stand = stand();
    for port in 20_000..=22_999 {
        let owner = match port {
            20_000..=20_999 => Ok(address(1)),
            21_000..=21_999 => Ok(address(2)),
            22_000..=22_499 => Ok(address(3)),
            _ => Err(DropReason::NoSlice),
        };
        for client in [1, 60_000] {
            assert_eq!(stand.send_to(client, port, Nothing), owner, "{port}");
        }
    }
    assert_eq!(stand.events(FlowEvent::Remembered) + stand.events(FlowEvent::Miss), 0);
}

#[test]
fn who_drains_keeps_his_ports_and_who_is_down_has_them_all_the_same() {
    let mut stand = stand();
    stand.set(2, AdminState::Drain);
    assert_eq!(stand.send_to(1, 21_000, Nothing), Ok(address(2)));
    stand.set(2, AdminState::Down);
    assert_eq!(stand.send_to(1, 21_000, Nothing), Err(DropReason::SliceDown));
    assert_eq!(stand.send_to(1, 20_000, Nothing), Ok(address(1)), "nobody else notices");
}

#[test]
fn who_leaves_the_file_keeps_what_nobody_else_wants_until_his_drain_ends() {
    let mut stand = stand();
    // Backend 4 takes the first half of what 2 had.
    stand.service().backends.push(owning(4, 21_000..=21_499));
    stand.service().backends.sort_by_key(|b| b.address);
    stand.remove(2);
    for _ in 0..3 {
        assert_eq!(stand.send_to(1, 21_000, Nothing), Ok(address(4)));
        assert_eq!(stand.send_to(1, 21_500, Nothing), Ok(address(2)));
        stand.agent.survey();
        stand.run();
    }
    stand.pass(Duration::from_secs(6 * 3600));
    stand.run();
    assert_eq!(stand.send_to(1, 21_500, Nothing), Err(DropReason::NoSlice));
    stand.agent.survey();
    stand.run();
    let observed = stand.agent.maps.observe();
    assert_eq!(observed.ring(1).unwrap().members.len(), 3, "forgotten");
    assert_eq!(stand.send_to(1, 21_000, Nothing), Ok(address(4)));
}

#[test]
fn owners_change_at_one_moment() {
    let mut stand = stand();
    let shift = |range: &RangeInclusive<u16>| range.start() + 500..=range.end() + 500;
    stand.service().backends.iter_mut().for_each(|b| b.slice = b.slice.iter().map(shift).collect());
    let plan = stand.agent.plan(&stand.file).unwrap();
    let observed = stand.agent.maps.observe();
    for op in &plan.ops {
        stand.agent.step(op, &observed).unwrap();
        let owners = [20_499, 20_500, 21_499, 22_999].map(|port| stand.send_to(1, port, Nothing));
        let old = [Ok(address(1)), Ok(address(1)), Ok(address(2)), Err(DropReason::NoSlice)];
        let new = [Err(DropReason::NoSlice), Ok(address(1)), Ok(address(1)), Ok(address(3))];
        assert!(owners == old || owners == new, "{owners:?} after {op:?}");
    }
    assert_eq!(stand.send_to(1, 22_999, Nothing), Ok(address(3)));
    // All of it is in the maps.
    stand.agent.restart();
    assert!(stand.agent.plan(&stand.file).unwrap().is_empty());
}
