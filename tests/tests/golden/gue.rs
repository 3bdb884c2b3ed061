//! GUE: every family in every family, both variants, with the checksum that the inner packet allows; and taken off again.

use xdp_lb_common::reason::DropReason::{TunnelMalformed, TunnelSource};
use xdp_lb_common::reason::PassReason::{Decapsulated, GueControl, GueUnknown, NotAVip, TunnelForOthers};
use xdp_lb_tests::packet::{Frame, Ipv4, Ipv6, Udp};
use xdp_lb_tests::prog::Counted;

use super::net::{
    BACKEND, BACKEND_V6, GUE_VIPS, OTHER, SOURCE, SOURCE_V6, VIP, VIP_V6, frame, to, to_v6, tunnel, tunnel_v6,
};
use super::{Output, Row};

/// A row of the service whose tunnels are of `variant`; `checksum`: the datagram over IPv6 must have one.
fn sent(name: String, input: Vec<u8>, v6: bool, variant: u8, port: u16, tos: u8, checksum: bool) -> Row {
    let packet = &input[14..];
    let proto = if packet[0] >> 4 == 4 { 4 } else { 41 };
    let inside = if variant == 0 { [&[0, proto, 0, 0], packet].concat() } else { packet.to_vec() };
    let expected = if v6 {
        tunnel_v6(tos).udp(0, port).checksum(0).payload(&inside).build()
    } else {
        tunnel(tos).udp(0, port).checksum(0).payload(&inside).build()
    };
    let counted = Counted::Forwarded(packet.len() as u64);
    Row::sends(name, input, Output::Gue { expected, checksum: checksum && v6 }, counted)
}

/// What goes through.
pub fn sent_rows() -> Vec<Row> {
    let mut rows = Vec::new();
    for (vip, vip_v6, v6, variant, port) in GUE_VIPS {
        let mut row = |what: &str, input: Vec<u8>, tos, checksum| {
            let name = format!("{what} in {} variant {variant}", if v6 { 6 } else { 4 });
            rows.push(sent(name, input, v6, variant, port, tos, checksum));
        };
        let request = b"OPTIONS sip:example.org SIP/2.0\r\n\r\n";
        row("udp", to(vip).udp(40000, 5060).payload(request).build(), 0, true);
        row("udp6", to_v6(vip_v6).udp(40000, 5060).payload(request).build(), 0, true);
        row("tcp", to(vip).tcp(40000, 443).payload(request).build(), 0, true);
        row("tcp6", to_v6(vip_v6).tcp(40000, 443).payload(b"odd").build(), 0, true);
        row("tos", to(vip).tos(0xbb).udp(40000, 5060).build(), 0xbb, true);
        row("class", to_v6(vip_v6).traffic_class(0x2b).hop_limit(1).tcp(40000, 443).build(), 0x2b, true);
        row("options", to(vip).options(&[1; 40]).udp(40000, 5060).payload(request).build(), 0, true);
        row("a full frame", to(vip).udp(40000, 5060).payload(&[0xa5; 1472]).build(), 0, true);
        row("no udp checksum", to(vip).udp(40000, 5060).checksum(0).payload(b"x").build(), 0, false);
        row("surplus", to(vip).udp(40000, 5060).length(9).payload(b"xyz").build(), 0, false);
        row("extensions", to_v6(vip_v6).hop_by_hop(&[]).udp(40000, 5060).payload(b"x").build(), 0, false);
        let fragment = to(vip).id(variant.into()).fragment(0, true).udp(40000, 5060).length(3000);
        row("fragment", fragment.payload(&[7; 64]).build(), 0, false);
    }
    rows
}

fn outer(source: &str) -> Frame<Udp> {
    frame().ipv4(source, BACKEND).df().udp(50000, 6080)
}

fn outer_v6(source: &str) -> Frame<Udp> {
    frame().ipv6(source, BACKEND_V6).udp(50000, 6080)
}

fn packet() -> Vec<u8> {
    to(VIP).udp(40000, 5060).payload(b"REGISTER sip:example.org SIP/2.0").build()
}

fn packet_v6() -> Vec<u8> {
    to_v6(VIP_V6).tcp(40000, 443).payload(b"GET / HTTP/1.1").build()
}

/// Both variants of both families in both, with fields, with whatever checksum.
pub fn taken_off() -> Vec<Row> {
    let mut rows = Vec::new();
    for (name, proto, inner) in [("4", 4, packet()), ("6", 41, packet_v6())] {
        for (what, header) in [
            ("variant 1", vec![]),
            ("variant 0", vec![0, proto, 0, 0]),
            ("a word of private data", vec![1, proto, 0, 0, 0xde, 0xad, 0xbe, 0xef]),
            ("all the words there can be", [&[31, proto, 0, 0][..], &[0x5a; 124]].concat()),
        ] {
            let inside = [&header, &inner[14..]].concat();
            for (family, input) in [
                ("in 4", outer(SOURCE).payload(&inside).build()),
                ("in 4, no checksum", outer(SOURCE).checksum(0).payload(&inside).build()),
                ("in 6", outer_v6(SOURCE_V6).payload(&inside).build()),
                ("in 6, no checksum", outer_v6(SOURCE_V6).checksum(0).payload(&inside).build()),
            ] {
                rows.push(Row::hands_up(
                    format!("{name} {family}: {what}"),
                    input,
                    inner.clone(),
                    Decapsulated,
                ));
            }
        }
    }
    let padded = packet();
    rows.push(Row::hands_up(
        "padded by Ethernet",
        outer(SOURCE).payload(&padded[14..]).trailer(&[0; 7]).build(),
        [&padded[..], &[0; 7]].concat(),
        Decapsulated,
    ));
    rows.push(Row::hands_up("ipip as well", ipip(SOURCE).inner(&padded[14..]).build(), padded, Decapsulated));
    rows
}

fn ipip(source: &str) -> Frame<Ipv4> {
    frame().ipv4(source, BACKEND).df()
}

fn ipip_v6(source: &str) -> Frame<Ipv6> {
    frame().ipv6(source, BACKEND_V6)
}

/// GUE that is not taken off, each for its reason.
pub fn others() -> Vec<Row> {
    let inner = &packet()[14..];
    let gue = |header: [u8; 4]| outer(SOURCE).payload(&[&header, inner].concat()).build();
    let foreign = &to(OTHER).udp(1, 5060).build()[14..];
    vec![
        Row::passes("control", gue([0x20, 4, 0, 0]), GueControl),
        Row::passes("version 2", gue([0x80, 4, 0, 0]), GueUnknown),
        Row::passes("version 3", gue([0xc0, 4, 0, 0]), GueUnknown),
        Row::passes("variant 1 of IP version 5", gue([0x50, 4, 0, 0]), GueUnknown),
        Row::passes("a flag", gue([1, 4, 0x80, 0]), GueUnknown),
        Row::passes("the private flag", gue([1, 4, 0, 1]), GueUnknown),
        Row::passes("ethernet inside", gue([0, 143, 0, 0]), GueUnknown),
        Row::passes("nothing inside", outer(SOURCE).build(), GueUnknown),
        Row::passes(
            "another port",
            frame().ipv4(SOURCE, BACKEND).udp(1, 6081).payload(inner).build(),
            NotAVip,
        ),
        Row::passes("half a udp header", ipip(SOURCE).protocol(17).payload(&[0; 4]).build(), NotAVip),
        Row::passes(
            "a fragment",
            frame().ipv4(SOURCE, BACKEND).fragment(0, true).udp(1, 6080).payload(inner).build(),
            NotAVip,
        ),
        Row::passes("for others", outer(SOURCE).payload(foreign).build(), TunnelForOthers),
        Row::drops("from a stranger", outer("198.51.100.66").payload(inner).build(), TunnelSource),
        Row::drops("from a stranger, 6", outer_v6("2001:db8::bad").payload(inner).build(), TunnelSource),
        Row::drops("udp length too short", outer(SOURCE).length(20).payload(inner).build(), TunnelMalformed),
        Row::drops("udp length too long", outer(SOURCE).length(999).payload(inner).build(), TunnelMalformed),
        Row::drops("udp length 0", outer(SOURCE).length(0).payload(inner).build(), TunnelMalformed),
        Row::drops(
            "more words than there are",
            outer(SOURCE).payload(&[&[31, 4, 0, 0][..], &[0; 8]].concat()).build(),
            TunnelMalformed,
        ),
        Row::passes(
            "over IPv6 to another port",
            ipip_v6(SOURCE_V6).udp(1, 1).payload(inner).build(),
            NotAVip,
        ),
    ]
}
