//! ICMP to a VIP that is neither an echo request nor an error.

use xdp_lb_common::reason::DropReason::{IcmpQuote, IcmpUnhandled, NoService};
use xdp_lb_common::reason::PassReason::NeighbourDiscovery;

use super::Row;
use super::net::{OTHER_V6, VIP, VIP_PASS, VIP_V6, VIP_V6_PASS, to, to_v6};

/// Neighbour unreachability detection asks the VIP itself: dropped, and the router forgets us.
pub fn neighbours() -> Vec<Row> {
    let mut rows: Vec<Row> = (133..=137)
        .map(|kind| {
            let frame = to_v6(VIP_V6).hop_limit(255).icmpv6(kind, 0).payload(&[0; 16]);
            Row::passes(format!("icmpv6 type {kind}"), frame.build(), NeighbourDiscovery)
        })
        .collect();
    rows.extend([
        Row::passes(
            "solicitation of the vip",
            to_v6(VIP_V6).hop_limit(255).neighbour_solicitation(VIP_V6).build(),
            NeighbourDiscovery,
        ),
        Row::passes(
            "advertisement to the vip",
            to_v6(VIP_V6).hop_limit(255).neighbour_advertisement(OTHER_V6).build(),
            NeighbourDiscovery,
        ),
    ]);
    rows
}

/// Everything else.
pub fn unhandled() -> Vec<Row> {
    let mut rows = Vec::new();
    for (kind, code) in [(0, 0), (4, 0), (5, 0), (8, 1), (9, 0), (10, 0), (13, 0), (128, 0), (255, 255)] {
        let frame = to(VIP).icmp(kind, code).payload(&[0; 28]);
        rows.push(Row::drops(format!("icmp {kind}/{code}"), frame.build(), IcmpUnhandled));
    }
    for (kind, code) in
        [(5, 0), (8, 0), (100, 0), (127, 0), (128, 1), (129, 0), (130, 0), (132, 0), (138, 0), (255, 255)]
    {
        let frame = to_v6(VIP_V6).icmpv6(kind, code).payload(&[0; 48]);
        rows.push(Row::drops(format!("icmpv6 {kind}/{code}"), frame.build(), IcmpUnhandled));
    }
    rows.extend([
        Row::drops("unmatched: pass does not answer for icmp", to(VIP_PASS).icmp(3, 4).build(), IcmpQuote),
        Row::drops("nor for icmpv6", to_v6(VIP_V6_PASS).icmpv6(2, 0).build(), IcmpQuote),
        // Each protocol number means ICMP in its own family only.
        Row::drops("icmpv6 in IPv4", to(VIP).icmpv6(128, 0).build(), NoService),
        Row::drops("icmp in IPv6", to_v6(VIP_V6).icmp(8, 0).build(), NoService),
    ]);
    rows
}
