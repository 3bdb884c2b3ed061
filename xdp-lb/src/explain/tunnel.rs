//! The headers that a packet would get, by the packet path's own functions.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::Serialize;
use xdp_lb_common::{
    backend::{KIND_GUE_IPV4, KIND_GUE_IPV6, KIND_GUE1_IPV4, KIND_GUE1_IPV6, KIND_IPV4, Template},
    encap::{self, Inner, V4_HEADER, V6_HEADER},
    gue::{self, V4_GUE, V4_GUE1, V6_GUE, V6_GUE1},
};

/// Everything in front of the inner packet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Tunnel {
    /// `ipip` or `gue`.
    pub kind: &'static str,
    /// Source, derived from the flow.
    pub source: IpAddr,
    /// Destination.
    pub destination: IpAddr,
    /// Flow label, over IPv6.
    pub flow_label: Option<u32>,
    /// UDP ports of GUE: the source derived from the flow, and the destination.
    pub ports: Option<[u16; 2]>,
    /// Ethernet and outer headers, byte for byte, but for the UDP checksum of GUE over IPv6: it depends on what the
    /// inner packet's headers say, and is 0 here.
    #[serde(skip)]
    pub header: Vec<u8>,
}

impl Tunnel {
    /// By a template that leads into a tunnel.
    #[must_use]
    pub fn of(template: &Template, inner: &Inner) -> Self {
        let (header, v4, gue) = header(template, inner);
        let be16 = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
        let address = |at: usize| -> IpAddr {
            if v4 {
                Ipv4Addr::new(header[at], header[at + 1], header[at + 2], header[at + 3]).into()
            } else {
                let mut octets = [0; 16];
                octets.copy_from_slice(&header[at..at + 16]);
                Ipv6Addr::from(octets).into()
            }
        };
        let (source, destination, udp) = if v4 { (26, 30, V4_HEADER) } else { (22, 38, V6_HEADER) };
        Self {
            kind: if gue { "gue" } else { "ipip" },
            source: address(source),
            destination: address(destination),
            flow_label: (!v4).then(|| u32::from_be_bytes([0, header[15] & 0xf, header[16], header[17]])),
            ports: gue.then(|| [be16(udp), be16(udp + 2)]),
            header,
        }
    }
}

/// The bytes, whether the outer header is IPv4, and whether the tunnel is GUE.
fn header(template: &Template, inner: &Inner) -> (Vec<u8>, bool, bool) {
    fn written<const N: usize>(write: impl FnOnce(&mut [u8; N])) -> Vec<u8> {
        let mut out = [0; N];
        write(&mut out);
        out.to_vec()
    }
    match template.kind {
        KIND_IPV4 => (written::<V4_HEADER>(|out| encap::write_v4(out, template, inner)), true, false),
        KIND_GUE_IPV4 => (written::<V4_GUE>(|out| gue::write_v4(out, template, inner)), true, true),
        KIND_GUE1_IPV4 => (written::<V4_GUE1>(|out| gue::write_v4(out, template, inner)), true, true),
        KIND_GUE_IPV6 => (written::<V6_GUE>(|out| gue::write_v6(out, template, inner, None)), false, true),
        KIND_GUE1_IPV6 => (written::<V6_GUE1>(|out| gue::write_v6(out, template, inner, None)), false, true),
        _ => (written::<V6_HEADER>(|out| encap::write_v6(out, template, inner)), false, false),
    }
}
