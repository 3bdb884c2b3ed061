//! The Internet checksum (RFC 1071), written for being obviously right.

use super::Network;

/// Checksum of the concatenation of `parts`; an odd last byte is padded with zero.
///
/// Over data that already holds its right checksum the result is 0.
#[must_use]
pub fn internet_checksum(parts: &[&[u8]]) -> u16 {
    let bytes = parts.concat();
    let mut sum = 0u64;
    for pair in bytes.chunks(2) {
        let low = pair.get(1).copied().unwrap_or(0);
        sum += u64::from(pair[0]) * 256 + u64::from(low);
    }
    // One's complement addition: what is carried out at the top comes in at the bottom.
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).expect("folded to 16 bits")
}

/// Checksum of a TCP, UDP or ICMPv6 message inside `network`, pseudo header included (RFC 9293 3.1, RFC 8200 8.1).
pub(super) fn transport_checksum(network: Option<Network>, protocol: u8, message: &[u8]) -> u16 {
    let length = u32::try_from(message.len()).expect("a packet's length fits 32 bits").to_be_bytes();
    match network {
        None => internet_checksum(&[message]),
        Some(Network::V4 { source, destination }) => internet_checksum(&[
            &source.octets(),
            &destination.octets(),
            &[0, protocol],
            &length[2..],
            message,
        ]),
        Some(Network::V6 { source, destination }) => internet_checksum(&[
            &source.octets(),
            &destination.octets(),
            &length,
            &[0, 0, 0, protocol],
            message,
        ]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of RFC 1071, section 3: the sum is ddf2.
    #[test]
    fn rfc_1071_example() {
        assert_eq!(internet_checksum(&[&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]]), !0xddf2);
    }

    #[test]
    fn parts_may_be_odd() {
        assert_eq!(internet_checksum(&[&[1, 2, 3], &[4, 5]]), internet_checksum(&[&[1, 2, 3, 4, 5, 0]]));
    }
}
