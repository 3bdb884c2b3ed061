//! What stands in the tables: members with their headers, services, addresses, ports.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use anyhow::{Context as _, Result};
use xdp_lb::model::{Dscp, Encap, EncapKind, GueVariant, Mtu};
use xdp_lb::nexthop::{NextHop, Resolution};
use xdp_lb::template::{self, map_address};
use xdp_lb_common::backend::{BACKEND_ALIVE, BACKEND_USED, Backend};
use xdp_lb_common::decap::{ACCEPT_IPIP, AllowList, Prefix4};
use xdp_lb_common::hash;
use xdp_lb_common::parse::words;
use xdp_lb_common::quic;
use xdp_lb_common::service::{CLIENT_IP, IS_UDP, Service, ServiceConfig};
use xdp_lb_common::stats::NO_STATS;
use xdp_lb_common::vip::{
    MAX_PROBES, PortPage, PortRange, VIP_BALANCED, VIP_DECAP, VIP_USED, VipSlot, probe_start,
};

use super::state::{Ports, State, Tunnel, Zone};
use super::tables::{DECAP_VIP, PORT, SERVER_ID, UFRAG, VIP, VIP_V6};

/// The first TCP service, on [`VIP`].
pub(super) const TCP_SERVICE: u16 = 1;
/// The UDP service, on the same.
pub(super) const UDP_SERVICE: u16 = 2;
/// Root pages of the two.
pub(super) const ROOT_PAGES: [u32; 2] = [1, 2];
/// Root page of the port slices.
pub(super) const SLICES: u32 = 5;

/// Id of the `n`th TCP service.
pub(super) const fn tcp_service(n: u32) -> u16 {
    if n == 0 { TCP_SERVICE } else { UDP_SERVICE + n as u16 }
}

/// Address of the `n`th TCP service: what the wrapper makes of the first one's.
fn vip(n: u32) -> IpAddr {
    Ipv4Addr::from(VIP.to_bits() ^ n).into()
}

/// A balanced ring without Maglev's properties, which cost nothing on the packet path.
pub(super) fn member(zone: Zone, slot: u32) -> u16 {
    (hash::mix(u64::from(slot)) % u64::from(zone.backends)) as u16
}

/// Whether a slot has changed lately.
pub(super) fn is_dirty(state: State, slot: u32) -> bool {
    hash::mix(u64::from(slot) ^ 0xd1) % 100 < u64::from(state.dirty)
}

impl Zone {
    /// First slot of a ring.
    pub(super) const fn slot_base(self, ring: u32) -> u32 {
        ring * self.table_size.next_multiple_of(4)
    }

    /// Index of a ring's first member.
    pub(super) fn backend_base(self, ring: u32) -> u32 {
        ring * u32::from(self.backends)
    }
}

/// A member of a ring, by its index over all rings.
pub(super) fn backend(state: State, index: u32, ifindex: u32) -> Backend {
    let [_, high, middle, low] = index.to_be_bytes();
    let address: IpAddr = match state.tunnel {
        Tunnel::Ipv6 => Ipv6Addr::from_bits(0xfd00_0001 << 96 | u128::from(index)).into(),
        Tunnel::Ipv4 | Tunnel::Gue => Ipv4Addr::new(10, 1 + high, middle, low).into(),
    };
    let encap = Encap {
        kind: match state.tunnel {
            Tunnel::Ipv4 | Tunnel::Ipv6 => EncapKind::Ipip,
            Tunnel::Gue => EncapKind::Gue { port: 6080, variant: GueVariant::Header },
        },
        source_v4: Some(([172, 16, 0, 0], 16)),
        source_v6: Some((Ipv6Addr::new(0xfd00, 0x7864, 0x7000, 0, 0, 0, 0, 0).octets(), 64)),
        dscp: Dscp::Copy,
        mtu: Mtu::Auto,
    };
    let hop = NextHop {
        ifindex,
        interface: String::new(),
        source_mac: [2, 0, 0, 0, 0, 1],
        destination_mac: [0, 0, 0x5e, 0, 1, 1],
        mtu: 9000,
        below: None,
        path_mtu: None,
    };
    let template = template::build(&encap, address, &Resolution::Resolved(hop));
    let is_first = index.is_multiple_of(state.zone.backends.into());
    Backend {
        live: 0,
        state: BACKEND_USED | BACKEND_ALIVE,
        address: map_address(address),
        since: 0,
        block_len: if is_first { state.zone.backends.into() } else { 0 },
        reserved: [0; 28],
        templates: [template; 2],
    }
}

/// The `n`th TCP service, or the UDP service on the first ring.
pub(super) fn service(state: State, id: u16, n: u32, counted: u32) -> Service {
    let (zone, ring) = (state.zone, n % state.zone.rings);
    let stats_base = n * u32::from(zone.backends);
    let config = ServiceConfig {
        slot_base: zone.slot_base(ring),
        table_size: zone.table_size,
        backend_base: zone.backend_base(ring),
        stats_base: if stats_base + u32::from(zone.backends) <= counted { stats_base } else { NO_STATS },
        new_flow_limit: state.new_flow_limit,
        flags: if id == UDP_SERVICE { state.udp | IS_UDP } else { 0 },
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

/// A page with one value.
pub(super) fn page(index: usize, value: u16) -> PortPage {
    let mut page = PortPage { values: [0; 256] };
    page.values[index] = value;
    page
}

/// A bank with all addresses, and its salt: the first with which every address finds a place.
///
/// # Errors
/// When there is none.
pub(super) fn vips(state: State, len: u32) -> Result<(u32, Vec<VipSlot>)> {
    let salts = 0..64;
    let found = salts.into_iter().find_map(|salt| Some((salt, bank(state, len, salt)?)));
    found.context("no salt with which every address finds a place")
}

fn bank(state: State, len: u32, salt: u32) -> Option<Vec<VipSlot>> {
    let mut bank = vec![VipSlot::default(); len as usize];
    let mut put = |slot: VipSlot| {
        let start = probe_start(words(&slot.address), salt);
        let free = (0..MAX_PROBES)
            .map(|probe| (start.wrapping_add(probe) & (len - 1)) as usize)
            .find(|&at| bank[at].flags == 0)?;
        bank[free] = slot;
        Some(())
    };
    let (first, last) = match state.ports {
        Ports::Exact | Ports::Pages => (PORT, PORT),
        Ports::Range => (PORT - 100, PORT + 100),
    };
    let range = |service| match state.ports {
        Ports::Pages => Default::default(),
        _ => [PortRange { first, last, service, reserved: 0 }, PortRange::default()],
    };
    let balanced = |address: IpAddr, services: [u16; 2], [tcp_root, udp_root]: [u32; 2]| {
        let by_client = if state.udp & CLIENT_IP != 0 { services[1] } else { 0 };
        VipSlot {
            address: map_address(address),
            tcp_root,
            udp_root,
            flags: VIP_USED | VIP_BALANCED,
            fragments: [0, by_client],
            ranges: services.map(range),
        }
    };
    for address in [VIP.into(), VIP_V6.into()] {
        put(balanced(address, [TCP_SERVICE, UDP_SERVICE], ROOT_PAGES))?;
    }
    for n in 1..state.zone.services {
        put(balanced(vip(n), [tcp_service(n), 0], [0; 2]))?;
    }
    let decap =
        VipSlot { address: map_address(DECAP_VIP.into()), flags: VIP_USED | VIP_DECAP, ..VipSlot::default() };
    put(decap)?;
    Some(bank)
}

/// 172.16.0.0/16.
pub(super) fn sources() -> AllowList {
    let mut list: AllowList = bytemuck::Zeroable::zeroed();
    list.kinds = ACCEPT_IPIP;
    list.v4_count = 1;
    list.v4[0] = Prefix4 { address: [172, 16, 0, 0], mask: [255, 255, 0, 0] };
    list
}
