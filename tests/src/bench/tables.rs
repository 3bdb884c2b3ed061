//! The balancer's object loaded on its own, its maps filled by hand: one VIP of each family with a TCP and a UDP service,
//! and as many more addresses with a TCP service as the row wants.
//!
//! No agent and no plan: what is measured is the packet path, on tables that are the same on every machine.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::AsFd as _;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use aya::programs::ProgramFd;
use xdp_lb::dataplane::{BpffsRoot, KernelMaps, Loaded, Program, Setup, Shape, load};
use xdp_lb::model::{FlowTable, Limits};
use xdp_lb::state::{MapOp, Maps as _, SlotChange};
use xdp_lb_common::control::VipBank;
use xdp_lb_common::parse::v4_words;
use xdp_lb_common::ring::Slot;
use xdp_lb_common::server_id::{self, Place, ServerId};
use xdp_lb_common::source::{self, SourceKey};

use super::entries::{
    ROOT_PAGES, SLICES, TCP_SERVICE, UDP_SERVICE, backend, is_dirty, member, page, service, sources,
    tcp_service, vips,
};
use super::state::State;
use crate::prog::{self, Ctx, Tally, sum};

/// Balanced.
pub const VIP: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
/// Balanced.
pub const VIP_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x10);
/// Lives on this node: tunnels to it are taken off.
pub const DECAP_VIP: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 40);
/// Port of both services.
pub const PORT: u16 = 443;
/// Server id of one backend, as QUIC packets carry it.
pub const SERVER_ID: &[u8] = &[0x0a, 0x01];
/// The same backend's, as ufrags begin with it.
pub const UFRAG: &[u8] = b"sfu1";

/// The backend that all ids and slices name.
const NAMED: u16 = 7;
const LEAF_PAGES: [u32; 2] = [3, 4];
/// First fragments that can be remembered: four places for each that is sent.
const FRAGMENTS: u32 = 1 << 18;
/// Pairs of service and backend with counters, the default of `limits.backend_stats`.
const COUNTED: u32 = 10_000;
/// Where a test run's packets come in unless told otherwise: `lo`.
const IFINDEX: u32 = 1;

/// The loaded balancer under a root of its own, which goes with the value.
pub struct Tables {
    loaded: Option<Loaded>,
    root: BpffsRoot,
    maps: KernelMaps,
    state: State,
}

impl Drop for Tables {
    fn drop(&mut self) {
        drop(self.loaded.take());
        if let Err(error) = load::remove(&self.root) {
            eprintln!("left behind: {error}");
        }
    }
}

impl Tables {
    /// Loads `program` from `object` and fills its maps.
    ///
    /// # Errors
    /// Names the map or program that failed.
    pub fn load(object: &[u8], program: Program, state: State) -> Result<Self> {
        Self::load_for(object, program, state, IFINDEX)
    }

    /// The same with tunnels that leave by the interface `ifindex`.
    ///
    /// # Errors
    /// Names the map or program that failed.
    pub fn load_for(object: &[u8], program: Program, state: State, ifindex: u32) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let root = BpffsRoot::new(format!("/sys/fs/bpf/xlb-bench-{}-{n}", std::process::id()));
        let zone = state.zone;
        let backends = zone.backend_base(zone.rings);
        let limits = Limits {
            services: zone.services + 3,
            vips: zone.services + 3,
            backends,
            ring_slots: zone.slot_base(zone.rings),
            port_pages: 15,
            backend_stats: COUNTED.max(zone.backends.into()),
            server_ids: 100,
            source_ranges: 4,
            fragments: FRAGMENTS,
            ..Limits::default()
        };
        let flow_table = FlowTable { entries: state.flow_entries, track_window: Duration::ZERO };
        let shape = Shape::balancer(&limits, &flow_table, load::machine()?);
        let setup = Setup { shape, seed: SEED, program, trace: false, frags: false };
        let loaded = Loaded::with_object(&root, &setup, object).inspect_err(|_| drop(load::remove(&root)))?;
        let maps = loaded.maps()?;
        let mut tables = Self { loaded: Some(loaded), root, maps, state };
        tables.fill(ifindex)?;
        Ok(tables)
    }

    /// The descriptor of the program.
    ///
    /// # Errors
    /// When there is no such program.
    pub fn program(&mut self) -> Result<&ProgramFd> {
        let loaded = self.loaded.as_mut().context("the program is gone")?;
        Ok(loaded.program()?.fd()?)
    }

    /// Everything counted so far.
    ///
    /// # Errors
    /// Names the map that could not be read.
    pub fn tally(&self) -> Result<Tally> {
        let traffic: io::Result<Vec<_>> =
            self.services().map(|(id, _)| self.maps.service_traffic(id)).collect();
        let forwarded = sum(traffic.context("read svc_stats")?);
        Ok(Tally { counters: self.maps.counters().context("read counters")?, forwarded })
    }

    /// Makes the program take one packet as it is.
    ///
    /// # Errors
    /// The test run's.
    pub fn send(&mut self, packet: &[u8]) -> Result<()> {
        prog::run(self.program()?.as_fd(), packet, &Ctx::default())?;
        Ok(())
    }

    /// Ids of all services, with their number among those of TCP.
    fn services(&self) -> impl Iterator<Item = (u16, u32)> + use<> {
        let tcp = (0..self.state.zone.services).map(|n| (tcp_service(n), n));
        tcp.chain([(UDP_SERVICE, 0)])
    }

    fn fill(&mut self, ifindex: u32) -> Result<()> {
        let (state, zone) = (self.state, self.state.zone);
        let member_of = |index| MapOp::PutBackend { index, entry: Box::new(backend(state, index, ifindex)) };
        let mut ops: Vec<MapOp> = (0..zone.backend_base(zone.rings)).map(member_of).collect();
        let slots: Vec<u16> = (0..zone.table_size).map(|slot| member(zone, slot)).collect();
        // All that changed is the dirty bit: rows with and without it send the same packets to the same backends.
        let dirty = slots.iter().zip(0..).filter(|&(_, slot)| is_dirty(state, slot));
        let changes: Vec<SlotChange> =
            dirty.map(|(&now, slot)| SlotChange { slot, before: None, now: Slot::dirty(now).0 }).collect();
        for base in (0..zone.rings).map(|ring| zone.slot_base(ring)) {
            ops.push(MapOp::PutRing { base, slots: slots.clone() });
            ops.push(MapOp::SetSlots { base, changes: changes.clone() });
        }
        let counted = self.maps.capacity().backend_stats;
        for (id, n) in self.services() {
            ops.push(MapOp::PutService { id, entry: Box::new(service(state, id, n, counted)) });
        }
        let [high, low] = PORT.to_be_bytes().map(usize::from);
        for ((root, leaf), id) in ROOT_PAGES.into_iter().zip(LEAF_PAGES).zip([TCP_SERVICE, UDP_SERVICE]) {
            ops.push(MapOp::PutPage { page: root, content: Box::new(page(high, leaf as u16)) });
            ops.push(MapOp::PutPage { page: leaf, content: Box::new(page(low, id)) });
        }
        ops.push(MapOp::PutPage { page: SLICES, content: Box::new(page(high, SLICES as u16 + 1)) });
        ops.push(MapOp::PutPage { page: SLICES + 1, content: Box::new(page(low, NAMED + 1)) });
        let mask = self.maps.capacity().server_ids - 1;
        for id in [ServerId::new(SERVER_ID), ServerId::new(UFRAG)].into_iter().flatten() {
            let index = server_id::start(UDP_SERVICE, id) & mask;
            ops.push(MapOp::PutServerId { index, place: Place::new(UDP_SERVICE, id, NAMED) });
        }
        let value = if state.admitted { source::ALLOW } else { source::DENY };
        let client = SourceKey {
            prefix_len: source::SERVICE_BITS + 104,
            ..SourceKey::of(UDP_SERVICE, v4_words([10, 0, 0, 0]))
        };
        ops.push(MapOp::PutSource { key: client, value });
        let len = self.maps.capacity().vip_slots;
        let (salt, slots) = vips(state, len)?;
        let bank = VipBank { bank: 1, salt };
        ops.push(MapOp::PutVips { bank: bank.bank, slots });
        ops.push(MapOp::SwitchVips { word: bank.pack(len) });
        ops.push(MapOp::SetSources { list: Box::new(sources()) });
        ops.iter().try_for_each(|op| self.maps.apply(op)).context("fill the tables")
    }
}

const SEED: u64 = 0x5eed_5eed_5eed_5eed;
