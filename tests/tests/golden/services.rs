//! Which packets for a VIP find a service, and what happens to those that find none or an empty one.

use xdp_lb_common::reason::DropReason::{EmptyService, NoService};
use xdp_lb_common::reason::PassReason::Unmatched;

use super::Row;
use super::net::{VIP, VIP_OVER_V6, VIP_PASS, VIP_V6, VIP_V6_OVER_V6, VIP_V6_PASS, frame, to, to_v6};
use super::tunnels::{over_v4, over_v6};

/// Ports beside those of a service, and protocols that have none.
pub fn unserved() -> Vec<Row> {
    let mut rows = Vec::new();
    for port in [0, 1, 443, 5059, 5061, 19999, 25000, 65535] {
        rows.extend([
            Row::drops(format!("udp {port}"), to(VIP).udp(1, port).build(), NoService),
            Row::drops(format!("udp6 {port}"), to_v6(VIP_V6).udp(1, port).build(), NoService),
        ]);
    }
    for port in [0, 79, 81, 442, 444, 5060, 20000, 65535] {
        rows.extend([
            Row::drops(format!("tcp {port}"), to(VIP).tcp(1, port).build(), NoService),
            Row::drops(format!("tcp6 {port}"), to_v6(VIP_V6).tcp(1, port).build(), NoService),
        ]);
    }
    for protocol in [2, 47, 50, 132, 253, 255] {
        rows.push(Row::drops(
            format!("protocol {protocol}"),
            to(VIP).protocol(protocol).payload(&[0; 40]).build(),
            NoService,
        ));
    }
    rows.extend([
        Row::drops("no next header", to_v6(VIP_V6).build(), NoService),
        Row::drops("sctp in IPv6", to_v6(VIP_V6).next_header(132).payload(&[0; 40]).build(), NoService),
        Row::drops(
            "a tunnel to a balanced vip",
            to(VIP).inner(&to(VIP).udp(1, 5060).build()[14..]).build(),
            NoService,
        ),
        Row::drops("source port of a service", to(VIP).udp(5060, 1).build(), NoService),
    ]);
    rows
}

/// `unmatched: pass` leaves what no service wants to the kernel, and only that.
pub fn unmatched() -> Vec<Row> {
    vec![
        Row::passes("udp", to(VIP_PASS).udp(1, 22).build(), Unmatched),
        Row::passes("tcp", to(VIP_PASS).tcp(1, 22).build(), Unmatched),
        Row::passes("udp6", to_v6(VIP_V6_PASS).udp(1, 22).build(), Unmatched),
        Row::passes("tcp6", to_v6(VIP_V6_PASS).tcp(1, 22).build(), Unmatched),
        Row::passes("gre", to(VIP_PASS).protocol(47).payload(&[0; 40]).build(), Unmatched),
        Row::passes("no next header", to_v6(VIP_V6_PASS).build(), Unmatched),
        over_v4("its service", to(VIP_PASS).udp(1, 5060).build(), 0, 0),
        over_v4("its service in IPv6", to_v6(VIP_V6_PASS).udp(1, 5060).build(), 0, 0),
    ]
}

/// Single ports, lists, ranges and whole addresses.
pub fn ports() -> Vec<Row> {
    let mut rows = Vec::new();
    for port in [20000, 20001, 20223, 20224, 20479, 20480, 24831, 24832, 24999] {
        rows.push(over_v4(format!("range {port}"), to(VIP).udp(1, port).build(), 0, 0));
        rows.push(over_v4(format!("range6 {port}"), to_v6(VIP_V6).udp(1, port).build(), 0, 0));
    }
    for port in [80, 443] {
        rows.push(over_v4(format!("list {port}"), to(VIP).tcp(1, port).build(), 0, 0));
    }
    for port in [1, 255, 256, 5060, 65535] {
        rows.push(over_v6(format!("all {port}"), to(VIP_OVER_V6).tcp(1, port).build(), 0, 0));
        rows.push(over_v6(format!("all6 {port}"), to_v6(VIP_V6_OVER_V6).tcp(1, port).build(), 0, 0));
    }
    for port in [0, 1, 65535] {
        rows.push(over_v4(format!("from port {port}"), to(VIP).udp(port, 5060).build(), 0, 0));
    }
    rows.push(over_v4("from no address", frame().ipv4("0.0.0.0", VIP).udp(1, 5060).build(), 0, 0));
    rows
}

/// Zero backends: an empty service drops and says so.
pub fn empty() -> Vec<Row> {
    vec![
        Row::drops("tcp", to(VIP).tcp(1, 8000).build(), EmptyService),
        Row::drops("tcp6", to_v6(VIP_V6).tcp(1, 8000).build(), EmptyService),
        Row::drops("udp, tracked exactly", to(VIP).udp(1, 8000).build(), EmptyService),
        Row::drops("udp6, tracked exactly", to_v6(VIP_V6).udp(1, 8000).build(), EmptyService),
    ]
}
