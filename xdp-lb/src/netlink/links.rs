//! This node's interfaces as the kernel names them: for attach (index, MAC, MTU), `status`, and the resolver.

use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage};

use super::{NetlinkError, Requests, requests};
use crate::nexthop::{Link, Links};

/// All interfaces of the namespace.
///
/// # Errors
/// [`NetlinkError::Silent`] or [`NetlinkError::Refused`].
pub async fn links(requests: &Requests) -> Result<Links, NetlinkError> {
    let answers = requests.handle().link().get().execute();
    let messages = requests::all(|| "list the interfaces".into(), answers).await?;
    Ok(messages.iter().filter_map(decode).collect())
}

/// `None` for a message without a name, which no kernel sends.
fn decode(message: &LinkMessage) -> Option<Link> {
    let header = &message.header;
    let mut link = Link {
        index: header.index,
        name: String::new(),
        mac: None,
        mtu: 0,
        up: header.flags.contains(LinkFlags::Up),
        carrier: header.flags.contains(LinkFlags::LowerUp),
        kind: None,
        lower: None,
        controller: None,
    };
    // The index means an interface of another namespace.
    let mut elsewhere = false;
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            // The loopback device carries Ethernet frames too, between MACs of zeros.
            LinkAttribute::Address(bytes)
                if matches!(header.link_layer_type, LinkLayerType::Ether | LinkLayerType::Loopback) =>
            {
                link.mac = bytes.as_slice().try_into().ok();
            }
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::Link(index) => link.lower = (*index != 0).then_some(*index),
            LinkAttribute::LinkNetNsId(_) => elsewhere = true,
            LinkAttribute::Controller(index) => link.controller = (*index != 0).then_some(*index),
            LinkAttribute::LinkInfo(infos) => {
                link.kind = infos.iter().find_map(|info| match info {
                    LinkInfo::Kind(kind) => Some(kind.to_string()),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    link.lower = link.lower.filter(|_| !elsewhere);
    (!link.name.is_empty()).then_some(link)
}
