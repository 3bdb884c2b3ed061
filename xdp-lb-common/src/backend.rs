//! A member of a ring: where its tunnel ends and the header that gets a packet there.
//!
//! Like a service it holds two templates and one switch: a next hop that moves is never seen half-written.

use bytemuck::{Pod, Zeroable};

/// Most members of a ring: 12 bits of a flow entry.
pub const MAX_MEMBERS: u32 = 1 << 12;

/// Entry is in use.
pub const BACKEND_USED: u32 = 1;
/// Remembered flows and flows older than a change may still go there: up or draining.
pub const BACKEND_ALIVE: u32 = 2;
/// Takes no new flows; for those who read the maps.
pub const BACKEND_DRAINING: u32 = 4;

/// No next hop: packets are dropped and counted.
pub const KIND_UNRESOLVED: u8 = 0;
/// An IPv4 header.
pub const KIND_IPV4: u8 = 1;
/// An IPv6 header.
pub const KIND_IPV6: u8 = 2;
/// This node is the backend: the inner packet goes up the stack as it is.
pub const KIND_LOCAL: u8 = 3;
/// An IPv4 header, UDP and a GUE header (variant 0). Where the length goes, the template holds the UDP port.
pub const KIND_GUE_IPV4: u8 = 4;
/// An IPv6 header, UDP and a GUE header (variant 0). Where the length goes, the template holds the UDP port.
pub const KIND_GUE_IPV6: u8 = 5;
/// An IPv4 header and UDP (GUE variant 1). Where the length goes, the template holds the UDP port.
pub const KIND_GUE1_IPV4: u8 = 6;
/// An IPv6 header and UDP (GUE variant 1). Where the length goes, the template holds the UDP port.
pub const KIND_GUE1_IPV6: u8 = 7;

/// Longest header: Ethernet and IPv6.
pub const HEADER_LEN: usize = 54;

/// A prebuilt header. 64 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Template {
    /// Ethernet and IPv4 (34 bytes used) or IPv6 (54). The IPv4 checksum field holds the folded sum, not
    /// complemented, of the constant header fields; length, TOS and host bits of the source are zero.
    /// The inner protocol (4 or 41) is filled in by the packet path.
    pub bytes: [u8; HEADER_LEN],
    /// 63 minus the low bits of the source address that come from the flow: 0..=32 for IPv4, 0..=63 for IPv6.
    pub source_shift: u8,
    /// `KIND_*`.
    pub kind: u8,
    /// Bits of the inner TOS that are copied: 0xff copies DSCP and ECN, 0x03 only ECN.
    pub tos_keep: u8,
    /// Bits of TOS that are set.
    pub tos_set: u8,
    /// Longest inner packet in bytes.
    pub max_inner: u16,
    /// Interface that the packet leaves by.
    pub ifindex: u32,
}

const _: () = assert!(size_of::<Template>() == 64);

impl Template {
    /// True when packets leave in a tunnel.
    #[must_use]
    pub const fn is_tunnel(&self) -> bool {
        !matches!(self.kind, KIND_UNRESOLVED | KIND_LOCAL)
    }
}

/// A member of a ring. 192 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Backend {
    /// Which of `templates` is live: 0 or 1.
    pub live: u32,
    /// `BACKEND_*` bits.
    pub state: u32,
    /// Where the tunnel ends; IPv4 as `::ffff:a.b.c.d`.
    pub address: [u8; 16],
    /// When `state` last changed, seconds since 1970: a drain's deadline survives the agent.
    pub since: u64,
    /// Length of the block of members that starts here; 0 in all but its first entry.
    pub block_len: u32,
    /// Zero.
    pub reserved: [u8; 28],
    /// The live header and the next one.
    pub templates: [Template; 2],
}

const _: () = assert!(size_of::<Backend>() == 192);

impl Backend {
    /// The template that packets get.
    #[must_use]
    #[inline(always)]
    pub fn template(&self) -> &Template {
        // A branch, not an index: the CPU predicts it and goes on without waiting for `live`.
        if self.live & 1 == 0 { &self.templates[0] } else { &self.templates[1] }
    }
}
