//! Tunnels: IP in IP (RFC 2003, RFC 2473, RFC 4213) and GUE, in front of the packet as it is.
//!
//! ```text
//!  MACs | tags as they came, or the way's | type | outer IP | [UDP | [GUE]] | the packet, and what was behind it in the frame
//! ```

use std::net::IpAddr;

use super::file::{Encap, Kind, Prefix, ROUTER, Tags};
use super::hash::Hash;
use super::ip::{Ip, Version};
use super::read::Read;
use crate::packet::internet_checksum;

const UDP: u8 = 17;

fn version(backend: IpAddr) -> Version {
    if backend.is_ipv4() { Version::V4 } else { Version::V6 }
}

/// Bytes of GUE, UDP included.
fn gue(encap: &Encap) -> usize {
    match encap.kind {
        Some(Kind::Gue { variant: 0, .. }) => 12,
        Some(Kind::Gue { .. }) => 8,
        None | Some(Kind::Ipip) => 0,
    }
}

/// Longest packet that the tunnel to `backend` holds, on a way of this MTU.
pub(super) fn room(encap: &Encap, backend: IpAddr, mtu: u16) -> usize {
    let mtu = encap.mtu.flatten().unwrap_or(mtu);
    usize::from(mtu) - version(backend).header() - gue(encap)
}

/// The frame with the packet in a tunnel.
pub(super) fn wrap(encap: &Encap, backend: IpAddr, ip: &Ip<'_>, hash: Hash, tags: Tags) -> Vec<u8> {
    let frame = ip.named.frame;
    let outer = version(backend);
    let mut out = ROUTER.to_vec();
    out.extend([0; 6]);
    match tags {
        Tags::Kept => out.extend(&frame[12..ip.named.l3 - 2]),
        Tags::Gone => {}
        Tags::One(tag) => out.extend(tag),
    }
    out.extend(outer.ethertype().to_be_bytes());
    out.extend(headers(encap, backend, ip, hash));
    out.extend(&frame[ip.named.l3..]);
    out
}

fn headers(encap: &Encap, backend: IpAddr, ip: &Ip<'_>, hash: Hash) -> Vec<u8> {
    let inner = ip.named.version.protocol();
    let (protocol, mut udp) = match encap.kind {
        None | Some(Kind::Ipip) => (inner, Vec::new()),
        Some(Kind::Gue { port, variant }) => {
            // A dynamic port (RFC 6335).
            let source = 0xc000 | hash.spread() as u16;
            let length = (gue(encap) + ip.whole().len()) as u16;
            let mut udp = [source, port, length, 0].map(u16::to_be_bytes).concat();
            if variant == 0 {
                udp.extend([0, inner, 0, 0]);
            }
            (UDP, udp)
        }
    };
    let length = udp.len() + ip.whole().len();
    let tos = match encap.dscp.flatten() {
        None => ip.tos,
        Some(dscp) => dscp << 2 | ip.tos & 3,
    };
    let mut out = match backend {
        IpAddr::V4(to) => {
            let source = source_v4(encap, hash);
            let [l0, l1] = (20 + length as u16).to_be_bytes();
            let mut h = vec![0x45, tos, l0, l1, 0, 0, 0x40, 0, 64, protocol, 0, 0];
            h.extend(source);
            h.extend(to.octets());
            let sum = internet_checksum(&[&h]);
            h[10..12].copy_from_slice(&sum.to_be_bytes());
            h
        }
        IpAddr::V6(to) => {
            let label = (hash.spread() >> 44) as u32;
            let first = 6 << 28 | u32::from(tos) << 20 | label;
            let mut h = first.to_be_bytes().to_vec();
            h.extend((length as u16).to_be_bytes());
            h.extend([protocol, 64]);
            h.extend(source_v6(encap, hash));
            h.extend(to.octets());
            if !udp.is_empty()
                && let Some(inner) = with_right_checksums(ip)
            {
                let pseudo = [&h[8..40], &(length as u32).to_be_bytes(), &[0, 0, 0, UDP]].concat();
                let sum = internet_checksum(&[&pseudo, &udp, &inner]);
                udp[6..8].copy_from_slice(&none_is_ffff(sum).to_be_bytes());
            }
            h
        }
    };
    out.extend(udp);
    out
}

/// In UDP, 0 means that there is no checksum.
fn none_is_ffff(sum: u16) -> u16 {
    if sum == 0 { 0xffff } else { sum }
}

/// The prefix, and behind it the highest bits of the flow's hash.
fn source_v4(encap: &Encap, hash: Hash) -> [u8; 4] {
    let Some(Prefix { address: IpAddr::V4(address), length }) = encap.source_v4 else { return [0; 4] };
    let bits = 32 - u32::from(length);
    let host = hash.spread().checked_shr(64 - bits).unwrap_or(0) as u32;
    (u32::from(address) | host).to_be_bytes()
}

/// The same, but at most the lowest 63 bits.
fn source_v6(encap: &Encap, hash: Hash) -> [u8; 16] {
    let Some(Prefix { address: IpAddr::V6(address), length }) = encap.source_v6 else { return [0; 16] };
    let bits = (128 - u32::from(length)).min(63);
    let host = hash.spread().checked_shr(64 - bits).unwrap_or(0);
    (u128::from(address) | u128::from(host)).to_be_bytes()
}

/// The packet as it is when all its checksums are right; `None` where they say nothing of the whole packet: fragments,
/// other protocols, UDP without a checksum or with less than the whole packet, IPv6 extension headers.
///
/// UDP in front of it may so have the checksum that a walk over all bytes would give, without the walk.
fn with_right_checksums(ip: &Ip<'_>) -> Option<Vec<u8>> {
    let (mut packet, at) = (ip.whole().to_vec(), ip.l4 - ip.named.l3);
    let transport = packet.len() - at;
    let field = match ip.protocol {
        _ if ip.fragment.is_some() => return None,
        6 => at + 16,
        UDP => {
            let whole = usize::from(packet.short(at + 4)?) == transport;
            (whole && packet.short(at + 6)? != 0).then_some(at + 6)?
        }
        _ => return None,
    };
    let addresses = match ip.named.version {
        Version::V4 => {
            packet[10..12].fill(0);
            let sum = internet_checksum(&[&packet[..at]]);
            packet[10..12].copy_from_slice(&sum.to_be_bytes());
            packet[12..20].to_vec()
        }
        Version::V6 if at == 40 => packet[8..40].to_vec(),
        Version::V6 => return None,
    };
    packet[field..field + 2].fill(0);
    let length = (transport as u32).to_be_bytes();
    let sum = internet_checksum(&[&addresses, &length, &[0, 0, 0, ip.protocol], &packet[at..]]);
    packet[field..field + 2].copy_from_slice(&sum.to_be_bytes());
    Some(packet)
}
