//! Counters, all 64 bit, each CPU its own.
//!
//! Not in the kernel's per-CPU maps: each of their look-ups is a call on kernels before 6.10, and more instructions than
//! the counting after it; and the agent would read each with a system call. These are tables with a part for each CPU:
//!
//! ```text
//!   | CPU 0: element 0 .. n - 1 | CPU 1: ... |        every part a power of two, whole cache lines
//! ```

use bytemuck::{Pod, Zeroable};

use crate::reason::{DropReason, FlowEvent, PassReason};

/// `stats_base` of a service that got no counters of its own: outside every map.
pub const NO_STATS: u32 = 1 << 31;

/// Packets and bytes. 16 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Traffic {
    /// Packets forwarded.
    pub packets: u64,
    /// Bytes of the inner IP packets forwarded.
    pub bytes: u64,
}

macro_rules! counters {
    ($(#[$doc:meta])* $name:ident { $($group:ident: $reason:ty,)* }) => {
        $(#[$doc])*
        #[repr(C)]
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
        pub struct $name { $(
            #[doc = concat!("By [`", stringify!($reason), "`].")]
            pub $group: <$reason as crate::reason::Reason>::Counts,
        )*
            /// Zero: no two CPUs count in one cache line.
            pub reserved: [u64; padding(0 $(+ <$reason as crate::reason::Reason>::ALL.len())*)],
        }

        const _: () = assert!(size_of::<$name>().is_multiple_of(64));
    };
}

/// Words that fill `words` up to whole cache lines.
const fn padding(words: usize) -> usize {
    words.next_multiple_of(8) - words
}

counters! {
    /// Every packet that was not forwarded, every echo answered, and what the flow table did.
    Counters {
        drops: DropReason,
        passes: PassReason,
        flows: FlowEvent,
    }
}
