//! From an address, a protocol and a port to a service id, in three dependent loads.
//!
//! ```text
//!  vips[bank][probe(address)] -> VipSlot { tcp_root, udp_root }
//!  ports[root][port >> 8]     -> page          (page 0: nothing here)
//!  ports[page][port & 255]    -> service id    (0: no service)
//! ```
//!
//! An exact port, a range and a whole address are the same three loads; a range covers whole pages with
//! one shared leaf. A VIP whose ports of a protocol are one or two ranges, as most are, carries them in its slot as
//! well, and the page loads are saved: what [`VipSlot::ranges`] says, the pages say too. VIP banks are rebuilt whole and switched by one store in [`crate::control::Control`];
//! pages are immutable while a live bank reaches them.

use bytemuck::{Pod, Zeroable};

/// How many neighbouring slots a lookup looks at. The builder picks a salt for which that is enough.
pub const MAX_PROBES: u32 = 8;

/// Slot is in use.
pub const VIP_USED: u32 = 1;
/// The VIP is balanced here: packets for no service are not the kernel's.
pub const VIP_BALANCED: u32 = 2;
/// Packets for no service go to the kernel (`unmatched: pass`).
pub const VIP_PASS_UNMATCHED: u32 = 4;
/// Tunnels may carry packets for this VIP to us.
pub const VIP_DECAP: u32 = 8;
/// Tunnels to pods of this node may carry packets for this VIP (`decap.translate`).
pub const VIP_POD: u32 = 16;

/// In [`VipSlot::fragments`]: every service of the protocol says `fragments: drop`.
pub const FRAGMENTS_REFUSED: u16 = u16::MAX;

/// Ports that go to one service: a shortcut to what the pages say.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct PortRange {
    /// First port.
    pub first: u16,
    /// Last port.
    pub last: u16,
    /// Service id; 0 in an unused range.
    pub service: u16,
    /// Zero.
    pub reserved: u16,
}

/// Ranges of one protocol that a slot has room for.
pub const RANGES: usize = 2;

/// One VIP. 64 bytes: a cache line.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct VipSlot {
    /// Network order; IPv4 as `::ffff:a.b.c.d`.
    pub address: [u8; 16],
    /// Root page of the TCP ports.
    pub tcp_root: u32,
    /// Root page of the UDP ports.
    pub udp_root: u32,
    /// `VIP_*` bits; 0 is an empty slot.
    pub flags: u32,
    /// Services that take the fragments of TCP and of UDP without looking at ports: those of addresses where all
    /// services of the protocol keep a client at one backend, and the same one. 0 where a table must tell;
    /// [`FRAGMENTS_REFUSED`].
    pub fragments: [u16; 2],
    /// Shortcuts of the TCP ports, then of the UDP ports.
    pub ranges: [[PortRange; RANGES]; 2],
}

const _: () = assert!(size_of::<VipSlot>() == 64);

/// Values per port page.
pub const PAGE_PORTS: usize = 256;

/// A root page (page numbers by the port's high byte) or a leaf page (service ids by its low byte). 512 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Pod, Zeroable)]
pub struct PortPage {
    /// Page number or service id.
    pub values: [u16; PAGE_PORTS],
}

const _: () = assert!(size_of::<PortPage>() == 512);

/// First slot to look at, before masking with the bank's size.
#[must_use]
#[inline(always)]
pub const fn probe_start(words: [u64; 2], salt: u32) -> u32 {
    let h = (words[0] ^ words[1].rotate_left(32) ^ ((salt as u64) << 24)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (h >> 40) as u32
}
