//! Services that became equal again share a ring again, where that moves nobody.
//!
//! ```text
//!   ring 1: slots, members, services a b       the same members under the same indices,    ring 1: services a b c
//!   ring 2: slots, members, services c         the same answer from every slot         ->  (ring 2 is free space)
//! ```
//!
//! The rule is plain rather than complete. Both rings must be at rest. Members must agree in index, address, state
//! and the beginning of a drain: flow entries name indices, and go on meaning whom they meant. Every slot must give an
//! unknown flow the same backend, and be dirty where it was: then remembered flows are still asked for. Rings that do
//! not agree so stay apart, which costs memory and nothing else; a ring that gets a new member gives it the
//! index that it has in the equal ring ([`super::ring`]), so that rings that part and take the same way do agree.

use xdp_lb_common::{
    backend::{BACKEND_ALIVE, BACKEND_DRAINING},
    ring::Slot,
};

use super::{layout::Layout, ring::Planned};
use crate::state::{Observed, Ring};

/// Sends the services of rings at rest to an equal ring of the same specification.
pub(super) fn join(layout: &Layout, observed: &Observed, rings: &mut [Planned]) {
    for groups in layout.specs.iter().filter(|groups| groups.len() > 1) {
        let at_rest = groups.iter().copied().filter(|&group| rings[group].is_at_rest());
        let ring = |group: usize| observed.rings.get(&layout.groups[group].kept()?);
        let known: Vec<(usize, &Ring)> = at_rest.filter_map(|group| Some((group, ring(group)?))).collect();
        let mut stay: Vec<(usize, &Ring)> = Vec::new();
        for (group, ring) in known {
            match stay.iter().find(|(other, into)| {
                rings[*other].place.table_size == rings[group].place.table_size && may_join(ring, into)
            }) {
                Some(&(other, _)) => {
                    (rings[group].place, rings[group].block) = (rings[other].place, rings[other].block);
                }
                None => stay.push((group, ring)),
            }
        }
    }
}

/// True when no packet of a service on `ring` goes elsewhere once the service is on `into`.
fn may_join(ring: &Ring, into: &Ring) -> bool {
    // Entries may name indices that are free by now, up to the end of the block.
    ring.block <= into.block
        && ring.members.len() == into.members.len()
        && ring.members.iter().zip(&into.members).all(|((local, a), (other, b))| {
            let drains = a.state & BACKEND_DRAINING != 0;
            local == other && a.address == b.address && a.state == b.state && (!drains || a.since == b.since)
        })
        && ring.slots.now.len() == into.slots.now.len()
        && (0..ring.slots.now.len()).all(|slot| {
            let (now, older) = answers(ring, slot);
            let (into_now, into_older) = answers(into, slot);
            now.backend() == into_now.backend()
                && older == into_older
                && (into_now.is_dirty() || !now.is_dirty())
        })
}

/// The slot, and where it sends a connection that is not remembered.
fn answers(ring: &Ring, slot: usize) -> (Slot, u16) {
    let (now, before) = (Slot(ring.slots.now[slot]), ring.slots.before[slot]);
    let alive = ring.members.get(&before).is_some_and(|m| m.state & BACKEND_ALIVE != 0);
    (now, if now.is_dirty() && alive { before } else { now.backend() })
}
