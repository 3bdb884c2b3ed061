use std::vec::Vec;

use proptest::prelude::*;

use super::*;
use crate::parse::{self, Ports, v4_words, words};

const CLIENT: [u8; 4] = [198, 51, 100, 7];
const VIP: [u8; 4] = [203, 0, 113, 10];
const ROUTER: [u8; 4] = [192, 0, 2, 1];
const CLIENT6: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7];
const VIP6: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 10];

/// An IPv4 packet; `options` of whole words, `fragment` as flags and offset.
fn v4(
    source: [u8; 4],
    destination: [u8; 4],
    protocol: u8,
    fragment: u16,
    options: &[u8],
    above: &[u8],
) -> Vec<u8> {
    let total = (20 + options.len() + above.len()) as u16;
    let [f0, f1] = fragment.to_be_bytes();
    let [t0, t1] = total.to_be_bytes();
    let ihl = 0x45 + (options.len() / 4) as u8;
    let head = [ihl, 0, t0, t1, 0, 0, f0, f1, 1, protocol, 0, 0];
    [&head[..], &source, &destination, options, above].concat()
}

fn v6(source: [u8; 16], destination: [u8; 16], next: u8, above: &[u8]) -> Vec<u8> {
    let [l0, l1] = (above.len() as u16).to_be_bytes();
    [&[0x60, 0, 0, 0, l0, l1, next, 1][..], &source, &destination, above].concat()
}

/// From the VIP's port 5060 to the client's 40000: the eight bytes that RFC 792 asks for.
const PORTS: [u8; 8] = [0x13, 0xc4, 0x9c, 0x40, 0, 100, 0xbe, 0xef];

fn answer(protocol: u8) -> Vec<u8> {
    v4(VIP, CLIENT, protocol, 0, &[], &PORTS)
}

fn error_v4(kind: u8, code: u8, rest: [u8; 4], quoted: &[u8]) -> Vec<u8> {
    let icmp = [&[kind, code, 0, 0][..], &rest, quoted].concat();
    [&[0; 12][..], &[8, 0], &v4(ROUTER, VIP, ICMP, 0, &[], &icmp)].concat()
}

fn error_v6(kind: u8, code: u8, rest: [u8; 4], quoted: &[u8]) -> Vec<u8> {
    let icmp = [&[kind, code, 0, 0][..], &rest, quoted].concat();
    [&[0; 12][..], &[0x86, 0xdd], &v6(CLIENT6, VIP6, ICMPV6, &icmp)].concat()
}

fn outer(frame: &[u8]) -> Ip {
    let version = if frame[12] == 8 { Version::V4 } else { Version::V6 };
    parse::ip(frame, parse::addresses(frame, 14, version).unwrap()).unwrap()
}

fn found(frame: &[u8]) -> Result<(Complaint, Flow), NoFlow> {
    flow(frame, &outer(frame))
}

#[track_caller]
fn is_the_flow(frame: &[u8], protocol: u8) {
    let (_, flow) = found(frame).unwrap();
    let (client, vip) = match flow.addresses.version {
        Version::V4 => (v4_words(CLIENT), v4_words(VIP)),
        Version::V6 => (words(&CLIENT6), words(&VIP6)),
    };
    assert_eq!((flow.addresses.source, flow.addresses.destination), (client, vip));
    assert_eq!((flow.protocol, flow.pair, flow.destination()), (protocol, Ports::pair_of(40000, 5060), 5060));
}

#[test]
fn each_error_is_told_apart() {
    let v4 = |kind, code| found(&error_v4(kind, code, [0xff, 0xff, 5, 0xdc], &answer(UDP))).map(|f| f.0);
    assert_eq!(v4(3, 4), Ok(Complaint::TooBig { mtu: 1500 }));
    for code in [0, 1, 2, 3, 5, 13] {
        assert_eq!(v4(3, code), Ok(Complaint::Unreachable), "{code}");
    }
    assert_eq!(v4(11, 0), Ok(Complaint::TimeExceeded));
    assert_eq!(v4(12, 0), Ok(Complaint::ParameterProblem));
    for kind in [0, 1, 2, 4, 5, 8, 9, 13, 42] {
        assert_eq!(v4(kind, 0), Err(NoFlow::NotAnError), "{kind}");
    }
    let quoted = v6(VIP6, CLIENT6, UDP, &PORTS);
    let v6 = |kind| found(&error_v6(kind, 0, [0, 1, 0, 0], &quoted)).map(|f| f.0);
    assert_eq!(v6(1), Ok(Complaint::Unreachable));
    assert_eq!(v6(2), Ok(Complaint::TooBig { mtu: 65536 }));
    assert_eq!(v6(3), Ok(Complaint::TimeExceeded));
    assert_eq!(v6(4), Ok(Complaint::ParameterProblem));
    for kind in [0, 5, 127, 128, 135] {
        assert_eq!(v6(kind), Err(NoFlow::NotAnError), "{kind}");
    }
}

#[test]
fn eight_bytes_of_transport_are_enough() {
    for protocol in [TCP, UDP] {
        is_the_flow(&error_v4(3, 1, [0; 4], &answer(protocol)), protocol);
        is_the_flow(&error_v6(1, 0, [0; 4], &v6(VIP6, CLIENT6, protocol, &PORTS)), protocol);
    }
}

#[test]
fn seven_are_not_and_padding_does_not_count() {
    let packet = v4(VIP, CLIENT, UDP, 0, &[], &PORTS[..7]);
    let mut frame = error_v4(3, 1, [0; 4], &packet);
    assert_eq!(found(&frame), Err(NoFlow::Truncated));
    frame.extend([0; 18]);
    assert_eq!(found(&frame), Err(NoFlow::Truncated));
    // And every shorter message is short, not something else.
    let whole = error_v4(3, 1, [0; 4], &answer(UDP));
    for cut in 34..whole.len() {
        let mut frame = whole[..cut].to_vec();
        frame[16..18].copy_from_slice(&((cut - 14) as u16).to_be_bytes());
        assert_eq!(found(&frame), Err(NoFlow::Truncated), "{cut}");
    }
    let whole = error_v6(1, 0, [0; 4], &v6(VIP6, CLIENT6, UDP, &PORTS));
    for cut in 54..whole.len() {
        let mut frame = whole[..cut].to_vec();
        frame[18..20].copy_from_slice(&((cut - 54) as u16).to_be_bytes());
        assert_eq!(found(&frame), Err(NoFlow::Truncated), "{cut}");
    }
}

#[test]
fn options_in_the_quote_and_around_it() {
    is_the_flow(&error_v4(3, 1, [0; 4], &v4(VIP, CLIENT, TCP, 0, &[1; 40], &PORTS)), TCP);
    let icmp = [&[11, 0, 0, 0, 0, 0, 0, 0][..], &answer(UDP)].concat();
    let frame = [&[0; 12][..], &[8, 0], &v4(ROUTER, VIP, ICMP, 0, &[1; 8], &icmp)].concat();
    is_the_flow(&frame, UDP);
}

#[test]
fn lengths_and_ttl_of_the_quote_are_not_believed() {
    let mut quoted = answer(UDP);
    quoted[2..4].copy_from_slice(&[0x05, 0xdc]);
    quoted[8] = 0;
    is_the_flow(&error_v4(11, 0, [0; 4], &quoted), UDP);
}

#[test]
fn fragments_in_the_quote() {
    let at = |fragment| found(&error_v4(3, 1, [0; 4], &v4(VIP, CLIENT, UDP, fragment, &[], &PORTS)));
    assert!(at(0x2000).is_ok(), "the first has ports");
    assert!(at(0x4000).is_ok());
    assert_eq!(at(0x2001), Err(NoFlow::QuotedFragment));
    assert_eq!(at(0x1fff), Err(NoFlow::QuotedFragment));
    let v6_at = |offset_and_more: u16| {
        let [a, b] = offset_and_more.to_be_bytes();
        let above = [&[UDP, 0, a, b, 0, 0, 0, 9][..], &PORTS].concat();
        found(&error_v6(1, 0, [0; 4], &v6(VIP6, CLIENT6, FRAGMENT, &above)))
    };
    assert!(v6_at(0).is_ok());
    assert!(v6_at(1).is_ok());
    assert_eq!(v6_at(8), Err(NoFlow::QuotedFragment));
    assert_eq!(v6_at(0xfff9), Err(NoFlow::QuotedFragment));
}

#[test]
fn extension_headers_in_the_quote() {
    let eight = |next: u8| [next, 0, 1, 4, 0, 0, 0, 0];
    let chain = |n: usize| {
        let mut above = Vec::new();
        for i in 0..n {
            above.extend(eight(if i + 1 == n { UDP } else { DESTINATION_OPTIONS }));
        }
        above.extend(PORTS);
        error_v6(3, 0, [0; 4], &v6(VIP6, CLIENT6, DESTINATION_OPTIONS, &above))
    };
    for n in 1..=MAX_EXTENSIONS {
        is_the_flow(&chain(n), UDP);
    }
    assert_eq!(found(&chain(MAX_EXTENSIONS + 1)), Err(NoFlow::QuotedExtensions));
    // 24 bytes of authentication header: its length counts in fours, less two.
    let above = [&[TCP, 4][..], &[0; 22], &PORTS].concat();
    is_the_flow(&error_v6(3, 0, [0; 4], &v6(VIP6, CLIENT6, AUTHENTICATION, &above)), TCP);
    let above = [&[TCP, 200][..], &[0; 22], &PORTS].concat();
    assert_eq!(
        found(&error_v6(3, 0, [0; 4], &v6(VIP6, CLIENT6, HOP_BY_HOP, &above))),
        Err(NoFlow::Truncated)
    );
}

#[test]
fn quotes_that_are_no_flow() {
    let of = |quoted: &[u8]| found(&error_v4(3, 1, [0; 4], quoted));
    for protocol in [ICMP, 50, 132, 4] {
        assert_eq!(of(&answer(protocol)), Err(NoFlow::QuotedProtocol), "{protocol}");
    }
    let mut six = answer(UDP);
    six[0] = 0x65;
    assert_eq!(of(&six), Err(NoFlow::QuotedHeader));
    six[0] = 0x44;
    assert_eq!(of(&six), Err(NoFlow::QuotedHeader));
    let mut four = v6(VIP6, CLIENT6, UDP, &PORTS);
    four[0] = 0x40;
    assert_eq!(found(&error_v6(1, 0, [0; 4], &four)), Err(NoFlow::QuotedHeader));
    // The packet's direction is the wrong one, or it is somebody else's.
    assert_eq!(of(&v4(CLIENT, VIP, UDP, 0, &[], &PORTS)), Err(NoFlow::NotOurPacket));
    assert_eq!(of(&v4([203, 0, 113, 11], CLIENT, UDP, 0, &[], &PORTS)), Err(NoFlow::NotOurPacket));
}

#[test]
fn icmp_of_the_other_family_is_none() {
    let mut frame = error_v4(3, 1, [0; 4], &answer(UDP));
    frame[23] = ICMPV6;
    assert_eq!(found(&frame), Err(NoFlow::NotAnError));
}

/// Our tunnel is quoted to its outer source; here "VIP" plays that part.
fn tunnel_of(frame: &[u8]) -> Option<Tunnel> {
    quote(frame, &outer(frame)).unwrap().tunnel(frame)
}

#[test]
fn our_own_tunnels_are_known() {
    let backend = v4_words([10, 0, 0, 1]);
    let inner = v4(CLIENT, [203, 0, 113, 99], TCP, 0, &[], &PORTS);
    let ours = |protocol, above: &[u8]| {
        error_v4(3, 4, [0, 0, 5, 0xdc], &v4(VIP, [10, 0, 0, 1], protocol, 0x4000, &[], above))
    };
    let frame = ours(IPIP, &inner);
    let tunnel = tunnel_of(&frame).unwrap();
    assert_eq!((tunnel.version, tunnel.backend), (Version::V4, backend));
    let addresses = tunnel.inner.unwrap();
    assert_eq!((addresses.source, addresses.destination), (v4_words(CLIENT), v4_words([203, 0, 113, 99])));
    assert_eq!(quote(&frame[..], &outer(&frame)).unwrap().complaint, Complaint::TooBig { mtu: 1500 });

    // RFC 792's eight bytes: the backend is known, the packet inside is not.
    assert_eq!(tunnel_of(&ours(IPIP, &inner[..8])).unwrap(), Tunnel { inner: None, ..tunnel });
    assert_eq!(tunnel_of(&ours(IPIP, &inner[..19])).unwrap(), Tunnel { inner: None, ..tunnel });
    assert_eq!(tunnel_of(&ours(IPIP, &[])).unwrap(), Tunnel { inner: None, ..tunnel });
    // A packet inside that is not of the announced version.
    assert_eq!(tunnel_of(&ours(IPV6_IN_IP, &inner)).unwrap().inner, None);

    let six = v6(CLIENT6, VIP6, TCP, &PORTS);
    let inner = tunnel_of(&ours(IPV6_IN_IP, &six)).unwrap().inner.unwrap();
    assert_eq!((inner.source, inner.destination), (words(&CLIENT6), words(&VIP6)));
    assert_eq!(tunnel_of(&ours(TCP, &PORTS)), None);
}

#[test]
fn gue_in_both_variants_as_far_as_it_is_quoted() {
    let inner = v4(CLIENT, [203, 0, 113, 99], TCP, 0, &[], &PORTS);
    let six = v6(CLIENT6, VIP6, TCP, &PORTS);
    let tunnel = |above: &[u8]| {
        let quoted = [&[0xc0, 0, 0x17, 0xc0, 0, 0, 0, 0][..], above].concat();
        tunnel_of(&error_v4(3, 4, [0, 0, 5, 0xdc], &v4(VIP, [10, 0, 0, 1], UDP, 0x4000, &[], &quoted)))
    };
    let inside = |above: &[u8]| {
        let tunnel = tunnel(above).unwrap();
        assert_eq!(tunnel.port, 6080);
        tunnel.inner.map(|i| i.destination)
    };
    let vip = Some(v4_words([203, 0, 113, 99]));
    assert_eq!(inside(&[&[0, IPIP, 0, 0][..], &inner].concat()), vip);
    assert_eq!(inside(&[&[2, IPIP, 0, 0][..], &[0; 8], &inner].concat()), vip);
    assert_eq!(inside(&[&[0, IPV6_IN_IP, 0, 0][..], &six].concat()), Some(words(&VIP6)));
    assert_eq!(inside(&inner), vip);
    assert_eq!(inside(&six), Some(words(&VIP6)));
    // Too little to see who is inside.
    for above in [&[][..], &[0, IPIP], &[0, IPIP, 0, 0], &inner[..19]] {
        assert_eq!(inside(above), None, "{above:?}");
    }
    // Control messages, other protocols, other variants: UDP of somebody else.
    for above in [[0x20, IPIP, 0, 0], [0, TCP, 0, 0], [0x80, IPIP, 0, 0], [0x50, 0, 0, 0]] {
        assert_eq!(tunnel(&[&above[..], &inner].concat()), None, "{above:?}");
    }
}

proptest! {
    /// Random quotes: no panic, and what is found lies inside the message and comes from where it was sent to.
    #[test]
    fn any_quote(kind in 0u8..16, quoted in proptest::collection::vec(any::<u8>(), 0..120), six in any::<bool>(), ours in any::<bool>()) {
        let mut quoted = quoted;
        if ours && quoted.len() >= 40 {
            let head = if six { v6(VIP6, CLIENT6, quoted[6], &[]) } else { v4(VIP, CLIENT, quoted[9], 0, &[], &[]) };
            quoted[..head.len()].copy_from_slice(&head);
        }
        let frame = if six { error_v6(kind, 0, [0; 4], &quoted) } else { error_v4(kind, 0, [0; 4], &quoted) };
        let ip = outer(&frame);
        if let Ok(quote) = quote(&frame[..], &ip) {
            prop_assert_eq!(quote.addresses.source, ip.addresses.destination);
            prop_assert_eq!(quote.end, frame.len());
            prop_assert!(quote.l4 > quote.addresses.l3);
            let _ = quote.tunnel(&frame[..]);
        }
        if let Ok((_, flow)) = flow(&frame[..], &ip) {
            prop_assert_eq!(flow.addresses.destination, ip.addresses.destination);
        }
    }
}
