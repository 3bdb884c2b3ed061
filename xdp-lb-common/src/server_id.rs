//! The key of a backend's `server_id`: the first one to eight bytes of a QUIC server id or of an ICE ufrag; and the
//! table that knows whose it is.
//!
//! Packet path and agent compute the same number, so a table can be asked with it. Within one service all ids have
//! the same length; between lengths keys are not told apart (`01` and `0001` are both 1).
//!
//! ```text
//!   server_ids[start(service, id) ..][..8]     | id: 64 | service: 16 | local: 16 | used: 32 |      any order, holes between
//! ```
//!
//! A look-up looks at all eight places, so that one can be emptied without moving the others. What a place says is two
//! words: `id`, written while nobody is there, and the rest, which comes and goes by one store.

use bytemuck::{Pod, Zeroable};

use crate::{hash::fold, parse::Bytes, word};

/// Most bytes of an id.
pub const MAX_LEN: usize = 8;

/// An id's bytes as a big-endian number: `0a01` is `0x0a01`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServerId(pub u64);

impl ServerId {
    /// Of an id as it is configured; `None` when it is empty or longer than [`MAX_LEN`].
    #[must_use]
    pub fn new(id: &[u8]) -> Option<Self> {
        let valid = !id.is_empty() && id.len() <= MAX_LEN;
        valid.then(|| Self(id.iter().fold(0, |key, &byte| key << 8 | u64::from(byte))))
    }

    /// Of the `len` bytes at `offset`. `None` when `len` is not 1 to 8, or the frame ends before them or before the next
    /// multiple of four from `offset` on: behind an id there is a nonce, or a ufrag's colon and padding.
    #[must_use]
    #[inline(always)]
    pub fn read<B: Bytes + ?Sized>(frame: &B, offset: usize, len: u8) -> Option<Self> {
        if len == 0 || len as usize > MAX_LEN {
            return None;
        }
        Some(Self(word::big_endian(frame, offset, len as usize)?))
    }
}

/// How many places an id may be in.
pub const PROBES: u32 = 8;

/// A place in the `server_ids` table. 16 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Place {
    /// [`ServerId`].
    pub id: u64,
    /// Service that the id is known in.
    pub service: u16,
    /// Ring-local index of its backend.
    pub local: u16,
    /// 1 when somebody is here.
    pub used: u32,
}

const _: () = assert!(size_of::<Place>() == 16);

const LOCAL: u64 = 0xffff_0000;

impl Place {
    /// Of a backend.
    #[must_use]
    pub const fn new(service: u16, id: ServerId, local: u16) -> Self {
        Self { id: id.0, service, local, used: 1 }
    }

    /// The second word, as it is stored.
    #[must_use]
    #[inline(always)]
    pub const fn owner(&self) -> u64 {
        self.service as u64 | (self.local as u64) << 16 | (self.used as u64) << 32
    }

    /// From both words.
    #[must_use]
    pub const fn from_words(id: u64, owner: u64) -> Self {
        Self { id, service: owner as u16, local: (owner >> 16) as u16, used: (owner >> 32) as u32 }
    }
}

/// First place of an id, before masking with the table's size.
#[must_use]
#[inline(always)]
pub const fn start(service: u16, id: ServerId) -> u32 {
    (fold(id.0 ^ (service as u64) << 48, 0x9e37_79b9_7f4a_7c15) >> 8) as u32
}

/// The ring-local index of the backend with this id. `load` gives both words of a place, by its index before masking.
#[inline(always)]
pub fn find(service: u16, id: ServerId, load: impl Fn(u32) -> Option<[u64; 2]>) -> Option<u16> {
    let start = start(service, id);
    let wanted = Place::new(service, id, 0).owner();
    for probe in 0..PROBES {
        let [there, owner] = load(start.wrapping_add(probe))?;
        // One comparison: two would be two ways on for the verifier.
        if (there ^ id.0) | ((owner ^ wanted) & !LOCAL) == 0 {
            return Some((owner >> 16) as u16);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn found_in_any_of_eight_places_whatever_is_between() {
        let (service, id) = (7, ServerId(0x0a01));
        for at in 0..PROBES {
            let mut table = [Place::default(); 16];
            let first = start(service, id);
            // Others with the same id in another service, another id in this one, and one that has gone.
            table[first as usize & 15] = Place::new(8, id, 1);
            table[(first + 1) as usize & 15] = Place::new(service, ServerId(0x0a02), 2);
            table[(first + 2) as usize & 15] = Place { used: 0, ..Place::new(service, id, 3) };
            let load = |table: [Place; 16]| {
                move |index: u32| Some([table[index as usize & 15].id, table[index as usize & 15].owner()])
            };
            assert_eq!(find(service, id, load(table)), None);
            table[(first + at) as usize & 15] = Place::new(service, id, 4095);
            assert_eq!(find(service, id, load(table)), Some(4095), "place {at}");
        }
    }

    #[test]
    fn a_place_is_its_words() {
        let place = Place::new(16_383, ServerId(u64::MAX), 4095);
        assert_eq!(Place::from_words(place.id, place.owner()), place);
        assert_eq!(bytemuck::bytes_of(&place)[8..], place.owner().to_le_bytes());
    }

    #[test]
    fn packet_and_configuration_agree() {
        let frame: [u8; 24] = core::array::from_fn(|i| i as u8 * 7 + 1);
        for len in 1..=8usize {
            for offset in 0..=24 - len.next_multiple_of(4) {
                let read = ServerId::read(&frame[..], offset, len as u8);
                assert_eq!(read, ServerId::new(&frame[offset..offset + len]), "{len} bytes at {offset}");
            }
        }
        assert_eq!(ServerId::new(&[0x0a, 0x01]), Some(ServerId(0x0a01)));
    }

    #[test]
    fn lengths_that_are_none() {
        let frame = [1; 24];
        assert_eq!(ServerId::new(&[]), None);
        assert_eq!(ServerId::new(&[1; 9]), None);
        for len in [0, 9, 64, 255] {
            assert_eq!(ServerId::read(&frame[..], 8, len), None, "{len}");
        }
    }

    #[test]
    fn an_id_that_the_frame_cuts_is_none() {
        let frame = [1; 24];
        for len in 1..=8u8 {
            let reads = (len as usize).next_multiple_of(4);
            assert!(ServerId::read(&frame[..], 24 - reads, len).is_some());
            assert_eq!(ServerId::read(&frame[..], 25 - reads, len), None);
        }
    }
}
