//! One service: its members, its ring, its configuration.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use bytemuck::Zeroable;
use xdp_lb_common::{
    backend::{BACKEND_ALIVE, BACKEND_DRAINING, BACKEND_USED, Backend, KIND_UNRESOLVED, MAX_MEMBERS},
    ring::{NO_BACKEND, Slot},
    server_id::ServerId,
    service::{
        DROP_FRAGMENTS, IS_UDP, NAME_LEN, SOURCE_RANGES, Service, ServiceConfig, TRACK_EXACT, TRACK_SAMPLED,
        TRACK_WINDOW,
    },
    stats::NO_STATS,
};

use super::{
    Inputs, Plan, PlanError, Room, ServiceChange,
    affinity::{self, AFFINITY},
    take, ticks,
};
use crate::{
    gates,
    maglev::{self, MaglevTable},
    model::{
        self, AdminState, Affinity, DrainMode, DrainPolicy, Fragments, Protocol, Removal, Share, Tracking,
    },
    nexthop::{NextHop, Resolution},
    slots::{Held, retarget},
    state::{MapOp, Ring, SlotChange},
    template::{self, from_map, map_address},
};

/// How long a closing connection is remembered: RFC 5382's transitory timeout.
const CLOSING: Duration = Duration::from_secs(240);
/// How long a flow of one packet is remembered.
const UNCONFIRMED: Duration = Duration::from_secs(10);
/// Smallest block of members.
const MIN_BLOCK: u32 = 8;

/// Plans a service that is not there yet and gives it an id.
pub(super) fn create(
    inputs: &Inputs,
    wanted: &model::Service,
    room: &mut Room,
    early: &mut Vec<MapOp>,
    plan: &mut Plan,
) -> Result<u16, PlanError> {
    let id = room.id()?;
    let locals: BTreeMap<IpAddr, u16> = wanted.backends.iter().map(|b| b.address).zip(0..).collect();
    let block = block_len(locals.len())?;
    let (backend_base, stats_base) = place_block(inputs, room, block)?;
    let size = if wanted.backends.is_empty() { 0 } else { wanted.table_size.get() };
    let slot_base = take_slots(inputs, room, size)?;
    let entries = wanted.backends.iter().map(|b| {
        let (state, since) = state(b.state, wanted.drain, None, inputs.now);
        (locals[&b.address], Backend { state, since, ..entry(inputs, wanted, b.address) })
    });
    put_block(early, backend_base, block, entries);
    let home = home(inputs, wanted)?;
    let slots = targets(&home, wanted, &locals);
    if size > 0 {
        early.push(MapOp::PutRing { base: slot_base, slots });
    }
    early.push(MapOp::ClearStats { service: Some(id), base: stats_base, len: stats_len(stats_base, block) });
    let slices = affinity::slices(room, wanted, |address| locals.get(address).copied(), Vec::new())?;
    early.append(&mut room.pages.take_fresh());
    let server_ids = server_ids(wanted, &locals, BTreeMap::new());
    // What a crash left behind under this id goes first: nothing is reachable yet.
    let ids = affinity::server_ids(room, inputs.observed, id, &server_ids)?;
    early.extend(ids.drops.into_iter().chain(ids.puts));
    early.append(&mut affinity::sources(room, inputs.observed, id, wanted)?);
    let place = Place { slot_base, table_size: size, backend_base, stats_base, ring: id };
    let fields = affinity::fields(wanted, slices, None, inputs.observed);
    let config = config(inputs, wanted, place, fields, false);
    let mut service = Service { used: 1, configs: [config; 2], ..Service::zeroed() };
    let len = wanted.name.len().min(NAME_LEN - 1);
    service.name[..len].copy_from_slice(&wanted.name.as_bytes()[..len]);
    early.push(MapOp::PutService { id, entry: Box::new(service) });
    let change = ServiceChange {
        created: true,
        slots: size,
        backends_added: wanted.backends.iter().map(|b| b.address).collect(),
        ..Default::default()
    };
    plan.services.insert(wanted.name.clone(), change);
    wake_for_drains(
        inputs,
        wanted,
        wanted.backends.iter().map(|b| (b.state == AdminState::Drain, inputs.now)),
        plan,
    );
    Ok(id)
}

/// Plans the changes of a service that is there.
pub(super) fn change(
    inputs: &Inputs,
    wanted: &model::Service,
    id: u16,
    room: &mut Room,
    early: &mut Vec<MapOp>,
    live: &mut Vec<MapOp>,
    plan: &mut Plan,
) -> Result<u16, PlanError> {
    let observed = inputs.observed;
    let Some(old) = observed.services.get(&id).map(|s| *s.config()) else { return Ok(id) };
    let none = BTreeMap::new();
    let members = observed.members.get(&id).unwrap_or(&none);
    let empty = Ring::default();
    let ring = observed.rings.get(&id).unwrap_or(&empty);
    let mut change = ServiceChange { slots: old.table_size, ..Default::default() };

    // Who is who: known addresses keep their index, new ones get a free one.
    let mut block = observed.blocks.get(&id).copied().unwrap_or(0);
    let old_block = block;
    let mut locals: BTreeMap<IpAddr, u16> = members.iter().map(|(&l, b)| (from_map(b.address), l)).collect();
    let live_slices = affinity::live_slices(observed, &old);
    let sliced = live_slices.iter().map(|&(_, local)| local).collect();
    let taken = Taken { id, members, ring, sliced, inputs };
    let mut fresh: BTreeMap<u16, IpAddr> = BTreeMap::new();
    for backend in
        wanted.backends.iter().filter(|b| !members.values().any(|m| from_map(m.address) == b.address))
    {
        let local = taken.free(&fresh).ok_or_else(|| PlanError::Members { service: wanted.name.clone() })?;
        fresh.insert(local, backend.address);
        locals.insert(backend.address, local);
        change.backends_added.push(backend.address);
    }
    let highest = locals.values().max().map_or(0, |&l| usize::from(l) + 1);
    let mut place = Place {
        slot_base: old.slot_base,
        table_size: old.table_size,
        backend_base: old.backend_base,
        stats_base: old.stats_base,
        ring: id,
    };
    if highest > block as usize {
        block = block_len(highest)?;
        (place.backend_base, place.stats_base) = place_block(inputs, room, block)?;
    }

    // What becomes of each member.
    let by_address: BTreeMap<IpAddr, &model::Backend> =
        wanted.backends.iter().map(|b| (b.address, b)).collect();
    let mut next: BTreeMap<u16, Backend> = BTreeMap::new();
    for (&address, &local) in &locals {
        let before = members.get(&local);
        // A backend that is gone from the file drains before it is forgotten; a dead one has nothing to drain.
        let is_dead = wanted.removal == Removal::Down || before.is_some_and(is_down);
        let leaving = if is_dead { AdminState::Down } else { AdminState::Drain };
        let admin = by_address.get(&address).map_or(leaving, |b| b.state);
        let (state, since) = state(admin, wanted.drain, before, inputs.now);
        next.insert(local, Backend { state, since, ..entry(inputs, wanted, address) });
    }

    // The ring.
    let home = home(inputs, wanted)?;
    // A ring without backends keeps its size: nobody is in it whatever the size, and it costs no new ring.
    let (size, target) = if wanted.backends.is_empty() {
        (old.table_size, vec![NO_BACKEND; old.table_size as usize])
    } else {
        (wanted.table_size.get(), targets(&home, wanted, &locals))
    };
    let rebuilt = size != old.table_size;
    if rebuilt && old.table_size != 0 && !inputs.allow_moves {
        return Err(PlanError::MovesEverything { service: wanted.name.clone(), key: "table_size" });
    }
    if old.flags & AFFINITY != affinity::flags(wanted.affinity) && !inputs.allow_moves {
        return Err(PlanError::MovesEverything { service: wanted.name.clone(), key: "affinity" });
    }
    let mut window = Window::of(inputs, wanted, id, old);
    let mut slot_changes = Vec::new();
    if rebuilt {
        place.slot_base = take_slots(inputs, room, size)?;
        place.table_size = size;
        early.push(MapOp::PutRing { base: place.slot_base, slots: target });
        (change.slots, change.slots_moved) = (size, size);
        window = Window::NotNeeded;
    } else {
        let alive = |local: u16| members.get(&local).is_some_and(|m| m.state & BACKEND_ALIVE != 0);
        let dead = |local: u16| next.get(&local).is_none_or(|m| m.state & BACKEND_USED == 0 || is_down(m));
        let comes_alive = |local: u16| next.get(&local).is_some_and(|m| m.state & BACKEND_ALIVE != 0);
        for (slot, ((&now, &before), &target)) in (0u32..).zip(ring.now.iter().zip(&ring.before).zip(&target))
        {
            let held = Held { now: Slot(now), before };
            match retarget(held, target, alive) {
                Some(write) if !window.postpones(!dead(held.now.backend())) => {
                    change.slots_moved += 1;
                    slot_changes.push(SlotChange { slot, before: write.before, now: write.now.0 });
                    continue;
                }
                Some(_) => change.slots_waiting += 1,
                None => {}
            }
            // While `before` was dead, unknown flows went to `now`: they are older than its return.
            let mine = held.now.backend();
            if held.now.is_dirty() && mine != NO_BACKEND && !alive(before) && comes_alive(before) {
                slot_changes.push(SlotChange { slot, before: Some(mine), now });
            }
        }
    }
    let waiting = change.slots_waiting > 0;
    if waiting && matches!(window, Window::Opens) {
        plan.windows_opened.insert(id);
    }

    // Writes, in the order that breaks nobody.
    let moved = place.backend_base != old.backend_base || old_block == 0;
    if moved {
        // The whole block at once; it goes live with the configuration below, in the states of today.
        let today = next.iter().map(|(&local, b)| {
            let (state, since) = members.get(&local).map_or((b.state, b.since), |m| (m.state, m.since));
            (local, Backend { state, since, ..*b })
        });
        put_block(early, place.backend_base, block, today.collect::<Vec<_>>());
        early.push(MapOp::ClearStats {
            service: None,
            base: place.stats_base,
            len: stats_len(place.stats_base, block),
        });
    }
    let (mut headers, mut gains, mut losses) = (Vec::new(), Vec::new(), Vec::new());
    let mut forgotten: BTreeSet<u16> = BTreeSet::new();
    for (&local, wanted_entry) in &next {
        let index = place.backend_base + u32::from(local);
        let Some(today) = members.get(&local) else {
            if !moved {
                let mut entry = *wanted_entry;
                entry.block_len = if local == 0 { block } else { 0 };
                early.push(MapOp::PutBackend { index, entry: Box::new(entry) });
                if place.stats_base != NO_STATS {
                    let base = place.stats_base + u32::from(local);
                    early.push(MapOp::ClearStats { service: None, base, len: 1 });
                }
            }
            continue;
        };
        let template = wanted_entry.template();
        if !moved && template != today.template() {
            headers.push(MapOp::SetTemplate { index, template: Box::new(*template) });
        }
        let address = from_map(wanted_entry.address);
        let leaving = !by_address.contains_key(&address) && !waiting;
        if leaving && finished(&taken, local, wanted_entry) {
            forgotten.insert(local);
            losses.push(if local == 0 {
                // The first entry knows the length of the block, which lives on.
                MapOp::PutBackend {
                    index,
                    entry: Box::new(Backend { block_len: block, ..Backend::zeroed() }),
                }
            } else {
                MapOp::DropBackend { index }
            });
            change.backends_removed.push(address);
        } else if wanted_entry.state != today.state {
            let loses_alive = today.state & BACKEND_ALIVE != 0 && wanted_entry.state & BACKEND_ALIVE == 0;
            let op = MapOp::SetBackendState { index, state: wanted_entry.state, since: wanted_entry.since };
            // A shed waits for its slots; a death does not.
            if loses_alive && waiting && !is_down(wanted_entry) {
                continue;
            }
            change.backends_changed.push((address, state_name(wanted_entry.state)));
            if loses_alive { losses.push(op) } else { gains.push(op) }
        }
    }

    // Who has left the file keeps its ports and its id while it lives, if nobody else wants them.
    let is_leaving = |local: u16| {
        let Some(member) = next.get(&local).filter(|_| !forgotten.contains(&local)) else { return false };
        !by_address.contains_key(&from_map(member.address))
    };
    let lives = |local: u16| next.get(&local).is_some_and(|member| member.state & BACKEND_ALIVE != 0);
    let left = live_slices.into_iter().filter(|&(_, local)| is_leaving(local) && lives(local)).collect();
    let slices = affinity::slices(room, wanted, |address| locals.get(address).copied(), left)?;
    early.append(&mut room.pages.take_fresh());
    let known = observed.server_ids.values().filter(|place| place.ring == id && is_leaving(place.local));
    let left = known.map(|place| (ServerId(place.id), place.local)).collect();
    let mut ids = affinity::server_ids(room, observed, id, &server_ids(wanted, &locals, left))?;
    ids.drops.append(&mut losses);
    losses = ids.drops;
    let mut sources = affinity::sources(room, observed, id, wanted)?;
    if affinity::is_guarded(&old) {
        live.append(&mut sources)
    } else {
        early.append(&mut sources)
    }

    let fields = affinity::fields(wanted, slices, Some(&old), observed);
    let config = config(inputs, wanted, place, fields, waiting);
    live.append(&mut headers);
    if config != old {
        live.push(MapOp::SetService { id, config });
    }
    // Behind the switch: in the block that it leaves, a new index may be another service's.
    live.append(&mut ids.puts);
    if !slot_changes.is_empty() {
        live.push(MapOp::SetSlots { base: place.slot_base, changes: slot_changes });
    }
    // Slots first: who returns must not find himself `before` in a slot that others served in his absence.
    // Packets that a slot sends to somebody not yet alive get there all the same.
    live.append(&mut gains);
    live.append(&mut losses);

    if waiting {
        let opened = match window {
            Window::Open => inputs.windows.get(&id).copied().unwrap_or(inputs.now),
            _ => inputs.now,
        };
        plan.wake_at(opened + inputs.desired.flow_table.track_window.as_secs().max(1));
    }
    let draining =
        next.values().map(|m| (m.state & BACKEND_DRAINING != 0 && m.state & BACKEND_ALIVE != 0, m.since));
    wake_for_drains(inputs, wanted, draining, plan);
    if change != (ServiceChange { slots: change.slots, ..Default::default() }) {
        plan.services.insert(wanted.name.clone(), change);
    }
    Ok(id)
}

/// Where a service lives in the maps.
#[derive(Clone, Copy)]
struct Place {
    slot_base: u32,
    table_size: u32,
    backend_base: u32,
    stats_base: u32,
    ring: u16,
}

/// Ring-local indexes that a new backend must not get.
struct Taken<'a> {
    id: u16,
    members: &'a BTreeMap<u16, Backend>,
    ring: &'a Ring,
    /// Owners of port slices.
    sliced: BTreeSet<u16>,
    inputs: &'a Inputs<'a>,
}

impl Taken<'_> {
    fn free(&self, fresh: &BTreeMap<u16, IpAddr>) -> Option<u16> {
        (0..MAX_MEMBERS as u16).find(|&local| {
            !self.members.contains_key(&local)
                && !fresh.contains_key(&local)
                && !self.inputs.census.members.contains_key(&(self.id, local))
                && !self.is_named(local)
        })
    }

    /// A slot still names this index, now or before, or a slice does.
    fn is_named(&self, local: u16) -> bool {
        self.sliced.contains(&local)
            || self.ring.now.iter().zip(&self.ring.before).any(|(&now, &before)| {
                Slot(now).backend() == local || Slot(now).is_dirty() && before == local
            })
    }
}

/// Whether a planned change of slots waits until untracked UDP flows have been seen.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Window {
    NotNeeded,
    Opens,
    Open,
    Over,
}

impl Window {
    fn of(inputs: &Inputs, wanted: &model::Service, id: u16, old: ServiceConfig) -> Self {
        // Slots decide nothing that a window could keep together where ports or requests do.
        let stateless = matches!(wanted.affinity, Affinity::DestPort | Affinity::IceUfrag);
        if stateless || wanted.protocol == Protocol::Tcp || wanted.tracking == Tracking::Exact {
            return Self::NotNeeded;
        }
        let length = inputs.desired.flow_table.track_window.as_secs();
        match inputs.windows.get(&id) {
            _ if old.flags & TRACK_WINDOW == 0 => Self::Opens,
            // Opened by an agent that is gone: it starts again.
            None => Self::Opens,
            Some(opened) if opened + length <= inputs.now => Self::Over,
            Some(_) => Self::Open,
        }
    }

    fn postpones(self, planned: bool) -> bool {
        planned && matches!(self, Self::Opens | Self::Open)
    }
}

/// A backend that the operator called down.
fn is_down(backend: &Backend) -> bool {
    backend.state & (BACKEND_ALIVE | BACKEND_DRAINING) == 0
}

/// State bits of a member and since when it has them.
fn state(admin: AdminState, policy: DrainPolicy, before: Option<&Backend>, now: u64) -> (u32, u64) {
    const DRAIN: u32 = BACKEND_USED | BACKEND_DRAINING;
    let since = match before {
        Some(b) if b.state & BACKEND_DRAINING != 0 && admin == AdminState::Drain => b.since,
        _ => now,
    };
    let bits = match admin {
        AdminState::Active => BACKEND_USED | BACKEND_ALIVE,
        AdminState::Down => BACKEND_USED,
        AdminState::Drain if policy.mode == DrainMode::Stick && now < since + policy.max.as_secs() => {
            DRAIN | BACKEND_ALIVE
        }
        AdminState::Drain => DRAIN,
    };
    match before {
        Some(b) if b.state == bits => (bits, b.since),
        _ => (bits, since),
    }
}

/// State bits for people.
#[must_use]
pub fn state_name(state: u32) -> &'static str {
    match (state & BACKEND_DRAINING != 0, state & BACKEND_ALIVE != 0) {
        (false, true) => "active",
        (true, true) => "draining",
        (true, false) => "drained",
        (false, false) => "down",
    }
}

/// True when a member that is gone from the file can be forgotten: no slot names it any more, now or before, and
/// its drain is over or nobody is left. A slot that changes in this very plan still names it; next time round
/// it does not.
fn finished(taken: &Taken, local: u16, entry: &Backend) -> bool {
    let flows = taken.inputs.census.members.get(&(taken.id, local)).copied().unwrap_or(0);
    let over = entry.state & BACKEND_ALIVE == 0;
    !taken.is_named(local) && (over || flows == 0)
}

/// The member's entry: used, with the header that leads to it.
fn entry(inputs: &Inputs, wanted: &model::Service, address: IpAddr) -> Backend {
    let resolution = (inputs.resolve)(address);
    let mut template = template::build(&wanted.encap, address, &resolution);
    if template.kind == KIND_UNRESOLVED
        && let Some(last) = last_known(inputs, address, &resolution)
    {
        template = template::build(&wanted.encap, address, &Resolution::Resolved(last));
    }
    Backend {
        state: BACKEND_USED,
        address: map_address(address),
        templates: [template; 2],
        ..Backend::zeroed()
    }
}

/// The way that led there until now, where the reason leaves hope that it still does. Any service's header knows it;
/// what else is in that header is the other service's.
fn last_known(inputs: &Inputs, address: IpAddr, resolution: &Resolution) -> Option<NextHop> {
    let Resolution::Unresolved(reason) = resolution else { return None };
    if !reason.keeps_last() {
        return None;
    }
    let address = map_address(address);
    let mut members = inputs.observed.members.values().flat_map(BTreeMap::values);
    let last = members.find(|m| m.address == address && m.template().is_tunnel())?.template();
    let [destination_mac, source_mac] = [0, 6].map(|at| std::array::from_fn(|n| last.bytes[at + n]));
    Some(NextHop {
        ifindex: last.ifindex,
        interface: String::new(),
        source_mac,
        destination_mac,
        mtu: template::outer_mtu(last),
        path_mtu: None,
    })
}

fn block_len(members: usize) -> Result<u32, PlanError> {
    let have = u64::from(MAX_MEMBERS);
    let len = u32::try_from(members).unwrap_or(u32::MAX);
    if len > MAX_MEMBERS {
        return Err(PlanError::Limit { what: "backends of one service", need: u64::from(len), have });
    }
    Ok(len.next_power_of_two().max(MIN_BLOCK))
}

fn place_block(inputs: &Inputs, room: &mut Room, block: u32) -> Result<(u32, u32), PlanError> {
    let base = take(&mut room.backends, block, "backends", inputs.observed.capacity.backends)?;
    // Without room the service is balanced all the same, only not counted by backend.
    Ok((base, room.stats.take(block).unwrap_or(NO_STATS)))
}

fn stats_len(stats_base: u32, block: u32) -> u32 {
    if stats_base == NO_STATS { 0 } else { block }
}

fn take_slots(inputs: &Inputs, room: &mut Room, size: u32) -> Result<u32, PlanError> {
    take(&mut room.slots, size.next_multiple_of(4), "ring_slots", inputs.observed.capacity.ring_slots)
}

/// Writes every entry of a block, so that nothing of a former tenant remains.
fn put_block(ops: &mut Vec<MapOp>, base: u32, block: u32, entries: impl IntoIterator<Item = (u16, Backend)>) {
    let mut all = vec![Backend::zeroed(); block as usize];
    for (local, entry) in entries {
        all[usize::from(local)] = entry;
    }
    all[0].block_len = block;
    ops.extend((base..).zip(all).map(|(index, entry)| MapOp::PutBackend { index, entry: Box::new(entry) }));
}

/// The home table over all configured backends.
fn home(inputs: &Inputs, wanted: &model::Service) -> Result<Arc<MaglevTable>, PlanError> {
    inputs
        .homes
        .of(wanted, inputs.desired.seed)
        .map_err(|e| PlanError::Table { service: wanted.name.clone(), reason: e.to_string() })
}

/// The ring-local backend of every slot.
fn targets(home: &MaglevTable, wanted: &model::Service, locals: &BTreeMap<IpAddr, u16>) -> Vec<u16> {
    let by_address: BTreeMap<IpAddr, &model::Backend> =
        wanted.backends.iter().map(|b| (b.address, b)).collect();
    let share = |m: &maglev::Member| {
        by_address.get(&m.address).map_or(Share::NONE, |b| gates::opening(b.state, b.share))
    };
    let by_position: Vec<u16> =
        home.members().iter().map(|m| locals.get(&m.address).copied().unwrap_or(NO_BACKEND)).collect();
    gates::assign(home, share)
        .into_iter()
        .map(|position| by_position.get(usize::from(position)).copied().unwrap_or(NO_BACKEND))
        .collect()
}

/// The ids of the file's backends, over those of members that have left it.
fn server_ids(
    wanted: &model::Service,
    locals: &BTreeMap<IpAddr, u16>,
    leaving: BTreeMap<ServerId, u16>,
) -> BTreeMap<ServerId, u16> {
    if !wanted.affinity.has_server_ids() {
        return BTreeMap::new();
    }
    let mut ids = leaving;
    let listed = wanted.backends.iter();
    ids.extend(listed.filter_map(|b| Some((b.server_id?.id, locals.get(&b.address).copied()?))));
    ids
}

/// `fields` is the affinity's part.
fn config(
    inputs: &Inputs,
    wanted: &model::Service,
    place: Place,
    fields: ServiceConfig,
    window: bool,
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
    let window = if window { TRACK_WINDOW } else { 0 };
    ServiceConfig {
        slot_base: place.slot_base,
        table_size: place.table_size,
        backend_base: place.backend_base,
        stats_base: place.stats_base,
        new_flow_limit: wanted.new_flow_limit,
        flags: tracking | affinity::flags(wanted.affinity) | guarded | udp | refuse | window,
        flow_ttl: ticks(wanted.flow_timeout, observed),
        closing_ttl: ticks(CLOSING.min(wanted.flow_timeout), observed),
        unconfirmed_ttl: ticks(UNCONFIRMED.min(wanted.flow_timeout), observed),
        ring: place.ring,
        ..fields
    }
}

fn wake_for_drains(
    inputs: &Inputs,
    wanted: &model::Service,
    members: impl Iterator<Item = (bool, u64)>,
    plan: &mut Plan,
) {
    for (draining, since) in members {
        let end = since + wanted.drain.max.as_secs();
        if draining && end > inputs.now {
            plan.wake_at(end);
        }
    }
}
