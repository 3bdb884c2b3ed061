//! The way between the node and the namespace that health checks are asked in: a veth pair and no more.
//!
//! ```text
//!   node: xdp-lb-probe (no address) ===== probe0 : namespace   node's addresses /32 and /128, everything on the link,
//!                                                              no ARP: the programs on both ends write the MACs
//! ```

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd as _, BorrowedFd};

use rtnetlink::packet_route::address::{AddressAttribute, AddressHeaderFlags, AddressMessage, AddressScope};
use rtnetlink::packet_route::link::{InfoData, InfoKind, InfoVeth, LinkAttribute, LinkMessage};
use rtnetlink::packet_route::route::RouteScope;
use rtnetlink::{LinkMessageBuilder, LinkUnspec, RouteMessageBuilder};
use xdp_lb_common::probe::INSIDE_MAC;

use super::addresses::MARK;
use super::links::links;
use super::{NetlinkError, Requests, requests};

/// The node's end.
pub const OUTSIDE: &str = "xdp-lb-probe";
/// The namespace's end.
pub const INSIDE: &str = "probe0";
/// IPv6's least: with a tunnel around it a question fits everywhere.
const MTU: u32 = 1280;

/// Addresses of the node that questions come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sources {
    /// IPv4.
    pub v4: Option<Ipv4Addr>,
    /// IPv6.
    pub v6: Option<Ipv6Addr>,
}

impl Sources {
    /// The one to ask `to` from.
    #[must_use]
    pub fn like(&self, to: IpAddr) -> Option<IpAddr> {
        if to.is_ipv4() { self.v4.map(IpAddr::V4) } else { self.v6.map(IpAddr::V6) }
    }

    fn both(&self) -> impl Iterator<Item = IpAddr> {
        self.v4.map(IpAddr::V4).into_iter().chain(self.v6.map(IpAddr::V6))
    }
}

/// The node's addresses that answers will find: global ones, those of `interfaces` first and in their order, then of
/// any other, `lo` included. A VIP is none of them.
///
/// # Errors
/// [`NetlinkError`].
pub async fn sources(
    node: &Requests,
    interfaces: &[String],
    vips: &BTreeSet<IpAddr>,
) -> Result<Sources, NetlinkError> {
    let links = links(node).await?;
    let rank = |index: u32| {
        let name = links.by_index(index).map(|link| &*link.name).unwrap_or_default();
        let listed = interfaces.iter().position(|interface| interface == name);
        (listed.unwrap_or(interfaces.len()), name == OUTSIDE, index)
    };
    let answers = node.handle().address().get().execute();
    let messages = requests::all(|| "list the addresses".into(), answers).await?;
    let mut found: Vec<_> = messages
        .iter()
        .filter_map(|message| Some((rank(message.header.index), usable(message)?)))
        .filter(|(_, address)| !vips.contains(address))
        .collect();
    // Stable: the kernel lists primary addresses first.
    found.sort_by_key(|(rank, _)| *rank);
    let v4 = found.iter().find_map(|(_, ip)| if let IpAddr::V4(ip) = ip { Some(*ip) } else { None });
    let v6 = found.iter().find_map(|(_, ip)| if let IpAddr::V6(ip) = ip { Some(*ip) } else { None });
    Ok(Sources { v4, v6 })
}

/// Makes the pair and all that the namespace needs; returns the index of the node's end. A pair of before is replaced.
///
/// # Errors
/// [`NetlinkError`].
pub async fn build(
    node: &Requests,
    inside: &Requests,
    namespace: BorrowedFd<'_>,
    from: &Sources,
) -> Result<u32, NetlinkError> {
    remove(node).await?;
    let mut far = LinkMessage::default();
    far.attributes = vec![
        LinkAttribute::IfName(INSIDE.into()),
        LinkAttribute::Address(INSIDE_MAC.to_vec()),
        LinkAttribute::Mtu(MTU),
        LinkAttribute::NetNsFd(namespace.as_raw_fd()),
    ];
    let pair = LinkMessageBuilder::<LinkUnspec>::new_with_info_kind(InfoKind::Veth)
        .set_info_data(InfoData::Veth(InfoVeth::Peer(far)))
        .append_extra_attribute(LinkAttribute::IfName(OUTSIDE.into()))
        .append_extra_attribute(LinkAttribute::Mtu(MTU));
    let made = node.handle().link().add(pair.build()).execute();
    requests::done(|| format!("make the veth pair {OUTSIDE}"), made).await?;
    let outside = index(node, OUTSIDE).await?;
    let up = LinkUnspec::new_with_index(outside).up().build();
    requests::done(|| format!("set {OUTSIDE} up"), node.handle().link().change(up).execute()).await?;
    let index = index(inside, INSIDE).await?;
    // Without ARP: nobody on the link would answer, and the frame's destination is ours to write.
    let up = LinkUnspec::new_with_index(index).arp(false).up().build();
    requests::done(|| format!("set {INSIDE} up"), inside.handle().link().change(up).execute()).await?;
    for address in from.both() {
        add_address(inside, index, address).await?;
    }
    for address in from.both() {
        add_route(inside, index, address).await?;
    }
    Ok(outside)
}

/// Takes a pair away, if there is one.
///
/// # Errors
/// [`NetlinkError`].
pub async fn remove(node: &Requests) -> Result<(), NetlinkError> {
    let Some(old) = links(node).await?.by_name(OUTSIDE).map(|link| link.index) else { return Ok(()) };
    let gone = node.handle().link().del(old).execute();
    match requests::done(|| format!("remove {OUTSIDE}"), gone).await {
        // Its namespace has ended meanwhile.
        Err(error) if error.errno() == Some(libc::ENODEV) => Ok(()),
        other => other,
    }
}

async fn index(requests: &Requests, name: &'static str) -> Result<u32, NetlinkError> {
    let found = links(requests).await?.by_name(name).map(|link| link.index);
    found.ok_or_else(|| NetlinkError::Unexpected {
        what: format!("look up {name}"),
        answer: "no such interface".into(),
    })
}

async fn add_address(inside: &Requests, index: u32, address: IpAddr) -> Result<(), NetlinkError> {
    let length = if address.is_ipv4() { 32 } else { 128 };
    let mut request = inside.handle().address().add(index, address, length);
    // Nobody else is on the link: no duplicate address detection.
    request.message_mut().header.flags |= AddressHeaderFlags::Nodad;
    requests::done(|| format!("give {INSIDE} the address {address}"), request.execute()).await
}

/// Everything of the address's family is on the link.
async fn add_route(inside: &Requests, index: u32, address: IpAddr) -> Result<(), NetlinkError> {
    let what = || format!("route everything to {INSIDE} from {address}");
    match address {
        IpAddr::V4(from) => {
            let route = RouteMessageBuilder::<Ipv4Addr>::new()
                .destination_prefix(Ipv4Addr::UNSPECIFIED, 0)
                .pref_source(from)
                .scope(RouteScope::Link)
                .output_interface(index)
                .build();
            requests::done(what, inside.handle().route().add(route).execute()).await
        }
        IpAddr::V6(from) => {
            let route = RouteMessageBuilder::<Ipv6Addr>::new()
                .destination_prefix(Ipv6Addr::UNSPECIFIED, 0)
                .pref_source(from)
                .output_interface(index)
                .build();
            requests::done(what, inside.handle().route().add(route).execute()).await
        }
    }
}

/// The address of a message, if others can reach it, it is there to stay, and it is not one of the VIPs that we hold.
/// A secondary IPv4 address and a temporary IPv6 address (RFC 8981) have the same flag.
fn usable(message: &AddressMessage) -> Option<IpAddr> {
    let ours = message.attributes.contains(&AddressAttribute::RoutePriority(MARK));
    // Tentative ones stay: after a boot, most are for a second.
    let doubtful =
        AddressHeaderFlags::Secondary | AddressHeaderFlags::Dadfailed | AddressHeaderFlags::Deprecated;
    if message.header.scope != AddressScope::Universe || message.header.flags.intersects(doubtful) || ours {
        return None;
    }
    let (mut local, mut address) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(a) => local = Some(*a),
            AddressAttribute::Address(a) => address = Some(*a),
            _ => {}
        }
    }
    local.or(address)
}
