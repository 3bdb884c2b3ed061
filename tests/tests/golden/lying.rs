//! Packets for a VIP whose headers contradict themselves or the frame.

use xdp_lb_common::reason::DropReason::{IpHeader, IpLength, IpTruncated, L4Length, L4Truncated, TtlZero};

use super::Row;
use super::net::{VIP, VIP_OVER_V6, VIP_PASS, VIP_V6, VIP_V6_OVER_V6, VIP_V6_PASS, to, to_v6};
use super::tunnels::{over_v4, over_v6};

/// 40 bytes that are not all alike.
const PAYLOAD: &[u8] = b"0123456789abcdefghijABCDEFGHIJ9876543210";

/// The IPv4 header: version, IHL, total length, TTL.
pub fn ipv4() -> Vec<Row> {
    let plain = || to(VIP);
    let mut rows = Vec::new();
    for version in [0, 3, 5, 6, 15] {
        let frame = plain().version(version).udp(1, 5060).payload(PAYLOAD);
        rows.push(Row::drops(format!("version {version}"), frame.build(), IpHeader));
    }
    for ihl in 0..5 {
        let frame = plain().ihl(ihl).udp(1, 5060).payload(PAYLOAD);
        rows.push(Row::drops(format!("ihl {ihl}"), frame.build(), IpHeader));
    }
    // 20 + 8 bytes in all: from 8 words on the header would end behind the packet.
    for ihl in [8, 15] {
        rows.push(Row::drops(
            format!("ihl {ihl} of 28 bytes"),
            plain().ihl(ihl).udp(1, 5060).build(),
            IpLength,
        ));
    }
    let options_end = plain().ihl(7).udp(1, 5060).build();
    rows.push(Row::drops("options up to the end leave no transport", options_end, L4Truncated));
    let udp = |length: u16| plain().total_length(length).udp(1, 5060).payload(PAYLOAD);
    for length in [0, 1, 19] {
        rows.push(Row::drops(format!("total length {length}"), udp(length).build(), IpLength));
    }
    for length in [20, 21, 27] {
        rows.push(Row::drops(format!("total length {length}"), udp(length).build(), L4Truncated));
    }
    for length in [28, 40, 67] {
        rows.push(Row::drops(format!("total length {length}, udp says 48"), udp(length).build(), L4Length));
    }
    for length in [69, 1500, 65535] {
        rows.push(Row::drops(format!("total length {length} of 68"), udp(length).build(), IpLength));
    }
    let tcp = |length: u16| plain().total_length(length).tcp(1, 443).payload(PAYLOAD);
    for length in [20, 39] {
        rows.push(Row::drops(format!("total length {length}, tcp"), tcp(length).build(), L4Truncated));
    }
    // TCP has no length of its own: the rest of the frame is padding, honestly.
    for length in [40, 79] {
        let padding = 80 - usize::from(length);
        rows.push(over_v4(format!("total length {length}, tcp"), tcp(length).build(), 0, padding));
    }
    let padded = plain().total_length(69).udp(1, 5060).payload(PAYLOAD).trailer(&[0; 4]);
    rows.push(over_v4("total length reaches into the padding", padded.build(), 0, 3));
    rows.push(Row::drops("ttl 0", plain().ttl(0).udp(1, 5060).build(), TtlZero));
    rows.push(Row::drops("unmatched: pass, version 5", to(VIP_PASS).version(5).udp(1, 22).build(), IpHeader));
    rows.push(Row::drops("unmatched: pass, ttl 0", to(VIP_PASS).ttl(0).udp(1, 22).build(), TtlZero));
    rows
}

/// The IPv6 header: version, payload length, hop limit.
pub fn ipv6() -> Vec<Row> {
    let plain = || to_v6(VIP_V6);
    let mut rows = Vec::new();
    for version in [0, 4, 5, 7, 15] {
        let frame = plain().version(version).udp(1, 5060).payload(PAYLOAD);
        rows.push(Row::drops(format!("version {version}"), frame.build(), IpHeader));
    }
    let udp = |length: u16| plain().payload_length(length).udp(1, 5060).payload(PAYLOAD);
    // Zero is the mark of a jumbogram (RFC 2675), which no Ethernet carries.
    for length in [0, 1, 7] {
        rows.push(Row::drops(format!("payload length {length}"), udp(length).build(), L4Truncated));
    }
    for length in [8, 47] {
        rows.push(Row::drops(format!("payload length {length}, udp says 48"), udp(length).build(), L4Length));
    }
    for length in [49, 1500, 65535] {
        rows.push(Row::drops(format!("payload length {length} of 48"), udp(length).build(), IpLength));
    }
    let tcp = |length: u16| to_v6(VIP_V6_OVER_V6).payload_length(length).tcp(1, 443).payload(PAYLOAD);
    for length in [0, 19] {
        rows.push(Row::drops(format!("payload length {length}, tcp"), tcp(length).build(), L4Truncated));
    }
    for length in [20, 59] {
        let padding = 60 - usize::from(length);
        rows.push(over_v6(format!("payload length {length}, tcp"), tcp(length).build(), 0, padding));
    }
    rows.push(Row::drops("hop limit 0", plain().hop_limit(0).udp(1, 5060).build(), TtlZero));
    rows.push(Row::drops(
        "unmatched: pass, hop limit 0",
        to_v6(VIP_V6_PASS).hop_limit(0).udp(1, 22).build(),
        TtlZero,
    ));
    rows
}

/// Extension headers that say more than there is.
pub fn extensions() -> Vec<Row> {
    let plain = || to_v6(VIP_V6);
    vec![
        Row::drops(
            "an extension beyond the packet",
            plain().hop_by_hop(&[]).length(7).udp(1, 5060).build(),
            IpTruncated,
        ),
        Row::drops(
            "the longest extension",
            plain().destination_options(&[]).length(255).udp(1, 5060).payload(PAYLOAD).build(),
            IpTruncated,
        ),
        Row::drops("an extension announced, none there", plain().next_header(0).build(), IpTruncated),
        Row::drops(
            "a second one announced, none there",
            plain().hop_by_hop(&[]).next_header(60).build(),
            IpTruncated,
        ),
        Row::drops("a fragment header announced, none there", plain().next_header(44).build(), IpTruncated),
        Row::drops(
            "an authentication header announced, none there",
            plain().next_header(51).build(),
            IpTruncated,
        ),
        Row::drops(
            "an extension in the padding",
            plain().next_header(60).payload_length(0).payload(&[17, 0, 1, 4, 0, 0, 0, 0]).build(),
            IpTruncated,
        ),
        Row::drops(
            "an extension, and then no transport",
            plain().hop_by_hop(&[]).next_header(17).build(),
            L4Truncated,
        ),
    ]
}

/// The UDP length and the TCP data offset.
pub fn transport() -> Vec<Row> {
    let mut rows = Vec::new();
    for length in [0, 1, 7, 49, 65535] {
        let v4 = to(VIP).udp(1, 5060).length(length).payload(PAYLOAD);
        let v6 = to_v6(VIP_V6).udp(1, 5060).length(length).payload(PAYLOAD);
        rows.push(Row::drops(format!("udp length {length} of 48"), v4.build(), L4Length));
        rows.push(Row::drops(format!("udp6 length {length} of 48"), v6.build(), L4Length));
    }
    // Less than IP has is allowed (RFC 768 says nothing else): surplus area.
    for length in [8, 47] {
        let v4 = to(VIP).udp(1, 5060).length(length).payload(PAYLOAD);
        let v6 = to_v6(VIP_V6).udp(1, 5060).length(length).payload(PAYLOAD);
        rows.push(over_v4(format!("udp length {length} of 48"), v4.build(), 0, 0));
        rows.push(over_v4(format!("udp6 length {length} of 48"), v6.build(), 0, 0));
    }
    for words in [0, 1, 4, 8, 15] {
        // 20 bytes and 8 of payload: seven words are all there is.
        let v4 = to(VIP).tcp(1, 443).data_offset(words).payload(&PAYLOAD[..8]);
        let v6 = to_v6(VIP_V6).tcp(1, 443).data_offset(words).payload(&PAYLOAD[..8]);
        rows.push(Row::drops(format!("tcp data offset {words}"), v4.build(), L4Length));
        rows.push(Row::drops(format!("tcp6 data offset {words}"), v6.build(), L4Length));
    }
    let all_header = to(VIP_OVER_V6).tcp(1, 443).data_offset(7).payload(&[1; 8]);
    rows.push(over_v6("tcp data offset 7, no payload", all_header.build(), 0, 0));
    // A padding that could complete the header is no part of the packet.
    let in_padding = to(VIP).total_length(27).udp(1, 5060).trailer(&[0; 20]);
    rows.push(Row::drops("a udp header that ends in the padding", in_padding.build(), L4Truncated));
    let offset_in_padding = to(VIP).tcp(1, 443).data_offset(6).trailer(&[0; 20]);
    rows.push(Row::drops("tcp options in the padding", offset_in_padding.build(), L4Length));
    let length_in_padding = to(VIP).udp(1, 5060).length(9).trailer(&[0; 20]);
    rows.push(Row::drops("a udp length that counts the padding", length_in_padding.build(), L4Length));
    for length in [0, 4, 7] {
        let v4 = to(VIP).protocol(1).payload(&[8, 0, 0xf7, 0xff, 0, 0, 0, 0][..length]);
        let v6 = to_v6(VIP_V6).next_header(58).payload(&[128, 0, 0, 0, 0, 0, 0, 0][..length]);
        rows.push(Row::drops(format!("icmp of {length} bytes"), v4.build(), L4Truncated));
        rows.push(Row::drops(format!("icmpv6 of {length} bytes"), v6.build(), L4Truncated));
    }
    rows
}
