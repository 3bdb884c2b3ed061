//! Affinities that the packet itself decides, and who may speak at all: what leads off the common packet's way.
//!
//! ```text
//!   source_ranges: nobody, or a longer prefix says deny ------> dropped
//!   dest-port   port owned, its backend alive ----------------> its owner              no table is asked
//!               else -----------------------------------------> dropped
//!   quic-cid    connection id names a live backend -----------> that backend           remembered for ICMP errors
//!               else -----------------------------------------> as if five-tuple
//!   ice-ufrag   Binding request that names a live backend ----> that backend           the flow is remembered
//!               else: remembered, its backend alive ----------> that backend
//!                     else -----------------------------------> the slot's             not remembered
//! ```
//!
//! **Whose flow it is** (`ice-ufrag`): only Binding requests make an entry, and only those for its own backend refresh
//! it, so its age is the time since the last of them. ICE asks for consent every five seconds (RFC 7675). A request for
//! another backend goes there, but the flow moves only when its own has been silent for [`MOVE_AFTER`] or is dead: who
//! forges a client's address does not get the client's media.
//!
//! Generic over the tables like [`crate::select`], which it rests on.

use core::time::Duration;

use crate::{
    classify,
    flow::{FlowEntry, FlowKey},
    hash::FlowHash,
    ice,
    parse::{Addresses, Bytes, Ip, Segment, UDP, Version, Words},
    quic,
    reason::{DropReason, FlowEvent},
    ring::NO_BACKEND,
    select::{self, Choice, Flow, Why},
    server_id::{self, ServerId},
    service::{DEST_PORT, ICE_UFRAG, LOOKS_INSIDE, QUIC_CID, SOURCE_RANGES, ServiceConfig},
    udp::Payload,
    vip::PAGE_PORTS,
};

/// Silence after which a flow of `ice-ufrag` may belong to somebody else: three checks for consent missed.
pub const MOVE_AFTER: Duration = Duration::from_secs(15);

/// Where the tables of these affinities live.
pub trait Tables: select::Tables + classify::Tables {
    /// Both words of a [`server_id::Place`], by its index before masking.
    fn server_id(&self, index: u32) -> Option<[u64; 2]>;
    /// Whether the longest prefix of the service's ranges that holds this client lets it in.
    fn admits(&self, service: u16, client: Words) -> bool;
}

/// What a packet says of its backend.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Named {
    /// Nothing, and it need not: media, answers, whatever follows the flow.
    #[default]
    Nothing,
    /// This one.
    Server(ServerId),
    /// It should name one and does not.
    Nobody,
}

/// Reads what a packet says of its backend.
#[must_use]
#[inline(always)]
pub fn named<B: Bytes + ?Sized>(frame: &B, ip: &Ip, config: &ServiceConfig, seed: u64) -> Named {
    if config.flags & (QUIC_CID | ICE_UFRAG) == 0 || ip.protocol != UDP {
        return Named::Nothing;
    }
    let Some(payload) = Payload::of(frame, ip) else { return Named::Nothing };
    if config.flags & QUIC_CID != 0 {
        return match quic::route(frame, payload, &config.cid) {
            quic::Route::Server(id) => Named::Server(id),
            quic::Route::Fallback(_) => Named::Nobody,
        };
    }
    match ice::classify(frame, payload, config.id_len, seed) {
        ice::Datagram::BindingRequest(ufrag) => Named::Server(ufrag.server_id),
        ice::Datagram::Unroutable(_) => Named::Nobody,
        ice::Datagram::OtherStun | ice::Datagram::NotStun(_) => Named::Nothing,
    }
}

/// Who is not let in. IPv6 clients with a mapped address are nobody: it is how the trie writes IPv4, and on the wire it
/// means nothing (RFC 4942 section 2.2).
///
/// # Errors
/// [`DropReason::SourceDenied`].
#[inline(always)]
pub fn admit<T: Tables, S>(tables: &T, flow: &Flow<S>, addresses: &Addresses) -> Result<(), DropReason> {
    if flow.config.flags & SOURCE_RANGES == 0 {
        return Ok(());
    }
    let client = addresses.source;
    let mapped = client[0] == 0 && client[1] as u32 == 0xffff_0000;
    if (mapped && addresses.version == Version::V6) || !tables.admits(flow.service, client) {
        return Err(DropReason::SourceDenied);
    }
    Ok(())
}

/// Whom a packet asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// Nobody, and it need not.
    Nothing,
    /// It should ask and does not, or for somebody who is not there.
    Nobody,
    /// A live backend, by its ring-local index.
    Backend(u16),
}

/// Whom the name means.
#[must_use]
#[inline(always)]
pub fn asked<T: Tables>(tables: &T, config: &ServiceConfig, named: Named) -> Asked {
    let id = match named {
        Named::Nothing => return Asked::Nothing,
        Named::Nobody => return Asked::Nobody,
        Named::Server(id) => id,
    };
    match server_id::find(config.ring, id, |index| tables.server_id(index)) {
        Some(local) if is_alive(tables, config, local) => Asked::Backend(local),
        _ => Asked::Nobody,
    }
}

/// Chooses the backend of a packet that has been let in and keeps the flow table.
///
/// # Errors
/// The reason to drop the packet.
#[inline(always)]
pub fn choose<T: Tables, S: Copy + Into<Segment>>(
    tables: &T,
    flow: &Flow<S>,
    port: u16,
    asked: Asked,
) -> Result<Choice, DropReason> {
    let config = flow.config;
    let choice = match config.flags & LOOKS_INSIDE {
        0 => select::choose(tables, flow),
        DEST_PORT => return slice(tables, config, port),
        ICE_UFRAG => ice_flow(tables, flow, asked),
        _ => connection(tables, flow, asked),
    };
    choice.ok_or(DropReason::TableInconsistent)
}

/// The owner of a port.
#[inline(always)]
fn slice<T: Tables>(tables: &T, config: &ServiceConfig, port: u16) -> Result<Choice, DropReason> {
    const LOST: DropReason = DropReason::TableInconsistent;
    let root = tables.port_page(config.slices).ok_or(LOST)?;
    let leaf = tables.port_page(root.values[(port >> 8) as usize % PAGE_PORTS] as u32).ok_or(LOST)?;
    let owner = leaf.values[port as usize % PAGE_PORTS];
    if owner == 0 {
        return Err(DropReason::NoSlice);
    }
    let backend = owner - 1;
    if !is_alive(tables, config, backend) {
        return Err(DropReason::SliceDown);
    }
    Ok(Choice { backend, why: Why::Slice })
}

#[inline(always)]
fn is_alive<T: Tables>(tables: &T, config: &ServiceConfig, local: u16) -> bool {
    tables.is_alive(config.backend_base + local as u32)
}

/// A packet of a QUIC connection.
#[inline(always)]
fn connection<T: Tables, S: Copy + Into<Segment>>(
    tables: &T,
    flow: &Flow<S>,
    asked: Asked,
) -> Option<Choice> {
    let Asked::Backend(backend) = asked else {
        tables.count(FlowEvent::CidUnknown);
        return select::choose(tables, flow);
    };
    tables.count(FlowEvent::CidKnown);
    let slot = tables.slot(flow.config.slot_base + flow.hash.slot(flow.config.table_size))?;
    if slot.backend() != backend {
        let way = Way::of(tables, flow.config, flow.hash)?;
        if !way.is_live() || way.entry.backend() != backend {
            way.begin(tables, flow, backend);
        } else {
            way.refresh(flow.config, backend);
        }
    }
    Some(Choice { backend, why: Why::ServerId })
}

/// A packet of an ICE session: a check, or what follows it.
#[inline(always)]
fn ice_flow<T: Tables, S: Copy + Into<Segment>>(tables: &T, flow: &Flow<S>, asked: Asked) -> Option<Choice> {
    let config = flow.config;
    let way = Way::of(tables, config, flow.hash)?;
    let held = way.entry.backend();
    tables.count(if way.is_live() { FlowEvent::Hit } else { FlowEvent::Miss });
    let alive = way.is_live() && is_alive(tables, config, held);
    if way.is_live() && !alive {
        tables.count(FlowEvent::Stale);
    }
    if let Asked::Backend(backend) = asked {
        if !alive {
            way.begin(tables, flow, backend);
        } else if held == backend {
            way.refresh(config, backend);
        } else if way.is_silent(config) {
            way.begin(tables, flow, backend);
        } else {
            tables.count(FlowEvent::IceConflict);
        }
        return Some(Choice { backend, why: Why::ServerId });
    }
    if asked == Asked::Nobody {
        tables.count(FlowEvent::IceUnknown);
    }
    if alive {
        return Some(Choice { backend: held, why: Why::Remembered });
    }
    let slot = tables.slot(config.slot_base + flow.hash.slot(config.table_size))?;
    Some(Choice { backend: slot.backend(), why: if slot.is_dirty() { Why::Now } else { Why::Slot } })
}

/// A flow's place in the flow table.
struct Way<S> {
    set: S,
    key: FlowKey,
    entry: FlowEntry,
    tick: u16,
}

impl<S: select::Set> Way<S> {
    #[inline(always)]
    fn of<T: select::Tables<Set = S>>(tables: &T, config: &ServiceConfig, hash: FlowHash) -> Option<Self> {
        let set = tables.flow_set(hash)?;
        let key = FlowKey::new(config.ring, hash);
        let entry = select::find(&set, key, hash);
        Some(Self { set, key, entry, tick: tables.tick() })
    }

    #[inline(always)]
    fn is_live(&self) -> bool {
        !self.entry.is_free(self.tick)
    }

    /// Nobody refreshed the entry for so long that it may change hands. One that has no more left than a new one does
    /// might be new, and soon expires.
    #[inline(always)]
    fn is_silent(&self, config: &ServiceConfig) -> bool {
        let left = self.entry.remaining(self.tick);
        left > config.unconfirmed_ttl && left + config.move_after as u16 <= config.flow_ttl
    }

    /// Remembers the flow anew, as one of a single packet.
    #[inline(always)]
    fn begin<T: Tables<Set = S>, R>(&self, tables: &T, flow: &Flow<R>, backend: u16) {
        debug_assert!(backend != NO_BACKEND);
        let fresh =
            FlowEntry::new(self.key, backend, self.tick.wrapping_add(flow.config.unconfirmed_ttl), false);
        select::remember(tables, flow, &self.set, fresh, false, self.tick);
    }

    /// The flow's own backend was named again.
    #[inline(always)]
    fn refresh(&self, config: &ServiceConfig, backend: u16) {
        let fresh = FlowEntry::new(self.key, backend, self.tick.wrapping_add(config.flow_ttl), false);
        if fresh.0 != self.entry.0 {
            select::replace(&self.set, self.key, fresh);
        }
    }
}
