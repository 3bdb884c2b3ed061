//! Schemas of what resources have in common with files: sections of the top level and entries of `bgp.peers`, with the file's
//! own keys, so that a section can be moved from one to the other as it is. Tests hold them against the file's own table of keys.

use serde_json::Value;

use super::schema::{
    Family, Key, Own, Port, address, boolean, choice, duration, endpoint, integer, key, list,
    never_or_seconds, number_or, object, power_of_two, prefix, rule, seconds, text, word_or,
};
use super::services::services;

/// Sections of an EdgeConfig.
pub(super) fn sections() -> Vec<Key> {
    vec![
        key("encap", encap(), "The tunnel to the backends."),
        key("maglev", maglev(), "How slots are made: the same on all edge nodes."),
        key("flow_table", flow_table(), "What is remembered about flows."),
        key("limits", limits(), "Sizes of the kernel's tables. A change needs a restart of the agents."),
        key("vips", vips(), "What belongs to an address rather than to a service."),
        key("services", services(), "What is balanced beside the cluster's Services."),
        key("bgp", bgp(), "Who the edge nodes are in BGP. BgpPeers say whom they tell."),
        key("peers", peers(), "The edge nodes, which tell each other of flows that they could not guess."),
    ]
}

/// The same in a service, where it overrides single keys.
pub(super) fn encap() -> Value {
    object([
        key("kind", choice(&["ipip", "gue"]), "What packets are put into. Default: ipip."),
        key(
            "gue",
            object([
                key("port", integer(1, 65_535), "UDP port that the backends listen on. Default: 6080."),
                key("variant", integer(0, 1), "0: a header of four bytes. 1: none. Default: 0."),
            ]),
            "Of kind gue.",
        ),
        key(
            "source_v4",
            prefix(Family::V4, 8, Own::Yes),
            "Outer source of tunnels to IPv4 backends, as in ${XDP_LB_NODE_IP}/32. Each node's own.",
        ),
        key(
            "source_v6",
            prefix(Family::V6, 0, Own::Yes),
            "Outer source of tunnels to IPv6 backends. Each node's own.",
        ),
        key("dscp", word_or("copy", 0, 63), "DSCP of the outer header: copy, or 0 to 63. Default: copy."),
        key(
            "mtu",
            word_or("auto", 576, 65_535),
            "Longest outer packet in bytes: auto, or 576 to 65535. Default: auto.",
        ),
    ])
}

fn maglev() -> Value {
    object([
        key("table_size", integer(3, 131_071), "Slots of a service's table, a prime number. Default: 65537."),
        key(
            "seed",
            number_or("^(0x[0-9a-fA-F]{1,16}|[0-9]{1,20})$", 0),
            "Seed of flow hash and tables, random: a number, or text as in 0x5eed5eed5eed5eed. Default: 0.",
        ),
    ])
}

fn flow_table() -> Value {
    object([
        key(
            "entries",
            power_of_two(1 << 10, 1 << 28),
            "Entries of 8 bytes, a power of two. Default: 1048576.",
        ),
        key(
            "track_window",
            duration("1s", "10m"),
            "How long a planned change waits while flows of UDP services are remembered. Default: 5s.",
        ),
    ])
}

fn limits() -> Value {
    let limit = |name, most, what: &str| key(name, integer(1, most), what);
    object([
        limit("services", 16_383, "Services. Default: 4095."),
        limit("vips", 1 << 20, "Addresses. Default: 4096."),
        limit("backends", 1 << 20, "Backends, summed over tables. Default: 16384."),
        limit("ring_slots", 1 << 28, "Slots, summed over tables. Default: 4194304."),
        limit("port_pages", 1 << 20, "Pages of 256 ports that the services' ports touch. Default: 16384."),
        limit("server_ids", 1 << 20, "Server ids, summed over services. Default: 4096."),
        limit("source_ranges", 1 << 24, "Prefixes of source_ranges, summed over services. Default: 65536."),
        key(
            "fragments",
            power_of_two(1 << 10, 1 << 28),
            "First fragments that are remembered. Default: 65536.",
        ),
        key(
            "backend_stats",
            integer(0, 1 << 20),
            "Pairs of service and backend with counters. Default: 10000.",
        ),
        limit("pod_ports", 1 << 20, "Ports of VIPs at pods of this node. Default: 4096."),
        key("pod_flows", integer(1 << 10, 1 << 24), "Flows of this node's pods. Default: 65536."),
    ])
}

fn vips() -> Value {
    let vip = object([
        key("address", address(Family::Any, Own::No), "The VIP.").required(),
        key("unmatched", choice(&["drop", "pass"]), "What becomes of packets for no service. Default: drop."),
        key(
            "advertise",
            choice(&["all", "any"]),
            "Whether all or any of its services must want it announced. Default: all.",
        ),
        key("bgp", object(attributes()), "Attributes of its route."),
    ]);
    list(vip, 1024)
}

/// What the section, a peer and a VIP have in common.
fn attributes() -> Vec<Key> {
    let community = r"^([0-9]{1,5}:[0-9]{1,5}|no-export|no-advertise|no-export-subconfed|graceful-shutdown)$";
    vec![
        key(
            "communities",
            list(text(community, 32), 64),
            "Communities, as in 64500:100, no-export, no-advertise, no-export-subconfed or graceful-shutdown.",
        ),
        key(
            "large_communities",
            list(text("^[0-9]{1,10}:[0-9]{1,10}:[0-9]{1,10}$", 32), 64),
            "Large communities, as in 4200000001:1:100.",
        ),
        key("med", integer(0, u32::MAX.into()), "MULTI_EXIT_DISC."),
        key("local_pref", integer(0, u32::MAX.into()), "LOCAL_PREF, told to iBGP peers alone."),
        key("prepend", integer(0, 20), "Our AS so many times more in the path, told to eBGP peers alone."),
    ]
}

/// One list serves all nodes: each leaves itself out.
fn peers() -> Value {
    let mut nodes = list(endpoint(Port::May, Own::No), 1024);
    nodes["minItems"] = 1.into();
    object([
        key(
            "listen",
            endpoint(Port::Must, Own::Yes),
            "Where the others tell us: each node's own, as in ${XDP_LB_NODE_IP}:9411.",
        )
        .required(),
        key(
            "key_file",
            text("^/.*[^/]$", 255),
            "A secret of 32 bytes or more that all share, in a file of each node.",
        )
        .required(),
        key("nodes", nodes, "The edge nodes, this one or not; a port that is not given is that of listen.")
            .required(),
    ])
}

fn as_number() -> Value {
    rule(
        integer(1, i64::from(u32::MAX) - 1),
        "!(self in [23456, 65535])",
        "must be the number of an AS, 23456 and 65535 are reserved",
    )
}

fn bgp() -> Value {
    let drain = object([
        key("prepend", integer(0, 20), "Our AS so many times more in the path, on eBGP. Default: 3."),
        key(
            "med",
            word_or("keep", 0, u32::MAX.into()),
            "MED, or keep for the usual one. Default: 4294967295.",
        ),
        key(
            "graceful_shutdown",
            boolean(),
            "The community of RFC 8326, and LOCAL_PREF 0 on iBGP. Default: true.",
        ),
    ]);
    let aggregate = object([
        key("prefix", prefix(Family::Any, 0, Own::No), "The prefix.").required(),
        key(
            "advertise",
            choice(&["all", "any"]),
            "Whether all or any VIPs in it must be announced. Default: any.",
        ),
        key("host_routes", boolean(), "Announce the VIPs in it by themselves as well. Default: false."),
    ]);
    let own = [
        key("local_as", as_number(), "Our AS. A peer with the same is iBGP.").required(),
        key(
            "router_id",
            address(Family::V4, Own::Yes),
            "BGP identifier: each node's own, as in ${XDP_LB_NODE_IP}.",
        )
        .required(),
        key(
            "graceful_restart",
            boolean(),
            "Ask routers to keep the routes when the agent dies. Default: true.",
        ),
        key("restart_time", seconds("1s", "1h8m15s"), "For so long. Default: 30s."),
        key(
            "withdraw_grace",
            duration("0s", "10m"),
            "On leaving: how long packets are forwarded after the withdrawal. Default: 5s.",
        ),
        key(
            "drain_time",
            duration("0s", "24h"),
            "How long a route is unattractive before it is withdrawn. Default: 0s.",
        ),
        key("drain", drain, "What unattractive means."),
        key(
            "on_stop",
            choice(&["withdraw", "keep"]),
            "When an agent is told to end: withdraw, or leave the routes to graceful restart. Default: withdraw.",
        ),
        key("aggregates", list(aggregate, 64), "Prefixes announced instead of the VIPs in them."),
        key(
            "status_file",
            text("^/.*[^/]$", 255),
            "Where an agent writes what its status shows. Default: /run/xdp-lb/bgp.json.",
        ),
    ];
    object(own.into_iter().chain(attributes()))
}

/// Keys of a router.
pub(super) fn peer() -> Vec<Key> {
    let bfd = object([
        key("interval", duration("10ms", "1m"), "Between two packets, both ways. Default: 300ms."),
        key("multiplier", integer(1, 255), "Packets that may be missing. Default: 3."),
    ]);
    let mut keys = vec![
        key("address", address(Family::Any, Own::No), "The router's address.").required(),
        key("remote_as", as_number(), "Its AS.").required(),
        key("port", integer(1, 65_535), "Its TCP port. Default: 179."),
        key(
            "hold_time",
            never_or_seconds("3s", "18h12m15s"),
            "What we propose; 0s: a silent router is never given up. Default: 9s.",
        ),
        key(
            "send_hold_time",
            duration("1s", "24h"),
            "A router that takes nothing for so long is given up (RFC 9687). Default: 8m.",
        ),
        key("multihop", integer(1, 255), "Hops to the router. Default: 1."),
        key("gtsm", boolean(), "TTL security (RFC 5082). Default: false."),
        key("source", address(Family::Any, Own::Yes), "Our address on the session. Each node's own."),
        key("interface", text(r"^[^\s/:]+$", 15), "The session keeps to this interface."),
        key("families", families(), "What we offer to exchange. Default: both."),
        key("next_hop_v4", address(Family::V4, Own::Yes), "Next hop of IPv4 routes. Each node's own."),
        key("next_hop_v6", address(Family::V6, Own::Yes), "Next hop of IPv6 routes. Each node's own."),
        key(
            "max_received",
            integer(0, 10_000_000),
            "Prefixes it may tell us; more end the session. Default: 100000.",
        ),
        key("bfd", bfd, "Watch the router by BFD."),
    ];
    keys.extend(attributes());
    keys
}

fn families() -> Value {
    let mut families = list(choice(&["ipv4", "ipv6"]), 2);
    families["minItems"] = 1.into();
    families
}
