use std::vec::Vec;

use proptest::prelude::*;

use super::*;
use crate::{
    icmp::{self, Complaint},
    parse::{self, Addresses, IPV4_LEN, Ports, TCP, UDP, v4_words, words},
};

/// RFC 1071 as it is written: 16 bits at a time, the carry round at every step.
fn sum_of(parts: &[&[u8]]) -> u16 {
    let mut bytes = parts.concat();
    bytes.resize(bytes.len().next_multiple_of(2), 0);
    bytes.chunks(2).fold(0u16, |sum, pair| {
        let (sum, carry) = sum.overflowing_add(u16::from_be_bytes([pair[0], pair[1]]));
        sum + u16::from(carry)
    })
}

fn bytes(len: usize, seed: u64) -> Vec<u8> {
    (0..len as u64).map(|i| crate::hash::mix(i ^ seed << 20) as u8).collect()
}

/// The two encodings of zero are one number.
fn same(a: u16, b: u16) -> bool {
    a % 0xffff == b % 0xffff
}

#[test]
fn sums_of_every_length() {
    let frame = bytes(V6_QUOTE + 100, 1);
    for len in 0..=V6_QUOTE {
        let QuoteSum(sum) = quote_sum(&frame[..], 14, len).unwrap();
        assert!(same(sum, sum_of(&[&frame[14..14 + len]])), "{len} bytes");
    }
    assert_eq!(quote_sum(&frame[..], 14, V6_QUOTE + 1), None);
}

#[test]
fn sums_that_carry_at_every_step() {
    for len in [2, 7, 8, 31, 32, 33, 547, 548, 1231, V6_QUOTE] {
        let frame = std::vec![0xff; 8 + len];
        let QuoteSum(sum) = quote_sum(&frame[..], 8, len).unwrap();
        assert_eq!(sum, if len % 2 == 0 { 0xffff } else { 0xff00 }, "{len}");
    }
    assert_eq!(quote_sum(&[0; 50][..], 8, 41), Some(QuoteSum(0)));
}

#[test]
fn a_frame_that_ends_early_has_no_sum() {
    let frame = bytes(200, 2);
    for len in 2..=186 {
        assert!(quote_sum(&frame[..14 + len], 14, len).is_some());
        assert_eq!(quote_sum(&frame[..14 + len - 1], 14, len), None, "{len}");
    }
}

const CLIENT6: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7];
const VIP6: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 10];

/// A UDP packet of `len` bytes from client to VIP, without its Ethernet header.
fn packet_v4(len: usize) -> Vec<u8> {
    let [l0, l1] = (len as u16).to_be_bytes();
    let head = [
        0x45, 0xb8, l0, l1, 0, 1, 0x40, 0, 63, UDP, 0xab, 0xcd, 198, 51, 100, 7, 203, 0, 113, 10, 0x9c, 0x40,
        0x13, 0xc4,
    ];
    [&head[..], &bytes(len - 24, 3)].concat()
}

fn packet_v6(len: usize) -> Vec<u8> {
    let [l0, l1] = (len as u16 - 40).to_be_bytes();
    let head = [&[0x60, 1, 2, 3, l0, l1, TCP, 63][..], &CLIENT6, &VIP6, &[0x9c, 0x40, 0x13, 0xc4]].concat();
    [&head[..], &bytes(len - 44, 4)].concat()
}

/// What the kernel half does, on the host.
fn answer(packet: &[u8], version: Version, mtu: u16) -> Vec<u8> {
    let frame = [&[0xee; 14][..], packet].concat();
    let quoted = quote_len(version, packet.len());
    let sum = quote_sum(&frame[..], 14, quoted).unwrap();
    let too_big = TooBig { mtu, quoted: quoted as u16, sum };
    let mut out = Vec::new();
    match version {
        Version::V4 => {
            let mut header = [0xcc; V4_HEADER];
            write_v4(&mut header, packet.first_chunk().unwrap(), &too_big);
            out.extend(header);
        }
        Version::V6 => {
            let mut header = [0xcc; V6_HEADER];
            write_v6(&mut header, packet.first_chunk().unwrap(), &too_big);
            out.extend(header);
        }
    }
    out.extend(&packet[..quoted]);
    out
}

/// By hand: 1500 bytes are too many for a tunnel over 1500.
#[test]
fn an_ipv4_answer_byte_by_byte() {
    let packet = packet_v4(1500);
    let got = answer(&packet, Version::V4, 1480);
    assert_eq!(got.len(), 576);
    assert_eq!(got[28..], packet[..548]);
    assert_eq!(got[..10], [0x45, 0xc0, 0x02, 0x40, 0, 0, 0x40, 0, 64, 1]);
    assert_eq!(got[12..20], [203, 0, 113, 10, 198, 51, 100, 7]);
    assert_eq!([got[20], got[21]], [3, 4]);
    assert_eq!(got[24..28], [0, 0, 0x05, 0xc8]);
    // A right checksum makes the sum of what it covers all ones.
    assert_eq!(sum_of(&[&got[..20]]), 0xffff, "IP");
    assert_eq!(sum_of(&[&got[20..]]), 0xffff, "ICMP");
}

#[test]
fn an_ipv6_answer_byte_by_byte() {
    let packet = packet_v6(1500);
    let got = answer(&packet, Version::V6, 1460);
    assert_eq!(got.len(), 1280);
    assert_eq!(got[48..], packet[..1232]);
    assert_eq!(got[..8], [0x6c, 0, 0, 0, 0x04, 0xd8, 58, 64]);
    assert_eq!(got[8..24], VIP6);
    assert_eq!(got[24..40], CLIENT6);
    assert_eq!([got[40], got[41]], [2, 0]);
    assert_eq!(got[44..48], [0, 0, 0x05, 0xb4]);
    let length = (got.len() as u32 - 40).to_be_bytes();
    assert_eq!(sum_of(&[&VIP6, &CLIENT6, &length, &[0, 0, 0, 58], &got[40..]]), 0xffff);
}

/// Small MTUs make small packets too big: all of them is quoted, odd lengths too.
#[test]
fn short_packets_are_quoted_whole() {
    for len in 60..=V6_QUOTE + 1 {
        if len <= 600 {
            let got = answer(&packet_v4(len), Version::V4, 68);
            assert_eq!(got.len(), 28 + len.min(548));
            assert_eq!((sum_of(&[&got[..20]]), sum_of(&[&got[20..]])), (0xffff, 0xffff), "{len}");
        }
        let got = answer(&packet_v6(len), Version::V6, 68);
        let length = (got.len() as u32 - 40).to_be_bytes();
        assert_eq!(got.len(), 48 + len.min(1232));
        assert_eq!(sum_of(&[&VIP6, &CLIENT6, &length, &[0, 0, 0, 58], &got[40..]]), 0xffff, "{len}");
    }
}

/// The parser of this crate reads the answer as what it is: the client's error about its own packet to the VIP.
#[test]
fn the_answer_reads_as_an_error_to_the_client() {
    for (version, packet, mtu, kind) in
        [(Version::V4, packet_v4(1500), 1480, [8, 0]), (Version::V6, packet_v6(1500), 1460, [0x86, 0xdd])]
    {
        let frame = [&[0; 12][..], &kind, &answer(&packet, version, mtu)].concat();
        let ip = parse::ip(&frame[..], parse::addresses(&frame[..], 14, version).unwrap()).unwrap();
        assert_eq!(ip.end, frame.len());
        let (complaint, flow) = icmp::flow(&frame[..], &ip).unwrap();
        assert_eq!(complaint, Complaint::TooBig { mtu: mtu as u32 });
        // Turned round once more than usual: what was quoted was on its way to the VIP.
        assert_eq!(flow.pair, Ports::pair_of(5060, 40000));
        assert_eq!(flow.addresses.destination, ip.addresses.destination);
    }
}

#[test]
fn who_is_not_answered() {
    let from = |source: Words, version, protocol| {
        let addresses = Addresses { version, l3: 14, source, destination: [0, 0] };
        deserves(&Ip { addresses, protocol, l4: 14 + IPV4_LEN, end: 1500, tos: 0, fragment: None })
    };
    let v4 = |address| from(v4_words(address), Version::V4, UDP);
    assert!(v4([198, 51, 100, 7]) && v4([1, 0, 0, 0]) && v4([223, 255, 255, 255]) && v4([126, 0, 0, 127]));
    for nobody in [[0; 4], [0, 1, 2, 3], [127, 0, 0, 1], [224, 0, 0, 1], [240, 0, 0, 1], [255; 4]] {
        assert!(!v4(nobody), "{nobody:?}");
    }
    let v6 = |address: [u8; 16]| from(words(&address), Version::V6, TCP);
    let mut link_local = [0; 16];
    (link_local[0], link_local[1], link_local[15]) = (0xfe, 0x80, 1);
    let mut multicast = link_local;
    (multicast[0], multicast[1]) = (0xff, 2);
    let loopback = 1u128.to_be_bytes();
    assert!(v6(CLIENT6) && v6(link_local) && v6(2u128.to_be_bytes()));
    assert!(!v6([0; 16]) && !v6(loopback) && !v6(multicast));
    assert!(!from(v4_words([198, 51, 100, 7]), Version::V4, ICMP));
    assert!(!from(words(&CLIENT6), Version::V6, ICMPV6));
}

proptest! {
    #[test]
    fn any_packet_has_right_checksums(
        body in proptest::collection::vec(any::<u8>(), 40..1400),
        mtu in any::<u16>(),
        six in any::<bool>(),
    ) {
        if six {
            let got = answer(&body, Version::V6, mtu);
            let length = (got.len() as u32 - 40).to_be_bytes();
            prop_assert_eq!(sum_of(&[&got[8..40], &length, &[0, 0, 0, 58], &got[40..]]), 0xffff);
        } else {
            let got = answer(&body, Version::V4, mtu);
            prop_assert_eq!(sum_of(&[&got[..20]]), 0xffff);
            prop_assert_eq!(sum_of(&[&got[20..]]), 0xffff);
        }
    }

    #[test]
    fn any_bytes_anywhere(frame in proptest::collection::vec(any::<u8>(), 8..1300), at in any::<prop::sample::Index>(), len in any::<prop::sample::Index>()) {
        let at = at.index(frame.len() + 1);
        let len = len.index(frame.len() - at + 1);
        prop_assume!(len <= V6_QUOTE && len != 1 && at <= 800);
        let QuoteSum(sum) = quote_sum(&frame[..], at, len).unwrap();
        prop_assert!(same(sum, sum_of(&[&frame[at..at + len]])));
        prop_assert!(sum != 0 || frame[at..at + len].iter().all(|&b| b == 0));
    }
}
