//! The balancer's object loaded on its own, its maps filled by hand: one VIP of each family, a TCP and a UDP
//! service on it, one ring.
//!
//! No agent and no plan: what is measured is the packet path, on tables that are the same on every machine.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context as _, Result, anyhow};
use aya::maps::{Array, MapData, PerCpuArray};
use aya::programs::{ProgramFd, Xdp};
use aya::{Ebpf, EbpfLoader, Pod};
use xdp_lb_common::backend::{BACKEND_ALIVE, BACKEND_USED, Backend, HEADER_LEN, KIND_TUNNEL, Template};
use xdp_lb_common::control::{Control, LAYOUT, VipBank};
use xdp_lb_common::decap::{AllowList, Prefix4};
use xdp_lb_common::encap::{V4_HEADER, constant_sum};
use xdp_lb_common::parse::words;
use xdp_lb_common::ring::{RingWord, Slot};
use xdp_lb_common::service::{IS_UDP, Service, ServiceConfig, TRACK_EXACT};
use xdp_lb_common::stats::{Counters, Traffic};
use xdp_lb_common::vip::{PortPage, PortRange, VIP_BALANCED, VIP_DECAP, VIP_USED, VipSlot, probe_start};
use xdp_lb_common::{hash, names};

use crate::prog::{Tally, sum};

/// Balanced.
pub const VIP: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
/// Balanced.
pub const VIP_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x10);
/// Lives on this node: tunnels to it are taken off.
pub const DECAP_VIP: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 40);
/// Port of both services.
pub const PORT: u16 = 443;
/// Length of the tunnel's header that the balancer puts in front of the inner packet.
pub const TUNNEL: usize = 20;

const TCP_SERVICE: u16 = 1;
const UDP_SERVICE: u16 = 2;
const SERVICES: u32 = 4;
const BACKENDS: u16 = 100;
const TABLE_SIZE: u32 = 65_537;
const RING_WORDS: u32 = TABLE_SIZE.div_ceil(4) + 1;
const VIP_MASK: u32 = 15;
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
}

/// The loaded balancer.
pub struct Tables {
    object: Ebpf,
}

impl Tables {
    /// Loads `xdp_lb` and `xdp_decap` from `object` and fills their maps.
    ///
    /// # Errors
    /// Names the map or program that failed.
    pub fn load(object: &[u8], state: State) -> Result<Self> {
        let flow_sets = state.flow_entries / 8;
        let mut object = EbpfLoader::new()
            .map_max_entries(names::VIPS, 2 * (VIP_MASK + 1))
            .map_max_entries(names::BACKENDS, u32::from(BACKENDS))
            .map_max_entries(names::BACKEND_STATS, u32::from(BACKENDS))
            .map_max_entries(names::RINGS, RING_WORDS)
            .map_max_entries(names::RINGS_BEFORE, RING_WORDS)
            .map_max_entries(names::FLOWS, flow_sets)
            .override_global(names::CONST_SEED, &SEED, true)
            .override_global(names::CONST_VIP_MASK, &VIP_MASK, true)
            .override_global(names::CONST_FLOW_SET_MASK, &(flow_sets - 1), true)
            .load(object)
            .context("load the balancer's object")?;
        for name in [names::PROGRAM_BALANCER, names::PROGRAM_DECAP] {
            program_mut(&mut object, name)?.load().with_context(|| format!("load {name}"))?;
        }
        let mut tables = Self { object };
        tables.fill(state)?;
        Ok(tables)
    }

    /// The descriptor of one of the two programs.
    ///
    /// # Errors
    /// When there is no such program.
    pub fn program(&mut self, name: &str) -> Result<&ProgramFd> {
        Ok(program_mut(&mut self.object, name)?.fd()?)
    }

    /// Everything counted so far.
    ///
    /// # Errors
    /// Names the map that could not be read.
    pub fn tally(&self) -> Result<Tally> {
        let counters: Counters = self.per_cpu_sum(names::COUNTERS, 0..1)?;
        Ok(Tally { counters, forwarded: self.per_cpu_sum::<Traffic>(names::SVC_STATS, 0..SERVICES)? })
    }

    fn per_cpu_sum<T: Pod + bytemuck::Pod>(&self, name: &str, keys: std::ops::Range<u32>) -> Result<T> {
        let map = self.object.map(name).ok_or_else(|| anyhow!("no map {name}"))?;
        let map: PerCpuArray<_, T> = PerCpuArray::try_from(map).with_context(|| format!("open {name}"))?;
        let mut values = Vec::new();
        for key in keys {
            values.extend(map.get(&key, 0).with_context(|| format!("read {name}[{key}]"))?.iter().copied());
        }
        Ok(sum(values))
    }

    fn array<T: Pod>(&mut self, name: &str) -> Result<Array<&mut MapData, T>> {
        let map = self.object.map_mut(name).ok_or_else(|| anyhow!("no map {name}"))?;
        Array::try_from(map).with_context(|| format!("open {name}"))
    }

    fn put<T: Pod>(&mut self, name: &str, entries: impl IntoIterator<Item = (u32, T)>) -> Result<()> {
        let mut array = self.array(name)?;
        for (key, value) in entries {
            array.set(key, value, 0).with_context(|| format!("write {name}[{key}]"))?;
        }
        Ok(())
    }

    fn fill(&mut self, state: State) -> Result<()> {
        self.put(names::BACKENDS, (0..BACKENDS).map(|local| (u32::from(local), backend(local))))?;
        let now = |slot| if state.dirty { Slot::dirty(member(slot)).0 } else { Slot::clean(member(slot)).0 };
        // All that changed is the dirty bit: rows with and without it send the same packets to the same backends.
        self.put(names::RINGS, ring(now))?;
        self.put(names::RINGS_BEFORE, ring(member))?;
        self.put(
            names::SERVICES,
            [(TCP_SERVICE, 0), (UDP_SERVICE, TRACK_EXACT | IS_UDP)]
                .map(|(id, flags)| (u32::from(id), service(flags, state.new_flow_limit))),
        )?;
        let [high, low] = PORT.to_be_bytes().map(usize::from);
        for ((root, leaf), id) in ROOT_PAGES.into_iter().zip(LEAF_PAGES).zip([TCP_SERVICE, UDP_SERVICE]) {
            self.put(names::PORTS, [(root, page(high, leaf as u16)), (leaf, page(low, id))])?;
        }
        self.put(names::VIPS, vips())?;
        self.put(names::DECAP_SOURCES, [(0, sources())])?;
        self.put(
            names::CONTROL,
            [(0, Control { vip_bank: VipBank::default().pack(), layout: LAYOUT, ..Control::default() })],
        )
    }
}

const SEED: u64 = 0x5eed_5eed_5eed_5eed;

fn program_mut<'a>(object: &'a mut Ebpf, name: &str) -> Result<&'a mut Xdp> {
    let program = object.program_mut(name).ok_or_else(|| anyhow!("no program {name} in the object"))?;
    program.try_into().with_context(|| format!("{name} as an XDP program"))
}

/// A balanced table without Maglev's properties, which cost nothing on the packet path.
fn member(slot: u32) -> u16 {
    (hash::mix(u64::from(slot)) % u64::from(BACKENDS)) as u16
}

fn ring(slot: impl Fn(u32) -> u16) -> impl Iterator<Item = (u32, RingWord)> {
    (0..RING_WORDS).map(move |word| (word, RingWord { slots: [0, 1, 2, 3].map(|i| slot(4 * word + i)) }))
}

fn backend(local: u16) -> Backend {
    let [high, low] = local.to_be_bytes();
    let address = Ipv4Addr::new(10, 1, high, low);
    let template = Template {
        bytes: header(address),
        source_bits: 16,
        kind: KIND_TUNNEL,
        len: V4_HEADER as u8,
        tos_keep: 0xff,
        tos_set: 0,
        reserved: 0,
        ifindex: IFINDEX,
    };
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

fn service(flags: u16, new_flow_limit: u32) -> Service {
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
    };
    Service { live: 0, used: 1, configs: [config; 2], name: [0; 64] }
}

fn page(index: usize, value: u16) -> PortPage {
    let mut page = PortPage { values: [0; 256] };
    page.values[index] = value;
    page
}

/// Bank 0: every VIP in the first free slot of its probe sequence.
fn vips() -> Vec<(u32, VipSlot)> {
    let balanced = VIP_USED | VIP_BALANCED;
    let mut slots: Vec<(u32, VipSlot)> = Vec::new();
    for (address, flags) in [
        (IpAddr::V4(VIP), balanced),
        (IpAddr::V6(VIP_V6), balanced),
        (IpAddr::V4(DECAP_VIP), VIP_USED | VIP_DECAP),
    ] {
        let address = match address {
            IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
            IpAddr::V6(v6) => v6.octets(),
        };
        let mut index = probe_start(words(&address), 0) & VIP_MASK;
        while slots.iter().any(|&(taken, _)| taken == index) {
            index = (index + 1) & VIP_MASK;
        }
        let [tcp_root, udp_root] = ROOT_PAGES;
        let ranges = [TCP_SERVICE, UDP_SERVICE].map(|service| {
            let only = PortRange { first: PORT, last: PORT, service, reserved: 0 };
            [only, PortRange::default()]
        });
        slots.push((index, VipSlot { address, tcp_root, udp_root, flags, reserved: 0, ranges }));
    }
    slots
}

/// 172.16.0.0/16.
fn sources() -> AllowList {
    let mut list: AllowList = bytemuck::Zeroable::zeroed();
    list.v4_count = 1;
    list.v4[0] = Prefix4 { address: [172, 16, 0, 0], mask: [255, 255, 0, 0] };
    list
}
