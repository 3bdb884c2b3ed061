//! The key of a backend's `server_id`: the first one to eight bytes of a QUIC server id or of an ICE ufrag.
//!
//! Packet path and agent compute the same number, so a table can be asked with it. Within one service all ids have
//! the same length; between lengths keys are not told apart (`01` and `0001` are both 1).

use crate::{parse::Bytes, word};

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

#[cfg(test)]
mod tests {
    use super::*;

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
