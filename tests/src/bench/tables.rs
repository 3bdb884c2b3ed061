//! The balancer's object loaded on its own, its maps filled by hand: one VIP of each family, a TCP and a UDP
//! service on it, one ring.
//!
//! No agent and no plan: what is measured is the packet path, on tables that are the same on every machine.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use aya::programs::ProgramFd;
use xdp_lb::dataplane::{BpffsRoot, KernelMaps, Loaded, Program, Setup, Shape, load};
use xdp_lb::model::{FlowTable, Limits};
use xdp_lb::state::{MapOp, Maps as _, SlotChange};
use xdp_lb_common::backend::{
    BACKEND_ALIVE, BACKEND_USED, Backend, HEADER_LEN, KIND_GUE_IPV4, KIND_IPV4, Template,
};
use xdp_lb_common::control::VipBank;
use xdp_lb_common::decap::{ACCEPT_IPIP, AllowList, Prefix4};
use xdp_lb_common::encap::{V4_HEADER, constant_sum};
use xdp_lb_common::hash;
use xdp_lb_common::parse::{v4_words, words};
use xdp_lb_common::quic;
use xdp_lb_common::ring::Slot;
use xdp_lb_common::server_id::{self, Place, ServerId};
use xdp_lb_common::service::{IS_UDP, Service, ServiceConfig, TRACK_EXACT};
use xdp_lb_common::source::{self, SourceKey};
use xdp_lb_common::vip::{PortPage, PortRange, VIP_BALANCED, VIP_DECAP, VIP_USED, VipSlot, probe_start};

use crate::prog::{Tally, sum};

/// Balanced.
pub const VIP: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
/// Balanced.
pub const VIP_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x10);
/// Lives on this node: tunnels to it are taken off.
pub const DECAP_VIP: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 40);
/// Port of both services.
pub const PORT: u16 = 443;
/// The same of GUE.
pub const GUE_TUNNEL: usize = TUNNEL + 12;
/// Length of the tunnel's header that the balancer puts in front of the inner packet.
pub const TUNNEL: usize = 20;

/// Server id of one backend, as QUIC packets carry it.
pub const SERVER_ID: &[u8] = &[0x0a, 0x01];
/// The same backend's, as ufrags begin with it.
pub const UFRAG: &[u8] = b"sfu1";

/// The backend that all ids and slices name.
const NAMED: u16 = 7;
/// Root page of the port slices.
const SLICES: u32 = 5;
const TCP_SERVICE: u16 = 1;
const UDP_SERVICE: u16 = 2;
const SERVICES: u32 = 4;
const BACKENDS: u16 = 100;
const TABLE_SIZE: u32 = 65_537;
const ROOT_PAGES: [u32; 2] = [1, 2];
const LEAF_PAGES: [u32; 2] = [3, 4];
/// Where a test run's packets come in unless told otherwise: `lo`.
const IFINDEX: u32 = 1;

/// What differs between the tables of different rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    /// Entries of the flow table, a power of two.
    pub flow_entries: u32,
    /// Every slot has changed lately.
    pub dirty: bool,
    /// New flows remembered a second.
    pub new_flow_limit: u32,
    /// `THOROUGH` bits of the UDP service, which then is not tracked.
    pub thorough: u16,
    /// Clients are let in, where `thorough` asks.
    pub admitted: bool,
    /// Tunnels are GUE of variant 0.
    pub gue: bool,
}

/// The loaded balancer under a root of its own, which goes with the value.
pub struct Tables {
    loaded: Option<Loaded>,
    root: BpffsRoot,
    maps: KernelMaps,
}

impl Drop for Tables {
    fn drop(&mut self) {
        drop(self.loaded.take());
        if let Err(error) = load::remove(&self.root) {
            eprintln!("left behind: {error}");
        }
    }
}

impl Tables {
    /// Loads `program` from `object` and fills its maps.
    ///
    /// # Errors
    /// Names the map or program that failed.
    pub fn load(object: &[u8], program: Program, state: State) -> Result<Self> {
        Self::load_for(object, program, state, IFINDEX)
    }

    /// The same with tunnels that leave by the interface `ifindex`.
    ///
    /// # Errors
    /// Names the map or program that failed.
    pub fn load_for(object: &[u8], program: Program, state: State, ifindex: u32) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let root = BpffsRoot::new(format!("/sys/fs/bpf/xlb-bench-{}-{n}", std::process::id()));
        let limits = Limits {
            services: SERVICES,
            vips: 4,
            backends: BACKENDS.into(),
            ring_slots: TABLE_SIZE + 3,
            port_pages: 15,
            backend_stats: BACKENDS.into(),
            server_ids: BACKENDS.into(),
            source_ranges: 4,
            fragments: 1024,
        };
        let flow_table = FlowTable { entries: state.flow_entries, track_window: Duration::ZERO };
        let shape = Shape::balancer(&limits, &flow_table, load::machine()?);
        let setup = Setup { shape, seed: SEED, program, trace: false };
        let loaded = Loaded::with_object(&root, &setup, object).inspect_err(|_| drop(load::remove(&root)))?;
        let maps = loaded.maps()?;
        let mut tables = Self { loaded: Some(loaded), root, maps };
        tables.fill(state, ifindex)?;
        Ok(tables)
    }

    /// The descriptor of the program.
    ///
    /// # Errors
    /// When there is no such program.
    pub fn program(&mut self) -> Result<&ProgramFd> {
        let loaded = self.loaded.as_mut().context("the program is gone")?;
        Ok(loaded.program()?.fd()?)
    }

    /// Everything counted so far.
    ///
    /// # Errors
    /// Names the map that could not be read.
    pub fn tally(&self) -> Result<Tally> {
        let traffic = [TCP_SERVICE, UDP_SERVICE].map(|id| self.maps.service_traffic(id));
        let traffic = traffic.into_iter().collect::<Result<Vec<_>, _>>().context("read svc_stats")?;
        Ok(Tally { counters: self.maps.counters().context("read counters")?, forwarded: sum(traffic) })
    }

    fn fill(&mut self, state: State, ifindex: u32) -> Result<()> {
        let mut ops: Vec<MapOp> = (0..BACKENDS)
            .map(|local| MapOp::PutBackend {
                index: local.into(),
                entry: Box::new(backend(local, ifindex, state.gue)),
            })
            .collect();
        let slots: Vec<u16> = (0..TABLE_SIZE).map(member).collect();
        // All that changed is the dirty bit: rows with and without it send the same packets to the same backends.
        let dirty = slots.iter().zip(0..).filter(|_| state.dirty);
        let changes =
            dirty.map(|(&now, slot)| SlotChange { slot, before: None, now: Slot::dirty(now).0 }).collect();
        ops.push(MapOp::PutRing { base: 0, slots });
        ops.push(MapOp::SetSlots { base: 0, changes });
        let udp = if state.thorough == 0 { TRACK_EXACT } else { state.thorough };
        for (id, flags) in [(TCP_SERVICE, 0), (UDP_SERVICE, udp | IS_UDP)] {
            ops.push(MapOp::PutService { id, entry: Box::new(service(id, flags, state.new_flow_limit)) });
        }
        let [high, low] = PORT.to_be_bytes().map(usize::from);
        for ((root, leaf), id) in ROOT_PAGES.into_iter().zip(LEAF_PAGES).zip([TCP_SERVICE, UDP_SERVICE]) {
            ops.push(MapOp::PutPage { page: root, content: Box::new(page(high, leaf as u16)) });
            ops.push(MapOp::PutPage { page: leaf, content: Box::new(page(low, id)) });
        }
        ops.push(MapOp::PutPage { page: SLICES, content: Box::new(page(high, SLICES as u16 + 1)) });
        ops.push(MapOp::PutPage { page: SLICES + 1, content: Box::new(page(low, NAMED + 1)) });
        let mask = self.maps.capacity().server_ids - 1;
        for id in [ServerId::new(SERVER_ID), ServerId::new(UFRAG)].into_iter().flatten() {
            let index = server_id::start(UDP_SERVICE, id) & mask;
            ops.push(MapOp::PutServerId { index, place: Place::new(UDP_SERVICE, id, NAMED) });
        }
        let value = if state.admitted { source::ALLOW } else { source::DENY };
        let client = SourceKey {
            prefix_len: source::SERVICE_BITS + 104,
            ..SourceKey::of(UDP_SERVICE, v4_words([10, 0, 0, 0]))
        };
        ops.push(MapOp::PutSource { key: client, value });
        let bank = VipBank { bank: 1, salt: 0 };
        ops.push(MapOp::PutVips { bank: bank.bank, slots: vips(self.maps.capacity().vip_slots) });
        ops.push(MapOp::SwitchVips { word: bank.pack(self.maps.capacity().vip_slots) });
        ops.push(MapOp::SetSources { list: Box::new(sources()) });
        ops.iter().try_for_each(|op| self.maps.apply(op)).context("fill the tables")
    }
}

const SEED: u64 = 0x5eed_5eed_5eed_5eed;

/// A balanced table without Maglev's properties, which cost nothing on the packet path.
fn member(slot: u32) -> u16 {
    (hash::mix(u64::from(slot)) % u64::from(BACKENDS)) as u16
}

fn backend(local: u16, ifindex: u32, gue: bool) -> Backend {
    let [high, low] = local.to_be_bytes();
    let address = Ipv4Addr::new(10, 1, high, low);
    let mut template = Template {
        bytes: header(address),
        source_shift: 63 - 16,
        kind: KIND_IPV4,
        tos_keep: 0xff,
        tos_set: 0,
        max_inner: u16::MAX - 20,
        ifindex,
    };
    if gue {
        template.kind = KIND_GUE_IPV4;
        template.bytes[16..18].copy_from_slice(&6080u16.to_be_bytes());
    }
    Backend {
        live: 0,
        state: BACKEND_USED | BACKEND_ALIVE,
        address: address.to_ipv6_mapped().octets(),
        since: 0,
        block_len: if local == 0 { u32::from(BACKENDS) } else { 0 },
        reserved: [0; 28],
        templates: [template; 2],
    }
}

/// A template's bytes: from 172.16.0.0/16 to `address`, DF, TTL 64.
fn header(address: Ipv4Addr) -> [u8; HEADER_LEN] {
    let mut ip = [0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, 0, 0, 0, 172, 16, 0, 0, 0, 0, 0, 0];
    ip[16..].copy_from_slice(&address.octets());
    let sum = constant_sum(&ip).to_be_bytes();
    ip[10..12].copy_from_slice(&sum);
    let mut bytes = [0; HEADER_LEN];
    bytes[..14].copy_from_slice(&[0, 0, 0x5e, 0, 1, 1, 2, 0, 0, 0, 0, 1, 8, 0]);
    bytes[14..V4_HEADER].copy_from_slice(&ip);
    bytes
}

fn service(id: u16, flags: u16, new_flow_limit: u32) -> Service {
    let config = ServiceConfig {
        slot_base: 0,
        table_size: TABLE_SIZE,
        backend_base: 0,
        stats_base: 0,
        new_flow_limit,
        flags,
        flow_ttl: 75,
        closing_ttl: 10,
        unconfirmed_ttl: 20,
        id,
        id_len: UFRAG.len() as u8,
        move_after: 5,
        slices: SLICES,
        cid: quic::Config::new(quic::Config::ANY, SERVER_ID.len() as u8, quic::MIN_NONCE, false)
            .unwrap_or_default(),
    };
    Service { live: 0, used: 1, configs: [config; 2], name: [0; 64] }
}

fn page(index: usize, value: u16) -> PortPage {
    let mut page = PortPage { values: [0; 256] };
    page.values[index] = value;
    page
}

/// A bank: every VIP in the first free slot of its probe sequence.
fn vips(len: u32) -> Vec<VipSlot> {
    let balanced = VIP_USED | VIP_BALANCED;
    let mut slots = vec![VipSlot::default(); len as usize];
    for (address, flags) in [
        (IpAddr::V4(VIP), balanced),
        (IpAddr::V6(VIP_V6), balanced),
        (IpAddr::V4(DECAP_VIP), VIP_USED | VIP_DECAP),
    ] {
        let address = match address {
            IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
            IpAddr::V6(v6) => v6.octets(),
        };
        let mut index = (probe_start(words(&address), 0) & (len - 1)) as usize;
        while slots[index].flags != 0 {
            index = (index + 1) % slots.len();
        }
        let [tcp_root, udp_root] = ROOT_PAGES;
        let ranges = [TCP_SERVICE, UDP_SERVICE].map(|service| {
            let only = PortRange { first: PORT, last: PORT, service, reserved: 0 };
            [only, PortRange::default()]
        });
        slots[index] = VipSlot { address, tcp_root, udp_root, flags, fragments: [0; 2], ranges };
    }
    slots
}

/// 172.16.0.0/16.
fn sources() -> AllowList {
    let mut list: AllowList = bytemuck::Zeroable::zeroed();
    list.kinds = ACCEPT_IPIP;
    list.v4_count = 1;
    list.v4[0] = Prefix4 { address: [172, 16, 0, 0], mask: [255, 255, 0, 0] };
    list
}
