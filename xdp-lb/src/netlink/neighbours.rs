//! The kernel's neighbour table: reading it, and making the kernel ask ARP or neighbour discovery.
//!
//! Packets that XDP sends never pass the kernel's neighbour code, so nothing confirms an entry and the
//! kernel lets it go stale and collects it. The resolver therefore asks again every few seconds with
//! `NTF_USE`, which starts the same probes as a packet would. `NTF_EXT_MANAGED` (Linux 5.16) would make the
//! kernel do so itself, but such an entry outlives the agent and cannot be told from another program's:
//! `NTF_USE` works on every kernel and leaves nothing behind.

use std::net::IpAddr;

use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourExtFlags, NeighbourFlags, NeighbourMessage, NeighbourState,
};

use super::{NetlinkError, Requests, requests};
use crate::nexthop::{Neighbour, NeighbourKey};

/// One entry as the kernel tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// What it means for a packet.
    pub(super) neighbour: Neighbour,
    /// What it needs from us.
    pub(super) care: Care,
    /// Set by whoever else manages the entry; a probe must repeat it or the kernel clears it.
    managed: bool,
}

/// What an entry needs so that it stays usable or becomes so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Care {
    /// Nothing: confirmed, being asked for, or configured by somebody else.
    None,
    /// A probe: stale or failed.
    Probe,
}

impl Entry {
    /// An entry that the kernel had no room for.
    pub(super) const TABLE_FULL: Self =
        Self { neighbour: Neighbour::TableFull, care: Care::Probe, managed: false };

    /// This entry after `earlier`: while the kernel asks a failed neighbour again it stays failed, or every
    /// retry would look like a change.
    pub(super) fn after(self, earlier: Option<&Self>) -> Self {
        let failed = earlier.is_some_and(|e| e.neighbour == Neighbour::Failed);
        if failed && self.neighbour == Neighbour::Pending {
            return Self { neighbour: Neighbour::Failed, ..self };
        }
        self
    }
}

/// All neighbours of both families.
///
/// # Errors
/// [`NetlinkError::Silent`] or [`NetlinkError::Refused`].
pub(super) async fn dump(requests: &Requests) -> Result<Vec<(NeighbourKey, Entry)>, NetlinkError> {
    let answers = requests.handle().neighbours().get().execute();
    let messages = requests::all(|| "list the neighbours".into(), answers).await?;
    Ok(messages.iter().filter_map(decode).collect())
}

/// `None` for what is no IP neighbour: bridge forwarding entries, proxies.
pub(super) fn decode(message: &NeighbourMessage) -> Option<(NeighbourKey, Entry)> {
    let header = &message.header;
    if header.flags.contains(NeighbourFlags::Proxy) {
        return None;
    }
    let (mut address, mut mac, mut managed) = (None, None, false);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(a)) => address = Some(IpAddr::V4(*a)),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(a)) => address = Some(IpAddr::V6(*a)),
            NeighbourAttribute::LinkLayerAddress(bytes) => mac = bytes.as_slice().try_into().ok(),
            NeighbourAttribute::ExtFlags(flags) => managed = flags.contains(NeighbourExtFlags::Managed),
            _ => {}
        }
    }
    let (neighbour, care) = match header.state {
        NeighbourState::Reachable
        | NeighbourState::Delay
        | NeighbourState::Probe
        | NeighbourState::Permanent
        | NeighbourState::Noarp => (Neighbour::Usable { mac }, Care::None),
        NeighbourState::Stale => (Neighbour::Usable { mac }, Care::Probe),
        NeighbourState::Incomplete => (Neighbour::Pending, Care::None),
        NeighbourState::Failed => (Neighbour::Failed, Care::Probe),
        _ => (Neighbour::Pending, Care::Probe),
    };
    // Learnt by a control plane (EVPN, a switch): its owner keeps it, and a probe would take the mark away.
    let care = if header.flags.contains(NeighbourFlags::ExtLearned) { Care::None } else { care };
    Some(((header.ifindex, address?), Entry { neighbour, care, managed }))
}

/// Makes the kernel ask for a neighbour that is missing, stale or failed (`entry`). Never for a permanent
/// one: `NTF_USE` takes that state away.
///
/// # Errors
/// [`NetlinkError::Refused`] with `ENOBUFS` when the neighbour table is full.
pub(super) async fn probe(
    requests: &Requests,
    (interface, address): NeighbourKey,
    entry: Option<&Entry>,
) -> Result<(), NetlinkError> {
    let mut request = requests
        .handle()
        .neighbours()
        .add(interface, address)
        .state(NeighbourState::None)
        .flags(NeighbourFlags::Use)
        .replace();
    if entry.is_some_and(|entry| entry.managed) {
        let managed = NeighbourAttribute::ExtFlags(NeighbourExtFlags::Managed);
        request.message_mut().attributes.push(managed);
    }
    requests::done(|| format!("probe the neighbour {address} on interface {interface}"), request.execute())
        .await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(state: NeighbourState, flags: NeighbourFlags) -> NeighbourMessage {
        let mut message = NeighbourMessage::default();
        message.header.ifindex = 3;
        message.header.state = state;
        message.header.flags = flags;
        let address: IpAddr = "10.0.0.1".parse().unwrap();
        message.attributes = vec![
            NeighbourAttribute::Destination(address.into()),
            NeighbourAttribute::LinkLayerAddress(vec![2, 0, 0, 0, 0, 9]),
        ];
        message
    }

    fn entry(state: NeighbourState, flags: NeighbourFlags) -> Entry {
        decode(&message(state, flags)).unwrap().1
    }

    #[test]
    fn only_stale_missing_and_failed_entries_of_nobody_else_are_probed() {
        let none = NeighbourFlags::empty();
        assert_eq!(entry(NeighbourState::Stale, none).care, Care::Probe);
        assert_eq!(entry(NeighbourState::Failed, none).care, Care::Probe);
        assert_eq!(entry(NeighbourState::None, none).care, Care::Probe);
        assert_eq!(entry(NeighbourState::Permanent, none).care, Care::None);
        assert_eq!(entry(NeighbourState::Noarp, none).care, Care::None);
        assert_eq!(entry(NeighbourState::Stale, NeighbourFlags::ExtLearned).care, Care::None);
        assert!(decode(&message(NeighbourState::Stale, NeighbourFlags::Proxy)).is_none());
    }

    #[test]
    fn a_retry_of_a_failed_neighbour_stays_failed_until_it_answers() {
        let none = NeighbourFlags::empty();
        let failed = entry(NeighbourState::Failed, none);
        let asking = entry(NeighbourState::Incomplete, none).after(Some(&failed));
        assert_eq!(asking.neighbour, Neighbour::Failed);
        let reachable = entry(NeighbourState::Reachable, none).after(Some(&asking));
        assert_eq!(reachable.neighbour, Neighbour::Usable { mac: Some([2, 0, 0, 0, 0, 9]) });
        assert_eq!(entry(NeighbourState::Incomplete, none).after(None).neighbour, Neighbour::Pending);
    }
}
