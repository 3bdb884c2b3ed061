//! Where the fuzzer begins: a few inputs for each target, made by the packet builder.

use xdp_lb_tests::packet::{ACK, Frame, Ipv4, Ipv6, Layer, PSH, eth};

const CLIENT: &str = "198.51.100.7";
const VIP: &str = "203.0.113.10";
const CLIENT_V6: &str = "2001:db8::7";
const VIP_V6: &str = "2001:db8:1::a";

/// One input.
pub struct Seed {
    pub target: &'static str,
    pub name: &'static str,
    pub bytes: Vec<u8>,
}

/// Name and bytes of the seeds of one target.
type Named = (&'static str, Vec<(&'static str, Vec<u8>)>);

pub fn all() -> Vec<Seed> {
    let one =
        |(target, seeds): Named| seeds.into_iter().map(move |(name, bytes)| Seed { target, name, bytes });
    [frames(), ice(), quic(), icmp(), decap(), config(), bgp(), bfd()].into_iter().flat_map(one).collect()
}

fn v4() -> Frame<Ipv4> {
    eth("02:00:00:00:00:01", "02:00:00:00:00:02").ipv4(CLIENT, VIP)
}

fn v6() -> Frame<Ipv6> {
    eth("02:00:00:00:00:01", "02:00:00:00:00:02").ipv6(CLIENT_V6, VIP_V6)
}

/// The IP packet in a frame.
fn bare<Top: Layer + 'static>(frame: &Frame<Top>) -> Vec<u8> {
    frame.build()[14..].to_vec()
}

fn frames() -> Named {
    let seeds = vec![
        ("v4-udp-padded", v4().udp(40000, 5060).payload(b"OPTIONS").trailer(&[0; 11]).build()),
        ("v4-tcp-options", v4().options(&[1; 8]).tcp(40000, 443).flags(PSH | ACK).payload(b"x").build()),
        ("v4-first-fragment", v4().fragment(0, true).udp(40000, 5060).payload(&[7; 16]).build()),
        ("v4-later-fragment", v4().fragment(1480, false).payload(&[7; 16]).build()),
        ("v4-echo", v4().echo_request(1, 2).payload(b"ping").build()),
        ("v6-tcp", v6().tcp(40000, 443).flags(ACK).build()),
        ("v6-chain", v6().hop_by_hop(&[5, 2, 0, 0]).routing(4, 0, &[0; 4]).udp(40000, 5060).build()),
        ("v6-atomic", v6().fragment_header(0, false, 9).udp(40000, 5060).payload(b"whole").build()),
        ("v6-solicitation", v6().neighbour_solicitation(VIP_V6).build()),
        ("vlan", eth("02:00:00:00:00:01", "02:00:00:00:00:02").vlan(7).ipv4(CLIENT, VIP).udp(1, 2).build()),
    ];
    ("parser", seeds)
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let len = u16::try_from(value.len()).expect("a short attribute");
    let mut bytes = [&kind.to_be_bytes()[..], &len.to_be_bytes(), value].concat();
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// The knob, then a STUN message.
fn stun(id_len: u8, kind: u16, attributes: &[Vec<u8>]) -> Vec<u8> {
    let body = attributes.concat();
    let len = u16::try_from(body.len()).expect("a short message");
    let head =
        [&[id_len - 1][..], &kind.to_be_bytes(), &len.to_be_bytes(), &[0x21, 0x12, 0xa4, 0x42], &[7; 12]];
    [head.concat(), body].concat()
}

fn ice() -> Named {
    let (name, integrity, fingerprint) =
        (|n: &[u8]| attribute(6, n), attribute(8, &[0xab; 20]), attribute(0x8028, &[1; 4]));
    let check = |n: &[u8]| {
        [
            attribute(0x24, &[0x6e, 0, 1, 0xff]),
            attribute(0x8029, &[9; 8]),
            name(n),
            integrity.clone(),
            fingerprint.clone(),
        ]
    };
    let seeds = vec![
        ("check", stun(4, 1, &check(b"a1b2c3d4:efgh"))),
        ("check-long", stun(8, 1, &check(b"0a01Zz09+/abcdefghijklmnopqrstuv:0123456789abcdefghijklmnop"))),
        ("check-short", stun(2, 1, &[name(b"ab:c")])),
        ("no-colon", stun(2, 1, &[name(b"username"), integrity.clone()])),
        ("name-behind-integrity", stun(2, 1, &[integrity.clone(), name(b"ab:cd")])),
        ("eleventh", stun(2, 1, &[vec![attribute(0x24, &[0; 4]); 10], vec![name(b"ab:cd")]].concat())),
        ("response", stun(2, 0x0101, &[attribute(0x20, &[0, 1, 0xa1, 0x47, 0xe1, 0x12, 0xa6, 0x43])])),
        ("dtls", vec![1, 22, 254, 253, 0, 0, 0, 0]),
        ("rtcp", vec![1, 0x80, 200, 0, 6, 0, 0, 0, 1]),
    ];
    ("ice", seeds)
}

fn quic() -> Named {
    let cid = [0x26, 0x0a, 0x01, 9, 9, 9, 9];
    let configured = |packet: &[&[u8]]| [&[0b10, 2, 7, 1][..], &packet.concat()].concat();
    let long = |version: u32, cid: &[u8]| {
        let len = [u8::try_from(cid.len()).expect("a short id")];
        configured(&[&[0xc3], &version.to_be_bytes(), &len, cid, &[0, 0, 0x44], &[0x5a; 24]])
    };
    let seeds = vec![
        ("short", configured(&[&[0x43], &cid, &[0x5a; 24]])),
        ("long", long(1, &cid)),
        ("long-v2", long(0x6b33_43cf, &cid)),
        ("initial", long(1, &[0x83, 0x94, 0xc8, 0xf0, 0x3e, 0x51, 0x57, 0x08])),
        ("version-negotiation", long(0, &cid)),
        ("failover", configured(&[&[0x43], &[0xe6], &cid[1..], &[0x5a; 24]])),
        ("eight", [&[0x7f, 8, 20, 0, 0x40, 0x13][..], &[0xa5; 40]].concat()),
    ];
    ("quic", seeds)
}

fn icmp() -> Named {
    let to_vip = || eth("02:00:00:00:00:01", "02:00:00:00:00:02").ipv4("192.0.2.1", VIP);
    let to_vip_v6 = || eth("02:00:00:00:00:01", "02:00:00:00:00:02").ipv6("2001:db8:2::1", VIP_V6);
    let from_vip = || eth("02:00:00:00:00:01", "02:00:00:00:00:02").ipv4(VIP, CLIENT).df();
    let from_vip_v6 = || eth("02:00:00:00:00:01", "02:00:00:00:00:02").ipv6(VIP_V6, CLIENT_V6);
    let tunnel = bare(&from_vip().inner(&bare(&v4().udp(40000, 5060))));
    let gue = bare(&from_vip().udp(50000, 6080).payload(&bare(&v6().udp(40000, 5060))));
    let seeds = vec![
        (
            "frag-needed",
            to_vip()
                .icmp(3, 4)
                .rest([0, 0, 5, 0x78])
                .payload(&bare(&from_vip().udp(5060, 40000).payload(b"200 OK")))
                .build(),
        ),
        (
            "least",
            to_vip().icmp(3, 1).payload(&bare(&from_vip().options(&[1; 12]).tcp(443, 40000))[..40]).build(),
        ),
        ("time-exceeded", to_vip().icmp(11, 0).payload(&bare(&from_vip().ttl(0).tcp(443, 40000))).build()),
        (
            "fragment",
            to_vip().icmp(3, 4).payload(&bare(&from_vip().fragment(1480, false).payload(&[7; 16]))).build(),
        ),
        (
            "too-big",
            to_vip_v6()
                .icmpv6(2, 0)
                .rest([0, 0, 5, 0])
                .payload(&bare(&from_vip_v6().udp(5060, 40000)))
                .build(),
        ),
        (
            "too-big-chain",
            to_vip_v6()
                .icmpv6(2, 0)
                .payload(&bare(
                    &from_vip_v6().destination_options(&[]).fragment_header(0, true, 7).udp(5060, 40000),
                ))
                .build(),
        ),
        ("tunnel", to_vip().icmp(3, 4).rest([0, 0, 5, 0x78]).payload(&tunnel).build()),
        ("gue", to_vip().icmp(3, 4).rest([0, 0, 5, 0x78]).payload(&gue).build()),
        ("big-v4", v4().df().udp(40000, 5060).payload(&[0xa5; 561]).build()),
        ("big-v6", v6().tcp(40000, 443).flags(ACK).payload(&[0x5a; 1300]).build()),
    ];
    ("icmp", seeds)
}

fn decap() -> Named {
    let allow: &[u8] = &[
        2, 1, 172, 16, 0, 0, 16, 10, 0, 0, 0, 8, 0xfd, 0, 0x78, 0x64, 0x70, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
        64,
    ];
    let outer = || eth("02:00:00:00:00:01", "02:00:00:00:00:02").ipv4("172.16.7.7", "10.0.0.1").df();
    let outer_v6 = || eth("02:00:00:00:00:01", "02:00:00:00:00:02").ipv6("fd00:7864:7000::7", "fd00::1");
    let call = || bare(&v4().udp(40000, 5060).payload(b"INVITE"));
    let call_v6 = || bare(&v6().udp(40000, 5060).payload(b"INVITE"));
    let with = |frame: Vec<u8>| [allow, &frame].concat();
    let seeds = vec![
        ("4-in-4", with(outer().inner(&call()).build())),
        ("6-in-4", with(outer().inner(&call_v6()).trailer(&[0; 9]).build())),
        ("4-in-6", with(outer_v6().inner(&call()).build())),
        ("6-in-6", with(outer_v6().destination_options(&[4, 1, 4]).inner(&call_v6()).build())),
        (
            "stranger",
            with(
                eth("02:00:00:00:00:01", "02:00:00:00:00:02")
                    .ipv4("192.0.2.66", "10.0.0.1")
                    .inner(&call())
                    .build(),
            ),
        ),
        ("inner-too-long", with(outer().inner(&call()).trailer(&[0; 4]).build())),
        ("fragment", with(outer().fragment(0, true).inner(&call()).build())),
    ];
    ("decap", seeds)
}

fn config() -> Named {
    let seeds = vec![
        ("minimal", include_bytes!("../../../examples/minimal.yaml").to_vec()),
        ("lab", include_bytes!("../../../examples/lab.yaml").to_vec()),
        ("rtc", include_bytes!("../../../examples/rtc.yaml").to_vec()),
        ("decap", include_bytes!("../../../examples/decap.yaml").to_vec()),
        ("both", include_bytes!("../../../examples/edge-and-backend.yaml").to_vec()),
        ("aliases", b"version: 1\nx: &a [1]\ny: *a\nservices:\n  - {name: a, vip: 203.0.113.1}\n".to_vec()),
    ];
    ("config", seeds)
}

/// A step of the target `bgp`.
fn step(kind: u8, bytes: &[u8]) -> Vec<u8> {
    [&[kind, u8::try_from(bytes.len()).expect("a short step")][..], bytes].concat()
}

/// A BGP message: marker, length, type, body.
fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(19 + body.len()).expect("a short message").to_be_bytes();
    step(0, &[&[0xff; 16][..], &length, &[kind], body].concat())
}

fn bgp() -> Named {
    const RECEIVE: u8 = 0;
    const TICK: u8 = 2;
    const CONNECTED: u8 = 3;
    const WISH: u8 = 7;
    // Both families, AS 65001 in four octets, route refresh, graceful restart.
    let capabilities = [
        &[1, 4, 0, 1, 0, 1, 1, 4, 0, 2, 0, 1][..],
        &[65, 4, 0, 0, 0xfd, 0xe9, 2, 0],
        &[64, 6, 0x40, 9, 0, 1, 1, 0x80],
    ]
    .concat();
    let length = u8::try_from(capabilities.len()).expect("few capabilities");
    let open = [&[4, 0xfd, 0xe9, 0, 9, 10, 0, 0, 1, length + 2, 2, length][..], &capabilities].concat();
    let up =
        [step(TICK, &[0]), step(CONNECTED, &[]), message(1, &open), message(4, &[]), step(WISH, &[10, 11])]
            .concat();
    let with = |more: &[Vec<u8>]| [up.clone(), more.concat()].concat();
    let attributes = [0x40, 1, 1, 0, 0x40, 2, 6, 2, 1, 0, 0, 0xfd, 0xe9, 0x40, 3, 4, 10, 0, 0, 1];
    let announce = [&[0, 0, 0, 20][..], &attributes, &[24, 10, 9, 1, 24, 10, 9, 2]].concat();
    let reach = [
        &[0, 0, 0, 46, 0x80, 14, 30, 0, 2, 1, 16][..],
        &[0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0],
        &[64, 0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0],
        &attributes[..13],
    ]
    .concat();
    let seeds = vec![
        ("up", with(&[])),
        ("announced", with(&[message(2, &announce), message(2, &[0, 4, 24, 10, 9, 1, 0, 0])])),
        ("ipv6", with(&[message(2, &reach)])),
        ("refresh", with(&[message(5, &[0, 1, 0, 1]), message(5, &[0, 2, 0, 1])])),
        ("shutdown", with(&[message(3, &[6, 2, 3, b'b', b'y', b'e']), step(TICK, &[20])])),
        ("garbage", with(&[step(RECEIVE, &[0; 40]), step(TICK, &[20]), step(CONNECTED, &[])])),
        ("silence", with(&[step(TICK, &[30]), step(TICK, &[91])])),
    ];
    ("bgp", seeds)
}

fn bfd() -> Named {
    let packet = |pause: u8, state: u8, flags: u8, your: u8| {
        let mut bytes = vec![pause, 0x20, state << 6 | flags, 3, 24, 0, 0, 0, 77, 0, 0, 0, your];
        bytes.extend([0, 1, 0x86, 0xa0, 0, 1, 0x86, 0xa0, 0, 0, 0, 0]);
        bytes
    };
    let (poll, fin) = (1 << 5, 1 << 4);
    let up = [packet(0, 1, 0, 0), packet(50, 2, 0, 5), packet(5, 3, poll, 5), packet(1, 3, fin, 5)].concat();
    let with = |more: &[Vec<u8>]| [up.clone(), more.concat()].concat();
    let seeds = vec![
        ("up", with(&[])),
        ("steady", with(&[packet(9, 3, 0, 5), packet(10, 3, 0, 5), packet(11, 3, 0, 5)])),
        ("silence", with(&[packet(31, 3, 0, 5), packet(40, 1, 0, 0)])),
        ("signalled", with(&[packet(5, 1, 0, 5), packet(5, 2, 0, 5)])),
        ("switched-off", with(&[packet(5, 0, 0, 5), packet(100, 0, 0, 0)])),
        ("demand", with(&[packet(5, 3, 2, 5), packet(50, 3, 2, 5)])),
    ];
    ("bfd", seeds)
}
