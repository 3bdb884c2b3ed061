//! Counters, all 64 bit, each CPU its own.
//!
//! Not in the kernel's per-CPU maps: each of their look-ups is a call on kernels before 6.10, and more instructions than
//! the counting after it; and the agent would read each with a system call. These are tables with a part for each CPU:
//!
//! ```text
//!   | CPU 0: element 0 .. n - 1 | CPU 1: ... |        every part a power of two, whole cache lines
//! ```

use bytemuck::{Pod, Zeroable};

use crate::reason::{DropReason, FlowEvent, PassReason, Reason as _};

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
            /// While packets are traced, why the last one ended: see [`Ended`].
            pub ended: u64,
            /// Zero: no two CPUs count in one cache line.
            pub reserved: [u64; padding(1 $(+ <$reason as crate::reason::Reason>::ALL.len())*)],
        }

        const _: () = assert!(size_of::<$name>().is_multiple_of(64));
    };
}

/// Why a packet ended, in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// In a tunnel.
    Forwarded,
    /// To the kernel, or answered.
    Passed(PassReason),
    /// Dropped.
    Dropped(DropReason),
}

impl Ended {
    /// The word: 0, or 256 times the kind plus the reason's index.
    #[must_use]
    #[inline(always)]
    pub const fn pack(self) -> u64 {
        match self {
            Self::Forwarded => 0,
            Self::Passed(reason) => 256 + reason as u64,
            Self::Dropped(reason) => 512 + reason as u64,
        }
    }

    /// From the word; `None` when it names no reason.
    #[must_use]
    pub fn unpack(word: u64) -> Option<Self> {
        let index = (word & 0xff) as usize;
        match word >> 8 {
            0 => Some(Self::Forwarded),
            1 => PassReason::ALL.get(index).copied().map(Self::Passed),
            2 => DropReason::ALL.get(index).copied().map(Self::Dropped),
            _ => None,
        }
    }
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
