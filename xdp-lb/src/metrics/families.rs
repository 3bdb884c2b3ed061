//! Every family of metrics: name, type, labels and meaning, as the endpoint and docs/metrics.md tell them.

/// Before every name.
pub const PREFIX: &str = "xdp_lb";

/// Series with one name.
#[derive(Debug, PartialEq, Eq)]
pub struct Family {
    /// Name without [`PREFIX`].
    pub name: &'static str,
    /// Type.
    pub kind: Kind,
    /// Labels in order.
    pub labels: &'static str,
    /// HELP.
    pub help: &'static str,
}

/// Type of a family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Grows until the agent's maps are made anew.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts by upper bounds.
    Histogram,
}

impl Kind {
    /// The word of the text format.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

macro_rules! families {
    ($($id:ident $name:literal $kind:ident $labels:literal $help:literal)*) => {
        $(
            #[doc = $help]
            pub static $id: Family =
                Family { name: $name, kind: Kind::$kind, labels: $labels, help: $help };
        )*
        /// All of them in the order of the endpoint.
        pub static ALL: &[&Family] = &[$(&$id),*];
    };
}

families! {
    BUILD_INFO "build_info" Gauge "version" "1, with the agent's version."
    CONFIG_GENERATION "config_generation" Gauge "" "Generation of the configuration in the maps."
    CONFIG_APPLIED "config_last_apply_timestamp_seconds" Gauge "" "When the configuration in force was carried out completely."
    CONFIG_SUCCESS "config_last_apply_success" Gauge "" "0 while the last file or resource was refused or the last write to the maps failed, else 1."
    XDP_MODE "xdp_mode" Gauge "interface, mode" "1 for every interface that runs the program, with how: native, generic or offload."
    PACKETS "packets_total" Counter "service" "Packets forwarded."
    BYTES "bytes_total" Counter "service" "Bytes of the IP packets forwarded, without tunnel."
    BACKEND_PACKETS "backend_packets_total" Counter "service, backend" "Packets forwarded to the backend."
    BACKEND_BYTES "backend_bytes_total" Counter "service, backend" "Bytes of the IP packets forwarded to the backend, without tunnel."
    BACKEND_UP "backend_up" Gauge "service, backend" "1 while health checks call the backend up; where none ask it: while the file does not call it down."
    BACKEND_FLOWS "backend_flows" Gauge "service, backend" "Live flows remembered with the backend, by the last pass over the flow table."
    OMITTED "backends_without_series" Gauge "" "Pairs of service and backend beyond metrics.per_backend: they have no series."
    DIRTY_SLOTS "dirty_slots" Gauge "service" "Slots that changed and whose older flows may belong elsewhere."
    DROPS "drops_total" Counter "reason" "Packets dropped."
    PASSES "passes_total" Counter "reason" "Packets handed to the kernel or answered on the spot."
    FLOW_ENTRIES "flow_table_entries" Gauge "" "Live flows, by the last pass over the flow table."
    FLOW_CAPACITY "flow_table_capacity" Gauge "" "Places in the flow table."
    FLOW_HITS "flow_table_hits_total" Counter "" "Packets whose flow was remembered."
    FLOW_MISSES "flow_table_misses_total" Counter "" "Packets that asked for their flow and it was not remembered."
    FLOW_REMEMBERED "flow_table_remembered_total" Counter "" "Flows that were remembered."
    FLOW_UNREMEMBERED "flow_table_unremembered_total" Counter "reason" "Flows that should have been remembered and were not."
    FLOW_EXPIRED "flow_table_expired_total" Counter "" "Entries that the agent cleared because they had expired or their service was gone; not those that a new flow took over."
    FLOWS_MOVED "flows_moved_total" Counter "reason" "Remembered flows that had to leave their backend. down: it is dead, or called so; shed, max: its drain says so; configuration: another table size or affinity, or the service has gone; forgotten: a command had them forgotten."
    FLOW_STALE "flow_table_stale_total" Counter "" "Packets of flows whose backend keeps none any more: the flow goes where its slot says from then on."
    AFFINITY "affinity_packets_total" Counter "reason" "Packets by what their QUIC connection id or ICE ufrag named."
    PEER_SYNC "peer_sync_flows_total" Counter "result" "Flows that other edge nodes could not guess: sent, once for each peer; received and remembered; refused, for they mean nothing here or their set is full."
    HEALTH_CHECKS "health_checks_total" Counter "kind, result" "Answers to health checks, good and bad."
    HEALTH_DURATION "health_check_duration_seconds" Histogram "kind" "How long good answers to health checks took."
    BGP_UP "bgp_session_up" Gauge "peer" "1 while the BGP session is established."
    BFD_UP "bfd_session_up" Gauge "peer" "1 while the BFD session is up."
    BGP_ADVERTISED "bgp_routes_advertised" Gauge "peer" "Routes told to the router."
    BGP_RECEIVED "bgp_prefixes_received" Gauge "peer" "Prefixes the router tells us of."
}
