//! Tunnels that end at a pod: what is in them becomes the pod's, or is dropped by name.

use xdp_lb_common::reason::DropReason::{
    Fragment, FragmentTiny, IcmpEmbedded, IcmpQuote, IcmpUnhandled, L4Truncated, PodFlowTaken, PodPort,
    PodProtocol, TunnelSource,
};
use xdp_lb_common::reason::PassReason::{DecapPod, Decapsulated, LocalBackend, TunnelForOthers};
use xdp_lb_tests::packet::{ACK, Frame, Ipv4, Ipv6, SYN};
use xdp_lb_tests::prog::Counted;

use super::net::{CLIENT, CLIENT_V6, OTHER, SOURCE, SOURCE_V6, frame, to, to_v6};
use super::tunnels::over_v4;
use super::{Output, Row};

const POD: &str = "10.244.1.7";
const POD_V6: &str = "fd00:0:244::7";
/// Pods' alone.
const VIP: &str = "203.0.113.10";
const VIP_V6: &str = "2001:db8::10";
/// The node's as well.
const MIXED: &str = "203.0.113.40";
const NODE: &str = "10.1.2.11";
const ROUTER: &str = "192.0.2.1";
const ROUTER_V6: &str = "2001:db8:ffff::1";

/// A tunnel to `end` with the packet of `inner` in it.
fn tunnel(end: &str, inner: &[u8]) -> Vec<u8> {
    frame().ipv4(SOURCE, end).df().inner(&inner[14..]).build()
}

fn tunnel_v6(end: &str, inner: &[u8]) -> Vec<u8> {
    frame().ipv6(SOURCE_V6, end).inner(&inner[14..]).build()
}

/// Dropped after the tunnel was off: `inner` is left.
fn drops(name: &str, input: Vec<u8>, inner: Vec<u8>, reason: xdp_lb_common::reason::DropReason) -> Row {
    Row { output: Output::Whole(inner), ..Row::drops(name, input, reason) }
}

/// Packets as they come out of tunnels: to the VIP and as the pod gets them.
pub fn translated() -> Vec<Row> {
    let row = |name: &str, there: &dyn Fn(&'static str, u16) -> Vec<u8>| {
        Row::hands_up(name, tunnel(POD, &there(VIP, 80)), there(POD, 8080), DecapPod)
    };
    let row_v6 = |name: &str, there: &dyn Fn(&'static str, u16) -> Vec<u8>| {
        Row::hands_up(name, tunnel_v6(POD_V6, &there(VIP_V6, 80)), there(POD_V6, 8080), DecapPod)
    };
    let data = [0x5a; 33];
    vec![
        row("tcp", &|ip, port| to(ip).tos(0xb8).tcp(40000, port).flags(ACK).payload(&data).build()),
        row("syn", &|ip, port| to(ip).df().tcp(40001, port).flags(SYN).build()),
        row("udp", &|ip, port| to(ip).udp(40000, port).payload(&data).build()),
        row("no checksum", &|ip, port| to(ip).udp(40002, port).checksum(0).payload(&data).build()),
        row("options", &|ip, port| to(ip).options(&[1; 12]).udp(40003, port).payload(&data).build()),
        row_v6("tcp, IPv6", &|ip, port| to_v6(ip).tcp(40000, port).payload(&data).build()),
        row_v6("udp, IPv6", &|ip, port| to_v6(ip).udp(40000, port).payload(&data).build()),
        row_v6("extension header", &|ip, port| {
            to_v6(ip).destination_options(&[4, 1, 4]).udp(40001, port).payload(&data).build()
        }),
        Row::hands_up(
            "the port is the same",
            tunnel(POD, &to(MIXED).udp(1, 5060).build()),
            to(POD).udp(1, 5060).build(),
            DecapPod,
        ),
        Row::hands_up(
            "the same VIP to the node",
            tunnel(NODE, &to(MIXED).udp(1, 5060).build()),
            to(MIXED).udp(1, 5060).build(),
            Decapsulated,
        ),
        Row::hands_up(
            "a later fragment",
            tunnel(POD, &to(VIP).fragment(1480, false).protocol(17).payload(&data).build()),
            to(POD).fragment(1480, false).protocol(17).payload(&data).build(),
            DecapPod,
        ),
        Row::hands_up(
            "a later fragment, IPv6",
            tunnel_v6(
                POD_V6,
                &to_v6(VIP_V6).fragment_header(8, false, 1).next_header(17).payload(&data).build(),
            ),
            to_v6(POD_V6).fragment_header(8, false, 1).next_header(17).payload(&data).build(),
            DecapPod,
        ),
    ]
}

/// What a pod sent to the client, as a router saw it.
fn answer(ip: &str) -> Frame<Ipv4> {
    frame().ipv4(ip, CLIENT).ttl(1).id(77)
}

fn answer_v6(ip: &str) -> Frame<Ipv6> {
    frame().ipv6(ip, CLIENT_V6).hop_limit(1)
}

/// A router's words about answers.
pub fn errors() -> Vec<Row> {
    let v4 = |ip: &'static str, quoted: Vec<u8>| {
        frame().ipv4(ROUTER, ip).ttl(60).id(9).icmp(3, 4).rest([0, 0, 5, 0]).payload(&quoted).build()
    };
    let v6 = |ip: &'static str, quoted: Vec<u8>| {
        frame().ipv6(ROUTER_V6, ip).hop_limit(60).icmpv6(2, 0).rest([0, 0, 5, 0]).payload(&quoted).build()
    };
    let part = |packet: Vec<u8>, len: usize| packet[14..14 + len].to_vec();
    let udp = |ip, port| part(answer(ip).udp(port, 40000).payload(&[7; 40]).build(), 28);
    let tcp = |ip, port, len| part(answer(ip).tcp(port, 40000).payload(&[7; 40]).build(), len);
    let tcp_v6 = |ip, port| part(answer_v6(ip).tcp(port, 40000).payload(&[7; 40]).build(), 100);
    let row = |name, input: Vec<u8>, output| Row::hands_up(name, tunnel(POD, &input), output, DecapPod);
    vec![
        row("about udp", v4(VIP, udp(VIP, 80)), v4(POD, udp(POD, 8080))),
        row("about eight bytes of tcp", v4(VIP, tcp(VIP, 80, 28)), v4(POD, tcp(POD, 8080, 28))),
        row("about tcp", v4(VIP, tcp(VIP, 80, 60)), v4(POD, tcp(POD, 8080, 60))),
        Row::hands_up(
            "about tcp, IPv6",
            tunnel_v6(POD_V6, &v6(VIP_V6, tcp_v6(VIP_V6, 80))),
            v6(POD_V6, tcp_v6(POD_V6, 8080)),
            DecapPod,
        ),
        drops(
            "about another's",
            tunnel(POD, &v4(VIP, udp(OTHER, 80))),
            v4(VIP, udp(OTHER, 80)),
            IcmpEmbedded,
        ),
        drops("about no port of ours", tunnel(POD, &v4(VIP, udp(VIP, 81))), v4(VIP, udp(VIP, 81)), PodPort),
        drops("cut short", tunnel(POD, &v4(VIP, vec![0x45; 4])), v4(VIP, vec![0x45; 4]), IcmpQuote),
    ]
}

/// What is no pod's, by name.
pub fn refused() -> Vec<Row> {
    let row = |name: &str, inner: Vec<u8>, reason| drops(name, tunnel(POD, &inner), inner.clone(), reason);
    let udp = to(VIP).udp(1, 80).build();
    vec![
        row("a port that leads nowhere", to(VIP).udp(1, 81).build(), PodPort),
        row("a protocol that leads nowhere", to(MIXED).tcp(1, 5060).build(), PodPort),
        row(
            "a fragment that leads nowhere",
            to(MIXED).fragment(1480, true).protocol(6).payload(&[0; 8]).build(),
            PodPort,
        ),
        row("neither TCP nor UDP", to(VIP).protocol(132).payload(&[0; 16]).build(), PodProtocol),
        row(
            "a fragment of neither",
            to(VIP).fragment(8, true).protocol(132).payload(&[0; 16]).build(),
            Fragment,
        ),
        row("an echo request", to(VIP).echo_request(1, 2).build(), IcmpUnhandled),
        row("cut short", to(VIP).protocol(17).payload(&[0, 1, 0, 80]).build(), L4Truncated),
        row(
            "a first fragment without ports",
            to(VIP).fragment(0, true).protocol(17).payload(&[0; 2]).build(),
            FragmentTiny,
        ),
        // Nothing was written yet.
        Row::drops("no pod, or none any more", tunnel("10.244.1.8", &udp), PodPort),
        Row::drops(
            "a stranger's tunnel",
            frame().ipv4("198.51.100.66", POD).inner(&udp[14..]).build(),
            TunnelSource,
        ),
        Row::passes("another's VIP", tunnel(POD, &to(OTHER).udp(1, 80).build()), TunnelForOthers),
        // Two ports of the VIP lead to one of the pod, and a client uses one of its own for both.
        Row::hands_up(
            "the first of two flows",
            tunnel(POD, &to(VIP).udp(7, 80).build()),
            to(POD).udp(7, 8080).build(),
            DecapPod,
        ),
        row("the second of two flows", to(VIP).udp(7, 88).build(), PodFlowTaken),
        Row::hands_up(
            "by another port",
            tunnel(POD, &to(VIP).udp(8, 88).build()),
            to(POD).udp(8, 8080).build(),
            DecapPod,
        ),
    ]
}

/// Packets of clients at an edge node whose own pod was chosen: what [`translated`] and [`errors`] are behind a tunnel.
pub fn own() -> Vec<Row> {
    let row = |name: &str, input: Vec<u8>, output: Vec<u8>| {
        let forwarded = Counted::Forwarded(input.len() as u64 - 14);
        let mut row = Row::hands_up(name, input, output, LocalBackend);
        row.counted.push(forwarded);
        row
    };
    let v4 = |name: &str, there: &dyn Fn(&'static str, u16) -> Vec<u8>| {
        row(name, there(VIP, 80), there(POD, 8080))
    };
    let v6 = |name: &str, there: &dyn Fn(&'static str, u16) -> Vec<u8>| {
        row(name, there(VIP_V6, 80), there(POD_V6, 8080))
    };
    let data = [0x5a; 64];
    let error = |ip: &'static str, port| {
        let quoted = answer(ip).tcp(port, 40000).payload(&[7; 40]).build()[14..14 + 60].to_vec();
        frame().ipv4(ROUTER, ip).ttl(60).id(9).icmp(3, 4).rest([0, 0, 5, 0]).payload(&quoted).build()
    };
    let error_v6 = |ip: &'static str, port| {
        let quoted = answer_v6(ip).tcp(port, 40000).payload(&[7; 40]).build()[14..14 + 100].to_vec();
        frame().ipv6(ROUTER_V6, ip).hop_limit(60).icmpv6(2, 0).rest([0, 0, 5, 0]).payload(&quoted).build()
    };
    vec![
        v4("tcp", &|ip, port| to(ip).tos(0xb8).tcp(40000, port).flags(ACK).payload(&data).build()),
        v4("syn", &|ip, port| to(ip).df().tcp(40001, port).flags(SYN).build()),
        v4("udp", &|ip, port| to(ip).udp(40000, port).payload(&data).build()),
        v4("no checksum", &|ip, port| to(ip).udp(40002, port).checksum(0).payload(&data).build()),
        v4("options", &|ip, port| to(ip).options(&[1; 12]).udp(40003, port).payload(&data).build()),
        v4("larger than any tunnel", &|ip, port| to(ip).df().udp(40004, port).payload(&[0x5a; 1472]).build()),
        v6("tcp, IPv6", &|ip, port| to_v6(ip).tcp(40000, port).payload(&data).build()),
        v6("udp, IPv6", &|ip, port| to_v6(ip).udp(40000, port).payload(&data).build()),
        v6("extension header", &|ip, port| {
            to_v6(ip).destination_options(&[4, 1, 4]).udp(40001, port).payload(&data).build()
        }),
        v4("first fragment", &|ip, port| {
            to(ip).id(7).fragment(0, true).udp(40000, port).length(3000).payload(&data).build()
        }),
        v4("later fragment", &|ip, _| to(ip).id(7).fragment(1480, false).protocol(17).payload(&data).build()),
        v6("first fragment, IPv6", &|ip, port| {
            to_v6(ip).fragment_header(0, true, 7).udp(40000, port).length(3000).payload(&data).build()
        }),
        v6("later fragment, IPv6", &|ip, _| {
            to_v6(ip).fragment_header(1480, false, 7).next_header(17).payload(&data).build()
        }),
        row("an error about an answer", error(VIP, 80), error(POD, 8080)),
        row("an error about an answer, IPv6", error_v6(VIP_V6, 80), error_v6(POD_V6, 8080)),
        Row::drops("a port that leads nowhere", to(VIP).udp(1, 81).build(), PodPort),
        row("the first of two flows", to(VIP).udp(7, 80).build(), to(POD).udp(7, 8080).build()),
        Row::drops("the second of two flows", to(VIP).udp(7, 88).build(), PodFlowTaken),
        // Others are sent to as ever, and send here.
        over_v4("another node's", to(VIP).udp(1, 5060).payload(&data).build(), 0, 0),
        Row::hands_up(
            "another node's tunnel to the pod",
            tunnel(POD, &to(VIP).udp(9, 80).build()),
            to(POD).udp(9, 8080).build(),
            DecapPod,
        ),
    ]
}
