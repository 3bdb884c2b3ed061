//! The lab: clients, a router, edge nodes and backends, each host in a namespace of its own on one veth to the router.
//!
//! ```text
//!                      +--------+   VIPs by ECMP    edge1  ---.
//!   client1 ---------- | router | ----------------  edge2  ---'  tunnels, back through the router
//!     (MTU 1500)       |        |
//!                      |        | ---- backend1   replies go backend - router - client,
//!                      +--------+ ---- backend2   never through an edge node
//!                                 ---- backend3   (fabric MTU 1600)
//! ```
//!
//! A host's interface is `eth0`, the router's end `to-<host>`. Offloads are off everywhere, so that a packet is a
//! packet on every counter and carries its checksum, and the router's ends of the fabric run an XDP program that
//! passes, without which XDP_TX over veth drops. Addresses are in [`super::plan`].

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::sync::{Mutex, Once, PoisonError};

use anyhow::{Context, Result, ensure};

use super::bpffs::BpfRoot;
use super::id::LabId;
use super::janitor;
use super::namespace::{Lifetime, Namespace};
use super::netlink::{Counters, Mac, Prefix, VethEnd, Via};
use super::plan::{self, Dual, Role};
use super::scratch::Scratch;
use super::sys::{self, Offload};

/// Interface of every host.
pub const HOST_INTERFACE: &str = "eth0";
/// Everything of a family.
const DEFAULT: [Prefix; 2] =
    [(IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), 0), (IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED), 0)];
/// `XDP_PASS` of linux/bpf.h.
pub const XDP_PASS: u32 = 2;
/// `XDP_TX` of linux/bpf.h.
pub const XDP_TX: u32 = 3;

/// Whether an interface's name is one that the lab gives.
pub(super) fn is_lab_interface(name: &str) -> bool {
    name == HOST_INTERFACE || name.starts_with("to-")
}

/// Reverse-path filter on the backends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RpFilter {
    /// None.
    Off,
    /// The way back must be the interface the packet came in by: what a careful operator sets.
    #[default]
    Strict,
    /// There must be some way back.
    Loose,
}

/// What the lab is made of.
#[derive(Clone, Debug)]
pub struct Options {
    /// Number of clients, 1..=60.
    pub clients: u8,
    /// Number of edge nodes, 1..=60.
    pub edges: u8,
    /// Number of backends, 1..=60.
    pub backends: u8,
    /// MTU of the links of edge nodes and backends in bytes; the tunnel costs 20 or 40.
    pub fabric_mtu: u32,
    /// MTU of the clients' links in bytes.
    pub client_mtu: u32,
    /// Reverse-path filter on the backends.
    pub rp_filter: RpFilter,
    /// Whether the router's ends of the fabric run the pass program that XDP_TX needs.
    pub xdp_peers: bool,
    /// Whether the lab outlives its owner.
    pub lifetime: Lifetime,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            clients: 1,
            edges: 2,
            backends: 3,
            fabric_mtu: 1600,
            client_mtu: 1500,
            rp_filter: RpFilter::Strict,
            xdp_peers: true,
            lifetime: Lifetime::Dropped,
        }
    }
}

/// A client, an edge node or a backend.
#[derive(Debug)]
pub struct Host {
    /// What it is; its addresses follow from that.
    pub role: Role,
    /// Its namespace.
    pub ns: Namespace,
}

impl Host {
    /// Name of the router's end of its link.
    #[must_use]
    pub fn router_interface(&self) -> String {
        format!("to-{}", self.role.name())
    }

    /// Counters of its `eth0`.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub fn counters(&self) -> Result<Counters> {
        self.ns.netlink().counters(HOST_INTERFACE)
    }

    /// Puts addresses (VIPs) on its `lo`, as a backend of a DSR balancer has them.
    ///
    /// # Errors
    /// When one is there already.
    pub fn add_to_lo(&self, addresses: &[IpAddr]) -> Result<()> {
        addresses.iter().try_for_each(|a| self.ns.netlink().add_address("lo", (*a, full_length(*a))))
    }

    /// Takes addresses off its `lo`.
    ///
    /// # Errors
    /// When one is not there.
    pub fn remove_from_lo(&self, addresses: &[IpAddr]) -> Result<()> {
        addresses.iter().try_for_each(|a| self.ns.netlink().remove_address("lo", (*a, full_length(*a))))
    }

    /// The routes of a host: everything through the router.
    fn add_default_routes(&self) -> Result<()> {
        let gateway = self.role.gateway();
        for destination in DEFAULT {
            let via = Via::gateway(HOST_INTERFACE, gateway.like(destination.0));
            self.ns.netlink().set_route(destination, &[via])?;
        }
        Ok(())
    }
}

/// A host's other link to the router.
#[derive(Clone, Debug)]
pub struct SecondLink {
    /// Interface of the host.
    pub host_interface: String,
    /// Interface of the router.
    pub router_interface: String,
    /// The router's addresses on it.
    pub gateway: Dual,
}

/// Prefix length of a single address.
fn full_length(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// A running lab. Dropping it takes everything away.
#[derive(Debug)]
pub struct Lab {
    // Hosts before the router, and both before the directories that their processes use: fields are dropped in order.
    clients: Vec<Host>,
    edges: Vec<Host>,
    backends: Vec<Host>,
    router: Namespace,
    announced: Mutex<BTreeSet<u8>>,
    fabric_mtu: u32,
    xdp_peers: bool,
    bpf: BpfRoot,
    scratch: Scratch,
    id: LabId,
}

impl Lab {
    /// Builds a lab, and first clears away what dead ones left.
    ///
    /// # Errors
    /// Says which part could not be made; what was made before it is gone again.
    pub fn start(options: &Options) -> Result<Self> {
        static SWEPT: Once = Once::new();
        SWEPT.call_once(|| drop(janitor::sweep()));
        for (what, n) in
            [("clients", options.clients), ("edges", options.edges), ("backends", options.backends)]
        {
            ensure!((1..=60).contains(&n), "{n} {what}: a lab has 1 to 60");
        }
        let id = LabId::next();
        let scratch = Scratch::create(id, options.lifetime)?;
        let bpf = BpfRoot::create(id, options.lifetime)?;
        let router = router(id, options.lifetime)?;
        let make = |role| host(id, &router, role, options).with_context(|| format!("make {}", role.name()));
        let clients = (1..=options.clients).map(|n| make(Role::Client(n))).collect::<Result<_>>()?;
        let edges = (1..=options.edges).map(|n| make(Role::Edge(n))).collect::<Result<_>>()?;
        let backends = (1..=options.backends).map(|n| make(Role::Backend(n))).collect::<Result<_>>()?;
        let announced = Mutex::new((1..=options.edges).collect());
        let (fabric_mtu, xdp_peers) = (options.fabric_mtu, options.xdp_peers);
        let lab =
            Self { clients, edges, backends, router, announced, fabric_mtu, xdp_peers, bpf, scratch, id };
        for n in 1..=options.edges {
            let way =
                |to: IpAddr| Via::gateway(&lab.edge(n).router_interface(), Role::Edge(n).address().like(to));
            for source in plan::tunnel_sources(n) {
                lab.router.netlink().set_route(source, &[way(source.0)])?;
            }
        }
        lab.route_vips()?;
        Ok(lab)
    }

    /// Its identity, for [`super::leaks::Leaks::check`].
    #[must_use]
    pub fn id(&self) -> LabId {
        self.id
    }

    /// The router.
    #[must_use]
    pub fn router(&self) -> &Namespace {
        &self.router
    }

    /// Client `n`, from 1.
    ///
    /// # Panics
    /// When the lab has no such client, as the other three do.
    #[must_use]
    pub fn client(&self, n: u8) -> &Host {
        &self.clients[usize::from(n) - 1]
    }

    /// Edge node `n`, from 1.
    #[must_use]
    pub fn edge(&self, n: u8) -> &Host {
        &self.edges[usize::from(n) - 1]
    }

    /// Backend `n`, from 1.
    #[must_use]
    pub fn backend(&self, n: u8) -> &Host {
        &self.backends[usize::from(n) - 1]
    }

    /// The host that plays `role`.
    #[must_use]
    pub fn host(&self, role: Role) -> &Host {
        match role {
            Role::Client(n) => self.client(n),
            Role::Edge(n) => self.edge(n),
            Role::Backend(n) => self.backend(n),
        }
    }

    /// All edge nodes.
    #[must_use]
    pub fn edges(&self) -> &[Host] {
        &self.edges
    }

    /// All backends.
    #[must_use]
    pub fn backends(&self) -> &[Host] {
        &self.backends
    }

    /// All hosts, clients first.
    pub fn hosts(&self) -> impl Iterator<Item = &Host> {
        self.clients.iter().chain(&self.edges).chain(&self.backends)
    }

    /// The lab's place on the BPF file system.
    #[must_use]
    pub fn bpf(&self) -> &BpfRoot {
        &self.bpf
    }

    /// The lab's directory for files.
    #[must_use]
    pub fn scratch(&self) -> &Scratch {
        &self.scratch
    }

    /// Counters of the router's end of a host's link. Its rx is what the host sent.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub fn router_counters(&self, host: &Host) -> Result<Counters> {
        self.router.netlink().counters(&host.router_interface())
    }

    /// Gives a host a second link to the router, `eth1` (see [`plan::second_link`]). No route uses it yet.
    ///
    /// # Errors
    /// When it has one already, or the kernel refuses.
    pub fn second_link(&self, host: &Host) -> Result<SecondLink> {
        let (own, gateway) = plan::second_link(host.role);
        let [mac, gateway_mac] = [host.role.mac(), host.role.gateway_mac()].map(|mut mac| {
            mac[3] |= 0x80;
            mac
        });
        let link = SecondLink {
            host_interface: "eth1".into(),
            router_interface: format!("{}-b", host.router_interface()),
            gateway,
        };
        let mtu = self.fabric_mtu;
        connect(
            (&self.router, &link.router_interface, gateway, gateway_mac),
            (&host.ns, &link.host_interface, own, mac),
            mtu,
            self.xdp_peers,
        )?;
        Ok(link)
    }

    /// The router stops sending VIP packets to edge node `n`, as when its BGP session ends: at once, without loss.
    ///
    /// # Errors
    /// When it is the last one.
    pub fn withdraw_edge(&self, n: u8) -> Result<()> {
        let mut announced = self.announced.lock().unwrap_or_else(PoisonError::into_inner);
        ensure!(announced.iter().any(|e| *e != n), "edge{n} is the last one: somebody must take the VIPs");
        announced.remove(&n);
        drop(announced);
        self.route_vips()
    }

    /// The router sends VIP packets to edge node `n` again.
    ///
    /// # Errors
    /// When the route cannot be set, for instance because the link is cut.
    pub fn announce_edge(&self, n: u8) -> Result<()> {
        self.announced.lock().unwrap_or_else(PoisonError::into_inner).insert(n);
        self.route_vips()
    }

    /// Cuts a host's cable: its end goes down, the router's loses carrier and stops using it at once.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn cut(&self, host: &Host) -> Result<()> {
        host.ns.netlink().set_up(HOST_INTERFACE, false)
    }

    /// Repairs what [`Lab::cut`] did.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn mend(&self, host: &Host) -> Result<()> {
        host.ns.netlink().set_up(HOST_INTERFACE, true)?;
        host.add_default_routes()
    }

    /// Takes the router's own routes to the VIPs away: from now on a routing daemon brings them.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn leave_vips_to_bgp(&self) -> Result<()> {
        plan::vip_networks().into_iter().try_for_each(|network| self.router.netlink().remove_route(network))
    }

    /// Sets the ECMP routes of the VIP networks over the announced edge nodes.
    fn route_vips(&self) -> Result<()> {
        let announced = self.announced.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for network in plan::vip_networks() {
            let ways: Vec<Via> = announced
                .iter()
                .map(|n| {
                    Via::gateway(&self.edge(*n).router_interface(), Role::Edge(*n).address().like(network.0))
                })
                .collect();
            self.router.netlink().set_route(network, &ways).context("spread the VIPs over the edge nodes")?;
        }
        Ok(())
    }
}

/// The router: forwards, spreads flows by their ports, and does not use links without carrier.
fn router(id: LabId, lifetime: Lifetime) -> Result<Namespace> {
    let router = Namespace::create(id, "router", lifetime)?;
    for (key, value) in [
        ("net/ipv4/ip_forward", "1"),
        ("net/ipv6/conf/all/forwarding", "1"),
        ("net/ipv4/fib_multipath_hash_policy", "1"),
        ("net/ipv6/fib_multipath_hash_policy", "1"),
        ("net/ipv4/conf/all/ignore_routes_with_linkdown", "1"),
        ("net/ipv4/conf/default/ignore_routes_with_linkdown", "1"),
        ("net/ipv6/conf/all/ignore_routes_with_linkdown", "1"),
        ("net/ipv6/conf/default/ignore_routes_with_linkdown", "1"),
    ] {
        router.sysctl(key, value)?;
    }
    Ok(router)
}

/// A host, its link to the router, its addresses and its way out.
fn host(id: LabId, router: &Namespace, role: Role, options: &Options) -> Result<Host> {
    let host = Host { role, ns: Namespace::create(id, &role.name(), options.lifetime)? };
    let is_client = matches!(role, Role::Client(_));
    connect(
        (router, &host.router_interface(), role.gateway(), role.gateway_mac()),
        (&host.ns, HOST_INTERFACE, role.address(), role.mac()),
        if is_client { options.client_mtu } else { options.fabric_mtu },
        options.xdp_peers && !is_client,
    )?;
    host.add_default_routes()?;
    settings(&host, options)?;
    Ok(host)
}

/// One end of a link: where, by which name, with which addresses.
type End<'a> = (&'a Namespace, &'a str, Dual, Mac);

/// A link between the router and a host; `xdp_peer` gives the router's end the pass program.
fn connect(router: End<'_>, host: End<'_>, mtu: u32, xdp_peer: bool) -> Result<()> {
    // Two queues each way: native XDP wants no fewer receive queues than the peer has transmit queues.
    let end = |(_, name, _, mac): End<'_>| VethEnd { name: name.into(), mac, mtu, queues: 2 };
    router.0.netlink().add_veth(&end(router), &end(host), host.0.fd())?;
    for (ns, interface, addresses, _) in [router, host] {
        for offload in [Offload::Tso, Offload::Gso, Offload::Gro, Offload::TxChecksum] {
            ns.set_offload(interface, offload, false)?;
        }
        for prefix in Role::with_length(addresses) {
            ns.netlink().add_address(interface, prefix)?;
        }
    }
    if xdp_peer {
        let pass = sys::load_xdp_return(XDP_PASS).context("load the pass program")?;
        router.0.netlink().attach_xdp(router.1, pass.as_fd())?;
    }
    [router, host].into_iter().try_for_each(|(ns, interface, ..)| ns.netlink().set_up(interface, true))
}

/// What a host of this role has set.
fn settings(host: &Host, options: &Options) -> Result<()> {
    match host.role {
        Role::Client(_) => {
            // Short connections by the thousand: all ports, and used again after a second.
            host.ns.sysctl("net/ipv4/ip_local_port_range", "1024 65535")?;
            host.ns.sysctl("net/ipv4/tcp_tw_reuse", "1")
        }
        Role::Edge(_) => Ok(()),
        Role::Backend(_) => {
            let filter = match options.rp_filter {
                RpFilter::Off => "0",
                RpFilter::Strict => "1",
                RpFilter::Loose => "2",
            };
            host.ns.sysctl("net/ipv4/conf/all/rp_filter", filter)?;
            // A VIP is answered for by the router's routes, never by ARP.
            host.ns.sysctl("net/ipv4/conf/all/arp_ignore", "1")?;
            host.ns.sysctl("net/ipv4/conf/all/arp_announce", "2")?;
            // Servers may start before `xdp-lb decap` puts the VIP on lo.
            host.ns.sysctl("net/ipv4/ip_nonlocal_bind", "1")?;
            host.ns.sysctl("net/ipv6/ip_nonlocal_bind", "1")
        }
    }
}
