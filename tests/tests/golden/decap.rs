//! The backend side: tunnels that are taken off, refused, or none of our business.

use xdp_lb_common::reason::DropReason::{TunnelEcn, TunnelMalformed, TunnelSource};
use xdp_lb_common::reason::PassReason::{DecapVip, Decapsulated, NoAddress, NotAVip, NotIp, TunnelForOthers};
use xdp_lb_tests::packet::{Frame, Ipv4, Ipv6, Mac, eth};
use xdp_lb_tests::prog::MIN_PACKET;

use super::Row;
use super::net::{
    BACKEND, BACKEND_V6, CLIENT, OTHER, OTHER_V6, ROUTER_MAC, SOURCE, SOURCE_V6, VIP, VIP_V6, frame, to,
    to_v6,
};
use super::truncated::{honest_v4, honest_v6};
use super::tunnels::over_v4;

/// A tunnel from `source` to this node.
fn outer(source: &str) -> Frame<Ipv4> {
    frame().ipv4(source, BACKEND).df()
}

/// A tunnel from `source` to this node.
fn outer_v6(source: &str) -> Frame<Ipv6> {
    frame().ipv6(source, BACKEND_V6).flow_label(0xabcde)
}

/// The inner packet on the wire alone, as the stack gets it.
fn packet() -> Vec<u8> {
    to(VIP).tos(0xb9).udp(40000, 5060).payload(b"REGISTER sip:example.org SIP/2.0").build()
}

fn packet_v6() -> Vec<u8> {
    to_v6(VIP_V6).traffic_class(0xb9).tcp(40000, 443).payload(b"GET / HTTP/1.1").build()
}

/// Every family in every family, from every allowed source: MACs stay, the EtherType follows the inner packet.
pub fn taken_off() -> Vec<Row> {
    let (v4, v6) = (packet(), packet_v6());
    let row =
        |name: &str, input: Vec<u8>, inner: &[u8]| Row::hands_up(name, input, inner.to_vec(), Decapsulated);
    let mut rows = vec![
        row("4 in 4", outer(SOURCE).tos(0xb9).inner(&v4[14..]).build(), &v4),
        row("6 in 4", outer(SOURCE).tos(0xb9).inner(&v6[14..]).build(), &v6),
        row("4 in 6", outer_v6(SOURCE_V6).traffic_class(0xb9).inner(&v4[14..]).build(), &v4),
        row("6 in 6", outer_v6(SOURCE_V6).traffic_class(0xb9).inner(&v6[14..]).build(), &v6),
        row("first address of a prefix", outer("172.16.0.0").inner(&v4[14..]).build(), &v4),
        row("last address of a prefix", outer("172.16.255.255").inner(&v4[14..]).build(), &v4),
        row("a single address", outer("10.9.9.9").inner(&v6[14..]).build(), &v6),
        row("first address of an IPv6 prefix", outer_v6("fd00:7864:7000::").inner(&v4[14..]).build(), &v4),
        row(
            "last address of an IPv6 prefix",
            outer_v6("fd00:7864:7000::ffff:ffff:ffff:ffff").inner(&v6[14..]).build(),
            &v6,
        ),
        row("outer options", outer(SOURCE).options(&[1; 8]).inner(&v4[14..]).build(), &v4),
        row(
            "outer extension header",
            outer_v6(SOURCE_V6).destination_options(&[4, 1, 4]).inner(&v4[14..]).build(),
            &v4,
        ),
        row("ttl of the tunnel's last hop", outer(SOURCE).ttl(1).inner(&v4[14..]).build(), &v4),
    ];
    // Whatever the inner packet is, it is the stack's.
    for (name, inner) in [
        ("inner echo request", to(VIP).echo_request(1, 2).payload(b"ping").build()),
        ("inner fragment", to(VIP).fragment(1480, true).protocol(17).payload(&[0; 64]).build()),
        (
            "inner fragment of IPv6",
            to_v6(VIP_V6).fragment_header(8, true, 1).next_header(17).payload(&[0; 64]).build(),
        ),
        ("inner options", to(VIP).options(&[1; 12]).tcp(1, 443).build()),
        ("inner ttl 1", to(VIP).ttl(1).udp(1, 5060).build()),
        ("inner protocol that nobody knows", to(VIP).protocol(253).payload(&[0; 8]).build()),
        ("inner header alone", to(VIP).protocol(253).build()),
        ("inner header alone in IPv6", to_v6(VIP_V6).build()),
        ("a full frame", to(VIP).udp(1, 5060).payload(&[0xa5; 1472]).build()),
    ] {
        rows.push(row(name, outer(SOURCE).inner(&inner[14..]).build(), &inner));
        rows.push(row(&format!("{name}, in 6"), outer_v6(SOURCE_V6).inner(&inner[14..]).build(), &inner));
    }
    let padded = to(VIP).udp(1, 5060).build();
    rows.push(row(
        "padded by Ethernet",
        outer(SOURCE).inner(&padded[14..]).trailer(&[0; 7]).build(),
        &[&padded[..], &[0; 7]].concat(),
    ));
    rows
}

/// ECN of both headers as RFC 6040 wants it; DSCP stays the inner packet's.
pub fn congestion() -> Vec<Row> {
    const NOT: u8 = 0;
    const ONE: u8 = 1;
    const ZERO: u8 = 2;
    const CE: u8 = 3;
    let mut rows = Vec::new();
    for (inner, row) in [
        (NOT, [Some(NOT), Some(NOT), Some(NOT), None]),
        (ONE, [Some(ONE), Some(ONE), Some(ONE), Some(CE)]),
        (ZERO, [Some(ZERO), Some(ONE), Some(ZERO), Some(CE)]),
        (CE, [Some(CE); 4]),
    ] {
        for (wire, wanted) in [NOT, ONE, ZERO, CE].into_iter().zip(row) {
            let name = |families: &str| format!("{inner:02b} in {wire:02b}, {families}");
            let v4 = |ecn| to(VIP).tos(0xb8 | ecn).options(&[1; 4]).udp(40000, 5060).build();
            let v6 = |ecn| to_v6(VIP_V6).traffic_class(0xb8 | ecn).tcp(40000, 443).build();
            let over4 = |packet: Vec<u8>| outer(SOURCE).tos(0x28 | wire).inner(&packet[14..]).build();
            let over6 =
                |packet: Vec<u8>| outer_v6(SOURCE_V6).traffic_class(0x28 | wire).inner(&packet[14..]).build();
            let mut row = |families, input: Vec<u8>, output: Option<Vec<u8>>| {
                rows.push(match output {
                    Some(output) => Row::hands_up(name(families), input, output, Decapsulated),
                    None => Row::drops(name(families), input, TunnelEcn),
                });
            };
            row("4 in 4", over4(v4(inner)), wanted.map(v4));
            row("6 in 4", over4(v6(inner)), wanted.map(v6));
            row("4 in 6", over6(v4(inner)), wanted.map(v4));
            row("6 in 6", over6(v6(inner)), wanted.map(v6));
        }
    }
    rows
}

/// Tunnels to our VIPs from strangers.
pub fn refused() -> Vec<Row> {
    let (v4, v6) = (packet(), packet_v6());
    let mut rows = Vec::new();
    for source in ["172.15.255.255", "172.17.0.0", "10.9.9.8", "10.9.9.10", "198.51.100.66", "0.0.0.0", VIP] {
        for (name, inner) in [("4", &v4), ("6", &v6)] {
            let frame = outer(source).inner(&inner[14..]);
            rows.push(Row::drops(format!("{name} from {source}"), frame.build(), TunnelSource));
        }
    }
    for source in [
        "fd00:7864:6fff:ffff:ffff:ffff:ffff:ffff",
        "fd00:7864:7000:1::",
        "2001:db8::bad",
        "::",
        "::ffff:172.16.0.1",
    ] {
        for (name, inner) in [("4", &v4), ("6", &v6)] {
            let frame = outer_v6(source).inner(&inner[14..]);
            rows.push(Row::drops(format!("{name} from {source}"), frame.build(), TunnelSource));
        }
    }
    rows
}

/// Inner packets for our VIPs, from an allowed source, that are cut short or lie.
pub fn malformed() -> Vec<Row> {
    let mut rows = Vec::new();
    for (name, inner) in [
        ("version 5", to(VIP).version(5)),
        ("version 6 in a tunnel of 4", to(VIP).version(6)),
        ("ihl 4", to(VIP).ihl(4)),
        ("total length 19", to(VIP).total_length(19)),
        ("total length beyond the tunnel", to(VIP).total_length(29)),
        ("total length 65535", to(VIP).total_length(65535)),
    ] {
        let inner = inner.udp(1, 5060).build().split_off(14);
        let frame = outer(SOURCE).protocol(4).payload(&inner);
        rows.push(Row::drops(name, frame.build(), TunnelMalformed));
        let frame = outer_v6(SOURCE_V6).next_header(4).payload(&inner);
        rows.push(Row::drops(format!("{name}, in 6"), frame.build(), TunnelMalformed));
    }
    for (name, inner) in [
        ("IPv6, version 4", to_v6(VIP_V6).version(4)),
        ("IPv6, payload length beyond the tunnel", to_v6(VIP_V6).payload_length(9)),
    ] {
        let inner = inner.udp(1, 5060).build().split_off(14);
        let frame = outer(SOURCE).protocol(41).payload(&inner);
        rows.push(Row::drops(name, frame.build(), TunnelMalformed));
        let frame = outer_v6(SOURCE_V6).next_header(41).payload(&inner);
        rows.push(Row::drops(format!("{name}, in 6"), frame.build(), TunnelMalformed));
    }
    // A length that only the Ethernet padding behind the tunnel would satisfy.
    let inner = to(VIP).total_length(30).udp(1, 5060).build().split_off(14);
    let frame = outer(SOURCE).protocol(4).payload(&inner).trailer(&[0; 8]);
    rows.push(Row::drops("total length reaches into the padding", frame.build(), TunnelMalformed));
    rows
}

/// Tunnels, but not to us.
pub fn for_others() -> Vec<Row> {
    let (v4, v6) = (to(OTHER).udp(1, 5060).build(), to_v6(OTHER_V6).udp(1, 5060).build());
    vec![
        Row::passes("4 in 4", outer(SOURCE).inner(&v4[14..]).build(), TunnelForOthers),
        Row::passes("6 in 4", outer(SOURCE).inner(&v6[14..]).build(), TunnelForOthers),
        Row::passes("4 in 6", outer_v6(SOURCE_V6).inner(&v4[14..]).build(), TunnelForOthers),
        Row::passes("6 in 6", outer_v6(SOURCE_V6).inner(&v6[14..]).build(), TunnelForOthers),
        Row::passes("from a stranger", outer("198.51.100.66").inner(&v4[14..]).build(), TunnelForOthers),
        Row::passes(
            "from our VIP to others",
            outer(SOURCE).ipv4(VIP, OTHER).udp(1, 2).build(),
            TunnelForOthers,
        ),
        Row::passes(
            "malformed, and not ours to say so",
            outer(SOURCE).ipv4(CLIENT, OTHER).total_length(9999).udp(1, 2).build(),
            TunnelForOthers,
        ),
        Row::passes(
            "a tunnel in a tunnel",
            outer(SOURCE).ipv4(SOURCE, BACKEND).ipv4(CLIENT, VIP).udp(1, 5060).build(),
            TunnelForOthers,
        ),
    ]
}

/// No tunnels at all.
pub fn no_tunnel() -> Vec<Row> {
    let v4 = packet();
    let arp = eth(Mac::BROADCAST, ROUTER_MAC).arp_request(ROUTER_MAC, CLIENT, VIP).build();
    vec![
        Row::passes("udp", to(OTHER).udp(1, 5060).build(), NotAVip),
        Row::passes("tcp6", to_v6(OTHER_V6).tcp(1, 443).build(), NotAVip),
        Row::passes("to the VIP without a tunnel", to(VIP).udp(1, 5060).build(), DecapVip),
        Row::passes("to the VIP without a tunnel, IPv6", to_v6(VIP_V6).tcp(1, 443).build(), DecapVip),
        Row::passes("echo to the VIP", to(VIP).echo_request(1, 2).build(), DecapVip),
        Row::passes(
            "solicitation of the VIP",
            to_v6(VIP_V6).neighbour_solicitation(VIP_V6).build(),
            DecapVip,
        ),
        Row::passes("gre", outer(SOURCE).protocol(47).payload(&v4[10..]).build(), NotAVip),
        Row::passes("gue", outer(SOURCE).udp(1, 6080).payload(&v4[14..]).build(), NotAVip),
        Row::passes(
            "a fragment of a tunnel",
            outer(SOURCE).fragment(0, true).inner(&v4[14..]).build(),
            NotAVip,
        ),
        Row::passes(
            "a later fragment of a tunnel",
            outer(SOURCE).fragment(1480, false).protocol(4).payload(&v4[14..]).build(),
            NotAVip,
        ),
        Row::passes("arp", arp, NotIp),
    ]
}

/// Tunnels cut at every length. By the wire: nothing is judged before the outer destination can be read. By a liar
/// whose outer length fits what is left: malformed as soon as the inner destination can be read.
pub fn truncated() -> Vec<Row> {
    let mut rows = Vec::new();
    let (four, six) = (outer(SOURCE).inner(&packet()[14..]), outer_v6(SOURCE_V6).inner(&packet_v6()[14..]));
    for length in MIN_PACKET..34 {
        rows.push(Row::passes(format!("4 in 4 at {length}"), four.at(length), NoAddress));
    }
    for length in MIN_PACKET..54 {
        rows.push(Row::passes(format!("6 in 6 at {length}"), six.at(length), NoAddress));
    }
    let (four, six) = (four.build(), six.build());
    for length in 34 + 20..four.len() {
        let name = format!("4 in 4, honest at {length}");
        rows.push(Row::drops(name, honest_v4(&four, length), TunnelMalformed));
    }
    for length in 54 + 40..six.len() {
        let name = format!("6 in 6, honest at {length}");
        rows.push(Row::drops(name, honest_v6(&six, length), TunnelMalformed));
    }
    rows
}

/// One program for both jobs: the VIPs of one do not become the other's.
pub fn both() -> Vec<Row> {
    const LOCAL: &str = "203.0.113.40";
    const LOCAL_V6: &str = "2001:db8::40";
    let (v4, v6) = (to(LOCAL).udp(1, 5060).build(), to_v6(LOCAL_V6).tcp(1, 443).build());
    let balanced = to(VIP).udp(1, 5060).build();
    vec![
        over_v4("balanced", to(VIP).udp(1, 5060).build(), 0, 0),
        over_v4("balanced, IPv6", to_v6(VIP_V6).udp(1, 5060).build(), 0, 0),
        Row::hands_up("taken off", outer(SOURCE).inner(&v4[14..]).build(), v4.clone(), Decapsulated),
        Row::hands_up(
            "taken off, IPv6",
            outer_v6(SOURCE_V6).inner(&v6[14..]).build(),
            v6.clone(),
            Decapsulated,
        ),
        Row::hands_up(
            "taken off, GUE",
            frame().ipv4(SOURCE, BACKEND).udp(50000, 6080).payload(&v4[14..]).build(),
            v4.clone(),
            Decapsulated,
        ),
        Row::passes("udp to no VIP", to(OTHER).udp(1, 6081).build(), NotAVip),
        Row::drops("refused", outer("198.51.100.66").inner(&v4[14..]).build(), TunnelSource),
        Row::passes("no tunnel for the VIP that lives here", v4, DecapVip),
        Row::passes("no tunnel for the VIP that lives here, IPv6", v6, DecapVip),
        Row::passes(
            "a tunnel for the balanced VIP",
            outer(SOURCE).inner(&balanced[14..]).build(),
            TunnelForOthers,
        ),
        Row::passes("nothing of ours", to(OTHER).udp(1, 5060).build(), NotAVip),
    ]
}
