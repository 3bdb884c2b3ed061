//! Builds the outer header that a backend's packets get: everything that does not depend on the packet.
//!
//! Called by the planner for every member of every ring; `xdp_lb_common::encap` patches the rest in.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bytemuck::Zeroable;
use xdp_lb_common::{
    backend::{
        KIND_GUE_IPV4, KIND_GUE_IPV6, KIND_GUE1_IPV4, KIND_GUE1_IPV6, KIND_IPV4, KIND_IPV6, KIND_LOCAL,
        KIND_POD, KIND_UNRESOLVED, NO_TAG, Template,
    },
    encap::constant_sum,
    gue::{GUE_LEN, UDP_LEN},
    parse::{IPV4_LEN, IPV6_LEN, Version, ethertype},
};

use crate::{
    model::{Dscp, Encap, EncapKind, GueVariant, Mtu},
    nexthop::{NextHop, Resolution, Tags},
};

/// TTL and hop limit of the tunnel.
const TTL: u8 = 64;
/// Don't fragment, no offset.
const DF: [u8; 2] = [0x40, 0x00];
/// The two ECN bits of TOS and traffic class.
const ECN: u8 = 0b11;

/// The template for one backend: a tunnel, the stack of this very node, a pod of its own, or nothing yet. A backend whose
/// family has no source prefix stays unresolved; the configuration refuses that beforehand.
#[must_use]
pub fn build(encap: &Encap, backend: IpAddr, resolution: &Resolution) -> Template {
    let (kind, ifindex) = match resolution {
        Resolution::Resolved(hop) => return tunnel(encap, backend, hop).unwrap_or_else(Template::zeroed),
        Resolution::Local => (KIND_LOCAL, 0),
        Resolution::Pod => (KIND_POD, 0),
        Resolution::Unresolved(_) => (KIND_UNRESOLVED, 0),
    };
    Template { kind, ifindex, ..Template::zeroed() }
}

/// The longest outer packet that a tunnel's header was built for.
#[must_use]
pub fn outer_mtu(template: &Template) -> u32 {
    let outer = match template.kind {
        KIND_IPV4 => IPV4_LEN,
        KIND_IPV6 => IPV6_LEN,
        KIND_GUE_IPV4 => IPV4_LEN + UDP_LEN + GUE_LEN,
        KIND_GUE_IPV6 => IPV6_LEN + UDP_LEN + GUE_LEN,
        KIND_GUE1_IPV4 => IPV4_LEN + UDP_LEN,
        KIND_GUE1_IPV6 => IPV6_LEN + UDP_LEN,
        _ => 0,
    };
    u32::from(template.max_inner) + outer as u32
}

fn tunnel(encap: &Encap, backend: IpAddr, hop: &NextHop) -> Option<Template> {
    let mtu = mtu(encap, hop);
    let (tos_keep, tos_set) = match encap.dscp {
        Dscp::Copy => (0xff, 0),
        Dscp::Set(dscp) => (ECN, dscp << 2),
    };
    let kinds = Kinds::of(encap.kind);
    let (ifindex, tags) =
        hop.below.map_or((hop.ifindex, Tags::AsTheyCame), |below| (below.ifindex, below.tags));
    let mut t = Template { ifindex, tos_keep, tos_set, ..Template::zeroed() };
    t.bytes[0..6].copy_from_slice(&hop.destination_mac);
    t.bytes[6..12].copy_from_slice(&hop.source_mac);
    match backend {
        IpAddr::V4(to) => {
            let (source, prefix) = encap.source_v4?;
            t.kind = kinds.v4;
            t.max_inner = mtu.saturating_sub(IPV4_LEN as u16 + kinds.extra);
            t.source_shift = 63 - (32 - prefix.min(32));
            t.bytes[12..14].copy_from_slice(&ethertype(Version::V4));
            t.bytes[14..34].copy_from_slice(&ipv4(source, to));
            t.bytes[16..18].copy_from_slice(&kinds.port.to_be_bytes());
        }
        IpAddr::V6(to) => {
            let (source, prefix) = encap.source_v6?;
            t.kind = kinds.v6;
            t.max_inner = mtu.saturating_sub(IPV6_LEN as u16 + kinds.extra);
            t.source_shift = 63 - (128 - prefix.min(128)).min(63);
            t.bytes[12..14].copy_from_slice(&ethertype(Version::V6));
            t.bytes[14..54].copy_from_slice(&ipv6(source, to));
            t.bytes[18..20].copy_from_slice(&kinds.port.to_be_bytes());
        }
    }
    Some(match tags {
        Tags::AsTheyCame => t,
        Tags::None => t.with_tag(NO_TAG),
        Tags::One(tag) => t.with_tag(tag),
    })
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

/// Longest outer packet: what the file says, or the way there; never more than a router on it said.
fn mtu(encap: &Encap, hop: &NextHop) -> u16 {
    let wanted = match encap.mtu {
        Mtu::Auto => hop.mtu,
        Mtu::Fixed(mtu) => mtu.into(),
    };
    let mtu = hop.path_mtu.map_or(wanted, |path| path.min(wanted));
    u16::try_from(mtu).unwrap_or(u16::MAX)
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

#[cfg(test)]
mod tests {
    use super::*;

    /// What the file says goes before the way there, what routers say before both, and each family pays for its header.
    #[test]
    fn a_tunnel_holds_its_mtu_less_its_header() {
        let holds = |mtu, way: u32, path_mtu, backend: &str| {
            let encap = Encap {
                kind: EncapKind::Ipip,
                source_v4: Some(([172, 16, 0, 0], 16)),
                source_v6: Some(([0xfd; 16], 128)),
                dscp: Dscp::Copy,
                mtu,
            };
            let hop = NextHop {
                ifindex: 2,
                interface: "eth0".into(),
                source_mac: [2; 6],
                destination_mac: [4; 6],
                mtu: way,
                below: None,
                path_mtu,
            };
            build(&encap, backend.parse().unwrap(), &Resolution::Resolved(hop)).max_inner
        };
        let (v4, v6) = ("10.1.2.11", "fd00:1:2::11");
        assert_eq!([holds(Mtu::Auto, 1500, None, v4), holds(Mtu::Auto, 1500, None, v6)], [1480, 1460]);
        assert_eq!(
            [holds(Mtu::Fixed(1400), 1500, None, v4), holds(Mtu::Fixed(1600), 1500, None, v6)],
            [1380, 1560]
        );
        assert_eq!(
            [holds(Mtu::Auto, 1500, Some(1300), v4), holds(Mtu::Fixed(1600), 1500, Some(1300), v6)],
            [1280, 1260]
        );
        assert_eq!(
            [holds(Mtu::Auto, 1500, Some(9000), v4), holds(Mtu::Fixed(1400), 1500, Some(1450), v6)],
            [1480, 1360]
        );
        // `lo` says 65536; an IP packet says at most 65535.
        assert_eq!(
            [holds(Mtu::Auto, 65_536, None, v4), holds(Mtu::Auto, 65_536, None, v6)],
            [65_515, 65_495]
        );
    }
}
