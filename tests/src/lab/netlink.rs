//! A blocking rtnetlink connection to one namespace, in the lab's verbs.
//!
//! `Namespace::netlink` opens it inside the namespace; the socket then stays there whichever thread uses it.
//! Requests run on a small runtime of its own, so it must not be used from inside an async task.

use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use futures::TryStreamExt;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags, AddressHeaderFlags};
use rtnetlink::packet_route::link::{
    BondMode, InfoData, InfoKind, InfoVeth, LinkAttribute, LinkMessage, LinkXdp, Stats64,
};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteNextHopFlags, RouteScope,
};
use rtnetlink::{
    Handle, LinkBond, LinkMessageBuilder, LinkUnspec, LinkVlan, RouteMessageBuilder, RouteNextHopBuilder,
};
use tokio::runtime::Runtime;

/// `XDP_FLAGS_DRV_MODE` of linux/if_link.h: in the driver, or not at all.
const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;

/// No request of ours takes longer than this on a machine that still works.
const REQUEST_BOUND: Duration = Duration::from_secs(10);

/// Six octets of an Ethernet address.
pub type Mac = [u8; 6];

/// An address or network and its prefix length in bits.
pub type Prefix = (IpAddr, u8);

/// What a veth end is made with.
#[derive(Clone, Debug)]
pub struct VethEnd {
    /// Kernel name, at most 15 bytes.
    pub name: String,
    /// Ethernet address.
    pub mac: Mac,
    /// MTU in bytes.
    pub mtu: u32,
    /// Receive and transmit queues; native XDP wants no fewer receive queues than the peer has transmit queues.
    pub queues: u32,
}

impl VethEnd {
    fn attributes(&self) -> Vec<LinkAttribute> {
        vec![
            LinkAttribute::IfName(self.name.clone()),
            LinkAttribute::Address(self.mac.to_vec()),
            LinkAttribute::Mtu(self.mtu),
            LinkAttribute::NumTxQueues(self.queues),
            LinkAttribute::NumRxQueues(self.queues),
        ]
    }
}

/// One way to a destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Via {
    /// Interface to leave by.
    pub interface: String,
    /// Next router; `None`: the destination is on the link.
    pub gateway: Option<IpAddr>,
    /// Whether `gateway` is taken to be on the link without an address there to prove it.
    pub onlink: bool,
}

impl Via {
    /// Through `gateway` on `interface`.
    #[must_use]
    pub fn gateway(interface: &str, gateway: IpAddr) -> Self {
        Self { interface: interface.into(), gateway: Some(gateway), onlink: false }
    }

    /// Straight onto the link.
    #[must_use]
    pub fn link(interface: &str) -> Self {
        Self { interface: interface.into(), gateway: None, onlink: false }
    }

    /// The gateway needs no address on the link.
    #[must_use]
    pub fn onlink(mut self) -> Self {
        self.onlink = true;
        self
    }
}

/// Packet counters of an interface since it was made. On veth they count what XDP sends and drops as well.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Packets received.
    pub rx_packets: u64,
    /// Packets sent.
    pub tx_packets: u64,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Received packets dropped.
    pub rx_dropped: u64,
    /// Packets to send dropped.
    pub tx_dropped: u64,
}

impl Counters {
    /// What was counted since `earlier`.
    #[must_use]
    pub fn since(self, earlier: Self) -> Self {
        Self {
            rx_packets: self.rx_packets.wrapping_sub(earlier.rx_packets),
            tx_packets: self.tx_packets.wrapping_sub(earlier.tx_packets),
            rx_bytes: self.rx_bytes.wrapping_sub(earlier.rx_bytes),
            tx_bytes: self.tx_bytes.wrapping_sub(earlier.tx_bytes),
            rx_dropped: self.rx_dropped.wrapping_sub(earlier.rx_dropped),
            tx_dropped: self.tx_dropped.wrapping_sub(earlier.tx_dropped),
        }
    }
}

impl From<&Stats64> for Counters {
    fn from(s: &Stats64) -> Self {
        Self {
            rx_packets: s.rx_packets,
            tx_packets: s.tx_packets,
            rx_bytes: s.rx_bytes,
            tx_bytes: s.tx_bytes,
            rx_dropped: s.rx_dropped,
            tx_dropped: s.tx_dropped,
        }
    }
}

/// A connection to the rtnetlink of one namespace.
#[derive(Debug)]
pub struct Netlink {
    runtime: Runtime,
    handle: Handle,
}

impl Netlink {
    /// Opens it in the calling thread's namespace.
    ///
    /// # Errors
    /// When the socket or its runtime cannot be made.
    pub fn open() -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let handle = {
            let _inside = runtime.enter();
            let (connection, handle, _) = rtnetlink::new_connection()?;
            runtime.spawn(connection);
            handle
        };
        Ok(Self { runtime, handle })
    }

    fn wait<T>(&self, request: impl Future<Output = Result<T, rtnetlink::Error>>) -> Result<T> {
        self.runtime.block_on(async {
            match tokio::time::timeout(REQUEST_BOUND, request).await {
                Ok(done) => done.map_err(anyhow::Error::from),
                Err(_) => Err(anyhow!("the kernel did not answer within {REQUEST_BOUND:?}")),
            }
        })
    }

    /// Makes a veth pair, one end here and the other straight in the namespace `there`: neither end is ever seen
    /// anywhere else.
    ///
    /// # Errors
    /// When a name is taken, or veth is not in this kernel.
    pub fn add_veth(&self, here: &VethEnd, peer: &VethEnd, there: BorrowedFd<'_>) -> Result<()> {
        let mut far = LinkMessage::default();
        far.attributes = peer.attributes();
        far.attributes.push(LinkAttribute::NetNsFd(there.as_raw_fd()));
        let mut message = LinkMessageBuilder::<LinkUnspec>::new_with_info_kind(InfoKind::Veth)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(far)));
        for attribute in here.attributes() {
            message = message.append_extra_attribute(attribute);
        }
        self.wait(self.handle.link().add(message.build()).execute())
            .with_context(|| format!("make the veth pair {} - {}", here.name, peer.name))
    }

    /// Makes a VLAN device on top of an interface, and sets it up.
    ///
    /// # Errors
    /// When this kernel has none.
    pub fn add_vlan(&self, below: &str, name: &str, id: u16) -> Result<()> {
        let message = LinkVlan::new(name, self.index(below)?, id).up().build();
        self.wait(self.handle.link().add(message).execute())
            .with_context(|| format!("make the VLAN device {name}"))
    }

    /// Makes a bond whose first member that works carries everything, gives it members, which must be down, and sets all
    /// of them up.
    ///
    /// # Errors
    /// When this kernel has none, or a member is refused.
    pub fn add_bond(&self, name: &str, members: &[&str]) -> Result<()> {
        let message = LinkBond::new(name).mode(BondMode::ActiveBackup).miimon(100).build();
        self.wait(self.handle.link().add(message).execute())
            .with_context(|| format!("make the bond {name}"))?;
        let index = self.index(name)?;
        for member in members {
            self.change(member, |link| link.controller(index))
                .with_context(|| format!("take {member} into {name}"))?;
        }
        members.iter().chain([&name]).try_for_each(|name| self.set_up(name, true))
    }

    fn link(&self, name: &str) -> Result<LinkMessage> {
        self.wait(self.handle.link().get().match_name(name).execute().try_next())
            .and_then(|link| link.context("the kernel knows no such interface"))
            .with_context(|| format!("look up interface {name}"))
    }

    /// Kernel index of an interface.
    ///
    /// # Errors
    /// When there is no such interface.
    pub fn index(&self, name: &str) -> Result<u32> {
        Ok(self.link(name)?.header.index)
    }

    /// Names of all interfaces, in the kernel's order.
    ///
    /// # Errors
    /// When the kernel does not answer.
    pub fn link_names(&self) -> Result<Vec<String>> {
        let links: Vec<LinkMessage> =
            self.wait(self.handle.link().get().execute().try_collect()).context("list interfaces")?;
        Ok(links
            .into_iter()
            .flat_map(|link| link.attributes)
            .filter_map(|a| if let LinkAttribute::IfName(name) = a { Some(name) } else { None })
            .collect())
    }

    /// Packet counters of an interface.
    ///
    /// # Errors
    /// When there is no such interface.
    pub fn counters(&self, name: &str) -> Result<Counters> {
        self.link(name)?
            .attributes
            .iter()
            .find_map(
                |a| if let LinkAttribute::Stats64(stats) = a { Some(Counters::from(stats)) } else { None },
            )
            .with_context(|| format!("the kernel gave no counters for {name}"))
    }

    /// Whether an XDP program is attached, in whatever mode.
    ///
    /// # Errors
    /// When there is no such interface.
    pub fn has_xdp(&self, name: &str) -> Result<bool> {
        Ok(self.link(name)?.attributes.iter().any(|a| {
            matches!(a, LinkAttribute::Xdp(xdp) if xdp.iter().any(|x| matches!(x, LinkXdp::ProgId(id) if *id != 0)))
        }))
    }

    fn change(
        &self,
        name: &str,
        with: impl FnOnce(LinkMessageBuilder<LinkUnspec>) -> LinkMessageBuilder<LinkUnspec>,
    ) -> Result<()> {
        let message = with(LinkUnspec::new_with_index(self.index(name)?)).build();
        self.wait(self.handle.link().change(message).execute())
            .with_context(|| format!("change interface {name}"))
    }

    /// Sets an interface up or down.
    ///
    /// # Errors
    /// When there is no such interface.
    pub fn set_up(&self, name: &str, up: bool) -> Result<()> {
        self.change(name, |link| if up { link.up() } else { link.down() })
    }

    /// Sets the MTU of an interface in bytes.
    ///
    /// # Errors
    /// When there is no such interface or the value is out of its range.
    pub fn set_mtu(&self, name: &str, mtu: u32) -> Result<()> {
        self.change(name, |link| link.mtu(mtu))
    }

    /// Gives an interface another Ethernet address, while it is up.
    ///
    /// # Errors
    /// When there is no such interface or the address is none for a station.
    pub fn set_mac(&self, name: &str, mac: Mac) -> Result<()> {
        self.change(name, |link| link.address(mac.to_vec()))
    }

    /// Attaches an XDP program in the driver; it stays until the interface goes or [`Netlink::detach_xdp`].
    ///
    /// # Errors
    /// When the driver cannot (for veth: queues, MTU), or something is attached by a link.
    pub fn attach_xdp(&self, name: &str, program: BorrowedFd<'_>) -> Result<()> {
        self.set_xdp(name, program.as_raw_fd()).context("attach an XDP program in the driver")
    }

    /// Takes away what [`Netlink::attach_xdp`] attached.
    ///
    /// # Errors
    /// When the program there is held by a link.
    pub fn detach_xdp(&self, name: &str) -> Result<()> {
        self.set_xdp(name, -1).context("detach an XDP program")
    }

    fn set_xdp(&self, name: &str, fd: i32) -> Result<()> {
        let xdp = vec![LinkXdp::Fd(fd), LinkXdp::Flags(XDP_FLAGS_DRV_MODE)];
        self.change(name, |link| link.append_extra_attribute(LinkAttribute::Xdp(xdp)))
    }

    /// Adds an address, without duplicate address detection, so that it is usable at once.
    ///
    /// # Errors
    /// When it is there already.
    pub fn add_address(&self, interface: &str, (address, length): Prefix) -> Result<()> {
        let index = self.index(interface)?;
        let mut request = self.handle.address().add(index, address, length);
        if address.is_ipv6() {
            let message = request.message_mut();
            message.header.flags = AddressHeaderFlags::Nodad;
            message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
        self.wait(request.execute()).with_context(|| format!("add {address}/{length} to {interface}"))
    }

    /// Removes an address.
    ///
    /// # Errors
    /// When it is not there.
    pub fn remove_address(&self, interface: &str, (address, length): Prefix) -> Result<()> {
        let index = self.index(interface)?;
        let mut message = match address {
            IpAddr::V4(a) => {
                rtnetlink::AddressMessageBuilder::<std::net::Ipv4Addr>::new().address(a, length).build()
            }
            IpAddr::V6(a) => {
                rtnetlink::AddressMessageBuilder::<std::net::Ipv6Addr>::new().address(a, length).build()
            }
        };
        message.header.index = index;
        self.wait(self.handle.address().del(message).execute())
            .with_context(|| format!("remove {address}/{length} from {interface}"))
    }

    /// Addresses of an interface with their prefix lengths.
    ///
    /// # Errors
    /// When there is no such interface.
    pub fn addresses(&self, interface: &str) -> Result<Vec<Prefix>> {
        let index = self.index(interface)?;
        let found: Vec<_> = self
            .wait(self.handle.address().get().set_link_index_filter(index).execute().try_collect())
            .with_context(|| format!("list the addresses of {interface}"))?;
        Ok(found
            .into_iter()
            .filter_map(|m: rtnetlink::packet_route::address::AddressMessage| {
                let length = m.header.prefix_len;
                m.attributes.iter().find_map(|a| {
                    if let AddressAttribute::Address(address) = a { Some((*address, length)) } else { None }
                })
            })
            .collect())
    }

    /// Sets the route to `destination`: whatever way there was before is replaced. Several ways make it an ECMP
    /// route with equal weights.
    ///
    /// # Errors
    /// When `via` is empty, a gateway is unreachable or of the wrong family.
    pub fn set_route(&self, destination: Prefix, via: &[Via]) -> Result<()> {
        let (address, length) = destination;
        let what = || format!("route {address}/{length} via {via:?}");
        let message = self.route_message(destination, via).with_context(what)?;
        self.wait(self.handle.route().add(message).replace().execute()).with_context(what)
    }

    /// Takes the route to `destination` away, all of its ways.
    ///
    /// # Errors
    /// When there is none.
    pub fn remove_route(&self, (address, length): Prefix) -> Result<()> {
        let message = RouteMessageBuilder::<IpAddr>::new().destination_prefix(address, length)?.build();
        self.wait(self.handle.route().del(message).execute())
            .with_context(|| format!("remove the route to {address}/{length}"))
    }

    fn route_message(&self, (address, length): Prefix, via: &[Via]) -> Result<RouteMessage> {
        let mut message = RouteMessageBuilder::<IpAddr>::new().destination_prefix(address, length)?.build();
        match via {
            [] => return Err(anyhow!("a route needs at least one way")),
            [one] => {
                message.attributes.push(RouteAttribute::Oif(self.index(&one.interface)?));
                match one.gateway {
                    Some(gateway) => message.attributes.push(RouteAttribute::Gateway(match gateway {
                        IpAddr::V4(a) => RouteAddress::Inet(a),
                        IpAddr::V6(a) => RouteAddress::Inet6(a),
                    })),
                    None if address.is_ipv4() => message.header.scope = RouteScope::Link,
                    None => {}
                }
                if one.onlink {
                    message.header.flags |= rtnetlink::packet_route::route::RouteFlags::Onlink;
                }
            }
            many => {
                let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
                let mut hops = Vec::new();
                for one in many {
                    let mut hop = RouteNextHopBuilder::new(family).interface(self.index(&one.interface)?);
                    if let Some(gateway) = one.gateway {
                        hop = hop.via(gateway)?;
                    }
                    if one.onlink {
                        hop = hop.flags(RouteNextHopFlags::Onlink);
                    }
                    hops.push(hop.build());
                }
                message.attributes.push(RouteAttribute::MultiPath(hops));
            }
        }
        Ok(message)
    }

    /// Sets a neighbour's Ethernet address for good.
    ///
    /// # Errors
    /// When there is no such interface.
    pub fn set_neighbour(&self, interface: &str, address: IpAddr, mac: Mac) -> Result<()> {
        let index = self.index(interface)?;
        self.wait(self.handle.neighbours().add(index, address).link_layer_address(&mac).replace().execute())
            .with_context(|| format!("set neighbour {address} on {interface}"))
    }
}
