//! What differs between the tables of different rows.

use xdp_lb_common::service::TRACK_EXACT;

/// The tables of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct State {
    /// Entries of the flow table, a power of two.
    pub flow_entries: u32,
    /// Slots of a hundred that have changed lately.
    pub dirty: u32,
    /// New flows remembered a second.
    pub new_flow_limit: u32,
    /// Tracking and affinity of the UDP service, as `ServiceConfig` has them.
    pub udp: u16,
    /// Clients are let in, where `udp` asks.
    pub admitted: bool,
    /// What tunnels are made of.
    pub tunnel: Tunnel,
    /// How a service's ports stand in the tables.
    pub ports: Ports,
    /// How many services, on which rings.
    pub zone: Zone,
}

/// The outer header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tunnel {
    /// IPv4.
    Ipv4,
    /// IPv6.
    Ipv6,
    /// IPv4, UDP and GUE of variant 0.
    Gue,
}

/// How a service's ports are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ports {
    /// One port.
    Exact,
    /// A range, whose middle is asked for.
    Range,
    /// More ports than stand beside the address.
    Pages,
}

/// Services and their rings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Zone {
    /// TCP services, each on an address of its own. One UDP service is beside the first.
    pub services: u32,
    /// Rings that they share, each with backends of its own.
    pub rings: u32,
    /// Slots of each.
    pub table_size: u32,
    /// Backends of each.
    pub backends: u16,
}

impl State {
    /// One service of each protocol, nothing changed lately.
    pub const CLEAN: Self = Self {
        flow_entries: 1 << 16,
        dirty: 0,
        new_flow_limit: u32::MAX,
        udp: TRACK_EXACT,
        admitted: true,
        tunnel: Tunnel::Ipv4,
        ports: Ports::Exact,
        zone: Zone::ONE,
    };
}

impl Zone {
    /// One ring of a hundred backends.
    pub const ONE: Self = Self { services: 1, rings: 1, table_size: 65_537, backends: 100 };
}

impl Tunnel {
    /// By how much it makes a packet longer, in bytes.
    #[must_use]
    pub const fn growth(self) -> usize {
        match self {
            Self::Ipv4 => 20,
            Self::Ipv6 => 40,
            Self::Gue => 32,
        }
    }
}
