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
    parse::{Addresses, Bytes, Ip, Segment, Version, Words},
    quic,
    reason::{DropReason, FlowEvent},
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

/// Reads what a packet says of its backend, with an affinity of [`QUIC_CID`] or [`ICE_UFRAG`].
#[must_use]
#[inline(always)]
pub fn named<B: Bytes + ?Sized>(
    frame: &B,
    ip: &Ip,
    config: &ServiceConfig,
    affinity: u16,
    seed: u64,
) -> Named {
    let Some(payload) = Payload::of(frame, ip) else { return Named::Nothing };
    if affinity == QUIC_CID {
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

/// Whether a client is let in.
///
/// # Errors
/// [`DropReason::SourceDenied`].
#[inline(always)]
pub fn admit<T: Tables, S>(tables: &T, flow: &Flow<S>, addresses: &Addresses) -> Result<(), DropReason> {
    let asks = flow.config.flags & SOURCE_RANGES != 0;
    if asks && !admits(tables, flow.service, addresses) { Err(DropReason::SourceDenied) } else { Ok(()) }
}

/// Whether a service with source ranges lets a client in. IPv6 clients with a mapped address are nobody: it is how the
/// trie writes IPv4, and on the wire it means nothing (RFC 4942 section 2.2).
#[inline(always)]
pub fn admits<T: Tables>(tables: &T, service: u16, addresses: &Addresses) -> bool {
    let client = addresses.source;
    let mapped = client[0] == 0 && client[1] as u32 == 0xffff_0000;
    !(mapped && addresses.version == Version::V6) && tables.admits(service, client)
}

/// Whom a packet asks for. A number, not an enum: of an enum's parts the one that is not there may be any register, and
/// the verifier wants all of them written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked(u32);

impl Asked {
    /// Nobody, and it need not.
    pub const NOTHING: Self = Self(1 << 16);
    /// It should ask and does not, or for somebody who is not there.
    pub const NOBODY: Self = Self(1 << 17);

    /// A live backend, by its ring-local index.
    #[must_use]
    #[inline(always)]
    pub const fn of(local: u16) -> Self {
        Self(local as u32)
    }

    /// The backend.
    #[must_use]
    #[inline(always)]
    pub const fn backend(self) -> Option<u16> {
        if self.0 < 1 << 16 { Some(self.0 as u16) } else { None }
    }
}

/// Whom the name means.
#[must_use]
#[inline(always)]
pub fn asked<T: Tables>(tables: &T, config: &ServiceConfig, named: Named) -> Asked {
    let id = match named {
        Named::Nothing => return Asked::NOTHING,
        Named::Nobody => return Asked::NOBODY,
        Named::Server(id) => id,
    };
    match server_id::find(config.id, id, |index| tables.server_id(index)) {
        Some(local) if is_alive(tables, config, local) => Asked::of(local),
        _ => Asked::NOBODY,
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
    let named = match config.flags & LOOKS_INSIDE {
        DEST_PORT => return slice(tables, config, port),
        ICE_UFRAG => return ice_flow(tables, flow, asked).ok_or(DropReason::TableInconsistent),
        QUIC_CID => connection(tables, flow, asked),
        _ => None,
    };
    named.or_else(|| select::choose(tables, flow)).ok_or(DropReason::TableInconsistent)
}

/// The owner of a port.
///
/// # Errors
/// The reason to drop the packet.
#[inline(always)]
pub fn slice<T: Tables>(tables: &T, config: &ServiceConfig, port: u16) -> Result<Choice, DropReason> {
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

/// The backend that a QUIC packet asks for; `None` where [`select::choose`] does.
#[inline(always)]
pub fn connection<T: Tables, S>(tables: &T, flow: &Flow<S>, asked: Asked) -> Option<Choice> {
    let Some(backend) = asked.backend() else {
        tables.count(FlowEvent::CidUnknown);
        return None;
    };
    tables.count(FlowEvent::CidKnown);
    let choice = Choice { backend, why: Why::ServerId };
    let slot = tables.slot(flow.config.slot_base + flow.hash.slot(flow.config.table_size));
    if slot.is_some_and(|slot| slot.backend() != backend)
        && let Some(way) = Way::of(tables, flow.config, flow.hash)
    {
        let same = way.is_live() && way.entry.backend() == backend;
        way.keep(tables, flow, backend, if same { Keep::Refresh } else { Keep::Begin });
    }
    Some(choice)
}

/// A packet of an ICE session: a check, or what follows it. `None` when a table is inconsistent.
#[inline(always)]
pub fn ice_flow<T: Tables, S>(tables: &T, flow: &Flow<S>, asked: Asked) -> Option<Choice> {
    let config = flow.config;
    let way = Way::of(tables, config, flow.hash)?;
    let held = way.entry.backend();
    let live = way.is_live();
    tables.count(if live { FlowEvent::Hit } else { FlowEvent::Miss });
    let alive = live && is_alive(tables, config, held);
    if live && !alive {
        tables.count(FlowEvent::Stale);
    }
    if let Some(backend) = asked.backend() {
        let keep = if !alive {
            Keep::Begin
        } else if held == backend {
            Keep::Refresh
        } else if way.is_silent(config) {
            Keep::Begin
        } else {
            tables.count(FlowEvent::IceConflict);
            Keep::AsItIs
        };
        way.keep(tables, flow, backend, keep);
        return Some(Choice { backend, why: Why::ServerId });
    }
    if asked == Asked::NOBODY {
        tables.count(FlowEvent::IceUnknown);
    }
    if alive {
        return Some(Choice { backend: held, why: Why::Remembered });
    }
    let slot = tables.slot(config.slot_base + flow.hash.slot(config.table_size))?;
    Some(Choice { backend: slot.backend(), why: if slot.is_dirty() { Why::Now } else { Why::Slot } })
}

/// What becomes of a flow's entry.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Keep {
    AsItIs,
    /// Its own backend was named again.
    Refresh,
    /// Remembered anew, as one of a single packet.
    Begin,
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
        let key = FlowKey::new(config.id, hash);
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

    #[inline(always)]
    fn keep<T: Tables<Set = S>, R>(&self, tables: &T, flow: &Flow<R>, backend: u16, keep: Keep) {
        let config = flow.config;
        let ttl = if keep == Keep::Begin { config.unconfirmed_ttl } else { config.flow_ttl };
        let fresh = FlowEntry::new(self.key, backend, self.tick.wrapping_add(ttl), false);
        match keep {
            Keep::AsItIs => {}
            Keep::Refresh if fresh.0 == self.entry.0 => {}
            Keep::Refresh => _ = select::replace(&self.set, self.key, fresh),
            Keep::Begin => {
                select::remember(tables, flow, &self.set, fresh, false, self.tick, self.entry);
            }
        }
    }
}
