//! Who may speak to a service: the keys of the `source_ranges` map, a longest-prefix-match trie.
//!
//! ```text
//!  | prefix_len | service: 32 bits, always whole | address: IPv4 as ::ffff:a.b.c.d |
//!                 0                             32                              160   bits that prefix_len counts
//! ```
//!
//! A service with ranges has a key for each family as a whole: what happens to clients that no range names. So a lookup
//! that finds nothing belongs to a service whose ranges are not there, and lets nobody in.

use bytemuck::{Pod, Zeroable};

use crate::parse::Words;

/// Value of a prefix that is let in.
pub const ALLOW: u32 = 1;
/// Value of a prefix that is kept out.
pub const DENY: u32 = 2;

/// Bits of a key in front of the address.
pub const SERVICE_BITS: u32 = 32;
/// Bits of the longest key.
pub const KEY_BITS: u32 = SERVICE_BITS + 128;
/// Bits of an address in front of an IPv4 one.
pub const MAPPED_BITS: u32 = 96;

/// A prefix of one service's clients. 24 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Pod, Zeroable)]
pub struct SourceKey {
    /// Bits of what follows that count: 32..=160.
    pub prefix_len: u32,
    /// Service id.
    pub service: u32,
    /// First address of the prefix in network order.
    pub address: [u8; 16],
}

const _: () = assert!(size_of::<SourceKey>() == 24);

impl SourceKey {
    /// The key that a client is looked up with.
    #[must_use]
    #[inline(always)]
    pub const fn of(service: u16, client: Words) -> Self {
        let [a, b] = client;
        // Written as two words: array by array it would be sixteen stores.
        let address = (a as u128 | (b as u128) << 64).to_le_bytes();
        Self { prefix_len: KEY_BITS, service: service as u32, address }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse::{v4_words, words};

    #[test]
    fn clients_are_keys_in_network_order() {
        let key = SourceKey::of(7, v4_words([198, 51, 100, 7]));
        assert_eq!((key.prefix_len, key.service), (160, 7));
        assert_eq!(key.address, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 198, 51, 100, 7]);
        let address: [u8; 16] = core::array::from_fn(|i| i as u8);
        assert_eq!(SourceKey::of(1, words(&address)).address, address);
    }
}
