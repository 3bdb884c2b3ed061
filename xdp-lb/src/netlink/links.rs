//! This node's interfaces as the kernel names them: for attach (index, MAC, MTU), `status`, and the resolver.

use rtnetlink::packet_route::link::{
    BondPortState, InfoBondPort, InfoData, InfoPortData, InfoVlan, LinkAttribute, LinkFlags, LinkInfo,
    LinkLayerType, LinkMessage, VlanProtocol,
};

use super::{NetlinkError, Requests, requests};
use crate::nexthop::{Link, Links, Tag};

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
        vlan: None,
        backup: false,
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
                for info in infos {
                    match info {
                        LinkInfo::Data(InfoData::Vlan(parts)) => link.vlan = tag(parts),
                        LinkInfo::PortData(InfoPortData::BondPort(parts)) => {
                            link.backup = parts.contains(&InfoBondPort::BondPortState(BondPortState::Backup));
                        }
                        _ => {}
                    }
                }
            }
            _ => {}
        }
    }
    link.lower = link.lower.filter(|_| !elsewhere);
    (!link.name.is_empty()).then_some(link)
}

/// The tag of a VLAN device's packets, of priority 0. Kernels that do not tell the protocol know 802.1Q alone.
fn tag(parts: &[InfoVlan]) -> Option<Tag> {
    let id = parts.iter().find_map(|part| match part {
        InfoVlan::Id(id) => Some(*id),
        _ => None,
    })?;
    let ad = parts.contains(&InfoVlan::Protocol(VlanProtocol::Ieee8021Ad));
    let [p0, p1] = if ad { [0x88, 0xa8] } else { [0x81, 0x00] };
    let [i0, i1] = id.to_be_bytes();
    Some([p0, p1, i0, i1])
}

#[cfg(test)]
mod tests {
    use rtnetlink::packet_route::link::InfoKind;

    use super::*;

    fn message(kind: InfoKind, more: LinkInfo) -> LinkMessage {
        let mut message = LinkMessage::default();
        message.header.index = 7;
        message.attributes = vec![
            LinkAttribute::IfName("eth0.100".into()),
            LinkAttribute::Link(2),
            LinkAttribute::LinkInfo(vec![LinkInfo::Kind(kind), more]),
        ];
        message
    }

    #[test]
    fn a_vlan_device_has_a_tag_and_something_below() {
        let vlan = |parts| decode(&message(InfoKind::Vlan, LinkInfo::Data(InfoData::Vlan(parts)))).unwrap();
        let plain = vlan(vec![InfoVlan::Id(100), InfoVlan::Protocol(VlanProtocol::Ieee8021Q)]);
        assert_eq!(
            (plain.kind.as_deref(), plain.lower, plain.vlan),
            (Some("vlan"), Some(2), Some([0x81, 0, 0, 100]))
        );
        let service = vlan(vec![InfoVlan::Protocol(VlanProtocol::Ieee8021Ad), InfoVlan::Id(4094)]);
        assert_eq!(service.vlan, Some([0x88, 0xa8, 0x0f, 0xfe]));
    }

    #[test]
    fn a_member_of_a_bond_may_wait_for_another_to_fail() {
        let member = |state| {
            let parts = vec![InfoBondPort::LinkFailureCount(1), InfoBondPort::BondPortState(state)];
            decode(&message(InfoKind::Veth, LinkInfo::PortData(InfoPortData::BondPort(parts)))).unwrap()
        };
        assert!(member(BondPortState::Backup).backup);
        assert!(!member(BondPortState::Active).backup);
    }
}
