//! Flow entries: eight bytes each, eight to a cache line, read and written by plain stores.
//!
//! ```text
//!   63     62        52 51         40 39          26 25               0
//!  |closing| expiry tick | ring-local  | service id  | tag: low hash bits |
//!  | 1 bit | 11 bits     | backend 12  | 14 bits     | 26 bits            |
//! ```
//!
//! An entry says when it expires, not when it was last seen: services with different timeouts share the
//! table, and whether a way is free needs no look at its service. Ticks are modular: an entry is live
//! while its expiry lies 1..=[`MAX_TTL`] ticks ahead, so the agent must sweep expired entries within
//! `2048 - MAX_TTL` ticks.
//!
//! A false match needs equal service, set and 26 bits of tag: 8 * 2^-26 for a full set, about one new flow
//! in eight million. It also has the same slot, since the slot is a function of the tag; so it can only
//! differ from its own choice while that slot is dirty.

use bytemuck::{Pod, Zeroable};

use crate::hash::{FlowHash, TAG_BITS, TAG_MASK};

/// Ways of a set.
pub const WAYS: usize = 8;
/// Longest time to live in ticks.
pub const MAX_TTL: u16 = 1920;
/// Ticks are counted modulo this.
pub const TICKS: u16 = 1 << 11;

const SERVICE_SHIFT: u32 = TAG_BITS;
const SERVICE_MASK: u64 = (1 << 14) - 1;
const BACKEND_SHIFT: u32 = SERVICE_SHIFT + 14;
const BACKEND_MASK: u64 = (1 << 12) - 1;
const EXPIRY_SHIFT: u32 = BACKEND_SHIFT + 12;
const EXPIRY_MASK: u64 = (TICKS - 1) as u64;
const CLOSING: u64 = 1 << 63;
const KEY_MASK: u64 = (1 << BACKEND_SHIFT) - 1;

/// A set of the flow table: one cache line.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct FlowSet {
    /// [`FlowEntry`] words; 0 is empty.
    pub entries: [u64; WAYS],
}

const _: () = assert!(size_of::<FlowSet>() == 64);

/// New flows remembered in the running second: the second in the high half, the count in the low.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Admission {
    /// `second << 32 | count`.
    pub second_count: u64,
}

/// What makes two packets the same flow, inside one set: service and tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowKey(u64);

impl FlowKey {
    /// Of a service id (1..=16383) and a hash.
    #[must_use]
    #[inline(always)]
    pub const fn new(service: u16, hash: FlowHash) -> Self {
        Self((service as u64 & SERVICE_MASK) << SERVICE_SHIFT | hash.tag())
    }

    /// All ones when `entry` is this flow, else 0: a set is searched without branches.
    #[must_use]
    #[inline(always)]
    pub const fn match_mask(self, entry: u64) -> u64 {
        // The key has 40 bits, so the difference minus one is negative for 0 alone.
        ((((entry ^ self.0) & KEY_MASK) as i64).wrapping_sub(1) >> 63) as u64
    }
}

/// One remembered flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowEntry(pub u64);

impl FlowEntry {
    /// An entry of `key` for the ring-local `backend` until tick `expiry`.
    #[must_use]
    #[inline(always)]
    pub const fn new(key: FlowKey, backend: u16, expiry: u16, closing: bool) -> Self {
        let closing = if closing { CLOSING } else { 0 };
        Self(
            key.0
                | (backend as u64 & BACKEND_MASK) << BACKEND_SHIFT
                | (expiry as u64 & EXPIRY_MASK) << EXPIRY_SHIFT
                | closing,
        )
    }

    /// Low hash bits.
    #[must_use]
    #[inline(always)]
    pub const fn tag(self) -> u64 {
        self.0 & TAG_MASK
    }

    /// Service id; 0 only in an empty way.
    #[must_use]
    #[inline(always)]
    pub const fn service(self) -> u16 {
        (self.0 >> SERVICE_SHIFT & SERVICE_MASK) as u16
    }

    /// Ring-local backend.
    #[must_use]
    #[inline(always)]
    pub const fn backend(self) -> u16 {
        (self.0 >> BACKEND_SHIFT & BACKEND_MASK) as u16
    }

    /// Tick at which the entry expires, modulo [`TICKS`].
    #[must_use]
    #[inline(always)]
    pub const fn expiry(self) -> u16 {
        (self.0 >> EXPIRY_SHIFT & EXPIRY_MASK) as u16
    }

    /// A FIN or RST was seen and no data since.
    #[must_use]
    #[inline(always)]
    pub const fn is_closing(self) -> bool {
        self.0 & CLOSING != 0
    }

    /// Ticks left; 0 or more than [`MAX_TTL`] means expired.
    #[must_use]
    #[inline(always)]
    pub const fn remaining(self, now: u16) -> u16 {
        self.expiry().wrapping_sub(now) & (TICKS - 1)
    }

    /// True when the way may be taken: empty or expired.
    #[must_use]
    #[inline(always)]
    pub const fn is_free(self, now: u16) -> bool {
        self.0 == 0 || self.remaining(now).wrapping_sub(1) >= MAX_TTL
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_do_not_touch_each_other() {
        for (service, backend, expiry, closing) in
            [(1, 0, 0, false), (16_383, 4095, 2047, true), (1, 4095, 0, true), (16_383, 0, 2047, false)]
        {
            let hash = FlowHash(0xffff_ffff_ffff_ffff);
            let e = FlowEntry::new(FlowKey::new(service, hash), backend, expiry, closing);
            assert_eq!(
                (e.service(), e.backend(), e.expiry(), e.is_closing()),
                (service, backend, expiry, closing)
            );
            assert_eq!(e.tag(), hash.tag());
        }
    }

    #[test]
    fn match_needs_service_and_tag_alone() {
        let key = FlowKey::new(7, FlowHash(99));
        assert_eq!(key.match_mask(FlowEntry::new(key, 4095, 2047, true).0), u64::MAX);
        assert_eq!(key.match_mask(FlowEntry::new(FlowKey::new(8, FlowHash(99)), 0, 0, false).0), 0);
        assert_eq!(key.match_mask(FlowEntry::new(FlowKey::new(7, FlowHash(98)), 0, 0, false).0), 0);
        assert_eq!(key.match_mask(0), 0);
    }

    #[test]
    fn life_is_modular() {
        let key = FlowKey::new(1, FlowHash(1));
        for now in [0u16, 1, 1000, 2047] {
            let at = |ahead: u16| FlowEntry::new(key, 0, now.wrapping_add(ahead), false);
            assert!(at(0).is_free(now), "expires now");
            assert!(!at(1).is_free(now));
            assert!(!at(MAX_TTL).is_free(now));
            assert!(at(MAX_TTL + 1).is_free(now), "beyond the longest life is the past");
            assert!(at(2047).is_free(now), "expired one tick ago");
        }
        assert!(FlowEntry(0).is_free(2047));
    }
}
