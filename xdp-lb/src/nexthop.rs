//! Decides where a tunnelled packet leaves: from the kernel's route, its links and its neighbours to one
//! Ethernet header for each backend address, or to the reason why there is none.
//!
//! Pure: `netlink` observes the kernel and calls [`decide`]; plan, status and explain read the answers.
//!
//! ```text
//!   address -> Route::Via { ways }    -> the best way -> Link (own MAC) + Neighbour (its MAC) -> NextHop
//!           -> Route::Local           -> Resolution::Local
//!           -> Route::Refused(reason) -> Resolution::Unresolved(reason)
//! ```

pub mod below;
mod ways;

use std::collections::BTreeMap;
use std::net::IpAddr;

pub use below::{Below, Tag, Tags};
pub use ways::Way;

/// An Ethernet address, in the order of the wire.
pub type Mac = [u8; 6];

/// The way out to one backend: what the prebuilt Ethernet header and the redirect need.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NextHop {
    /// Index of the route's interface: where the kernel's own packets leave.
    pub ifindex: u32,
    /// Where XDP's packets leave instead, and their tags: [`below`].
    pub below: Option<Below>,
    /// Its name, for people.
    pub interface: String,
    /// Source MAC: that interface's own.
    pub source_mac: Mac,
    /// Destination MAC: the gateway's, or the backend's own on a shared segment.
    pub destination_mac: Mac,
    /// Longest IP packet in bytes: the route's MTU, or the interface's.
    pub mtu: u32,
    /// What routers said of packets that went there: see [`crate::path_mtu`].
    pub path_mtu: Option<u32>,
}

/// What is known of the way to one address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resolution {
    /// Packets can be sent.
    Resolved(NextHop),
    /// The address is one of this node's own: the inner packet goes up instead of out.
    Local,
    /// A pod of this node: the inner packet becomes the pod's and goes up. Never the kernel's word, but the configuration's.
    Pod,
    /// Packets cannot be sent, and why.
    Unresolved(UnresolvedReason),
}

impl Resolution {
    /// The next hop, if there is one.
    #[must_use]
    pub fn next_hop(&self) -> Option<&NextHop> {
        match self {
            Self::Resolved(hop) => Some(hop),
            Self::Local | Self::Pod | Self::Unresolved(_) => None,
        }
    }
}

/// Why there is no next hop. `Display` is a sentence for people.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UnresolvedReason {
    /// No route covers the address.
    #[error("no route to the address: check this node's routing table and its BGP sessions")]
    NoRoute,
    /// An `unreachable` route covers it.
    #[error("the route to the address says unreachable")]
    Unreachable,
    /// A `blackhole` route covers it.
    #[error("the route to the address is a blackhole")]
    Blackhole,
    /// A `prohibit` route covers it.
    #[error("the route to the address prohibits it")]
    Prohibited,
    /// A broadcast or multicast address.
    #[error("the address is broadcast or multicast on this node, not a host")]
    NotUnicast,
    /// The route wants an encapsulation of its own (MPLS, SRv6, ...), which XDP would leave out.
    #[error("the route to the address adds an encapsulation of its own, which is not supported")]
    RouteEncapsulates,
    /// The kernel answered the route lookup with another error.
    #[error("the kernel refused the route lookup (errno {0})")]
    LookupFailed(i32),
    /// The named interface does not exist.
    #[error("there is no interface {interface}")]
    NoInterface {
        /// Its name, or `index N` when the kernel named an interface that is gone.
        interface: String,
    },
    /// The interface is down or has no carrier.
    #[error("interface {interface} is down or has no carrier")]
    LinkDown {
        /// Its name.
        interface: String,
    },
    /// The interface has no Ethernet address (a tunnel, PPP, InfiniBand).
    #[error("interface {interface} is not Ethernet")]
    NotEthernet {
        /// Its name.
        interface: String,
    },
    /// A VLAN device on top of another.
    #[error(
        "{interface} is a VLAN in a VLAN, and one tag is all that xdp-lb puts in front of a tunnel: route by one VLAN"
    )]
    TwoTags {
        /// Its name.
        interface: String,
    },
    /// What is below a VLAN device cannot be seen from here.
    #[error(
        "the interface below {interface} is not in this network namespace: bring it here, or run xdp-lb there"
    )]
    Elsewhere {
        /// Its name.
        interface: String,
    },
    /// No member of a bond may send.
    #[error("no member of {interface} is up and in use: see /proc/net/bonding/{interface}")]
    NoMember {
        /// Its name.
        interface: String,
    },
    /// ARP or neighbour discovery is on its way.
    #[error("waiting for {neighbour} on {interface} to answer ARP or neighbour discovery")]
    NeighbourPending {
        /// Where it is asked for.
        interface: String,
        /// The gateway, or the address itself.
        neighbour: IpAddr,
    },
    /// ARP or neighbour discovery got no answer; it is asked again every few seconds.
    #[error("{neighbour} on {interface} does not answer ARP or neighbour discovery")]
    NeighbourFailed {
        /// Where it was asked for.
        interface: String,
        /// The gateway, or the address itself.
        neighbour: IpAddr,
    },
    /// The kernel has no room for another neighbour.
    #[error(
        "the kernel's neighbour table is full and has no room for {neighbour} on {interface}: \
         raise net.ipv4.neigh.default.gc_thresh3 (or ipv6's)"
    )]
    NeighbourTableFull {
        /// Where it was to be asked for.
        interface: String,
        /// The gateway, or the address itself.
        neighbour: IpAddr,
    },
}

impl UnresolvedReason {
    /// Whether a next hop that resolved before is still the best guess.
    ///
    /// True while only the neighbour is in doubt: the route and the interface stand, and a packet to the
    /// last known MAC is never worse than a dropped one. A neighbour that has failed is reported as failed,
    /// not as its last MAC; a reader that holds an earlier [`NextHop`] may keep it.
    #[must_use]
    pub fn keeps_last(&self) -> bool {
        matches!(
            self,
            Self::NeighbourPending { .. } | Self::NeighbourFailed { .. } | Self::NeighbourTableFull { .. }
        )
    }
}

/// The kernel's answer to a route lookup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// One of this node's own addresses.
    Local,
    /// Out of this node.
    Via {
        /// One way, or those of a multipath route; never none.
        ways: Vec<Way>,
        /// The route's own MTU in bytes, where it has one.
        mtu: Option<u32>,
    },
    /// No way, and why.
    Refused(UnresolvedReason),
}

/// One interface of this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Kernel index.
    pub index: u32,
    /// Kernel name.
    pub name: String,
    /// Own MAC; `None` when the interface is not Ethernet.
    pub mac: Option<Mac>,
    /// Largest IP packet, bytes.
    pub mtu: u32,
    /// Switched on by the operator.
    pub up: bool,
    /// The wire (or the other end of a veth) is there.
    pub carrier: bool,
    /// Kind of a virtual device (`veth`, `bond`, `vlan`, ...); `None` for hardware and loopback.
    pub kind: Option<String>,
    /// Interface below a VLAN, macvlan or the like, for a veth its peer; `None` when that is in another namespace.
    pub lower: Option<u32>,
    /// Bond, bridge or VRF this interface belongs to.
    pub controller: Option<u32>,
    /// Tag of a VLAN device's packets.
    pub vlan: Option<Tag>,
    /// Member of a bond that waits for another to fail, or that its aggregation leaves out.
    pub backup: bool,
}

impl Link {
    /// Whether packets leave through it.
    #[must_use]
    pub fn usable(&self) -> bool {
        self.up && self.carrier
    }

    /// A card that works.
    #[cfg(test)]
    pub(crate) fn card(index: u32, name: &str) -> Self {
        Self {
            index,
            name: name.into(),
            mac: Some([2; 6]),
            mtu: 1500,
            up: true,
            carrier: true,
            kind: None,
            lower: None,
            controller: None,
            vlan: None,
            backup: false,
        }
    }
}

/// All interfaces of this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Links(BTreeMap<u32, Link>);

impl Links {
    /// The interface with this index.
    #[must_use]
    pub fn by_index(&self, index: u32) -> Option<&Link> {
        self.0.get(&index)
    }

    /// The interface with this name.
    #[must_use]
    pub fn by_name(&self, name: &str) -> Option<&Link> {
        self.0.values().find(|link| link.name == name)
    }

    /// All, by index.
    pub fn iter(&self) -> impl Iterator<Item = &Link> {
        self.0.values()
    }
}

impl FromIterator<Link> for Links {
    fn from_iter<I: IntoIterator<Item = Link>>(links: I) -> Self {
        Self(links.into_iter().map(|link| (link.index, link)).collect())
    }
}

/// Key of a neighbour: interface index and address. Thousands of backends share few of them.
pub type NeighbourKey = (u32, IpAddr);

/// One entry of the kernel's neighbour table, as far as it decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Neighbour {
    /// Usable: reachable, stale, delay, probe, permanent or noarp.
    Usable {
        /// Its MAC; `None` when the link-layer address is not Ethernet.
        mac: Option<Mac>,
    },
    /// Asked for, no answer yet.
    Pending,
    /// Asked for, no answer.
    Failed,
    /// The kernel had no room to ask.
    TableFull,
}

/// Known neighbours.
pub type Neighbours = BTreeMap<NeighbourKey, Neighbour>;

/// The neighbours that `route` may need to carry a packet to `address`: one for each way.
pub fn neighbours_of(address: IpAddr, route: &Route) -> impl Iterator<Item = NeighbourKey> {
    let ways = match route {
        Route::Via { ways, .. } => ways.as_slice(),
        Route::Local | Route::Refused(_) => &[],
    };
    ways.iter().map(move |way| (way.interface, way.gateway.unwrap_or(address)))
}

/// Where a packet to `address` leaves, given the kernel's answer for it.
#[must_use]
pub fn decide(address: IpAddr, route: &Route, links: &Links, neighbours: &Neighbours) -> Resolution {
    match route {
        Route::Local => Resolution::Local,
        Route::Refused(reason) => Resolution::Unresolved(reason.clone()),
        Route::Via { ways, mtu } => {
            let by = |way: &Way| by_way(address, way, *mtu, links, neighbours);
            ways::best(address, ways, links, by).unwrap_or(Resolution::Unresolved(UnresolvedReason::NoRoute))
        }
    }
}

fn by_way(
    address: IpAddr,
    way: &Way,
    mtu: Option<u32>,
    links: &Links,
    neighbours: &Neighbours,
) -> Resolution {
    let index = way.interface;
    let Some(link) = links.by_index(index) else {
        return unresolved(UnresolvedReason::NoInterface { interface: format!("index {index}") });
    };
    let neighbour = way.gateway.unwrap_or(address);
    let interface = || link.name.clone();
    match neighbours.get(&(index, neighbour)) {
        // The interface's own troubles come first: they explain the neighbour's.
        _ if !link.usable() || link.mac.is_none() => out_of(address, link, [0; 6], mtu, links),
        Some(Neighbour::Usable { mac: Some(mac) }) => out_of(address, link, *mac, mtu, links),
        Some(Neighbour::Usable { mac: None }) => {
            unresolved(UnresolvedReason::NotEthernet { interface: interface() })
        }
        Some(Neighbour::Failed) => {
            unresolved(UnresolvedReason::NeighbourFailed { interface: interface(), neighbour })
        }
        Some(Neighbour::TableFull) => {
            unresolved(UnresolvedReason::NeighbourTableFull { interface: interface(), neighbour })
        }
        Some(Neighbour::Pending) | None => {
            unresolved(UnresolvedReason::NeighbourPending { interface: interface(), neighbour })
        }
    }
}

/// The next hop of an interface with a configured MAC (`next_hop: { mac: .. }`): no route, no neighbour.
#[must_use]
pub fn through(address: IpAddr, interface: &str, destination_mac: Mac, links: &Links) -> Resolution {
    match links.by_name(interface) {
        Some(link) => out_of(address, link, destination_mac, None, links),
        None => unresolved(UnresolvedReason::NoInterface { interface: interface.to_owned() }),
    }
}

fn out_of(address: IpAddr, link: &Link, destination_mac: Mac, mtu: Option<u32>, links: &Links) -> Resolution {
    if !link.usable() {
        return unresolved(UnresolvedReason::LinkDown { interface: link.name.clone() });
    }
    let Some(source_mac) = link.mac else {
        return unresolved(UnresolvedReason::NotEthernet { interface: link.name.clone() });
    };
    let below = match below::way_out(address, link, links) {
        Ok(below) => below,
        Err(reason) => return unresolved(reason),
    };
    let (ifindex, interface) = (link.index, link.name.clone());
    // A route may promise more than the interface can send.
    let mtu = mtu.map_or(link.mtu, |mtu| mtu.min(link.mtu));
    Resolution::Resolved(NextHop {
        ifindex,
        below,
        interface,
        source_mac,
        destination_mac,
        mtu,
        path_mtu: None,
    })
}

fn unresolved(reason: UnresolvedReason) -> Resolution {
    Resolution::Unresolved(reason)
}

/// Everything known at one moment: the followed addresses and this node's interfaces.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// One entry for every followed address that has been looked up.
    pub resolutions: BTreeMap<IpAddr, Resolution>,
    /// This node's interfaces.
    pub links: Links,
}

impl Snapshot {
    /// What is known of `address`; `None` when it is not followed, or not looked up yet.
    #[must_use]
    pub fn resolve(&self, address: IpAddr) -> Option<&Resolution> {
        self.resolutions.get(&address)
    }

    /// The same for a backend that leaves through an interface with a configured MAC. An address known to
    /// be this node's own stays [`Resolution::Local`].
    #[must_use]
    pub fn resolve_through(&self, address: IpAddr, interface: &str, destination_mac: Mac) -> Resolution {
        match self.resolve(address) {
            Some(Resolution::Local) => Resolution::Local,
            _ => through(address, interface, destination_mac, &self.links),
        }
    }

    /// Whether every one of `addresses` has been looked up and none waits for its neighbour's first answer.
    pub fn settled<'a>(&self, addresses: impl IntoIterator<Item = &'a IpAddr>) -> bool {
        addresses.into_iter().all(|address| {
            let known = self.resolve(*address);
            known.is_some_and(|r| {
                !matches!(r, Resolution::Unresolved(UnresolvedReason::NeighbourPending { .. }))
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: Mac = [2, 0, 0, 0, 0, 1];
    const GATEWAY: Mac = [2, 0, 0, 0, 0, 2];

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn link() -> Link {
        Link { mac: Some(OWN), ..Link::card(7, "eth0") }
    }

    fn via(gateway: Option<&str>) -> Route {
        Route::Via { ways: vec![Way::only(7, gateway.map(address))], mtu: None }
    }

    fn decide_with(route: &Route, link: Link, neighbour: Option<(&str, Neighbour)>) -> Resolution {
        let neighbours = neighbour.map(|(a, n)| ((7, address(a)), n)).into_iter().collect();
        decide(address("10.1.2.11"), route, &Links::from_iter([link]), &neighbours)
    }

    fn hop() -> Resolution {
        Resolution::Resolved(NextHop {
            ifindex: 7,
            interface: "eth0".into(),
            source_mac: OWN,
            destination_mac: GATEWAY,
            mtu: 1500,
            below: None,
            path_mtu: None,
        })
    }

    #[test]
    fn usable_neighbours_resolve_on_the_link_and_behind_a_gateway_of_either_family() {
        let usable = Neighbour::Usable { mac: Some(GATEWAY) };
        assert_eq!(decide_with(&via(None), link(), Some(("10.1.2.11", usable))), hop());
        assert_eq!(decide_with(&via(Some("10.0.0.1")), link(), Some(("10.0.0.1", usable))), hop());
        assert_eq!(decide_with(&via(Some("fe80::1")), link(), Some(("fe80::1", usable))), hop());
    }

    #[test]
    fn a_gateway_on_another_interface_is_another_neighbour() {
        let neighbours =
            Neighbours::from([((8, address("10.0.0.1")), Neighbour::Usable { mac: Some(GATEWAY) })]);
        let got =
            decide(address("10.1.2.11"), &via(Some("10.0.0.1")), &Links::from_iter([link()]), &neighbours);
        assert!(matches!(got, Resolution::Unresolved(UnresolvedReason::NeighbourPending { .. })));
    }

    #[test]
    fn the_interface_explains_before_its_neighbour() {
        let usable = Some(("10.1.2.11", Neighbour::Usable { mac: Some(GATEWAY) }));
        let down = UnresolvedReason::LinkDown { interface: "eth0".into() };
        for link in [Link { up: false, ..link() }, Link { carrier: false, ..link() }] {
            assert_eq!(decide_with(&via(None), link.clone(), usable), unresolved(down.clone()));
            assert_eq!(decide_with(&via(None), link, None), unresolved(down.clone()));
        }
        let tunnel = Link { mac: None, ..link() };
        let not_ethernet = UnresolvedReason::NotEthernet { interface: "eth0".into() };
        assert_eq!(decide_with(&via(None), tunnel, usable), unresolved(not_ethernet));
    }

    #[test]
    fn failed_is_failed_and_says_who() {
        let got = decide_with(&via(Some("10.0.0.1")), link(), Some(("10.0.0.1", Neighbour::Failed)));
        let Resolution::Unresolved(reason) = got else { panic!("{got:?}") };
        assert!(reason.keeps_last());
        assert_eq!(reason.to_string(), "10.0.0.1 on eth0 does not answer ARP or neighbour discovery");
        assert!(!UnresolvedReason::NoRoute.keeps_last());
    }

    #[test]
    fn a_configured_mac_needs_the_interface_only() {
        let mut snapshot = Snapshot { links: Links::from_iter([link()]), ..Snapshot::default() };
        let backend = address("10.1.2.11");
        assert_eq!(snapshot.resolve_through(backend, "eth0", GATEWAY), hop());
        let missing = UnresolvedReason::NoInterface { interface: "eth9".into() };
        assert_eq!(snapshot.resolve_through(backend, "eth9", GATEWAY), unresolved(missing));
        snapshot.resolutions.insert(backend, Resolution::Local);
        assert_eq!(snapshot.resolve_through(backend, "eth0", GATEWAY), Resolution::Local);
    }

    #[test]
    fn settled_means_looked_up_and_not_waiting() {
        let (a, b) = (address("10.0.0.1"), address("10.0.0.2"));
        let mut snapshot = Snapshot::default();
        snapshot.resolutions.insert(a, hop());
        assert!(snapshot.settled(&[a]));
        assert!(!snapshot.settled(&[a, b]));
        snapshot.resolutions.insert(b, decide_with(&via(None), link(), None));
        assert!(!snapshot.settled(&[a, b]));
        snapshot.resolutions.insert(b, unresolved(UnresolvedReason::NoRoute));
        assert!(snapshot.settled(&[a, b]));
    }
}
