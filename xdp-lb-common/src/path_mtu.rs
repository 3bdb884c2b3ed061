//! What routers say of our tunnels (RFC 1191, RFC 8201): the packet path notes it, the agent believes it or not.
//!
//! A few places, by a hash of the backend: two backends that share one take turns, since routers repeat themselves for
//! as long as packets do not fit. Whoever may send us packets may write here; so the agent looks whether the tunnel
//! was one of ours before it believes anything.

use bytemuck::{Pod, Zeroable};

use crate::parse::Words;

/// Places for notes, a power of two.
pub const PLACES: u32 = 256;

/// The last word of a router on the way to one backend. 48 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct PathMtu {
    /// Jiffies at which the rest was written; 0 while it is not there. Written first as 0 and last as it is: who reads
    /// the same before and after has read one note.
    pub stamp: u64,
    /// Outer destination: the backend. IPv4 as `::ffff:a.b.c.d`.
    pub backend: [u8; 16],
    /// Outer source.
    pub source: [u8; 16],
    /// MTU of the link in bytes; 0 from routers older than RFC 1191.
    pub mtu: u32,
    /// Where the tunnel's UDP went to, GUE perhaps; 0 for IP in IP.
    pub port: u32,
}

const _: () = assert!(size_of::<PathMtu>() == 48);

/// The place for notes about `backend`.
#[must_use]
#[inline(always)]
pub const fn place(backend: Words) -> u32 {
    let mixed = (backend[0] ^ backend[1].rotate_left(17)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 32) as u32 % PLACES
}
