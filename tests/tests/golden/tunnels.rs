//! Packets that are forwarded: four families of tunnels, TCP and UDP, what the outer header copies and what it does not.

use xdp_lb_tests::packet::{ACK, FIN, PSH, RST, SYN};
use xdp_lb_tests::prog::Counted;

use super::net::{VIP, VIP_OVER_V6, VIP_V6, VIP_V6_OVER_V6, to, to_v6, tunnel, tunnel_v6};
use super::{Output, Row};

/// A row that puts `input` as it is into the IPv4 tunnel; `trailer` bytes of it are Ethernet padding.
pub fn over_v4(name: impl Into<String>, input: Vec<u8>, tos: u8, trailer: usize) -> Row {
    let (packet, padding) = input[14..].split_at(input.len() - 14 - trailer);
    let output = tunnel(tos).inner(packet).trailer(padding).build();
    let counted = Counted::Forwarded(packet.len() as u64);
    Row::sends(name, input, Output::Whole(output), counted)
}

/// A row that puts `input` as it is into the IPv6 tunnel; `trailer` bytes of it are Ethernet padding.
pub fn over_v6(name: impl Into<String>, input: Vec<u8>, tos: u8, trailer: usize) -> Row {
    let (packet, padding) = input[14..].split_at(input.len() - 14 - trailer);
    let output = tunnel_v6(tos).inner(packet).trailer(padding).build();
    let counted = Counted::Forwarded(packet.len() as u64);
    Row::sends(name, input, Output::Labelled(output), counted)
}

/// Every family in every family, with every transport.
pub fn families() -> Vec<Row> {
    let request = b"OPTIONS sip:example.org SIP/2.0\r\n\r\n";
    vec![
        over_v4("udp, 4 in 4", to(VIP).udp(40000, 5060).payload(request).build(), 0, 0),
        over_v4("udp, 6 in 4", to_v6(VIP_V6).udp(40000, 5060).payload(request).build(), 0, 0),
        over_v6("udp, 4 in 6", to(VIP_OVER_V6).udp(40000, 5060).payload(request).build(), 0, 0),
        over_v6("udp, 6 in 6", to_v6(VIP_V6_OVER_V6).udp(40000, 5060).payload(request).build(), 0, 0),
        over_v4("tcp, 4 in 4", to(VIP).tcp(40000, 443).payload(request).build(), 0, 0),
        over_v4("tcp, 6 in 4", to_v6(VIP_V6).tcp(40000, 443).payload(request).build(), 0, 0),
        over_v6("tcp, 4 in 6", to(VIP_OVER_V6).tcp(40000, 443).payload(request).build(), 0, 0),
        over_v6("tcp, 6 in 6", to_v6(VIP_V6_OVER_V6).tcp(40000, 443).payload(request).build(), 0, 0),
    ]
}

/// The transport does not matter beyond its ports.
pub fn transports() -> Vec<Row> {
    let mut rows: Vec<Row> = [SYN, SYN | ACK, ACK, PSH | ACK, FIN | ACK, RST, 0, 0xff]
        .into_iter()
        .map(|flags| {
            over_v4(format!("tcp flags {flags:#04x}"), to(VIP).tcp(40000, 443).flags(flags).build(), 0, 0)
        })
        .collect();
    let options = [2, 4, 5, 0xb4, 1, 3, 3, 7, 4, 2];
    let most = [1; 40];
    rows.extend([
        over_v4("tcp options", to(VIP).tcp(40000, 80).flags(SYN).options(&options).build(), 0, 0),
        over_v6("most tcp options", to(VIP_OVER_V6).tcp(40000, 80).options(&most).build(), 0, 0),
        over_v4("udp without payload", to(VIP).udp(40000, 5060).build(), 0, 0),
        over_v4("odd payload", to(VIP).udp(40000, 5060).payload(b"odd").build(), 0, 0),
        over_v4("udp without checksum", to(VIP).udp(40000, 5060).checksum(0).payload(b"x").build(), 0, 0),
        over_v4("a wrong checksum is the backend's", to(VIP).udp(40000, 5060).checksum(0xbad).build(), 0, 0),
        over_v4("a full frame", to(VIP).udp(40000, 5060).payload(&[0xa5; 1472]).build(), 0, 0),
        over_v6("a jumbo frame", to_v6(VIP_V6_OVER_V6).udp(40000, 5060).payload(&[0xa5; 3000]).build(), 0, 0),
    ]);
    rows
}

/// What the inner header says stays inside, but for DSCP and ECN.
pub fn headers() -> Vec<Row> {
    let v4 = || to(VIP).id(0xbeef);
    let v6 = || to_v6(VIP_V6_OVER_V6);
    let mut rows = vec![
        over_v4("no df inside", v4().ttl(255).udp(1, 5060).build(), 0, 0),
        over_v4("df inside", v4().df().udp(1, 5060).build(), 0, 0),
        over_v4("ttl 1", v4().ttl(1).udp(1, 5060).build(), 0, 0),
        over_v6("hop limit 1", v6().hop_limit(1).udp(1, 5060).build(), 0, 0),
        over_v4("reserved flag", v4().reserved_flag().udp(1, 5060).build(), 0, 0),
        over_v4("a wrong header checksum is the backend's", v4().checksum(0xbad).udp(1, 5060).build(), 0, 0),
        over_v6("flow label inside", v6().flow_label(0xfffff).udp(1, 5060).build(), 0, 0),
    ];
    for tos in [0x01, 0x02, 0x03, 0xb8, 0xb9, 0xff] {
        rows.extend([
            over_v4(format!("tos {tos:#04x}, 4 in 4"), to(VIP).tos(tos).udp(1, 5060).build(), tos, 0),
            over_v4(
                format!("tos {tos:#04x}, 6 in 4"),
                to_v6(VIP_V6).traffic_class(tos).udp(1, 5060).build(),
                tos,
                0,
            ),
            over_v6(format!("tos {tos:#04x}, 4 in 6"), to(VIP_OVER_V6).tos(tos).udp(1, 5060).build(), tos, 0),
            over_v6(format!("tos {tos:#04x}, 6 in 6"), v6().traffic_class(tos).udp(1, 5060).build(), tos, 0),
        ]);
    }
    rows
}

/// `dscp: 46` sets the DSCP and still copies ECN (RFC 6040, normal mode).
pub fn dscp() -> Vec<Row> {
    let mut rows = Vec::new();
    for (tos, outer) in [(0x00, 0xb8), (0x03, 0xbb), (0x29, 0xb9), (0xfe, 0xba)] {
        let (v4, v6) = (
            |vip| to(vip).tos(tos).udp(1, 7100).build(),
            |vip| to_v6(vip).traffic_class(tos).udp(1, 7100).build(),
        );
        rows.extend([
            over_v4(format!("{tos:#04x}, 4 in 4"), v4(VIP), outer, 0),
            over_v4(format!("{tos:#04x}, 6 in 4"), v6(VIP_V6), outer, 0),
            over_v6(format!("{tos:#04x}, 4 in 6"), v4(VIP_OVER_V6), outer, 0),
            over_v6(format!("{tos:#04x}, 6 in 6"), v6(VIP_V6_OVER_V6), outer, 0),
        ]);
    }
    rows
}

/// Ethernet pads short frames; the tunnel's length does not count what the inner length does not.
pub fn padding() -> Vec<Row> {
    let pad = [0; 18];
    vec![
        over_v4("4 in 4", to(VIP).udp(1, 5060).trailer(&pad).build(), 0, 18),
        over_v6("4 in 6", to(VIP_OVER_V6).udp(1, 5060).trailer(&pad).build(), 0, 18),
        over_v4("6 in 4", to_v6(VIP_V6).udp(1, 5060).trailer(&[0x5a]).build(), 0, 1),
        over_v6("6 in 6", to_v6(VIP_V6_OVER_V6).tcp(1, 443).trailer(&[0xff; 7]).build(), 0, 7),
    ]
}

/// Metadata eats headroom: `bpf_xdp_adjust_head` needs room for the header, the metadata and 40 bytes of the kernel's.
pub fn headroom() -> Vec<Row> {
    use xdp_lb_common::reason::DropReason::NoHeadroom;

    let (over4, over6) = (|| to(VIP).udp(1, 5060).build(), || to(VIP_OVER_V6).udp(1, 5060).build());
    vec![
        over_v4("just enough for IPv4", over4(), 0, 0).with_metadata(196),
        Row::drops("too little for IPv4", over4(), NoHeadroom).with_metadata(200),
        over_v6("just enough for IPv6", over6(), 0, 0).with_metadata(176),
        Row::drops("too little for IPv6", over6(), NoHeadroom).with_metadata(180),
    ]
}
