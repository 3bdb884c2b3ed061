//! The builder against frames that another program made (scapy 2.5), byte for byte.

use super::*;

const CLIENT: &str = "198.51.100.7";
const VIP: &str = "203.0.113.10";
const CLIENT_V6: &str = "2001:db8:1::7";
const VIP_V6: &str = "2001:db8::10";

fn frame() -> Frame<Ethernet> {
    eth("02:00:00:00:00:01", "02:00:00:00:00:02")
}

/// Asserts that `built` is the bytes in `hex`, behind the Ethernet addresses of [`frame`].
#[track_caller]
fn same(built: &[u8], hex: &str) {
    let nibbles: Vec<u8> =
        hex.chars().filter_map(|c| c.to_digit(16)).map(|digit| u8::try_from(digit).unwrap()).collect();
    let bytes: Vec<u8> = nibbles.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect();
    assert_packet_eq(built, &[&built[..12], &bytes].concat());
}

/// IPv4 and UDP, every plain field set.
#[test]
fn udp_in_ipv4() {
    let built = frame()
        .ipv4(CLIENT, VIP)
        .ttl(63)
        .tos(0x2e << 2)
        .id(7)
        .df()
        .udp(40000, 5060)
        .payload(b"OPTIONS")
        .build();
    same(&built, "0800 45b80023 00074000 3f11d4c5 c6336407 cb00710a 9c4013c4 000fa39d 4f505449 4f4e53");
}

/// IPv4 options, TCP options and an odd payload.
#[test]
fn tcp_in_ipv4_with_options() {
    let built = frame()
        .ipv4(CLIENT, VIP)
        .id(1)
        .options(&[0x94, 4, 0, 0])
        .tcp(40001, 443)
        .seq(0x0102_0304)
        .ack(5)
        .flags(SYN | ACK)
        .options(&[2, 4, 5, 0xb4])
        .payload(b"odd")
        .build();
    same(
        &built,
        "0800 46000033 00010000 40067f7a c6336407 cb00710a 94040000 9c4101bb 01020304 00000005 \
         6012faf0 c1700000 020405b4 6f6464",
    );
}

/// IPv6 and UDP, every plain field set.
#[test]
fn udp_in_ipv6() {
    let built = frame()
        .ipv6(CLIENT_V6, VIP_V6)
        .traffic_class(0xb9)
        .flow_label(0xabcde)
        .hop_limit(63)
        .udp(40000, 5060)
        .payload(b"OPTIONS")
        .build();
    same(
        &built,
        "86dd 6b9abcde 000f113f 20010db8 00010000 00000000 00000007 20010db8 00000000 00000000 \
         00000010 9c4013c4 000fae59 4f505449 4f4e53",
    );
}

/// Extension headers with options padded to eight bytes.
#[test]
fn tcp_behind_extension_headers() {
    let built = frame()
        .ipv6(CLIENT_V6, VIP_V6)
        .hop_by_hop(&[5, 2, 0, 0])
        .destination_options(&[])
        .tcp(40001, 443)
        .flags(SYN)
        .build();
    same(
        &built,
        "86dd 60000000 00240040 20010db8 00010000 00000000 00000007 20010db8 00000000 00000000 \
         00000010 3c000502 00000100 06000104 00000000 9c4101bb 00000000 00000000 5002faf0 bb6b0000",
    );
}

/// A middle fragment of IPv6.
#[test]
fn fragment_of_ipv6() {
    let built = frame()
        .ipv6(CLIENT_V6, VIP_V6)
        .fragment_header(1480, true, 0x0102_0304)
        .next_header(17)
        .payload(b"abcdefgh")
        .build();
    same(
        &built,
        "86dd 60000000 00102c40 20010db8 00010000 00000000 00000007 20010db8 00000000 00000000 \
         00000010 110005c9 01020304 61626364 65666768",
    );
}

/// A middle fragment of IPv4.
#[test]
fn fragment_of_ipv4() {
    let built =
        frame().ipv4(CLIENT, VIP).id(1).fragment(1480, true).protocol(17).payload(b"abcdefgh").build();
    same(&built, "0800 4500001c 000120b9 4011f3d1 c6336407 cb00710a 61626364 65666768");
}

/// ICMP covers no pseudo header.
#[test]
fn echo_in_ipv4() {
    let built = frame().ipv4(CLIENT, VIP).id(1).echo_request(0x1234, 9).payload(b"abc").build();
    same(&built, "0800 4500001f 00010000 40011498 c6336407 cb00710a 08002160 12340009 616263");
}

/// ICMPv6 covers one.
#[test]
fn echo_in_ipv6() {
    let built = frame().ipv6(CLIENT_V6, VIP_V6).echo_request_v6(0x1234, 9).payload(b"abc").build();
    same(
        &built,
        "86dd 60000000 000b3a40 20010db8 00010000 00000000 00000007 20010db8 00000000 00000000 \
         00000010 80004d90 12340009 616263",
    );
}

/// Neighbour discovery.
#[test]
fn neighbour_solicitation() {
    let built =
        frame().ipv6(CLIENT_V6, "ff02::1:ff00:10").hop_limit(255).neighbour_solicitation(VIP_V6).build();
    same(
        &built,
        "86dd 60000000 00183aff 20010db8 00010000 00000000 00000007 ff020000 00000000 00000001 \
         ff000010 87001f0e 00000000 20010db8 00000000 00000000 00000010",
    );
}

/// IPv6 in IPv4 behind a VLAN tag.
#[test]
fn ipv6_in_ipv4_with_vlan() {
    let built = frame()
        .vlan(7)
        .priority(5)
        .ipv4("172.16.0.1", "10.1.2.11")
        .id(1)
        .df()
        .ipv6(CLIENT_V6, VIP_V6)
        .udp(1, 2)
        .build();
    same(
        &built,
        "8100 a0070800 45000044 00014000 40298273 ac100001 0a01020b 60000000 00081140 20010db8 \
         00010000 00000000 00000007 20010db8 00000000 00000000 00000010 00010002 0008a451",
    );
}

/// IPv4 in IPv6.
#[test]
fn ipv4_in_ipv6() {
    let built = frame().ipv6("fd00::1", "fd00::2").ipv4(CLIENT, VIP).id(1).udp(1, 2).build();
    same(
        &built,
        "86dd 60000000 001c0440 fd000000 00000000 00000000 00000001 fd000000 00000000 00000000 \
         00000002 4500001c 00010000 4011148b c6336407 cb00710a 00010002 00089995",
    );
}

/// The Ethernet addresses too: destination first.
#[test]
fn arp() {
    let built =
        eth(Mac::BROADCAST, "02:00:00:00:00:02").arp_request("02:00:00:00:00:02", CLIENT, VIP).build();
    assert_eq!(built[..12], [0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 2]);
    same(&built, "0806 0001 0800 06 04 0001 020000000002 c6336407 000000000000 cb00710a");
}

/// RFC 768: a sum of zero is sent as all ones, zero says that there is no checksum.
#[test]
fn udp_checksum_is_never_zero_by_itself() {
    let built = |payload: [u8; 2]| frame().ipv4(CLIENT, VIP).udp(1, 2).payload(&payload).build();
    let zero_sum = built([0, 0])[40..42].to_vec();
    assert_eq!(built([zero_sum[0], zero_sum[1]])[40..42], [0xff, 0xff]);
    assert_eq!(frame().ipv4(CLIENT, VIP).udp(1, 2).checksum(0).build()[40..42], [0, 0]);
}

#[test]
fn lies_stay_lies() {
    let v4 =
        frame().ipv4(CLIENT, VIP).version(5).ihl(4).total_length(9).protocol(6).udp(1, 2).length(3).build();
    assert_eq!((v4[14], &v4[16..18], v4[23], &v4[38..40]), (0x54, &[0, 9][..], 6, &[0, 3][..]));
    let v6 = frame()
        .ipv6(CLIENT_V6, VIP_V6)
        .version(4)
        .payload_length(7)
        .next_header(60)
        .tcp(1, 2)
        .data_offset(15)
        .build();
    assert_eq!((v6[14], &v6[18..20], v6[20], v6[66]), (0x40, &[0, 7][..], 60, 0xf0));
}

#[test]
fn a_trailer_is_in_no_length() {
    let plain = frame().ipv4(CLIENT, VIP).udp(1, 2).build();
    let padded = frame().ipv4(CLIENT, VIP).trailer(&[0; 18]).udp(1, 2).build();
    assert_packet_eq(&padded, &[&plain[..], &[0; 18]].concat());
}
