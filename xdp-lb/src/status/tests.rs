//! The status of tables that a configuration made: what a reader recovers is what the file said.

use std::collections::BTreeMap;

use xdp_lb_common::{
    flow::{FlowEntry, FlowKey, FlowSet},
    hash::FlowHash,
    stats::{Counters, Traffic},
};

use super::{Interface, MemberState, Path, Readings, Status, flows};
use crate::{
    config,
    memory::MemoryMaps,
    model::Desired,
    nexthop::{NextHop, Resolution},
    plan::{self, Census, Inputs},
    state::{Capacity, Maps as _, Observed},
};
use xdp_lb_common::control::Control;

const FILE: &str = r#"
version: 1
interfaces: [{ name: eth0 }]
encap: { source_v4: 172.16.0.0/16 }
maglev: { table_size: 251, seed: 7 }
vips: [{ address: 203.0.113.11, unmatched: pass }]
services:
  - { name: web, vip: [203.0.113.10, "2001:db8::10"], protocol: tcp, ports: [80, 443, "8000-8999"],
      backends: [{ address: 10.0.0.2, state: down }, { address: 10.0.0.1 }, { address: 10.0.0.3 }] }
  - { name: all, vip: 203.0.113.11, protocol: udp, ports: all, affinity: client-ip, tracking: "off",
      backends: [{ address: 10.0.0.1 }] }
  - { name: none, vip: 203.0.113.10, protocol: udp, ports: "1-65535", backends: [] }
decap: { accept: [ipip], allow_sources: [172.16.0.0/16], vips: [203.0.113.10, 203.0.113.12] }
"#;

fn desired() -> Desired {
    config::parse(FILE).unwrap_or_else(|e| panic!("{e:?}")).desired
}

fn observed() -> Observed {
    let capacity = Capacity {
        services: 64,
        vip_slots: 64,
        port_pages: 64,
        backends: 256,
        ring_slots: 4096,
        flow_sets: 64,
        backend_stats: 256,
        tx_ports: 16,
        server_ids: 64,
        source_ranges: 256,
    };
    let control = Control { seed: 7, tick_shift: 10, second_shift: 8, hz: 250, ..Control::default() };
    let mut maps = MemoryMaps::new(capacity, control);
    let resolve = |_| {
        Resolution::Resolved(NextHop {
            ifindex: 2,
            interface: "eth0".into(),
            source_mac: [2, 0, 0, 0, 0, 1],
            destination_mac: [2, 0, 0, 0, 0, 0xfe],
            mtu: 65_535,
            below: None,
            path_mtu: None,
        })
    };
    let plan = plan::plan(&Inputs {
        desired: &desired(),
        observed: &maps.observe(),
        resolve: &resolve,
        census: &Census::default(),
        windows: &BTreeMap::new(),
        memo: &plan::Memo::default(),
        now: 1000,
        allow_moves: false,
        generation: 3,
        only: None,
    });
    plan.unwrap().ops.iter().for_each(|op| maps.apply(op).unwrap());
    maps.observe()
}

#[test]
fn listeners_come_back_from_the_port_pages() {
    let status = Status::new(&observed(), &Readings::default());
    let found: Vec<(&str, Vec<String>)> = status
        .services
        .iter()
        .map(|s| (&*s.name, s.listeners.iter().map(|l| format!("{} {}", l.vip, l.ports.join(","))).collect()))
        .collect();
    let ports = "80,443,8000-8999";
    assert_eq!(
        found,
        [
            ("all", vec!["203.0.113.11 all".to_owned()]),
            ("none", vec!["203.0.113.10 1-65535".to_owned()]),
            ("web", vec![format!("203.0.113.10 {ports}"), format!("2001:db8::10 {ports}")]),
        ]
    );
    let vips: Vec<_> = status
        .vips
        .iter()
        .map(|v| (v.address.to_string(), v.balanced, v.decapsulated, v.unmatched))
        .collect();
    assert_eq!(
        vips,
        [
            ("203.0.113.10".to_owned(), true, true, Some("drop")),
            ("203.0.113.11".to_owned(), true, false, Some("pass")),
            ("203.0.113.12".to_owned(), false, true, None),
            ("2001:db8::10".to_owned(), true, false, Some("drop")),
        ]
    );
}

#[test]
fn backends_are_sorted_and_their_slots_are_all_slots() {
    let status = Status::new(&observed(), &Readings::default());
    assert_eq!(status.generation, 3);
    let web = status.services.iter().find(|s| s.name == "web").unwrap();
    let addresses: Vec<String> = web.backends.iter().map(|b| b.address.to_string()).collect();
    assert_eq!(addresses, ["10.0.0.1", "10.0.0.2", "10.0.0.3"]);
    assert_eq!(web.backends.iter().map(|b| b.slots).sum::<u32>(), 251);
    let percent: f64 = web.backends.iter().map(|b| b.slots_percent).sum();
    assert!((percent - 100.0).abs() < 0.05, "{percent}");
    let down = &web.backends[1];
    assert_eq!((down.state, down.slots, down.since), (MemberState::Down, 0, 1000));
    assert_eq!(
        down.path,
        Path::Tunnel { interface: None, ifindex: 2, next_hop: [2, 0, 0, 0, 0, 0xfe], vlan: None },
        "ready for its return"
    );
    let none = status.services.iter().find(|s| s.name == "none").unwrap();
    assert!(none.backends.is_empty() && none.dirty_slots == 0, "{none:?}");
}

#[test]
fn readings_find_their_owners() {
    let observed = observed();
    let id = |name| observed.services.iter().find(|(_, s)| plan::name(s) == name).map(|(&id, _)| id).unwrap();
    let web = id("web");
    let local = |last| {
        let members = &observed.ring(web).unwrap().members;
        *members.iter().find(|(_, m)| m.address[15] == last).unwrap().0
    };
    let mut counters = Counters::default();
    counters.drops.no_service = 9;
    counters.flows.hit = 4;
    let readings = Readings {
        health: BTreeMap::new(),
        drains: crate::drains::Drains::default(),
        counters,
        services: BTreeMap::from([(web, Traffic { packets: 7, bytes: 700 })]),
        members: BTreeMap::from([((web, local(3)), Traffic { packets: 5, bytes: 500 })]),
        flows: Some(BTreeMap::from([((web, local(1)), 2), ((web, local(3)), 3), ((60, 0), 1)])),
        interfaces: vec![Interface {
            name: "eth0".into(),
            ifindex: 2,
            mode: "native".into(),
            program: 77,
            findings: vec![],
        }],
        names: BTreeMap::from([(2, "eth0".into())]),
    };
    let status = Status::new(&observed, &readings);
    let web = status.services.iter().find(|s| s.name == "web").unwrap();
    assert_eq!((web.packets, web.bytes, web.flows), (7, 700, Some(5)));
    let members: Vec<_> = web.backends.iter().map(|b| (b.packets, b.bytes, b.flows)).collect();
    assert_eq!(members, [(None, None, Some(2)), (None, None, Some(0)), (Some(5), Some(500), Some(3))]);
    assert_eq!((status.flow_table.entries, status.flow_table.live), (512, Some(6)));
    let reasons: Vec<_> = status.drops.iter().map(|c| (c.reason, c.packets)).collect();
    assert_eq!((reasons, status.passes.len()), (vec![("no_service", 9)], 0));
    assert!(status.flow_table.events.iter().any(|c| (c.reason, c.packets) == ("hit", 4)));
    assert!(
        matches!(&web.backends[0].path, Path::Tunnel { interface: Some(name), .. } if name == "eth0"),
        "{web:?}"
    );
}

#[test]
fn expired_flows_are_none() {
    let entry = |service, backend, expiry| {
        FlowEntry::new(FlowKey::new(service, FlowHash(u64::from(expiry))), backend, expiry, false).0
    };
    let mut set = FlowSet::default();
    set.entries[..4].copy_from_slice(&[entry(1, 0, 11), entry(1, 0, 12), entry(1, 3, 500), entry(2, 0, 10)]);
    assert_eq!(flows([set].into_iter(), 10), BTreeMap::from([((1, 0), 2), ((1, 3), 1)]));
}

/// Field names are promises: a renamed one fails here.
#[test]
fn names_of_the_fields() {
    let yaml = serde_yaml::to_string(&Status::new(&observed(), &Readings::default())).unwrap();
    for field in [
        "generation:",
        "interfaces:",
        "vips:",
        "- address:",
        "  balanced:",
        "  decapsulated:",
        "  unmatched:",
        "services:",
        "- name: web",
        "  id:",
        "  protocol: tcp",
        "  listeners:",
        "  - vip:",
        "    ports:",
        "  affinity: client-ip",
        "  tracking:",
        "  tracking_window:",
        "  ring:",
        "  slots:",
        "  dirty_slots:",
        "  empty_slots:",
        "  packets:",
        "  bytes:",
        "  flows:",
        "  backends:",
        "    state: down",
        "    since:",
        "    slots_percent:",
        "    path:",
        "      kind: tunnel",
        "      interface:",
        "      ifindex:",
        "      next_hop: 02:00:00:00:00:fe",
        "rings:",
        "  total:",
        "  sharing:",
        "flow_table:",
        "  entries:",
        "  live:",
        "  events:",
        "  - reason: hit",
        "    sentence:",
        "drops:",
        "passes:",
    ] {
        assert!(yaml.lines().any(|line| line.starts_with(field)), "no {field:?} in\n{yaml}");
    }
}
