//! The one element of the `control` map: what the packet path reads to find the tables, and what a
//! restarted agent or a CLI without an agent reads to understand them.

use bytemuck::{Pod, Zeroable};

/// Layout and meaning of all map values. An agent that finds another number does not touch the maps: one of layout 3
/// would change a shared ring once for each service on it.
pub const LAYOUT: u32 = 5;

/// Node-wide state. 64 bytes; only the banks and the generation change while the program runs.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Pod, Zeroable)]
pub struct Control {
    /// Live VIP bank and its probe salt, switched by one 4-byte store; see [`VipBank`].
    pub vip_bank: u32,
    /// [`LAYOUT`] of the agent that made the maps.
    pub layout: u32,
    /// Copy of the program's constants, for those who read the maps without it.
    pub seed: u64,
    /// Slots of one VIP bank minus one.
    pub vip_mask: u32,
    /// Sets of the flow table minus one.
    pub flow_set_mask: u32,
    /// Jiffies to flow-table ticks.
    pub tick_shift: u32,
    /// Jiffies to admission seconds.
    pub second_shift: u32,
    /// Jiffies a second, as calibrated when the maps were made.
    pub hz: u32,
    /// Configuration generation applied last.
    pub generation: u32,
    /// Live element of `decap_sources`: 0 or 1.
    pub decap_bank: u32,
    /// Largest segments that a backend's node offers: [`crate::mss::Limits`].
    pub mss: u32,
    /// Zero.
    pub reserved: [u32; 4],
}

const _: () = assert!(size_of::<Control>() == 64);

/// Decoded form of [`Control::vip_bank`].
///
/// ```text
///   31     24 23                    0
///  | salt    | first slot of the bank |      0 or the number of slots, a power of two
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VipBank {
    /// 0 or 1.
    pub bank: u32,
    /// Salt of the probe hash, 8 bits.
    pub salt: u32,
}

/// Bits of a slot's number.
const SLOT_BITS: u32 = 24;

impl VipBank {
    /// From the map's word; `slots` of a bank.
    #[must_use]
    #[inline(always)]
    pub const fn unpack(word: u32, slots: u32) -> Self {
        Self { bank: (word & slots != 0) as u32, salt: word >> SLOT_BITS }
    }

    /// First slot of the bank that the map's word names.
    #[must_use]
    #[inline(always)]
    pub const fn first(word: u32, slots: u32) -> u32 {
        word & slots
    }

    /// To the map's word; at most 2^23 `slots`.
    #[must_use]
    pub const fn pack(self, slots: u32) -> u32 {
        ((self.bank & 1) * slots) | (self.salt << SLOT_BITS)
    }
}
