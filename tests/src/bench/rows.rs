//! The rows: what comes in, through which program, and what must become of every packet.

use std::borrow::Cow;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::ops::RangeInclusive;
use std::path::PathBuf;

use xdp_lb_common::parse::ETHERNET_LEN;
use xdp_lb_common::reason::{DropReason, PassReason};
use xdp_lb_common::service::{
    CLIENT_IP, DEST_PORT, ICE_UFRAG, QUIC_CID, SOURCE_RANGES, TRACK_EXACT, TRACK_SAMPLED,
};

use super::state::{Ports, State, Tunnel, Zone};
use super::tables::{DECAP_VIP, PORT, SERVER_ID, UFRAG, VIP, VIP_V6};
use crate::packet::{ACK, SYN, binding_request, eth, quic_short};
use crate::prog::{Counted, XdpAction};

/// Which program a row runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// The harness alone.
    Floor,
    /// The constant header.
    Limit,
    /// `xdp_lb`.
    Balancer(State),
    /// `xdp_decap`.
    Decap,
    /// Any XDP program, by its pin.
    Pinned(PathBuf),
}

/// One line of the result.
#[derive(Clone, Debug)]
pub struct Row {
    /// What people and `--json` call it.
    pub name: Cow<'static, str>,
    /// Program.
    pub subject: Subject,
    /// The packet of flow 0.
    pub packet: Vec<u8>,
    /// Offset of the eight bytes whose first four tell flows apart.
    pub flow_at: u32,
    /// Number of flows; 2^32 is a new flow with every packet.
    pub flows: u64,
    /// Number of destinations, the addresses of as many services.
    pub destinations: u64,
    /// What is sent once before each measurement.
    pub primer: Option<Vec<u8>>,
    /// Bytes 18..26 are overwritten by the program and have to be restored.
    pub restore_outer: bool,
    /// What every packet's verdict is.
    pub verdict: XdpAction,
    /// By how much every packet grows.
    pub growth: isize,
    /// What every packet counts, where that is the same for all.
    pub counted: Option<Counted>,
    /// How many packets of a hundred ask the flow table, where that is known.
    pub asks: Option<RangeInclusive<u32>>,
    /// Packets sent before the first measurement: three for each flow that is to be remembered.
    pub warm_up: u64,
}

/// As many flows as there are 4-byte sources.
const EVERY_PACKET: u64 = 1 << 32;
/// Offset of an IPv4 source behind Ethernet; its destination is the other half of the eight bytes.
const SOURCE_V4: u32 = 26;
/// Offset of the interface identifier of an IPv6 source.
const SOURCE_V6: u32 = 30;
const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 0);
const CLIENT_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0xcafe, 0, 0, 0, 0, 7);
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
const ROUTER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const TUNNEL_SOURCE: Ipv4Addr = Ipv4Addr::new(172, 16, 0, 1);
const MACS: (&str, &str) = ("02:00:00:00:00:01", "00:00:5e:00:01:01");
const PAYLOAD: [u8; 32] = [0x5a; 32];

const CLEAN: State = State::CLEAN;
/// A million: more than the caches hold.
const MANY: u64 = 1 << 20;

/// Four entries of the flow table for each of `flows`.
const fn remembering(flows: u32) -> State {
    State { flow_entries: 4 * flows, ..CLEAN }
}

/// So many slots of a hundred have changed lately; all flows of [`MANY`] can be remembered.
const fn dirty(part: u32) -> State {
    State { dirty: part, ..remembering(MANY as u32) }
}

/// The UDP service with other tracking, or an affinity.
const fn udp_as(flags: u16) -> State {
    State { udp: flags, ..CLEAN }
}

const fn zone(services: u32, rings: u32, table_size: u32, backends: u16) -> State {
    State { zone: Zone { services, rings, table_size, backends }, ..CLEAN }
}

/// All rows; the floor and the limit first.
#[must_use]
pub fn rows() -> Vec<Row> {
    let mut rows = plain();
    rows.extend(flows());
    rows.extend(zones());
    rows.extend(affinities());
    rows.extend(rarer());
    rows
}

/// The floor, the limit, and one flow.
fn plain() -> Vec<Row> {
    vec![
        row("floor", Subject::Floor, tcp(ACK)),
        Row {
            growth: Tunnel::Ipv4.growth() as isize,
            verdict: XdpAction::Tx,
            ..row("limit", Subject::Limit, tcp(ACK))
        },
        balanced("tcp", CLEAN, tcp(ACK), 1),
        tracked(balanced("udp exact", CLEAN, udp(), 1)),
        v6(balanced("tcp ipv6", CLEAN, tcp_v6(), 1)),
        v6(tracked(balanced("udp ipv6 exact", CLEAN, udp_v6(), 1))),
        balanced("tcp v4 in v6", State { tunnel: Tunnel::Ipv6, ..CLEAN }, tcp(ACK), 1),
        v6(balanced("tcp v6 in v6", State { tunnel: Tunnel::Ipv6, ..CLEAN }, tcp_v6(), 1)),
        balanced("tcp gue", State { tunnel: Tunnel::Gue, ..CLEAN }, tcp(ACK), 1),
        balanced("tcp port range", State { ports: Ports::Range, ..CLEAN }, tcp(ACK), 1),
        balanced("tcp many ports", State { ports: Ports::Pages, ..CLEAN }, tcp(ACK), 1),
        Row {
            counted: Some(Counted::Pass(PassReason::NotAVip)),
            ..row("not a vip", Subject::Balancer(CLEAN), ipv4_tcp(OUTSIDE, ACK))
        },
    ]
}

/// Many flows, new flows, slots that have changed lately.
fn flows() -> Vec<Row> {
    let beyond = State { dirty: 100, new_flow_limit: 100_000, ..CLEAN };
    let asking = |asks, row| Row { asks: Some(asks), ..row };
    vec![
        balanced("tcp 1k flows", CLEAN, tcp(ACK), 1 << 10),
        balanced("tcp 64k flows", CLEAN, tcp(ACK), 1 << 16),
        balanced("tcp 1M flows", CLEAN, tcp(ACK), MANY),
        balanced("tcp 10M flows", CLEAN, tcp(ACK), 10_000_000),
        warm(asking(0..=2, balanced("tcp dirty 1% 1M flows", dirty(1), tcp(ACK), MANY))),
        warm(asking(8..=12, balanced("tcp dirty 10% 1M flows", dirty(10), tcp(ACK), MANY))),
        tracked(balanced("tcp dirty 1M flows", dirty(100), tcp(ACK), MANY)),
        tracked(balanced("udp exact 64k flows", remembering(1 << 16), udp(), 1 << 16)),
        tracked(balanced("udp exact 1M flows", remembering(MANY as u32), udp(), MANY)),
        asking(100..=100, balanced("udp exact new flow", remembering(1 << 22), udp(), EVERY_PACKET)),
        asking(
            4..=9,
            balanced(
                "udp sampled new flow",
                State { udp: TRACK_SAMPLED, ..remembering(1 << 22) },
                udp(),
                EVERY_PACKET,
            ),
        ),
        balanced("syn flood", CLEAN, tcp(SYN), EVERY_PACKET),
        asking(
            100..=100,
            balanced(
                "syn dirty remembered",
                State { dirty: 100, ..remembering(1 << 22) },
                tcp(SYN),
                EVERY_PACKET,
            ),
        ),
        asking(100..=100, balanced("syn flood dirty", beyond, tcp(SYN), EVERY_PACKET)),
    ]
}

/// Many services, few and many backends: a million flows to an address of each.
fn zones() -> Vec<Row> {
    let many = |name, state: State| {
        let destinations = state.zone.services.into();
        Row { destinations, ..balanced(name, state, tcp(ACK), MANY) }
    };
    vec![
        many("tcp 3 backends", zone(1, 1, 65_537, 3)),
        many("tcp 1k backends", zone(1, 1, 65_537, 1000)),
        many("tcp 512 services", zone(512, 1, 65_537, 100)),
        many("tcp 384 services own rings", zone(384, 384, 4093, 100)),
        many("tcp 10k services 100 rings", zone(10_000, 100, 65_537, 100)),
    ]
}

fn affinities() -> Vec<Row> {
    vec![
        balanced("client-ip", udp_as(CLIENT_IP), udp(), 1),
        balanced("dest-port", udp_as(DEST_PORT), udp(), 1),
        balanced("quic-cid", udp_as(QUIC_CID), udp_of(&quic_short(&cid())), 1),
        balanced("quic-cid 64k addresses", udp_as(QUIC_CID), udp_of(&quic_short(&cid())), 1 << 16),
        balanced("quic-cid unknown", udp_as(QUIC_CID), udp_of(&quic_short(&[0xe7; 16])), 1),
        balanced("ice-ufrag request", udp_as(ICE_UFRAG), udp_of(&request()), 1),
        balanced("ice-ufrag media", udp_as(ICE_UFRAG), udp(), 1),
        balanced("source admitted", udp_as(SOURCE_RANGES), udp(), 1),
        Row {
            verdict: XdpAction::Drop,
            counted: Some(Counted::Drop(DropReason::SourceDenied)),
            ..row(
                "source denied",
                Subject::Balancer(State { admitted: false, ..udp_as(SOURCE_RANGES) }),
                udp(),
            )
        },
    ]
}

/// Fragments, ICMP errors, tunnels that end here.
fn rarer() -> Vec<Row> {
    let first = fragment(0, true);
    vec![
        balanced("fragment by client", udp_as(CLIENT_IP), fragment(1480, false), 1),
        // The number of the flow is the identification.
        Row { flow_at: 16, ..balanced("first fragment", udp_as(TRACK_EXACT), first.clone(), 1 << 16) },
        Row {
            primer: Some(first),
            ..balanced("later fragment", udp_as(TRACK_EXACT), fragment(1480, false), 1)
        },
        balanced("icmp error", CLEAN, icmp_error(), 1),
        Row {
            restore_outer: true,
            growth: -(Tunnel::Ipv4.growth() as isize),
            counted: Some(Counted::Pass(PassReason::Decapsulated)),
            ..row("decap", Subject::Decap, tunnelled())
        },
    ]
}

/// Every packet is forwarded.
fn balanced(name: &'static str, state: State, packet: Vec<u8>, flows: u64) -> Row {
    let bytes = packet.len() - ETHERNET_LEN;
    Row {
        flows,
        verdict: XdpAction::Tx,
        growth: state.tunnel.growth() as isize,
        counted: Some(Counted::Forwarded(bytes as u64)),
        ..row(name, Subject::Balancer(state), packet)
    }
}

/// Every packet asks the flow table, which has all of them.
fn tracked(row: Row) -> Row {
    Row { asks: Some(100..=100), ..warm(row) }
}

fn warm(row: Row) -> Row {
    Row { warm_up: 3 * row.flows, ..row }
}

fn v6(row: Row) -> Row {
    Row { flow_at: SOURCE_V6, ..row }
}

impl Row {
    /// Whether the row runs a program of the balancer's object.
    #[must_use]
    pub fn has_balancer(&self) -> bool {
        matches!(self.subject, Subject::Balancer(_) | Subject::Decap)
    }
}

fn row(name: &'static str, subject: Subject, packet: Vec<u8>) -> Row {
    Row {
        name: name.into(),
        subject,
        packet,
        flow_at: SOURCE_V4,
        flows: 1,
        destinations: 1,
        primer: None,
        restore_outer: false,
        verdict: XdpAction::Pass,
        growth: 0,
        counted: None,
        asks: None,
        warm_up: 0,
    }
}

fn ipv4_tcp(destination: Ipv4Addr, flags: u8) -> Vec<u8> {
    let (to, from) = MACS;
    eth(to, from).ipv4(CLIENT, destination).df().tcp(40000, PORT).flags(flags).payload(&PAYLOAD).build()
}

fn tcp(flags: u8) -> Vec<u8> {
    ipv4_tcp(VIP, flags)
}

fn udp() -> Vec<u8> {
    udp_of(&PAYLOAD)
}

fn udp_of(payload: &[u8]) -> Vec<u8> {
    let (to, from) = MACS;
    eth(to, from).ipv4(CLIENT, VIP).df().udp(40000, PORT).payload(payload).build()
}

/// A connection id of the backend with [`SERVER_ID`].
fn cid() -> Vec<u8> {
    [&[0x07], SERVER_ID, &[1, 2, 3, 4, 5]].concat()
}

/// A browser's Binding request: eight characters for the server, four of its own.
fn request() -> Vec<u8> {
    binding_request(&format!("{}abcd:Wx9z", String::from_utf8_lossy(UFRAG)))
}

fn tcp_v6() -> Vec<u8> {
    let (to, from) = MACS;
    eth(to, from).ipv6(CLIENT_V6, VIP_V6).tcp(40000, PORT).flags(ACK).payload(&PAYLOAD).build()
}

fn udp_v6() -> Vec<u8> {
    let (to, from) = MACS;
    eth(to, from).ipv6(CLIENT_V6, VIP_V6).udp(40000, PORT).payload(&PAYLOAD).build()
}

fn tunnelled() -> Vec<u8> {
    let (to, from) = MACS;
    let inner = ipv4_tcp(DECAP_VIP, ACK);
    eth(to, from).ipv4(TUNNEL_SOURCE, Ipv4Addr::new(10, 1, 0, 1)).df().inner(&inner[14..]).build()
}

/// A part of a UDP datagram of two.
fn fragment(offset: u16, more: bool) -> Vec<u8> {
    let (to, from) = MACS;
    let ip = eth(to, from).ipv4(CLIENT, VIP).id(7).fragment(offset, more);
    if offset == 0 {
        ip.udp(40000, PORT).length(1496).payload(&PAYLOAD).build()
    } else {
        ip.protocol(17).payload(&PAYLOAD).build()
    }
}

/// A router's about what a backend sent: the flow of [`tcp`].
fn icmp_error() -> Vec<u8> {
    let (to, from) = MACS;
    let answer = eth(to, from).ipv4(VIP, CLIENT).df().tcp(PORT, 40000).payload(&PAYLOAD).build();
    let quoted = &answer[ETHERNET_LEN..ETHERNET_LEN + 28];
    eth(to, from).ipv4(ROUTER, VIP).icmp(3, 4).rest([0, 0, 5, 0x78]).payload(quoted).build()
}
