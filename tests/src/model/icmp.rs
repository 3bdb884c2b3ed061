//! ICMP: echo requests, errors about flows, errors about our own tunnels (RFC 792, RFC 4443).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use xdp_lb_common::reason::{DropReason, PassReason};

use super::file::{Affinity, File};
use super::hash;
use super::ip::{self, Ip, Version, is_extension};
use super::read::Read;
use super::select::{self, Flow};
use super::step::{End, Judged, Step};
use super::transport::Segment;
use super::{Target, affinity, key};
use crate::packet::internet_checksum;
use crate::prog::XdpAction;

/// Followed extension headers of a quoted packet.
const MOST_EXTENSIONS: usize = 6;

/// The reply to an echo request: addresses turned round, TTL 64. A checksum that was wrong stays wrong.
pub(super) fn echo(ip: &Ip<'_>) -> End {
    let (frame, l3, l4) = (ip.named.frame, ip.named.l3, ip.l4);
    let mut out = frame.to_vec();
    out[..6].copy_from_slice(&frame[6..12]);
    out[6..12].copy_from_slice(&frame[..6]);
    let (ttl, addresses, length, reply) = match ip.named.version {
        Version::V4 => (l3 + 8, l3 + 12, 4, 0),
        Version::V6 => (l3 + 7, l3 + 8, 16, 129),
    };
    let (source, destination) = (addresses..addresses + length, addresses + length..addresses + 2 * length);
    out[source.clone()].copy_from_slice(&frame[destination.clone()]);
    out[destination].copy_from_slice(&frame[source]);
    out[ttl] = 64;
    out[l4] = reply;
    if ip.named.version == Version::V4 {
        let sum = updated(frame, l3 + 10, ttl, &out);
        out[l3 + 10..l3 + 12].copy_from_slice(&sum.to_be_bytes());
    }
    // 0 and ffff are the same sum; only of nothing but zeros it is certain which.
    let sum = match updated(frame, l4 + 2, l4, &out) {
        0 => 0xffff,
        sum => sum,
    };
    out[l4 + 2..l4 + 4].copy_from_slice(&sum.to_be_bytes());
    End::Changed(XdpAction::Tx, out, Some(PassReason::EchoAnswered))
}

/// The checksum at `at` after the 16 bits at `word` changed (RFC 1624, equation 3): HC' = ~(~HC + ~m + m').
pub(super) fn updated(old: &[u8], at: usize, word: usize, new: &[u8]) -> u16 {
    let complement = |at: usize| (!old.short(at).unwrap_or(0)).to_be_bytes();
    internet_checksum(&[&complement(at), &complement(word), &new[word..word + 2]])
}

/// What an error says and whom it quotes.
struct Quote {
    too_big: bool,
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    /// What follows the quoted IP header and its extensions, as far as it is quoted.
    rest: Vec<u8>,
}

/// Reads an ICMP error as far as the quoted transport.
fn quote(ip: &Ip<'_>) -> Result<Quote, DropReason> {
    const CUT: DropReason = DropReason::IcmpQuote;
    let icmp = ip.payload();
    let h: [u8; 8] = icmp.some(0).ok_or(CUT)?;
    let version = ip.named.version;
    let too_big = match (version, h[0], h[1]) {
        (Version::V4, 3, 4) | (Version::V6, 2, _) => true,
        (Version::V4, 3 | 11 | 12, _) | (Version::V6, 1 | 3 | 4, _) => false,
        _ => return Err(DropReason::IcmpUnhandled),
    };
    let packet = &icmp[8..];
    // Lengths say more than is quoted, the TTL is what was left: neither is believed.
    let (source, destination, protocol, rest): (IpAddr, IpAddr, u8, &[u8]) = match version {
        Version::V4 => {
            let h: [u8; 20] = packet.some(0).ok_or(CUT)?;
            let header = usize::from(h[0] & 0xf) * 4;
            let later = u16::from_be_bytes([h[6] & 0x1f, h[7]]) != 0;
            if h[0] >> 4 != 4 || header < 20 || later {
                return Err(CUT);
            }
            let address = |at: usize| Ipv4Addr::new(h[at], h[at + 1], h[at + 2], h[at + 3]).into();
            (address(12), address(16), h[9], packet.get(header..).unwrap_or(&[]))
        }
        Version::V6 => {
            let h: [u8; 40] = packet.some(0).ok_or(CUT)?;
            if h[0] >> 4 != 6 {
                return Err(CUT);
            }
            let address =
                |at: usize| packet.some::<16>(at).map(|bytes| Ipv6Addr::from(bytes).into()).ok_or(CUT);
            let (protocol, rest) = extensions(h[6], &packet[40..])?;
            (address(8)?, address(24)?, protocol, rest)
        }
    };
    if source != ip.named.destination {
        return Err(DropReason::IcmpEmbedded);
    }
    Ok(Quote { too_big, source, destination, protocol, rest: rest.to_vec() })
}

fn extensions(mut protocol: u8, mut rest: &[u8]) -> Result<(u8, &[u8]), DropReason> {
    for _ in 0..=MOST_EXTENSIONS {
        if !is_extension(protocol) {
            return Ok((protocol, rest));
        }
        let h: [u8; 8] = rest.some(0).ok_or(DropReason::IcmpQuote)?;
        let length = match protocol {
            // The first one has the ports.
            44 if u16::from_be_bytes([h[2], h[3]]) & 0xfff8 != 0 => return Err(DropReason::IcmpQuote),
            44 => 8,
            51 => (usize::from(h[1]) + 2) * 4,
            _ => (usize::from(h[1]) + 1) * 8,
        };
        protocol = h[0];
        rest = rest.get(length..).unwrap_or(&[]);
    }
    Err(DropReason::IcmpQuote)
}

/// Where an error for a VIP goes: where the packets go that the quoted one answers. It is none of them, so nothing
/// is remembered, and nobody asks who sent it.
pub(super) fn target<'a>(step: &mut Step<'a>, ip: &Ip<'_>) -> Judged<Target<'a>> {
    let quote = quote(ip)?;
    if !matches!(quote.protocol, 6 | 17) {
        return Err(DropReason::IcmpQuote.into());
    }
    let h: [u8; 8] = quote.rest.some(0).ok_or(DropReason::IcmpQuote)?;
    let [s0, s1, d0, d1, ..] = h;
    // Turned round: from the client to the VIP.
    let (source, destination) = (u16::from_be_bytes([d0, d1]), u16::from_be_bytes([s0, s1]));
    let turned = Ip {
        named: ip::Named { source: quote.destination, destination: quote.source, ..ip.named },
        protocol: quote.protocol,
        ..*ip
    };
    let Some((service, placed)) = super::service(step.model, &turned, destination) else {
        return Err(super::unmatched(step, ip));
    };
    if placed.slots.is_empty() {
        return Err(DropReason::EmptyService.into());
    }
    let hash = hash::hash(step.model.file.seed, key(&turned, service, Some((source, destination))));
    let flow = Flow { service, placed, hash, segment: Segment::Datagram };
    let local = match service.affinity {
        Affinity::DestPort => Some(affinity::owner(service, placed, destination)?),
        Affinity::QuicCid { .. } | Affinity::IceUfrag => select::look(step, &flow, quote.protocol == 6, true),
        Affinity::FiveTuple | Affinity::ClientIp => select::look(step, &flow, quote.protocol == 6, false),
    };
    let local = local.ok_or(DropReason::EmptyService)?;
    Ok(Target { service, placed, local, hash })
}

/// Whether a packet is an ICMP message of either version.
pub(super) fn is_whole(ip: &Ip<'_>) -> bool {
    ip.fragment.is_none() && matches!(ip.protocol, 1 | 58)
}

/// Whether a message for nobody's VIP says that a tunnel of ours is too big for a link: IP in IP, or what may be GUE; for
/// a VIP, where the quote reaches so far.
pub(super) fn is_about_tunnel(file: &File, ip: &Ip<'_>) -> bool {
    if !matches!((ip.named.version, ip.protocol), (Version::V4, 1) | (Version::V6, 58)) {
        return false;
    }
    let Ok(quote) = quote(ip) else { return false };
    if !quote.too_big {
        return false;
    }
    let inner = match quote.protocol {
        4 => Some((Version::V4, &quote.rest[..])),
        41 => Some((Version::V6, &quote.rest[..])),
        17 if quote.rest.len() < 8 => return false,
        17 if quote.rest.len() < 12 => None,
        17 => match gue(&quote.rest[8..]) {
            None => return false,
            inner => inner,
        },
        _ => return false,
    };
    let named = inner.and_then(|(version, bytes)| {
        let nibble = if version == Version::V4 { 4 } else { 6 };
        ip::named(bytes, version, 0).filter(|_| bytes[0] >> 4 == nibble)
    });
    named.is_none_or(|inner| file.is_balanced(inner.destination))
}

/// What is in GUE of either variant.
fn gue(bytes: &[u8]) -> Option<(Version, &[u8])> {
    match bytes[0] >> 4 {
        4 => Some((Version::V4, bytes)),
        6 => Some((Version::V6, bytes)),
        // Variant 0, no control message: bits 7 to 5 are 0.
        0 | 1 => {
            let version = match bytes[1] {
                4 => Version::V4,
                41 => Version::V6,
                _ => return None,
            };
            Some((version, bytes.get(4 + usize::from(bytes[0] & 0x1f) * 4..).unwrap_or(&[])))
        }
        _ => None,
    }
}
