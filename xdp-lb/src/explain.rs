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

mod dry;
mod explanation;
mod query;
mod rehearsal;
#[cfg(test)]
mod tests;
mod tunnel;

use std::collections::BTreeMap;
use std::net::IpAddr;

use xdp_lb_common::{
    affinity,
    backend::{BACKEND_ALIVE, Backend, KIND_LOCAL, KIND_POD, KIND_UNRESOLVED},
    classify,
    encap::{self, Inner},
    flow::{FlowEntry, FlowKey, WAYS},
    hash::{self, FlowHash},
    parse::Segment,
    reason::{DropReason, FlowEvent, PassReason},
    ring::NO_BACKEND,
    select::{self, Choice, Flow, Set as _, Why},
    service::{CLIENT_IP, ICE_UFRAG, ServiceConfig, TRACK_WINDOW},
    toobig::LEAST_V6_MTU,
    translate::{self, PodPort},
    vip::{VIP_BALANCED, VIP_PASS_UNMATCHED, VipSlot},
};

use self::dry::Dry;
pub use self::explanation::{
    Before, ChoiceFacts, Explanation, FlowFacts, Outcome, Remembered, ServiceFacts, SlotFacts,
};
pub use self::query::Query;
pub use self::rehearsal::{Rehearsal, RehearsalError};
pub use self::tunnel::Tunnel;
use crate::{
    nexthop::UnresolvedReason,
    plan,
    state::Observed,
    status::{self, MemberState, Path, Vip},
    template::from_map,
};

/// What people want to read and the maps do not say.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// Names of interfaces by index.
    pub interfaces: BTreeMap<u32, String>,
    /// Why backends have no next hop.
    pub unresolved: BTreeMap<IpAddr, UnresolvedReason>,
}

/// Explains one packet. `observed` is a copy of what `tables` reads.
#[must_use]
pub fn explain<T: affinity::Tables>(
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
fn follow<T: affinity::Tables>(
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
    let id = classify::service(tables, vip, query.protocol_number(), query.destination.port());
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
    let hash = hash::packet(seed, &addresses, query.protocol_number(), query.ports(), client_ip);
    e.hash = Some(hash);
    let ring = RingView { observed, service: id, config };
    e.slot = ring.slot(tables, hash);
    let dry = Dry::new(tables);
    let flow = Flow { service: id, config, hash, segment: query.segment };
    let choice = affinity::admit(&dry, &flow, &addresses).and_then(|()| {
        let asked = affinity::asked(&dry, config, query.named);
        affinity::choose(&dry, &flow, query.destination.port(), asked)
    });
    let events = dry.events();
    e.flow = ring.flow(tables, hash, events.clone());
    let choice = choice?;
    if choice.backend == NO_BACKEND {
        return Err(DropReason::EmptyService);
    }
    let member = ring.member(choice.backend).ok_or(DropReason::TableInconsistent)?;
    e.backend = Some(from_map(member.address));
    e.choice = Some(ChoiceFacts {
        why: choice.why,
        sentence: because(choice, config, query.segment, &events).to_owned(),
        local: choice.backend,
        state: MemberState::of(member),
        since: member.since,
    });
    e.path = Some(Path::of(member.template(), &facts.interfaces));
    send(member, observed, facts, query, hash, e)
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
    observed: &Observed,
    facts: &Facts,
    query: &Query,
    hash: FlowHash,
    e: &mut Explanation,
) -> Result<Outcome, DropReason> {
    let template = member.template();
    match template.kind {
        KIND_LOCAL => return Ok(Outcome::Pass(PassReason::LocalBackend)),
        KIND_POD => return into_pod(member, observed, query),
        KIND_UNRESOLVED => {
            e.unresolved = facts.unresolved.get(&from_map(member.address)).map(ToString::to_string);
            return Err(DropReason::NextHopUnresolved);
        }
        _ => {}
    }
    if !encap::fits(template, usize::from(query.len)) {
        // Whether the packet may be cut is not in the question: most hosts say that theirs may not.
        let answered = query.source.is_ipv4() || template.max_inner >= LEAST_V6_MTU;
        return if answered {
            Ok(Outcome::Pass(PassReason::TooBigAnswered))
        } else {
            Err(DropReason::TooBig)
        };
    }
    let inner = Inner { version: query.addresses().version, len: query.len, tos: query.tos, hash };
    e.tunnel = Some(Tunnel::of(template, &inner));
    Ok(Outcome::Forward)
}

/// What `pods::hand_over` does, but for the flows that it remembers.
fn into_pod(member: &Backend, observed: &Observed, query: &Query) -> Result<Outcome, DropReason> {
    let vip = query.addresses().destination;
    let port = query.destination.port().to_be_bytes();
    let key = PodPort::of(vip, translate::words(member.address), query.protocol_number(), port);
    if observed.pod_ports.contains_key(&key) {
        Ok(Outcome::Pass(PassReason::LocalBackend))
    } else {
        Err(DropReason::PodPort)
    }
}

/// A sentence for every way out of `select::choose`.
fn because(choice: Choice, config: &ServiceConfig, segment: Segment, events: &[FlowEvent]) -> &'static str {
    let met = |event| events.contains(&event);
    match choice.why {
        Why::Slice => "It owns the destination port.",
        Why::ServerId if met(FlowEvent::IceConflict) => {
            "The ufrag of the Binding request names it. The flow stays with another backend, which was asked for not \
             long ago."
        }
        Why::ServerId if config.flags & ICE_UFRAG != 0 => "The ufrag of the Binding request names it.",
        Why::ServerId => "The connection id names it.",
        Why::Remembered if config.flags & ICE_UFRAG != 0 => {
            "A Binding request of this flow named it, and it is alive."
        }
        Why::Slot | Why::Now if config.flags & ICE_UFRAG != 0 => {
            "No Binding request of this flow has named a live backend: the slot decides, and nothing is remembered."
        }
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
        self.observed.ring(self.service)?.members.get(&local)
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
        let key = FlowKey::new(self.config.id, hash);
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
