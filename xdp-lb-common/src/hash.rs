//! The flow hash: 64 seeded bits from which slot, flow-table set and tag are cut.
//!
//! Multiply and fold, two rounds deep; no 128-bit product (BPF has none). It is not cryptographic:
//! what an attacker gains by finding collisions is load on one backend of one service, and the seed
//! (configuration shared by the edge nodes) keeps them from doing so offline.
//!
//! ```text
//!   63                    32 31        26 25                       0
//!  | high: flow-table set   |            | tag: flow-table tag, slot |
//! ```
//!
//! The slot is a function of the tag, so that whoever reads a flow entry can say which slot it is in.

use crate::parse::{Addresses, Version};

/// Bits of the tag.
pub const TAG_BITS: u32 = 26;
/// The tag's bits.
pub const TAG_MASK: u64 = (1 << TAG_BITS) - 1;

const K0: u64 = 0x9e37_79b9_7f4a_7c15;
const K1: u64 = 0xbf58_476d_1ce4_e5b9;
const K2: u64 = 0x94d0_49bb_1331_11eb;

/// A flow's hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FlowHash(pub u64);

impl FlowHash {
    /// The part that a flow entry stores.
    #[must_use]
    #[inline(always)]
    pub const fn tag(self) -> u64 {
        self.0 & TAG_MASK
    }

    /// Index of the flow-table set; `set_mask` is the number of sets minus one, a power of two minus one.
    #[must_use]
    #[inline(always)]
    pub const fn set(self, set_mask: u32) -> u32 {
        (self.0 >> 32) as u32 & set_mask
    }

    /// Bits that no other decision uses: outer source, flow label, tie breaks.
    #[must_use]
    #[inline(always)]
    pub const fn entropy(self) -> u64 {
        self.0.rotate_left(23)
    }

    /// The ring slot.
    #[must_use]
    #[inline(always)]
    pub const fn slot(self, table_size: u32) -> u32 {
        slot_of_tag(self.tag(), table_size)
    }
}

/// The ring slot of a flow-table tag: multiply-shift, uneven by at most 0.2 % at 131071 slots.
#[must_use]
#[inline(always)]
pub const fn slot_of_tag(tag: u64, table_size: u32) -> u32 {
    ((tag * table_size as u64) >> TAG_BITS) as u32
}

/// One round: every bit of `x` reaches the low half of the result.
#[must_use]
#[inline(always)]
pub const fn fold(x: u64, k: u64) -> u64 {
    let m = x.wrapping_mul(k);
    m ^ (m >> 32)
}

/// A strong mix of one word (the finalizer of SplitMix64): slots, gates and draws of the control plane.
#[must_use]
pub const fn mix(x: u64) -> u64 {
    let x = (x ^ (x >> 30)).wrapping_mul(K1);
    let x = (x ^ (x >> 27)).wrapping_mul(K2);
    x ^ (x >> 31)
}

/// Hash of an address pair and the ports. `addresses` folds both addresses (see [`v4_addresses`],
/// [`v6_addresses`]); `rest` holds ports and protocol, or 0 where the affinity ignores them.
#[must_use]
#[inline(always)]
pub const fn flow(seed: u64, addresses: u64, rest: u64) -> FlowHash {
    FlowHash(fold(fold(addresses ^ seed, K0) ^ rest, K1))
}

/// Source and destination of an IPv4 packet, 4 bytes each in network order.
#[must_use]
#[inline(always)]
pub const fn v4_addresses(source: [u8; 4], destination: [u8; 4]) -> u64 {
    (u32::from_le_bytes(source) as u64) << 32 | u32::from_le_bytes(destination) as u64
}

/// Source and destination of an IPv6 packet as little-endian words of the network-order bytes.
/// The seed goes in before the first product, or colliding addresses could be found offline.
#[must_use]
#[inline(always)]
pub const fn v6_addresses(seed: u64, source: [u64; 2], destination: [u64; 2]) -> u64 {
    let s = fold(fold(source[0] ^ seed, K1) ^ source[1], K2);
    let d = fold(fold(destination[0] ^ seed, K2) ^ destination[1], K0);
    s ^ d.rotate_left(32)
}

/// Ports ([`crate::parse::Ports::pair`]) and the protocol as the second word of [`flow`]. The ports are
/// the low half: what a product does not carry down, it carries up, and the fold brings it back.
#[must_use]
#[inline(always)]
pub const fn ports(pair: u32, protocol: u8) -> u64 {
    (protocol as u64) << 32 | pair as u64
}

/// The hash of a packet's flow: the five-tuple, or the source address alone where the affinity says so.
#[must_use]
#[inline(always)]
pub const fn packet(seed: u64, addresses: &Addresses, protocol: u8, ports: u32, client_ip: bool) -> FlowHash {
    let to = if client_ip { [0, 0] } else { addresses.destination };
    let pair = match addresses.version {
        Version::V4 => addresses.source[1] & !0xffff_ffff | to[1] >> 32,
        Version::V6 => v6_addresses(seed, addresses.source, to),
    };
    flow(seed, pair, if client_ip { 0 } else { self::ports(ports, protocol) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse::Ports;
    use std::vec;

    /// Two flows of one service that share set and tag are one flow to the table: as rare as chance would have it,
    /// also among the flows of few clients with many ports, whose inputs differ in few bits.
    #[test]
    fn set_and_tag_together_tell_flows_apart() {
        for (clients, per_client) in [(4u32, 60_000u16), (4_000, 60), (240_000, 1)] {
            let mut seen = std::collections::HashSet::new();
            let mut same = 0;
            for client in 0..clients {
                let addresses = v4_addresses((0x0a00_0000 + client).to_be_bytes(), [203, 0, 113, 10]);
                for port in 0..per_client {
                    let h = flow(11, addresses, ports(Ports::pair_of(1024 + port, 5060), 17));
                    same += u32::from(!seen.insert((h.set((1 << 17) - 1), h.tag())));
                }
            }
            // 240 000 flows in 2^43 places: 0.003 expected.
            assert!(same <= 1, "{clients} clients: {same} pairs");
        }
    }

    /// Chi-square-like check that slots fill evenly for the flows people test with: one client, counting ports.
    #[test]
    fn counting_ports_fill_slots_evenly() {
        for seed in [0, 1, 0xdead_beef_0bad_cafe] {
            let mut hits = vec![0u32; 251];
            for port in 0..50_000u16 {
                let h = flow(
                    seed,
                    v4_addresses([10, 0, 0, 1], [203, 0, 113, 10]),
                    ports(Ports::pair_of(port, 5060), 17),
                );
                hits[h.slot(251) as usize] += 1;
            }
            let mean = 50_000.0 / 251.0;
            let chi: f64 = hits.iter().map(|&n| (f64::from(n) - mean).powi(2) / mean).sum();
            // 250 degrees of freedom: mean 250, deviation 22.
            assert!(chi < 360.0, "seed {seed:#x}: chi-square {chi}");
        }
    }

    #[test]
    fn counting_clients_fill_sets_evenly() {
        let mut hits = vec![0u32; 256];
        for n in 0..65_536u32 {
            let h = flow(
                7,
                v4_addresses((0x0a00_0000 + n).to_be_bytes(), [203, 0, 113, 10]),
                ports(Ports::pair_of(40_000, 80), 6),
            );
            hits[h.set(255) as usize] += 1;
        }
        let chi: f64 = hits.iter().map(|&n| (f64::from(n) - 256.0).powi(2) / 256.0).sum();
        assert!(chi < 370.0, "chi-square {chi}");
    }

    #[test]
    fn every_input_bit_moves_half_of_the_output() {
        let base = flow(3, 0x1234_5678_9abc_def0, 0x1_0002_0006);
        for bit in 0..64 {
            let other = flow(3, 0x1234_5678_9abc_def0 ^ (1 << bit), 0x1_0002_0006);
            let changed = (base.0 ^ other.0).count_ones();
            assert!((14..=50).contains(&changed), "address bit {bit}: {changed}");
        }
        for bit in 0..48 {
            let other = flow(3, 0x1234_5678_9abc_def0, 0x1_0002_0006 ^ (1 << bit));
            let changed = (base.0 ^ other.0).count_ones();
            assert!((14..=50).contains(&changed), "port bit {bit}: {changed}");
        }
    }

    #[test]
    fn the_slot_is_recoverable_from_the_tag() {
        for i in 0..10_000u64 {
            let h = FlowHash(mix(i));
            assert_eq!(h.slot(65_537), slot_of_tag(h.tag(), 65_537));
            assert!(h.slot(65_537) < 65_537);
        }
    }
}
