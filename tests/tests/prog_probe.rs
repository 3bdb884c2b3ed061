//! The TC programs of health checks under test run: whole packets in, whole packets out.

use std::net::IpAddr;
use std::os::fd::AsFd as _;

use xdp_lb::dataplane::probe::{Place, ProbeMaps, ProbePrograms, load};
use xdp_lb::model::{Dscp, Encap, EncapKind, Mtu};
use xdp_lb::nexthop::{NextHop, Resolution};
use xdp_lb::template::{build, map_address};
use xdp_lb_common::probe::{INSIDE_MAC, ProbeControl, TunnelError};
use xdp_lb_tests::packet::{ACK, Frame, Ipv4, Ipv6, SYN, assert_packet_eq, eth};
use xdp_lb_tests::prog::{TcAction, available, run_skb};

const NODE: &str = "02:00:00:00:00:0a";
const ROUTER: &str = "00:00:5e:00:01:01";
/// What the stack in the namespace writes, and what the program on its way out makes of it for marks 1 and 2.
const ANY: &str = "02:01:78:6c:62:70";
const OVER_V4: &str = "02:70:00:00:00:01";
const OVER_V6: &str = "02:70:00:00:00:02";
const UNKNOWN: &str = "02:70:00:00:00:03";
const INSIDE: &str = "02:01:78:6c:62:70";

struct Stand {
    programs: ProbePrograms,
    maps: ProbeMaps,
}

impl Stand {
    fn new() -> Self {
        let (programs, maps) = load().unwrap_or_else(|e| panic!("{e}"));
        let address = |text: &str| map_address(text.parse().unwrap());
        let control = ProbeControl {
            source_v4: address("10.1.1.2"),
            source_v6: address("fd00:0:1:1::2"),
            ifindex: 1,
            reserved: 0,
        };
        maps.set_control(&control).unwrap();
        // One outer source, so that whole packets are constants.
        let encap = Encap {
            kind: EncapKind::Ipip,
            source_v4: Some(([172, 16, 0, 1], 32)),
            source_v6: Some(("fd00:7864:7000::1".parse::<std::net::Ipv6Addr>().unwrap().octets(), 128)),
            dscp: Dscp::Copy,
            mtu: Mtu::Auto,
        };
        let hop = NextHop {
            ifindex: 1,
            interface: "lo".into(),
            source_mac: [2, 0, 0, 0, 0, 0xa],
            destination_mac: [0, 0, 0x5e, 0, 1, 1],
            mtu: 1500,
            below: None,
            path_mtu: None,
        };
        for (mark, backend) in [(1, "10.1.2.11"), (2, "fd00:1:2::11")] {
            let backend: IpAddr = backend.parse().unwrap();
            maps.set_way(mark, &build(&encap, backend, &Resolution::Resolved(hop.clone()))).unwrap();
        }
        Self { programs, maps }
    }

    fn run(&mut self, place: Place, packet: &[u8], mark: u32) -> (TcAction, Vec<u8>) {
        let program = self.programs.program(place).unwrap().fd().unwrap();
        run_skb(program.as_fd(), packet, mark).unwrap_or_else(|e| panic!("{place:?}: {e}"))
    }

    #[track_caller]
    fn expect(&mut self, place: Place, packet: &[u8], verdict: TcAction, after: &[u8]) {
        let (got, out) = self.run(place, packet, 0);
        assert_eq!(got, verdict);
        assert_packet_eq(&out, after);
    }

    #[track_caller]
    fn untouched(&mut self, place: Place, packet: &[u8], verdict: TcAction) {
        self.expect(place, packet, verdict, packet);
    }
}

/// A question as the namespace sends it to `label`.
fn question(label: &str) -> Frame<Ipv4> {
    eth(label, INSIDE).ipv4("10.1.1.2", "203.0.113.10").df()
}

fn question_v6(label: &str) -> Frame<Ipv6> {
    eth(label, INSIDE).ipv6("fd00:0:1:1::2", "2001:db8::10")
}

fn answer() -> Frame<Ipv4> {
    eth(NODE, ROUTER).ipv4("203.0.113.10", "10.1.1.2").df()
}

fn answer_v6() -> Frame<Ipv6> {
    eth(NODE, ROUTER).ipv6("2001:db8::10", "fd00:0:1:1::2")
}

/// The same packet with another Ethernet destination.
fn to(mut packet: Vec<u8>, mac: [u8; 6]) -> Vec<u8> {
    packet[..6].copy_from_slice(&mac);
    packet
}

fn over_v4(inner: &[u8], tos: u8) -> Vec<u8> {
    eth(ROUTER, NODE).ipv4("172.16.0.1", "10.1.2.11").tos(tos).id(1).df().inner(&inner[14..]).build()
}

fn over_v6(inner: &[u8], tos: u8) -> Vec<u8> {
    eth(ROUTER, NODE)
        .ipv6("fd00:7864:7000::1", "fd00:1:2::11")
        .traffic_class(tos)
        .flow_label(2)
        .inner(&inner[14..])
        .build()
}

#[test]
fn the_mark_goes_into_the_frame() {
    let Ok(()) = available() else { return };
    let mut stand = Stand::new();
    let packet = question(ANY).tcp(61000, 80).flags(SYN).build();
    let (verdict, out) = stand.run(Place::Label, &packet, 0x0102_0304);
    assert_eq!(verdict, TcAction::Next);
    assert_packet_eq(&out, &to(packet.clone(), [2, 0x70, 1, 2, 3, 4]));
    // What nobody asked: router solicitations, resets for late answers.
    assert_eq!(stand.run(Place::Label, &packet, 0).0, TcAction::Drop);
}

#[test]
fn questions_go_into_their_tunnel_in_all_families() {
    let Ok(()) = available() else { return };
    let mut stand = Stand::new();
    let payload = b"OPTIONS sip:example.org SIP/2.0\r\n\r\n";
    let four_in_four = question(OVER_V4).tcp(61000, 80).flags(SYN).build();
    stand.expect(Place::Out, &four_in_four, TcAction::Redirect, &over_v4(&four_in_four, 0));
    let six_in_four = question_v6(OVER_V4).udp(61001, 5060).payload(payload).build();
    stand.expect(Place::Out, &six_in_four, TcAction::Redirect, &over_v4(&six_in_four, 0));
    let four_in_six = question(OVER_V6).udp(65535, 5060).payload(payload).build();
    stand.expect(Place::Out, &four_in_six, TcAction::Redirect, &over_v6(&four_in_six, 0));
    let six_in_six = question_v6(OVER_V6).tcp(61002, 443).flags(ACK).payload(payload).build();
    stand.expect(Place::Out, &six_in_six, TcAction::Redirect, &over_v6(&six_in_six, 0));
    let expedited = question(OVER_V4).tos(0xb8).udp(61003, 5060).build();
    stand.expect(Place::Out, &expedited, TcAction::Redirect, &over_v4(&expedited, 0xb8));
    let full = question(OVER_V6).udp(61004, 5060).payload(&[0xa5; 1252]).build();
    stand.expect(Place::Out, &full, TcAction::Redirect, &over_v6(&full, 0));
}

#[test]
fn what_leads_nowhere_is_dropped_as_it_is() {
    let Ok(()) = available() else { return };
    let mut stand = Stand::new();
    for (name, packet) in [
        ("a mark without a tunnel", question(UNKNOWN).tcp(61000, 80).build()),
        ("a mark beyond the map", question("02:70:00:01:00:00").tcp(61000, 80).build()),
        ("no label", question("02:71:00:00:00:01").tcp(61000, 80).build()),
        ("a port that is not ours", question(OVER_V4).tcp(60999, 80).build()),
        ("a fragment", question(OVER_V4).fragment(0, true).udp(61000, 80).build()),
        ("a later fragment", question_v6(OVER_V4).fragment_header(8, false, 7).payload(&[0; 9]).build()),
        ("no ports", question(OVER_V4).udp(61000, 80).at(14 + 20 + 3)),
        ("another protocol", eth(OVER_V4, INSIDE).arp_request(INSIDE, "10.1.1.2", "203.0.113.10").build()),
    ] {
        let (verdict, out) = stand.run(Place::Out, &packet, 0);
        assert_eq!(verdict, TcAction::Drop, "{name}");
        assert_packet_eq(&out, &packet);
    }
}

#[test]
fn answers_to_questions_under_way_are_handed_in_and_nothing_else() {
    let Ok(()) = available() else { return };
    let mut stand = Stand::new();
    let syn_ack = answer().tcp(80, 61000).flags(SYN | ACK).build();
    let datagram = answer_v6().udp(5060, 61001).payload(b"pong").build();
    // Nobody has asked.
    stand.untouched(Place::Back, &syn_ack, TcAction::Next);
    stand.untouched(Place::Back, &datagram, TcAction::Next);
    stand.run(Place::Out, &question(OVER_V4).tcp(61000, 80).flags(SYN).build(), 0);
    stand.run(Place::Out, &question_v6(OVER_V6).udp(61001, 5060).build(), 0);
    stand.expect(Place::Back, &syn_ack, TcAction::Redirect, &to(syn_ack.clone(), INSIDE_MAC));
    stand.expect(Place::Back, &datagram, TcAction::Redirect, &to(datagram.clone(), INSIDE_MAC));
    for packet in [
        // Somebody's own connection from such a port.
        eth(NODE, ROUTER).ipv4("203.0.113.11", "10.1.1.2").tcp(80, 61000).build(),
        answer().tcp(81, 61000).build(),
        answer().tcp(80, 61001).build(),
        answer().tcp(80, 443).build(),
        answer().udp(80, 61000).build(),
        eth(NODE, ROUTER).ipv4("203.0.113.10", "10.1.1.3").tcp(80, 61000).build(),
        answer().fragment(0, true).tcp(80, 61000).build(),
        answer().options(&[1, 1, 1, 1]).tcp(80, 61000).build(),
        answer_v6().tcp(5060, 61001).build(),
        answer_v6().hop_by_hop(&[]).udp(5060, 61001).build(),
        answer().echo_request(1, 1).build(),
        answer().tcp(80, 61000).at(14 + 20 + 3),
        eth(NODE, ROUTER).arp_request(ROUTER, "10.1.1.1", "10.1.1.2").build(),
    ] {
        stand.untouched(Place::Back, &packet, TcAction::Next);
    }
    // The port asks somebody else now.
    stand.run(Place::Out, &question(OVER_V4).tcp(61000, 443).build(), 0);
    stand.untouched(Place::Back, &syn_ack, TcAction::Next);
}

#[test]
fn an_icmp_error_about_a_question_finds_who_asked() {
    let Ok(()) = available() else { return };
    let mut stand = Stand::new();
    let asked = question(OVER_V4).udp(61000, 5060).payload(b"ping").build();
    let asked_v6 = question_v6(OVER_V6).udp(61001, 5060).payload(b"ping").build();
    let refused = answer().icmp(3, 3).payload(&asked[14..]).build();
    let refused_v6 = answer_v6().icmpv6(1, 4).payload(&asked_v6[14..]).build();
    stand.untouched(Place::Back, &refused, TcAction::Next);
    stand.run(Place::Out, &asked, 0);
    stand.run(Place::Out, &asked_v6, 0);
    stand.expect(Place::Back, &refused, TcAction::Redirect, &to(refused.clone(), INSIDE_MAC));
    stand.expect(Place::Back, &refused_v6, TcAction::Redirect, &to(refused_v6.clone(), INSIDE_MAC));
    // About somebody else's datagram, or to somebody else, or no error.
    let other = question(OVER_V4).udp(61000, 5061).build();
    for packet in [
        answer().icmp(3, 3).payload(&other[14..]).build(),
        answer().icmp(5, 1).payload(&asked[14..]).build(),
        answer().icmp(3, 3).payload(&asked[14..14 + 22]).build(),
        eth(NODE, ROUTER).ipv4("203.0.113.10", "10.1.1.3").icmp(3, 3).payload(&asked[14..]).build(),
        answer_v6().icmpv6(135, 0).payload(&asked_v6[14..]).build(),
    ] {
        stand.untouched(Place::Back, &packet, TcAction::Next);
    }
    assert_eq!((stand.maps.errors(1), stand.maps.errors(2)), (0, 0));
}

#[test]
fn an_icmp_error_about_a_tunnel_is_noted_and_goes_on() {
    let Ok(()) = available() else { return };
    let mut stand = Stand::new();
    let tunnel = over_v4(&question(OVER_V4).tcp(61000, 80).build(), 0);
    let tunnel_v6 = over_v6(&question(OVER_V6).tcp(61000, 80).build(), 0);
    let from = |by: &str| eth(NODE, ROUTER).ipv4(by, "172.16.0.1");
    let from_v6 = |by: &str| eth(NODE, ROUTER).ipv6(by, "fd00:7864:7000::1");
    // The quotation ends eight bytes behind the header, as RFC 792 allows.
    let refused = from("10.1.2.11").icmp(3, 2).payload(&tunnel[14..14 + 28]).build();
    stand.untouched(Place::Back, &refused, TcAction::Next);
    let by: IpAddr = "10.1.2.11".parse().unwrap();
    assert_eq!(stand.maps.last_error(1), Some((TunnelError { version: 4, kind: 3, code: 2 }, by)));
    let count = stand.maps.errors(1);
    stand.untouched(
        Place::Back,
        &from_v6("fd00:1:2::11").icmpv6(4, 1).payload(&tunnel_v6[14..]).build(),
        TcAction::Next,
    );
    let by: IpAddr = "fd00:1:2::11".parse().unwrap();
    assert_eq!(stand.maps.last_error(2), Some((TunnelError { version: 6, kind: 4, code: 1 }, by)));
    assert_eq!(stand.maps.errors(1), count);
    // A second one of the same kind counts.
    stand.untouched(Place::Back, &refused, TcAction::Next);
    assert_ne!(stand.maps.errors(1), count);
    // Tunnels to other backends, and no tunnels of ours.
    let count = stand.maps.errors(1);
    let other = eth(ROUTER, NODE).ipv4("172.16.0.1", "10.1.2.12").id(1).inner(&tunnel[34..]).build();
    let unknown = eth(ROUTER, NODE).ipv4("172.16.0.1", "10.1.2.11").id(9).inner(&tunnel[34..]).build();
    for quoted in [other, unknown] {
        stand.untouched(
            Place::Back,
            &from("10.1.2.11").icmp(3, 2).payload(&quoted[14..]).build(),
            TcAction::Next,
        );
    }
    assert_eq!(stand.maps.errors(1), count);
}
