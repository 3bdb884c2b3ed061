//! Gates: a change of one backend moves nobody else.
//!
//! Every slot prefers the members in an order of its own: its home, then what a fixed sequence of draws
//! from the home table names, then the members by a weighted hash. The slot's backend is the first whose
//! gate is open *for this slot*. A gate's opening is the member's [`Share`]; which slots find it open is a
//! hash of slot and member, so a gate that opens further only ever adds slots.
//!
//! ```text
//!  slot --> home[slot], home[draw 1], .. home[draw 64] | heaviest hash among the open | among the ajar
//!             closed      closed          OPEN: this one
//! ```
//!
//! Each step looks at one member alone, or compares numbers that each depend on one member alone. That is
//! the whole proof: if one member's share changes, a slot goes to it, or leaves it, or stays.
//! The planner calls this on every change of a state or a share; it is a pure function of the table
//! and the shares, so edge nodes that agree on those agree on the ring.

use xdp_lb_common::hash::mix;
use xdp_lb_common::ring::NO_BACKEND;

use crate::maglev::{MaglevTable, Member, scale};
use crate::model::{AdminState, Share};

/// Draws before the search turns to comparing all open members.
///
/// A draw costs 2 to 3 ns and finds an open member as often as the open part of all weight; comparing costs
/// that much per ajar member. Measured with 1000 members and 65537 slots: with a tenth of them open 8 draws
/// need 37 ms, 32 and more 3 to 4; with a hundredth 37, 16 (32 and 64 draws) and 20 (256).
const DRAWS: u64 = 64;

const SLOT_STEP: u64 = 0x9e37_79b9_7f4a_7c15;
const GATE: u64 = 0x6761_7465_0000_0001;
const RANK: u64 = 0x7261_6e6b_0000_0001;

/// The gate of a backend in an administrative state: only an active one takes slots.
#[must_use]
pub fn opening(state: AdminState, share: Share) -> Share {
    match state {
        AdminState::Active => share,
        AdminState::Drain | AdminState::DrainBy(_) | AdminState::Down => Share::NONE,
    }
}

/// The member position of every slot under the given shares: always [`MaglevTable::size`] entries, all
/// [`NO_BACKEND`] when no member with a weight has a share.
#[must_use]
pub fn assign(table: &MaglevTable, share: impl Fn(&Member) -> Share) -> Vec<u16> {
    let gates = Gates::new(table, share);
    match gates.ajar[..] {
        [] => vec![NO_BACKEND; table.size().get() as usize],
        // What the search would find, slot by slot, after all its draws.
        [only] => vec![only; table.size().get() as usize],
        _ => (0u32..).zip(table.home()).map(|(slot, &home)| gates.choose(slot, home)).collect(),
    }
}

/// The gates of one ring.
struct Gates<'a> {
    table: &'a MaglevTable,
    /// Opening by position; 0 for a member without weight.
    openings: Vec<u32>,
    /// Positions whose gate is open for some slot.
    ajar: Vec<u16>,
    seed: u64,
}

impl<'a> Gates<'a> {
    fn new(table: &'a MaglevTable, share: impl Fn(&Member) -> Share) -> Self {
        let opening = |member: &Member| if member.weight == 0 { 0 } else { share(member).get() };
        let openings: Vec<u32> = table.members().iter().map(opening).collect();
        let ajar = (0u16..).zip(&openings).filter(|&(_, &o)| o > 0).map(|(position, _)| position).collect();
        Self { table, openings, ajar, seed: mix(table.seed() ^ 0x6472_6177_0000_0001) }
    }

    #[inline]
    fn choose(&self, slot: u32, home: u16) -> u16 {
        if self.openings[usize::from(home)] == Share::FULL.get() { home } else { self.search(slot, home) }
    }

    fn search(&self, slot: u32, home: u16) -> u16 {
        let slot_word = mix(self.seed.wrapping_add(u64::from(slot).wrapping_mul(SLOT_STEP)));
        if self.is_open(slot_word, home) {
            return home;
        }
        let homes = self.table.home();
        for draw in 1..=DRAWS {
            let at =
                scale(mix(slot_word.wrapping_add(draw.wrapping_mul(SLOT_STEP))), self.table.size().get());
            let drawn = homes[at as usize];
            if self.is_open(slot_word, drawn) {
                return drawn;
            }
        }
        let weight = |position: u16| u64::from(self.table.members()[usize::from(position)].weight);
        self.highest(
            slot_word,
            |position| {
                if self.is_open(slot_word, position) { weight(position) } else { 0 }
            },
        )
        // Nobody is open here, but the service lives: better a backend that is ramping up than a drop.
        // The share counts as weight, so that a canary next to a half-open backend stays a canary.
        .or_else(|| {
            self.highest(slot_word, |position| {
                weight(position) * u64::from(self.openings[usize::from(position)])
            })
        })
        .unwrap_or(NO_BACKEND)
    }

    #[inline]
    fn is_open(&self, slot_word: u64, position: u16) -> bool {
        let opening = self.openings[usize::from(position)];
        // The two ends, nearly every gate, need no hash.
        opening == Share::FULL.get() || opening != 0 && self.gate_hash(slot_word, position) < opening
    }

    /// 16 bits that say how far the gate must open for this slot.
    fn gate_hash(&self, slot_word: u64, position: u16) -> u32 {
        (mix(self.table.keys()[usize::from(position)] ^ slot_word ^ GATE) >> 48) as u32
    }

    /// Weighted highest random weight (rendezvous) among the ajar members whose weight is not 0: the
    /// largest `weight / -log2(u)` with `u` uniform wins with a probability proportional to its weight.
    /// Ties go to the first by address. Weights are below 2^32.
    fn highest(&self, slot_word: u64, weight: impl Fn(u16) -> u64) -> Option<u16> {
        let mut best: Option<(u16, u64, u64)> = None;
        for &position in &self.ajar {
            let weight = weight(position);
            if weight == 0 {
                continue;
            }
            let hash = mix(self.table.keys()[usize::from(position)] ^ slot_word ^ RANK);
            // weight / cost > best_weight / best_cost, without dividing: 32 + 31 bits.
            let beats = |cost: u64| {
                best.is_none_or(|(_, best_weight, best_cost)| weight * best_cost > best_weight * cost)
            };
            // The bound spares nearly every member the logarithm.
            if beats(at_least(hash)) {
                let cost = neg_log2(hash);
                if beats(cost) {
                    best = Some((position, weight, cost));
                }
            }
        }
        best.map(|(position, ..)| position)
    }
}

/// `-log2(hash / 2^64)` in units of 2^-24, from 1 to 64 * 2^24. Integers: every platform must agree to the bit.
pub(crate) fn neg_log2(hash: u64) -> u64 {
    let hash = hash | 1;
    let zeros = hash.leading_zeros();
    // 1 <= mantissa / 2^31 < 2; squaring it yields one bit of the logarithm after the other.
    let mut mantissa = hash << zeros >> 32;
    let mut fraction = 0;
    for _ in 0..24 {
        mantissa = (mantissa * mantissa) >> 31;
        let bit = mantissa >> 32;
        mantissa >>= bit;
        fraction = fraction << 1 | bit;
    }
    (u64::from(zeros + 1) << 24) - fraction
}

/// A lower bound of [`neg_log2`] without the loop: `-log2(u) >= (1 - u) / ln 2`, and 1.4423 < 1 / ln 2.
fn at_least(hash: u64) -> u64 {
    ((!hash >> 40) * 1477) >> 10
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::TableSize;
    use std::net::IpAddr;

    fn table(weights: &[u16], size: u32) -> MaglevTable {
        let members = (0u32..)
            .zip(weights)
            .map(|(n, &weight)| Member { address: IpAddr::from((0x0a00_0000 + n).to_be_bytes()), weight });
        MaglevTable::new(members, TableSize::new(size).unwrap(), 1).unwrap()
    }

    fn counts(table: &MaglevTable, shares: &[f64]) -> Vec<u32> {
        let ring = assign(table, |m| Share::from_fraction(shares[position(table, m)]));
        let mut counts = vec![0; shares.len()];
        ring.iter().for_each(|&p| counts[usize::from(p)] += 1);
        counts
    }

    fn position(table: &MaglevTable, member: &Member) -> usize {
        table.members().binary_search(member).unwrap()
    }

    #[test]
    fn open_gates_leave_every_slot_at_home() {
        let t = table(&[1, 2, 3], 251);
        assert_eq!(assign(&t, |_| Share::FULL), t.home());
    }

    #[test]
    fn nobody_is_an_empty_service_of_full_size() {
        for t in [table(&[], 251), table(&[0, 0], 251), table(&[1, 1], 251)] {
            assert_eq!(assign(&t, |_| Share::NONE), vec![NO_BACKEND; 251]);
        }
        assert_eq!(assign(&table(&[0], 251), |_| Share::FULL), vec![NO_BACKEND; 251]);
    }

    #[test]
    fn a_member_without_weight_is_no_refuge() {
        let t = table(&[0, 5], 251);
        let ring = assign(&t, |m| if m.weight == 0 { Share::FULL } else { Share::NONE });
        assert_eq!(ring, vec![NO_BACKEND; 251]);
    }

    #[test]
    fn a_lone_ramping_member_takes_everything() {
        assert_eq!(counts(&table(&[5, 5], 65537), &[0.0, 0.001]), [0, 65537]);
    }

    #[test]
    fn among_ajar_members_the_share_decides() {
        let counts = counts(&table(&[10, 10], 65537), &[0.5, 0.01]);
        assert!(counts[1] < 65537 * 3 / 100, "a canary of 1 % beside a half-open member: {counts:?}");
    }

    /// One hundredth of the weight is up: half the slots find nobody by drawing.
    #[test]
    fn the_last_resort_honours_weights() {
        let mut weights = vec![100; 100];
        weights[..3].copy_from_slice(&[10, 20, 60]);
        let mut shares = vec![0.0; 100];
        shares[..3].fill(1.0);
        let counts = counts(&table(&weights, 65537), &shares);
        for (&count, ideal) in counts.iter().zip([65537 / 9, 65537 * 2 / 9, 65537 * 6 / 9]) {
            assert!(count.abs_diff(ideal) * 100 < ideal * 4, "{counts:?}");
        }
    }

    #[test]
    fn the_logarithm_is_one() {
        for hash in [1, 3, 1 << 40, u64::MAX / 3, u64::MAX / 2 + 1, u64::MAX - 1, u64::MAX] {
            let (got, want) = (neg_log2(hash) as f64 / f64::from(1 << 24), 64.0 - (hash as f64).log2());
            assert!((got - want).abs() < 1e-6, "{hash:#x}: {got} for {want}");
        }
    }

    #[test]
    fn the_bound_is_below_the_logarithm_and_close_where_it_matters() {
        for n in 0..100_000 {
            let hash = !(mix(n) >> (n % 40));
            let (bound, cost) = (at_least(hash), neg_log2(hash));
            assert!(bound <= cost, "{hash:#x}: {bound} > {cost}");
            assert!(
                hash >> 56 < 0xff || cost - bound <= cost / 256 + 4,
                "{hash:#x}: {bound} is far from {cost}"
            );
        }
    }

    /// Pins the ring, which goes through every step of the search: a node of another build or another machine must compute the same one.
    #[test]
    fn the_ring_is_the_same_everywhere() {
        let t = table(&[100; 40], 1021);
        let mut shares = [0.0; 40];
        shares[3..6].copy_from_slice(&[0.001, 0.2, 0.4]);
        let ring = assign(&t, |m| Share::from_fraction(shares[position(&t, m)]));
        let digest = ring.iter().fold(0u64, |d, &p| mix(d ^ u64::from(p)).wrapping_add(1));
        assert_eq!(digest, 0x9e9b_2f2a_ce5d_5b22, "{digest:#x}");
    }

    #[test]
    fn only_active_backends_have_an_opening() {
        assert_eq!(opening(AdminState::Active, Share::FULL), Share::FULL);
        assert_eq!(opening(AdminState::Drain, Share::FULL), Share::NONE);
        assert_eq!(opening(AdminState::Down, Share::FULL), Share::NONE);
    }
}
