//! Names of maps, programs and load-time constants: the one place that spells them.
//!
//! Map and program names are promises to users of bpftool; they fit the kernel's 15 characters.

/// Program that balances (and decapsulates where one file asks for both).
pub const PROGRAM_BALANCER: &str = "xdp_lb";
/// Program that lowers the MSS which a backend's node offers.
pub const PROGRAM_MSS: &str = "xdp_lb_mss";
/// Program that makes pods' answers the VIP's.
pub const PROGRAM_FROM_POD: &str = "xdp_lb_from_pod";
/// Program of the backend side.
pub const PROGRAM_DECAP: &str = "xdp_decap";

/// One [`crate::control::Control`]: what the packet path needs to know of the tables' current shape.
pub const CONTROL: &str = "control";
/// Two banks of [`crate::vip::VipSlot`], probed by address.
pub const VIPS: &str = "vips";
/// Pages of 256 ports: [`crate::vip::PortPage`].
pub const PORTS: &str = "ports";
/// [`crate::service::Service`] by service id; id 0 is never used.
pub const SERVICES: &str = "services";
/// [`crate::backend::Backend`] by `backend_base + ring-local index`.
pub const BACKENDS: &str = "backends";
/// Ring slots as they are `now`, four to an element: [`crate::ring::RingWord`].
pub const RINGS: &str = "rings";
/// Backends of dirty slots when they were last clean, same index as [`RINGS`].
pub const RINGS_BEFORE: &str = "rings_before";
/// Sets of the flow table: [`crate::flow::FlowSet`].
pub const FLOWS: &str = "flows";
/// Sets of first fragments, of the same shape as [`FLOWS`]: [`crate::fragment::Entry`] words.
pub const FRAGMENTS: &str = "fragments";
/// New flows remembered in the running second, by service id: [`crate::flow::Admission`].
pub const ADMISSIONS: &str = "admissions";
/// One [`crate::stats::Counters`] for each CPU.
pub const COUNTERS: &str = "counters";
/// [`crate::stats::Traffic`] for each CPU by service id; see [`crate::stats`].
pub const SVC_STATS: &str = "svc_stats";
/// [`crate::stats::Traffic`] for each CPU by `stats_base + ring-local index`; see [`crate::stats`].
pub const BACKEND_STATS: &str = "backend_stats";
/// Outer sources that may send us tunnels: [`crate::decap::AllowList`].
pub const DECAP_SOURCES: &str = "decap_sources";
/// By CPU, of packets too big for their tunnel: [`crate::cut::SlowState`].
pub const SLOW: &str = "slow";
/// Perf buffers, by CPU, of packets that the agent cuts into fragments: [`crate::cut::CutRequest`] and the frame.
pub const CUTS: &str = "cuts";
/// What the agent's cutter did: one [`crate::cut::CutCounts`].
pub const CUT_COUNTS: &str = "cut_counts";
/// What routers said of our tunnels: [`crate::path_mtu::PathMtu`].
pub const PATH_MTUS: &str = "path_mtus";
/// Backends by the ids that packets carry: [`crate::server_id::Place`].
pub const SERVER_IDS: &str = "server_ids";
/// Who is let in, by service and client: a longest-prefix-match trie of [`crate::source::SourceKey`].
pub const SOURCE_RANGES: &str = "source_ranges";
/// Target ports of pods by VIP, pod and port: [`crate::translate::PodPort`].
pub const POD_PORTS: &str = "pod_ports";
/// What pods' flows are to their clients: [`crate::translate::PodPeer`] by [`crate::translate::PodFlow`].
pub const POD_FLOWS: &str = "pod_flows";
/// Device map for packets that leave by another interface, by interface index.
pub const TX_PORTS: &str = "tx_ports";

/// Maps that live as long as the balancer forwards.
pub const BALANCER_MAPS: [&str; 23] = [
    CONTROL,
    VIPS,
    PORTS,
    SERVICES,
    BACKENDS,
    RINGS,
    RINGS_BEFORE,
    FLOWS,
    FRAGMENTS,
    ADMISSIONS,
    COUNTERS,
    SVC_STATS,
    BACKEND_STATS,
    DECAP_SOURCES,
    SERVER_IDS,
    SOURCE_RANGES,
    TX_PORTS,
    SLOW,
    CUTS,
    CUT_COUNTS,
    PATH_MTUS,
    POD_PORTS,
    POD_FLOWS,
];

/// Maps that are tables: one value that holds all elements, whose address is in the program.
pub const TABLES: [&str; 8] =
    [CONTROL, VIPS, SERVICES, BACKENDS, COUNTERS, SVC_STATS, BACKEND_STATS, SERVER_IDS];

/// What stands in the program for the address of table `number` ([`TABLES`]) until the agent loads it.
#[must_use]
pub const fn table_mark(number: u32) -> u64 {
    (u32::from_be_bytes(*b"xtab") as u64) << 32 | number as u64
}

/// The section that the XDP programs are in. Its name tells a loader that they understand frames in several buffers; where
/// that is not wanted, the agent cuts it short at [`FRAGS_MARK`].
pub const FRAGS_SECTION: &[u8] = b"xdp.frags\0";
/// Where its name ends for drivers that give each frame one buffer: `xdp`.
pub const FRAGS_MARK: usize = 3;

/// What stands in the program for a number that the agent knows when it loads it.
#[must_use]
pub const fn constant_mark(constant: Constant) -> u64 {
    (u32::from_be_bytes(*b"xnum") as u64) << 32 | constant as u64
}

/// Numbers that the program is loaded with. They are immediate operands: the verifier knows them, and nothing is
/// loaded for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Constant {
    /// Seed of the flow hash.
    Seed,
    /// Slots of one VIP bank.
    VipSlots,
    /// Entries of [`SERVICES`] minus one.
    ServiceMask,
    /// Entries of [`BACKENDS`] minus one.
    BackendMask,
    /// CPUs that have counters minus one.
    CpuMask,
    /// Elements of a CPU's part of [`SVC_STATS`].
    SvcStatsPart,
    /// Elements of a CPU's part of [`BACKEND_STATS`].
    BackendStatsPart,
    /// Elements of [`SVC_STATS`] minus one.
    SvcStatsMask,
    /// Elements of [`BACKEND_STATS`] minus one.
    BackendStatsMask,
    /// Sets of the flow table minus one.
    FlowSetMask,
    /// Jiffies are shifted right by this to give flow-table ticks.
    TickShift,
    /// Jiffies are shifted right by this to give the admission's second.
    SecondShift,
    /// 1 when the balancer also takes tunnels off.
    Decap,
    /// 1 when every packet's end is told (`log.level: trace`).
    Trace,
    /// Places of [`SERVER_IDS`] minus one.
    ServerIdMask,
    /// Sets of [`FRAGMENTS`] minus one.
    FragmentSetMask,
    /// 1 when frames may be in several buffers (`xdp.frags`).
    Frags,
}

impl Constant {
    /// All, in the order of their numbers.
    pub const ALL: [Self; 17] = [
        Self::Seed,
        Self::VipSlots,
        Self::ServiceMask,
        Self::BackendMask,
        Self::CpuMask,
        Self::SvcStatsPart,
        Self::BackendStatsPart,
        Self::SvcStatsMask,
        Self::BackendStatsMask,
        Self::FlowSetMask,
        Self::TickShift,
        Self::SecondShift,
        Self::Decap,
        Self::Trace,
        Self::ServerIdMask,
        Self::FragmentSetMask,
        Self::Frags,
    ];
}

const _: () = {
    let mut n = 0;
    while n < Constant::ALL.len() {
        assert!(Constant::ALL[n] as usize == n);
        n += 1;
    }
};
