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

/// Series for `/metrics`, in the text format of Prometheus.
#[must_use]
pub fn metrics(status: &Status) -> String {
    let mut text = String::new();
    let mut series = |name: &str, help: &str, value: &dyn Fn(&PeerStatus) -> Option<usize>| {
        let rows: Vec<String> = status
            .peers
            .iter()
            .filter_map(|peer| Some(format!("xdp_lb_{name}{{peer=\"{}\"}} {}\n", peer.address, value(peer)?)))
            .collect();
        if !rows.is_empty() {
            text += &format!("# HELP xdp_lb_{name} {help}\n# TYPE xdp_lb_{name} gauge\n{}", rows.concat());
        }
    };
    series("bgp_session_up", "1 while the BGP session is established.", &|p| Some(usize::from(p.is_up())));
    series("bfd_session_up", "1 while the BFD session is up.", &|p| {
        p.bfd.as_ref().map(|bfd| usize::from(bfd.state == "Up"))
    });
    series("bgp_routes_advertised", "Routes told to the router.", &|p| Some(p.routes.len()));
    series("bgp_prefixes_received", "Prefixes the router tells us of.", &|p| Some(p.prefixes_received));
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_have_a_series_for_each_peer() {
        let peer = |address: &str, state: &str, bfd: Option<&str>| PeerStatus {
            address: address.parse().unwrap(),
            remote_as: 65_001,
            state: state.into(),
            since: None,
            established: 1,
            last_down: None,
            last_down_reason: None,
            failing: None,
            local_address: None,
            hold_time: None,
            extended_next_hop: false,
            routes: Vec::new(),
            untold: BTreeMap::new(),
            prefixes_received: 7,
            updates_received: 0,
            updates_sent: 0,
            refreshes: 0,
            bfd: bfd.map(|state| BfdStatus { state: state.into(), ups: 1, downs: 0, detection_time_ms: 300 }),
        };
        let status = Status {
            peers: vec![peer("10.0.0.1", "Established", Some("Up")), peer("fd00::1", "Active", None)],
            ..Status::default()
        };
        let text = metrics(&status);
        for line in [
            "xdp_lb_bgp_session_up{peer=\"10.0.0.1\"} 1",
            "xdp_lb_bgp_session_up{peer=\"fd00::1\"} 0",
            "xdp_lb_bfd_session_up{peer=\"10.0.0.1\"} 1",
            "xdp_lb_bgp_routes_advertised{peer=\"10.0.0.1\"} 0",
            "xdp_lb_bgp_prefixes_received{peer=\"10.0.0.1\"} 7",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} in\n{text}");
        }
        assert!(!text.contains("bfd_session_up{peer=\"fd00::1\"}"));
        assert_eq!(metrics(&Status::default()), "");
    }
}
