//! The builder against frames that others made: the bytes are of real captures or of the RFCs.

use super::*;

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> =
        hex.chars().filter_map(|c| c.to_digit(16)).map(|d| u8::try_from(d).unwrap()).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

/// The header that every explanation of the IPv4 checksum uses.
#[test]
fn ipv4_checksum_of_the_textbook() {
    let frame = eth(Mac::BROADCAST, [2, 0, 0, 0, 0, 1])
        .ipv4("192.168.0.1", "192.168.0.199")
        .df()
        .protocol(17)
        .total_length(0x73)
        .build();
    assert_packet_eq(
        &frame,
        &bytes("ffffffffffff 020000000001 0800 4500 0073 0000 4000 4011 b861 c0a80001 c0a800c7"),
    );
}
