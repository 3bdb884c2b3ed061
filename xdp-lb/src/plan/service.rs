//! One service: its configuration, its name, its counters. Which ring it uses has been decided.

use std::collections::BTreeMap;
use std::time::Duration;

use bytemuck::Zeroable;
use xdp_lb_common::{
    backend::BACKEND_ALIVE,
    server_id::ServerId,
    service::{
        DROP_FRAGMENTS, IS_UDP, NAME_LEN, SOURCE_RANGES, Service, ServiceConfig, TRACK_EXACT, TRACK_SAMPLED,
        TRACK_WINDOW,
    },
    stats::NO_STATS,
};

use super::{
    Inputs, Plan, PlanError, ServiceChange,
    affinity::{self, AFFINITY},
    layout::Layout,
    ring::Planned,
    room::Room,
    ticks,
    window::needs_window,
};
use crate::{
    model::{self, Affinity, Fragments, Protocol, Tracking},
    state::{MapOp, Observed},
    template::from_map,
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
        let mut forgotten_ids = Vec::new();
        for &(wanted, id) in &group.present {
            let ids = change(inputs, wanted, id, &ring, room, early, live)?;
            // Behind the switch: in the block that it leaves, a new index may be another service's.
            live.extend(ids.puts);
            forgotten_ids.extend(ids.drops);
            if !ring.change.is_nothing() {
                plan.services.insert(wanted.name.clone(), ring.change.clone());
            }
        }
        for &(wanted, id) in &group.newcomers {
            create(inputs, wanted, id, &ring, room, early)?;
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
        live.append(&mut forgotten_ids);
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
) -> Result<(), PlanError> {
    let stats_base = room.stats(ring.block).unwrap_or(NO_STATS);
    early.push(MapOp::ClearStats {
        service: Some(id),
        base: stats_base,
        len: stats_len(stats_base, ring.block),
    });
    let slices = affinity::slices(room, wanted, |address| ring.local(address), Vec::new())?;
    early.append(&mut room.fresh_pages());
    // What a crash left behind under this id goes first: nothing is reachable yet.
    let ids = affinity::server_ids(room, id, &server_ids(wanted, ring, BTreeMap::new()))?;
    early.extend(ids.drops.into_iter().chain(ids.puts));
    early.append(&mut affinity::sources(room, id, wanted)?);
    let fields = affinity::fields(wanted, slices, None, inputs.observed);
    let config = config(inputs, wanted, id, ring, stats_base, fields);
    let mut service = Service { used: 1, configs: [config; 2], ..Service::zeroed() };
    let len = wanted.name.len().min(NAME_LEN - 1);
    service.name[..len].copy_from_slice(&wanted.name.as_bytes()[..len]);
    early.push(MapOp::PutService { id, entry: Box::new(service) });
    Ok(())
}

/// A service that is there. The changes of its server ids are left to the caller.
fn change(
    inputs: &Inputs,
    wanted: &model::Service,
    id: u16,
    ring: &Planned,
    room: &mut Room,
    early: &mut Vec<MapOp>,
    live: &mut Vec<MapOp>,
) -> Result<affinity::IdChanges, PlanError> {
    let observed = inputs.observed;
    let Some(old) = observed.services.get(&id).map(|s| *s.config()) else { return Ok(Default::default()) };
    if old.flags & AFFINITY != affinity::flags(wanted.affinity) && !inputs.may_move(wanted) {
        return Err(PlanError::MovesEverything { service: wanted.name.clone(), key: "affinity" });
    }
    let counted = old_block(observed, id);
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

    // Who has left the file keeps its ports and its id while it lives, if nobody else wants them.
    let is_leaving = |local| {
        ring.member(local).is_some_and(|m| !wanted.backends.iter().any(|b| b.address == from_map(m.address)))
    };
    let lives = |local| ring.member(local).is_some_and(|member| member.state & BACKEND_ALIVE != 0);
    let mut left = affinity::live_slices(observed, &old);
    left.retain(|&(_, local)| is_leaving(local) && lives(local));
    let slices = affinity::slices(room, wanted, |address| ring.local(address), left)?;
    early.append(&mut room.fresh_pages());
    let known = room.server_ids_of(id).iter().filter(|(_, place)| is_leaving(place.local));
    let left = known.map(|(_, place)| (ServerId(place.id), place.local)).collect();
    let ids = affinity::server_ids(room, id, &server_ids(wanted, ring, left))?;
    let mut sources = affinity::sources(room, id, wanted)?;
    if affinity::is_guarded(&old) {
        live.append(&mut sources)
    } else {
        early.append(&mut sources)
    }

    let fields = affinity::fields(wanted, slices, Some(&old), observed);
    let config = config(inputs, wanted, id, ring, stats_base, fields);
    if config != old {
        live.push(MapOp::SetService { id, config });
    }
    Ok(ids)
}

/// The ids of the file's backends, over those of members that have left it.
fn server_ids(
    wanted: &model::Service,
    ring: &Planned,
    leaving: BTreeMap<ServerId, u16>,
) -> BTreeMap<ServerId, u16> {
    if !wanted.affinity.has_server_ids() {
        return BTreeMap::new();
    }
    let mut ids = leaving;
    let listed = wanted.backends.iter();
    ids.extend(listed.filter_map(|b| Some((b.server_id?.id, ring.local(&b.address)?))));
    ids
}

/// Members that a service has counters for, if it has any.
fn old_block(observed: &Observed, id: u16) -> u32 {
    observed.ring(id).map_or(0, |ring| ring.block)
}

fn stats_len(stats_base: u32, block: u32) -> u32 {
    if stats_base == NO_STATS { 0 } else { block }
}

/// `fields` is the affinity's part.
fn config(
    inputs: &Inputs,
    wanted: &model::Service,
    id: u16,
    ring: &Planned,
    stats_base: u32,
    fields: ServiceConfig,
) -> ServiceConfig {
    let observed = inputs.observed;
    let tracking = match wanted.tracking {
        _ if matches!(wanted.affinity, Affinity::DestPort | Affinity::IceUfrag) => 0,
        Tracking::Exact => TRACK_EXACT,
        Tracking::Sampled => TRACK_SAMPLED,
        Tracking::Off => 0,
    };
    let guarded = if wanted.source_ranges.is_open() { 0 } else { SOURCE_RANGES };
    let udp = if wanted.protocol == Protocol::Udp { IS_UDP } else { 0 };
    let refuse = if wanted.fragments == Fragments::Drop { DROP_FRAGMENTS } else { 0 };
    let window = if ring.waiting && needs_window(wanted) { TRACK_WINDOW } else { 0 };
    ServiceConfig {
        slot_base: ring.place.slot_base,
        table_size: ring.place.table_size,
        backend_base: ring.place.backend_base,
        stats_base,
        new_flow_limit: wanted.new_flow_limit,
        flags: tracking | affinity::flags(wanted.affinity) | guarded | udp | refuse | window,
        flow_ttl: ticks(wanted.flow_timeout, observed),
        closing_ttl: ticks(CLOSING.min(wanted.flow_timeout), observed),
        unconfirmed_ttl: ticks(UNCONFIRMED.min(wanted.flow_timeout), observed),
        // Flow entries name the service whatever ring it is on, so a service that leaves one keeps its flows.
        id,
        ..fields
    }
}
