//! Builds the answer to a packet that is too big for its tunnel: ICMP "fragmentation needed" (RFC 792, RFC 1191) or
//! ICMPv6 "packet too big" (RFC 4443), from the VIP to the sender, quoting the packet itself.
//!
//! The quote stays where it is. The frame grows at its head by an IP and an ICMP header and is cut at its tail:
//!
//! ```text
//!                     |<- link ->|<------- too big a packet ------->|
//!                                |<- quoted ------->|    cut: tail
//!  |<- link ->|<- HEADER ------->|<- quoted ------->|
//!  MACs swapped IP       ICMP
//! ```
//!
//! In the kernel half, in this order: copy the link header and the offending IP header out; [`quote_len`];
//! [`quote_sum`]; grow by [`V4_HEADER`] or [`V6_HEADER`]; write the link header with its MACs swapped; [`write_v4`] or
//! [`write_v6`] behind it; cut the tail to `link + HEADER + quote_len`.
//!
//! Whether to answer at all is [`deserves`], and a rate limit that is the caller's.

use crate::{
    checksum,
    parse::{Bytes, ETHERNET_LEN, ICMP, ICMPV6, IPV4_LEN, IPV6_LEN, Ip, Version, Words},
    word,
};

/// IPv4 and ICMP.
pub const V4_HEADER: usize = IPV4_LEN + 8;
/// IPv6 and ICMPv6.
pub const V6_HEADER: usize = IPV6_LEN + 8;
/// Most bytes of an IPv4 packet that are quoted: the answer has at most 576 (RFC 1812 section 4.3.2.3).
pub const V4_QUOTE: usize = 576 - V4_HEADER;
/// Most bytes of an IPv6 packet that are quoted: the answer has at most 1280, the least MTU (RFC 4443 section 3.2).
pub const V6_QUOTE: usize = 1280 - V6_HEADER;

/// TTL of an answer.
const TTL: u8 = 64;
/// Network control (RFC 1812 section 4.3.2.5 asks for precedence 6 or 7).
const TOS: u8 = 0xc0;
const FRAGMENTATION_NEEDED: [u8; 2] = [3, 4];
const PACKET_TOO_BIG: [u8; 2] = [2, 0];

/// Bytes of a packet of `len` bytes that are quoted.
#[must_use]
#[inline(always)]
pub const fn quote_len(version: Version, len: usize) -> usize {
    let most = match version {
        Version::V4 => V4_QUOTE,
        Version::V6 => V6_QUOTE,
    };
    if len < most { len } else { most }
}

/// Whether the sender of a packet may be sent an error about it (RFC 1122 section 3.2.2, RFC 4443 section 2.4): not
/// about ICMP, which may be an error itself, and not where the source is no single host. That it is no fragment but the
/// first the caller must know.
#[must_use]
#[inline(always)]
pub const fn deserves(ip: &Ip) -> bool {
    if ip.protocol == ICMP || ip.protocol == ICMPV6 {
        return false;
    }
    let source: Words = ip.addresses.source;
    match ip.addresses.version {
        Version::V4 => {
            let first = (source[1] >> 32) as u8;
            first != 0 && first != 127 && first < 224
        }
        Version::V6 => {
            let unspecified_or_loopback = source[0] == 0 && (source[1] == 0 || source[1] == 1 << 56);
            source[0] as u8 != 0xff && !unspecified_or_loopback
        }
    }
}

/// Sum of the quoted bytes, folded, not complemented, in network order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct QuoteSum(pub u16);

const BLOCK: usize = 32;
const BLOCKS: usize = V6_QUOTE / BLOCK;
/// A quote begins behind the link header and ends below.
const FRAME_MASK: usize = 0x7ff;
const _: () = assert!(ETHERNET_LEN + 8 + 1 + V6_QUOTE <= FRAME_MASK);

/// Sums the `len` bytes at `offset`: none, or two to [`V6_QUOTE`]. `None` when the frame ends before them.
///
/// Added up as little-endian words of 32 bits: the one's complement sum is the same in any byte order and any width
/// (RFC 1071 section 2), but for the order of the result. So an odd byte may as well stand in front: the sum of the
/// others is then that of swapped words.
#[must_use]
#[inline(always)]
pub fn quote_sum<B: Bytes + ?Sized>(frame: &B, offset: usize, len: usize) -> Option<QuoteSum> {
    if len > V6_QUOTE || offset > FRAME_MASK - V6_QUOTE - 1 {
        return None;
    }
    let odd = len & 1;
    let sum = even_sum(frame, offset + odd, len & !1)?;
    if odd == 0 {
        return Some(QuoteSum(sum.swap_bytes()));
    }
    // No single byte is read, see `word`.
    let &[first, _] = frame.get::<2>(offset)?;
    Some(QuoteSum(checksum::fold(sum as u32 + ((first as u32) << 8))))
}

/// Sum of an even number of bytes, folded, as little-endian words of 16 bits.
///
/// Offsets and the ends of the loops are opaque. Else the compiler walks a pointer and compares with the frame's end
/// plus something, which the verifier forbids, or ends a loop by an equality, which bounds nothing for it.
#[inline(always)]
fn even_sum<B: Bytes + ?Sized>(frame: &B, offset: usize, len: usize) -> Option<u16> {
    let at = |done: usize| word::masked(offset + done, FRAME_MASK);
    let fits = |end: usize| end <= word::masked(len, FRAME_MASK);
    let mut sum = 0u64;
    let mut done = 0usize;
    for _ in 0..BLOCKS {
        if !fits(done + BLOCK) {
            break;
        }
        sum += block(frame.get::<BLOCK>(at(done))?);
        done += BLOCK;
    }
    for _ in 0..BLOCK / 8 {
        if !fits(done + 8) {
            break;
        }
        sum += halves(u64::from_le_bytes(*frame.get::<8>(at(done))?));
        done += 8;
    }
    if len & 4 != 0 {
        sum += u32::from_le_bytes(*frame.get::<4>(at(done))?) as u64;
        done += 4;
    }
    if len & 2 != 0 {
        sum += u16::from_le_bytes(*frame.get::<2>(at(done))?) as u64;
    }
    Some(fold(sum))
}

#[inline(always)]
fn block(bytes: &[u8; BLOCK]) -> u64 {
    let mut sum = 0;
    for word in bytes.as_chunks::<8>().0 {
        sum += halves(u64::from_le_bytes(*word));
    }
    sum
}

/// Sum of the two halves: 1232 bytes of them stay far below 2^64.
#[inline(always)]
const fn halves(word: u64) -> u64 {
    (word & 0xffff_ffff) + (word >> 32)
}

/// Folds to 16 bits.
#[inline(always)]
const fn fold(sum: u64) -> u16 {
    checksum::fold(halves(halves(sum)) as u32)
}

/// What is quoted, and what is said about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooBig {
    /// The largest packet that the sender may send, in bytes: the tunnel's MTU less its header. IPv6 hosts take less
    /// than 1280 for 1280 (RFC 8201 section 4).
    pub mtu: u16,
    /// Of [`quote_len`].
    pub quoted: u16,
    /// Of [`quote_sum`] over as many bytes.
    pub sum: QuoteSum,
}

/// Writes IPv4 and ICMP header of the answer to the packet that began with `offending`.
#[inline(always)]
pub fn write_v4(out: &mut [u8; V4_HEADER], offending: &[u8; IPV4_LEN], too_big: &TooBig) {
    let o = offending;
    let [l0, l1] = too_big.quoted.wrapping_add(V4_HEADER as u16).to_be_bytes();
    let [m0, m1] = too_big.mtu.to_be_bytes();
    let [kind, code] = FRAGMENTATION_NEEDED;
    // The length counts once in the IP header; ICMP sums itself and the quote.
    let icmp = [word(FRAGMENTATION_NEEDED), too_big.mtu as u32, too_big.sum.0 as u32, 0];
    let [c0, c1] = complement(icmp);
    let ip = [
        word([0x45, TOS]) + word([l0, l1]) + word([0x40, 0]) + word([TTL, ICMP]),
        word([o[16], o[17]]) + word([o[18], o[19]]),
        word([o[12], o[13]]) + word([o[14], o[15]]),
        0,
    ];
    let [h0, h1] = complement(ip);
    // From the VIP to the sender; id 0 and DF: an atomic datagram (RFC 6864).
    *out = [
        0x45, TOS, l0, l1, 0, 0, 0x40, 0, TTL, ICMP, h0, h1, //
        o[16], o[17], o[18], o[19], o[12], o[13], o[14], o[15], //
        kind, code, c0, c1, 0, 0, m0, m1,
    ];
}

/// Writes IPv6 and ICMPv6 header of the answer to the packet that began with `offending`.
#[inline(always)]
pub fn write_v6(out: &mut [u8; V6_HEADER], offending: &[u8; IPV6_LEN], too_big: &TooBig) {
    let length = too_big.quoted.wrapping_add(8);
    let [l0, l1] = length.to_be_bytes();
    let [m0, m1] = too_big.mtu.to_be_bytes();
    let [kind, code] = PACKET_TOO_BIG;
    // The pseudo header (RFC 8200 section 8.1): both addresses, length, next header.
    let mut addresses = 0u32;
    for i in 4..20 {
        addresses += word([offending[2 * i], offending[2 * i + 1]]);
    }
    let sum = [
        addresses,
        length as u32 + ICMPV6 as u32,
        word(PACKET_TOO_BIG) + too_big.mtu as u32,
        too_big.sum.0 as u32,
    ];
    let [c0, c1] = complement(sum);
    out[..8].copy_from_slice(&[0x60 | TOS >> 4, TOS << 4, 0, 0, l0, l1, ICMPV6, TTL]);
    out[8..24].copy_from_slice(&offending[24..40]);
    out[24..40].copy_from_slice(&offending[8..24]);
    out[40..].copy_from_slice(&[kind, code, c0, c1, 0, 0, m0, m1]);
}

#[inline(always)]
const fn word(bytes: [u8; 2]) -> u32 {
    u16::from_be_bytes(bytes) as u32
}

/// The checksum over parts of a sum, in network order.
#[inline(always)]
const fn complement(parts: [u32; 4]) -> [u8; 2] {
    (!checksum::fold(parts[0] + parts[1] + parts[2] + parts[3])).to_be_bytes()
}

#[cfg(test)]
mod tests;
