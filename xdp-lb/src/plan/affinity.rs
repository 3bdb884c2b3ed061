//! What affinities that look inside packets need in the maps: port slices, server ids; and the source ranges.
//!
//! All of it is found through a service's configuration or a ring's members, and is written before and taken away
//! after these:
//!
//! ```text
//!  pages of slices -> SetService                       who owns a port changes by one store
//!  member, SetService -> PutServerId ... DropServerId -> DropBackend     an id never names somebody else's index
//!  PutSource -> SetService ... SetService -> grace -> DropSource     a closed service is never open in between
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::time::Duration;

use xdp_lb_common::{
    affinity::MOVE_AFTER,
    quic,
    server_id::{self, PROBES, Place, ServerId},
    service::{CLIENT_IP, DEST_PORT, ICE_UFRAG, LOOKS_INSIDE, QUIC_CID, SOURCE_RANGES, ServiceConfig},
    source::SourceKey,
};

use super::{PlanError, Room, pages, ticks};
use crate::{
    model::{Affinity, Desired, Service},
    sources,
    state::{MapOp, Observed},
};

/// Flags that say which affinity a service has.
pub(super) const AFFINITY: u16 = CLIENT_IP | LOOKS_INSIDE;

/// The flags of an affinity.
pub(super) fn flags(affinity: Affinity) -> u16 {
    match affinity {
        Affinity::FiveTuple => 0,
        Affinity::ClientIp => CLIENT_IP,
        Affinity::DestPort => DEST_PORT,
        Affinity::QuicCid => QUIC_CID,
        Affinity::IceUfrag => ICE_UFRAG,
    }
}

/// The part of a configuration that the affinity reads. `old` helps where every backend with an id has left the file.
pub(super) fn fields(
    wanted: &Service,
    slices: u32,
    old: Option<&ServiceConfig>,
    observed: &Observed,
) -> ServiceConfig {
    let mut config = ServiceConfig::default();
    let same = old.filter(|old| old.flags & AFFINITY == flags(wanted.affinity));
    let id_len = wanted.backends.iter().find_map(|b| b.server_id).map(|id| id.len);
    match wanted.affinity {
        Affinity::FiveTuple | Affinity::ClientIp => {}
        Affinity::DestPort => config.slices = slices,
        Affinity::QuicCid => {
            let len = id_len.or(same.map(|old| old.cid.server_id_len)).unwrap_or(0);
            let format = wanted.cid;
            let cid = quic::Config::new(format.config_ids, len, format.nonce, format.length_encoded);
            config.cid = cid.unwrap_or_default();
        }
        Affinity::IceUfrag => {
            config.id_len = id_len.or(same.map(|old| old.id_len)).unwrap_or(0);
            // An entry made at a tick's end is one tick old at once.
            config.move_after = u8::try_from(ticks(MOVE_AFTER + tick(observed), observed)).unwrap_or(u8::MAX);
        }
    }
    config
}

/// How long a tick lasts, rounded down to milliseconds.
fn tick(observed: &Observed) -> Duration {
    let jiffies = 1u64 << observed.control.tick_shift.min(31);
    Duration::from_millis(jiffies * 1000 / u64::from(observed.control.hz.max(1)))
}

/// Runs of ports with their owners' ring-local indices.
pub(super) type Slices = Vec<(RangeInclusive<u16>, u16)>;

/// Whose ports are whose in the maps.
pub(super) fn live_slices(observed: &Observed, config: &ServiceConfig) -> Slices {
    if config.flags & DEST_PORT == 0 {
        return Vec::new();
    }
    let runs = pages::runs(observed, config.slices);
    runs.into_iter().map(|(run, owner)| (run, owner - 1)).collect()
}

/// Root page of a service's slices: those of the file, over what members that left the file still own.
pub(super) fn slices(
    room: &mut Room,
    wanted: &Service,
    local: impl Fn(&std::net::IpAddr) -> Option<u16>,
    leaving: Slices,
) -> Result<u32, PlanError> {
    if wanted.affinity != Affinity::DestPort {
        return Ok(0);
    }
    let mut layers = leaving;
    for backend in &wanted.backends {
        let Some(local) = local(&backend.address) else { continue };
        layers.extend(backend.slice.iter().map(|range| (range.clone(), local)));
    }
    let owned: Slices = layers.into_iter().map(|(range, local)| (range, local + 1)).collect();
    room.pages.root(&owned)
}

/// Server ids of one ring.
#[derive(Debug, Default)]
pub(super) struct IdChanges {
    /// Ids that come, or go to another backend.
    pub puts: Vec<MapOp>,
    /// Ids that go.
    pub drops: Vec<MapOp>,
}

/// From the ids that a ring has to those that it should have, each with its backend's ring-local index.
pub(super) fn server_ids(
    room: &mut Room,
    observed: &Observed,
    ring: u16,
    wanted: &BTreeMap<ServerId, u16>,
) -> Result<IdChanges, PlanError> {
    let mut changes = IdChanges::default();
    let mut known = BTreeSet::new();
    for (&index, place) in observed.server_ids.iter().filter(|(_, place)| place.ring == ring) {
        let id = ServerId(place.id);
        match wanted.get(&id) {
            Some(_) if !known.insert(id) => changes.drops.push(MapOp::DropServerId { index }),
            Some(&local) if local == place.local => {}
            Some(&local) => {
                changes.puts.push(MapOp::PutServerId { index, place: Place::new(ring, id, local) })
            }
            None => changes.drops.push(MapOp::DropServerId { index }),
        }
    }
    let capacity = observed.capacity.server_ids;
    for (&id, &local) in wanted.iter().filter(|(id, _)| !known.contains(id)) {
        let start = server_id::start(ring, id);
        let index = (0..PROBES)
            .map(|probe| start.wrapping_add(probe) & (capacity - 1))
            .find(|index| !room.places.contains(index));
        let full = PlanError::Limit {
            what: "server_ids",
            need: room.places.len() as u64 + 1,
            have: u64::from(capacity / 8),
        };
        let index = index.ok_or(full)?;
        room.places.insert(index);
        changes.puts.push(MapOp::PutServerId { index, place: Place::new(ring, id, local) });
    }
    Ok(changes)
}

/// Ids of rings that no service has any more.
pub(super) fn orphaned_ids(observed: &Observed, ids: &BTreeMap<&str, u16>) -> Vec<MapOp> {
    let rings: BTreeSet<u16> = ids.values().copied().collect();
    let orphans = observed.server_ids.iter().filter(|(_, place)| !rings.contains(&place.ring));
    orphans.map(|(&index, _)| MapOp::DropServerId { index }).collect()
}

/// Changes of a service's source ranges while it wants some: into `early` where the live configuration does not ask.
pub(super) fn sources(
    room: &mut Room,
    observed: &Observed,
    id: u16,
    wanted: &Service,
) -> Result<Vec<MapOp>, PlanError> {
    if wanted.source_ranges.is_open() {
        return Ok(Vec::new());
    }
    let new = sources::entries(id, &wanted.source_ranges);
    let old = of_service(observed, id);
    let more = new.keys().filter(|key| !old.contains_key(key)).count();
    let left = u32::try_from(more).ok().and_then(|more| room.sources.checked_sub(more));
    room.sources = left.ok_or(PlanError::Limit {
        what: "source_ranges",
        need: (observed.source_ranges.len() + more) as u64,
        have: u64::from(observed.capacity.source_ranges),
    })?;
    Ok(sources::changes(&old, &new))
}

/// True when the live configuration asks for the source ranges.
pub(super) fn is_guarded(config: &ServiceConfig) -> bool {
    config.flags & SOURCE_RANGES != 0
}

fn of_service(observed: &Observed, id: u16) -> BTreeMap<SourceKey, u32> {
    let id = u32::from(id);
    observed.source_ranges.iter().filter(|(key, _)| key.service == id).map(|(&k, &v)| (k, v)).collect()
}

/// Ranges of services that are gone, or that let everybody in.
pub(super) fn orphaned_sources(
    desired: &Desired,
    observed: &Observed,
    ids: &BTreeMap<&str, u16>,
) -> Vec<MapOp> {
    let guarded: BTreeSet<u32> = desired
        .services
        .iter()
        .filter(|service| !service.source_ranges.is_open())
        .filter_map(|service| ids.get(&*service.name).map(|&id| id.into()))
        .collect();
    let orphans = observed.source_ranges.keys().filter(|key| !guarded.contains(&key.service));
    orphans.map(|&key| MapOp::DropSource { key }).collect()
}
