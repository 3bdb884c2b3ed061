//! Builds the outer header that a backend's packets get: everything that does not depend on the packet.
//!
//! Called by the planner for every member of every ring; `xdp_lb_common::encap` patches the rest in.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bytemuck::Zeroable;
use xdp_lb_common::{
    backend::{
        KIND_GUE_IPV4, KIND_GUE_IPV6, KIND_GUE1_IPV4, KIND_GUE1_IPV6, KIND_IPV4, KIND_IPV6, KIND_LOCAL,
        KIND_UNRESOLVED, Template,
    },
    encap::constant_sum,
    gue::{GUE_LEN, UDP_LEN},
    parse::{IPV4_LEN, Version, ethertype},
};

use crate::{
    model::{Dscp, Encap, EncapKind, GueVariant},
    nexthop::{NextHop, Resolution},
};

/// TTL and hop limit of the tunnel.
const TTL: u8 = 64;
/// Don't fragment, no offset.
const DF: [u8; 2] = [0x40, 0x00];
/// The two ECN bits of TOS and traffic class.
const ECN: u8 = 0b11;

/// The template for one backend: a tunnel, the stack of this very node, or nothing yet. A backend whose
/// family has no source prefix stays unresolved; the configuration refuses that beforehand.
#[must_use]
pub fn build(encap: &Encap, backend: IpAddr, resolution: &Resolution) -> Template {
    let (kind, ifindex) = match resolution {
        Resolution::Resolved(hop) => return tunnel(encap, backend, hop).unwrap_or_else(Template::zeroed),
        Resolution::Local => (KIND_LOCAL, 0),
        Resolution::Unresolved(_) => (KIND_UNRESOLVED, 0),
    };
    Template { kind, ifindex, ..Template::zeroed() }
}

fn tunnel(encap: &Encap, backend: IpAddr, hop: &NextHop) -> Option<Template> {
    let (tos_keep, tos_set) = match encap.dscp {
        Dscp::Copy => (0xff, 0),
        Dscp::Set(dscp) => (ECN, dscp << 2),
    };
    let kinds = Kinds::of(encap.kind);
    let mut t = Template { ifindex: hop.ifindex, tos_keep, tos_set, ..Template::zeroed() };
    t.bytes[0..6].copy_from_slice(&hop.destination_mac);
    t.bytes[6..12].copy_from_slice(&hop.source_mac);
    match backend {
        IpAddr::V4(to) => {
            let (source, prefix) = encap.source_v4?;
            t.kind = kinds.v4;
            t.max_inner = u16::MAX - IPV4_LEN as u16 - kinds.extra;
            t.source_shift = 63 - (32 - prefix.min(32));
            t.bytes[12..14].copy_from_slice(&ethertype(Version::V4));
            t.bytes[14..34].copy_from_slice(&ipv4(source, to));
            t.bytes[16..18].copy_from_slice(&kinds.port.to_be_bytes());
        }
        IpAddr::V6(to) => {
            let (source, prefix) = encap.source_v6?;
            t.kind = kinds.v6;
            t.max_inner = u16::MAX - kinds.extra;
            t.source_shift = 63 - (128 - prefix.min(128)).min(63);
            t.bytes[12..14].copy_from_slice(&ethertype(Version::V6));
            t.bytes[14..54].copy_from_slice(&ipv6(source, to));
            t.bytes[18..20].copy_from_slice(&kinds.port.to_be_bytes());
        }
    }
    Some(t)
}

/// What a kind of tunnel means for both families.
struct Kinds {
    v4: u8,
    v6: u8,
    /// Bytes between the outer IP header and the inner one.
    extra: u16,
    /// Destination port; 0 where there is none. It stands where the packet path writes the length.
    port: u16,
}

impl Kinds {
    const fn of(kind: EncapKind) -> Self {
        const UDP: u16 = UDP_LEN as u16;
        match kind {
            EncapKind::Ipip => Self { v4: KIND_IPV4, v6: KIND_IPV6, extra: 0, port: 0 },
            EncapKind::Gue { port, variant: GueVariant::Header } => {
                Self { v4: KIND_GUE_IPV4, v6: KIND_GUE_IPV6, extra: UDP + GUE_LEN as u16, port }
            }
            EncapKind::Gue { port, variant: GueVariant::Bare } => {
                Self { v4: KIND_GUE1_IPV4, v6: KIND_GUE1_IPV6, extra: UDP, port }
            }
        }
    }
}

fn ipv4(source: [u8; 4], destination: Ipv4Addr) -> [u8; 20] {
    let mut h = [0; 20];
    h[0] = 0x45;
    h[6..8].copy_from_slice(&DF);
    h[8] = TTL;
    h[12..16].copy_from_slice(&source);
    h[16..20].copy_from_slice(&destination.octets());
    let sum = constant_sum(&h);
    h[10..12].copy_from_slice(&sum.to_be_bytes());
    h
}

fn ipv6(source: [u8; 16], destination: Ipv6Addr) -> [u8; 40] {
    let mut h = [0; 40];
    h[0] = 0x60;
    h[7] = TTL;
    h[8..24].copy_from_slice(&source);
    h[24..40].copy_from_slice(&destination.octets());
    h
}

/// An address as the maps hold it: IPv4 as `::ffff:a.b.c.d`.
#[must_use]
pub fn map_address(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(a) => a.to_ipv6_mapped().octets(),
        IpAddr::V6(a) => a.octets(),
    }
}

/// The address that the maps hold.
#[must_use]
pub fn from_map(address: [u8; 16]) -> IpAddr {
    Ipv6Addr::from(address).to_canonical()
}
