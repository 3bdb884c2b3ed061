//! What the file's `bgp` section asks for, checked: who we are, whom we tell, what, and how it looks.
//!
//! `config` builds it, the rest of this module reads it. Pure data.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::time::Duration;

/// The whole section, together with what services and VIPs say about their announcement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bgp {
    /// Our AS number, never 0.
    pub local_as: u32,
    /// Our BGP identifier.
    pub router_id: Ipv4Addr,
    /// Restart time of the graceful-restart capability (RFC 4724); `None`: the capability is not sent.
    pub restart_time: Option<Duration>,
    /// How long packets are still forwarded after a withdrawal on leaving.
    pub withdraw_grace: Duration,
    /// How long a route is made unattractive before it is withdrawn, where packets can still be forwarded.
    pub drain_time: Duration,
    /// How an unattractive route looks.
    pub drain: Unattractive,
    /// What an orderly end of the agent does to the routes.
    pub on_stop: OnStop,
    /// Attributes of every route, unless a peer or a VIP says otherwise.
    pub attributes: Overrides,
    /// Prefixes announced for the VIPs in them.
    pub aggregates: Vec<Aggregate>,
    /// Routers, by address.
    pub peers: Vec<Peer>,
    /// One entry for every VIP in use, by address.
    pub vips: Vec<Vip>,
    /// Where `xdp-lb status bgp` finds what the agent knows.
    pub status_file: PathBuf,
}

/// What an orderly end does to announced routes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnStop {
    /// They are withdrawn first, and forwarding goes on for `withdraw_grace`.
    #[default]
    Withdraw,
    /// The sessions are cut without a word: routers that keep routes over a graceful restart keep them, for an agent
    /// that comes back at once (an upgrade). Leaving with `--on-exit detach` withdraws all the same.
    Keep,
}

/// How a route looks that is about to be withdrawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unattractive {
    /// Own AS numbers added to the path on eBGP.
    pub prepend: u8,
    /// MED, if it changes.
    pub med: Option<u32>,
    /// The community of RFC 8326, and LOCAL_PREF 0 on iBGP.
    pub graceful_shutdown: bool,
}

/// Attributes given at one level: the section, a peer, a VIP. Communities add up, of the others the most specific
/// level wins: VIP, then peer, then section.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    /// Standard communities (RFC 1997).
    pub communities: Vec<Community>,
    /// Large communities (RFC 8092).
    pub large_communities: Vec<LargeCommunity>,
    /// MULTI_EXIT_DISC.
    pub med: Option<u32>,
    /// LOCAL_PREF; said on iBGP alone.
    pub local_pref: Option<u32>,
    /// Own AS numbers added to the path; on eBGP alone.
    pub prepend: Option<u8>,
}

/// A standard community: AS in the high half, value in the low one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Community(pub u32);

impl Community {
    /// RFC 8326.
    pub const GRACEFUL_SHUTDOWN: Self = Self(0xffff_0000);
    /// RFC 1997.
    pub const NO_EXPORT: Self = Self(0xffff_ff01);
    /// RFC 1997.
    pub const NO_ADVERTISE: Self = Self(0xffff_ff02);
    /// RFC 1997.
    pub const NO_EXPORT_SUBCONFED: Self = Self(0xffff_ff03);

    /// Names that the file may use for well-known ones.
    pub const NAMES: [(&'static str, Self); 4] = [
        ("graceful-shutdown", Self::GRACEFUL_SHUTDOWN),
        ("no-export", Self::NO_EXPORT),
        ("no-advertise", Self::NO_ADVERTISE),
        ("no-export-subconfed", Self::NO_EXPORT_SUBCONFED),
    ];
}

impl fmt::Display for Community {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Self::NAMES.iter().find(|(_, community)| community == self) {
            Some((name, _)) => f.write_str(name),
            None => write!(f, "{}:{}", self.0 >> 16, self.0 & 0xffff),
        }
    }
}

/// A large community (RFC 8092).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LargeCommunity(pub u32, pub u32, pub u32);

impl fmt::Display for LargeCommunity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.0, self.1, self.2)
    }
}

/// One router.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// What we need to speak with it; a change starts the session anew.
    pub link: PeerLink,
    /// Attributes of routes told to it.
    pub attributes: Overrides,
    /// Next hop of IPv4 routes; the session's own address where it is IPv4.
    pub next_hop_v4: Option<Ipv4Addr>,
    /// Next hop of IPv6 routes, and of IPv4 routes by RFC 8950; the session's own address where it is IPv6.
    pub next_hop_v6: Option<Ipv6Addr>,
    /// BFD to this router.
    pub bfd: Option<Bfd>,
}

/// What a session to a router is made with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerLink {
    /// Its address.
    pub address: IpAddr,
    /// Its TCP port.
    pub port: u16,
    /// Its AS number, never 0.
    pub remote_as: u32,
    /// Where the key of TCP-MD5 (RFC 2385) is, read before every connection.
    pub password: Option<Password>,
    /// Hold time that we propose, seconds: 0 (never) or 3 and more.
    pub hold_time: u16,
    /// How long a router may refuse to take what we send (RFC 9687).
    pub send_hold_time: Duration,
    /// Hops to it: 1 on the same link.
    pub hops: u8,
    /// Generalised TTL security (RFC 5082): packets from farther than `hops` away are ignored.
    pub gtsm: bool,
    /// Our address on the session; the route's when absent.
    pub source: Option<IpAddr>,
    /// Interface that the session keeps to.
    pub interface: Option<String>,
    /// Whether IPv4 unicast is offered.
    pub ipv4: bool,
    /// Whether IPv6 unicast is offered.
    pub ipv6: bool,
    /// Prefixes it may tell us before the session ends; they are ignored anyway.
    pub max_received: u32,
}

/// Where a key is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Password {
    /// In a file.
    File(PathBuf),
    /// In a Secret of the cluster.
    Secret(SecretKey),
}

/// One value of a Secret in the agent's namespace.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SecretKey {
    /// Name of the Secret.
    pub name: String,
    /// Which of its values.
    pub key: String,
}

impl PeerLink {
    /// Whether its AS is ours.
    #[must_use]
    pub fn is_internal(&self, local_as: u32) -> bool {
        self.remote_as == local_as
    }

    /// TTL of what we send: 255 under GTSM, else as many hops as there are; iBGP may be anywhere.
    #[must_use]
    pub fn ttl(&self, local_as: u32) -> u8 {
        match (self.gtsm, self.hops) {
            (true, _) => 255,
            (false, 1) if self.is_internal(local_as) => 64,
            (false, hops) => hops,
        }
    }

    /// Least TTL of what we accept, under GTSM.
    #[must_use]
    pub fn min_ttl(&self) -> Option<u8> {
        self.gtsm.then(|| 255 - (self.hops.max(1) - 1))
    }
}

/// BFD to one router: the same interval both ways.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bfd {
    /// Time between two packets.
    pub interval: Duration,
    /// Packets that may be missing.
    pub multiplier: u8,
}

/// A prefix announced for the VIPs in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Aggregate {
    /// The prefix.
    pub prefix: Prefix,
    /// Whether all or any of the VIPs in it must be announced.
    pub join: Join,
    /// Whether the VIPs in it are announced by themselves as well.
    pub host_routes: bool,
}

/// One VIP and what its announcement depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vip {
    /// The address.
    pub address: IpAddr,
    /// Whether all or any of its services must want it announced.
    pub join: Join,
    /// Its services, by name, and when each wants it announced; never empty.
    pub services: Vec<(String, When)>,
    /// Attributes of its route.
    pub attributes: Overrides,
}

/// How several wishes become one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Join {
    /// Everybody must want it.
    #[default]
    All,
    /// One is enough.
    Any,
}

/// `services[].advertise.when`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum When {
    /// Whatever the backends' health.
    Always,
    /// At least one backend is healthy.
    #[default]
    AnyHealthy,
    /// At least so many are, never 0.
    MinHealthy(u32),
}

impl When {
    /// Healthy backends it takes.
    #[must_use]
    pub fn needs(self) -> u32 {
        match self {
            Self::Always => 0,
            Self::AnyHealthy => 1,
            Self::MinHealthy(n) => n,
        }
    }
}

/// A network: no bits are set after its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix {
    /// Network address.
    pub address: IpAddr,
    /// Length in bits.
    pub length: u8,
}

impl Prefix {
    /// The host route of an address.
    #[must_use]
    pub fn host(address: IpAddr) -> Self {
        Self { address, length: if address.is_ipv4() { 32 } else { 128 } }
    }

    /// Whether `address` is in it.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let cut = |width: u32| width - u32::from(self.length);
        match (self.address, address) {
            (IpAddr::V4(network), IpAddr::V4(a)) => {
                let differ = network.to_bits() ^ a.to_bits();
                differ.checked_shr(cut(32)).unwrap_or(0) == 0
            }
            (IpAddr::V6(network), IpAddr::V6(a)) => {
                let differ = network.to_bits() ^ a.to_bits();
                differ.checked_shr(cut(128)).unwrap_or(0) == 0
            }
            _ => false,
        }
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_holds_its_addresses() {
        let prefix = |text: &str, length| Prefix { address: text.parse().unwrap(), length };
        let holds = |p: Prefix, a: &str| p.contains(a.parse().unwrap());
        assert!(holds(prefix("203.0.113.0", 24), "203.0.113.255"));
        assert!(!holds(prefix("203.0.113.0", 24), "203.0.114.0"));
        assert!(holds(prefix("0.0.0.0", 0), "255.0.0.1"));
        assert!(!holds(prefix("0.0.0.0", 0), "::1"));
        assert!(holds(prefix("::", 0), "ff::1"));
        assert!(holds(prefix("2001:db8::", 64), "2001:db8::ffff"));
        assert!(!holds(prefix("2001:db8::", 64), "2001:db8:0:1::"));
        let host = Prefix::host("203.0.113.10".parse().unwrap());
        assert!(holds(host, "203.0.113.10") && !holds(host, "203.0.113.11"));
    }
}
