//! Turns an echo request for a VIP into its reply, in place (RFC 792, RFC 4443).
//!
//! Addresses and MACs change places, which no checksum notices; TTL and ICMP type do change, and their
//! checksums are updated, not recomputed: a request whose payload was damaged stays damaged.

use crate::checksum;

/// TTL of a reply, as Linux sends it.
pub const TTL: u8 = 64;

/// Swaps the MACs of an Ethernet header.
#[inline(always)]
pub fn swap_macs(ethernet: &mut [u8; 14]) {
    let [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, t0, t1] = *ethernet;
    *ethernet = [s0, s1, s2, s3, s4, s5, d0, d1, d2, d3, d4, d5, t0, t1];
}

/// Swaps the addresses of an IPv4 header and sets the reply's TTL.
#[inline(always)]
pub fn reply_v4(ip: &mut [u8; 20]) {
    let old = u16::from_be_bytes([ip[8], ip[9]]);
    ip[8] = TTL;
    let new = u16::from_be_bytes([ip[8], ip[9]]);
    let sum = checksum::update(u16::from_be_bytes([ip[10], ip[11]]), old, new);
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    let (source, destination) = ([ip[12], ip[13], ip[14], ip[15]], [ip[16], ip[17], ip[18], ip[19]]);
    ip[12..16].copy_from_slice(&destination);
    ip[16..20].copy_from_slice(&source);
}

/// Swaps the addresses of an IPv6 header and sets the reply's hop limit.
#[inline(always)]
pub fn reply_v6(ip: &mut [u8; 40]) {
    ip[7] = TTL;
    for i in 8..24 {
        ip.swap(i, i + 16);
    }
}

/// Turns the type of an ICMP or ICMPv6 echo request into a reply's. `reply` is 0 or 129.
///
/// A checksum of 0 and one of 0xffff mean the same but for a message of nothing but zeros, which only the
/// latter fits (RFC 1624 section 3); the update cannot tell, so it always says 0xffff.
#[inline(always)]
pub fn reply_icmp(icmp: &mut [u8; 8], reply: u8) {
    let old = u16::from_be_bytes([icmp[0], icmp[1]]);
    icmp[0] = reply;
    let new = u16::from_be_bytes([icmp[0], icmp[1]]);
    let sum = match checksum::update(u16::from_be_bytes([icmp[2], icmp[3]]), old, new) {
        0 => 0xffff,
        sum => sum,
    };
    icmp[2..4].copy_from_slice(&sum.to_be_bytes());
}
