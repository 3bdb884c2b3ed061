//! What the tests put into the maps and send through the program: one UDP service with two backends, whose next hop is
//! `lo`, the ingress interface of test runs.

use aya::programs::{TestRun as _, TestRunOptions};
use bytemuck::Zeroable as _;
use xdp_lb::dataplane::{KernelMaps, Loaded};
use xdp_lb::state::{MapOp, Maps as _, Observed};
use xdp_lb_common::{
    backend::{BACKEND_ALIVE, BACKEND_USED, Backend, HEADER_LEN, KIND_IPV4, Template},
    control::VipBank,
    decap::{AllowList, Prefix4},
    encap::constant_sum,
    hash::{self, FlowHash},
    parse::{self, Ports, UDP, Version, words},
    service::{IS_UDP, NAME_LEN, Service, ServiceConfig, TRACK_EXACT},
    vip::{PAGE_PORTS, PortPage, VIP_BALANCED, VIP_USED, VipSlot, probe_start},
};

use crate::stand::SEED;

pub const XDP_DROP: u32 = 1;
pub const XDP_TX: u32 = 3;
pub const XDP_REDIRECT: u32 = 4;
const LO: u32 = 1;
pub const SERVICE: u16 = 5;
pub const TABLE_SIZE: u32 = 7;
pub const VIP: [u8; 4] = [203, 0, 113, 10];
const CLIENT: [u8; 4] = [198, 51, 100, 7];
pub const PORT: u16 = 5060;

/// One service with two backends and a static template.
pub fn fill(maps: &mut KernelMaps) {
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
    let mut list = Box::new(AllowList::zeroed());
    list.v4_count = 1;
    list.v4[0] = Prefix4 { address: [172, 16, 0, 0], mask: [255, 255, 0, 0] };
    for op in [
        MapOp::PutRing { base: 4, slots: vec![0, 1, 0, 1, 0, 1, 0] },
        MapOp::PutService { id: SERVICE, entry: Box::new(entry) },
        MapOp::PutPage { page: 2, content: page(low, SERVICE) },
        MapOp::PutPage { page: 1, content: page(high, 2) },
        MapOp::SetSources { list },
        MapOp::Grace,
        MapOp::SetGeneration { generation: 1 },
    ] {
        maps.apply(&op).unwrap();
    }
    fill_vips(maps);
}

/// The VIP's place depends on the size of its table.
pub fn fill_vips(maps: &mut KernelMaps) {
    let vip =
        VipSlot { address: mapped(VIP), udp_root: 1, flags: VIP_USED | VIP_BALANCED, ..VipSlot::default() };
    let bank = VipBank { bank: 1, salt: 7 };
    let mut slots = vec![VipSlot::default(); maps.capacity().vip_slots as usize];
    let home = probe_start(words(&mapped(VIP)), bank.salt) & (maps.capacity().vip_slots - 1);
    slots[home as usize] = vip;
    maps.apply(&MapOp::PutVips { bank: bank.bank, slots }).unwrap();
    maps.apply(&MapOp::SwitchVips { word: bank.pack(maps.capacity().vip_slots) }).unwrap();
    maps.apply(&MapOp::Grace).unwrap();
}

pub fn config() -> ServiceConfig {
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
        id: SERVICE,
        ..ServiceConfig::default()
    }
}

pub fn backend(index: u32) -> Backend {
    let mut backend = Backend::zeroed();
    backend.state = BACKEND_USED | BACKEND_ALIVE;
    backend.address = mapped([10, 1, 0, index as u8 + 1]);
    backend.block_len = if index == 0 { 2 } else { 0 };
    backend.templates[0] = template(index);
    backend
}

pub fn template(index: u32) -> Template {
    let mut bytes = [0; HEADER_LEN];
    bytes[..14].copy_from_slice(&[2, 0, 0, 0, 9, 9, 2, 0, 0, 0, 1, 1, 8, 0]);
    let mut ip = [0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 0, 0, 0, 172, 16, 0, 0, 10, 1, 0, index as u8 + 1];
    let sum = constant_sum(&ip);
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    bytes[14..34].copy_from_slice(&ip);
    Template {
        bytes,
        source_shift: 63 - 16,
        kind: KIND_IPV4,
        tos_keep: 0xff,
        tos_set: 0,
        max_inner: u16::MAX - 20,
        ifindex: LO,
    }
}

/// A datagram of four bytes from the client to the VIP.
pub fn udp(source: u16) -> Vec<u8> {
    let mut packet = vec![2, 0, 0, 0, 1, 1, 2, 0, 0, 0, 5, 5, 8, 0];
    packet.extend([0x45, 0, 0, 32, 0, 0, 0x40, 0, 64, 17, 0, 0]);
    packet.extend(CLIENT);
    packet.extend(VIP);
    packet.extend(source.to_be_bytes());
    packet.extend(PORT.to_be_bytes());
    packet.extend([0, 12, 0, 0, 1, 2, 3, 4]);
    packet
}

pub fn flow_hash(source: u16) -> FlowHash {
    let packet = udp(source);
    let addresses = parse::addresses(&packet[..], parse::ETHERNET_LEN, Version::V4).unwrap();
    hash::packet(SEED, &addresses, UDP, Ports::pair_of(source, PORT), false)
}

pub fn run(loaded: &mut Loaded, packet: &[u8]) -> (u32, Vec<u8>) {
    let mut out = vec![0; packet.len() + 64];
    let options =
        TestRunOptions { data_in: Some(packet), data_out: Some(&mut out), ..TestRunOptions::default() };
    let result = loaded.program().unwrap().test_run(options).unwrap();
    out.truncate(result.data_size_out as usize);
    (result.return_value, out)
}

/// Set, way and word of the only remembered flow.
pub fn remembered(maps: &KernelMaps) -> (u32, usize, u64) {
    let all = maps
        .flow_sets()
        .flat_map(|(set, ways)| ways.entries.into_iter().enumerate().map(move |(w, e)| (set, w, e)));
    let found: Vec<_> = all.filter(|&(_, _, entry)| entry != 0).collect();
    assert_eq!(found.len(), 1);
    found[0]
}

pub fn mapped([a, b, c, d]: [u8; 4]) -> [u8; 16] {
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d]
}

/// [`Observed`] holds types of the maps that cannot be compared; their bytes can.
pub fn same(a: &Observed, b: &Observed) {
    assert_eq!(bytemuck::bytes_of(&a.control), bytemuck::bytes_of(&b.control));
    assert_eq!((a.capacity, &a.vips, &a.pages), (b.capacity, &b.vips, &b.pages));
    assert_eq!(&a.services, &b.services);
    assert_eq!((&a.rings, &a.sources, &a.tx_ports), (&b.rings, &b.sources, &b.tx_ports));
}
