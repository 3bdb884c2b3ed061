//! Packets that their tunnel does not hold: at the border, answered, handed over, refused.
//!
//! The fixture's tunnels have an MTU of 1500: 1480 bytes fit IPv4 outside, 1460 fit IPv6.

use xdp_lb_common::reason::DropReason::{self, CutUnavailable};
use xdp_lb_common::reason::PassReason::TooBigAnswered;
use xdp_lb_tests::packet::eth;
use xdp_lb_tests::prog::Counted;

use super::net::{
    CLIENT, CLIENT_V6, OWN_MAC, ROUTER_MAC, VIP, VIP_OVER_V6, VIP_V6, VIP_V6_OVER_V6, frame, to, to_v6,
};
use super::tunnels::{over_v4, over_v6};
use super::{Output, Row};

/// Quoted at most (RFC 1812 section 4.3.2.3, RFC 4443 section 3.2): answers of 576 and 1280 bytes.
const QUOTE: usize = 576 - 28;
const QUOTE_V6: usize = 1280 - 48;

fn bytes(len: usize) -> Vec<u8> {
    (0..len).map(|n| (n * 7) as u8).collect()
}

/// A packet of `len` bytes with DF.
fn v4(vip: &str, len: usize) -> Vec<u8> {
    to(vip).df().udp(40000, 5060).payload(&bytes(len - 28)).build()
}

fn v6(vip: &str, len: usize) -> Vec<u8> {
    to_v6(vip).udp(40000, 5060).payload(&bytes(len - 48)).build()
}

/// "Fragmentation needed" from `vip`.
fn needed(vip: &str, mtu: u16, input: &[u8]) -> Output {
    let [a, b] = mtu.to_be_bytes();
    let quoted = &input[14..input.len().min(14 + QUOTE)];
    let answer = eth(ROUTER_MAC, OWN_MAC).ipv4(vip, CLIENT).ttl(64).tos(0xc0).id(0).df();
    Output::Whole(answer.icmp(3, 4).rest([0, 0, a, b]).payload(quoted).build())
}

/// "Packet too big" from `vip`.
fn too_big(vip: &str, mtu: u16, input: &[u8]) -> Output {
    let [a, b] = mtu.to_be_bytes();
    let quoted = &input[14..input.len().min(14 + QUOTE_V6)];
    let answer = eth(ROUTER_MAC, OWN_MAC).ipv6(vip, CLIENT_V6).hop_limit(64).traffic_class(0xc0);
    Output::Whole(answer.icmpv6(2, 0).rest([0, 0, a, b]).payload(quoted).build())
}

fn answered(name: impl Into<String>, input: Vec<u8>, output: Output) -> Row {
    Row::sends(name, input, output, Counted::Pass(TooBigAnswered))
}

/// What just fits.
pub fn fits() -> Vec<Row> {
    vec![
        over_v4("4 in 4", v4(VIP, 1480), 0, 0),
        over_v4("6 in 4", v6(VIP_V6, 1480), 0, 0),
        over_v6("4 in 6", v4(VIP_OVER_V6, 1460), 0, 0),
        over_v6("6 in 6", v6(VIP_V6_OVER_V6, 1460), 0, 0),
        over_v4(
            "padding does not count",
            {
                let mut frame = v4(VIP, 1480);
                frame.extend([0; 40]);
                frame
            },
            0,
            40,
        ),
    ]
}

/// The sender is told.
pub fn told() -> Vec<Row> {
    let mut rows = Vec::new();
    for len in [1461, 1481, 1482, 1483, 1500, 1999, 3001] {
        let (a, b) = (v4(VIP_OVER_V6, len), v6(VIP_V6_OVER_V6, len));
        rows.extend([
            answered(format!("4 in 6, {len}"), a.clone(), needed(VIP_OVER_V6, 1460, &a)),
            answered(format!("6 in 6, {len}"), b.clone(), too_big(VIP_V6_OVER_V6, 1460, &b)),
        ]);
        if len > 1480 {
            let (a, b) = (v4(VIP, len), v6(VIP_V6, len));
            rows.extend([
                answered(format!("4 in 4, {len}"), a.clone(), needed(VIP, 1480, &a)),
                answered(format!("6 in 4, {len}"), b.clone(), too_big(VIP_V6, 1480, &b)),
            ]);
        }
    }
    let tcp = to(VIP).df().tcp(40000, 443).options(&[1; 12]).payload(&bytes(1448)).build();
    let options = to(VIP).df().options(&[1; 40]).udp(40000, 5060).payload(&bytes(1433)).build();
    let extension = to_v6(VIP_V6).destination_options(&[1, 4, 0, 0, 0, 0]).udp(40000, 5060);
    let extension = extension.payload(&bytes(1433)).build();
    let narrow = to(VIP).df().udp(40000, 7200).payload(&bytes(1154)).build();
    let padded = to(VIP).df().udp(40000, 5060).payload(&bytes(1453)).trailer(&[9; 30]).build();
    let Output::Whole(unpadded) = needed(VIP, 1480, &padded) else { unreachable!() };
    rows.extend([
        answered("tcp", tcp.clone(), needed(VIP, 1480, &tcp)),
        answered("options", options.clone(), needed(VIP, 1480, &options)),
        answered("an extension header", extension.clone(), too_big(VIP_V6, 1480, &extension)),
        answered("a service of its own mtu", narrow.clone(), needed(VIP, 1180, &narrow)),
        answered("padded", padded, Output::Whole(unpadded)),
    ]);
    rows
}

/// Nobody is told: who cannot be, or need not.
pub fn untold() -> Vec<Row> {
    let error = |df: bool| {
        let quoted = frame().ipv4(VIP, CLIENT).udp(5060, 40000).payload(&bytes(1500)).build();
        let to = frame().ipv4("192.0.2.1", VIP);
        let to = if df { to.df() } else { to };
        to.icmp(3, 1).payload(&quoted[14..]).build()
    };
    let error_v6 = {
        let quoted = frame().ipv6(VIP_V6, CLIENT_V6).udp(5060, 40000).payload(&bytes(1500)).build();
        frame().ipv6("2001:db8:ffff::1", VIP_V6).icmpv6(1, 4).payload(&quoted[14..]).build()
    };
    let from = |source: &str| frame().ipv4(source, VIP).df().udp(40000, 5060).payload(&bytes(1500)).build();
    let from_v6 = |source: &str| frame().ipv6(source, VIP_V6).udp(40000, 5060).payload(&bytes(1500)).build();
    let mut rows = vec![
        Row::drops("an error with df", error(true), DropReason::TooBig),
        Row::drops("an error over v6", error_v6, DropReason::TooBig),
        Row::drops(
            "v6 in a tunnel below 1280",
            to_v6(VIP_V6).udp(40000, 7200).payload(&bytes(1133)).build(),
            DropReason::TooBig,
        ),
        // No agent reads what is to be cut.
        Row::drops("no df", to(VIP).udp(40000, 5060).payload(&bytes(1472)).build(), CutUnavailable),
        Row::drops("no df, tcp", to(VIP).tcp(40000, 443).payload(&bytes(1460)).build(), CutUnavailable),
        Row::drops(
            "no df, over v6",
            to(VIP_OVER_V6).udp(1, 5060).payload(&bytes(1472)).build(),
            CutUnavailable,
        ),
        Row::drops("an error without df", error(false), CutUnavailable),
    ];
    for source in ["0.0.0.0", "127.0.0.1", "224.0.0.1", "255.255.255.255"] {
        rows.push(Row::drops(format!("from {source}"), from(source), DropReason::TooBig));
    }
    for source in ["::", "::1", "ff02::1"] {
        rows.push(Row::drops(format!("from {source}"), from_v6(source), DropReason::TooBig));
    }
    rows
}

/// An answer needs room as well.
pub fn headroom() -> Vec<Row> {
    let (a, b) = (v4(VIP, 1481), v6(VIP_V6, 1481));
    vec![
        answered("just enough for IPv4", a.clone(), needed(VIP, 1480, &a)).with_metadata(188),
        Row::drops("too little for IPv4", a, DropReason::NoHeadroom).with_metadata(192),
        answered("just enough for IPv6", b.clone(), too_big(VIP_V6, 1480, &b)).with_metadata(168),
        Row::drops("too little for IPv6", b, DropReason::NoHeadroom).with_metadata(172),
    ]
}
