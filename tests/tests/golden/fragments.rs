//! Fragments for a VIP: dropped with their own reason until they are followed. An atomic fragment is a whole packet.

use xdp_lb_common::reason::DropReason::{Fragment, IpLength};

use super::Row;
use super::net::{VIP, VIP_OVER_V6, VIP_PASS, VIP_V6, VIP_V6_OVER_V6, to, to_v6};
use super::tunnels::{over_v4, over_v6};

const PART: &[u8] = &[0x42; 64];

/// IPv4: offset and more-fragments.
pub fn ipv4() -> Vec<Row> {
    let first = to(VIP).fragment(0, true).udp(1, 5060).payload(PART);
    let part = |offset, more| to(VIP).fragment(offset, more).protocol(17).payload(PART).build();
    vec![
        Row::drops("first", first.build(), Fragment),
        Row::drops("first, for no service", to(VIP).fragment(0, true).udp(1, 1).build(), Fragment),
        Row::drops(
            "first, too short for its header",
            to(VIP).fragment(0, true).protocol(6).payload(&PART[..8]).build(),
            Fragment,
        ),
        Row::drops("smallest offset", part(8, true), Fragment),
        Row::drops("middle", part(1480, true), Fragment),
        Row::drops("last", part(1480, false), Fragment),
        Row::drops("largest offset", part(65528, false), Fragment),
        Row::drops("of tcp", to(VIP).fragment(1480, false).protocol(6).payload(PART).build(), Fragment),
        Row::drops(
            "of an echo request",
            to(VIP).fragment(0, true).echo_request(1, 2).payload(PART).build(),
            Fragment,
        ),
        Row::drops("with df", to(VIP).df().fragment(8, true).protocol(17).payload(PART).build(), Fragment),
        Row::drops(
            "unmatched: pass",
            to(VIP_PASS).fragment(0, true).udp(1, 22).payload(PART).build(),
            Fragment,
        ),
        Row::drops("that lies", to(VIP).fragment(8, true).total_length(1500).protocol(17).build(), IpLength),
        over_v4("df alone is none", to(VIP).df().udp(1, 5060).build(), 0, 0),
    ]
}

/// IPv6: the fragment header, alone and among others.
pub fn ipv6() -> Vec<Row> {
    let part = |offset, more| {
        to_v6(VIP_V6).fragment_header(offset, more, 0xfeed).next_header(17).payload(PART).build()
    };
    vec![
        Row::drops(
            "first",
            to_v6(VIP_V6).fragment_header(0, true, 1).udp(1, 5060).payload(PART).build(),
            Fragment,
        ),
        Row::drops("smallest offset", part(8, true), Fragment),
        Row::drops("middle", part(1480, true), Fragment),
        Row::drops("last", part(1480, false), Fragment),
        Row::drops("largest offset", part(65528, false), Fragment),
        Row::drops(
            "of an echo request",
            to_v6(VIP_V6).fragment_header(0, true, 1).echo_request_v6(1, 2).build(),
            Fragment,
        ),
        Row::drops(
            "behind hop-by-hop options",
            to_v6(VIP_V6).hop_by_hop(&[]).fragment_header(8, false, 1).next_header(17).payload(PART).build(),
            Fragment,
        ),
        Row::drops(
            "before destination options",
            to_v6(VIP_V6).fragment_header(0, true, 1).destination_options(&[]).udp(1, 5060).build(),
            Fragment,
        ),
        over_v4(
            "atomic, 6 in 4",
            to_v6(VIP_V6).fragment_header(0, false, 0xfeed).udp(1, 5060).payload(PART).build(),
            0,
            0,
        ),
        over_v6(
            "atomic, 6 in 6",
            to_v6(VIP_V6_OVER_V6).fragment_header(0, false, 1).tcp(1, 443).build(),
            0,
            0,
        ),
        over_v6("4 in 6 is not concerned", to(VIP_OVER_V6).udp(1, 5060).build(), 0, 0),
    ]
}
