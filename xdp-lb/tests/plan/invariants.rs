//! What must hold after every single write, and what a write must not touch.

use xdp_lb::memory::MemoryMaps;
use xdp_lb::state::{MapOp, Maps, Observed, Slots};
use xdp_lb_common::control::VipBank;
use xdp_lb_common::ring::{NO_BACKEND, Slot};
use xdp_lb_common::service::SOURCE_RANGES;
use xdp_lb_common::source::{SERVICE_BITS, SourceKey};
use xdp_lb_common::stats::NO_STATS;
use xdp_lb_common::vip::{VIP_POD, VIP_USED};

use crate::meaning::owners;

/// No VIP reaches a missing service, no service a missing ring, no ring a missing backend.
pub fn assert_consistent(maps: &MemoryMaps, after: &str) {
    let o = maps.observe();
    let missing = reached(&o).find(|id| !o.services.contains_key(id));
    assert_eq!(missing, None, "a VIP reaches a missing service after {after}");
    for (id, service) in &o.services {
        let config = service.config();
        let ring = o.ring(*id).unwrap();
        let Slots { now, before } = &*ring.slots;
        assert_eq!(now.len(), config.table_size as usize, "ring of service {id} after {after}");
        assert!(config.slot_base.is_multiple_of(4), "after {after}");
        assert!(ring.block > 0, "service {id} has no block after {after}");
        for (slot, (&now, &before)) in now.iter().zip(before).enumerate() {
            let now = Slot(now);
            let known = |local: u16| ring.members.contains_key(&local);
            let b = now.backend();
            assert!(b == NO_BACKEND || known(b), "service {id} slot {slot} names missing {b} after {after}");
            assert!(
                !now.is_dirty() || known(before),
                "service {id} slot {slot} was before with missing {before} after {after}"
            );
        }
    }
    for place in o.server_ids.values() {
        // Ids of a service that is gone are the next plan's to take away.
        let known = o.ring(place.service).is_none_or(|ring| ring.members.contains_key(&place.local));
        assert!(known, "{place:?} names a missing backend after {after}");
    }
    for (id, service) in &o.services {
        for (port, local) in owners(&o, service.config()) {
            let known = o.ring(*id).unwrap().members.contains_key(&local);
            assert!(known, "port {port} of service {id} is missing {local}'s after {after}");
        }
        // Without one nobody would be let in.
        let of_service = |key: &&SourceKey| key.service == u32::from(*id);
        let guarded = service.config().flags & SOURCE_RANGES != 0;
        let everybody = o.source_ranges.keys().filter(of_service).any(|key| key.prefix_len == SERVICE_BITS);
        assert!(!guarded || everybody, "service {id} lost its ranges after {after}");
    }
    for vip in o.vips.iter().filter(|vip| vip.flags & VIP_POD != 0) {
        let leads = o.pod_ports.keys().any(|key| key.vip == vip.address && key.any == 0);
        assert!(leads, "a VIP of pods leads nowhere after {after}");
    }
    let mut ranges: Vec<(u32, u32)> = o.rings.keys().map(|p| (p.slot_base, p.table_size)).collect();
    disjoint(&mut ranges, "rings");
    let mut blocks: Vec<(u32, u32)> = o.rings.iter().map(|(p, ring)| (p.backend_base, ring.block)).collect();
    disjoint(&mut blocks, "blocks");
    let counters = o.services.iter().map(|(id, s)| (s.config().stats_base, o.ring(*id).unwrap().block));
    let mut counters: Vec<(u32, u32)> = counters.filter(|(base, _)| *base != NO_STATS).collect();
    disjoint(&mut counters, "counters");
    for (id, service) in &o.services {
        assert_eq!(service.config().id, *id, "flow entries name the service");
    }
}

fn disjoint(ranges: &mut [(u32, u32)], what: &str) {
    ranges.sort_unstable();
    for pair in ranges.windows(2) {
        assert!(pair[0].0 + pair[0].1 <= pair[1].0, "{what} overlap: {pair:?}");
    }
}

/// Service ids in the pages of live VIPs.
fn reached(o: &Observed) -> impl Iterator<Item = u16> {
    let roots = o.vips.iter().filter(|v| v.flags & VIP_USED != 0).flat_map(|v| [v.tcp_root, v.udp_root]);
    let leaves = roots.filter(|&r| r != 0).flat_map(|root| o.pages[&root].values);
    leaves.filter(|&leaf| leaf != 0).flat_map(|leaf| o.pages[&leaf.into()].values).filter(|&id| id != 0)
}

/// Whole values are written only where nothing points.
pub fn assert_disciplined(op: &MapOp, maps: &MemoryMaps) {
    let o = maps.observe();
    let member = |index: u32| {
        o.rings.iter().find_map(|(place, ring)| {
            let local = index.checked_sub(place.backend_base).filter(|l| *l < ring.block)?;
            Some((ring, local as u16))
        })
    };
    let named = |index: u32| {
        member(index).is_some_and(|(ring, local)| {
            ring.slots.now.iter().zip(&ring.slots.before).any(|(&now, &before)| {
                Slot(now).backend() == local || Slot(now).is_dirty() && before == local
            })
        })
    };
    let overlaps = |base: u32, len: usize| {
        o.services
            .values()
            .map(|s| s.config())
            .any(|c| base < c.slot_base + c.table_size && c.slot_base < base + len as u32 && c.table_size > 0)
    };
    match op {
        MapOp::PutBackend { index, .. } => {
            assert!(!named(*index), "{op:?} overwrites an entry that a slot names");
            let used = member(*index).is_some_and(|(ring, local)| ring.members.contains_key(&local));
            let empties = matches!(op, MapOp::PutBackend { entry, .. } if entry.state == 0);
            assert!(!used || empties, "{op:?} overwrites a member");
        }
        MapOp::DropBackend { index } => {
            assert!(!named(*index), "{op:?} takes an entry that a slot names");
            let first = member(*index).is_some_and(|(_, local)| local == 0);
            assert!(!first, "{op:?} takes the length of a live block away");
        }
        MapOp::PutRing { base, slots } => {
            assert!(!overlaps(*base, slots.len()), "{op:?} overwrites a live ring");
        }
        MapOp::CopyRing { from, base, len } => {
            assert!(!overlaps(*base, *len as usize), "{op:?} overwrites a live ring");
            let live = o.rings.keys().any(|p| p.slot_base == *from && p.table_size == *len);
            assert!(live, "{op:?} copies what no service uses");
        }
        MapOp::PutService { id, entry } => {
            assert!(!o.services.contains_key(id) && !reached(&o).any(|r| r == *id), "{op:?} is in use");
            assert_eq!(entry.live, 0);
        }
        MapOp::DropService { id } => assert!(!reached(&o).any(|r| r == *id), "{op:?} is reached"),
        MapOp::PutPage { page, .. } => {
            assert!(!o.pages.contains_key(page) && *page != 0, "{op:?} is reached")
        }
        MapOp::PutVips { bank, .. } => {
            assert_ne!(*bank, VipBank::unpack(o.control.vip_bank, o.capacity.vip_slots).bank, "{op:?}")
        }
        MapOp::PutServerId { index, place } => {
            let there = o.server_ids.get(index);
            assert!(
                there.is_none_or(|there| (there.id, there.service) == (place.id, place.service)),
                "{op:?} is taken"
            );
        }
        MapOp::SetSlots { base, .. } => {
            let live = o.services.values().any(|s| s.config().slot_base == *base);
            assert!(live, "{op:?} changes a ring that no service uses");
        }
        _ => {}
    }
}
