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

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use xdp_lb_common::{
    affinity::MOVE_AFTER,
    quic,
    server_id::{Place, ServerId},
    service::{CLIENT_IP, DEST_PORT, ICE_UFRAG, LOOKS_INSIDE, QUIC_CID, SOURCE_RANGES, ServiceConfig},
};

use super::{PlanError, pages, room::Room, ticks};
use crate::{
    model::{Affinity, Desired, Service},
    sources,
    state::{MapOp, Observed},
};

/// Flags that say which affinity a service has.
pub(crate) const AFFINITY: u16 = CLIENT_IP | LOOKS_INSIDE;

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
    local: impl Fn(&IpAddr) -> Option<u16>,
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
    room.pages().root(&owned)
}

/// Server ids of one service.
#[derive(Debug, Default)]
pub(super) struct IdChanges {
    /// Ids that come, or go to another backend.
    pub puts: Vec<MapOp>,
    /// Ids that go.
    pub drops: Vec<MapOp>,
}

/// From the ids that a service has to those that it should have, each with its backend's ring-local index.
pub(super) fn server_ids(
    room: &mut Room,
    service: u16,
    wanted: &BTreeMap<ServerId, u16>,
) -> Result<IdChanges, PlanError> {
    let mut changes = IdChanges::default();
    let mut known = BTreeSet::new();
    for &(index, ref place) in room.server_ids_of(service) {
        let id = ServerId(place.id);
        match wanted.get(&id) {
            Some(_) if !known.insert(id) => changes.drops.push(MapOp::DropServerId { index }),
            Some(&local) if local == place.local => {}
            Some(&local) => {
                changes.puts.push(MapOp::PutServerId { index, place: Place::new(service, id, local) })
            }
            None => changes.drops.push(MapOp::DropServerId { index }),
        }
    }
    for (&id, &local) in wanted.iter().filter(|(id, _)| !known.contains(id)) {
        let index = room.server_id(service, id)?;
        changes.puts.push(MapOp::PutServerId { index, place: Place::new(service, id, local) });
    }
    Ok(changes)
}

/// Server ids of services that are gone.
pub(super) fn orphaned_ids(observed: &Observed, services: &HashSet<u16>) -> Vec<MapOp> {
    let orphans = observed.server_ids.iter().filter(|(_, place)| !services.contains(&place.service));
    orphans.map(|(&index, _)| MapOp::DropServerId { index }).collect()
}

/// Changes of a service's source ranges while it wants some.
pub(super) fn sources(room: &mut Room, id: u16, wanted: &Service) -> Result<Vec<MapOp>, PlanError> {
    if wanted.source_ranges.is_open() {
        return Ok(Vec::new());
    }
    let new = sources::entries(id, &wanted.source_ranges);
    let old = room.sources_of(id);
    let more = new.keys().filter(|key| !old.contains_key(key)).count();
    let changes = sources::changes(&old, &new);
    room.take_sources(more)?;
    Ok(changes)
}

/// True when the live configuration asks for the source ranges.
pub(super) fn is_guarded(config: &ServiceConfig) -> bool {
    config.flags & SOURCE_RANGES != 0
}

/// Ranges of services that are gone, or that let everybody in.
pub(super) fn orphaned_sources(desired: &Desired, observed: &Observed, ids: &[u16]) -> Vec<MapOp> {
    let services = desired.services.iter().zip(ids);
    let guarded: BTreeSet<u32> =
        services.filter(|(s, _)| !s.source_ranges.is_open()).map(|(_, &id)| id.into()).collect();
    let orphans = observed.source_ranges.keys().filter(|key| !guarded.contains(&key.service));
    orphans.map(|&key| MapOp::DropSource { key }).collect()
}
