//! The backend side: which tunnels are taken off.
//!
//! A tunnel is ours when its inner destination is a VIP of this node; ours from a source that is not
//! allowed is dropped, or anyone could reach the VIP's server with any source address.

use bytemuck::{Pod, Zeroable};

use crate::parse::{IPIP, IPV6_IN_IP, Ip, Version, Words};

/// Most prefixes of one family.
pub const MAX_SOURCES: usize = 32;

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

/// Outer sources that may speak to us. The map holds two; the live one is `control.decap_bank`. 1288 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct AllowList {
    /// Prefixes used in `v4`.
    pub v4_count: u32,
    /// Prefixes used in `v6`.
    pub v6_count: u32,
    /// IPv4 prefixes.
    pub v4: [Prefix4; MAX_SOURCES],
    /// IPv6 prefixes.
    pub v6: [Prefix6; MAX_SOURCES],
}

const _: () = assert!(size_of::<AllowList>() == 8 + MAX_SOURCES * 40);

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

/// Version of the packet inside a tunnel; `None` when this is no tunnel that we take off.
#[must_use]
#[inline(always)]
pub const fn inner_version(outer: &Ip) -> Option<Version> {
    match outer.protocol {
        _ if outer.fragment => None,
        IPIP => Some(Version::V4),
        IPV6_IN_IP => Some(Version::V6),
        _ => None,
    }
}
