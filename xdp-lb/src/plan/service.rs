//! One service: its configuration, its name, its counters. Which ring it uses has been decided.

use std::time::Duration;

use bytemuck::Zeroable;
use xdp_lb_common::{
    service::{
        CLIENT_IP, IS_UDP, NAME_LEN, Service, ServiceConfig, TRACK_EXACT, TRACK_SAMPLED, TRACK_WINDOW,
    },
    stats::NO_STATS,
};

use super::{
    Inputs, Plan, PlanError, ServiceChange, layout::Layout, ring::Planned, room::Room, ticks,
    window::needs_window,
};
use crate::{
    model::{self, Affinity, Protocol, Tracking},
    state::{MapOp, Observed},
};

/// How long a closing connection is remembered: RFC 5382's transitory timeout.
const CLOSING: Duration = Duration::from_secs(240);
/// How long a flow of one packet is remembered.
const UNCONFIRMED: Duration = Duration::from_secs(10);

/// Writes for all services, and those that change rings under them.
pub(super) fn plan(
    inputs: &Inputs,
    layout: &Layout,
    rings: Vec<Planned>,
    room: &mut Room,
    early: &mut Vec<MapOp>,
    live: &mut Vec<MapOp>,
    plan: &mut Plan,
) -> Result<(), PlanError> {
    for (group, mut ring) in layout.groups.iter().zip(rings) {
        if ring.is_left {
            continue;
        }
        live.append(&mut ring.headers);
        for &(wanted, id) in &group.present {
            change(inputs, wanted, id, &ring, room, early, live)?;
            if !ring.change.is_nothing() {
                plan.services.insert(wanted.name.clone(), ring.change.clone());
            }
        }
        for &(wanted, id) in &group.newcomers {
            create(inputs, wanted, id, &ring, room, early);
            let change = ServiceChange {
                created: true,
                slots: ring.place.table_size,
                backends_added: wanted.backends.iter().map(|b| b.address).collect(),
                ..Default::default()
            };
            plan.services.insert(wanted.name.clone(), change);
        }
        // Slots first: who returns must not find himself `before` in a slot that others served in his absence.
        // Packets that a slot sends to somebody not yet alive get there all the same.
        live.append(&mut ring.slots);
        live.append(&mut ring.gains);
        live.append(&mut ring.losses);
        if ring.waiting {
            let newcomers = group.newcomers.iter().filter(|(wanted, _)| needs_window(wanted));
            ring.windows.wait(inputs, newcomers.map(|&(_, id)| id), plan);
        }
        if let Some(end) = ring.wake {
            plan.wake_at(end);
        }
    }
    Ok(())
}

/// A service that is not there yet.
fn create(
    inputs: &Inputs,
    wanted: &model::Service,
    id: u16,
    ring: &Planned,
    room: &mut Room,
    early: &mut Vec<MapOp>,
) {
    let stats_base = room.stats(ring.block).unwrap_or(NO_STATS);
    early.push(MapOp::ClearStats {
        service: Some(id),
        base: stats_base,
        len: stats_len(stats_base, ring.block),
    });
    let config = config(inputs, wanted, id, ring, stats_base);
    let mut service = Service { used: 1, configs: [config; 2], ..Service::zeroed() };
    let len = wanted.name.len().min(NAME_LEN - 1);
    service.name[..len].copy_from_slice(&wanted.name.as_bytes()[..len]);
    early.push(MapOp::PutService { id, entry: Box::new(service) });
}

/// A service that is there.
fn change(
    inputs: &Inputs,
    wanted: &model::Service,
    id: u16,
    ring: &Planned,
    room: &mut Room,
    early: &mut Vec<MapOp>,
    live: &mut Vec<MapOp>,
) -> Result<(), PlanError> {
    let Some(old) = inputs.observed.services.get(&id).map(|s| *s.config()) else { return Ok(()) };
    if (old.flags & CLIENT_IP != 0) != (wanted.affinity == Affinity::ClientIp) && !inputs.allow_moves {
        return Err(PlanError::MovesEverything { service: wanted.name.clone(), key: "affinity" });
    }
    let counted = old_block(inputs.observed, id);
    let stats_base = if ring.block > counted {
        let base = room.stats(ring.block).unwrap_or(NO_STATS);
        early.push(MapOp::ClearStats { service: None, base, len: stats_len(base, ring.block) });
        base
    } else {
        let base = old.stats_base;
        let fresh = ring.fresh.iter().filter(|_| base != NO_STATS);
        early.extend(fresh.map(|&local| MapOp::ClearStats {
            service: None,
            base: base + u32::from(local),
            len: 1,
        }));
        base
    };
    let config = config(inputs, wanted, id, ring, stats_base);
    if config != old {
        live.push(MapOp::SetService { id, config });
    }
    Ok(())
}

/// Members that a service has counters for, if it has any.
fn old_block(observed: &Observed, id: u16) -> u32 {
    observed.ring(id).map_or(0, |ring| ring.block)
}

fn stats_len(stats_base: u32, block: u32) -> u32 {
    if stats_base == NO_STATS { 0 } else { block }
}

fn config(
    inputs: &Inputs,
    wanted: &model::Service,
    id: u16,
    ring: &Planned,
    stats_base: u32,
) -> ServiceConfig {
    let observed = inputs.observed;
    let tracking = match wanted.tracking {
        Tracking::Exact => TRACK_EXACT,
        Tracking::Sampled => TRACK_SAMPLED,
        Tracking::Off => 0,
    };
    let client_ip = if wanted.affinity == Affinity::ClientIp { CLIENT_IP } else { 0 };
    let udp = if wanted.protocol == Protocol::Udp { IS_UDP } else { 0 };
    let window = if ring.waiting && needs_window(wanted) { TRACK_WINDOW } else { 0 };
    ServiceConfig {
        slot_base: ring.place.slot_base,
        table_size: ring.place.table_size,
        backend_base: ring.place.backend_base,
        stats_base,
        new_flow_limit: wanted.new_flow_limit,
        flags: tracking | client_ip | udp | window,
        flow_ttl: ticks(wanted.flow_timeout, observed),
        closing_ttl: ticks(CLOSING.min(wanted.flow_timeout), observed),
        unconfirmed_ttl: ticks(UNCONFIRMED.min(wanted.flow_timeout), observed),
        // Flow entries name the service whatever ring it is on, so a service that leaves one keeps its flows.
        ring: id,
        id_len: 0,
        cid_first: 0,
        slices: 0,
        reserved: 0,
    }
}
