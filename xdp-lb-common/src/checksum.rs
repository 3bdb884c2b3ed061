//! The Internet checksum (RFC 1071) and its incremental update (RFC 1624).

/// Folds a 32-bit sum of 16-bit words to 16 bits.
#[must_use]
#[inline(always)]
pub const fn fold(sum: u32) -> u16 {
    let s = (sum & 0xffff) + (sum >> 16);
    let s = (s & 0xffff) + (s >> 16);
    s as u16
}

/// Sum of the big-endian 16-bit words of `bytes`; an odd last byte counts as a high byte.
#[must_use]
pub fn sum(bytes: &[u8]) -> u32 {
    bytes.chunks(2).map(|c| u32::from(u16::from_be_bytes([c[0], *c.get(1).unwrap_or(&0)]))).sum()
}

/// `checksum` after one 16-bit word of what it covers changed from `old` to `new` (RFC 1624, equation 3).
#[must_use]
#[inline(always)]
pub const fn update(checksum: u16, old: u16, new: u16) -> u16 {
    !fold((!checksum) as u32 + (!old) as u32 + new as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc_1071_example() {
        assert_eq!(fold(sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7])), 0xddf2);
    }

    #[test]
    fn update_equals_recomputation() {
        let mut bytes = [0x45u8, 0, 0, 0x54, 0xbe, 0xef, 0x40, 0, 64, 1, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
        for new in [0u16, 1, 0x0800, 0xffff, 0x4001] {
            let before = !fold(sum(&bytes));
            let old = u16::from_be_bytes([bytes[8], bytes[9]]);
            bytes[8..10].copy_from_slice(&new.to_be_bytes());
            assert_eq!(update(before, old, new), !fold(sum(&bytes)), "{old:#x} -> {new:#x}");
        }
    }
}
