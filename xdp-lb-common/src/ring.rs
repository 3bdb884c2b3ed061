//! Ring slots: a 15-bit ring-local backend index and a dirty bit, changed by one 2-byte store.
//!
//! A clean slot decides alone. A dirty slot changed not long ago: flows older than the change are told
//! apart by the flow table and by `before`, the backend that the slot had when it was last clean.

use bytemuck::{Pod, Zeroable};

/// The slot changed and older flows may still belong elsewhere.
pub const DIRTY: u16 = 1 << 15;
/// A slot of an empty ring.
pub const NO_BACKEND: u16 = DIRTY - 1;

/// Four slots: BPF arrays round every element up to 8 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct RingWord {
    /// Slots `4 * index ..`.
    pub slots: [u16; 4],
}

const _: () = assert!(size_of::<RingWord>() == 8);

/// A slot's value as the ring holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot(pub u16);

impl Slot {
    /// A clean slot.
    #[must_use]
    pub const fn clean(local: u16) -> Self {
        Self(local & !DIRTY)
    }

    /// A dirty slot.
    #[must_use]
    pub const fn dirty(local: u16) -> Self {
        Self(local | DIRTY)
    }

    /// Ring-local backend index, or [`NO_BACKEND`].
    #[must_use]
    #[inline(always)]
    pub const fn backend(self) -> u16 {
        self.0 & !DIRTY
    }

    /// True while older flows may belong elsewhere.
    #[must_use]
    #[inline(always)]
    pub const fn is_dirty(self) -> bool {
        self.0 & DIRTY != 0
    }
}
