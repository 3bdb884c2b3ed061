//! The data plane once more: what the documentation says becomes of a packet, in ordinary Rust.
//!
//! It shares nothing with the kernel half but the names of reasons and counters. It is written to be read, not to be
//! fast: slices, addresses of the standard library, whole packets built anew. `tests/prog_differential.rs` holds it
//! against the program in the kernel, packet by packet.
//!
//! ```text
//!  ip, transport --> File::service --> select, affinity --> encap          decap
//!                                      fragments, icmp      toobig
//!                                      flows, hash
//! ```
//!
//! What comes from the agent's plan (`tables.rs`) is not thought of anew. Time is a parameter: a packet's [`Moment`].

mod affinity;
mod decap;
mod encap;
mod file;
mod flows;
mod fragments;
mod hash;
mod icmp;
mod ip;
mod quic;
mod read;
mod select;
mod step;
mod stun;
mod tables;
mod toobig;
mod transport;

use std::collections::BTreeMap;

use xdp_lb_common::reason::{DropReason, PassReason};

pub use file::{
    Affinity, Backend, Decap, Encap, File, Kind, LO, Prefix, ROUTER, Service, Tags, Tracking, Way,
};
pub use flows::{Entry, FlowTable, WAYS};
pub use fragments::{Entry as FragmentEntry, FragmentTable};
pub use step::Change;
pub use tables::{Clock, Member, Moment, Placed, Slot};

use crate::prog::{Counted, XdpAction};
use hash::Key;
use ip::{Ip, Named};
use step::{End, Judged, Step};
use transport::{Segment, Transport};

/// A node.
#[derive(Clone, Debug)]
pub struct Model {
    /// What it was told.
    pub file: File,
    /// What its plan made of that, by service.
    pub placed: BTreeMap<String, Placed>,
    /// The kernel's clock.
    pub clock: Clock,
    /// What it remembers.
    pub state: State,
}

/// What packets leave behind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// Flows.
    pub flows: FlowTable,
    /// First fragments.
    pub fragments: FragmentTable,
    /// The second in which a service last remembered a flow, and how many in it, by its id.
    pub admissions: BTreeMap<u16, (u32, u32)>,
    /// The second in which a sender was last told that its packet is too big, and how many in it.
    pub answers: (u32, u32),
}

impl State {
    /// Of a node that has seen nothing.
    #[must_use]
    pub fn new(file: &File) -> Self {
        Self {
            flows: FlowTable::new(file.flow_entries),
            fragments: FragmentTable::new(file.fragment_entries),
            admissions: BTreeMap::new(),
            answers: (0, 0),
        }
    }

    /// Carries out what a packet changes.
    pub fn apply(&mut self, changes: &[Change]) {
        for change in changes {
            match *change {
                Change::Flow { set, way, entry } => self.flows.sets[set][way] = Some(entry),
                Change::Fragment { set, way, entry } => self.fragments.sets[set][way] = Some(entry),
                Change::Admission { service, second, count } => {
                    self.admissions.insert(service, (second, count));
                }
                Change::Answer { second, count } => self.answers = (second, count),
            }
        }
    }
}

/// What becomes of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prediction {
    /// The verdict.
    pub verdict: XdpAction,
    /// The whole packet afterwards.
    pub packet: Vec<u8>,
    /// Every counter that moves.
    pub counted: Vec<Counted>,
    /// What is remembered.
    pub changes: Vec<Change>,
}

impl Model {
    /// What becomes of a frame that comes in by interface `ingress`.
    #[must_use]
    pub fn predict(&self, frame: &[u8], ingress: u32, moment: Moment) -> Prediction {
        let mut step = Step::new(self, moment, ingress);
        let end = judge(&mut step, frame).unwrap_or_else(|end| end);
        step.end(frame, end)
    }
}

/// Where a packet goes: a service's backend, and the hash that its tunnel is made by.
struct Target<'a> {
    service: &'a Service,
    placed: &'a Placed,
    local: u16,
    hash: hash::Hash,
}

fn judge(step: &mut Step<'_>, frame: &[u8]) -> Judged<End> {
    let (version, l3) = ip::network(frame)?;
    let named = ip::named(frame, version, l3).ok_or(PassReason::NoAddress)?;
    let file = &step.model.file;
    if file.is_balanced(named.destination) {
        return for_vip(step, named);
    }
    if file.is_decapped(named.destination) {
        return Ok(PassReason::DecapVip.into());
    }
    // Whatever is wrong with packets for others is not ours to judge.
    let Ok(ip) = ip::ip(named) else { return Ok(PassReason::NotAVip.into()) };
    if file.is_balancer() && icmp::is_whole(&ip) {
        let about = icmp::is_about_tunnel(file, &ip);
        return Ok(if about { PassReason::TunnelTooBig } else { PassReason::NotAVip }.into());
    }
    decap::take_off(file, &ip)
}

/// A packet for a balanced VIP.
fn for_vip(step: &mut Step<'_>, named: Named<'_>) -> Judged<End> {
    let ip = ip::ip(named)?;
    let target = if let Some(fragment) = ip.fragment {
        fragments::target(step, &ip, fragment)?
    } else {
        match transport::transport(&ip)? {
            Transport::Discovery => return Ok(PassReason::NeighbourDiscovery.into()),
            Transport::EchoRequest => return Ok(icmp::echo(&ip)),
            Transport::OtherIcmp => icmp::target(step, &ip)?,
            Transport::Other => return Err(unmatched(step, &ip)),
            Transport::Ports { source, destination, segment } => {
                let Some((service, placed)) = service(step.model, &ip, destination) else {
                    return Err(unmatched(step, &ip));
                };
                let ports = (source, destination);
                choose(step, &ip, service, placed, Some(ports), segment)?
            }
        }
    };
    send(step, &ip, &target)
}

/// The service that takes a port of the packet's destination.
fn service<'a>(model: &'a Model, ip: &Ip<'_>, port: u16) -> Option<(&'a Service, &'a Placed)> {
    let service = model.file.service(ip.named.destination, ip.protocol == 6, port)?;
    Some((service, model.placed.get(&service.name)?))
}

/// What happens to packets that no service wants.
fn unmatched(step: &Step<'_>, ip: &Ip<'_>) -> End {
    if step.model.file.passing.contains(&ip.named.destination) {
        PassReason::Unmatched.into()
    } else {
        DropReason::NoService.into()
    }
}

/// The backend of a packet of TCP or UDP. Without `ports` it is one of a fragment's that go by the client alone.
fn choose<'a>(
    step: &mut Step<'a>,
    ip: &Ip<'_>,
    service: &'a Service,
    placed: &'a Placed,
    ports: Option<(u16, u16)>,
    segment: Segment,
) -> Judged<Target<'a>> {
    if placed.slots.is_empty() {
        return Err(DropReason::EmptyService.into());
    }
    if !service.lets_in(ip.named.source) {
        return Err(DropReason::SourceDenied.into());
    }
    let hash = hash::hash(step.model.file.seed, key(ip, service, ports));
    let flow = select::Flow { service, placed, hash, segment };
    let local = match &service.affinity {
        Affinity::FiveTuple | Affinity::ClientIp => select::choose(step, &flow),
        Affinity::DestPort => Some(affinity::owner(service, placed, ports.map_or(0, |(_, port)| port))?),
        Affinity::QuicCid { .. } => affinity::connection(step, &flow, ip),
        Affinity::IceUfrag => affinity::session(step, &flow, ip),
    };
    let local = local.ok_or(DropReason::EmptyService)?;
    Ok(Target { service, placed, local, hash })
}

/// What makes a packet's flow.
fn key(ip: &Ip<'_>, service: &Service, ports: Option<(u16, u16)>) -> Key {
    match (&service.affinity, ports) {
        (Affinity::ClientIp, _) | (_, None) => Key::Client(ip.named.source),
        (_, Some((source, destination))) => {
            Key::Packet(ip.named.source, ip.named.destination, ip.protocol, hash::ports(source, destination))
        }
    }
}

/// Sends a packet on to its backend.
fn send(step: &mut Step<'_>, ip: &Ip<'_>, target: &Target<'_>) -> Judged<End> {
    let file = &step.model.file;
    let member = target.placed.members.get(&target.local).ok_or(DropReason::TableInconsistent)?;
    let encap = target.service.encap.or(&file.encap);
    let length = ip.whole().len();
    match file.way(member.address) {
        Way::Unknown => Err(DropReason::NextHopUnresolved.into()),
        Way::Here => {
            step.forwarded(length);
            Ok(PassReason::LocalBackend.into())
        }
        Way::Out { ifindex, mtu, tags } => {
            let room = encap::room(&encap, member.address, mtu);
            if length > room {
                return toobig::refuse(step, ip, room);
            }
            step.forwarded(length);
            let packet = encap::wrap(&encap, member.address, ip, target.hash, tags);
            let verdict = if ifindex == step.ingress { XdpAction::Tx } else { XdpAction::Redirect };
            Ok(End::Changed(verdict, packet, None))
        }
    }
}
