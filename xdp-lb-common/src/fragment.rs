//! Fragments: what one may be dropped for, and the table that keeps those of a datagram together.
//!
//! Where all services of a VIP and protocol keep a client at one backend, fragments need none of this
//! ([`crate::vip::VipSlot::fragments`]). Elsewhere only the first one has ports: it chooses, and leaves an entry for the
//! others under a seeded hash of (source, destination, identification, protocol).
//!
//! ```text
//!   63      56 55         44 43          30 29                0
//!  | second   | ring-local  | service id   | tag: low hash bits |        eight to a set, as in the flow table
//!  | 8 bits   | backend 12  | 14 bits      | 30 bits            |
//! ```
//!
//! An entry counts for [`LIFE`] seconds. Seconds are modular and nobody sweeps: four minutes later an entry whose way
//! nobody took counts again, for a datagram whose first fragment never came; the tag must match all the same.
//!
//! A false match needs equal set and tag: 8 * 2^-30 with a full set, one lone fragment in 130 million. Its backend
//! is a live member of the service that the entry names, and cannot complete the datagram there.

use crate::{
    hash::{self, FlowHash},
    parse::{Addresses, Bytes, Ip, Ports, RawSegment, TCP, UDP, Version, is_extension, part},
    reason::DropReason,
    select::Set,
};

/// Seconds, as the kernel half counts them, that a first fragment is remembered. Linux' reassembly waits as long.
pub const LIFE: u8 = 30;
/// Ways of a set.
pub const WAYS: usize = crate::flow::WAYS;
/// In place of a backend: what the first fragment met sends the others after it.
pub const NOBODY: u16 = (1 << 12) - 1;

/// Bytes of a TCP header that a first fragment must have: RFC 3128's least, flags included.
const TCP_LEAST: usize = 16;
/// Bytes of a UDP header.
const UDP_LEAST: usize = 8;
/// Longest IP packet; of IPv6 behind the fixed header.
const LONGEST: usize = u16::MAX as usize;

/// What a header says of its fragment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// Identification: 16 bits of IPv4, 32 of IPv6.
    pub id: u32,
    /// Where it belongs, in bytes.
    pub offset: u16,
    /// Others follow.
    pub more: bool,
}

impl Fragment {
    /// Of the identification and the 16-bit word of flags and offset of an IPv4 header; `None` for a whole packet.
    #[must_use]
    #[inline(always)]
    pub const fn v4(id: u16, word: u16) -> Option<Self> {
        if word & 0x3fff == 0 {
            return None;
        }
        Some(Self { id: id as u32, offset: word << 3, more: word & 0x2000 != 0 })
    }

    /// Of an IPv6 fragment header; `None` for an atomic fragment, which is a whole packet (RFC 6946).
    #[must_use]
    #[inline(always)]
    pub const fn v6(header: &[u8; 8]) -> Option<Self> {
        let word = u16::from_be_bytes(part::<2, 2, 8>(header));
        if word & 0xfff9 == 0 {
            return None;
        }
        let id = u32::from_be_bytes(part::<4, 4, 8>(header));
        Some(Self { id, offset: word & 0xfff8, more: word & 1 != 0 })
    }
}

/// The ports of a first fragment; `None` for a later one.
///
/// # Errors
/// The reason to drop it: [`DropReason::Fragment`] when it is of neither TCP nor UDP, or a fragment that is only made
/// to hide something.
#[inline(always)]
pub fn ports<B: Bytes + ?Sized>(frame: &B, ip: &Ip, fragment: Fragment) -> Result<Option<Ports>, DropReason> {
    let len = ip.end.wrapping_sub(ip.l4);
    // What the packet will be long at least: IPv6 does not count its fixed header and loses the fragment header.
    let uncounted = match ip.addresses.version {
        Version::V4 => 0,
        Version::V6 => crate::parse::IPV6_LEN + 8,
    };
    if ip.len() + fragment.offset as usize > LONGEST + uncounted || fragment.more && len & 7 != 0 {
        return Err(DropReason::FragmentLength);
    }
    if fragment.offset != 0 {
        return match ip.protocol {
            // The flags could be written over (RFC 1858, section 3.2.2).
            TCP if fragment.offset == 8 => Err(DropReason::FragmentOverlap),
            TCP | UDP => Ok(None),
            // The first one may have had more headers: only its entry can tell.
            protocol if ip.addresses.version == Version::V6 && is_extension(protocol) => Ok(None),
            _ => Err(DropReason::Fragment),
        };
    }
    let (pair, segment) = match ip.protocol {
        TCP => {
            let h = header::<TCP_LEAST, B>(frame, ip)?;
            if h[12] >> 4 < 5 {
                return Err(DropReason::L4Length);
            }
            (part::<0, 4, _>(h), RawSegment::Tcp { flags: h[13], data: len as u16 })
        }
        UDP => {
            let h = header::<UDP_LEAST, B>(frame, ip)?;
            if u16::from_be_bytes(part::<4, 2, _>(h)) < 8 {
                return Err(DropReason::L4Length);
            }
            (part::<0, 4, _>(h), RawSegment::Datagram)
        }
        _ => return Err(DropReason::Fragment),
    };
    Ok(Some(Ports { pair: u32::from_le_bytes(pair), segment }))
}

#[inline(always)]
fn header<'a, const N: usize, B: Bytes + ?Sized>(frame: &'a B, ip: &Ip) -> Result<&'a [u8; N], DropReason> {
    if ip.l4 + N > ip.end {
        return Err(DropReason::FragmentTiny);
    }
    frame.get::<N>(ip.l4).ok_or(DropReason::FragmentTiny)
}

/// Hash of what the fragments of a datagram have in common. In IPv6 that is not the protocol: what their headers say
/// follows may differ (RFC 8200, section 4.5).
#[must_use]
#[inline(always)]
pub const fn key(seed: u64, addresses: &Addresses, fragment: Fragment, protocol: u8) -> FlowHash {
    let protocol = match addresses.version {
        Version::V4 => protocol,
        Version::V6 => 0,
    };
    hash::packet(seed, addresses, protocol, fragment.id, false)
}

const TAG: u64 = (1 << 30) - 1;

/// What a first fragment leaves for the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry(pub u64);

impl Entry {
    /// Remembers `service` and its ring-local `backend`, or [`NOBODY`], as of `second`.
    #[must_use]
    #[inline(always)]
    pub const fn new(key: FlowHash, service: u16, backend: u16, second: u8) -> Self {
        let (service, backend) = (service as u64 & 0x3fff, backend as u64 & 0xfff);
        Self((second as u64) << 56 | backend << 44 | service << 30 | key.0 & TAG)
    }

    /// Service id; 0 where there was none for the first fragment.
    #[must_use]
    #[inline(always)]
    pub const fn service(self) -> u16 {
        (self.0 >> 30 & 0x3fff) as u16
    }

    /// Ring-local backend, or [`NOBODY`].
    #[must_use]
    #[inline(always)]
    pub const fn backend(self) -> u16 {
        (self.0 >> 44 & 0xfff) as u16
    }

    /// Seconds since it was written.
    #[must_use]
    #[inline(always)]
    pub const fn age(self, second: u8) -> u8 {
        second.wrapping_sub((self.0 >> 56) as u8)
    }

    #[inline(always)]
    const fn is_of(self, key: FlowHash) -> bool {
        self.0 != 0 && (self.0 ^ key.0) & TAG == 0
    }
}

/// What the first fragment left.
///
/// # Errors
/// [`DropReason::FragmentEarly`] when nothing, [`DropReason::FragmentLate`] when too long ago.
#[inline(always)]
pub fn find<S: Set>(set: &S, key: FlowHash, second: u8) -> Result<Entry, DropReason> {
    let mut found = Entry(0);
    for way in 0..WAYS {
        let entry = Entry(set.load(way));
        if entry.is_of(key) {
            found = entry;
        }
    }
    match found {
        Entry(0) => Err(DropReason::FragmentEarly),
        entry if entry.age(second) > LIFE => Err(DropReason::FragmentLate),
        entry => Ok(entry),
    }
}

/// Remembers a first fragment: in its datagram's way, an empty one, or the oldest. A flood takes ways in the order in
/// which they were written, so the table's size divided by the flood's rate is how long others have.
#[inline(always)]
pub fn remember<S: Set>(set: &S, key: FlowHash, entry: Entry, second: u8) {
    let (mut best, mut victim) = (0u32, 0);
    for way in 0..WAYS {
        let old = Entry(set.load(way));
        let rank = if old.is_of(key) {
            257
        } else if old.0 == 0 {
            256
        } else {
            old.age(second) as u32
        };
        if rank >= best {
            (best, victim) = (rank, way);
        }
    }
    set.store(set.computed(victim), entry.0);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse::v4_words;
    use std::cell::Cell;

    #[derive(Default)]
    struct Memory([Cell<u64>; WAYS]);

    impl Set for Memory {
        fn load(&self, way: usize) -> u64 {
            self.0[way].get()
        }
        fn store(&self, way: usize, entry: u64) {
            self.0[way].set(entry);
        }
    }

    fn remember_at(set: &Memory, key: FlowHash, backend: u16, second: u8) {
        remember(set, key, Entry::new(key, 7, backend, second), second);
    }

    #[test]
    fn fields_do_not_touch_each_other() {
        let all = Entry::new(FlowHash(u64::MAX), 0x3fff, NOBODY, 255);
        assert_eq!((all.0, all.service(), all.backend(), all.age(255)), (u64::MAX, 0x3fff, NOBODY, 0));
        let one = Entry::new(FlowHash(1 << 29), 1, 2, 3);
        assert_eq!((one.service(), one.backend(), one.age(4)), (1, 2, 1));
    }

    #[test]
    fn early_then_known_then_late() {
        let (set, key) = (Memory::default(), FlowHash(0x1234_5678_9abc));
        assert_eq!(find(&set, key, 9), Err(DropReason::FragmentEarly));
        remember_at(&set, key, 5, 250);
        for second in [250, 255, 0, 24] {
            assert_eq!(find(&set, key, second).map(Entry::backend), Ok(5), "second {second}");
        }
        for second in [25, 100, 249] {
            assert_eq!(find(&set, key, second), Err(DropReason::FragmentLate), "second {second}");
        }
        assert_eq!(find(&set, FlowHash(key.0 ^ 1), 250), Err(DropReason::FragmentEarly));
    }

    #[test]
    fn a_datagram_has_one_way_and_the_oldest_makes_room() {
        let set = Memory::default();
        let key = |n: u8| FlowHash(1000 + u64::from(n));
        for n in 0..8 {
            remember_at(&set, key(n), u16::from(n), n);
        }
        remember_at(&set, key(3), 33, 8);
        assert_eq!(find(&set, key(3), 8).map(Entry::backend), Ok(33));
        assert_eq!(find(&set, key(0), 8).map(Entry::backend), Ok(0), "a known datagram takes nobody's way");
        remember_at(&set, key(8), 8, 9);
        assert_eq!(find(&set, key(0), 9), Err(DropReason::FragmentEarly), "the oldest");
        assert!((1..=8).all(|n| find(&set, key(n), 9).is_ok()));
    }

    #[test]
    fn a_key_is_of_all_that_a_datagrams_fragments_share() {
        let addresses = |source, destination, version| Addresses {
            version,
            l3: 14,
            source: v4_words([10, 0, 0, source]),
            destination: v4_words([203, 0, 113, destination]),
        };
        let part = |id, offset| Fragment { id, offset, more: true };
        let one = key(7, &addresses(1, 2, Version::V4), part(3, 0), UDP);
        assert_eq!(one, key(7, &addresses(1, 2, Version::V4), part(3, 1480), UDP));
        for other in [
            key(8, &addresses(1, 2, Version::V4), part(3, 0), UDP),
            key(7, &addresses(9, 2, Version::V4), part(3, 0), UDP),
            key(7, &addresses(1, 9, Version::V4), part(3, 0), UDP),
            key(7, &addresses(1, 2, Version::V4), part(9, 0), UDP),
            key(7, &addresses(1, 2, Version::V4), part(3, 0), TCP),
        ] {
            assert_ne!(one, other);
        }
        let v6 = |protocol| key(7, &addresses(1, 2, Version::V6), part(3, 0), protocol);
        assert_eq!(v6(UDP), v6(60), "an IPv6 datagram's fragments may announce different headers");
    }

    #[test]
    fn words_of_both_versions() {
        assert_eq!(Fragment::v4(1, 0x4000), None, "don't fragment");
        assert_eq!(Fragment::v4(1, 0x2000), Some(Fragment { id: 1, offset: 0, more: true }));
        assert_eq!(Fragment::v4(1, 0x1fff), Some(Fragment { id: 1, offset: 65528, more: false }));
        assert_eq!(Fragment::v6(&[17, 0, 0, 6, 0, 0, 0, 1]), None, "reserved bits");
        assert_eq!(
            Fragment::v6(&[17, 0, 0xff, 0xf9, 1, 2, 3, 4]),
            Some(Fragment { id: 0x0102_0304, offset: 65528, more: true })
        );
    }
}
