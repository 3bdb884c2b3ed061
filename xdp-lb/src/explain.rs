//! Which backend a packet goes to, and why: the packet path on one packet, with everything it looks at written down.
//!
//! The very functions of the kernel half decide, in the order of `xdp-lb-ebpf/src/pipeline.rs`; only the parser has
//! nothing to do, since the query is no packet. Nothing is written: the flow table's set is a copy, and no flow
//! is admitted or counted. `xdp-lb explain` calls it on the pinned maps or on [`crate::memory`]; the parity tests too.
//!
//! ```text
//!   Query -> VIP -> service -> hash -> slot -> (flow table) -> backend -> header
//!             |        |                                |          |
//!           Pass     Drop, Pass                       Drop     Drop, Pass
//! ```

mod rehearse;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use serde::{Serialize, Serializer, ser::SerializeStruct as _};
use xdp_lb_common::{
    backend::{BACKEND_ALIVE, Backend, KIND_LOCAL, KIND_TUNNEL, Template},
    classify,
    encap::{self, Inner, V4_HEADER, V6_HEADER},
    flow::{FlowEntry, FlowKey, WAYS},
    hash::{self, FlowHash},
    parse::{Addresses, ETHERNET_LEN, Segment, TCP, UDP, Version, v4_words, words},
    reason::{DropReason, FlowEvent, PassReason, Reason},
    ring::{NO_BACKEND, Slot},
    select::{self, Choice, Flow, Set, Why},
    service::{CLIENT_IP, ServiceConfig, TRACK_WINDOW},
    vip::{VIP_BALANCED, VIP_PASS_UNMATCHED, VipSlot},
};

pub use self::rehearse::{RehearseError, rehearse};
use crate::{
    model::{Affinity, Protocol, Tracking},
    nexthop::UnresolvedReason,
    plan,
    state::Observed,
    status::{self, MemberState, Path, Vip, Word, word},
    template::from_map,
};

/// A packet to explain. Both addresses are of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Query {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// Client.
    pub source: SocketAddr,
    /// VIP and port.
    pub destination: SocketAddr,
    /// What the packet means for its flow; always [`Segment::Datagram`] for UDP.
    pub segment: Segment,
    /// Length of the IP packet in bytes.
    pub len: u16,
    /// Its TOS or traffic class.
    pub tos: u8,
}

impl Query {
    /// A packet of a UDP flow, or of a TCP connection that exists; `None` when one address is IPv4 and the other IPv6.
    #[must_use]
    pub fn new(protocol: Protocol, source: SocketAddr, destination: SocketAddr) -> Option<Self> {
        let segment = match protocol {
            Protocol::Tcp => Segment::Data,
            Protocol::Udp => Segment::Datagram,
        };
        let same_family = source.is_ipv4() == destination.is_ipv4();
        same_family.then_some(Self { protocol, source, destination, segment, len: 100, tos: 0 })
    }

    /// The same with another meaning for the flow; a datagram stays one.
    #[must_use]
    pub fn with_segment(self, segment: Segment) -> Self {
        match self.protocol {
            Protocol::Tcp => Self { segment, ..self },
            Protocol::Udp => self,
        }
    }

    fn addresses(&self) -> Addresses {
        let (version, source, destination) = match (self.source.ip(), self.destination.ip()) {
            (IpAddr::V4(s), IpAddr::V4(d)) => (Version::V4, v4_words(s.octets()), v4_words(d.octets())),
            (s, d) => (Version::V6, v6_words(s), v6_words(d)),
        };
        Addresses { version, l3: ETHERNET_LEN, source, destination }
    }

    fn protocol_number(&self) -> u8 {
        match self.protocol {
            Protocol::Tcp => TCP,
            Protocol::Udp => UDP,
        }
    }
}

fn v6_words(address: IpAddr) -> [u64; 2] {
    words(&crate::template::map_address(address))
}

/// What people want to read and the maps do not say.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// Names of interfaces by index.
    pub interfaces: BTreeMap<u32, String>,
    /// Why backends have no next hop.
    pub unresolved: BTreeMap<IpAddr, UnresolvedReason>,
}

/// The interface index of a header that was built without asking the kernel for the next hop, as by
/// `explain --config`. No interface has it.
pub const NOT_LOOKED_UP: u32 = 0;

/// What becomes of the packet, and everything that led there. What was not reached is `None`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// `tcp` or `udp`.
    #[serde(serialize_with = "word")]
    pub protocol: Protocol,
    /// Client.
    pub source: SocketAddr,
    /// Where the packet is sent.
    pub destination: SocketAddr,
    /// `datagram`, `syn`, `data`, `ack` or `closing`.
    #[serde(serialize_with = "word")]
    pub segment: Segment,
    /// What becomes of it: `verdict`, `reason` and `sentence`.
    pub outcome: Outcome,
    /// The backend, also when it cannot be sent to.
    pub backend: Option<IpAddr>,
    /// The VIP.
    pub vip: Option<Vip>,
    /// The service.
    pub service: Option<ServiceFacts>,
    /// The flow's hash.
    #[serde(serialize_with = "hex")]
    pub hash: Option<FlowHash>,
    /// The ring slot.
    pub slot: Option<SlotFacts>,
    /// The flow table.
    pub flow: Option<FlowFacts>,
    /// Why this backend.
    pub choice: Option<ChoiceFacts>,
    /// How the packet gets there.
    pub path: Option<Path>,
    /// Why there is no next hop, if somebody knows.
    pub unresolved: Option<String>,
    /// The outer header.
    pub tunnel: Option<Tunnel>,
}

/// What becomes of a packet, as the kernel half's verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Sent to the backend in a tunnel.
    Forward,
    /// Dropped and counted.
    Drop(DropReason),
    /// Handed to this node's stack and counted.
    Pass(PassReason),
}

impl Outcome {
    /// `forward`, `drop` or `pass`.
    #[must_use]
    pub fn verdict(self) -> &'static str {
        match self {
            Self::Forward => "forward",
            Self::Drop(_) => "drop",
            Self::Pass(_) => "pass",
        }
    }

    /// Name of the counter.
    #[must_use]
    pub fn reason(self) -> Option<&'static str> {
        match self {
            Self::Forward => None,
            Self::Drop(reason) => Some(reason.name()),
            Self::Pass(reason) => Some(reason.name()),
        }
    }

    /// For people.
    #[must_use]
    pub fn sentence(self) -> &'static str {
        match self {
            Self::Forward => "The packet goes to the backend in a tunnel.",
            Self::Drop(reason) => reason.sentence(),
            Self::Pass(reason) => reason.sentence(),
        }
    }
}

impl Serialize for Outcome {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let mut outcome = to.serialize_struct("Outcome", 3)?;
        outcome.serialize_field("verdict", self.verdict())?;
        outcome.serialize_field("reason", &self.reason())?;
        outcome.serialize_field("sentence", self.sentence())?;
        outcome.end()
    }
}

/// The service that takes the packet.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ServiceFacts {
    /// Name.
    pub name: String,
    /// Id in the maps.
    pub id: u16,
    /// Affinity.
    #[serde(serialize_with = "word")]
    pub affinity: Affinity,
    /// Tracking.
    #[serde(serialize_with = "word")]
    pub tracking: Tracking,
    /// A planned change waits until flows have been seen.
    pub tracking_window: bool,
}

/// A ring slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SlotFacts {
    /// Which.
    pub number: u32,
    /// Of how many.
    pub of: u32,
    /// It changed, and older flows may belong elsewhere.
    pub dirty: bool,
    /// Whom it belongs to.
    pub now: Option<IpAddr>,
    /// Whom it belonged to when it was last clean; `None` for a clean slot.
    pub before: Option<Before>,
}

/// The older backend of a dirty slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Before {
    /// Address; `None` when the member is forgotten.
    pub address: Option<IpAddr>,
    /// It may still get the packets of older flows.
    pub alive: bool,
}

/// What the flow table says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FlowFacts {
    /// The packet path asks the table for this packet, or for one in sixteen like it (`tracking: sampled`).
    pub asked: bool,
    /// What happens there, by the names of the metrics: `hit`, `miss`, `stale`, `remembered`, `set_full`.
    #[serde(serialize_with = "events")]
    pub events: Vec<FlowEvent>,
    /// Set of the table.
    pub set: u32,
    /// The entry of this flow, asked for or not.
    pub entry: Option<Remembered>,
}

/// An entry of the flow table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Remembered {
    /// Its backend; `None` when the member is forgotten.
    pub backend: Option<IpAddr>,
    /// Seconds until it expires, if nothing comes.
    pub expires_in: u64,
    /// A FIN or RST was seen and no data since.
    pub closing: bool,
}

/// Why this backend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ChoiceFacts {
    /// `slot`, `remembered`, `before` or `now`.
    #[serde(serialize_with = "word")]
    pub why: Why,
    /// For people.
    pub sentence: String,
    /// Ring-local index of the backend.
    pub local: u16,
    /// Its state.
    #[serde(serialize_with = "word")]
    pub state: MemberState,
    /// Since when, seconds since 1970.
    pub since: u64,
}

/// The outer header.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Tunnel {
    /// `ipip`.
    pub kind: &'static str,
    /// Source, derived from the flow.
    pub source: IpAddr,
    /// Destination.
    pub destination: IpAddr,
    /// Flow label, over IPv6.
    pub flow_label: Option<u32>,
    /// Ethernet and outer IP header, byte for byte.
    #[serde(skip)]
    pub header: Vec<u8>,
}

/// Explains one packet. `observed` is a copy of what `tables` reads.
#[must_use]
pub fn explain<T: classify::Tables + select::Tables>(
    tables: &T,
    observed: &Observed,
    facts: &Facts,
    query: &Query,
) -> Explanation {
    let mut e = Explanation {
        protocol: query.protocol,
        source: query.source,
        destination: query.destination,
        segment: query.segment,
        outcome: Outcome::Forward,
        backend: None,
        vip: None,
        service: None,
        hash: None,
        slot: None,
        flow: None,
        choice: None,
        path: None,
        unresolved: None,
        tunnel: None,
    };
    e.outcome = follow(tables, observed, facts, query, &mut e).unwrap_or_else(Outcome::Drop);
    e
}

/// The pipeline.
fn follow<T: classify::Tables + select::Tables>(
    tables: &T,
    observed: &Observed,
    facts: &Facts,
    query: &Query,
    e: &mut Explanation,
) -> Result<Outcome, DropReason> {
    let addresses = query.addresses();
    let Some(vip) = classify::vip(tables, &addresses) else {
        return Ok(Outcome::Pass(PassReason::NotAVip));
    };
    e.vip = Some(Vip::of(vip));
    if vip.flags & VIP_BALANCED == 0 {
        return Ok(Outcome::Pass(PassReason::DecapVip));
    }
    let (source, port) = (query.source.port().to_be_bytes(), query.destination.port().to_be_bytes());
    let id = classify::service(tables, vip, query.protocol_number(), port);
    if id == 0 {
        return unmatched(vip);
    }
    let service = observed.services.get(&id).ok_or(DropReason::TableInconsistent)?;
    let config = service.config();
    e.service = Some(ServiceFacts {
        name: plan::name(service).to_owned(),
        id,
        affinity: status::affinity(config),
        tracking: status::tracking(config),
        tracking_window: config.flags & TRACK_WINDOW != 0,
    });
    if config.table_size == 0 {
        return Err(DropReason::EmptyService);
    }
    let client_ip = config.flags & CLIENT_IP != 0;
    let seed = observed.control.seed;
    let hash = hash::packet(seed, &addresses, query.protocol_number(), source, port, client_ip);
    e.hash = Some(hash);
    let ring = RingView { observed, service: id, config };
    e.slot = ring.slot(tables, hash);
    let dry = Dry { tables, events: RefCell::default() };
    let choice = select::choose(&dry, &Flow { service: id, config, hash, segment: query.segment });
    let events = dry.events.into_inner();
    e.flow = ring.flow(tables, hash, events.clone());
    let choice = choice.ok_or(DropReason::TableInconsistent)?;
    if choice.backend == NO_BACKEND {
        return Err(DropReason::EmptyService);
    }
    let member = ring.member(choice.backend).ok_or(DropReason::TableInconsistent)?;
    e.backend = Some(from_map(member.address));
    e.choice = Some(ChoiceFacts {
        why: choice.why,
        sentence: because(choice, query.segment, &events).to_owned(),
        local: choice.backend,
        state: MemberState::of(member),
        since: member.since,
    });
    e.path = Some(Path::of(member.template(), &facts.interfaces));
    send(member, facts, query, hash, e)
}

fn unmatched(vip: &VipSlot) -> Result<Outcome, DropReason> {
    if vip.flags & VIP_PASS_UNMATCHED != 0 {
        Ok(Outcome::Pass(PassReason::Unmatched))
    } else {
        Err(DropReason::NoService)
    }
}

/// What `send::to_backend` does.
fn send(
    member: &Backend,
    facts: &Facts,
    query: &Query,
    hash: FlowHash,
    e: &mut Explanation,
) -> Result<Outcome, DropReason> {
    let template = member.template();
    match template.kind {
        KIND_TUNNEL => {}
        KIND_LOCAL => return Ok(Outcome::Pass(PassReason::LocalBackend)),
        _ => {
            e.unresolved = facts.unresolved.get(&from_map(member.address)).map(ToString::to_string);
            return Err(DropReason::NextHopUnresolved);
        }
    }
    if !encap::fits(template, usize::from(query.len)) {
        return Err(DropReason::Oversize);
    }
    e.tunnel = Some(tunnel(template, query, hash));
    Ok(Outcome::Forward)
}

fn tunnel(template: &Template, query: &Query, hash: FlowHash) -> Tunnel {
    let inner = Inner { version: query.addresses().version, len: query.len, tos: query.tos, hash };
    if usize::from(template.len) == V4_HEADER {
        let mut out = [0; V4_HEADER];
        encap::write_v4(&mut out, template, &inner);
        let address = |at: usize| Ipv4Addr::new(out[at], out[at + 1], out[at + 2], out[at + 3]).into();
        Tunnel {
            kind: "ipip",
            source: address(26),
            destination: address(30),
            flow_label: None,
            header: out.to_vec(),
        }
    } else {
        let mut out = [0; V6_HEADER];
        encap::write_v6(&mut out, template, &inner);
        let address = |at: usize| {
            let mut octets = [0; 16];
            octets.copy_from_slice(&out[at..at + 16]);
            Ipv6Addr::from(octets).into()
        };
        Tunnel {
            kind: "ipip",
            source: address(22),
            destination: address(38),
            flow_label: Some(u32::from_be_bytes([0, out[15] & 0xf, out[16], out[17]])),
            header: out.to_vec(),
        }
    }
}

/// A sentence for every way out of `select::choose`.
fn because(choice: Choice, segment: Segment, events: &[FlowEvent]) -> &'static str {
    let met = |event| events.contains(&event);
    match choice.why {
        Why::Slot => "The slot is clean: it decides alone, whatever else is remembered.",
        Why::Remembered => {
            "The slot changed not long ago, but the flow is remembered and its backend is alive."
        }
        Why::Before if segment == Segment::Syn => {
            "The slot changed not long ago and the new connection cannot be remembered: it goes where its later \
             segments will go, to the slot's older backend."
        }
        Why::Before => {
            "The slot changed not long ago and the flow is not remembered: a segment without SYN belongs to a \
             connection older than the change, which stays with the slot's older backend."
        }
        Why::Now if met(FlowEvent::Stale) => {
            "The slot changed not long ago and the flow is remembered, but with a backend that is gone: it goes to \
             the slot's new one."
        }
        Why::Now if met(FlowEvent::Hit) => {
            "The slot changed not long ago; the flow is remembered as closing, and a SYN opens another connection: \
             that goes to the slot's new backend."
        }
        Why::Now if matches!(segment, Segment::Syn | Segment::Datagram) => {
            "The slot changed not long ago and the flow is not remembered: a new flow goes to the slot's new backend."
        }
        Why::Now => {
            "The slot changed not long ago, the flow is not remembered and the slot's older backend is gone: it goes \
             to the new one."
        }
    }
}

/// A service's ring with the addresses of its members.
struct RingView<'a> {
    observed: &'a Observed,
    service: u16,
    config: &'a ServiceConfig,
}

impl RingView<'_> {
    fn member(&self, local: u16) -> Option<&Backend> {
        self.observed.members.get(&self.service)?.get(&local)
    }

    fn address(&self, local: u16) -> Option<IpAddr> {
        self.member(local).map(|member| from_map(member.address))
    }

    fn slot(&self, tables: &impl select::Tables, hash: FlowHash) -> Option<SlotFacts> {
        let (number, of) = (hash.slot(self.config.table_size), self.config.table_size);
        let index = self.config.slot_base.checked_add(number)?;
        let slot = tables.slot(index)?;
        let before = tables.before(index).filter(|_| slot.is_dirty()).map(|local| Before {
            address: self.address(local),
            alive: self.member(local).is_some_and(|member| member.state & BACKEND_ALIVE != 0),
        });
        Some(SlotFacts { number, of, dirty: slot.is_dirty(), now: self.address(slot.backend()), before })
    }

    fn flow(
        &self,
        tables: &impl select::Tables,
        hash: FlowHash,
        events: Vec<FlowEvent>,
    ) -> Option<FlowFacts> {
        let (set, tick) = (tables.flow_set(hash)?, tables.tick());
        let key = FlowKey::new(self.service, hash);
        // The last of several, as the packet path's search ends with it.
        let own = (0..WAYS).map(|way| set.load(way)).filter(|&entry| key.match_mask(entry) != 0);
        let entry = own.last().map(FlowEntry).filter(|entry| !entry.is_free(tick));
        let control = &self.observed.control;
        let seconds =
            |ticks: u16| (u64::from(ticks) << (control.tick_shift & 31)) / u64::from(control.hz.max(1));
        Some(FlowFacts {
            asked: !events.is_empty(),
            events,
            set: hash.set(control.flow_set_mask),
            entry: entry.map(|entry| Remembered {
                backend: self.address(entry.backend()),
                expires_in: seconds(entry.remaining(tick)),
                closing: entry.is_closing(),
            }),
        })
    }
}

/// The tables with nothing written to them: the packet is a thought.
struct Dry<'a, T> {
    tables: &'a T,
    events: RefCell<Vec<FlowEvent>>,
}

/// A copy of a flow set, for the packet path to write to.
struct SetCopy([Cell<u64>; WAYS]);

impl Set for SetCopy {
    fn load(&self, way: usize) -> u64 {
        self.0[way % WAYS].get()
    }
    fn store(&self, way: usize, entry: u64) {
        self.0[way % WAYS].set(entry);
    }
}

impl<T: select::Tables> select::Tables for Dry<'_, T> {
    type Set = SetCopy;

    fn slot(&self, index: u32) -> Option<Slot> {
        self.tables.slot(index)
    }
    fn before(&self, index: u32) -> Option<u16> {
        self.tables.before(index)
    }
    fn is_alive(&self, backend: u32) -> bool {
        self.tables.is_alive(backend)
    }
    fn flow_set(&self, hash: FlowHash) -> Option<SetCopy> {
        let set = self.tables.flow_set(hash)?;
        Some(SetCopy(std::array::from_fn(|way| Cell::new(set.load(way)))))
    }
    fn tick(&self) -> u16 {
        self.tables.tick()
    }
    /// The packet that asks tells more, and goes to the same backend.
    fn sample(&self, _hash: FlowHash) -> bool {
        true
    }
    /// To ask would count the flow. That `new_flow_limit` is reached in this very second is for the counters to say.
    fn admit(&self, _service: u16, limit: u32) -> bool {
        limit > 0
    }
    fn count(&self, event: FlowEvent) {
        self.events.borrow_mut().push(event);
    }
}

impl Word for Why {
    fn word(&self) -> &'static str {
        match self {
            Self::Slot => "slot",
            Self::Remembered => "remembered",
            Self::Before => "before",
            Self::Now => "now",
        }
    }
}

impl Word for Segment {
    fn word(&self) -> &'static str {
        match self {
            Self::Datagram => "datagram",
            Self::Syn => "syn",
            Self::Closing => "closing",
            Self::Data => "data",
            Self::Ack => "ack",
        }
    }
}

fn hex<S: Serializer>(hash: &Option<FlowHash>, to: S) -> Result<S::Ok, S::Error> {
    hash.map(|hash| format!("{:#018x}", hash.0)).serialize(to)
}

fn events<S: Serializer>(events: &[FlowEvent], to: S) -> Result<S::Ok, S::Error> {
    to.collect_seq(events.iter().map(|event| event.name()))
}
