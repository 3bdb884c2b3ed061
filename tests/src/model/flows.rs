//! The flow table: sets of eight entries, each of which says until when it counts.

use super::hash::Hash;

/// Ways of a set.
pub const WAYS: usize = 8;
/// Ticks are counted modulo this.
const TICKS: u16 = 2048;
/// Longest life.
const MAX_TTL: u16 = 1920;

/// A remembered flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// FIN or RST was seen.
    pub closing: bool,
    /// Tick at which it expires.
    pub expiry: u16,
    /// Ring-local backend.
    pub backend: u16,
    /// Ring.
    pub ring: u16,
    /// Of the hash.
    pub tag: u64,
}

impl Entry {
    /// From the map's word; `None` when that is empty.
    #[must_use]
    pub fn from_word(word: u64) -> Option<Self> {
        (word != 0).then_some(Self {
            closing: word >> 63 == 1,
            expiry: (word >> 52 & 0x7ff) as u16,
            backend: (word >> 40 & 0xfff) as u16,
            ring: (word >> 26 & 0x3fff) as u16,
            tag: word & 0x3ff_ffff,
        })
    }

    /// To the map's word.
    #[must_use]
    pub fn word(&self) -> u64 {
        u64::from(self.closing) << 63
            | u64::from(self.expiry) << 52
            | u64::from(self.backend) << 40
            | u64::from(self.ring) << 26
            | self.tag
    }

    /// Ticks that it still counts.
    pub(super) fn left(&self, tick: u16) -> u16 {
        (self.expiry + TICKS - tick % TICKS) % TICKS
    }

    /// Whether another flow may take its way.
    pub(super) fn is_expired(&self, tick: u16) -> bool {
        !(1..=MAX_TTL).contains(&self.left(tick))
    }

    fn is_of(&self, ring: u16, hash: Hash) -> bool {
        (self.ring, self.tag) == (ring, hash.tag())
    }
}

/// The tick `ttl` ticks from now.
pub(super) fn expiry(tick: u16, ttl: u16) -> u16 {
    (tick + ttl) % TICKS
}

/// Eight entries.
pub type Set = [Option<Entry>; WAYS];

/// The table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlowTable {
    /// Its sets, a power of two.
    pub sets: Vec<Set>,
}

impl FlowTable {
    /// An empty one of so many entries.
    #[must_use]
    pub fn new(entries: u32) -> Self {
        Self { sets: vec![[None; WAYS]; (entries as usize / WAYS).max(16)] }
    }

    /// A flow's set.
    pub(super) fn set(&self, hash: Hash) -> usize {
        hash.set(self.sets.len())
    }

    /// What is remembered of a flow, expired or not.
    pub(super) fn find(&self, ring: u16, hash: Hash) -> Option<Entry> {
        let ours = |half: &mut &[usize]| {
            half.iter()
                .filter_map(|&way| self.sets[self.set(hash)][way])
                .rfind(|entry| entry.is_of(ring, hash))
        };
        let [mut own, mut other] = halves(hash);
        ours(&mut own).or_else(|| ours(&mut other))
    }

    /// Where a flow's entry is.
    pub(super) fn place(&self, ring: u16, hash: Hash) -> Option<usize> {
        self.sets[self.set(hash)].iter().position(|way| way.is_some_and(|entry| entry.is_of(ring, hash)))
    }

    /// Where a new flow goes: where there is an entry of it already, else the first free way in the flow's own order.
    pub(super) fn vacancy(&self, ring: u16, hash: Hash, tick: u16) -> Option<usize> {
        if let Some(way) = self.place(ring, hash) {
            return Some(way);
        }
        let start = (hash.0 >> 29) as usize;
        halves(hash).into_iter().find_map(|half| {
            let mut order = (0..half.len()).map(|step| half[(start + step) % half.len()]);
            order.find(|&way| {
                let entry = self.sets[self.set(hash)][way];
                entry.is_none_or(|entry| entry.is_expired(tick))
            })
        })
    }
}

/// The ways of a set: the half that a flow prefers, by bit 28 of its hash, and the other.
fn halves(hash: Hash) -> [&'static [usize]; 2] {
    const LOW: &[usize] = &[0, 1, 2, 3];
    const HIGH: &[usize] = &[4, 5, 6, 7];
    if hash.0 >> 28 & 1 == 0 { [LOW, HIGH] } else { [HIGH, LOW] }
}
