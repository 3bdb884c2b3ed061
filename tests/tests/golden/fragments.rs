//! Fragments for a VIP: by the client's address, after the first one, or refused; and those that are made to hide.
//!
//! The rows of a group run in order on one table: what a first fragment leaves there, the next rows find.

use xdp_lb_common::reason::DropReason::{
    ExtensionHeaders, Fragment, FragmentEarly, FragmentLength, FragmentOverlap, FragmentRefused,
    FragmentTiny, IpLength, IpTruncated, L4Length, NoService,
};
use xdp_lb_common::reason::PassReason::Unmatched;
use xdp_lb_tests::packet::{FragmentHeader, Frame, Ipv4};

use super::Row;
use super::net::{
    CLIENT, VIP, VIP_BY_CLIENT, VIP_OVER_V6, VIP_PASS, VIP_REFUSING, VIP_V6, VIP_V6_BY_CLIENT,
    VIP_V6_OVER_V6, VIP_V6_PASS, VIP_V6_REFUSING, frame, to, to_v6,
};
use super::tunnels::{over_v4, over_v6};

const PART: &[u8] = &[0x42; 64];

fn part(vip: &str, id: u16, offset: u16, more: bool) -> Frame<Ipv4> {
    to(vip).id(id).fragment(offset, more)
}

/// A fragment that is not the first.
fn later(vip: &str, id: u16, offset: u16, more: bool) -> Vec<u8> {
    part(vip, id, offset, more).protocol(17).payload(PART).build()
}

/// The first of a datagram of 3000 bytes.
fn first(vip: &str, id: u16, port: u16) -> Vec<u8> {
    part(vip, id, 0, true).udp(40000, port).length(3000).payload(PART).build()
}

fn part_v6(vip: &str, id: u32, offset: u16, more: bool) -> Frame<FragmentHeader> {
    to_v6(vip).fragment_header(offset, more, id)
}

fn later_v6(vip: &str, id: u32, offset: u16, more: bool) -> Vec<u8> {
    part_v6(vip, id, offset, more).next_header(17).payload(PART).build()
}

fn first_v6(vip: &str, id: u32, port: u16) -> Vec<u8> {
    part_v6(vip, id, 0, true).udp(40000, port).length(3000).payload(PART).build()
}

/// IPv4, five-tuple: the first one's ports decide.
pub fn ipv4() -> Vec<Row> {
    let tcp = part(VIP, 9, 0, true).tcp(40000, 443).payload(&PART[..60]);
    let elsewhere = frame().ipv4("198.51.100.8", VIP).id(7).fragment(1480, true).protocol(17).payload(PART);
    vec![
        Row::drops("a later one before its first", later(VIP, 7, 1480, true), FragmentEarly),
        over_v4("first", first(VIP, 7, 5060), 0, 0),
        over_v4("middle", later(VIP, 7, 1480, true), 0, 0),
        over_v4("smallest offset", later(VIP, 7, 8, true), 0, 0),
        over_v4("last", later(VIP, 7, 2960, false), 0, 0),
        over_v4("once more", later(VIP, 7, 1480, true), 0, 0),
        over_v4("with df", part(VIP, 7, 80, true).df().protocol(17).payload(PART).build(), 0, 0),
        over_v4(
            "with options",
            part(VIP, 7, 80, true).options(&[1; 8]).protocol(17).payload(PART).build(),
            0,
            0,
        ),
        over_v4(
            "padded",
            part(VIP, 7, 80, false).protocol(17).payload(b"x").trailer(&[0; 20]).build(),
            0,
            20,
        ),
        Row::drops("of another datagram", later(VIP, 8, 1480, true), FragmentEarly),
        Row::drops("of another client", elsewhere.build(), FragmentEarly),
        Row::drops("for another VIP", later(VIP_OVER_V6, 7, 1480, true), FragmentEarly),
        Row::drops(
            "of another protocol",
            part(VIP, 7, 1480, true).protocol(6).payload(PART).build(),
            FragmentEarly,
        ),
        over_v4("first of tcp", tcp.build(), 0, 0),
        over_v4("later of tcp", part(VIP, 9, 80, false).protocol(6).payload(PART).build(), 0, 0),
        over_v6("first, in 6", first(VIP_OVER_V6, 7, 5060), 0, 0),
        over_v6("later, in 6", later(VIP_OVER_V6, 7, 1480, false), 0, 0),
        over_v4("first of a range", first(VIP, 10, 20001), 0, 0),
        over_v4("later of a range", later(VIP, 10, 1480, false), 0, 0),
        Row::drops("first, for no service", first(VIP, 11, 1), NoService),
        Row::drops("later, for no service", later(VIP, 11, 1480, true), FragmentEarly),
        Row::passes("first, unmatched: pass", first(VIP_PASS, 11, 1), Unmatched),
        Row::passes("later, unmatched: pass", later(VIP_PASS, 11, 1480, true), Unmatched),
        Row::passes(
            "of another protocol, unmatched: pass",
            part(VIP_PASS, 12, 0, true).protocol(50).payload(PART).build(),
            Unmatched,
        ),
        over_v4("df alone is none", to(VIP).df().udp(1, 5060).build(), 0, 0),
    ]
}

/// IPv6: the fragment header, alone and among others.
pub fn ipv6() -> Vec<Row> {
    let options = part_v6(VIP_V6, 9, 0, true).destination_options(&[]).udp(40000, 5060).length(3000);
    let announced = |id| part_v6(VIP_V6, id, 1480, false).next_header(60).payload(PART).build();
    let behind = |offset, more| to_v6(VIP_V6).hop_by_hop(&[]).fragment_header(offset, more, 10);
    vec![
        Row::drops("a later one before its first", later_v6(VIP_V6, 0xfeed_0007, 1480, true), FragmentEarly),
        over_v4("first", first_v6(VIP_V6, 0xfeed_0007, 5060), 0, 0),
        over_v4("middle", later_v6(VIP_V6, 0xfeed_0007, 1480, true), 0, 0),
        over_v4("last", later_v6(VIP_V6, 0xfeed_0007, 2960, false), 0, 0),
        Row::drops("another id in its high half", later_v6(VIP_V6, 0xfeee_0007, 1480, true), FragmentEarly),
        over_v6("first, in 6", first_v6(VIP_V6_OVER_V6, 7, 5060), 0, 0),
        over_v6("later, in 6", later_v6(VIP_V6_OVER_V6, 7, 1480, false), 0, 0),
        over_v4("first, with destination options", options.payload(PART).build(), 0, 0),
        // What it announces is not what it holds; only the table can tell.
        over_v4("later, destination options announced", announced(9), 0, 0),
        Row::drops("the same of another datagram", announced(99), FragmentEarly),
        over_v4(
            "first, behind hop-by-hop options",
            behind(0, true).udp(40000, 5060).length(3000).payload(PART).build(),
            0,
            0,
        ),
        over_v4(
            "later, behind hop-by-hop options",
            behind(72, false).next_header(17).payload(PART).build(),
            0,
            0,
        ),
        over_v4(
            "first of tcp",
            part_v6(VIP_V6, 11, 0, true).tcp(40000, 443).payload(&PART[..60]).build(),
            0,
            0,
        ),
        over_v4("later of tcp", part_v6(VIP_V6, 11, 80, false).next_header(6).payload(PART).build(), 0, 0),
        Row::passes("first, unmatched: pass", first_v6(VIP_V6_PASS, 11, 1), Unmatched),
        Row::passes("later, unmatched: pass", later_v6(VIP_V6_PASS, 11, 1480, true), Unmatched),
        over_v4(
            "atomic, 6 in 4",
            to_v6(VIP_V6).fragment_header(0, false, 0xfeed).udp(1, 5060).payload(PART).build(),
            0,
            0,
        ),
        over_v6(
            "atomic, 6 in 6",
            to_v6(VIP_V6_OVER_V6).fragment_header(0, false, 1).tcp(1, 443).build(),
            0,
            0,
        ),
    ]
}

/// Equal services by client address: no fragment needs another, whatever its ports would be.
pub fn by_client() -> Vec<Row> {
    let (v4, v6) = (VIP_BY_CLIENT, VIP_V6_BY_CLIENT);
    vec![
        over_v4("last", later(v4, 7, 2960, false), 0, 0),
        over_v4("middle", later(v4, 7, 1480, true), 0, 0),
        over_v4("first", first(v4, 7, 5060), 0, 0),
        over_v4("first, of the other service", first(v4, 8, 20001), 0, 0),
        over_v4("first, of no service", first(v4, 9, 1), 0, 0),
        over_v4("last, IPv6", later_v6(v6, 7, 2960, false), 0, 0),
        over_v4("first, IPv6", first_v6(v6, 7, 5060), 0, 0),
        Row::drops("whole, of no service", to(v4).udp(1, 1).build(), NoService),
        // TCP there is five-tuple.
        Row::drops("tcp", part(v4, 7, 1480, true).protocol(6).payload(PART).build(), FragmentEarly),
        Row::drops(
            "later, destination options announced",
            part_v6(v6, 7, 1480, true).next_header(60).payload(PART).build(),
            FragmentEarly,
        ),
    ]
}

/// `fragments: drop` of one of two services (UDP), and of all (TCP).
pub fn refused() -> Vec<Row> {
    let (v4, v6) = (VIP_REFUSING, VIP_V6_REFUSING);
    vec![
        Row::drops("first", first(v4, 7, 5060), FragmentRefused),
        Row::drops("later", later(v4, 7, 1480, true), FragmentRefused),
        Row::drops("a later one before its first", later(v4, 8, 1480, true), FragmentEarly),
        over_v4("first of the other service", first(v4, 9, 7000), 0, 0),
        over_v4("later of the other service", later(v4, 9, 1480, true), 0, 0),
        Row::drops("first, IPv6", first_v6(v6, 7, 5060), FragmentRefused),
        Row::drops("later, IPv6", later_v6(v6, 7, 1480, true), FragmentRefused),
        Row::drops("tcp, any", part(v4, 1, 1480, true).protocol(6).payload(PART).build(), FragmentRefused),
        over_v4("whole", to(v4).udp(1, 5060).build(), 0, 0),
    ]
}

/// Fragments that are made to hide something, or that lie: by client address as well.
pub fn hostile() -> Vec<Row> {
    let mut rows = Vec::new();
    for (name, v4, v6) in [("by first", VIP, VIP_V6), ("by client", VIP_BY_CLIENT, VIP_V6_BY_CLIENT)] {
        let mut drops = |what: &str, packet: Vec<u8>, reason| {
            rows.push(Row::drops(format!("{name}: {what}"), packet, reason));
        };
        let raw =
            |protocol: u8, more, bytes: &[u8]| part(v4, 1, 0, more).protocol(protocol).payload(bytes).build();
        let raw_v6 =
            |protocol: u8, bytes: &[u8]| part_v6(v6, 1, 0, true).next_header(protocol).payload(bytes).build();
        let tcp = to(v4).tcp(40000, 443).payload(&PART[..60]).build().split_off(34);
        drops("nothing", raw(17, true, &[]), FragmentTiny);
        drops("nothing, IPv6", raw_v6(17, &[]), FragmentTiny);
        drops("tcp of 8 bytes", raw(6, true, &tcp[..8]), FragmentTiny);
        drops("tcp of 8 bytes, IPv6", raw_v6(6, &tcp[..8]), FragmentTiny);
        drops("tcp with a data offset of 4", raw(6, true, &[0x42; 24]), L4Length);
        drops("udp length 7", part(v4, 1, 0, true).udp(1, 5060).length(7).payload(PART).build(), L4Length);
        drops("tcp at offset 8", part(v4, 1, 8, true).protocol(6).payload(PART).build(), FragmentOverlap);
        drops(
            "tcp at offset 8, IPv6",
            part_v6(v6, 1, 8, false).next_header(6).payload(PART).build(),
            FragmentOverlap,
        );
        drops("largest offset", later(v4, 1, 65528, false), FragmentLength);
        drops(
            "a byte too long",
            part(v4, 1, 65512, false).protocol(17).payload(&[0; 4]).build(),
            FragmentLength,
        );
        drops("largest offset, IPv6", later_v6(v6, 1, 65528, false), FragmentLength);
        drops(
            "a byte too long, IPv6",
            part_v6(v6, 1, 65528, false).next_header(17).payload(&[0; 8]).build(),
            FragmentLength,
        );
        drops("not in eights", part(v4, 1, 8, true).protocol(17).payload(&[0; 9]).build(), FragmentLength);
        drops(
            "not in eights, IPv6",
            part_v6(v6, 1, 8, true).next_header(17).payload(&[0; 12]).build(),
            FragmentLength,
        );
        drops("that lies", part(v4, 1, 8, true).total_length(1500).protocol(17).build(), IpLength);
        drops("of an echo request", part(v4, 1, 0, true).echo_request(1, 2).payload(PART).build(), Fragment);
        drops("of ESP", part(v4, 1, 1480, false).protocol(50).payload(PART).build(), Fragment);
        drops(
            "of an echo request, IPv6",
            part_v6(v6, 1, 0, true).echo_request_v6(1, 2).payload(PART).build(),
            Fragment,
        );
        drops(
            "a first one without its headers' end",
            part_v6(v6, 1, 0, true).next_header(60).payload(&[17, 1, 1, 4, 0, 0, 0, 0]).build(),
            FragmentTiny,
        );
        drops(
            "of a fragment",
            part_v6(v6, 1, 0, true).fragment_header(0, true, 2).udp(1, 5060).payload(PART).build(),
            Fragment,
        );
        let mut many = Vec::new();
        for _ in 0..6 {
            many.extend([60, 0, 1, 4, 0, 0, 0, 0]);
        }
        drops("headers without end", raw_v6(60, &many), ExtensionHeaders);
        drops(
            "a fragment header cut short",
            to_v6(v6).next_header(44).payload(&[17, 0, 0, 1]).build(),
            IpTruncated,
        );
    }
    // The longest packet there can be.
    let ends = part(VIP_BY_CLIENT, 1, 65512, false).protocol(17).payload(&[0; 3]);
    rows.push(over_v4("ends at 65535", ends.build(), 0, 0));
    let ends = part_v6(VIP_V6_BY_CLIENT, 1, 65528, false).next_header(17).payload(&[0; 7]);
    rows.push(over_v4("ends at 65535, IPv6", ends.build(), 0, 0));
    let udp = part(VIP, 40, 0, true).protocol(17).payload(&[0x9c, 0x40, 0x13, 0xc4, 0, 99, 0, 0]);
    rows.push(over_v4("a udp header and nothing else", udp.build(), 0, 0));
    let short = frame().ipv4(CLIENT, VIP).id(41).fragment(0, true).tcp(1, 443).build();
    rows.push(over_v4("16 of 20 bytes of tcp", cut(&short, 4), 0, 0));
    rows
}

/// The frame without its last bytes, honestly: the IPv4 header says so too.
fn cut(frame: &[u8], bytes: usize) -> Vec<u8> {
    let mut short = frame[..frame.len() - bytes].to_vec();
    let total = (short.len() - 14) as u16;
    short[16..18].copy_from_slice(&total.to_be_bytes());
    short
}
