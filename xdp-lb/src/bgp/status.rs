//! What the speaker tells people and metrics about itself. The agent writes it to a file, `xdp-lb status bgp` reads it.
//!
//! Pure. The fields are stable: they are the output of `status bgp -o json`.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use serde::{Deserialize, Serialize};

/// The speaker at one moment. Moments are seconds since 1970.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// When this was written.
    pub written: u64,
    /// Process that wrote it.
    pub pid: u32,
    /// Our AS.
    pub local_as: u32,
    /// Our BGP identifier.
    pub router_id: Option<Ipv4Addr>,
    /// Sessions, by address.
    pub peers: Vec<PeerStatus>,
    /// VIPs, by address.
    pub vips: Vec<VipStatus>,
}

/// One session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerStatus {
    /// The router.
    pub address: IpAddr,
    /// Its AS.
    pub remote_as: u32,
    /// State as RFC 4271 names it.
    pub state: String,
    /// Since when it is established.
    pub since: Option<u64>,
    /// Times it was established since the agent started.
    pub established: u64,
    /// When it last went down.
    pub last_down: Option<u64>,
    /// Why.
    pub last_down_reason: Option<String>,
    /// Why it does not come up.
    pub failing: Option<String>,
    /// Our address on it.
    pub local_address: Option<IpAddr>,
    /// Hold time agreed on, seconds.
    pub hold_time: Option<u16>,
    /// Whether IPv4 routes may have IPv6 next hops.
    pub extended_next_hop: bool,
    /// What it has been told.
    pub routes: Vec<RouteStatus>,
    /// What it should be told and cannot be, by prefix, and why not.
    pub untold: BTreeMap<String, String>,
    /// Prefixes it tells us of; they are ignored.
    pub prefixes_received: usize,
    /// UPDATEs received since the agent started.
    pub updates_received: u64,
    /// UPDATEs sent.
    pub updates_sent: u64,
    /// Route refreshes it has asked for.
    pub refreshes: u64,
    /// BFD, where configured.
    pub bfd: Option<BfdStatus>,
}

impl PeerStatus {
    /// Whether it exchanges routes.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.state == "Established"
    }
}

/// One route told to a router.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteStatus {
    /// The prefix.
    pub prefix: String,
    /// NEXT_HOP.
    pub next_hop: IpAddr,
    /// AS_PATH; empty on iBGP.
    pub as_path: Vec<u32>,
    /// MULTI_EXIT_DISC.
    pub med: Option<u32>,
    /// LOCAL_PREF, on iBGP.
    pub local_pref: Option<u32>,
    /// Communities.
    pub communities: Vec<String>,
    /// Large communities.
    pub large_communities: Vec<String>,
    /// Why it is announced.
    pub reason: String,
}

/// One BFD session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BfdStatus {
    /// State as RFC 5880 names it.
    pub state: String,
    /// Times it came up.
    pub ups: u64,
    /// Times it went down.
    pub downs: u64,
    /// How long silence may last at the moment, milliseconds.
    pub detection_time_ms: u64,
}

impl BfdStatus {
    /// Whether the router hears us and we hear it.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.state == "Up"
    }
}

/// One VIP.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VipStatus {
    /// The address.
    pub address: IpAddr,
    /// `announced`, `draining` or `withdrawn`.
    pub state: String,
    /// Since when.
    pub since: u64,
    /// Why.
    pub reason: String,
}
