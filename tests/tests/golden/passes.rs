//! What is none of the balancer's business goes up byte for byte.

use xdp_lb_common::reason::PassReason::{NotAVip, NotIp};
use xdp_lb_tests::packet::{Mac, eth};

use super::Row;
use super::net::{CLIENT, OTHER, OTHER_V6, ROUTER_MAC, VIP, VIP_V6, frame, to, to_v6};

/// Frames that carry no IP, at least not where we look.
pub fn not_ip() -> Vec<Row> {
    let arp = eth(Mac::BROADCAST, ROUTER_MAC).arp_request(ROUTER_MAC, CLIENT, VIP);
    vec![
        Row::passes("arp for a vip", arp.build(), NotIp),
        Row::passes("arp, padded", arp.trailer(&[0; 18]).build(), NotIp),
        Row::passes("lldp", frame().ethertype(0x88cc).payload(&[2, 7, 4, 1, 2, 3, 4, 5, 6]).build(), NotIp),
        Row::passes("802.3 length", frame().ethertype(38).payload(&[0x42; 38]).build(), NotIp),
        Row::passes("ethertype zero", frame().ethertype(0).payload(&[0; 46]).build(), NotIp),
        Row::passes("mpls", frame().ethertype(0x8847).payload(&[0, 1, 1, 64]).build(), NotIp),
        Row::passes("a bare header", frame().ethertype(0x88b5).build(), NotIp),
        Row::passes(
            "ip of another ethertype",
            frame().ethertype(0x0801).inner(&to(VIP).udp(1, 5060).build()[14..]).build(),
            NotIp,
        ),
    ]
}

/// Packets for others: nothing about them is judged.
pub fn not_a_vip() -> Vec<Row> {
    let mut rows = vec![
        Row::passes("udp", to(OTHER).udp(1, 5060).build(), NotAVip),
        Row::passes("tcp", to(OTHER).tcp(1, 443).build(), NotAVip),
        Row::passes("echo", to(OTHER).echo_request(1, 2).build(), NotAVip),
        Row::passes("udp6", to_v6(OTHER_V6).udp(1, 5060).build(), NotAVip),
        Row::passes("echo6", to_v6(OTHER_V6).echo_request_v6(1, 2).build(), NotAVip),
        Row::passes("from a vip", frame().ipv4(VIP, OTHER).udp(5060, 1).build(), NotAVip),
        Row::passes("broadcast", to("255.255.255.255").udp(68, 67).build(), NotAVip),
        Row::passes("multicast", to("224.0.0.5").protocol(89).payload(&[0; 24]).build(), NotAVip),
        Row::passes(
            "solicitation to the group",
            to_v6("ff02::1:ff00:10").hop_limit(255).neighbour_solicitation(VIP_V6).build(),
            NotAVip,
        ),
        Row::passes("a tunnel", to(OTHER).ipv4(CLIENT, VIP).udp(1, 5060).build(), NotAVip),
        // IPv4 VIPs are kept as mapped addresses: the table's form must not become an address on the wire.
        Row::passes(
            "a mapped address is no IPv4 vip",
            to_v6("::ffff:203.0.113.10").udp(1, 5060).build(),
            NotAVip,
        ),
    ];
    // Malformed, but not ours to say so.
    rows.extend([
        Row::passes("version 5", to(OTHER).version(5).udp(1, 2).build(), NotAVip),
        Row::passes("ihl 0", to(OTHER).ihl(0).udp(1, 2).build(), NotAVip),
        Row::passes("a lying length", to(OTHER).total_length(0xffff).udp(1, 2).build(), NotAVip),
        Row::passes("ttl 0", to(OTHER).ttl(0).udp(1, 2).build(), NotAVip),
        Row::passes("hop limit 0", to_v6(OTHER_V6).hop_limit(0).udp(1, 2).build(), NotAVip),
        Row::passes(
            "a fragment",
            to(OTHER).fragment(1480, true).protocol(17).payload(&[0; 8]).build(),
            NotAVip,
        ),
        Row::passes(
            "a lying payload length",
            to_v6(OTHER_V6).payload_length(0xffff).udp(1, 2).build(),
            NotAVip,
        ),
    ]);
    rows
}
