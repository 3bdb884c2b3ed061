//! IPv4 options and IPv6 extension headers: followed, and carried as they are.

use xdp_lb_common::reason::DropReason::{ExtensionHeaders, NoService};
use xdp_lb_common::reason::PassReason::Unmatched;
use xdp_lb_tests::packet::Payload;
use xdp_lb_tests::packet::{Extension, Frame, Layer};

use super::Row;
use super::net::{VIP, VIP_OVER_V6, VIP_V6, VIP_V6_OVER_V6, VIP_V6_PASS, to, to_v6};
use super::tunnels::{over_v4, over_v6};

/// IPv4 options of every length.
pub fn ipv4() -> Vec<Row> {
    let mut rows: Vec<Row> = (4..=40)
        .step_by(4)
        .map(|length| {
            let frame = to(VIP).options(&vec![1; length]).udp(1, 5060).payload(b"behind options");
            over_v4(format!("{length} bytes of options"), frame.build(), 0, 0)
        })
        .collect();
    let router_alert = [0x94, 4, 0, 0];
    rows.extend([
        over_v6("4 in 6, tcp", to(VIP_OVER_V6).options(&router_alert).tcp(1, 443).build(), 0, 0),
        Row::drops(
            "the port is behind the options",
            to(VIP).options(&[1; 8]).udp(5060, 1).build(),
            NoService,
        ),
    ]);
    rows
}

/// What an authentication header of 24 bytes looks like; its length counts four bytes, the first two words not.
fn authentication<Top: Layer + 'static>(frame: Frame<Top>) -> Frame<Extension> {
    frame.extension(51, &[0xa0; 22]).length(4)
}

/// So many destination options headers, then UDP.
fn headers(vip: &str, count: usize) -> Vec<u8> {
    let udp = to_v6(vip).udp(1, 5060).build().split_off(14 + 40);
    let mut chain = Vec::new();
    for left in (1..=count).rev() {
        let next = if left == 1 { 17 } else { 60 };
        chain.extend([next, 0, 1, 4, 0, 0, 0, 0]);
    }
    chain.extend(udp);
    let frame: Frame<Payload> = to_v6(vip).next_header(if count == 0 { 17 } else { 60 }).payload(&chain);
    frame.build()
}

/// IPv6 extension headers, one by one and in the order of RFC 8200, section 4.1.
pub fn ipv6() -> Vec<Row> {
    let v6 = || to_v6(VIP_V6);
    let mut rows = vec![
        over_v4("hop-by-hop", v6().hop_by_hop(&[5, 2, 0, 0]).udp(1, 5060).build(), 0, 0),
        over_v4(
            "hop-by-hop of 16 bytes",
            v6().hop_by_hop(&[0x1e, 8, 1, 2, 3, 4, 5, 6, 7, 8]).udp(1, 5060).build(),
            0,
            0,
        ),
        over_v4("destination options", v6().destination_options(&[]).tcp(1, 443).build(), 0, 0),
        over_v4("routing, no segments left", v6().routing(2, 0, &[0; 20]).udp(1, 5060).build(), 0, 0),
        over_v4("authentication", authentication(v6()).udp(1, 5060).build(), 0, 0),
        over_v6(
            "all of them",
            authentication(
                to_v6(VIP_V6_OVER_V6)
                    .hop_by_hop(&[])
                    .destination_options(&[])
                    .routing(2, 0, &[0; 20])
                    .fragment_header(0, false, 1),
            )
            .destination_options(&[0x1e, 4, 0, 0, 0, 0])
            .tcp(1, 443)
            .payload(b"deep inside")
            .build(),
            0,
            0,
        ),
        over_v4("a long header", v6().destination_options(&[0; 1200]).udp(1, 5060).build(), 0, 0),
        Row::drops("the port is behind the headers", v6().hop_by_hop(&[]).udp(5060, 1).build(), NoService),
        Row::drops("no next header", v6().hop_by_hop(&[]).build(), NoService),
        Row::drops("encrypted", v6().hop_by_hop(&[]).next_header(50).payload(&[0xe5; 40]).build(), NoService),
        Row::passes(
            "encrypted, unmatched: pass",
            to_v6(VIP_V6_PASS).next_header(50).payload(&[0xe5; 40]).build(),
            Unmatched,
        ),
    ];
    for count in 0..=6 {
        rows.push(over_v4(format!("{count} headers"), headers(VIP_V6, count), 0, 0));
    }
    for count in [7, 8, 20] {
        rows.push(Row::drops(format!("{count} headers"), headers(VIP_V6, count), ExtensionHeaders));
    }
    rows
}
