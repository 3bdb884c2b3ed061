//! The key of a backend's `server_id`: the first one to eight bytes of a QUIC server id or of an ICE ufrag.
//!
//! Packet path and agent compute the same number, so a table can be asked with it. Within one service all ids have
//! the same length; between lengths keys are not told apart (`01` and `0001` are both 1).

use crate::parse::Bytes;

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

    /// Of the `len` bytes at `offset`. `None` when the frame ends before them, or `len` is not 1 to 8.
    ///
    /// Reads the eight bytes that *end* with the id, whatever its length: one check, and never one too many behind it.
    /// So eight bytes must stand before `offset + len`; in a UDP payload the headers do.
    ///
    /// ```text
    ///   offset - (8 - len)      offset        offset + len
    ///   | headers: masked away  | id ........ |
    ///   |<---------------- 8 bytes ---------->|
    /// ```
    #[must_use]
    #[inline(always)]
    pub fn read<B: Bytes + ?Sized>(frame: &B, offset: usize, len: u8) -> Option<Self> {
        if len == 0 || len as usize > MAX_LEN {
            return None;
        }
        // The mask changes nothing; the verifier sees by it that the offset moves by at most 7.
        let before = MAX_LEN.wrapping_sub(len as usize) & 7;
        let word = frame.get::<8>(offset.checked_sub(before)?)?;
        Some(Self(u64::from_be_bytes(*word) & ones(len)))
    }
}

/// The low `8 * len` bits, `len` from 1 to 8.
#[inline(always)]
pub(crate) const fn ones(len: u8) -> u64 {
    u64::MAX.wrapping_shr(64u32.wrapping_sub(8 * len as u32))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packet_and_configuration_agree() {
        let frame: [u8; 24] = core::array::from_fn(|i| i as u8 * 7 + 1);
        for len in 1..=8 {
            for offset in 8..=24 - len {
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
            assert!(ServerId::read(&frame[..], 24 - len as usize, len).is_some());
            assert_eq!(ServerId::read(&frame[..], 25 - len as usize, len), None);
        }
        assert_eq!(ServerId::read(&frame[..], 0, 4), None, "nothing in front to read");
    }
}
