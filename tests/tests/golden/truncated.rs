//! Valid packets cut at every byte length, and what must come of each length by rule.
//!
//! Two laws. A frame cut by the wire still has the lengths of the whole packet: as soon as the destination can be read,
//! the IP length gives the cut away. A packet cut by a liar has lengths that fit what is left: then the first header
//! that is not whole does.

use xdp_lb_common::reason::DropReason::{self, IpLength, IpTruncated, L4Length, L4Truncated};
use xdp_lb_common::reason::PassReason::{NoAddress, NotAVip, NotIp};
use xdp_lb_tests::packet::{Mac, SYN, eth};
use xdp_lb_tests::prog::MIN_PACKET;

use super::Row;
use super::net::{CLIENT, OTHER, OTHER_V6, ROUTER_MAC, VIP, VIP_OVER_V6, VIP_V6, VIP_V6_OVER_V6, to, to_v6};
use super::tunnels::{over_v4, over_v6};

/// Frames cut by the wire.
pub fn frames() -> Vec<Row> {
    let v4 = 14 + 20;
    let v6 = 14 + 40;
    let mut rows = Vec::new();
    for (name, frame, addresses) in [
        ("udp", to(VIP).udp(1, 5060).payload(b"payload"), v4),
        ("udp6", to_v6(VIP_V6).udp(1, 5060).payload(b"payload"), v6),
        ("tcp", to(VIP).tcp(1, 443).flags(SYN).options(&[2, 4, 5, 0xb4]).payload(b"odd"), v4),
        ("tcp6", to_v6(VIP_V6_OVER_V6).tcp(1, 443).options(&[1; 8]).payload(b"odd"), v6),
        ("options", to(VIP_OVER_V6).options(&[1; 40]).udp(1, 5060).payload(b"x"), v4),
        (
            "extensions",
            to_v6(VIP_V6).hop_by_hop(&[]).fragment_header(0, false, 1).udp(1, 5060).payload(b"x"),
            v6,
        ),
        ("fragment", to(VIP).fragment(8, true).protocol(17).payload(&[0; 16]), v4),
        ("echo", to(VIP).echo_request(1, 2).payload(b"payload"), v4),
        ("echo6", to_v6(VIP_V6).echo_request_v6(1, 2).payload(b"payload"), v6),
        ("no service", to(VIP).udp(1, 1).payload(b"payload"), v4),
        ("solicitation", to_v6(VIP_V6).neighbour_solicitation(VIP_V6), v6),
    ] {
        for length in MIN_PACKET..frame.build().len() {
            let (name, cut) = (format!("{name} at {length}"), frame.at(length));
            rows.push(if length < addresses {
                Row::passes(name, cut, NoAddress)
            } else {
                Row::drops(name, cut, IpLength)
            });
        }
    }
    rows
}

/// Frames cut by the wire that are nobody's.
pub fn others() -> Vec<Row> {
    let mut rows = Vec::new();
    for (name, frame, addresses) in [
        ("other", to(OTHER).udp(1, 5060).payload(b"payload"), 14 + 20),
        ("other6", to_v6(OTHER_V6).udp(1, 5060).payload(b"payload"), 14 + 40),
    ] {
        for length in MIN_PACKET..frame.build().len() {
            let reason = if length < addresses { NoAddress } else { NotAVip };
            rows.push(Row::passes(format!("{name} at {length}"), frame.at(length), reason));
        }
    }
    let arp = eth(Mac::BROADCAST, ROUTER_MAC).arp_request(ROUTER_MAC, CLIENT, VIP);
    for length in MIN_PACKET..=14 + 28 {
        rows.push(Row::passes(format!("arp at {length}"), arp.at(length), NotIp));
    }
    rows
}

/// Cuts an IPv4 frame and makes its total length true again.
pub fn honest_v4(whole: &[u8], length: usize) -> Vec<u8> {
    let mut frame = whole[..length].to_vec();
    let total = u16::try_from(length - 14).expect("a test packet is short");
    frame[16..18].copy_from_slice(&total.to_be_bytes());
    frame
}

/// Cuts an IPv6 frame and makes its payload length true again.
pub fn honest_v6(whole: &[u8], length: usize) -> Vec<u8> {
    let mut frame = whole[..length].to_vec();
    let payload = u16::try_from(length - 54).expect("a test packet is short");
    frame[18..20].copy_from_slice(&payload.to_be_bytes());
    frame
}

/// Packets cut by a liar.
pub fn packets() -> Vec<Row> {
    let mut rows = Vec::new();

    let udp = to(VIP).udp(1, 5060).payload(b"payload").build();
    for length in 34..udp.len() {
        let reason = if length < 34 + 8 { L4Truncated } else { L4Length };
        rows.push(Row::drops(format!("udp at {length}"), honest_v4(&udp, length), reason));
    }
    let udp6 = to_v6(VIP_V6).udp(1, 5060).payload(b"payload").build();
    for length in 54..udp6.len() {
        let reason = if length < 54 + 8 { L4Truncated } else { L4Length };
        rows.push(Row::drops(format!("udp6 at {length}"), honest_v6(&udp6, length), reason));
    }

    // A segment cut in its data is a shorter segment; the checksum is the backend's to judge.
    let tcp = to(VIP).tcp(1, 443).options(&[1; 8]).payload(b"data").build();
    for length in 34..tcp.len() {
        let (name, cut) = (format!("tcp at {length}"), honest_v4(&tcp, length));
        rows.push(match tcp_reason(length - 34, 28) {
            Some(reason) => Row::drops(name, cut, reason),
            None => over_v4(name, cut, 0, 0),
        });
    }
    let tcp6 = to_v6(VIP_V6_OVER_V6).tcp(1, 443).options(&[1; 8]).payload(b"data").build();
    for length in 54..tcp6.len() {
        let (name, cut) = (format!("tcp6 at {length}"), honest_v6(&tcp6, length));
        rows.push(match tcp_reason(length - 54, 28) {
            Some(reason) => Row::drops(name, cut, reason),
            None => over_v6(name, cut, 0, 0),
        });
    }

    // The header says 32 bytes.
    let options = to(VIP).options(&[1; 12]).udp(1, 5060).build();
    for length in 34..options.len() {
        let reason = if length < 14 + 32 { IpLength } else { L4Truncated };
        rows.push(Row::drops(format!("options at {length}"), honest_v4(&options, length), reason));
    }
    let extensions = to_v6(VIP_V6)
        .hop_by_hop(&[1, 8, 0, 0, 0, 0, 0, 0, 0, 0])
        .fragment_header(0, false, 1)
        .udp(1, 5060)
        .build();
    for length in 54..extensions.len() {
        let reason = if length < 54 + 16 + 8 { IpTruncated } else { L4Truncated };
        rows.push(Row::drops(format!("extensions at {length}"), honest_v6(&extensions, length), reason));
    }

    let echo = to(VIP).echo_request(1, 2).build();
    for length in 34..echo.len() {
        rows.push(Row::drops(format!("echo at {length}"), honest_v4(&echo, length), L4Truncated));
    }
    let echo6 = to_v6(VIP_V6).echo_request_v6(1, 2).build();
    for length in 54..echo6.len() {
        rows.push(Row::drops(format!("echo6 at {length}"), honest_v6(&echo6, length), L4Truncated));
    }
    rows
}

/// Why a TCP segment of `length` bytes is refused whose data offset says `header`.
fn tcp_reason(length: usize, header: usize) -> Option<DropReason> {
    match length {
        0..20 => Some(L4Truncated),
        _ if length < header => Some(L4Length),
        _ => None,
    }
}
