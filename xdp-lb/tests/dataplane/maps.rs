//! Writing, reading and sweeping the maps, and what packets make of it.

use bytemuck::Zeroable as _;
use xdp_lb::dataplane::{KernelMaps, KernelTables};
use xdp_lb::state::{MapOp, Maps as _, SlotChange};
use xdp_lb_common::{
    backend::{BACKEND_USED, Backend},
    classify,
    decap::AllowList,
    flow::FlowEntry,
    parse::{Addresses, Segment, UDP, Version, words},
    ring::Slot,
    select::{self, Flow, Why},
    service::{Service, ServiceConfig},
    vip::{PortPage, VipSlot},
};

use crate::fill::{
    PORT, SERVICE, TABLE_SIZE, VIP, XDP_TX, backend, config, fill, flow_hash, mapped, remembered, run,
    template, udp,
};
use crate::stand::{open, root};

#[test]
fn a_packet_goes_into_the_tunnel_and_is_counted() {
    let Some(root) = root() else { return };
    let mut loaded = open(&root);
    assert!(!loaded.took_over());
    let mut maps = loaded.maps().unwrap();
    fill(&mut maps);

    let (verdict, out) = run(&mut loaded, &udp(40_000));
    assert_eq!(verdict, XDP_TX);
    assert_eq!(out.len(), udp(40_000).len() + 20);
    assert_eq!(out[..14], [2, 0, 0, 0, 9, 9, 2, 0, 0, 0, 1, 1, 8, 0], "the tunnel's MACs");
    assert_eq!(out[34..], udp(40_000)[14..], "the inner packet byte for byte");
    assert!([[10, 1, 0, 1], [10, 1, 0, 2]].contains(&[out[30], out[31], out[32], out[33]]));

    let traffic = maps.service_traffic(SERVICE).unwrap();
    assert_eq!((traffic.packets, traffic.bytes), (1, udp(40_000).len() as u64 - 14));
    let members: u64 = (0..2).map(|i| maps.backend_traffic(i).unwrap().unwrap().packets).sum();
    assert_eq!(members, 1);
    assert_eq!(maps.counters().unwrap().flows.remembered, 1);
    maps.clear_service_traffic(SERVICE).unwrap();
    assert_eq!(maps.service_traffic(SERVICE).unwrap().packets, 0);
}

#[test]
fn live_changes_are_single_stores_in_the_live_copy() {
    let Some(root) = root() else { return };
    let loaded = open(&root);
    let mut maps = loaded.maps().unwrap();
    fill(&mut maps);

    let config = ServiceConfig { flow_ttl: 99, ..config() };
    let first = maps.observe().services[&SERVICE];
    maps.apply(&MapOp::SetService { id: SERVICE, config }).unwrap();
    let second = maps.observe().services[&SERVICE];
    assert_eq!((second.live, *second.config()), (1, config));
    assert_eq!(second.configs[0], first.configs[0], "the old one stays for slow packets");
    maps.apply(&MapOp::SetService { id: SERVICE, config: self::config() }).unwrap();
    assert_eq!(maps.observe().services[&SERVICE].live, 0);

    let changes = vec![
        SlotChange { slot: 0, before: Some(0), now: Slot::dirty(1).0 },
        SlotChange { slot: 6, before: None, now: Slot::dirty(1).0 },
    ];
    maps.apply(&MapOp::SetSlots { base: 4, changes }).unwrap();
    let ring = maps.observe().ring(SERVICE).unwrap().slots.clone();
    assert_eq!((Slot(ring.now[0]), Slot(ring.now[6])), (Slot::dirty(1), Slot::dirty(1)));
    assert_eq!((ring.before[0], ring.now[1..6].to_vec()), (0, vec![1, 0, 1, 0, 1]));
    assert!(!maps.clean_slot(4, Slot::dirty(0).0).unwrap(), "another value");
    assert!(maps.clean_slot(4, Slot::dirty(1).0).unwrap());
    assert_eq!(maps.slot(4), Some((1, 0)));

    maps.apply(&MapOp::SetBackendState { index: 1, state: BACKEND_USED, since: 77 }).unwrap();
    let member = maps.observe().ring(SERVICE).unwrap().members[&1];
    assert_eq!((member.state, member.since), (BACKEND_USED, 77));

    let list = Box::new(AllowList::zeroed());
    maps.apply(&MapOp::SetSources { list }).unwrap();
    let seen = maps.observe();
    assert_eq!((seen.control.decap_bank, seen.sources.v4_count), (0, 0));

    maps.apply(&MapOp::DropService { id: SERVICE }).unwrap();
    maps.apply(&MapOp::DropBackend { index: 0 }).unwrap();
    assert!(maps.observe().services.is_empty());
    assert_eq!(
        maps.backend(0),
        Some(Backend { block_len: 2, ..Backend::zeroed() }),
        "the block outlives its first entry"
    );
}

#[test]
fn writes_outside_the_maps_are_errors() {
    let Some(root) = root() else { return };
    let loaded = open(&root);
    let mut maps = loaded.maps().unwrap();
    let capacity = *maps.capacity();
    let far = u32::MAX;
    let ops = [
        MapOp::PutBackend { index: capacity.backends, entry: Box::new(Backend::zeroed()) },
        MapOp::SetTemplate { index: far, template: Box::new(template(0)) },
        MapOp::SetBackendState { index: far, state: 0, since: 0 },
        MapOp::PutRing { base: 2, slots: vec![0] },
        MapOp::PutRing { base: capacity.ring_slots - 4, slots: vec![0; 5] },
        MapOp::PutRing { base: far - 3, slots: vec![0; 5] },
        MapOp::SetSlots { base: far, changes: vec![SlotChange { slot: 1, before: Some(0), now: 0 }] },
        MapOp::PutService { id: u16::MAX, entry: Box::new(Service::zeroed()) },
        MapOp::SetService { id: u16::MAX, config: config() },
        MapOp::PutPage { page: capacity.port_pages, content: Box::new(PortPage::zeroed()) },
        MapOp::PutVips { bank: 0, slots: vec![VipSlot::default(); capacity.vip_slots as usize] },
        MapOp::PutVips { bank: 1, slots: vec![] },
    ];
    for op in ops {
        let error = maps.apply(&op).expect_err(&format!("{op:?}"));
        assert_eq!((error.map, error.key), op.target(), "{op:?}");
    }
    let mut reader = KernelMaps::open_read_only(&root).unwrap();
    assert!(reader.apply(&MapOp::SetGeneration { generation: 9 }).is_err());
    assert_eq!(reader.observe().control.generation, 0);
}

#[test]
fn nonsense_in_the_maps_is_survived() {
    let Some(root) = root() else { return };
    let loaded = open(&root);
    let mut maps = loaded.maps().unwrap();
    fill(&mut maps);
    let config = ServiceConfig { slot_base: u32::MAX, table_size: 9, backend_base: u32::MAX, ..config() };
    maps.apply(&MapOp::SetService { id: SERVICE, config }).unwrap();
    let mut first = backend(0);
    first.block_len = u32::MAX;
    maps.apply(&MapOp::PutBackend { index: 0, entry: Box::new(first) }).unwrap();
    let seen = maps.observe();
    let ring = seen.ring(SERVICE).unwrap();
    assert!(ring.slots.now.is_empty() && ring.members.is_empty());
    maps.apply(&MapOp::SetService { id: SERVICE, config: self::config() }).unwrap();
    assert_eq!(maps.observe().ring(SERVICE).unwrap().block, maps.capacity().backends);
}

#[test]
fn flows_are_read_swept_and_aged_by_the_kernels_clock() {
    let Some(root) = root() else { return };
    let mut loaded = open(&root);
    let mut maps = loaded.maps().unwrap();
    fill(&mut maps);
    run(&mut loaded, &udp(40_000));
    let (set, way, word) = remembered(&maps);
    let entry = FlowEntry(word);
    assert_eq!((entry.service(), entry.tag()), (SERVICE, flow_hash(40_000).tag()));
    assert_eq!(set, flow_hash(40_000).set(maps.control().flow_set_mask));
    // The kernel stored `tick + unconfirmed_ttl`, a moment ago.
    let left = entry.remaining(maps.tick().unwrap());
    assert!((config().unconfirmed_ttl - 1..=config().unconfirmed_ttl).contains(&left), "{left} ticks left");
    assert!(!maps.sweep(set, way, word ^ 1).unwrap());
    assert!(maps.sweep(set, way, word).unwrap());
    assert!(maps.flow_sets().all(|(_, set)| set.entries == [0; 8]));
    assert!(maps.sweep(0, 8, 0).is_err());
}

#[test]
fn the_tables_of_explain_choose_what_the_kernel_chooses() {
    let Some(root) = root() else { return };
    let mut loaded = open(&root);
    let mut maps = loaded.maps().unwrap();
    fill(&mut maps);
    for port in 40_000..40_050u16 {
        let tables = KernelTables::new(&maps).unwrap();
        let to = words(&mapped(VIP));
        let to = Addresses { version: Version::V4, l3: 14, source: [0; 2], destination: to };
        let vip = classify::vip(&tables, &to).expect("the VIP");
        assert_eq!(classify::service(&tables, vip, UDP, PORT), SERVICE);
        let config = *maps.service(SERVICE).unwrap().config();
        let flow =
            Flow { service: SERVICE, config: &config, hash: flow_hash(port), segment: Segment::Datagram };
        let choice = select::choose(&tables, &flow).unwrap();
        let (_, out) = run(&mut loaded, &udp(port));
        assert_eq!(u16::from(out[33]), choice.backend + 1, "port {port}");
    }
    // A remembered flow in a slot that changed since.
    let slot = config().slot_base + flow_hash(40_000).slot(TABLE_SIZE);
    let now = maps.slot(slot).unwrap().0;
    let changes = vec![SlotChange { slot, before: None, now: Slot::dirty(now ^ 1).0 }];
    maps.apply(&MapOp::SetSlots { base: 0, changes }).unwrap();
    let tables = KernelTables::new(&maps).unwrap();
    let config = config();
    let flow =
        Flow { service: SERVICE, config: &config, hash: flow_hash(40_000), segment: Segment::Datagram };
    let choice = select::choose(&tables, &flow).unwrap();
    assert_eq!((choice.backend, choice.why), (now, Why::Remembered));
}
