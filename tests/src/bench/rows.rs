//! The rows: what comes in, through which program, and what must become of every packet.

use std::borrow::Cow;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use xdp_lb_common::reason::{DropReason, PassReason};
use xdp_lb_common::service::{DEST_PORT, ICE_UFRAG, QUIC_CID, SOURCE_RANGES};

use super::tables::{DECAP_VIP, GUE_TUNNEL, PORT, SERVER_ID, State, TUNNEL, UFRAG, VIP, VIP_V6};
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
    /// Bytes 18..26 are overwritten by the program and have to be restored.
    pub restore_outer: bool,
    /// What every packet's verdict is.
    pub verdict: XdpAction,
    /// By how much every packet grows.
    pub growth: isize,
    /// What every packet counts, where that is the same for all.
    pub counted: Option<Counted>,
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
const TUNNEL_SOURCE: Ipv4Addr = Ipv4Addr::new(172, 16, 0, 1);
const MACS: (&str, &str) = ("02:00:00:00:00:01", "00:00:5e:00:01:01");
const PAYLOAD: [u8; 32] = [0x5a; 32];

const CLEAN: State = State {
    flow_entries: 1 << 16,
    dirty: false,
    new_flow_limit: u32::MAX,
    thorough: 0,
    admitted: true,
    gue: false,
};
const DIRTY: State = State { dirty: true, ..CLEAN };

/// Four entries of the flow table for each of `flows`.
const fn remembering(flows: u32) -> State {
    State { flow_entries: 4 * flows, ..CLEAN }
}

/// The UDP service with an affinity that looks further.
const fn looking(thorough: u16) -> State {
    State { thorough, ..CLEAN }
}

/// All rows; the floor and the limit first.
#[must_use]
pub fn rows() -> Vec<Row> {
    let inner = 14;
    let forwarded = |row: Row| {
        let bytes = row.packet.len() - inner;
        Row {
            verdict: XdpAction::Tx,
            growth: TUNNEL as isize,
            counted: Some(Counted::Forwarded(bytes as u64)),
            ..row
        }
    };
    let balanced =
        |name, state, packet, flows| forwarded(Row { flows, ..row(name, Subject::Balancer(state), packet) });
    let v6 = |row: Row| Row { flow_at: SOURCE_V6, ..row };
    let warm = |row: Row| Row { warm_up: 3 * row.flows, ..row };
    vec![
        row("floor", Subject::Floor, tcp(ACK)),
        Row { growth: TUNNEL as isize, verdict: XdpAction::Tx, ..row("limit", Subject::Limit, tcp(ACK)) },
        balanced("tcp", CLEAN, tcp(ACK), 1),
        warm(balanced("udp exact", CLEAN, udp(), 1)),
        v6(balanced("tcp ipv6", CLEAN, tcp_v6(), 1)),
        v6(warm(balanced("udp ipv6 exact", CLEAN, udp_v6(), 1))),
        Row { growth: GUE_TUNNEL as isize, ..balanced("tcp gue", State { gue: true, ..CLEAN }, tcp(ACK), 1) },
        Row {
            counted: Some(Counted::Pass(PassReason::NotAVip)),
            ..row("not a vip", Subject::Balancer(CLEAN), ipv4_tcp(OUTSIDE, ACK))
        },
        balanced("tcp 1k flows", CLEAN, tcp(ACK), 1 << 10),
        balanced("tcp 64k flows", CLEAN, tcp(ACK), 1 << 16),
        balanced("tcp 1M flows", CLEAN, tcp(ACK), 1 << 20),
        balanced("tcp 10M flows", CLEAN, tcp(ACK), 10_000_000),
        warm(balanced("udp exact 64k flows", remembering(1 << 16), udp(), 1 << 16)),
        warm(balanced("udp exact 1M flows", remembering(1 << 20), udp(), 1 << 20)),
        balanced("udp exact new flow", remembering(1 << 22), udp(), EVERY_PACKET),
        balanced("syn flood", CLEAN, tcp(SYN), EVERY_PACKET),
        balanced("syn flood dirty", State { new_flow_limit: 100_000, ..DIRTY }, tcp(SYN), EVERY_PACKET),
        warm(balanced(
            "tcp dirty 1M flows",
            State { dirty: true, ..remembering(1 << 20) },
            tcp(ACK),
            1 << 20,
        )),
        balanced("dest-port", looking(DEST_PORT), udp(), 1),
        balanced("quic-cid", looking(QUIC_CID), udp_of(&quic_short(&cid())), 1),
        balanced("quic-cid 64k addresses", looking(QUIC_CID), udp_of(&quic_short(&cid())), 1 << 16),
        balanced("quic-cid unknown", looking(QUIC_CID), udp_of(&quic_short(&[0xe7; 16])), 1),
        balanced("ice-ufrag request", looking(ICE_UFRAG), udp_of(&request()), 1),
        balanced("ice-ufrag media", looking(ICE_UFRAG), udp(), 1),
        balanced("source admitted", looking(SOURCE_RANGES), udp(), 1),
        Row {
            verdict: XdpAction::Drop,
            counted: Some(Counted::Drop(DropReason::SourceDenied)),
            ..row(
                "source denied",
                Subject::Balancer(State { admitted: false, ..looking(SOURCE_RANGES) }),
                udp(),
            )
        },
        Row {
            restore_outer: true,
            growth: -(TUNNEL as isize),
            counted: Some(Counted::Pass(PassReason::Decapsulated)),
            ..row("decap", Subject::Decap, tunnelled())
        },
    ]
}

impl Row {
    /// Whether the row runs a program of the balancer's object.
    #[must_use]
    pub fn has_balancer(&self) -> bool {
        matches!(self.subject, Subject::Balancer(_) | Subject::Decap)
    }

    /// Whether the flow table is asked, so that its counters move too.
    #[must_use]
    pub fn is_tracked(&self) -> bool {
        matches!(&self.subject, Subject::Balancer(state) if state.dirty || self.name.starts_with("udp"))
    }
}

fn row(name: &'static str, subject: Subject, packet: Vec<u8>) -> Row {
    Row {
        name: name.into(),
        subject,
        packet,
        flow_at: SOURCE_V4,
        flows: 1,
        restore_outer: false,
        verdict: XdpAction::Pass,
        growth: 0,
        counted: None,
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
