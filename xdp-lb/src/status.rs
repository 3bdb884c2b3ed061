//! What a balancer does, as data: built from the maps alone, so it works when the agent is down. Pure.
//!
//! The command `status` reads maps and counters, calls [`Status::new`] and shows the result; `explain` and metrics
//! use the words given here. Field names are promises to scripts: add freely, rename never.
//!
//! ```text
//!   Observed + Readings -> Status { services { backends } , pods, interfaces, flow_table, drops, passes }
//! ```

mod listeners;
mod pods;
#[cfg(test)]
mod tests;
mod words;

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::Serialize;
use xdp_lb_common::{
    backend::{BACKEND_ALIVE, BACKEND_DRAINING, Backend, KIND_LOCAL, KIND_POD, KIND_UNRESOLVED, Template},
    flow::{FlowEntry, FlowSet, WAYS},
    reason::{DropReason, FlowEvent, PassReason, Reason},
    ring::{NO_BACKEND, Slot},
    service::{IS_UDP, TRACK_WINDOW},
    stats::{Counters, Traffic},
    vip::{VIP_BALANCED, VIP_DECAP, VIP_PASS_UNMATCHED, VIP_USED, VipSlot},
};

pub use self::listeners::vips;
use self::listeners::{Ports, listeners};
pub use self::pods::PodPort;
pub(crate) use self::words::word;
pub use self::words::{Word, affinity, mac_text, tracking};
use crate::{
    drains::Drains,
    model::{Affinity, Protocol, Tracking},
    nexthop::Mac,
    plan,
    state::{Observed, Place, Ring},
    template::from_map,
};

/// What the maps do not say about themselves: counters, flows, links. Whatever could not be read is left empty.
#[derive(Clone, Debug, Default)]
pub struct Readings {
    /// Node-wide counters.
    pub counters: Counters,
    /// What each service forwarded, by id.
    pub services: BTreeMap<u16, Traffic>,
    /// What each member forwarded, by service id and ring-local index; members without counters are left out.
    pub members: BTreeMap<(u16, u16), Traffic>,
    /// Live flows by service id and ring-local index; `None` when the flow table was not read.
    pub flows: Option<BTreeMap<(u16, u16), u32>>,
    /// Interfaces that run the program.
    pub interfaces: Vec<Interface>,
    /// Names of interfaces by index.
    pub names: BTreeMap<u32, String>,
    /// What health checks say of members, by service id and ring-local index; those that are not asked are left out.
    pub health: BTreeMap<(u16, u16), Health>,
    /// Drains by command.
    pub drains: Drains,
}

/// A balancer.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Status {
    /// Generation of the configuration applied last.
    pub generation: u32,
    /// Interfaces that run the program, by name.
    pub interfaces: Vec<Interface>,
    /// VIPs, by address.
    pub vips: Vec<Vip>,
    /// Services, by name.
    pub services: Vec<Service>,
    /// VIPs' ports at pods of this node, in order.
    pub pods: Vec<PodPort>,
    /// The rings that they use.
    pub rings: Rings,
    /// The flow table.
    pub flow_table: FlowTable,
    /// Packets dropped by reason, those that are not 0.
    pub drops: Vec<Count>,
    /// Packets handed to the kernel or answered, by reason, those that are not 0.
    pub passes: Vec<Count>,
}

/// An interface that runs the program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Interface {
    /// Kernel name.
    pub name: String,
    /// Index.
    pub ifindex: u32,
    /// `native`, `generic` or `offload`; `gone` when the pinned link holds nothing any more.
    pub mode: String,
    /// Id of the program; 0 without one.
    pub program: u32,
    /// What its network card or driver does that breaks packets, in sentences with their cures.
    pub findings: Vec<String>,
}

/// A VIP.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Vip {
    /// Address.
    pub address: IpAddr,
    /// Packets to it are balanced here.
    pub balanced: bool,
    /// Tunnels that carry packets to it are taken off here.
    pub decapsulated: bool,
    /// `drop` or `pass`: what becomes of a packet that no service wants. `None` where nothing is balanced.
    pub unmatched: Option<&'static str>,
}

/// A service.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Service {
    /// Name.
    pub name: String,
    /// Id in the maps.
    pub id: u16,
    /// Protocol.
    #[serde(serialize_with = "word")]
    pub protocol: Protocol,
    /// Where it listens: addresses and ports as `5060`, `20000-24999` or `all`.
    pub listeners: Vec<Listener>,
    /// Affinity.
    #[serde(serialize_with = "word")]
    pub affinity: Affinity,
    /// Tracking.
    #[serde(serialize_with = "word")]
    pub tracking: Tracking,
    /// A planned change waits until flows have been seen.
    pub tracking_window: bool,
    /// Index in `backends` of its ring's first member: the same for services that share a ring.
    pub ring: u32,
    /// Maglev slots; 0 for a service without backends.
    pub slots: u32,
    /// Slots that changed and whose older flows may belong elsewhere.
    pub dirty_slots: u32,
    /// Slots that nobody takes.
    pub empty_slots: u32,
    /// Packets forwarded.
    pub packets: u64,
    /// Bytes of the IP packets forwarded, without tunnel.
    pub bytes: u64,
    /// Flows remembered; `null` when the flow table was not read.
    pub flows: Option<u64>,
    /// Members of the ring, by address.
    pub backends: Vec<Member>,
}

/// Rings: slots and members, each in memory once for all services that are equal in what decides them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Rings {
    /// How many there are.
    pub total: usize,
    /// Services that share theirs with another.
    pub sharing: usize,
    /// Maglev slots, summed over rings.
    pub slots: u64,
    /// Slots that changed and whose older flows may belong elsewhere.
    pub dirty_slots: u64,
}

/// Addresses that share their ports.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Listener {
    /// VIP.
    pub vip: IpAddr,
    /// Ports in order.
    pub ports: Vec<String>,
}

/// A member of a service's ring.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Member {
    /// Where its tunnel ends.
    pub address: IpAddr,
    /// State.
    #[serde(serialize_with = "word")]
    pub state: MemberState,
    /// A command drains it on this node.
    pub drained_by_command: bool,
    /// Since when it has that state, seconds since 1970.
    pub since: u64,
    /// What its health checks say; `null` where it is not asked.
    pub health: Option<Health>,
    /// Slots that new flows go to it by.
    pub slots: u32,
    /// The same in per cent of the ring.
    pub slots_percent: f64,
    /// How packets get there.
    pub path: Path,
    /// Packets forwarded; `null` for a member without counters of its own.
    pub packets: Option<u64>,
    /// Bytes of the IP packets forwarded, without tunnel; `null` likewise.
    pub bytes: Option<u64>,
    /// Flows remembered; `null` when the flow table was not read.
    pub flows: Option<u32>,
}

/// What a member's health checks say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Health {
    /// State and reason in words: `up`, `down: nothing listens on port 80 of 203.0.113.10: connection refused`.
    pub words: String,
    /// Since when it has that state, seconds since 1970.
    pub since: u64,
}

/// How packets get to a member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Path {
    /// Through a tunnel.
    Tunnel {
        /// Interface, by name if that is known.
        interface: Option<String>,
        /// Its index.
        ifindex: u32,
        /// MAC of the next hop.
        #[serde(serialize_with = "words::mac")]
        next_hop: Mac,
        /// VLAN that packets leave in, 0 for none; `null` where they keep the tags they came with.
        vlan: Option<u16>,
    },
    /// Through a tunnel by a next hop that nobody looked up: no balancer was asked.
    NotLookedUp,
    /// Up this node's own stack.
    Local,
    /// To a pod of this node, without a tunnel.
    Pod,
    /// No next hop is known: packets are dropped.
    Unresolved,
}

/// The interface index of a header that was built without asking the kernel for the next hop, as by
/// [`crate::explain::Rehearsal`]. No interface has it.
pub const NOT_LOOKED_UP: u32 = 0;

/// What a member takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum MemberState {
    /// New flows and known ones.
    Active,
    /// Known flows alone.
    Draining,
    /// Nothing: its drain is over.
    Drained,
    /// Nothing: it was called down.
    Down,
}

/// The flow table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FlowTable {
    /// Places.
    pub entries: u64,
    /// Live flows; `null` when the table was not read.
    pub live: Option<u64>,
    /// What happened to packets that asked it, all events.
    pub events: Vec<Count>,
}

/// A counter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Count {
    /// Name, as in metrics.
    pub reason: &'static str,
    /// Packets.
    pub packets: u64,
    /// One sentence for people.
    pub sentence: &'static str,
}

impl Status {
    /// Puts together what the maps and the readings say.
    #[must_use]
    pub fn new(observed: &Observed, readings: &Readings) -> Self {
        let listeners = listeners(observed);
        let held: BTreeMap<Place, Held> =
            observed.rings.iter().map(|(place, ring)| (*place, Held::by(ring))).collect();
        let mut services: Vec<Service> = observed
            .services
            .iter()
            .map(|(&id, entry)| {
                let held = held.get(&Place::of(entry.config()));
                service(readings, id, entry, held, listeners.get(&id))
            })
            .collect();
        services.sort_by(|a, b| a.name.cmp(&b.name));
        let mut vips: Vec<Vip> =
            observed.vips.iter().filter(|v| v.flags & VIP_USED != 0).map(Vip::of).collect();
        vips.sort_by_key(|v| v.address);
        let live = |flows: &BTreeMap<_, u32>| flows.values().copied().map(u64::from).sum();
        Self {
            generation: observed.control.generation,
            interfaces: readings.interfaces.clone(),
            vips,
            services,
            pods: pods::ports(&observed.pod_ports),
            rings: Rings {
                total: held.len(),
                sharing: held.values().map(|h| h.ring.services.len()).filter(|&n| n > 1).sum(),
                slots: held.values().map(|h| h.ring.slots.now.len() as u64).sum(),
                dirty_slots: held.values().map(|h| u64::from(h.dirty)).sum(),
            },
            flow_table: FlowTable {
                entries: u64::from(observed.capacity.flow_sets) * WAYS as u64,
                live: readings.flows.as_ref().map(live),
                events: counts::<FlowEvent>(&readings.counters.flows),
            },
            drops: seen(counts::<DropReason>(&readings.counters.drops)),
            passes: seen(counts::<PassReason>(&readings.counters.passes)),
        }
    }
}

impl Vip {
    /// Of a slot in use.
    #[must_use]
    pub fn of(slot: &VipSlot) -> Self {
        let balanced = slot.flags & VIP_BALANCED != 0;
        let unmatched = if slot.flags & VIP_PASS_UNMATCHED != 0 { "pass" } else { "drop" };
        Self {
            address: from_map(slot.address),
            balanced,
            decapsulated: slot.flags & VIP_DECAP != 0,
            unmatched: balanced.then_some(unmatched),
        }
    }
}

impl Path {
    /// By the header that packets get.
    #[must_use]
    pub fn of(template: &Template, names: &BTreeMap<u32, String>) -> Self {
        match template.kind {
            KIND_LOCAL => Self::Local,
            KIND_POD => Self::Pod,
            KIND_UNRESOLVED => Self::Unresolved,
            _ if template.leaves_by() == NOT_LOOKED_UP => Self::NotLookedUp,
            _ => {
                let [a, b, c, d, e, f, ..] = template.bytes;
                Self::Tunnel {
                    interface: names.get(&template.leaves_by()).cloned(),
                    ifindex: template.leaves_by(),
                    next_hop: [a, b, c, d, e, f],
                    vlan: template.tag().map(|[.., high, low]| u16::from_be_bytes([high, low]) & 0xfff),
                }
            }
        }
    }
}

impl MemberState {
    /// By the bits of a member's entry.
    #[must_use]
    pub fn of(entry: &Backend) -> Self {
        match (entry.state & BACKEND_DRAINING != 0, entry.state & BACKEND_ALIVE != 0) {
            (false, true) => Self::Active,
            (true, true) => Self::Draining,
            (true, false) => Self::Drained,
            (false, false) => Self::Down,
        }
    }
}

/// Live flows by service id and ring-local index, from all sets of the flow table.
#[must_use]
pub fn flows(sets: impl Iterator<Item = FlowSet>, tick: u16) -> BTreeMap<(u16, u16), u32> {
    let mut flows = BTreeMap::new();
    for entry in sets.flat_map(|set| set.entries).map(FlowEntry).filter(|entry| !entry.is_free(tick)) {
        *flows.entry((entry.service(), entry.backend())).or_insert(0) += 1;
    }
    flows
}

fn service(
    readings: &Readings,
    id: u16,
    entry: &xdp_lb_common::service::Service,
    held: Option<&Held>,
    listeners: Option<&BTreeMap<IpAddr, Ports>>,
) -> Service {
    let (name, config) = (plan::name(entry), entry.config());
    let flows = |local| readings.flows.as_ref().map(|f| f.get(&(id, local)).copied().unwrap_or(0));
    let member = |(&local, entry): (&u16, &Backend)| {
        let slots = held.and_then(|h| h.owned.get(&local)).copied().unwrap_or(0);
        let traffic = readings.members.get(&(id, local));
        Member {
            address: from_map(entry.address),
            state: MemberState::of(entry),
            drained_by_command: readings.drains.of(name, from_map(entry.address)).is_some(),
            since: entry.since,
            health: readings.health.get(&(id, local)).cloned(),
            slots,
            slots_percent: percent(slots, config.table_size),
            path: Path::of(entry.template(), &readings.names),
            packets: traffic.map(|t| t.packets),
            bytes: traffic.map(|t| t.bytes),
            flows: flows(local),
        }
    };
    let mut backends: Vec<Member> = held.into_iter().flat_map(|h| &h.ring.members).map(member).collect();
    backends.sort_by_key(|m| m.address);
    let total = |flows: &BTreeMap<(u16, u16), u32>| {
        flows.range((id, 0)..=(id, u16::MAX)).map(|(_, &n)| u64::from(n)).sum()
    };
    let traffic = readings.services.get(&id).copied().unwrap_or_default();
    Service {
        name: name.to_owned(),
        id,
        protocol: if config.flags & IS_UDP != 0 { Protocol::Udp } else { Protocol::Tcp },
        listeners: listeners.into_iter().flatten().map(|(&vip, ports)| ports.listener(vip)).collect(),
        affinity: affinity(config),
        tracking: tracking(config),
        tracking_window: config.flags & TRACK_WINDOW != 0,
        ring: config.backend_base,
        slots: config.table_size,
        dirty_slots: held.map_or(0, |h| h.dirty),
        empty_slots: held.and_then(|h| h.owned.get(&NO_BACKEND)).copied().unwrap_or(0),
        packets: traffic.packets,
        bytes: traffic.bytes,
        flows: readings.flows.as_ref().map(total),
        backends,
    }
}

/// Who holds the slots of a ring: counted once, however many services use it.
struct Held<'a> {
    ring: &'a Ring,
    /// Slots by ring-local backend.
    owned: BTreeMap<u16, u32>,
    dirty: u32,
}

impl<'a> Held<'a> {
    fn by(ring: &'a Ring) -> Self {
        let mut held = Self { ring, owned: BTreeMap::new(), dirty: 0 };
        for &slot in &ring.slots.now {
            *held.owned.entry(Slot(slot).backend()).or_insert(0) += 1;
            held.dirty += u32::from(Slot(slot).is_dirty());
        }
        held
    }
}

/// To two digits: more would be noise in a diff.
fn percent(part: u32, whole: u32) -> f64 {
    if whole == 0 { 0.0 } else { (f64::from(part) * 10_000.0 / f64::from(whole)).round() / 100.0 }
}

/// Every reason with its counter.
fn counts<R: Reason>(counts: &R::Counts) -> Vec<Count> {
    let values: &[u64] = bytemuck::cast_slice(bytemuck::bytes_of(counts));
    R::ALL
        .iter()
        .zip(values)
        .map(|(reason, &packets)| Count { reason: reason.name(), packets, sentence: reason.sentence() })
        .collect()
}

fn seen(mut counts: Vec<Count>) -> Vec<Count> {
    counts.retain(|count| count.packets != 0);
    counts
}
