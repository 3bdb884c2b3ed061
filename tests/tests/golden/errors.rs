//! ICMP errors: those about a VIP's flow go where the flow goes, those about our tunnels are noted.

use xdp_lb_common::reason::DropReason::{EmptyService, IcmpEmbedded, IcmpQuote, IcmpUnhandled, NoService};
use xdp_lb_common::reason::PassReason::{NotAVip, TunnelTooBig, Unmatched};
use xdp_lb_tests::packet::{Frame, Icmp, Ipv4, Ipv6, Layer, Payload, SYN};

use super::Row;
use super::net::{
    BACKEND, BACKEND_V6, CLIENT, CLIENT_V6, OTHER, OTHER_V6, SOURCE, SOURCE_V6, VIP, VIP_OVER_V6, VIP_PASS,
    VIP_V6, VIP_V6_OVER_V6, frame, to, to_v6,
};
use super::tunnels::{over_v4, over_v6};

/// A router between backend and client.
const ROUTER: &str = "192.0.2.1";
const ROUTER_V6: &str = "2001:db8:ffff::1";

/// A router's packet to `vip`.
fn from_router(vip: &str) -> Frame<Ipv4> {
    frame().ipv4(ROUTER, vip).ttl(60).tos(0xc0).id(9)
}

fn from_router_v6(vip: &str) -> Frame<Ipv6> {
    frame().ipv6(ROUTER_V6, vip).hop_limit(60)
}

/// What a backend sent to the client, as a router saw it.
fn answer(vip: &str) -> Frame<Ipv4> {
    frame().ipv4(vip, CLIENT).ttl(1).df().id(77)
}

fn answer_v6(vip: &str) -> Frame<Ipv6> {
    frame().ipv6(vip, CLIENT_V6).hop_limit(1)
}

/// The first `len` bytes of the packet in a frame.
fn quote<Top: Layer + 'static>(frame: &Frame<Top>, len: usize) -> Vec<u8> {
    frame.build()[14..14 + len].to_vec()
}

/// The four errors of IPv4 with their codes.
const ERRORS: [(u8, u8); 8] = [(3, 0), (3, 1), (3, 3), (3, 4), (3, 13), (11, 0), (11, 1), (12, 0)];
/// Those of IPv6.
const ERRORS_V6: [(u8, u8); 6] = [(1, 0), (1, 4), (2, 0), (3, 0), (3, 1), (4, 1)];

/// With the least that a router may quote: eight bytes of transport.
pub fn about_flows() -> Vec<Row> {
    let mut rows = Vec::new();
    for (kind, code) in ERRORS {
        let error = |vip: &str, quoted: Vec<u8>| {
            from_router(vip).icmp(kind, code).rest([0, 0, 5, 0x78]).payload(&quoted).build()
        };
        let udp = |vip| quote(&answer(vip).udp(5060, 40000).payload(&[7; 100]), 28);
        let tcp = |vip| quote(&answer(vip).tcp(443, 40000).payload(&[7; 100]), 28);
        rows.extend([
            over_v4(format!("{kind}/{code}, udp"), error(VIP, udp(VIP)), 0xc0, 0),
            over_v4(format!("{kind}/{code}, tcp"), error(VIP, tcp(VIP)), 0xc0, 0),
            over_v6(format!("{kind}/{code}, over v6"), error(VIP_OVER_V6, udp(VIP_OVER_V6)), 0xc0, 0),
        ]);
    }
    for (kind, code) in ERRORS_V6 {
        let error = |vip: &str, quoted: Vec<u8>| {
            from_router_v6(vip).icmpv6(kind, code).rest([0, 0, 5, 0x78]).payload(&quoted).build()
        };
        let udp = |vip| quote(&answer_v6(vip).udp(5060, 40000).payload(&[7; 100]), 48);
        let tcp = |vip| quote(&answer_v6(vip).tcp(443, 40000).payload(&[7; 100]), 48);
        rows.extend([
            over_v4(format!("v6 {kind}/{code}, udp"), error(VIP_V6, udp(VIP_V6)), 0, 0),
            over_v4(format!("v6 {kind}/{code}, tcp"), error(VIP_V6, tcp(VIP_V6)), 0, 0),
            over_v6(format!("v6 {kind}/{code}, over v6"), error(VIP_V6_OVER_V6, udp(VIP_V6_OVER_V6)), 0, 0),
        ]);
    }
    let needed = |vip: &str, quoted: &[u8]| from_router(vip).icmp(3, 4).payload(quoted);
    let too_big = |vip: &str, quoted: &[u8]| from_router_v6(vip).icmpv6(2, 0).payload(quoted);
    let options = quote(&answer(VIP).options(&[1; 8]).udp(5060, 40000), 36);
    let first = quote(&answer(VIP).fragment(0, true).udp(5060, 40000).payload(&[1; 8]), 28);
    let extensions =
        answer_v6(VIP_V6).hop_by_hop(&[1, 4, 0, 0, 0, 0]).fragment_header(0, true, 5).udp(5060, 40000);
    let extensions = quote(&extensions.payload(&[1; 16]), 40 + 8 + 8 + 8);
    let whole = answer(VIP).tcp(443, 40000).flags(SYN).payload(&[7; 500]).build()[14..].to_vec();
    // The router saw it after the checksum of the header was damaged, or does not care.
    let damaged = quote(&answer(VIP).checksum(1).udp(5060, 40000).payload(&[7; 10]), 28);
    rows.extend([
        over_v4("quoted options", needed(VIP, &options).build(), 0xc0, 0),
        over_v4("a quoted first fragment", needed(VIP, &first).build(), 0xc0, 0),
        over_v4("quoted extension headers", too_big(VIP_V6, &extensions).build(), 0, 0),
        over_v4("all of it quoted", needed(VIP, &whole).build(), 0xc0, 0),
        over_v4("a quoted header that was damaged", needed(VIP, &damaged).build(), 0xc0, 0),
        over_v4("padded", needed(VIP, &first).trailer(&[0; 9]).build(), 0xc0, 9),
    ]);
    rows
}

/// Those that are for nobody.
pub fn refused() -> Vec<Row> {
    let needed = |quoted: &[u8]| from_router(VIP).icmp(3, 4).payload(quoted).build();
    let too_big = |quoted: &[u8]| from_router_v6(VIP_V6).icmpv6(2, 0).payload(quoted).build();
    let udp =
        |source: &str, port: u16| quote(&frame().ipv4(source, CLIENT).udp(port, 40000).payload(&[7; 10]), 28);
    let udp_v6 = |source: &str, port: u16| {
        quote(&frame().ipv6(source, CLIENT_V6).udp(port, 40000).payload(&[7; 10]), 48)
    };
    let later = quote(&answer(VIP).fragment(80, true).udp(5060, 40000), 28);
    let later_v6 = quote(&answer_v6(VIP_V6).fragment_header(80, true, 5).udp(5060, 40000), 56);
    let many = answer_v6(VIP_V6).hop_by_hop(&[1, 4, 0, 0, 0, 0]);
    let many = (0..7).fold(many, |frame, _| frame.destination_options(&[1, 4, 0, 0, 0, 0]));
    let many = many.udp(5060, 40000).build()[14..].to_vec();
    let mut rows = vec![
        Row::drops("another's packet", needed(&udp(OTHER, 5060)), IcmpEmbedded),
        Row::drops("another vip's packet", needed(&udp(VIP_OVER_V6, 5060)), IcmpEmbedded),
        Row::drops("the client's packet", needed(&quote(&to(VIP).udp(40000, 5060), 28)), IcmpEmbedded),
        Row::drops("v6, another's packet", too_big(&udp_v6(OTHER_V6, 5060)), IcmpEmbedded),
        Row::drops("a port that is no service's", needed(&udp(VIP, 9)), NoService),
        Row::drops("v6, a port that is no service's", too_big(&udp_v6(VIP_V6, 9)), NoService),
        Row::drops("a service without backends", needed(&udp(VIP, 8000)), EmptyService),
        Row::drops("a later fragment", needed(&later), IcmpQuote),
        Row::drops("v6, a later fragment", too_big(&later_v6), IcmpQuote),
        Row::drops("extension headers without end", too_big(&many), IcmpQuote),
        Row::drops("icmp about icmp", needed(&quote(&answer(VIP).echo_reply(1, 1), 28)), IcmpQuote),
        Row::drops("the other family inside", needed(&udp_v6(VIP_V6, 5060)), IcmpQuote),
        Row::drops("v6, the other family inside", too_big(&udp(VIP, 5060)), IcmpQuote),
        Row::drops("a short header length", needed(&quote(&answer(VIP).ihl(4).udp(5060, 1), 28)), IcmpQuote),
        Row::drops("redirect", from_router(VIP).icmp(5, 1).payload(&udp(VIP, 5060)).build(), IcmpUnhandled),
        Row::drops(
            "source quench",
            from_router(VIP).icmp(4, 0).payload(&udp(VIP, 5060)).build(),
            IcmpUnhandled,
        ),
        Row::passes(
            "for no service, where the vip says pass",
            from_router(VIP_PASS).icmp(3, 1).payload(&udp(VIP_PASS, 9)).build(),
            Unmatched,
        ),
    ];
    for len in 0..28 {
        let quoted = &udp(VIP, 5060)[..len];
        rows.push(Row::drops(format!("{len} bytes quoted"), needed(quoted), IcmpQuote));
    }
    for len in 0..48 {
        let quoted = &udp_v6(VIP_V6, 5060)[..len];
        rows.push(Row::drops(format!("v6, {len} bytes quoted"), too_big(quoted), IcmpQuote));
    }
    rows
}

fn tunnel(inner: &[u8]) -> Frame<Payload> {
    frame().ipv4(SOURCE, BACKEND).df().inner(inner)
}

fn tunnel_v6(inner: &[u8]) -> Frame<Payload> {
    frame().ipv6(SOURCE_V6, BACKEND_V6).inner(inner)
}

/// To an outer source. That the source and the backend are ours, the agent looks at.
fn needed(quoted: &[u8]) -> Frame<Payload> {
    about_tunnel(3, 4).rest([0, 0, 5, 0x78]).payload(quoted)
}

fn about_tunnel(kind: u8, code: u8) -> Frame<Icmp> {
    frame().ipv4(ROUTER, SOURCE).icmp(kind, code)
}

fn too_big(quoted: &[u8]) -> Frame<Payload> {
    frame().ipv6(ROUTER_V6, SOURCE_V6).icmpv6(2, 0).rest([0, 0, 5, 0x78]).payload(quoted)
}

/// About tunnels: all go to the kernel, some with a note.
pub fn about_tunnels() -> Vec<Row> {
    let v4 = to(VIP).udp(40000, 5060).payload(&[7; 100]).build()[14..].to_vec();
    let v6 = to_v6(VIP_V6).udp(40000, 5060).payload(&[7; 100]).build()[14..].to_vec();
    let other = to(OTHER).udp(40000, 5060).payload(&[7; 100]).build()[14..].to_vec();
    let short = quote(&tunnel(&v4), 28);
    let stranger = quote(&frame().ipv4("10.9.9.9", BACKEND).inner(&v4), 100);
    let udp = quote(&frame().ipv4(SOURCE, BACKEND).udp(1, 2).payload(&[0; 99]), 100);
    vec![
        Row::passes("4 in 4", needed(&quote(&tunnel(&v4), 100)).build(), TunnelTooBig),
        Row::passes("6 in 4", needed(&quote(&tunnel(&v6), 100)).build(), TunnelTooBig),
        Row::passes("4 in 6", too_big(&quote(&tunnel_v6(&v4), 100)).build(), TunnelTooBig),
        Row::passes("6 in 6", too_big(&quote(&tunnel_v6(&v6), 100)).build(), TunnelTooBig),
        Row::passes("eight bytes of what is inside", needed(&short).build(), TunnelTooBig),
        Row::passes("no vip inside", needed(&quote(&tunnel(&other), 100)).build(), NotAVip),
        Row::passes("from another source", needed(&stranger).build(), NotAVip),
        Row::passes("no tunnel", needed(&udp).build(), NotAVip),
        Row::passes("unreachable", about_tunnel(3, 1).payload(&short).build(), NotAVip),
        Row::passes("expired", about_tunnel(11, 0).payload(&short).build(), NotAVip),
        Row::passes("cut short", needed(&short[..19]).build(), NotAVip),
        Row::passes("an echo request", about_tunnel(8, 0).payload(&short).build(), NotAVip),
    ]
}
