//! GUE: the tunnel in UDP, for fabrics that lose protocol 4 or spread by ports (draft-ietf-intarea-gue).
//!
//! ```text
//!   | Ethernet | outer IP | UDP: flow's port, GUE's port, length, checksum | GUE | inner IP ...
//!                                                      variant 0:  |0|C| hlen | proto | flags |   4 bytes and 4 * hlen
//!                                                      variant 1:  nothing: the inner version's bits say so
//! ```
//!
//! The UDP checksum is 0 over IPv4. Over IPv6 it must be there (RFC 8200), but for tunnels whose inner packets have
//! their own (RFC 6935, RFC 6936). Where the inner packet is a whole TCP or UDP packet with a checksum it costs no look
//! at the payload: with its own checksum the transport sums up to the complement of its pseudo header, and an
//! IPv4 header to nothing. An inner packet whose checksum is wrong so makes a wrong outer one. Everything else gets 0.

use crate::{
    backend::Template,
    checksum,
    encap::{self, Inner, V4_HEADER, V6_HEADER},
    parse::{Bytes, IPIP, IPV6_IN_IP, IPV6_LEN, Ip, TCP, UDP, Version, be16, part},
    reason::PassReason,
};

/// Length of a UDP header.
pub const UDP_LEN: usize = 8;
/// Length of the header of variant 0 without fields.
pub const GUE_LEN: usize = 4;
/// Everything in front of the inner packet, variant 0 over IPv4.
pub const V4_GUE: usize = V4_HEADER + UDP_LEN + GUE_LEN;
/// The same of variant 1.
pub const V4_GUE1: usize = V4_HEADER + UDP_LEN;
/// Everything in front of the inner packet, variant 0 over IPv6.
pub const V6_GUE: usize = V6_HEADER + UDP_LEN + GUE_LEN;
/// The same of variant 1.
pub const V6_GUE1: usize = V6_HEADER + UDP_LEN;

/// Source ports come from the dynamic ones (RFC 6335).
const FIRST_PORT: u16 = 49_152;

/// Writes all headers, `N` bytes, over IPv4.
#[inline(always)]
pub fn write_v4<const N: usize>(out: &mut [u8; N], template: &Template, inner: &Inner) {
    let (len, port) = (behind_ip::<N, V4_HEADER>(inner), part::<16, 2, _>(&template.bytes));
    let Some(ip) = out.first_chunk_mut::<V4_HEADER>() else { return };
    encap::write_v4_with(ip, template, inner, len, UDP);
    write_udp::<N, V4_HEADER>(out, port, inner);
}

/// Writes all headers, `N` bytes, over IPv6. `sum` is [`inner_sum`].
#[inline(always)]
pub fn write_v6<const N: usize>(out: &mut [u8; N], template: &Template, inner: &Inner, sum: Option<u64>) {
    let (len, port) = (behind_ip::<N, V6_HEADER>(inner), part::<18, 2, _>(&template.bytes));
    let Some(ip) = out.first_chunk_mut::<V6_HEADER>() else { return };
    encap::write_v6_with(ip, template, inner, len, UDP);
    write_udp::<N, V6_HEADER>(out, port, inner);
    let Some(sum) = sum else { return };
    let (mut total, mut at) = (sum + le(len) + le(u16::from(UDP)), V6_HEADER - 32);
    while at < N {
        total += u64::from(u16::from_le_bytes([out[at], out[at + 1]]));
        at += 2;
    }
    let checksum = match !fold(total) {
        // None on the wire.
        0 => u16::MAX,
        checksum => checksum,
    };
    out[V6_HEADER + 6..V6_HEADER + 8].copy_from_slice(&checksum.to_le_bytes());
}

/// Length of what follows an outer IP header that ends at `AT`.
#[inline(always)]
const fn behind_ip<const N: usize, const AT: usize>(inner: &Inner) -> u16 {
    inner.len.wrapping_add((N - AT) as u16)
}

#[inline(always)]
fn write_udp<const N: usize, const AT: usize>(out: &mut [u8; N], port: [u8; 2], inner: &Inner) {
    const { assert!(N == AT + UDP_LEN || N == AT + UDP_LEN + GUE_LEN) };
    let source = inner.hash.entropy() as u16 | FIRST_PORT;
    out[AT..AT + 2].copy_from_slice(&source.to_be_bytes());
    out[AT + 2..AT + 4].copy_from_slice(&port);
    out[AT + 4..AT + 6].copy_from_slice(&behind_ip::<N, AT>(inner).to_be_bytes());
    out[AT + 6..AT + 8].copy_from_slice(&[0; 2]);
    if N == AT + UDP_LEN + GUE_LEN {
        out[AT + 8..AT + 12].copy_from_slice(&[0, inner.protocol(), 0, 0]);
    }
}

/// The sum of the inner packet's little-endian 16-bit words, modulo 65535, if its headers tell.
#[inline(always)]
pub fn inner_sum<B: Bytes + ?Sized>(frame: &B, ip: &Ip) -> Option<u64> {
    if ip.fragment.is_some() {
        return None;
    }
    let payload = ip.end.wrapping_sub(ip.l4) as u16;
    match ip.protocol {
        TCP => {}
        UDP => {
            let h = frame.get::<8>(ip.l4)?;
            // None, or behind the datagram something that it does not cover.
            if be16::<6, _>(h) == 0 || be16::<4, _>(h) != payload {
                return None;
            }
        }
        _ => return None,
    }
    match ip.addresses.version {
        Version::V4 => {
            let (from, to) = (ip.addresses.source[1] >> 32, ip.addresses.destination[1] >> 32);
            let pseudo = from + to + le(ip.protocol.into()) + le(payload);
            Some(u64::from(!fold(pseudo)))
        }
        Version::V6 if ip.l4 == ip.addresses.l3 + IPV6_LEN => {
            // The addresses are in the header and, as complement, in the transport; so is the length.
            let h = frame.get::<8>(ip.addresses.l3)?;
            let [a, b] = [part::<0, 4, _>(h), [0, 0, h[6], h[7]]].map(|w| u64::from(u32::from_le_bytes(w)));
            Some(a + b + u64::from(!fold(le(ip.protocol.into()))))
        }
        Version::V6 => None,
    }
}

/// A number as a word of a little-endian sum.
#[inline(always)]
const fn le(number: u16) -> u64 {
    number.swap_bytes() as u64
}

/// Folds a sum of 16- and 32-bit words.
#[inline(always)]
const fn fold(sum: u64) -> u16 {
    checksum::fold(((sum & 0xffff_ffff) % 0x1_0000 + (sum >> 16 & 0xffff) + (sum >> 32)) as u32)
}

/// A packet inside a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opened {
    /// Its version.
    pub version: Version,
    /// Where it begins.
    pub l3: usize,
    /// Where the tunnel ends; 0 when the tunnel lies about that.
    pub end: usize,
}

/// Looks into a UDP packet, not a fragment, to `port`. UDP's checksum is not verified: the inner packet has its own.
///
/// # Errors
/// Why it is no tunnel that we take off.
#[inline(always)]
pub fn open<B: Bytes + ?Sized>(frame: &B, outer: &Ip, port: u16) -> Result<Opened, PassReason> {
    const OTHERS: PassReason = PassReason::NotAVip;
    let inside = outer.l4 + UDP_LEN;
    if inside > outer.end {
        return Err(OTHERS);
    }
    let udp = frame.get::<UDP_LEN>(outer.l4).ok_or(OTHERS)?;
    if be16::<2, _>(udp) != port {
        return Err(OTHERS);
    }
    let len = be16::<4, _>(udp) as usize;
    let end = if len < UDP_LEN || outer.l4 + len > outer.end { 0 } else { outer.l4 + len };
    if inside + GUE_LEN > outer.end {
        return Err(PassReason::GueUnknown);
    }
    let h = frame.get::<GUE_LEN>(inside).ok_or(PassReason::GueUnknown)?;
    // Variant 1: its bits are the first two of the versions 4 and 6.
    match h[0] >> 4 {
        4 => return Ok(Opened { version: Version::V4, l3: inside, end }),
        6 => return Ok(Opened { version: Version::V6, l3: inside, end }),
        _ if h[0] >> 6 != 0 => return Err(PassReason::GueUnknown),
        _ if h[0] & 0x20 != 0 => return Err(PassReason::GueControl),
        _ => {}
    }
    let version = match (h[1], be16::<2, _>(h)) {
        (IPIP, 0) => Version::V4,
        (IPV6_IN_IP, 0) => Version::V6,
        // A flag announces a field that may change what the rest means.
        _ => return Err(PassReason::GueUnknown),
    };
    // Fields that no flag announces are room for private data.
    Ok(Opened { version, l3: inside + GUE_LEN + (h[0] & 0x1f) as usize * 4, end })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{hash::FlowHash, parse};
    use std::{vec, vec::Vec};

    fn ip(frame: &[u8]) -> Ip {
        let version = if frame[12] == 8 { Version::V4 } else { Version::V6 };
        parse::ip(frame, parse::addresses(frame, 14, version).unwrap()).unwrap()
    }

    fn put_sum(bytes: &mut [u8], at: usize, more: u32) {
        let sum = !checksum::fold(checksum::sum(bytes) + more);
        bytes[at..at + 2].copy_from_slice(&sum.to_be_bytes());
    }

    /// A frame with right checksums; `l4` has its own at `at`.
    fn frame(version: Version, protocol: u8, l4: &[u8], at: usize, options: usize) -> Vec<u8> {
        let (mut l4, len) = (l4.to_vec(), l4.len() as u16);
        let mut ip = match version {
            Version::V4 => {
                let mut h =
                    vec![0x45 + options as u8 / 4, 0xb9, 0, 0, 0x12, 0x34, 0x40, 0, 61, protocol, 0, 0];
                h.extend([198, 51, 100, 7, 203, 0, 113, 10]);
                h.extend(vec![1; options]);
                h[2..4].copy_from_slice(&(20 + options as u16 + len).to_be_bytes());
                put_sum(&mut h, 10, 0);
                h
            }
            Version::V6 => {
                let [a, b] = len.to_be_bytes();
                let mut h = vec![0x6b, 0x91, 0x23, 0x45, a, b, protocol, 61];
                h.extend((0..32u8).map(|n| n.wrapping_mul(71)));
                h
            }
        };
        let addresses = if version == Version::V4 { &ip[12..20] } else { &ip[8..40] };
        let pseudo = checksum::sum(addresses) + u32::from(protocol) + u32::from(len);
        put_sum(&mut l4, at, pseudo);
        ip.extend(l4);
        let mut frame = vec![2; 12];
        frame.extend(parse::ethertype(version));
        frame.extend(ip);
        frame
    }

    const UDP_PACKET: [u8; 11] = [0x9c, 0x40, 0x13, 0xc4, 0, 11, 0, 0, 0xff, 0xfe, 0xfd];
    const TCP_PACKET: [u8; 23] =
        [0x9c, 0x40, 1, 187, 9, 8, 7, 6, 5, 4, 3, 2, 0x50, 0x18, 0xff, 0xff, 0, 0, 0, 0, 0xaa, 0xbb, 0xcc];

    /// The whole datagram with its pseudo header sums up to nothing, whatever is inside.
    #[test]
    fn the_checksum_over_ipv6_is_right() {
        let template =
            Template { bytes: std::array::from_fn(|n| (n * 5 + 1) as u8), source_shift: 40, ..zero() };
        for version in [Version::V4, Version::V6] {
            for (protocol, l4, at) in [(UDP, &UDP_PACKET[..], 6), (TCP, &TCP_PACKET, 16)] {
                for options in if version == Version::V4 { &[0, 4, 40][..] } else { &[0] } {
                    let frame = frame(version, protocol, l4, at, *options);
                    let ip = ip(&frame);
                    let sum = inner_sum(&frame[..], &ip);
                    assert!(sum.is_some(), "{version:?} {protocol}");
                    for n in 0..2000u64 {
                        let hash = FlowHash(crate::hash::mix(n));
                        let inner = Inner { version, len: ip.len() as u16, tos: ip.tos, hash };
                        let mut out = [0; V6_GUE];
                        write_v6(&mut out, &template, &inner, sum);
                        verify(&[&out[14..], &frame[14..]].concat());
                        let mut out = [0; V6_GUE1];
                        write_v6(&mut out, &template, &inner, sum);
                        verify(&[&out[14..], &frame[14..]].concat());
                    }
                }
            }
        }
    }

    fn zero() -> Template {
        bytemuck::Zeroable::zeroed()
    }

    fn verify(packet: &[u8]) {
        let (len, checksum) = (be16::<4, 40>(packet.first_chunk().unwrap()), &packet[46..48]);
        assert_eq!((len as usize, packet[6]), (packet.len() - 40, UDP));
        assert_ne!(checksum, [0, 0]);
        let sum =
            checksum::sum(&packet[8..40]) + u32::from(UDP) + u32::from(len) + checksum::sum(&packet[40..]);
        assert_eq!(checksum::fold(sum), 0xffff, "{packet:02x?}");
    }

    #[test]
    fn what_has_no_checksum_gives_none() {
        let whole = frame(Version::V4, UDP, &UDP_PACKET, 6, 0);
        let without = |change: fn(&mut Vec<u8>)| {
            let mut frame = whole.clone();
            change(&mut frame);
            inner_sum(&frame[..], &ip(&frame))
        };
        assert!(without(|_| {}).is_some());
        assert_eq!(without(|frame| frame[40..42].fill(0)), None, "no UDP checksum");
        assert_eq!(without(|frame| frame[39] = 10), None, "a byte behind the datagram");
        assert_eq!(without(|frame| frame[20] = 0x20), None, "a fragment");
        assert_eq!(without(|frame| frame[23] = 47), None, "another protocol");
    }

    fn tunnel(gue: &[u8], inner: usize) -> Vec<u8> {
        let len = (8 + gue.len() + inner) as u16;
        let mut l4 = vec![0xc0, 0, 0x17, 0xc0, 0, 0, 0, 0];
        l4[4..6].copy_from_slice(&len.to_be_bytes());
        l4.extend(gue);
        l4.extend(vec![0; inner]);
        frame(Version::V4, UDP, &l4, 6, 0)
    }

    #[test]
    fn every_first_byte() {
        for first in 0..=255u8 {
            let frame = tunnel(&[first, 4, 0, 0], 200);
            let opened = open(&frame[..], &ip(&frame), 6080);
            let l3 = match first {
                0x00..=0x1f => Ok(46 + usize::from(first) * 4),
                0x20..=0x3f => Err(PassReason::GueControl),
                0x40..=0x4f | 0x60..=0x6f => Ok(42),
                _ => Err(PassReason::GueUnknown),
            };
            assert_eq!(opened.map(|o| o.l3), l3, "{first:#04x}");
            assert!(opened.is_ok() == l3.is_ok() && opened.iter().all(|o| o.end == frame.len()));
        }
    }

    #[test]
    fn contents_flags_ports_and_lengths() {
        let look = |frame: &[u8]| open(frame, &ip(frame), 6080).map(|o| (o.version, o.end));
        let end = 14 + 20 + 8 + 4 + 20;
        assert_eq!(look(&tunnel(&[0, 4, 0, 0], 20)), Ok((Version::V4, end)));
        assert_eq!(look(&tunnel(&[0, 41, 0, 0], 20)), Ok((Version::V6, end)));
        assert_eq!(look(&tunnel(&[0, 47, 0, 0], 20)), Err(PassReason::GueUnknown));
        assert_eq!(look(&tunnel(&[1, 4, 0, 1], 20)), Err(PassReason::GueUnknown));
        assert_eq!(look(&tunnel(&[0, 4, 0x80, 0], 20)), Err(PassReason::GueUnknown));
        assert_eq!(look(&tunnel(&[0, 4, 0], 0)), Err(PassReason::GueUnknown));
        let frame = tunnel(&[0, 4, 0, 0], 20);
        assert_eq!(open(&frame[..], &ip(&frame), 6081), Err(PassReason::NotAVip));
        for (len, lies) in [(7, true), (8, false), (32, false), (33, true), (0, true)] {
            let mut frame = frame.clone();
            frame[38..40].copy_from_slice(&u16::to_be_bytes(len));
            let wanted = if lies { 0 } else { 34 + usize::from(len) };
            assert_eq!(look(&frame), Ok((Version::V4, wanted)), "UDP length {len}");
        }
    }
}
