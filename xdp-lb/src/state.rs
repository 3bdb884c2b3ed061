//! What is in the kernel's maps: the observed state that a plan starts from, and the one step that changes it.
//!
//! [`Observed`] is a copy; `dataplane` makes it from the mapped memory, [`crate::memory`] holds one of its
//! own. [`MapOp`] is the only way to change either.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use xdp_lb_common::{
    backend::{Backend, Template},
    control::Control,
    decap::AllowList,
    server_id,
    service::{Service, ServiceConfig},
    source::SourceKey,
    translate::PodPort,
    vip::{PortPage, VipSlot},
};

/// Sizes of the maps, fixed while they live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// Service ids: 1..this.
    pub services: u32,
    /// Slots of one VIP bank, a power of two.
    pub vip_slots: u32,
    /// Port pages; page 0 stays empty.
    pub port_pages: u32,
    /// Entries of `backends`.
    pub backends: u32,
    /// Ring slots, a multiple of four.
    pub ring_slots: u32,
    /// Sets of the flow table, a power of two.
    pub flow_sets: u32,
    /// Entries of `backend_stats`.
    pub backend_stats: u32,
    /// Highest interface index that packets can be redirected to, plus one.
    pub tx_ports: u32,
    /// Places of `server_ids`, a power of two.
    pub server_ids: u32,
    /// Entries of `source_ranges`.
    pub source_ranges: u32,
}

/// Where a ring lies in the maps, which is its identity: services whose live configurations say the same share it.
/// Slots and members always change places together, so no two rings have one of them in common.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// Index in `backends` of ring-local backend 0.
    pub backend_base: u32,
    /// First slot, a multiple of four.
    pub slot_base: u32,
    /// Slots; 0 for a ring that never had backends.
    pub table_size: u32,
}

impl Place {
    /// Of the ring that a service uses.
    #[must_use]
    pub fn of(config: &ServiceConfig) -> Self {
        let ServiceConfig { backend_base, slot_base, table_size, .. } = *config;
        Self { backend_base, slot_base, table_size }
    }
}

/// A ring as the maps hold it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ring {
    /// Ids of the services that use it, in order; never empty.
    pub services: Vec<u16>,
    /// Length of its block of members.
    pub block: u32,
    /// Members in use, by ring-local index.
    pub members: BTreeMap<u16, Backend>,
    /// Its slots. The same allocation as at the last look means that they have not changed.
    pub slots: Arc<Slots>,
}

/// The slots of a ring: [`Place::table_size`] each, or none when they do not lie in the map.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Slots {
    /// `rings`, dirty bits included.
    pub now: Vec<u16>,
    /// `rings_before`; means nothing where the slot is clean.
    pub before: Vec<u16>,
}

/// Everything reachable from the live VIP bank and the service table.
#[derive(Clone, Debug)]
pub struct Observed {
    /// Sizes.
    pub capacity: Capacity,
    /// The `control` element.
    pub control: Control,
    /// The live VIP bank, all slots. Here too, the same allocation means that nothing has changed.
    pub vips: Arc<Vec<VipSlot>>,
    /// Port pages that the live bank or a service's slices reach, without page 0.
    pub pages: Arc<BTreeMap<u32, PortPage>>,
    /// Services in use, by id.
    pub services: BTreeMap<u16, Service>,
    /// Rings of these services.
    pub rings: BTreeMap<Place, Ring>,
    /// The live list of outer sources.
    pub sources: AllowList,
    /// Interfaces that packets can be redirected to.
    pub tx_ports: BTreeSet<u32>,
    /// Places of `server_ids` that are in use.
    pub server_ids: BTreeMap<u32, server_id::Place>,
    /// Entries of `source_ranges`.
    pub source_ranges: BTreeMap<SourceKey, u32>,
    /// Entries of `pod_ports`.
    pub pod_ports: BTreeMap<PodPort, u32>,
}

impl Observed {
    /// How long a tick of the flow table's clock lasts.
    #[must_use]
    pub fn tick_length(&self) -> Duration {
        let jiffies = 1u32 << self.control.tick_shift.min(31);
        Duration::from_secs(jiffies.into()) / self.control.hz.max(1)
    }

    /// The ring of a service.
    #[must_use]
    pub fn ring(&self, service: u16) -> Option<&Ring> {
        self.rings.get(&Place::of(self.services.get(&service)?.config()))
    }
}

/// A changed slot of a live ring. The writer stores `before` first, then `now`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlotChange {
    /// Slot within the ring.
    pub slot: u32,
    /// New value of `rings_before`, if it changes.
    pub before: Option<u16>,
    /// New value of `rings`.
    pub now: u16,
}

/// One write. Live things change by a single store; whole values are written only where nothing points.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MapOp {
    /// Lets packets be redirected to an interface.
    PutTxPort {
        /// Interface index.
        ifindex: u32,
    },
    /// Writes a whole entry of `backends` that no live slot names.
    PutBackend {
        /// Index.
        index: u32,
        /// Entry.
        entry: Box<Backend>,
    },
    /// Changes a live entry's header: the idle template is written, then `live` flips.
    SetTemplate {
        /// Index.
        index: u32,
        /// New header.
        template: Box<Template>,
    },
    /// Changes a live entry's state by one store, after its `since`.
    SetBackendState {
        /// Index.
        index: u32,
        /// `BACKEND_*` bits.
        state: u32,
        /// Seconds since 1970.
        since: u64,
    },
    /// Writes a whole ring, all slots clean, that no service uses.
    PutRing {
        /// First slot, a multiple of four.
        base: u32,
        /// Ring-local backends, without dirty bits.
        slots: Vec<u16>,
    },
    /// Copies all slots of a ring, `before` and dirty bits included, to where no service points.
    CopyRing {
        /// First slot of the ring.
        from: u32,
        /// First slot of the copy, a multiple of four.
        base: u32,
        /// Slots.
        len: u32,
    },
    /// Changes slots of a live ring, each by one store.
    SetSlots {
        /// First slot of the ring.
        base: u32,
        /// Changes.
        changes: Vec<SlotChange>,
    },
    /// Writes a whole service that no VIP reaches. `live` of the entry is 0.
    PutService {
        /// Id.
        id: u16,
        /// Entry.
        entry: Box<Service>,
    },
    /// Changes a live service: the idle configuration is written, then `live` flips.
    SetService {
        /// Id.
        id: u16,
        /// New configuration.
        config: ServiceConfig,
    },
    /// Writes a port page that no live VIP or service reaches.
    PutPage {
        /// Page number.
        page: u32,
        /// Content.
        content: Box<PortPage>,
    },
    /// Writes the idle VIP bank.
    PutVips {
        /// 0 or 1.
        bank: u32,
        /// All slots of the bank.
        slots: Vec<VipSlot>,
    },
    /// Makes a VIP bank live by one store of `control.vip_bank`.
    SwitchVips {
        /// [`xdp_lb_common::control::VipBank`], packed.
        word: u32,
    },
    /// Writes the idle list of outer sources and makes it live by one store.
    SetSources {
        /// The list.
        list: Box<AllowList>,
    },
    /// Zeroes the counters of a service and of a range of `backend_stats` that are about to be used anew.
    ClearStats {
        /// Service id, when the service is new.
        service: Option<u16>,
        /// First index in `backend_stats`.
        base: u32,
        /// How many.
        len: u32,
    },
    /// Clears a service that no VIP reaches.
    DropService {
        /// Id.
        id: u16,
    },
    /// Clears an entry of `backends` that no live slot names; its `block_len` stays.
    DropBackend {
        /// Index.
        index: u32,
    },
    /// Takes an interface away from redirects.
    DropTxPort {
        /// Interface index.
        ifindex: u32,
    },
    /// Makes a server id known in an empty place, or gives the id that is there to another backend, by one store.
    PutServerId {
        /// Index.
        index: u32,
        /// Whose it is.
        place: server_id::Place,
    },
    /// Forgets a server id by one store.
    DropServerId {
        /// Index.
        index: u32,
    },
    /// Lets the clients of a prefix in or keeps them out.
    PutSource {
        /// Prefix.
        key: SourceKey,
        /// [`xdp_lb_common::source::ALLOW`] or [`xdp_lb_common::source::DENY`].
        value: u32,
    },
    /// Takes a prefix away; its clients are those of the next shorter one.
    DropSource {
        /// Prefix.
        key: SourceKey,
    },
    /// Leads a VIP's port to a pod's.
    PutPodPort {
        /// VIP, pod and port.
        key: PodPort,
        /// Target port.
        target: u32,
    },
    /// Leads it nowhere any more.
    DropPodPort {
        /// VIP, pod and port.
        key: PodPort,
    },
    /// Waits until no packet is under way that saw the tables as they were.
    Grace,
    /// Stores the generation of the configuration.
    SetGeneration {
        /// Generation.
        generation: u32,
    },
}

impl MapOp {
    /// The map that the operation writes and the key in it, for errors and logs.
    #[must_use]
    pub fn target(&self) -> (&'static str, u32) {
        use xdp_lb_common::names;
        match *self {
            Self::PutTxPort { ifindex } | Self::DropTxPort { ifindex } => (names::TX_PORTS, ifindex),
            Self::PutBackend { index, .. }
            | Self::SetTemplate { index, .. }
            | Self::SetBackendState { index, .. }
            | Self::DropBackend { index } => (names::BACKENDS, index),
            Self::PutRing { base, .. } | Self::CopyRing { base, .. } | Self::SetSlots { base, .. } => {
                (names::RINGS, base)
            }
            Self::PutService { id, .. } | Self::SetService { id, .. } | Self::DropService { id } => {
                (names::SERVICES, id as u32)
            }
            Self::PutPage { page, .. } => (names::PORTS, page),
            Self::PutVips { bank, .. } => (names::VIPS, bank),
            Self::PutServerId { index, .. } | Self::DropServerId { index } => (names::SERVER_IDS, index),
            Self::PutSource { key, .. } | Self::DropSource { key } => (names::SOURCE_RANGES, key.service),
            Self::PutPodPort { key, .. } | Self::DropPodPort { key } => {
                (names::POD_PORTS, u16::from_be_bytes(key.port).into())
            }
            Self::ClearStats { base, .. } => (names::BACKEND_STATS, base),
            Self::SetSources { .. } => (names::DECAP_SOURCES, 0),
            Self::SwitchVips { .. } | Self::Grace | Self::SetGeneration { .. } => (names::CONTROL, 0),
        }
    }
}

/// Why a write failed. The plan stops there; running again finishes the work.
#[derive(Debug, thiserror::Error)]
#[error("write {map}[{key}]: {source}")]
pub struct WriteError {
    /// Map.
    pub map: &'static str,
    /// Key.
    pub key: u32,
    /// What the kernel said, or that the key lies outside the map.
    #[source]
    pub source: std::io::Error,
}

/// The maps, in the kernel or in memory.
pub trait Maps {
    /// A copy of what is there.
    fn observe(&self) -> Observed;

    /// The same, where most is as it was in `last`: large parts that did not change are shared with it. With the
    /// operations that were `written` since by the caller, the only writer, parts that they do not touch are not even
    /// looked at.
    fn observe_again(&self, last: &Observed, written: Option<&[MapOp]>) -> Observed {
        let _ = (last, written);
        self.observe()
    }

    /// Carries one operation out.
    ///
    /// # Errors
    /// Nothing, or a part of the operation that a second try overwrites, has been written.
    fn apply(&mut self, op: &MapOp) -> Result<(), WriteError>;
}
