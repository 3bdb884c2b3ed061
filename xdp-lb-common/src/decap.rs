//! The backend side: which tunnels are taken off.
//!
//! A tunnel is ours when its inner destination is a VIP of this node; ours from a source that is not
//! allowed is dropped, or anyone could reach the VIP's server with any source address.

use bytemuck::{Pod, Zeroable};

use crate::{
    checksum,
    gue::{self, Opened},
    parse::{Bytes, IPIP, IPV6_IN_IP, Ip, UDP, Version, Words, be16},
    reason::PassReason,
};

/// Most prefixes of one family.
pub const MAX_SOURCES: usize = 32;

/// Tunnels of IP in IP are taken off.
pub const ACCEPT_IPIP: u32 = 1;
/// GUE is taken off, both variants.
pub const ACCEPT_GUE: u32 = 2;

/// An IPv4 prefix. 8 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Prefix4 {
    /// Network address, network order.
    pub address: [u8; 4],
    /// Netmask, network order.
    pub mask: [u8; 4],
}

/// An IPv6 prefix. 32 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Prefix6 {
    /// Network address, network order.
    pub address: [u8; 16],
    /// Netmask, network order.
    pub mask: [u8; 16],
}

/// What tunnels we take, and from whom. The map holds two; the live one is `control.decap_bank`. 1296 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct AllowList {
    /// `ACCEPT_*` bits.
    pub kinds: u32,
    /// UDP port of GUE.
    pub gue_port: u32,
    /// Prefixes used in `v4`.
    pub v4_count: u32,
    /// Prefixes used in `v6`.
    pub v6_count: u32,
    /// IPv4 prefixes.
    pub v4: [Prefix4; MAX_SOURCES],
    /// IPv6 prefixes.
    pub v6: [Prefix6; MAX_SOURCES],
}

const _: () = assert!(size_of::<AllowList>() == 16 + MAX_SOURCES * 40);

impl AllowList {
    /// True when `source` is in one of the prefixes. Linear: a fabric has a few, and they fit two cache lines.
    #[must_use]
    #[inline(always)]
    pub fn allows(&self, version: Version, source: Words) -> bool {
        match version {
            Version::V4 => {
                let source = (source[1] >> 32) as u32;
                for i in 0..MAX_SOURCES {
                    if i >= self.v4_count as usize {
                        return false;
                    }
                    let p = &self.v4[i];
                    if source & u32::from_le_bytes(p.mask) == u32::from_le_bytes(p.address) {
                        return true;
                    }
                }
                false
            }
            Version::V6 => {
                for i in 0..MAX_SOURCES {
                    if i >= self.v6_count as usize {
                        return false;
                    }
                    let p = &self.v6[i];
                    let (mask, address) = (crate::parse::words(&p.mask), crate::parse::words(&p.address));
                    if [source[0] & mask[0], source[1] & mask[1]] == address {
                        return true;
                    }
                }
                false
            }
        }
    }
}

/// Finds the packet inside a tunnel.
///
/// # Errors
/// Why this is no tunnel that we take off.
#[inline(always)]
pub fn open<B: Bytes + ?Sized>(frame: &B, outer: &Ip, accept: &AllowList) -> Result<Opened, PassReason> {
    let inside = |version| Ok(Opened { version, l3: outer.l4, end: outer.end });
    match outer.protocol {
        _ if outer.fragment.is_some() => Err(PassReason::NotAVip),
        IPIP if accept.kinds & ACCEPT_IPIP != 0 => inside(Version::V4),
        IPV6_IN_IP if accept.kinds & ACCEPT_IPIP != 0 => inside(Version::V6),
        UDP if accept.kinds & ACCEPT_GUE != 0 => gue::open(frame, outer, accept.gue_port as u16),
        _ => Err(PassReason::NotAVip),
    }
}

const NOT_ECT: u8 = 0b00;
const ECT_1: u8 = 0b01;
const ECT_0: u8 = 0b10;
const CE: u8 = 0b11;

/// The inner packet's ECN field after the tunnel, by TOS or traffic class of both headers (RFC 6040, section 4.2).
/// `None` when the packet must be dropped: the tunnel met congestion and only a loss can say so.
#[must_use]
#[inline(always)]
pub const fn ecn(outer: u8, inner: u8) -> Option<u8> {
    match (outer & CE, inner & CE) {
        (CE, NOT_ECT) => None,
        (CE, _) => Some(CE),
        (ECT_1, ECT_0) => Some(ECT_1),
        (_, inner) => Some(inner),
    }
}

/// Writes the ECN field of an IPv4 header, and its checksum.
#[inline(always)]
pub fn set_ecn_v4(header: &mut [u8; 12], ecn: u8) {
    let old = be16::<0, _>(header);
    header[1] = header[1] & !CE | ecn;
    let sum = checksum::update(be16::<10, _>(header), old, be16::<0, _>(header));
    header[10..12].copy_from_slice(&sum.to_be_bytes());
}

/// Writes the ECN field of an IPv6 header.
#[inline(always)]
pub fn set_ecn_v6(header: &mut [u8; 2], ecn: u8) {
    header[1] = header[1] & !(CE << 4) | ecn << 4;
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 6040, figure 4: rows are the inner field, columns the outer one.
    #[test]
    fn the_table_of_rfc_6040() {
        for (inner, row) in [
            (NOT_ECT, [Some(NOT_ECT), Some(NOT_ECT), Some(NOT_ECT), None]),
            (ECT_0, [Some(ECT_0), Some(ECT_0), Some(ECT_1), Some(CE)]),
            (ECT_1, [Some(ECT_1), Some(ECT_1), Some(ECT_1), Some(CE)]),
            (CE, [Some(CE); 4]),
        ] {
            for (outer, wanted) in [NOT_ECT, ECT_0, ECT_1, CE].into_iter().zip(row) {
                assert_eq!(ecn(0xb8 | outer, 0x28 | inner), wanted, "{inner:02b} in {outer:02b}");
            }
        }
    }

    #[test]
    fn only_the_ecn_field_changes_and_the_checksum_with_it() {
        let mut header = [0x45, 0xb9, 0, 0x54, 0xbe, 0xef, 0x40, 0, 64, 1, 0, 0];
        let sum = !checksum::fold(checksum::sum(&header));
        header[10..].copy_from_slice(&sum.to_be_bytes());
        set_ecn_v4(&mut header, CE);
        assert_eq!((header[0], header[1], checksum::fold(checksum::sum(&header))), (0x45, 0xbb, 0xffff));
        let mut header = [0x6b, 0x9f];
        set_ecn_v6(&mut header, CE);
        assert_eq!(header, [0x6b, 0xbf]);
    }
}
