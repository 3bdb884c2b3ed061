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
/// A pod of this node: the inner packet becomes the pod's and goes up the stack. Nothing fits such a tunnel, so that the
/// packet path finds out where it looks at what is too big.
pub const KIND_POD: u8 = 8;

/// Bit of [`Template::ifindex`]: the packet leaves with the template's own tag, in place of those it came with.
pub const TAGGED: u32 = 1 << 31;
/// In place of a tag: the packet leaves without any.
pub const NO_TAG: [u8; 4] = [0; 4];

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
    /// Interface that the packet leaves by, and perhaps [`TAGGED`].
    pub ifindex: u32,
}

const _: () = assert!(size_of::<Template>() == 64);

/// Place of the tag in a template with an IPv4 header.
const V4_TAG: usize = 34;
/// Place of the tag in a template with an IPv6 header: version, traffic class and flow label.
const V6_TAG: usize = 14;

impl Template {
    /// True when packets leave in a tunnel.
    #[must_use]
    pub const fn is_tunnel(&self) -> bool {
        !matches!(self.kind, KIND_UNRESOLVED | KIND_LOCAL | KIND_POD)
    }

    /// Index of the interface that the packet leaves by.
    #[must_use]
    #[inline(always)]
    pub const fn leaves_by(&self) -> u32 {
        self.ifindex & !TAGGED
    }

    /// The VLAN tag that the packet leaves with whatever it came with, protocol and control information in the order of
    /// the wire, or [`NO_TAG`].
    #[must_use]
    pub const fn tag(&self) -> Option<[u8; 4]> {
        if self.ifindex & TAGGED != 0 { Some(self.tag_bytes()) } else { None }
    }

    /// Has the packet leave with this tag.
    #[must_use]
    pub fn with_tag(mut self, tag: [u8; 4]) -> Self {
        let at = self.tag_place();
        self.bytes[at..at + 4].copy_from_slice(&tag);
        Self { ifindex: self.ifindex | TAGGED, ..self }
    }

    /// What stands where a tag does, if there is one.
    #[must_use]
    #[inline(always)]
    pub const fn tag_bytes(&self) -> [u8; 4] {
        let b = &self.bytes;
        if self.tag_place() == V4_TAG { [b[34], b[35], b[36], b[37]] } else { [b[14], b[15], b[16], b[17]] }
    }

    /// Behind an IPv4 header, or where an IPv6 header begins, which the packet path writes anew for every packet: the two
    /// places of which nothing is copied.
    #[inline(always)]
    const fn tag_place(&self) -> usize {
        if matches!(self.kind, KIND_IPV6 | KIND_GUE_IPV6 | KIND_GUE1_IPV6) { V6_TAG } else { V4_TAG }
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
