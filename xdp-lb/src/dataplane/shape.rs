//! Sizes: from the configuration's limits and the kernel's HZ to map sizes and program constants. Pure.
//!
//! Called by [`super::load`]; `check` and `status` use it to tell how much memory the tables take.

use std::time::Duration;

use xdp_lb_common::{
    backend::Backend,
    control::{Control, LAYOUT, VipBank},
    cut::{CutCounts, SlowState},
    decap::AllowList,
    flow::{Admission, FlowSet, MAX_TTL, WAYS},
    names,
    path_mtu::{self, PathMtu},
    ring::RingWord,
    server_id::{PROBES, Place},
    service::Service,
    stats::{Counters, Traffic},
    translate::{PodFlow, PodPeer, PodPort},
    vip::{PortPage, VipSlot},
};

use crate::{
    model::{FlowTable, Limits},
    state::Capacity,
};

/// Interface indices that packets can be redirected to. Indices only grow, and a node that has made many pods
/// may give its next bond a large one.
const TX_PORTS: u32 = 1 << 14;
/// Shortest tick: 1920 of them make the longest timeout, two hours and ten minutes.
const MIN_TICK_SECONDS: u64 = 4;
/// A CPU's part of the traffic counters fills whole cache lines.
const MIN_STATS: u32 = 4;

/// Bytes that the kernel adds to key and value of an entry in an LRU table (`struct htab_elem` and a bucket).
const LRU_HEAD: u32 = 64;
/// Besides its ports, a VIP has at a pod an entry for each protocol and one for itself.
const PER_POD_PORT: u32 = 3;

/// Kind of a map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapKind {
    /// One value in shared memory that holds all elements. [`MapSpec::value_size`] is an element's.
    Table,
    /// An array in shared memory.
    MappedArray,
    /// An array that only programs write.
    Array,
    /// Interfaces.
    DevMap,
    /// Perf buffers, by CPU.
    PerfEvents,
    /// A trie of [`xdp_lb_common::source::SourceKey`].
    Trie,
    /// A hash table that only the agent writes, with keys of so many bytes.
    Hash(u32),
    /// A hash table that programs write; the entry that was used longest ago makes room.
    Lru(u32),
}

/// What one map must look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapSpec {
    /// Name.
    pub name: &'static str,
    /// Kind.
    pub kind: MapKind,
    /// Bytes of an element; a device map's depends on the kernel and counts as 8.
    pub value_size: u32,
    /// Elements.
    pub max_entries: u32,
}

impl MapSpec {
    /// Kernel memory in bytes; a trie and a table that only the agent writes take none before they have entries.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        match self.kind {
            MapKind::Trie | MapKind::Hash(_) => return 0,
            // The element's own head, and its bucket.
            MapKind::Lru(key) => {
                return u64::from(LRU_HEAD + key + self.value_size) * u64::from(self.max_entries);
            }
            _ => {}
        }
        u64::from(self.value_size.next_multiple_of(8)) * u64::from(self.max_entries)
    }
}

/// What sizes depend on besides the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Machine {
    /// Jiffies a second.
    pub hz: u32,
    /// Possible CPUs.
    pub cpus: u32,
}

/// Sizes of the maps and the program's constants that follow from them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Map sizes.
    pub capacity: Capacity,
    /// Sets of first fragments, a power of two.
    pub fragment_sets: u32,
    /// Entries of `pod_ports`.
    pub pod_ports: u32,
    /// Entries of `pod_flows`.
    pub pod_flows: u32,
    /// CPUs that have counters, a power of two.
    pub cpus: u32,
    /// Jiffies a second.
    pub hz: u32,
    /// Jiffies to flow-table ticks.
    pub tick_shift: u32,
    /// Jiffies to admission seconds.
    pub second_shift: u32,
}

impl Shape {
    /// A balancer's, whether or not it also takes tunnels off.
    #[must_use]
    pub fn balancer(limits: &Limits, flow_table: &FlowTable, machine: Machine) -> Self {
        Self::new(
            Capacity {
                services: (limits.services + 1).next_power_of_two().max(MIN_STATS),
                vip_slots: vip_slots(limits),
                port_pages: limits.port_pages + 1,
                backends: limits.backends.max(1).next_power_of_two(),
                ring_slots: limits.ring_slots.max(1).next_multiple_of(4),
                flow_sets: sets(flow_table.entries),
                backend_stats: limits.backend_stats.next_power_of_two().max(MIN_STATS),
                tx_ports: TX_PORTS,
                server_ids: server_ids(limits),
                // Besides its ranges each service has one of each family for everybody else.
                source_ranges: limits.source_ranges + 2 * limits.services,
            },
            sets(limits.fragments),
            machine,
        )
    }

    /// A backend's node: the VIPs, and as little as can be of the rest.
    #[must_use]
    pub fn decap_only(limits: &Limits, machine: Machine) -> Self {
        Self::new(
            Capacity {
                services: MIN_STATS,
                vip_slots: vip_slots(limits),
                port_pages: 1,
                backends: 1,
                ring_slots: 4,
                flow_sets: 16,
                backend_stats: MIN_STATS,
                tx_ports: 1,
                server_ids: PROBES,
                source_ranges: 1,
            },
            sets(0),
            machine,
        )
        .with_pods(limits)
    }

    /// The same for a node that takes tunnels off, to its pods too.
    #[must_use]
    pub fn with_pods(self, limits: &Limits) -> Self {
        Self { pod_ports: PER_POD_PORT * limits.pod_ports, pod_flows: limits.pod_flows, ..self }
    }

    fn new(capacity: Capacity, fragment_sets: u32, machine: Machine) -> Self {
        let Machine { hz, cpus } = machine;
        Self {
            capacity,
            fragment_sets,
            pod_ports: 1,
            pod_flows: 1,
            cpus: cpus.next_power_of_two(),
            hz,
            tick_shift: tick_shift(hz),
            second_shift: second_shift(hz),
        }
    }

    /// All maps.
    #[must_use]
    pub fn maps(&self) -> [MapSpec; 23] {
        use MapKind::{Array, DevMap, Hash, Lru, MappedArray, PerfEvents, Table, Trie};
        const KEYS: [u32; 2] = [size_of::<PodPort>() as u32, size_of::<PodFlow>() as u32];
        let c = &self.capacity;
        let map = |name, kind, value_size: usize, max_entries| MapSpec {
            name,
            kind,
            value_size: value_size as u32,
            max_entries,
        };
        [
            map(names::CONTROL, Table, size_of::<Control>(), 1),
            map(names::VIPS, Table, size_of::<VipSlot>(), 2 * c.vip_slots),
            map(names::PORTS, MappedArray, size_of::<PortPage>(), c.port_pages),
            map(names::SERVICES, Table, size_of::<Service>(), c.services),
            map(names::BACKENDS, Table, size_of::<Backend>(), c.backends),
            map(names::RINGS, MappedArray, size_of::<RingWord>(), c.ring_slots / 4),
            map(names::RINGS_BEFORE, MappedArray, size_of::<RingWord>(), c.ring_slots / 4),
            map(names::FLOWS, MappedArray, size_of::<FlowSet>(), c.flow_sets),
            map(names::FRAGMENTS, MappedArray, size_of::<FlowSet>(), self.fragment_sets),
            map(names::ADMISSIONS, Array, size_of::<Admission>(), c.services),
            map(names::COUNTERS, Table, size_of::<Counters>(), self.cpus),
            map(names::SVC_STATS, Table, size_of::<Traffic>(), self.cpus * c.services),
            map(names::BACKEND_STATS, Table, size_of::<Traffic>(), self.cpus * c.backend_stats),
            map(names::DECAP_SOURCES, MappedArray, size_of::<AllowList>(), 2),
            map(names::SERVER_IDS, Table, size_of::<Place>(), c.server_ids),
            map(names::SOURCE_RANGES, Trie, size_of::<u32>(), c.source_ranges),
            map(names::TX_PORTS, DevMap, 8, c.tx_ports),
            map(names::SLOW, Array, size_of::<SlowState>(), self.cpus),
            map(names::CUTS, PerfEvents, 4, self.cpus),
            map(names::CUT_COUNTS, MappedArray, size_of::<CutCounts>(), 1),
            map(names::PATH_MTUS, MappedArray, size_of::<PathMtu>(), path_mtu::PLACES),
            map(names::POD_PORTS, Hash(KEYS[0]), size_of::<u32>(), self.pod_ports),
            map(names::POD_FLOWS, Lru(KEYS[1]), size_of::<PodPeer>(), self.pod_flows),
        ]
    }

    /// The first content of `control`.
    #[must_use]
    pub fn control(&self, seed: u64) -> Control {
        Control {
            vip_bank: VipBank::default().pack(self.capacity.vip_slots),
            layout: LAYOUT,
            seed,
            vip_mask: self.capacity.vip_slots - 1,
            flow_set_mask: self.capacity.flow_sets - 1,
            tick_shift: self.tick_shift,
            second_shift: self.second_shift,
            hz: self.hz,
            generation: 0,
            decap_bank: 0,
            mss: 0,
            reserved: [0; 4],
        }
    }

    /// A timeout in ticks of these tables: rounded up, 1..=[`MAX_TTL`].
    #[must_use]
    pub fn ticks(&self, timeout: Duration) -> u16 {
        ticks(timeout, self.hz, self.tick_shift)
    }
}

/// `timeout` in ticks of `2^tick_shift / hz` seconds: rounded up, 1..=[`MAX_TTL`].
#[must_use]
pub fn ticks(timeout: Duration, hz: u32, tick_shift: u32) -> u16 {
    let jiffies = (timeout.as_nanos() * u128::from(hz)).div_ceil(1_000_000_000);
    let ticks = jiffies.div_ceil(1 << tick_shift);
    u16::try_from(ticks).map_or(MAX_TTL, |ticks| ticks.clamp(1, MAX_TTL))
}

/// Sets for so many entries.
fn sets(entries: u32) -> u32 {
    (entries / WAYS as u32).next_power_of_two().max(16)
}

/// A load of an eighth at most, so that eight probes suffice.
fn vip_slots(limits: &Limits) -> u32 {
    limits.vips.saturating_mul(8).checked_next_power_of_two().unwrap_or(1 << 31).max(16)
}

/// The same: an id must find room in one of eight places.
fn server_ids(limits: &Limits) -> u32 {
    limits.server_ids.saturating_mul(8).checked_next_power_of_two().unwrap_or(1 << 31).max(2 * PROBES)
}

/// The smallest shift whose tick is not shorter than [`MIN_TICK_SECONDS`].
fn tick_shift(hz: u32) -> u32 {
    (u64::from(hz) * MIN_TICK_SECONDS).next_power_of_two().trailing_zeros()
}

/// The shift nearest to one second; of two equally near the shorter.
fn second_shift(hz: u32) -> u32 {
    let above = hz.next_power_of_two();
    let below = above / 2;
    if above - hz < hz - below { above.trailing_zeros() } else { below.max(1).trailing_zeros() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_common_hz() {
        for (hz, tick, second) in [(100, 9, 7), (250, 10, 8), (300, 11, 8), (1000, 12, 10), (1024, 12, 10)] {
            assert_eq!((tick_shift(hz), second_shift(hz)), (tick, second), "HZ {hz}");
        }
    }

    #[test]
    fn ticks_round_up_and_stay_in_range() {
        // HZ 250, 1024 jiffies: 4.096 s.
        for (timeout, expected) in
            [(0, 1), (1, 1), (4_096, 1), (4_097, 2), (300_000, 74), (7_800_000, 1905), (u64::MAX, MAX_TTL)]
        {
            assert_eq!(ticks(Duration::from_millis(timeout), 250, 10), expected, "{timeout} ms");
        }
    }

    #[test]
    fn the_longest_timeout_fits_at_every_hz() {
        for hz in [100, 250, 300, 1000] {
            let shift = tick_shift(hz);
            let longest = u64::from(MAX_TTL) << shift;
            assert!(longest >= 7800 * u64::from(hz), "HZ {hz}: {} s", longest / u64::from(hz));
        }
    }

    #[test]
    fn sizes_follow_the_limits() {
        let limits = Limits { vips: 5, ring_slots: 65_537, ..Limits::default() };
        let flow_table = FlowTable { entries: 1 << 20, track_window: Duration::ZERO };
        let shape = Shape::balancer(&limits, &flow_table, Machine { hz: 250, cpus: 3 });
        let c = shape.capacity;
        assert_eq!((c.vip_slots, c.ring_slots, c.flow_sets, c.services), (64, 65_540, 1 << 17, 4096));
        let bytes = |name| shape.maps().iter().find(|m| m.name == name).unwrap().bytes();
        assert_eq!(bytes(names::FLOWS), 8 << 20);
        assert_eq!(bytes(names::RINGS), 65_540 * 2);
        assert_eq!(bytes(names::SVC_STATS), 4096 * 16 * 4);
    }
}
