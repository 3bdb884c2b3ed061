//! Who takes part in the golden rows, and how their frames begin.

use xdp_lb_tests::packet::{Ethernet, Frame, Ipv4, Ipv6, eth};

/// This node's interface: `lo` has no address of its own.
pub const OWN_MAC: &str = "00:00:00:00:00:00";
/// The router: static next hop of the fixtures and sender of every packet.
pub const ROUTER_MAC: &str = "00:00:5e:00:01:01";

/// A client.
pub const CLIENT: &str = "198.51.100.7";
/// A client.
pub const CLIENT_V6: &str = "2001:db8:cafe::7";

/// Balanced to IPv4 backends.
pub const VIP: &str = "203.0.113.10";
/// Balanced to IPv4 backends.
pub const VIP_V6: &str = "2001:db8::10";
/// Balanced to IPv6 backends.
pub const VIP_OVER_V6: &str = "203.0.113.20";
/// Balanced to IPv6 backends.
pub const VIP_V6_OVER_V6: &str = "2001:db8::20";
/// Says `unmatched: pass`.
pub const VIP_PASS: &str = "203.0.113.30";
/// Says `unmatched: pass`.
pub const VIP_V6_PASS: &str = "2001:db8::30";
/// All UDP by client address, to equal backends.
pub const VIP_BY_CLIENT: &str = "203.0.113.50";
/// All UDP by client address, to equal backends.
pub const VIP_V6_BY_CLIENT: &str = "2001:db8::50";
/// Refuses fragments of one UDP service and of all TCP.
pub const VIP_REFUSING: &str = "203.0.113.51";
/// Refuses fragments of one UDP service and of all TCP.
pub const VIP_V6_REFUSING: &str = "2001:db8::51";
/// Balanced through GUE: addresses, whether to IPv6 backends, variant, port.
pub const GUE_VIPS: [(&str, &str, bool, u8, u16); 4] = [
    ("203.0.113.60", "2001:db8::60", false, 0, 6080),
    ("203.0.113.61", "2001:db8::61", false, 1, 6081),
    ("203.0.113.62", "2001:db8::62", true, 0, 6080),
    ("203.0.113.63", "2001:db8::63", true, 1, 6081),
];
/// No VIP.
pub const OTHER: &str = "203.0.113.99";
/// No VIP.
pub const OTHER_V6: &str = "2001:db8::99";

/// The only IPv4 backend.
pub const BACKEND: &str = "10.1.2.11";
/// The only IPv6 backend.
pub const BACKEND_V6: &str = "fd00:1:2::11";
/// The only outer IPv4 source.
pub const SOURCE: &str = "172.16.0.1";
/// The only outer IPv6 source.
pub const SOURCE_V6: &str = "fd00:7864:7000::1";

/// A frame to this node.
pub fn frame() -> Frame<Ethernet> {
    eth(OWN_MAC, ROUTER_MAC)
}

/// From the client to `destination`.
pub fn to(destination: &str) -> Frame<Ipv4> {
    frame().ipv4(CLIENT, destination).ttl(61).id(0x1d1d)
}

/// From the client to `destination`.
pub fn to_v6(destination: &str) -> Frame<Ipv6> {
    frame().ipv6(CLIENT_V6, destination).hop_limit(61).flow_label(0x12345)
}

/// The IPv4 tunnel's header: DF, id 0, TTL 64, whatever the inner packet has.
pub fn tunnel(tos: u8) -> Frame<Ipv4> {
    eth(ROUTER_MAC, OWN_MAC).ipv4(SOURCE, BACKEND).df().id(0).ttl(64).tos(tos)
}

/// The IPv6 tunnel's header: hop limit 64, the flow label left to [`super::Output::Labelled`].
pub fn tunnel_v6(tos: u8) -> Frame<Ipv6> {
    eth(ROUTER_MAC, OWN_MAC).ipv6(SOURCE_V6, BACKEND_V6).hop_limit(64).traffic_class(tos)
}
