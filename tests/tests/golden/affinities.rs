//! What names its backend itself: destination ports, QUIC connection ids, ufrags; and who is let in at all.

use xdp_lb_common::reason::{
    DropReason::{FragmentEarly, NoSlice, SliceDown, SourceDenied},
    FlowEvent::{CidKnown, CidUnknown, Hit, IceConflict, IceUnknown, Miss, Remembered},
};
use xdp_lb_tests::packet::{binding_request, eth, quic_long, quic_short, stun};
use xdp_lb_tests::prog::Counted::{self, Flow};

use super::net::{CLIENT, OWN_MAC, ROUTER_MAC, SOURCE, VIP, VIP_V6, frame, to, to_v6};
use super::tunnels::over_v4;
use super::{Output, Row};

/// Nobody's slots but the first backend's; the others have ids and slices of their own.
pub const CONFIG: &str = r#"
version: 1
node: { name: golden }
interfaces: [{ name: lo, mode: generic, next_hop: { mac: "00:00:5e:00:01:01" } }]
encap: { kind: ipip, source_v4: 172.16.0.1/32, source_v6: "fd00:7864:7000::1/128" }
maglev: { table_size: 251, seed: 20240229 }
flow_table: { entries: 1024 }
limits: { services: 64, vips: 64, backends: 256, ring_slots: 8192, port_pages: 512, backend_stats: 64,
          server_ids: 64, source_ranges: 64 }
services:
  - name: rtp
    vip: [203.0.113.10, "2001:db8::10"]
    protocol: udp
    ports: ["20000-20999", "21000-21099"]
    affinity: dest-port
    backends:
      - { address: 10.1.2.11, ports: ["20000-20499", 20600, 20601] }
      - { address: 10.1.2.12, ports: ["20500-20599", "20602-20899"] }
      - { address: 10.1.2.13, ports: "20900-20999", state: down }
  - name: turns
    vip: [203.0.113.10, "2001:db8::10"]
    protocol: tcp
    ports: "30000-30999"
    affinity: dest-port
    backends: [{ address: 10.1.2.11, ports: "30000-30500" }, { address: 10.1.2.12, ports: "30501-30999" }]
  - name: quic
    vip: [203.0.113.10, "2001:db8::10"]
    protocol: udp
    ports: 443
    affinity: quic-cid
    quic_cid: { config_ids: [0, 3], nonce: 5, length_encoded: true }
    tracking: off
    backends:
      - { address: 10.1.2.11, server_id: "0a01" }
      - { address: 10.1.2.12, server_id: "0a02", weight: 0 }
      - { address: 10.1.2.13, server_id: "0a03", state: down }
  - name: webrtc
    vip: [203.0.113.10, "2001:db8::10"]
    protocol: udp
    ports: 3478
    affinity: ice-ufrag
    backends:
      - { address: 10.1.2.11, server_id: sfu1 }
      - { address: 10.1.2.12, server_id: sfu2, weight: 0 }
      - { address: 10.1.2.13, server_id: sfu3, state: down }
  - name: guarded
    vip: [203.0.113.10, "2001:db8::10"]
    protocol: udp
    ports: 7000
    tracking: off
    source_ranges: { allow: [198.51.100.0/24, 198.51.100.200/32, 192.0.2.1/32, "2001:db8:cafe::/48"], deny: [198.51.100.128/25] }
    backends: [{ address: 10.1.2.11 }]
  - name: open-but-for-some
    vip: [203.0.113.10, "2001:db8::10"]
    protocol: tcp
    ports: 7001
    source_ranges: { deny: [198.51.100.0/24, "2001:db8:cafe::7/128"] }
    backends: [{ address: 10.1.2.11 }]
  - name: guarded-slices
    vip: 203.0.113.10
    protocol: udp
    ports: "7100-7101"
    affinity: dest-port
    source_ranges: { allow: [198.51.100.7/32] }
    backends: [{ address: 10.1.2.11, ports: "7100-7101" }]
  - name: guarded-clients
    vip: [203.0.113.60, "2001:db8::60"]
    protocol: udp
    ports: all
    affinity: client-ip
    tracking: off
    source_ranges: { allow: [198.51.100.0/24, "2001:db8:cafe::/48"], deny: [198.51.100.128/25] }
    backends: [{ address: 10.1.2.11 }]
"#;

/// To a backend of the three.
fn sent(name: impl Into<String>, input: Vec<u8>, backend: &str, events: &[Counted]) -> Row {
    let mut row = over_v4(name, input, 0, 0);
    let tunnel = eth(ROUTER_MAC, OWN_MAC).ipv4(SOURCE, backend).df().id(0).ttl(64);
    row.output = Output::Whole(tunnel.inner(&row.input[14..]).build());
    row.counted.extend(events);
    row
}

const FIRST: &str = "10.1.2.11";
const SECOND: &str = "10.1.2.12";

/// The port alone decides, for every client.
pub fn slices() -> Vec<Row> {
    let mut rows = Vec::new();
    for (port, owner) in [
        (20000, FIRST),
        (20001, FIRST),
        (20223, FIRST),
        (20224, FIRST),
        (20499, FIRST),
        (20500, SECOND),
        (20501, SECOND),
        (20599, SECOND),
        (20600, FIRST),
        (20601, FIRST),
        (20602, SECOND),
        (20899, SECOND),
    ] {
        for client in [1, 65535] {
            rows.push(sent(format!("{port} from {client}"), to(VIP).udp(client, port).build(), owner, &[]));
        }
        rows.push(sent(format!("{port} over IPv6"), to_v6(VIP_V6).udp(1, port).build(), owner, &[]));
        let other = frame().ipv4("192.0.2.99", VIP).ttl(61).udp(9, port).payload(b"rtp").build();
        rows.push(sent(format!("{port} from another address"), other, owner, &[]));
    }
    rows.push(sent("tcp", to(VIP).tcp(1, 30500).build(), FIRST, &[]));
    rows.push(sent("tcp, the next slice", to(VIP).tcp(1, 30501).build(), SECOND, &[]));
    for port in [20900, 20999] {
        rows.push(Row::drops(format!("{port}, owner down"), to(VIP).udp(1, port).build(), SliceDown));
    }
    for port in [21000, 21099] {
        rows.push(Row::drops(format!("{port}, nobody's"), to(VIP).udp(1, port).build(), NoSlice));
    }
    rows.push(Row::drops("21000 over IPv6", to_v6(VIP_V6).udp(1, 21000).build(), NoSlice));
    rows
}

/// `cfg:3 len:5`, id, nonce.
const CID_1: [u8; 8] = [0x07, 0x0a, 0x01, 1, 2, 3, 4, 5];
const CID_2: [u8; 8] = [0x67, 0x0a, 0x02, 1, 2, 3, 4, 5];
const CID_DOWN: [u8; 8] = [0x07, 0x0a, 0x03, 1, 2, 3, 4, 5];
const CID_NOBODY: [u8; 8] = [0x07, 0x0b, 0x01, 1, 2, 3, 4, 5];

/// Connection ids, in both headers.
pub fn connection_ids() -> Vec<Row> {
    let packet = |client: u16, payload: &[u8]| to(VIP).udp(client, 443).payload(payload).build();
    let known = [Flow(CidKnown)];
    let moved = [Flow(CidKnown), Flow(Remembered)];
    let unknown = [Flow(CidUnknown)];
    let mut rows = vec![
        sent("short, the slot's own", packet(1, &quic_short(&CID_1)), FIRST, &known),
        sent("long, the slot's own", packet(1, &quic_long(&CID_1)), FIRST, &known),
        sent("short, another's", packet(2, &quic_short(&CID_2)), SECOND, &moved),
        sent("the tuple is remembered", packet(2, &quic_short(&CID_2)), SECOND, &known),
        sent("long, another's", packet(3, &quic_long(&CID_2)), SECOND, &moved),
        sent("from a new port", packet(4, &quic_short(&CID_2)), SECOND, &moved),
        sent("over IPv6", to_v6(VIP_V6).udp(1, 443).payload(&quic_short(&CID_2)).build(), SECOND, &moved),
        sent(
            "behind IPv4 options",
            to(VIP).options(&[1; 8]).udp(5, 443).payload(&quic_short(&CID_2)).build(),
            SECOND,
            &moved,
        ),
    ];
    // Of a short header's only the length that it says of itself is known.
    let mut short_length = CID_2;
    short_length[0] = 0x66;
    let mut odd_length = CID_2;
    odd_length[0] = 0x68;
    let mut other_config = CID_2;
    other_config[0] = 0x27;
    let mut unroutable = CID_2;
    unroutable[0] = 0xe7;
    for (name, payload) in [
        ("an Initial's own choice", quic_long(&[0xe1, 0x0a, 2, 4, 5, 6, 7, 8])),
        ("a backend that is down", quic_short(&CID_DOWN)),
        ("nobody's id", quic_short(&CID_NOBODY)),
        ("a length that is not its own", quic_long(&odd_length)),
        ("a length that ours do not have", quic_short(&short_length)),
        ("another configuration", quic_short(&other_config)),
        ("unroutable", quic_short(&unroutable)),
        ("too short a connection id", quic_long(&CID_2[..7])),
        ("a connection id behind the end", quic_short(&CID_2)[..6].to_vec()),
        ("version negotiation", [&[0xc0, 0, 0, 0, 0, 8][..], &CID_2, &[0; 20]].concat()),
        ("nothing at all", Vec::new()),
        ("one byte", vec![0x40]),
    ] {
        rows.push(sent(name, packet(9, &payload), FIRST, &unknown));
    }
    // The UDP length ends the payload, whatever IP holds behind it.
    let mut hidden = packet(9, &quic_short(&CID_2));
    hidden[38..40].copy_from_slice(&12u16.to_be_bytes());
    rows.push(sent("an id behind the UDP length", hidden, FIRST, &unknown));
    rows
}

/// Binding requests, and what follows them.
pub fn ufrags() -> Vec<Row> {
    let packet = |client: u16, payload: &[u8]| to(VIP).udp(client, 3478).payload(payload).build();
    let check = |client, name: &str| packet(client, &binding_request(name));
    let (new, hit, miss) = ([Flow(Miss), Flow(Remembered)], [Flow(Hit)], [Flow(Miss)]);
    let unknown = [Flow(Miss), Flow(IceUnknown)];
    let long = format!("sfu2{}:{}", "x".repeat(200), "y".repeat(200));
    let mut rows = vec![
        sent("media before any request", packet(1, &[0x80; 40]), FIRST, &miss),
        sent("a request", check(1, "sfu2abcd:client"), SECOND, &new),
        sent("DTLS follows", packet(1, &[22, 0xfe, 0xfd, 0, 0]), SECOND, &hit),
        sent("SRTP follows", packet(1, &[0x80; 40]), SECOND, &hit),
        sent("an answer follows", packet(1, &stun(0x0101, &[])), SECOND, &hit),
        sent("the next request", check(1, "sfu2abcd:client"), SECOND, &hit),
        sent("somebody else's session", check(2, "sfu1abcd:client"), FIRST, &new),
        sent("its media", packet(2, &[0x80; 40]), FIRST, &hit),
        sent(
            "a request for another, while the flow lives",
            check(1, "sfu1abcd:client"),
            FIRST,
            &[Flow(Hit), Flow(IceConflict)],
        ),
        sent("does not move the flow", packet(1, &[0x80; 40]), SECOND, &hit),
        sent(
            "an id that nobody has goes where the flow does",
            check(1, "sfu9abcd:client"),
            SECOND,
            &[Flow(Hit), Flow(IceUnknown)],
        ),
        sent("the same without a flow", check(3, "sfu9abcd:client"), FIRST, &unknown),
        sent("and is not remembered", packet(3, &[0x80; 40]), FIRST, &miss),
        sent("a backend that is down", check(4, "sfu3abcd:client"), FIRST, &unknown),
        sent("the id alone", check(5, "sfu2:c"), SECOND, &new),
        sent("a ufrag shorter than the id", check(6, "sfu:client"), FIRST, &unknown),
        sent("no colon", check(6, "sfu2abcd"), FIRST, &unknown),
        sent("a long name", check(7, &long), SECOND, &new),
        sent("a request without a name", packet(6, &stun(1, &[(0x24, &[0; 4])])), FIRST, &unknown),
        sent("STUN without the cookie", packet(6, &[0, 1, 0, 0, 9, 9, 9, 9, 0, 0, 0, 0]), FIRST, &miss),
        sent("another method", packet(6, &stun(0x0003, &[(6, b"sfu2abcd:c")])), FIRST, &miss),
        sent("nothing at all", packet(6, &[]), FIRST, &miss),
        sent(
            "over IPv6",
            to_v6(VIP_V6).udp(1, 3478).payload(&binding_request("sfu2abcd:client")).build(),
            SECOND,
            &new,
        ),
    ];
    let late = stun(1, &[(0x8022, b"a server of ours"), (0x24, &[0; 4]), (6, b"sfu2abcd:c")]);
    rows.push(sent("a name behind other attributes", packet(8, &late), SECOND, &new));
    let mut lying = binding_request("sfu2abcd:client");
    lying[3] = lying[3].wrapping_add(4);
    rows.push(sent("a length that is not the datagram's", packet(6, &lying), FIRST, &unknown));
    rows
}

/// Longest prefix, default, both families.
pub fn sources() -> Vec<Row> {
    let from = |client: &str, port: u16| frame().ipv4(client, VIP).udp(1, port).build();
    let from_v6 = |client: &str| frame().ipv6(client, VIP_V6).udp(1, 7000).build();
    let tcp = |client: &str| frame().ipv4(client, VIP).tcp(1, 7001).build();
    let mut rows = Vec::new();
    for client in ["198.51.100.0", "198.51.100.127", "198.51.100.200", "192.0.2.1"] {
        rows.push(sent(format!("{client} in"), from(client, 7000), FIRST, &[]));
    }
    for client in
        ["198.51.100.128", "198.51.100.255", "198.51.100.201", "198.51.101.0", "192.0.2.2", "0.0.0.0"]
    {
        rows.push(Row::drops(format!("{client} out"), from(client, 7000), SourceDenied));
    }
    rows.push(sent("IPv6 in", from_v6("2001:db8:cafe:ffff::1"), FIRST, &[]));
    rows.push(Row::drops("IPv6 out", from_v6("2001:db8:caff::1"), SourceDenied));
    rows.push(Row::drops("IPv4's form in IPv6", from_v6("::ffff:198.51.100.7"), SourceDenied));
    rows.push(sent("not denied", tcp("192.0.2.1"), FIRST, &[]));
    rows.push(Row::drops("denied", tcp("198.51.100.1"), SourceDenied));
    let v6 = |client: &str| frame().ipv6(client, VIP_V6).tcp(1, 7001).build();
    rows.push(sent("not denied over IPv6", v6("2001:db8:cafe::8"), FIRST, &[]));
    rows.push(Row::drops("denied over IPv6", v6("2001:db8:cafe::7"), SourceDenied));
    rows.push(sent("with a slice", from("198.51.100.7", 7100), FIRST, &[]));
    rows.push(Row::drops("denied with a slice", from("198.51.100.8", 7100), SourceDenied));
    rows
}

/// Fragments: the first one goes where a whole packet would, the others after it, and nobody is let in by them.
pub fn fragments() -> Vec<Row> {
    const GUARDED: &str = "203.0.113.60";
    const OUTSIDE: &str = "198.51.100.129";
    let part = |client: &str, vip: &str, id, offset| frame().ipv4(client, vip).id(id).fragment(offset, true);
    let first = |id, port, payload: &[u8]| {
        part(CLIENT, VIP, id, 0).udp(40000, port).length(3000).payload(payload).build()
    };
    let from =
        |client: &str, id| part(client, VIP, id, 0).udp(1, 7000).length(3000).payload(&[1; 64]).build();
    let later_of =
        |client: &str, vip: &str, id| part(client, vip, id, 1480).protocol(17).payload(&[2; 64]).build();
    let later = |id| later_of(CLIENT, VIP, id);
    let guarded_v6 = |client: &str| {
        let part = frame().ipv6(client, "2001:db8::60").fragment_header(1480, true, 9);
        part.next_header(17).payload(&[2; 64]).build()
    };
    let rtp = [0x80; 64];
    let mut quic = quic_short(&CID_2);
    quic.resize(64, 0);
    vec![
        sent("first, to a slice", first(1, 20500, &rtp), SECOND, &[]),
        sent("later, to a slice", later(1), SECOND, &[]),
        Row::drops("first, owner down", first(2, 20900, &rtp), SliceDown),
        Row::drops("later, owner down", later(2), FragmentEarly),
        Row::drops("first, nobody's port", first(3, 21000, &rtp), NoSlice),
        sent(
            "first, with a connection id",
            first(4, 443, &quic),
            SECOND,
            &[Flow(CidKnown), Flow(Remembered)],
        ),
        sent("later, with a connection id", later(4), SECOND, &[]),
        // The name may be in a later fragment, and half a request is none.
        sent("first of media", first(5, 3478, &rtp), FIRST, &[Flow(Miss)]),
        sent("later of media", later(5), FIRST, &[]),
        sent("first, let in", from(CLIENT, 6), FIRST, &[]),
        sent("later, let in", later(6), FIRST, &[]),
        Row::drops("first, kept out", from(OUTSIDE, 6), SourceDenied),
        Row::drops("later, kept out", later_of(OUTSIDE, VIP, 6), FragmentEarly),
        sent("by client, let in", later_of(CLIENT, GUARDED, 7), FIRST, &[]),
        Row::drops("by client, kept out", later_of(OUTSIDE, GUARDED, 7), SourceDenied),
        sent("by client, let in over IPv6", guarded_v6("2001:db8:cafe::1"), FIRST, &[]),
        Row::drops("by client, kept out over IPv6", guarded_v6("2001:db8:caff::1"), SourceDenied),
    ]
}
