//! A service as the packet path sees it: which ring it uses and how its flows are remembered.
//!
//! An entry holds two configurations and says which one is live; the agent writes the idle one and
//! switches with one 4-byte store, so no packet ever sees half a change.

use bytemuck::{Pod, Zeroable};

use crate::quic;

/// Most services: 14 bits of a flow entry, 0 excluded.
pub const MAX_SERVICES: u32 = (1 << 14) - 1;
/// Longest service name in bytes.
pub const NAME_LEN: usize = 64;

/// Every packet is looked up and remembered.
pub const TRACK_EXACT: u16 = 1;
/// One packet in sixteen is.
pub const TRACK_SAMPLED: u16 = 2;
/// A planned change is waiting: track exactly, whatever the service's own mode.
pub const TRACK_WINDOW: u16 = 4;
/// The flow is the client's address alone.
pub const CLIENT_IP: u16 = 8;
/// A packet goes to the backend that owns its destination port.
pub const DEST_PORT: u16 = 32;
/// A packet goes to the backend whose id is in its QUIC connection id.
pub const QUIC_CID: u16 = 64;
/// A flow goes to the backend whose id is in the ufrag of its STUN Binding requests.
pub const ICE_UFRAG: u16 = 128;
/// Affinities that look further than the addresses and ports.
pub const LOOKS_INSIDE: u16 = DEST_PORT | QUIC_CID | ICE_UFRAG;
/// Clients are let in by their address.
pub const SOURCE_RANGES: u16 = 256;
/// What leads off the common packet's way.
pub const THOROUGH: u16 = LOOKS_INSIDE | SOURCE_RANGES;
/// Fragments are refused.
pub const DROP_FRAGMENTS: u16 = 512;
/// The service carries UDP; for those who read the maps, the packet path knows from the packet.
pub const IS_UDP: u16 = 16;

/// One configuration of a service. 40 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct ServiceConfig {
    /// First ring slot, counted in slots; a multiple of four.
    pub slot_base: u32,
    /// Ring slots; 0 is an empty service that drops.
    pub table_size: u32,
    /// Index in `backends` of ring-local backend 0.
    pub backend_base: u32,
    /// Index in `backend_stats` of ring-local backend 0; [`crate::stats::NO_STATS`] when there was no room.
    pub stats_base: u32,
    /// New flows remembered a second.
    pub new_flow_limit: u32,
    /// `TRACK_*`, affinity, [`IS_UDP`] and the rest.
    pub flags: u16,
    /// Ticks a silent flow is remembered.
    pub flow_ttl: u16,
    /// Ticks a closing connection is remembered.
    pub closing_ttl: u16,
    /// Ticks a flow of one packet is remembered.
    pub unconfirmed_ttl: u16,
    /// The service's own id, which flow entries and server ids name: services may share a ring, never flows.
    pub id: u16,
    /// Bytes of a server id, 1..=8, with [`ICE_UFRAG`].
    pub id_len: u8,
    /// Ticks after which a silent flow may move to another backend, with [`ICE_UFRAG`].
    pub move_after: u8,
    /// Root page of the port slices with [`DEST_PORT`]: leaves hold ring-local indices plus one, 0 is nobody.
    pub slices: u32,
    /// How backends make their connection ids, with [`QUIC_CID`].
    pub cid: quic::Config,
}

const _: () = assert!(size_of::<ServiceConfig>() == 40);

/// A service. 152 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct Service {
    /// Which of `configs` is live: 0 or 1.
    pub live: u32,
    /// 1 when the entry is in use.
    pub used: u32,
    /// The live configuration and the next one.
    pub configs: [ServiceConfig; 2],
    /// Name, padded with zeros: the service's identity for the agent.
    pub name: [u8; NAME_LEN],
}

const _: () = assert!(size_of::<Service>() == 152);

impl Service {
    /// The configuration that packets see.
    #[must_use]
    #[inline(always)]
    pub fn config(&self) -> &ServiceConfig {
        // A branch, not an index: the CPU predicts it and goes on without waiting for `live`.
        if self.live & 1 == 0 { &self.configs[0] } else { &self.configs[1] }
    }
}
