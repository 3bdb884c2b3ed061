//! Names of maps, programs and load-time constants: the one place that spells them.
//!
//! Map and program names are promises to users of bpftool; they fit the kernel's 15 characters.

/// Program that balances (and decapsulates where one file asks for both).
pub const PROGRAM_BALANCER: &str = "xdp_lb";
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
/// New flows remembered in the running second, by service id: [`crate::flow::Admission`].
pub const ADMISSIONS: &str = "admissions";
/// Per CPU, one [`crate::stats::Counters`].
pub const COUNTERS: &str = "counters";
/// Per CPU, [`crate::stats::Traffic`] by service id.
pub const SVC_STATS: &str = "svc_stats";
/// Per CPU, [`crate::stats::Traffic`] by `stats_base + ring-local index`.
pub const BACKEND_STATS: &str = "backend_stats";
/// Outer sources that may send us tunnels: [`crate::decap::AllowList`].
pub const DECAP_SOURCES: &str = "decap_sources";
/// Device map for packets that leave by another interface, by interface index.
pub const TX_PORTS: &str = "tx_ports";

/// Maps that live as long as the balancer forwards.
pub const BALANCER_MAPS: [&str; 14] = [
    CONTROL,
    VIPS,
    PORTS,
    SERVICES,
    BACKENDS,
    RINGS,
    RINGS_BEFORE,
    FLOWS,
    ADMISSIONS,
    COUNTERS,
    SVC_STATS,
    BACKEND_STATS,
    DECAP_SOURCES,
    TX_PORTS,
];

/// Maps that are tables: one value that holds all elements, whose address is in the program.
pub const TABLES: [&str; 4] = [CONTROL, VIPS, SERVICES, BACKENDS];

/// The constant that stands in the program for the address of table `number` ([`TABLES`]) until the agent loads it.
#[must_use]
pub const fn table_mark(number: u32) -> u64 {
    (u32::from_be_bytes(*b"xtab") as u64) << 32 | number as u64
}

/// Load-time constant: seed of the flow hash, `u64`.
pub const CONST_SEED: &str = "SEED";
/// Load-time constant: slots of one VIP bank minus one, `u32`.
pub const CONST_VIP_MASK: &str = "VIP_MASK";
/// Load-time constant: entries of [`SERVICES`] minus one, `u32`.
pub const CONST_SERVICE_MASK: &str = "SERVICE_MASK";
/// Load-time constant: entries of [`BACKENDS`] minus one, `u32`.
pub const CONST_BACKEND_MASK: &str = "BACKEND_MASK";
/// Load-time constant: sets of the flow table minus one, `u32`.
pub const CONST_FLOW_SET_MASK: &str = "FLOW_SET_MASK";
/// Load-time constant: jiffies are shifted right by this to give flow-table ticks, `u32`.
pub const CONST_TICK_SHIFT: &str = "TICK_SHIFT";
/// Load-time constant: jiffies are shifted right by this to give the admission's second, `u32`.
pub const CONST_SECOND_SHIFT: &str = "SECOND_SHIFT";
/// Load-time constant: 1 when the balancer also takes tunnels off, `u32`.
pub const CONST_DECAP: &str = "DECAP";
