//! Who has which address in a lab: pure arithmetic, used by `topology` and by configurations that name a host.
//!
//! ```text
//!   client N   198.51.100.(4(N-1)+2)/30   2001:db8:c:N::2/64      numbers start at 1; the router's end has
//!   edge N     10.1.N.2/30                fd00:0:1:N::2/64        .1 (or one less) and ::1
//!   backend N  10.2.N.2/30                fd00:0:2:N::2/64
//!   VIPs       203.0.113.0/24             2001:db8::/64           routed to the edge nodes by ECMP
//!   second     10.65.N.2/30               fd00:0:101:N::2/64       another link of edge N to the router, where asked for
//!   tunnels    172.16.N.0/24              fd00:7864:7000:N::/64   outer sources of edge N, routed to it
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::netlink::{Mac, Prefix};

/// An IPv4 and an IPv6 address of the same thing: the lab does everything in both families.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dual {
    /// IPv4.
    pub v4: Ipv4Addr,
    /// IPv6.
    pub v6: Ipv6Addr,
}

impl Dual {
    /// Both, IPv4 first.
    #[must_use]
    pub fn both(self) -> [IpAddr; 2] {
        [self.v4.into(), self.v6.into()]
    }

    /// The one of the same family as `other`.
    #[must_use]
    pub fn like(self, other: IpAddr) -> IpAddr {
        if other.is_ipv4() { self.v4.into() } else { self.v6.into() }
    }
}

/// What a host is in the lab.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Client N.
    Client(u8),
    /// Edge node N.
    Edge(u8),
    /// Backend N.
    Backend(u8),
}

impl Role {
    /// `client1`, `edge1`, `backend1`: names of the namespace, and of the server on a backend.
    #[must_use]
    pub fn name(self) -> String {
        match self {
            Self::Client(n) => format!("client{n}"),
            Self::Edge(n) => format!("edge{n}"),
            Self::Backend(n) => format!("backend{n}"),
        }
    }

    /// The host's own addresses.
    #[must_use]
    pub fn address(self) -> Dual {
        self.end(2)
    }

    /// The router's addresses on the host's link, the host's way to everywhere.
    #[must_use]
    pub fn gateway(self) -> Dual {
        self.end(1)
    }

    /// Prefix lengths on the host's link.
    #[must_use]
    pub fn with_length(addresses: Dual) -> [Prefix; 2] {
        [(addresses.v4.into(), 30), (addresses.v6.into(), 64)]
    }

    fn end(self, end: u8) -> Dual {
        let host = u16::from(end);
        match self {
            Self::Client(n) => Dual {
                v4: Ipv4Addr::new(198, 51, 100, (n - 1) * 4 + end),
                v6: Ipv6Addr::new(0x2001, 0xdb8, 0xc, n.into(), 0, 0, 0, host),
            },
            Self::Edge(n) => Dual {
                v4: Ipv4Addr::new(10, 1, n, end),
                v6: Ipv6Addr::new(0xfd00, 0, 1, n.into(), 0, 0, 0, host),
            },
            Self::Backend(n) => Dual {
                v4: Ipv4Addr::new(10, 2, n, end),
                v6: Ipv6Addr::new(0xfd00, 0, 2, n.into(), 0, 0, 0, host),
            },
        }
    }

    /// Ethernet address of the host's end.
    #[must_use]
    pub fn mac(self) -> Mac {
        self.mac_of_end(2)
    }

    /// Ethernet address of the router's end.
    #[must_use]
    pub fn gateway_mac(self) -> Mac {
        self.mac_of_end(1)
    }

    /// Locally administered; no two ends of a lab have the same.
    fn mac_of_end(self, end: u8) -> Mac {
        let (kind, n) = match self {
            Self::Client(n) => (1, n),
            Self::Edge(n) => (2, n),
            Self::Backend(n) => (3, n),
        };
        [0x02, 0x78, 0x64, kind, n, end]
    }
}

/// Addresses on a host's second link to the router: its own and the router's. Those of the first link with 64 added to the
/// second part, or 0x100 to the third group.
#[must_use]
pub fn second_link(role: Role) -> (Dual, Dual) {
    let other = |first: Dual| {
        let ([a, b, c, d], mut groups) = (first.v4.octets(), first.v6.segments());
        groups[2] += 0x100;
        Dual { v4: Ipv4Addr::new(a, b + 64, c, d), v6: groups.into() }
    };
    (other(role.address()), other(role.gateway()))
}

/// VIP number `n` (1..=254).
#[must_use]
pub fn vip(n: u8) -> Dual {
    Dual { v4: Ipv4Addr::new(203, 0, 113, n), v6: Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, n.into()) }
}

/// The networks all VIPs are in, which the router spreads over the edge nodes.
#[must_use]
pub fn vip_networks() -> [Prefix; 2] {
    [(Ipv4Addr::new(203, 0, 113, 0).into(), 24), (Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0).into(), 64)]
}

/// Outer sources of edge node `n`: `encap.source_v4` and `encap.source_v6` of its configuration.
#[must_use]
pub fn tunnel_sources(n: u8) -> [Prefix; 2] {
    [
        (Ipv4Addr::new(172, 16, n, 0).into(), 24),
        (Ipv6Addr::new(0xfd00, 0x7864, 0x7000, n.into(), 0, 0, 0, 0).into(), 64),
    ]
}

/// Networks holding the outer sources of all edge nodes: `allow_sources` of a backend.
#[must_use]
pub fn all_tunnel_sources() -> [Prefix; 2] {
    [
        (Ipv4Addr::new(172, 16, 0, 0).into(), 16),
        (Ipv6Addr::new(0xfd00, 0x7864, 0x7000, 0, 0, 0, 0, 0).into(), 48),
    ]
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn nobody_shares_an_address() {
        let roles = (1..=60).flat_map(|n| [Role::Client(n), Role::Edge(n), Role::Backend(n)]);
        let (mut addresses, mut macs) = (HashSet::new(), HashSet::new());
        for role in roles {
            for address in role.address().both().into_iter().chain(role.gateway().both()) {
                assert!(addresses.insert(address), "{role:?} {address}");
            }
            assert!(macs.insert(role.mac()) && macs.insert(role.gateway_mac()));
        }
    }
}
