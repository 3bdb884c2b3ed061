//! One ring: its members, its slots, its place. Nothing here asks how many services use it.
//!
//! ```text
//!   a new ring      block, slots, all clean
//!   a kept ring     new members where no slot and no entry names the index, then slots and states one by one
//!   a ring that     a copy of it where nothing points: the same members under the same indices, the same slots;
//!   others keep     its services go over by one store each; from then on as a kept ring
//! ```
//!
//! A ring that outgrows its block or gets another table size goes over to a new place in the same way.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use bytemuck::Zeroable;
use xdp_lb_common::{
    backend::{BACKEND_ALIVE, BACKEND_DRAINING, BACKEND_USED, Backend, MAX_MEMBERS},
    ring::{NO_BACKEND, Slot},
};

use super::{
    Inputs, PlanError, ServiceChange, affinity,
    layout::{Group, Layout, Source},
    member::{Ways, is_down, state, state_name},
    memo::Assignment,
    room::Room,
    window::Windows,
};
use crate::{
    model::{self, AdminState, DrainPolicy, Removal},
    scan::BackendSet,
    slots::{Held, retarget},
    state::{MapOp, Place, Ring, SlotChange},
    template::from_map,
};

/// Smallest block of members.
const MIN_BLOCK: u32 = 8;

/// A ring as it will be, and the writes that change it under traffic.
#[derive(Default)]
pub(super) struct Planned {
    /// Where it will be.
    pub(super) place: Place,
    /// Length of its block.
    pub(super) block: u32,
    /// Its members as they will be, by index.
    members: BTreeMap<u16, Backend>,
    /// Their indices.
    locals: BTreeMap<IpAddr, u16>,
    /// Indices that get a new owner: their counters start at 0.
    pub(super) fresh: Vec<u16>,
    /// A change of slots waits for `windows`.
    pub(super) waiting: bool,
    pub(super) windows: Windows,
    /// When a drain ends, seconds since 1970.
    pub(super) wake: Option<u64>,
    pub(super) headers: Vec<MapOp>,
    pub(super) slots: Vec<MapOp>,
    /// States of those that come alive.
    pub(super) gains: Vec<MapOp>,
    /// States of those that no longer are, and entries that are forgotten.
    pub(super) losses: Vec<MapOp>,
    /// What it means to each of its services.
    pub(super) change: ServiceChange,
    moved: bool,
    /// Nobody has looked.
    pub(super) is_left: bool,
}

impl Planned {
    /// Nothing changes and nothing waits.
    pub(super) fn is_at_rest(&self) -> bool {
        let writes = [&self.headers, &self.slots, &self.gains, &self.losses];
        !self.is_left
            && !self.moved
            && !self.waiting
            && self.fresh.is_empty()
            && writes.iter().all(|ops| ops.is_empty())
    }

    /// The index of a backend.
    pub(super) fn local(&self, address: &IpAddr) -> Option<u16> {
        self.locals.get(address).copied()
    }

    /// Who has an index, if it is not forgotten.
    pub(super) fn member(&self, local: u16) -> Option<&Backend> {
        self.members.get(&local)
    }

    fn wake_for_drain(&mut self, inputs: &Inputs, policy: DrainPolicy, since: u64) {
        let end = since + policy.max.as_secs();
        if end > inputs.now {
            self.wake = Some(self.wake.map_or(end, |wake| wake.min(end)));
        }
    }
}

/// Plans the rings of all groups; `early` gets what is written where nothing points.
pub(super) fn plan(
    inputs: &Inputs,
    layout: &Layout,
    ways: &Ways,
    room: &mut Room,
    early: &mut Vec<MapOp>,
) -> Result<Vec<Planned>, PlanError> {
    let mut planned: Vec<Planned> = layout.groups.iter().map(|_| Planned::default()).collect();
    for groups in &layout.specs {
        // Rings that have become equal can be joined if they give the same members the same indices.
        let mut customary: BTreeMap<IpAddr, u16> = BTreeMap::new();
        if groups.len() > 1 {
            let kept =
                groups.iter().filter_map(|&group| inputs.observed.rings.get(&layout.groups[group].kept()?));
            for (&local, member) in kept.flat_map(|ring| &ring.members) {
                customary.entry(from_map(member.address)).or_insert(local);
            }
        }
        for &group in groups {
            let group_of = &layout.groups[group];
            planned[group] = match source(inputs, group_of) {
                Some((ring, place)) if group_of.is_left => {
                    Planned { place, block: ring.block, is_left: true, ..Planned::default() }
                }
                Some((ring, place)) => {
                    change(inputs, group_of, (ring, place), &mut customary, ways, room, early)?
                }
                None => create(inputs, group_of, ways, room, early)?,
            };
        }
    }
    Ok(planned)
}

fn source<'a>(inputs: &Inputs<'a>, group: &Group) -> Option<(&'a Ring, Place)> {
    match group.source {
        Source::Nothing => None,
        Source::Keeps(place) | Source::Leaves(place) => Some((inputs.observed.rings.get(&place)?, place)),
    }
}

/// A ring for services that are all new.
fn create(
    inputs: &Inputs,
    group: &Group,
    ways: &Ways,
    room: &mut Room,
    early: &mut Vec<MapOp>,
) -> Result<Planned, PlanError> {
    let like = group.like;
    let locals: BTreeMap<IpAddr, u16> = like.backends.iter().map(|b| b.address).zip(0..).collect();
    let block = block_len(locals.len())?;
    let table_size = if like.backends.is_empty() { 0 } else { like.table_size.get() };
    let place = Place { backend_base: room.block(block)?, slot_base: room.slots(table_size)?, table_size };
    let entries = like.backends.iter().map(|b| {
        let (state, since) = state(b.state, like.drain, None, inputs.now);
        (locals[&b.address], Backend { state, since, ..ways.entry(like, b.address) })
    });
    let members: BTreeMap<u16, Backend> = entries.collect();
    put_block(early, place.backend_base, block, &members);
    if table_size > 0 {
        let target = Target::of(inputs, like, &locals)?;
        early.push(MapOp::PutRing { base: place.slot_base, slots: target.row(place.table_size) });
    }
    let mut planned = Planned { place, block, members, locals, moved: true, ..Planned::default() };
    for policy in like.backends.iter().filter_map(|b| b.state.drains_by(like.drain)) {
        planned.wake_for_drain(inputs, policy, inputs.now);
    }
    Ok(planned)
}

/// The ring of services that are there: `old`, changed in place or in a copy.
fn change(
    inputs: &Inputs,
    group: &Group,
    old: (&Ring, Place),
    customary: &mut BTreeMap<IpAddr, u16>,
    ways: &Ways,
    room: &mut Room,
    early: &mut Vec<MapOp>,
) -> Result<Planned, PlanError> {
    let like = group.like;
    let (ring, old_place) = old;
    let members = &ring.members;
    let mut change = ServiceChange { slots: old_place.table_size, ..Default::default() };

    // Who is who: known addresses keep their index, new ones get a free one.
    let mut locals: BTreeMap<IpAddr, u16> = members.iter().map(|(&l, b)| (from_map(b.address), l)).collect();
    let named = Named::of(inputs, group, ring);
    let mut fresh = Vec::new();
    for backend in like.backends.iter() {
        if locals.contains_key(&backend.address) {
            continue;
        }
        let free = |local: &u16| named.is_free(*local) && !fresh.contains(local);
        let customary = customary.get(&backend.address).copied().filter(free);
        let Some(local) = customary.or_else(|| (0..MAX_MEMBERS as u16).find(free)) else {
            return Err(PlanError::Members { service: like.name.clone() });
        };
        fresh.push(local);
        locals.insert(backend.address, local);
        change.backends_added.push(backend.address);
    }
    for (&address, &local) in &locals {
        customary.entry(address).or_insert(local);
    }
    let highest = locals.values().max().map_or(0, |&l| usize::from(l) + 1);

    // What becomes of each member.
    let by_address: BTreeMap<IpAddr, &model::Backend> =
        like.backends.iter().map(|b| (b.address, b)).collect();
    let mut next: BTreeMap<u16, Backend> = BTreeMap::new();
    for (&address, &local) in &locals {
        let before = members.get(&local);
        // A backend that is gone from the file drains before it is forgotten; who is dead, or has drained by terms that
        // do not count any more, has nothing left to drain and must not come alive for it.
        let is_dead = like.removal == Removal::Down || before.is_some_and(|b| b.state & BACKEND_ALIVE == 0);
        let leaving = if is_dead { AdminState::Down } else { AdminState::Drain };
        let admin = by_address.get(&address).map_or(leaving, |b| b.state);
        let (state, since) = state(admin, like.drain, before, inputs.now);
        next.insert(local, Backend { state, since, ..ways.entry(like, address) });
    }

    // Where it will be. A ring without backends keeps its size: nobody is in it whatever the size, and it costs no
    // new ring.
    let size = if like.backends.is_empty() { old_place.table_size } else { like.table_size.get() };
    let rebuilt = size != old_place.table_size;
    if rebuilt && old_place.table_size != 0 && !inputs.may_move(like) {
        return Err(PlanError::MovesEverything { service: like.name.clone(), key: "table_size" });
    }
    let grows = highest > ring.block as usize || ring.block == 0;
    let moved = matches!(group.source, Source::Leaves(_)) || rebuilt || grows;
    // Entries may name indices up to the end of the block, so it never becomes shorter.
    let block = if grows { block_len(highest)?.max(ring.block) } else { ring.block };
    let place = if moved {
        Place { backend_base: room.block(block)?, slot_base: room.slots(size)?, table_size: size }
    } else {
        old_place
    };
    let mut planned = Planned { place, block, moved, ..Planned::default() };

    // The slots.
    let mut changes = Vec::new();
    if rebuilt {
        let target = Target::of(inputs, like, &locals)?;
        early.push(MapOp::PutRing { base: place.slot_base, slots: target.row(place.table_size) });
        (change.slots, change.slots_moved) = (size, size);
    } else {
        if moved && size > 0 {
            early.push(MapOp::CopyRing { from: old_place.slot_base, base: place.slot_base, len: size });
        }
        let services = group
            .present
            .iter()
            .filter_map(|&(wanted, id)| Some((wanted, id, inputs.observed.services.get(&id)?.config())));
        planned.windows = Windows::of(inputs, services);
        let target = Target::of(inputs, like, &locals)?;
        if moved || !target.is_known_reached(inputs, place, ring) {
            changes = slot_changes(ring, &next, &target, &planned.windows, &mut change);
            if changes.is_empty() && change.slots_waiting == 0 && !moved && is_clean(ring) {
                target.remember_reached(inputs, place, ring);
            }
        }
        planned.waiting = change.slots_waiting > 0;
    }

    // Writes, in the order that breaks nobody.
    if moved {
        // The whole block at once; it goes live with the services' configurations, in the states of today.
        let today = next.iter().map(|(&local, b)| {
            let (state, since) = members.get(&local).map_or((b.state, b.since), |m| (m.state, m.since));
            (local, Backend { state, since, ..*b })
        });
        put_block(early, place.backend_base, block, &today.collect());
    }
    let mut forgotten = BTreeSet::new();
    for (&local, wanted) in &next {
        let index = place.backend_base + u32::from(local);
        let Some(today) = members.get(&local) else {
            if !moved {
                let block_len = if local == 0 { block } else { 0 };
                early.push(MapOp::PutBackend { index, entry: Box::new(Backend { block_len, ..*wanted }) });
            }
            continue;
        };
        let template = wanted.template();
        if !moved && template != today.template() {
            planned.headers.push(MapOp::SetTemplate { index, template: Box::new(*template) });
        }
        let address = from_map(wanted.address);
        let leaving = !by_address.contains_key(&address) && !planned.waiting;
        if leaving && named.nobody_needs(local, wanted) {
            planned.losses.push(if local == 0 {
                // The first entry knows the length of the block, which lives on.
                MapOp::PutBackend {
                    index,
                    entry: Box::new(Backend { block_len: block, ..Backend::zeroed() }),
                }
            } else {
                MapOp::DropBackend { index }
            });
            forgotten.insert(local);
            change.backends_removed.push(address);
        } else if wanted.state != today.state {
            let loses_alive = today.state & BACKEND_ALIVE != 0 && wanted.state & BACKEND_ALIVE == 0;
            let op = MapOp::SetBackendState { index, state: wanted.state, since: wanted.since };
            // A shed waits for its slots; a death does not.
            if loses_alive && planned.waiting && !is_down(wanted) {
                continue;
            }
            change.backends_changed.push((address, state_name(wanted.state)));
            if loses_alive { planned.losses.push(op) } else { planned.gains.push(op) }
        }
    }
    if !changes.is_empty() {
        planned.slots.push(MapOp::SetSlots { base: place.slot_base, changes });
    }
    for member in next.values() {
        if member.state & BACKEND_DRAINING != 0 && member.state & BACKEND_ALIVE != 0 {
            let listed = by_address.get(&from_map(member.address));
            let policy = listed.and_then(|b| b.state.drains_by(like.drain)).unwrap_or(like.drain);
            planned.wake_for_drain(inputs, policy, member.since);
        }
    }
    (planned.fresh, planned.change) = (fresh, change);
    next.retain(|local, _| !forgotten.contains(local));
    (planned.members, planned.locals) = (next, locals);
    Ok(planned)
}

/// What is stored in each slot so that it gets its target, as far as it does not wait.
fn slot_changes(
    ring: &Ring,
    next: &BTreeMap<u16, Backend>,
    target: &Target,
    windows: &Windows,
    change: &mut ServiceChange,
) -> Vec<SlotChange> {
    let alive = |local: u16| ring.members.get(&local).is_some_and(|m| m.state & BACKEND_ALIVE != 0);
    let dead = |local: u16| next.get(&local).is_none_or(|m| m.state & BACKEND_USED == 0 || is_down(m));
    let comes_alive = |local: u16| next.get(&local).is_some_and(|m| m.state & BACKEND_ALIVE != 0);
    let mut changes = Vec::new();
    let slots = ring.slots.now.iter().zip(&ring.slots.before);
    for (slot, (&now, &before)) in (0u32..).zip(slots) {
        let target = target.of_slot(slot);
        if now == target {
            continue;
        }
        let held = Held { now: Slot(now), before };
        match retarget(held, target, alive) {
            Some(write) if !windows.postpones(!dead(held.now.backend())) => {
                change.slots_moved += 1;
                changes.push(SlotChange { slot, before: write.before, now: write.now.0 });
                continue;
            }
            Some(_) => change.slots_waiting += 1,
            None => {}
        }
        // While `before` was dead, unknown flows went to `now`: they are older than its return.
        let mine = held.now.backend();
        if held.now.is_dirty() && mine != NO_BACKEND && !alive(before) && comes_alive(before) {
            changes.push(SlotChange { slot, before: Some(mine), now });
        }
    }
    changes
}

/// Who names which ring-local index: members, slots, flow entries.
struct Named<'a> {
    inputs: &'a Inputs<'a>,
    ring: &'a Ring,
    /// Services whose entries and port slices are looked at.
    services: Vec<u16>,
    slots: OnceCell<BackendSet>,
    entries: OnceCell<BTreeMap<u16, u32>>,
    slices: OnceCell<BackendSet>,
}

impl<'a> Named<'a> {
    fn of(inputs: &'a Inputs<'a>, group: &Group, ring: &'a Ring) -> Self {
        let services = match group.source {
            // Packets of services that leave it may still be under way in a ring that is kept.
            Source::Keeps(_) => ring.services.clone(),
            _ => group.present.iter().map(|(_, id)| *id).collect(),
        };
        Self {
            inputs,
            ring,
            services,
            slots: OnceCell::new(),
            entries: OnceCell::new(),
            slices: OnceCell::new(),
        }
    }

    /// A slot names this index, now or before, or a service's port slice does.
    fn is_named(&self, local: u16) -> bool {
        self.by_slots(local) || self.by_slices(local)
    }

    fn by_slices(&self, local: u16) -> bool {
        let observed = self.inputs.observed;
        let owners = || {
            let services = self.services.iter().filter_map(|id| observed.services.get(id));
            services
                .flat_map(|s| affinity::live_slices(observed, s.config()))
                .map(|(_, owner)| owner)
                .collect()
        };
        self.slices.get_or_init(owners).contains(local)
    }

    fn by_slots(&self, local: u16) -> bool {
        let named = || {
            let slots = &self.ring.slots;
            let pairs = slots.now.iter().zip(&slots.before).map(|(&now, &before)| (Slot(now), before));
            pairs
                .flat_map(|(now, before)| [now.backend(), if now.is_dirty() { before } else { NO_BACKEND }])
                .collect()
        };
        self.slots.get_or_init(named).contains(local)
    }

    /// Live flows of an index that some entry names.
    fn by_entries(&self, local: u16) -> Option<u32> {
        let counted = || {
            let mut counted = BTreeMap::new();
            for &id in &self.services {
                for (&(_, local), flows) in self.inputs.census.members.range((id, 0)..=(id, u16::MAX)) {
                    *counted.entry(local).or_insert(0) += flows;
                }
            }
            counted
        };
        self.entries.get_or_init(counted).get(&local).copied()
    }

    /// A new member may get this index.
    fn is_free(&self, local: u16) -> bool {
        !self.ring.members.contains_key(&local) && self.by_entries(local).is_none() && !self.is_named(local)
    }

    /// True when a member that is gone from the file can be forgotten: no slot and no port slice names it any more, now or
    /// before, and its drain is over or nobody is left. What changes in this very plan still names it; next time round it
    /// does not.
    fn nobody_needs(&self, local: u16, entry: &Backend) -> bool {
        let over = entry.state & BACKEND_ALIVE == 0;
        (over || self.by_entries(local).unwrap_or(0) == 0) && !self.is_named(local)
    }
}

fn block_len(members: usize) -> Result<u32, PlanError> {
    let have = u64::from(MAX_MEMBERS);
    let len = u32::try_from(members).unwrap_or(u32::MAX);
    if len > MAX_MEMBERS {
        return Err(PlanError::Limit { what: "backends of one service", need: u64::from(len), have });
    }
    Ok(len.next_power_of_two().max(MIN_BLOCK))
}

/// Writes every entry of a block, so that nothing of a former tenant remains.
fn put_block(ops: &mut Vec<MapOp>, base: u32, block: u32, entries: &BTreeMap<u16, Backend>) {
    let mut all = vec![Backend::zeroed(); block as usize];
    for (&local, entry) in entries {
        all[usize::from(local)] = *entry;
    }
    all[0].block_len = block;
    ops.extend((base..).zip(all).map(|(index, entry)| MapOp::PutBackend { index, entry: Box::new(entry) }));
}

fn is_clean(ring: &Ring) -> bool {
    !ring.slots.now.iter().any(|&now| Slot(now).is_dirty())
}

/// The ring-local backend that every slot is to have.
struct Target {
    /// `None` when it is nobody for all of them.
    assignment: Option<Arc<Assignment>>,
    /// Ring-local backends by position in the assignment.
    by_position: Vec<u16>,
}

impl Target {
    fn of(inputs: &Inputs, like: &model::Service, locals: &BTreeMap<IpAddr, u16>) -> Result<Self, PlanError> {
        if like.backends.is_empty() {
            return Ok(Self { assignment: None, by_position: Vec::new() });
        }
        let assignment = inputs
            .memo
            .assignment(like, inputs.desired.seed)
            .map_err(|e| PlanError::Table { service: like.name.clone(), reason: e.to_string() })?;
        let local = |address| locals.get(address).copied().unwrap_or(NO_BACKEND);
        let by_position = assignment.addresses.iter().map(local).collect();
        Ok(Self { assignment: Some(assignment), by_position })
    }

    #[inline]
    fn of_slot(&self, slot: u32) -> u16 {
        let position = self.assignment.as_ref().and_then(|all| all.positions.get(slot as usize));
        position
            .and_then(|&position| self.by_position.get(usize::from(position)))
            .copied()
            .unwrap_or(NO_BACKEND)
    }

    /// The slots as a row.
    fn row(&self, size: u32) -> Vec<u16> {
        (0..size).map(|slot| self.of_slot(slot)).collect()
    }

    fn is_known_reached(&self, inputs: &Inputs, place: Place, ring: &Ring) -> bool {
        let known = |all| inputs.memo.is_settled(place, &ring.slots, all, &self.by_position);
        self.assignment.as_ref().is_some_and(known)
    }

    fn remember_reached(self, inputs: &Inputs, place: Place, ring: &Ring) {
        if let Some(assignment) = self.assignment {
            inputs.memo.settle(place, &ring.slots, assignment, self.by_position);
        }
    }
}
