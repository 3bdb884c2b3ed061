//! The home table: which backend owns which slot while every gate is open.
//!
//! Weighted Maglev (Eisenbud et al., NSDI 2016, section 3.4). Each member walks its own permutation of
//! the slots and takes the next free one whenever it has a turn; turns follow the weights. The table is
//! made from the configuration alone. Who is up, draining or ramping is the business of [`crate::gates`],
//! so a table is rebuilt when the operator edits the file and at no other time. The planner calls it.
//!
//! Every edge node must arrive at the same table: integers only, no floating point, no `usize`
//! arithmetic, and the members are sorted before anything depends on their order.

use std::net::IpAddr;

use thiserror::Error;
use xdp_lb_common::backend::MAX_MEMBERS;
use xdp_lb_common::hash::mix;

use crate::model::TableSize;

/// A configured backend of one ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Member {
    /// Where the tunnel ends: the member's identity on every edge node.
    pub address: IpAddr,
    /// Relative number of slots; 0 takes none.
    pub weight: u16,
}

/// Why a list of members cannot have a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum TableError {
    /// More members than a flow entry can name.
    #[error("{0} backends in one service, at most {MAX_MEMBERS} are possible: split the service")]
    TooMany(usize),
    /// The address would get the slots of two members.
    #[error("backend {0} is listed twice: keep one entry and add the weights")]
    Twice(IpAddr),
}

/// The home table of one ring and the members it speaks of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MaglevTable {
    size: TableSize,
    seed: u64,
    members: Vec<Member>,
    keys: Vec<u64>,
    home: Vec<u16>,
}

impl MaglevTable {
    /// Builds the table of `members`, given in any order. About a millisecond for 100 members and 65537 slots.
    ///
    /// # Errors
    /// See [`TableError`]. A checked configuration has neither.
    pub fn new(
        members: impl IntoIterator<Item = Member>,
        size: TableSize,
        seed: u64,
    ) -> Result<Self, TableError> {
        let mut members: Vec<Member> = members.into_iter().collect();
        if members.len() > MAX_MEMBERS as usize {
            return Err(TableError::TooMany(members.len()));
        }
        members.sort_unstable();
        if let Some(pair) = members.windows(2).find(|pair| pair[0].address == pair[1].address) {
            return Err(TableError::Twice(pair[0].address));
        }
        let keys: Vec<u64> = members.iter().map(|member| identity(seed, member.address)).collect();
        let home = fill(classes(&members, &keys, size.get()), size.get());
        Ok(Self { size, seed, members, keys, home })
    }

    /// The members sorted by address. A *position* is an index into this slice.
    #[must_use]
    pub fn members(&self) -> &[Member] {
        &self.members
    }

    /// The member position of every slot: [`Self::size`] of them, or none at all when no member has a weight.
    #[must_use]
    pub fn home(&self) -> &[u16] {
        &self.home
    }

    /// Number of slots of a ring of this table, also when [`Self::home`] is empty.
    #[must_use]
    pub fn size(&self) -> TableSize {
        self.size
    }

    /// The seed that the table was made with.
    #[must_use]
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// The seeded identity of every member, by position: what decisions per member hash.
    #[must_use]
    pub fn keys(&self) -> &[u64] {
        &self.keys
    }
}

/// A member's identity under a seed: 64 bits of the address as 16 bytes (IPv4 as `::ffff:a.b.c.d`).
fn identity(seed: u64, address: IpAddr) -> u64 {
    let bits = match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
        IpAddr::V6(v6) => v6.to_bits(),
    };
    let (high, low) = ((bits >> 64) as u64, bits as u64);
    mix(mix(mix(seed ^ 0x6d61_676c_6576_0001) ^ high).wrapping_add(low))
}

/// A member on its way through its permutation of the slots.
struct Walk {
    position: u16,
    slot: u32,
    skip: u32,
}

impl Walk {
    fn new(position: u16, key: u64, size: u32) -> Self {
        // The paper's `h1 mod M` and `h2 mod (M - 1) + 1`, by multiply and shift.
        let offset = scale(mix(key ^ 0x6f66_6673_6574), size);
        let skip = scale(mix(key ^ 0x736b_6970), size - 1) + 1;
        Self { position, slot: offset, skip }
    }

    /// The same where few are free and all of them are known: a walk would meet hundreds that are taken before each.
    fn take_of(&mut self, free: &mut Vec<u32>, size: u32) -> Option<u32> {
        let back = inverse(self.skip, size);
        // How many steps away a slot is: its distance, divided by the skip, all modulo the size.
        let steps = |slot: u32| {
            let distance = if slot < self.slot { slot + size - self.slot } else { slot - self.slot };
            u64::from(distance) * u64::from(back) % u64::from(size)
        };
        let (at, _) = free.iter().map(|&slot| steps(slot)).enumerate().min_by_key(|&(_, steps)| steps)?;
        let slot = free.swap_remove(at);
        self.slot = (slot + self.skip) % size;
        Some(slot)
    }

    /// Takes the next slot of the permutation that is free; there must be one.
    fn take(&mut self, taken: &mut Taken, size: u32) -> u32 {
        loop {
            let slot = self.slot;
            // Stepping instead of `(offset + j * skip) mod M`: a prime size makes every skip reach every slot.
            let next = slot + self.skip;
            self.slot = if next >= size { next - size } else { next };
            if taken.insert(slot) {
                return slot;
            }
        }
    }
}

/// Slots that have an owner, a bit each: the walk reads one slot about eleven times, and this fits the L1 cache.
struct Taken(Vec<u64>);

impl Taken {
    fn insert(&mut self, slot: u32) -> bool {
        let (word, bit) = (&mut self.0[(slot / 64) as usize], 1 << (slot % 64));
        if *word & bit != 0 {
            return false;
        }
        *word |= bit;
        true
    }

    /// Those that have none, below `size`.
    fn free(&self, size: u32) -> Vec<u32> {
        (0..size).filter(|slot| self.0[(slot / 64) as usize] & 1 << (slot % 64) == 0).collect()
    }
}

/// The number that makes 1 of `value` modulo a prime, by Euclid's algorithm; `value` is from 1 to `prime - 1`.
fn inverse(value: u32, prime: u32) -> u32 {
    let (mut a, mut b) = (i64::from(value), i64::from(prime));
    let (mut of_a, mut of_b) = (1, 0);
    while a > 1 {
        let times = b / a;
        (a, b) = (b - times * a, a);
        (of_a, of_b) = (of_b - times * of_a, of_a);
    }
    // Between -prime and prime.
    (if of_a < 0 { of_a + i64::from(prime) } else { of_a }) as u32
}

/// Members of one weight: they are due in the same rounds, so credit is kept once for all of them and a
/// round costs nothing for those who are not due.
struct Class {
    weight: u32,
    credit: u32,
    walks: Vec<Walk>,
}

/// The classes, heaviest first; members inside a class in the order of their addresses.
fn classes(members: &[Member], keys: &[u64], size: u32) -> Vec<Class> {
    let mut by_weight = std::collections::BTreeMap::<u16, Vec<Walk>>::new();
    for (position, (member, &key)) in (0u16..).zip(members.iter().zip(keys)) {
        if member.weight > 0 {
            by_weight.entry(member.weight).or_default().push(Walk::new(position, key, size));
        }
    }
    let heaviest = by_weight.keys().next_back().copied().unwrap_or(0);
    by_weight
        .into_iter()
        .rev()
        // Starting with half a turn rounds the number of turns instead of cutting it off.
        .map(|(weight, walks)| Class { weight: weight.into(), credit: u32::from(heaviest) / 2, walks })
        .collect()
}

/// So many slots are looked for among those that are free. Each of them would be met after `size / left` others: a 300th of
/// the slots would cost half of all steps.
const LAST: u32 = 192;

/// Weighted round robin: every round a class earns its weight, and a turn costs the heaviest weight.
fn fill(mut classes: Vec<Class>, size: u32) -> Vec<u16> {
    let Some(turn) = classes.first().map(|heaviest| heaviest.weight) else { return Vec::new() };
    let mut home = vec![0; size as usize];
    let mut taken = Taken(vec![0; size.div_ceil(64) as usize]);
    let mut left = size;
    let mut last: Option<Vec<u32>> = None;
    // The heaviest class has a turn in every round, so the loop ends.
    loop {
        for class in &mut classes {
            class.credit += class.weight;
            if class.credit < turn {
                continue;
            }
            class.credit -= turn;
            for walk in &mut class.walks {
                if left <= LAST && last.is_none() {
                    last = Some(taken.free(size));
                }
                let slot = last.as_mut().and_then(|last| walk.take_of(last, size));
                home[slot.unwrap_or_else(|| walk.take(&mut taken, size)) as usize] = walk.position;
                left -= 1;
                if left == 0 {
                    return home;
                }
            }
        }
    }
}

/// Maps 64 random bits to `0..range` (the high half decides).
pub(crate) fn scale(hash: u64, range: u32) -> u32 {
    (((hash >> 32) * u64::from(range)) >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(last: u8, weight: u16) -> Member {
        Member { address: IpAddr::from([10, 0, 0, last]), weight }
    }

    fn table(members: &[Member], size: u32) -> MaglevTable {
        MaglevTable::new(members.iter().copied(), TableSize::new(size).unwrap(), 7).unwrap()
    }

    #[test]
    fn no_member_with_a_weight_is_an_empty_table() {
        assert!(table(&[], 251).home().is_empty());
        assert!(table(&[member(1, 0), member(2, 0)], 251).home().is_empty());
        assert_eq!(table(&[], 251).size().get(), 251);
    }

    #[test]
    fn one_member_owns_every_slot() {
        let t = table(&[member(1, 0), member(2, 3)], 3);
        assert_eq!(t.home(), [1, 1, 1]);
    }

    #[test]
    fn positions_are_those_of_the_sorted_list() {
        let t = table(&[member(9, 1), member(1, 1), member(5, 1)], 251);
        let order: Vec<IpAddr> = t.members().iter().map(|m| m.address).collect();
        assert_eq!(order, [member(1, 1).address, member(5, 1).address, member(9, 1).address]);
    }

    #[test]
    fn mistakes_are_named() {
        let size = TableSize::DEFAULT;
        let twice = MaglevTable::new([member(1, 1), member(2, 1), member(1, 2)], size, 0);
        assert_eq!(twice, Err(TableError::Twice(member(1, 1).address)));
        let many = (0..=MAX_MEMBERS)
            .map(|n| Member { address: IpAddr::from((0x0a00_0000 + n).to_be_bytes()), weight: 1 });
        assert_eq!(MaglevTable::new(many, size, 0), Err(TableError::TooMany(4097)));
    }

    #[test]
    fn an_inverse_makes_one() {
        for prime in [3, 251, 65_537, 131_071] {
            for value in (1..prime).step_by(1 + prime as usize / 500).chain([prime - 1]) {
                let product = u64::from(value) * u64::from(inverse(value, prime)) % u64::from(prime);
                assert_eq!(product, 1, "{value} modulo {prime}");
            }
        }
    }

    /// The paper's loop, with weights as above and nothing else.
    fn plainly(members: &[Member], keys: &[u64], size: u32) -> Vec<u16> {
        let mut classes = classes(members, keys, size);
        let turn = classes[0].weight;
        let (mut home, mut left) = (vec![u16::MAX; size as usize], size);
        while left > 0 {
            for class in &mut classes {
                class.credit += class.weight;
                if class.credit < turn {
                    continue;
                }
                class.credit -= turn;
                for walk in class.walks.iter_mut().take(left as usize) {
                    while home[walk.slot as usize] != u16::MAX {
                        walk.slot = (walk.slot + walk.skip) % size;
                    }
                    home[walk.slot as usize] = walk.position;
                    left -= 1;
                }
            }
        }
        home
    }

    #[test]
    fn shortcuts_change_no_slot() {
        for (count, size) in [(1, 3), (2, 3), (3, 127), (7, 131), (60, 251), (100, 4093), (100, 65_537)] {
            for seed in 0..4 {
                let members = (0..count).map(|n| member(n, 1 + u16::from(n % 5) * 20));
                let t = MaglevTable::new(members, TableSize::new(size).unwrap(), seed).unwrap();
                assert!(t.home == plainly(&t.members, &t.keys, size), "{count} in {size}, seed {seed}");
            }
        }
    }

    /// Pins the table: a node of another build or another machine must compute the same one.
    #[test]
    fn the_table_is_the_same_everywhere() {
        let mut members: Vec<Member> = (0..9).map(|n| member(n, 10 + u16::from(n))).collect();
        members.push(Member { address: "2001:db8::1".parse().unwrap(), weight: 5 });
        let t = table(&members, 251);
        let digest = t.home().iter().fold(0u64, |d, &p| mix(d ^ u64::from(p)).wrapping_add(1));
        assert_eq!(digest, 0xc544_a0a7_eae5_f5b9, "{digest:#x}");
    }
}
