//! Affinities that the packet itself decides: docs/configuration.md, "Affinities".

use std::time::Duration;

use xdp_lb_common::reason::{DropReason, FlowEvent};

use super::file::{Affinity, Service};
use super::ip::Ip;
use super::select::{self, Flow};
use super::step::Step;
use super::tables::Placed;
use super::transport::datagram;
use super::{quic, stun};

/// Silence after which a flow of ICE may change hands.
const SILENCE: Duration = Duration::from_secs(15);

/// What a packet says of its backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked<Id> {
    /// Nothing, and it need not.
    Nothing,
    /// This one.
    For(Id),
    /// It should, and does not.
    Nobody,
}

impl Asked<&[u8]> {
    /// The backend with this server id, as long as it lives.
    fn of(self, service: &Service, placed: &Placed) -> Asked<u16> {
        let Self::For(id) = self else {
            return if self == Self::Nothing { Asked::Nothing } else { Asked::Nobody };
        };
        let backend = service.backends.iter().find(|backend| backend.server_id == id);
        let local = backend.and_then(|backend| placed.local(backend.address));
        local.filter(|&local| placed.is_alive(local)).map_or(Asked::Nobody, Asked::For)
    }
}

/// Length of a service's server ids.
fn id_length(service: &Service) -> usize {
    service.backends.first().map_or(0, |backend| backend.server_id.len())
}

/// `dest-port`: the owner of a port.
pub(super) fn owner(service: &Service, placed: &Placed, port: u16) -> Result<u16, DropReason> {
    let owns = |backend: &&super::Backend| backend.ports.iter().any(|range| range.contains(&port));
    let backend = service.backends.iter().find(owns).ok_or(DropReason::NoSlice)?;
    let local = placed.local(backend.address).ok_or(DropReason::NoSlice)?;
    if placed.is_alive(local) { Ok(local) } else { Err(DropReason::SliceDown) }
}

/// `quic-cid`: the backend that a connection id names, else as if by five-tuple.
pub(super) fn connection(step: &mut Step<'_>, flow: &Flow<'_>, ip: &Ip<'_>) -> Option<u16> {
    let Affinity::QuicCid { config_ids, nonce, length_encoded } = &flow.service.affinity else { return None };
    let ids = quic::Ids {
        configs: config_ids,
        server_id: id_length(flow.service),
        nonce: (*nonce).into(),
        lengths: *length_encoded,
    };
    let asked = quic::server_id(datagram(ip), &ids).map_or(Asked::Nobody, Asked::For);
    let Asked::For(local) = asked.of(flow.service, flow.placed) else {
        step.count(FlowEvent::CidUnknown);
        return select::choose(step, flow);
    };
    step.count(FlowEvent::CidKnown);
    // Remembered where the slot does not say the same: for ICMP errors.
    if flow.slot().now != Some(local) {
        let entry = flow.remembered(step).filter(|entry| !entry.is_expired(step.tick()));
        if entry.is_some_and(|entry| entry.backend == local) {
            let fresh = flow.entry(step, local, flow.full_ttl(step));
            select::replace(step, flow, fresh);
        } else {
            let fresh = flow.entry(step, local, flow.first_ttl(step));
            select::remember(step, flow, fresh, false);
        }
    }
    Some(local)
}

/// `ice-ufrag`: requests go where they ask to, everything else where its flow goes.
pub(super) fn session(step: &mut Step<'_>, flow: &Flow<'_>, ip: &Ip<'_>) -> Option<u16> {
    let asked = stun::asked(datagram(ip), id_length(flow.service)).of(flow.service, flow.placed);
    let tick = step.tick();
    let entry = flow.remembered(step).filter(|entry| !entry.is_expired(tick));
    step.count(if entry.is_some() { FlowEvent::Hit } else { FlowEvent::Miss });
    let held = entry.filter(|entry| flow.placed.is_alive(entry.backend));
    if entry.is_some() && held.is_none() {
        step.count(FlowEvent::Stale);
    }
    let (first, full) = (flow.first_ttl(step), flow.full_ttl(step));
    match (asked, held) {
        (Asked::For(local), Some(entry)) if entry.backend == local => {
            let fresh = flow.entry(step, local, full);
            select::replace(step, flow, fresh);
            Some(local)
        }
        (Asked::For(local), Some(entry)) => {
            // Only a request for its own backend refreshes an entry: what is left says how long there was none. One with
            // no more left than a new one has may be new. An entry may be made at a tick's end.
            let silence = step.model.clock.ticks(SILENCE + step.model.clock.tick());
            let left = entry.left(tick);
            if left > first && left + silence <= full {
                let fresh = flow.entry(step, local, first);
                select::remember(step, flow, fresh, false);
            } else {
                step.count(FlowEvent::IceConflict);
            }
            Some(local)
        }
        (Asked::For(local), None) => {
            let fresh = flow.entry(step, local, first);
            select::remember(step, flow, fresh, false);
            Some(local)
        }
        (other, held) => {
            if other == Asked::Nobody {
                step.count(FlowEvent::IceUnknown);
            }
            held.map_or(flow.slot().now, |entry| Some(entry.backend))
        }
    }
}
