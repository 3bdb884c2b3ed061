//! Echo requests to a VIP: answered on the spot, whatever the VIP's services.

use xdp_lb_common::reason::PassReason::EchoAnswered;
use xdp_lb_tests::packet::eth;
use xdp_lb_tests::prog::Counted;

use super::net::{
    CLIENT, CLIENT_V6, OWN_MAC, ROUTER_MAC, VIP, VIP_OVER_V6, VIP_PASS, VIP_V6, VIP_V6_OVER_V6, VIP_V6_PASS,
    to, to_v6,
};
use super::{Output, Row};

fn answered(name: impl Into<String>, request: Vec<u8>, reply: Vec<u8>) -> Row {
    Row::sends(name, request, Output::Whole(reply), Counted::Pass(EchoAnswered))
}

/// A request and its reply: addresses and MACs changed places, TTL 64, everything else as it came.
fn v4(name: &str, vip: &str, ttl: u8, id: u16, sequence: u16, payload: &[u8]) -> Row {
    let request = to(vip).ttl(ttl).tos(0x10).id(7).df().echo_request(id, sequence).payload(payload);
    let reply = eth(ROUTER_MAC, OWN_MAC).ipv4(vip, CLIENT).ttl(64).tos(0x10).id(7).df();
    answered(name, request.build(), reply.echo_reply(id, sequence).payload(payload).build())
}

fn v6(name: &str, vip: &str, hop_limit: u8, id: u16, sequence: u16, payload: &[u8]) -> Row {
    let request = to_v6(vip).hop_limit(hop_limit).traffic_class(0x10);
    let reply =
        eth(ROUTER_MAC, OWN_MAC).ipv6(vip, CLIENT_V6).hop_limit(64).traffic_class(0x10).flow_label(0x12345);
    answered(
        name,
        request.echo_request_v6(id, sequence).payload(payload).build(),
        reply.echo_reply_v6(id, sequence).payload(payload).build(),
    )
}

/// Requests of every length and number.
pub fn rows() -> Vec<Row> {
    let ping: Vec<u8> = (0..56).collect();
    let mut rows = vec![
        v4("v4", VIP, 61, 0x1234, 1, &ping),
        v4("v4, odd payload", VIP, 61, 0x1234, 1, &ping[..55]),
        v4("v4, no payload", VIP, 61, 0x1234, 1, &[]),
        v4("v4, ttl 1", VIP, 1, 0x1234, 1, &ping),
        v4("v4, ttl 255", VIP, 255, 0x1234, 1, &ping),
        v4("v4, largest numbers", VIP, 64, 0xffff, 0xffff, &ping),
        v4("v4, zeros", VIP, 64, 0, 0, &[0; 8]),
        v4("v4, a full frame", VIP, 61, 1, 2, &[0xa5; 1472]),
        v4("v4, a VIP without UDP here", VIP_OVER_V6, 61, 1, 2, &ping),
        v4("v4, unmatched: pass", VIP_PASS, 61, 1, 2, &ping),
        v6("v6", VIP_V6, 61, 0x1234, 1, &ping),
        v6("v6, odd payload", VIP_V6, 61, 0x1234, 1, &ping[..55]),
        v6("v6, no payload", VIP_V6, 61, 0x1234, 1, &[]),
        v6("v6, hop limit 1", VIP_V6, 1, 0x1234, 1, &ping),
        v6("v6, largest numbers", VIP_V6, 64, 0xffff, 0xffff, &ping),
        v6("v6, a VIP over v6", VIP_V6_OVER_V6, 61, 1, 2, &ping),
        v6("v6, unmatched: pass", VIP_V6_PASS, 61, 1, 2, &ping),
    ];
    // Somewhere in here the checksum's carries meet: every sum must come out as if computed anew.
    for sequence in (0..=u16::MAX).step_by(911) {
        rows.push(v4(&format!("v4, sequence {sequence}"), VIP, 61, 0xf7f7, sequence, b"x"));
        rows.push(v6(&format!("v6, sequence {sequence}"), VIP_V6, 61, 0x7e00, sequence, b"x"));
    }
    rows.push(padded());
    rows.extend(damaged());
    rows
}

fn padded() -> Row {
    let request = to(VIP).echo_request(1, 2).payload(b"abc").trailer(&[0; 15]).build();
    let reply = eth(ROUTER_MAC, OWN_MAC).ipv4(VIP, CLIENT).id(0x1d1d).echo_reply(1, 2).payload(b"abc");
    answered("v4, padded by Ethernet", request, reply.trailer(&[0; 15]).build())
}

/// A request that was damaged stays damaged: its checksum is updated, not computed anew.
fn damaged() -> Vec<Row> {
    let damage = |mut frame: Vec<u8>| {
        let last = frame.len() - 1;
        frame[last] ^= 0x40;
        frame
    };
    let v4 = v4("v4, damaged payload", VIP, 61, 3, 4, b"payload!");
    let v6 = v6("v6, damaged payload", VIP_V6, 61, 3, 4, b"payload!");
    [v4, v6]
        .into_iter()
        .map(|row| {
            let Output::Whole(reply) = row.output else { panic!("an echo's reply is a whole packet") };
            answered(row.name, damage(row.input), damage(reply))
        })
        .collect()
}
