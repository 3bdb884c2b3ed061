//! Programs, maps and links in a real kernel. Each test has a pin directory and, where it needs interfaces, a network
//! namespace of its own; both are gone when it ends.
#![cfg(feature = "agent")]

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

use aya::programs::{TestRun as _, TestRunOptions};
use bytemuck::Zeroable as _;
use nix::sched::{CloneFlags, unshare};
use xdp_lb::dataplane::{
    AttachError, BpffsRoot, KernelMaps, KernelTables, LoadError, Loaded, Mode, OpenError, Program, Setup,
    Shape, attach, load,
};
use xdp_lb::model::{AttachMode, FlowTable, Limits};
use xdp_lb::state::{MapOp, Maps as _, Observed, SlotChange};
use xdp_lb_common::{
    backend::{BACKEND_ALIVE, BACKEND_USED, Backend, HEADER_LEN, KIND_TUNNEL, Template},
    classify,
    control::VipBank,
    decap::{AllowList, Prefix4},
    encap::constant_sum,
    flow::FlowEntry,
    hash::{self, FlowHash},
    parse::{self, Segment, UDP, Version, words},
    ring::Slot,
    select::{self, Flow, Why},
    service::{IS_UDP, NAME_LEN, Service, ServiceConfig, TRACK_EXACT},
    vip::{PAGE_PORTS, PortPage, VIP_BALANCED, VIP_USED, VipSlot, probe_start},
};

const XDP_TX: u32 = 3;
const XDP_REDIRECT: u32 = 4;
/// The ingress interface of test runs: the kernel uses the namespace's `lo`.
const LO: u32 = 1;
const SEED: u64 = 0x1234_5678_9abc_def0;
const SERVICE: u16 = 5;
const TABLE_SIZE: u32 = 7;
const VIP: [u8; 4] = [203, 0, 113, 10];
const CLIENT: [u8; 4] = [198, 51, 100, 7];
const PORT: u16 = 5060;

// ---------------------------------------------------------------- maps and program

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
fn another_interface_is_a_redirect() {
    let Some(root) = root() else { return };
    let mut loaded = open(&root);
    let mut maps = loaded.maps().unwrap();
    fill(&mut maps);
    maps.apply(&MapOp::PutTxPort { ifindex: LO }).unwrap();
    assert_eq!(maps.observe().tx_ports, [LO].into());
    for index in 0..2 {
        let template = Box::new(Template { ifindex: LO + 1, ..template(index) });
        maps.apply(&MapOp::SetTemplate { index, template }).unwrap();
    }
    assert_ne!(run(&mut loaded, &udp(40_000)).0, XDP_REDIRECT, "no such port");
    // A device map holds an interface under any index, which a single interface suffices to see.
    for index in 0..2 {
        let template = Box::new(Template { ifindex: LO, ..template(index) });
        maps.apply(&MapOp::SetTemplate { index, template }).unwrap();
    }
    assert_eq!(run(&mut loaded, &udp(40_000)).0, XDP_TX);
    maps.apply(&MapOp::DropTxPort { ifindex: LO }).unwrap();
    maps.apply(&MapOp::DropTxPort { ifindex: LO }).unwrap();
    assert!(maps.observe().tx_ports.is_empty());
    assert!(maps.apply(&MapOp::PutTxPort { ifindex: 1 << 30 }).is_err());
    assert!(maps.apply(&MapOp::DropTxPort { ifindex: 1 << 30 }).is_err());
}

#[test]
fn what_was_written_is_observed_again_after_a_takeover() {
    let Some(root) = root() else { return };
    let before = {
        let loaded = open(&root);
        let mut maps = loaded.maps().unwrap();
        fill(&mut maps);
        maps.observe()
    };
    assert_eq!(before.services.keys().copied().collect::<Vec<_>>(), [SERVICE]);
    assert_eq!(before.rings[&SERVICE].now, [0, 1, 0, 1, 0, 1, 0]);
    assert_eq!(before.rings[&SERVICE].before, before.rings[&SERVICE].now);
    assert_eq!((before.blocks[&SERVICE], before.members[&SERVICE].len()), (2, 2));
    assert_eq!(before.pages.keys().copied().collect::<Vec<_>>(), [1, 2]);
    assert_eq!(before.control.generation, 1);
    assert_eq!(before.sources.v4_count, 1);

    let mut loaded = open(&root);
    assert!(loaded.took_over());
    same(&before, &loaded.maps().unwrap().observe());
    same(&before, &KernelMaps::open_read_only(&root).unwrap().observe());
    assert_eq!(run(&mut loaded, &udp(40_000)).0, XDP_TX, "the new program runs on the old maps");
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
    let ring = &maps.observe().rings[&SERVICE];
    assert_eq!((Slot(ring.now[0]), Slot(ring.now[6])), (Slot::dirty(1), Slot::dirty(1)));
    assert_eq!((ring.before[0], ring.now[1..6].to_vec()), (0, vec![1, 0, 1, 0, 1]));
    assert!(!maps.clean_slot(4, Slot::dirty(0).0).unwrap(), "another value");
    assert!(maps.clean_slot(4, Slot::dirty(1).0).unwrap());
    assert_eq!(maps.slot(4), Some((1, 0)));

    maps.apply(&MapOp::SetBackendState { index: 1, state: BACKEND_USED, since: 77 }).unwrap();
    let member = maps.observe().members[&SERVICE][&1];
    assert_eq!((member.state, member.since), (BACKEND_USED, 77));

    let list = Box::new(AllowList::zeroed());
    maps.apply(&MapOp::SetSources { list }).unwrap();
    let seen = maps.observe();
    assert_eq!((seen.control.decap_bank, seen.sources.v4_count), (0, 0));

    maps.apply(&MapOp::DropService { id: SERVICE }).unwrap();
    maps.apply(&MapOp::DropBackend { index: 0 }).unwrap();
    assert!(maps.observe().services.is_empty());
    assert_eq!(maps.backend(0), Some(Backend::zeroed()));
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
    assert!(seen.rings[&SERVICE].now.is_empty() && seen.members[&SERVICE].is_empty());
    maps.apply(&MapOp::SetService { id: SERVICE, config: self::config() }).unwrap();
    assert_eq!(maps.observe().blocks[&SERVICE], maps.capacity().backends);
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
        let vip = classify::vip(&tables, words(&mapped(VIP))).expect("the VIP");
        assert_eq!(classify::service(&tables, vip, UDP, PORT.to_be_bytes()), SERVICE);
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

#[test]
fn what_does_not_fit_the_pinned_maps_is_refused() {
    let Some(root) = root() else { return };
    drop(open(&root));
    let limits = Limits { backends: 99, ..limits() };
    let shape = Shape::balancer(&limits, &flow_table(), load::hz().unwrap());
    let error = Loaded::open_or_create(&root, &Setup { shape, ..setup() }).unwrap_err();
    let text = error.to_string();
    assert!(
        matches!(error, LoadError::LayoutMismatch { map: "backends", found: 64, wanted: 99, .. }),
        "{text}"
    );
    assert!(text.contains("xdp-lb detach"), "{text}");

    let error = Loaded::open_or_create(&root, &Setup { seed: 1, ..setup() }).unwrap_err();
    assert!(matches!(error, LoadError::SeedMismatch { found: SEED, wanted: 1, .. }), "{error}");

    let held = open(&root);
    assert!(matches!(Loaded::open_or_create(&root, &setup()), Err(LoadError::Busy(_))));
    drop(held);
    assert!(open(&root).took_over(), "refusals changed nothing");
}

#[test]
fn a_half_made_root_is_made_anew() {
    let Some(root) = root() else { return };
    // A crash while gathering the maps, and one of an older kind: no `control` that says what it is.
    drop(open(&root));
    fs::rename(root.maps(), root.new_maps()).unwrap();
    assert!(!open(&root).took_over());
    assert!(!root.new_maps().exists());
    fs::remove_file(root.map("control")).unwrap();
    assert!(!open(&root).took_over());
    assert!(open(&root).took_over());
}

#[test]
fn nothing_pinned_and_no_bpffs_say_so() {
    let Some(root) = root() else { return };
    let error = KernelMaps::open_read_only(&root).err().unwrap();
    assert!(matches!(error, OpenError::NothingPinned(_)), "{error}");
    let elsewhere = BpffsRoot::new(std::env::temp_dir().join(format!("xlb-{}", std::process::id())));
    let error = Loaded::open_or_create(&elsewhere, &setup()).unwrap_err();
    fs::remove_dir(elsewhere.path()).unwrap();
    assert!(matches!(error, LoadError::NotBpffs(_)), "{error}");
}

#[test]
fn the_backend_side_loads_with_small_maps() {
    let Some(root) = root() else { return };
    let shape = Shape::decap_only(&limits(), load::hz().unwrap());
    let setup = Setup { shape, seed: 0, program: Program::Decap };
    let mut loaded = Loaded::open_or_create(&root, &setup).unwrap();
    assert_eq!(loaded.program().unwrap().info().unwrap().name_as_str(), Some("xdp_decap"));
    let maps = loaded.maps().unwrap();
    assert!(maps.observe().services.is_empty());
}

#[test]
fn bpftool_prints_field_names() {
    let Some(root) = root() else { return };
    let loaded = open(&root);
    fill(&mut loaded.maps().unwrap());
    let path = root.map("backends");
    let Ok(dump) = Command::new("bpftool").args(["map", "dump", "pinned"]).arg(&path).output() else {
        return skip("bpftool is not installed");
    };
    let text = String::from_utf8_lossy(&dump.stdout);
    assert!(dump.status.success(), "{}", String::from_utf8_lossy(&dump.stderr));
    for field in ["live", "state", "address", "templates", "ifindex"] {
        assert!(text.contains(field), "{field} is missing:\n{}", text.lines().take(40).collect::<String>());
    }
}

// ---------------------------------------------------------------- interfaces

#[test]
fn a_link_outlives_its_maker_and_is_updated_in_place() {
    in_namespace(|root| {
        let first = {
            let mut loaded = open(root);
            attach::attach(root, loaded.program().unwrap(), "v0", AttachMode::Auto, false).unwrap()
        };
        assert_eq!((first.mode, first.updated), (Mode::Native, false));
        assert_eq!(attach::attached(root).unwrap(), [first.clone()]);

        let mut loaded = open(root);
        let second = attach::attach(root, loaded.program().unwrap(), "v0", AttachMode::Auto, false).unwrap();
        assert_eq!((second.mode, second.updated), (Mode::Native, true));
        assert_ne!(second.program, first.program, "the new program runs");

        let generic =
            attach::attach(root, loaded.program().unwrap(), "v0", AttachMode::Generic, false).unwrap();
        assert_eq!((generic.mode, generic.updated), (Mode::Generic, false));
        let dotted =
            attach::attach(root, loaded.program().unwrap(), "v1.100", AttachMode::Native, false).unwrap();
        assert_eq!(dotted.mode, Mode::Native);
        let names = |all: Vec<attach::Attached>| all.into_iter().map(|a| a.interface).collect::<Vec<_>>();
        assert_eq!(names(attach::attached(root).unwrap()), ["v0", "v1.100"]);

        assert!(attach::detach(root, "v0").unwrap());
        assert!(!attach::detach(root, "v0").unwrap());
        assert_eq!(attach::detach_all(root).unwrap(), ["v1.100"]);
        assert!(attach::attached(root).unwrap().is_empty());
        assert!(!command("ip", "-d link show").contains("prog/xdp"), "nothing is left on an interface");
        drop(loaded);
        load::remove(root).unwrap();
        assert!(!root.path().exists());
    });
}

#[test]
fn an_interface_that_came_back_is_attached_anew() {
    in_namespace(|root| {
        let mut loaded = open(root);
        let first = attach::attach(root, loaded.program().unwrap(), "v0", AttachMode::Native, false).unwrap();
        command("ip", "link del v0");
        assert!(attach::attached(root).unwrap().is_empty());
        let gone =
            attach::attach(root, loaded.program().unwrap(), "v0", AttachMode::Native, false).unwrap_err();
        assert!(matches!(gone, AttachError::NoInterface(_)), "{gone}");
        make_pair();
        let again = attach::attach(root, loaded.program().unwrap(), "v0", AttachMode::Native, false).unwrap();
        assert!(!again.updated && again.ifindex != first.ifindex);
        assert_eq!(attach::attached(root).unwrap(), [again]);
    });
}

#[test]
fn a_foreign_program_is_refused_by_name_and_replaced_on_demand() {
    in_namespace(|root| {
        // Somebody else's: the decap program under another root, once on a link and once without.
        let other = TempRoot::new();
        let shape = Shape::decap_only(&limits(), load::hz().unwrap());
        let theirs = Setup { shape, seed: 0, program: Program::Decap };
        let mut foreign = Loaded::open_or_create(&other, &theirs).unwrap();
        let mut ours = open(root);
        for by_link in [true, false] {
            if by_link {
                attach::attach(&other, foreign.program().unwrap(), "v0", AttachMode::Native, false).unwrap();
            } else {
                attach::detach(&other, "v0").unwrap();
                attach::detach(root, "v0").unwrap();
                let prog = other.program();
                command("ip", &format!("link set v0 xdpdrv pinned {}", prog.display()));
            }
            let refused =
                attach::attach(root, ours.program().unwrap(), "v0", AttachMode::Auto, false).unwrap_err();
            let text = refused.to_string();
            assert!(matches!(refused, AttachError::Foreign { .. }) && text.contains("xdp_decap"), "{text}");
            let replaced =
                attach::attach(root, ours.program().unwrap(), "v0", AttachMode::Auto, true).unwrap();
            assert!(!replaced.updated);
            assert_eq!(attach::attached(root).unwrap(), [replaced]);
        }
        assert!(attach::attached(&other).unwrap().is_empty());
    });
}

// ---------------------------------------------------------------- what the tests stand on

/// One service with two backends and a static template.
fn fill(maps: &mut KernelMaps) {
    for index in 0..2 {
        maps.apply(&MapOp::PutBackend { index, entry: Box::new(backend(index)) }).unwrap();
    }
    let mut entry =
        Service { live: 0, used: 1, configs: [config(), ServiceConfig::default()], name: [0; NAME_LEN] };
    entry.name[..3].copy_from_slice(b"sip");
    let page = |index: u8, value| {
        let mut page = PortPage { values: [0; PAGE_PORTS] };
        page.values[index as usize] = value;
        Box::new(page)
    };
    let [high, low] = PORT.to_be_bytes();
    let vip =
        VipSlot { address: mapped(VIP), udp_root: 1, flags: VIP_USED | VIP_BALANCED, ..VipSlot::default() };
    let bank = VipBank { bank: 1, salt: 7 };
    let mut slots = vec![VipSlot::default(); maps.capacity().vip_slots as usize];
    let home = probe_start(words(&mapped(VIP)), bank.salt) & (maps.capacity().vip_slots - 1);
    slots[home as usize] = vip;
    let mut list = Box::new(AllowList::zeroed());
    list.v4_count = 1;
    list.v4[0] = Prefix4 { address: [172, 16, 0, 0], mask: [255, 255, 0, 0] };
    for op in [
        MapOp::PutRing { base: 4, slots: vec![0, 1, 0, 1, 0, 1, 0] },
        MapOp::PutService { id: SERVICE, entry: Box::new(entry) },
        MapOp::PutPage { page: 2, content: page(low, SERVICE) },
        MapOp::PutPage { page: 1, content: page(high, 2) },
        MapOp::PutVips { bank: bank.bank, slots },
        MapOp::SwitchVips { word: bank.pack() },
        MapOp::SetSources { list },
        MapOp::Grace,
        MapOp::SetGeneration { generation: 1 },
    ] {
        maps.apply(&op).unwrap();
    }
}

fn config() -> ServiceConfig {
    ServiceConfig {
        slot_base: 4,
        table_size: TABLE_SIZE,
        backend_base: 0,
        stats_base: 0,
        new_flow_limit: 1000,
        flags: TRACK_EXACT | IS_UDP,
        flow_ttl: 70,
        closing_ttl: 3,
        unconfirmed_ttl: 9,
    }
}

fn backend(index: u32) -> Backend {
    let mut backend = Backend::zeroed();
    backend.state = BACKEND_USED | BACKEND_ALIVE;
    backend.address = mapped([10, 1, 0, index as u8 + 1]);
    backend.block_len = if index == 0 { 2 } else { 0 };
    backend.templates[0] = template(index);
    backend
}

fn template(index: u32) -> Template {
    let mut bytes = [0; HEADER_LEN];
    bytes[..14].copy_from_slice(&[2, 0, 0, 0, 9, 9, 2, 0, 0, 0, 1, 1, 8, 0]);
    let mut ip = [0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 0, 0, 0, 172, 16, 0, 0, 10, 1, 0, index as u8 + 1];
    let sum = constant_sum(&ip);
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    bytes[14..34].copy_from_slice(&ip);
    Template {
        bytes,
        source_bits: 16,
        kind: KIND_TUNNEL,
        len: 34,
        tos_keep: 0xff,
        tos_set: 0,
        reserved: 0,
        ifindex: LO,
    }
}

/// A datagram of four bytes from the client to the VIP.
fn udp(source: u16) -> Vec<u8> {
    let mut packet = vec![2, 0, 0, 0, 1, 1, 2, 0, 0, 0, 5, 5, 8, 0];
    packet.extend([0x45, 0, 0, 32, 0, 0, 0x40, 0, 64, 17, 0, 0]);
    packet.extend(CLIENT);
    packet.extend(VIP);
    packet.extend(source.to_be_bytes());
    packet.extend(PORT.to_be_bytes());
    packet.extend([0, 12, 0, 0, 1, 2, 3, 4]);
    packet
}

fn flow_hash(source: u16) -> FlowHash {
    let packet = udp(source);
    let addresses = parse::addresses(&packet[..], parse::ETHERNET_LEN, Version::V4).unwrap();
    hash::packet(SEED, &addresses, UDP, source.to_be_bytes(), PORT.to_be_bytes(), false)
}

fn run(loaded: &mut Loaded, packet: &[u8]) -> (u32, Vec<u8>) {
    let mut out = vec![0; packet.len() + 64];
    let options =
        TestRunOptions { data_in: Some(packet), data_out: Some(&mut out), ..TestRunOptions::default() };
    let result = loaded.program().unwrap().test_run(options).unwrap();
    out.truncate(result.data_size_out as usize);
    (result.return_value, out)
}

/// Set, way and word of the only remembered flow.
fn remembered(maps: &KernelMaps) -> (u32, usize, u64) {
    let all = maps
        .flow_sets()
        .flat_map(|(set, ways)| ways.entries.into_iter().enumerate().map(move |(w, e)| (set, w, e)));
    let found: Vec<_> = all.filter(|&(_, _, entry)| entry != 0).collect();
    assert_eq!(found.len(), 1);
    found[0]
}

fn mapped([a, b, c, d]: [u8; 4]) -> [u8; 16] {
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d]
}

/// [`Observed`] holds types of the maps that cannot be compared; their bytes can.
fn same(a: &Observed, b: &Observed) {
    assert_eq!(bytemuck::bytes_of(&a.control), bytemuck::bytes_of(&b.control));
    assert_eq!((a.capacity, &a.vips, &a.pages), (b.capacity, &b.vips, &b.pages));
    assert_eq!((&a.services, &a.members, &a.blocks), (&b.services, &b.members, &b.blocks));
    assert_eq!((&a.rings, &a.sources, &a.tx_ports), (&b.rings, &b.sources, &b.tx_ports));
}

fn limits() -> Limits {
    Limits { services: 15, vips: 2, backends: 64, ring_slots: 1000, port_pages: 15, backend_stats: 16 }
}

fn flow_table() -> FlowTable {
    FlowTable { entries: 1024, track_window: std::time::Duration::ZERO }
}

fn setup() -> Setup {
    let shape = Shape::balancer(&limits(), &flow_table(), load::hz().unwrap());
    Setup { shape, seed: SEED, program: Program::Balancer { decap: false } }
}

#[track_caller]
fn open(root: &BpffsRoot) -> Loaded {
    Loaded::open_or_create(root, &setup()).unwrap_or_else(|e| panic!("{e}"))
}

/// A pin directory that goes with the value.
struct TempRoot(BpffsRoot);

impl TempRoot {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        Self(BpffsRoot::new(format!("/sys/fs/bpf/xlb-{}-{n}", std::process::id())))
    }
}

impl std::ops::Deref for TempRoot {
    type Target = BpffsRoot;
    fn deref(&self) -> &BpffsRoot {
        &self.0
    }
}

impl Drop for TempRoot {
    fn drop(&mut self) {
        if let Err(e) = load::remove(&self.0) {
            eprintln!("left behind: {e}");
        }
    }
}

/// A root of its own, where the machine can do this at all.
fn root() -> Option<TempRoot> {
    if fs::metadata("/proc/self").unwrap().uid() != 0 {
        skip("BPF needs root");
        return None;
    }
    if !xdp_lb::dataplane::sys::is_bpffs(Path::new("/sys/fs/bpf")).unwrap_or(false) {
        command("mount", "-t bpf bpf /sys/fs/bpf");
    }
    Some(TempRoot::new())
}

/// Says why a test did not run; `REQUIRE_ALL=1` makes it a failure.
fn skip(reason: &str) {
    assert!(std::env::var("REQUIRE_ALL").as_deref() != Ok("1"), "REQUIRE_ALL=1: {reason}");
    eprintln!("skipped: {reason}");
}

/// Runs `test` on a thread in a namespace of its own with the wires v0 - p0 and v1.100 - p1.
fn in_namespace(test: impl FnOnce(&BpffsRoot) + Send + 'static) {
    let Some(root) = root() else { return };
    let done = thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).unwrap();
        make_pair();
        command("ip", "link add v1.100 type veth peer name p1");
        test(&root);
    });
    if let Err(panic) = done.join() {
        std::panic::resume_unwind(panic);
    }
}

fn make_pair() {
    command("ip", "link add v0 type veth peer name p0");
}

fn command(program: &str, arguments: &str) -> String {
    let output = Command::new(program).args(arguments.split_whitespace()).output().unwrap();
    assert!(output.status.success(), "{program} {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
