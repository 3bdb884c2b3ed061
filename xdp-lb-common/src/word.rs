//! The first bytes of a field as one number, when how many is known at run time only.
//!
//! Two quirks of compiler and verifier (seen with LLVM 22 and kernel 6.18) shape this and its callers. Eight bytes that
//! *end* where the field does would be one read, but "back eight, then check eight" is folded into a check of the end,
//! and the verifier wants it on the pointer that is read from. And a check of one single byte becomes `start >= end`,
//! from which the verifier learns nothing where the offset is a variable: nothing here reads one byte.

use crate::parse::Bytes;

/// The `len` bytes at `offset`, 0 to 8, the first lowest, zeros above them. Reads four bytes or eight, so the field
/// must be followed by as many: padding, or another field. `None` when the frame ends before.
#[must_use]
#[inline(always)]
pub fn little_endian<B: Bytes + ?Sized>(frame: &B, offset: usize, len: usize) -> Option<u64> {
    if len == 0 {
        return Some(0);
    }
    let word = if len <= 4 {
        u32::from_le_bytes(*frame.get::<4>(offset)?) as u64
    } else {
        u64::from_le_bytes(*frame.get::<8>(offset)?)
    };
    Some(word & u64::MAX.wrapping_shr(unused(len)))
}

/// The same, the first byte highest of the `len`.
#[must_use]
#[inline(always)]
pub fn big_endian<B: Bytes + ?Sized>(frame: &B, offset: usize, len: usize) -> Option<u64> {
    // Nothing shifted by 64 is still nothing, though BPF takes shifts modulo 64.
    Some(little_endian(frame, offset, len)?.swap_bytes().wrapping_shr(unused(len)))
}

/// `value` with only the bits of `mask`, and nothing else known about it: not to the compiler, which would drop a mask
/// that it knows to change nothing (by comparisons of two variables, of which older verifiers learn nothing), and not to
/// the verifier, which walks what follows once for each different bound that a loop or an IP header leaves.
///
/// One store, one load and two products that undo each other: the first wraps, and no bounds survive.
#[must_use]
#[inline(always)]
pub fn masked(value: usize, mask: usize) -> usize {
    let there = core::hint::black_box((value as u64).wrapping_mul(THERE));
    there.wrapping_mul(BACK) as usize & mask
}

const THERE: u64 = 0x9e37_79b9_7f4a_7c15;
/// The inverse of [`THERE`] modulo 2^64.
const BACK: u64 = 0xf1de_83e1_9937_733d;
const _: () = assert!(THERE.wrapping_mul(BACK) == 1);

/// Bits of a word that `len` bytes leave.
#[inline(always)]
const fn unused(len: usize) -> u32 {
    64u32.wrapping_sub(8 * len as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length_everywhere() {
        let frame: [u8; 20] = core::array::from_fn(|i| 0xe1 + i as u8);
        for len in 0..=8usize {
            let reads = len.next_multiple_of(4);
            for offset in 0..=20 - reads {
                let mut bytes = [0; 8];
                bytes[..len].copy_from_slice(&frame[offset..offset + len]);
                assert_eq!(little_endian(&frame[..], offset, len), Some(u64::from_le_bytes(bytes)));
                let big = frame[offset..offset + len].iter().fold(0, |sum, &b| sum << 8 | u64::from(b));
                assert_eq!(big_endian(&frame[..], offset, len), Some(big));
            }
            if len > 0 {
                assert_eq!(little_endian(&frame[..], 21 - reads, len), None, "{len}");
            }
        }
    }
}
