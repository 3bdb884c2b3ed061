//! Messages on the wire: the one place, with [`super::session`], that names `rustbgpd_wire`, so that the codec can
//! be exchanged.
//!
//! ```text
//!   marker 16 x ff | length 2 | type 1 | OPEN, UPDATE, NOTIFICATION, KEEPALIVE or ROUTE-REFRESH      at most 4096
//! ```

use std::net::IpAddr;

use bytes::BytesMut;
use rustbgpd_wire::{
    Afi, AsPath, AsPathSegment, Capability, DecodeError, EncodeError, GracefulRestartFamily, Ipv4NlriEntry,
    Ipv4Prefix, Ipv4UnicastMode, Ipv6Prefix, LargeCommunity, MpReachNlri, MpUnreachNlri, NlriEntry,
    OpenMessage, Origin, PathAttribute, Safi, UpdateMessage, encode_message,
};

use super::rib::{Attributes, Changes};
use super::settings::Prefix;

/// Longest message: we never offer longer ones (RFC 8654).
pub(super) const LONGEST: u16 = rustbgpd_wire::MAX_MESSAGE_LEN;
/// Header, the two lengths of an UPDATE, and the header of MP_REACH_NLRI with its longest next hop.
const UPDATE_OVERHEAD: usize = 19 + 4 + 4 + 5 + 32;

/// The OPEN as we want it: forwarding is kept over a restart, NOTIFICATIONs end a session for good (no N bit of RFC
/// 8538: with it the routes of a silent node would stay for the whole restart time), and nothing is offered that
/// we do not do.
pub(super) fn our_open(mut open: OpenMessage, restart_seconds: Option<u16>, restarted: bool) -> OpenMessage {
    let families: Vec<(Afi, Safi)> = open
        .capabilities
        .iter()
        .filter_map(|c| match c {
            Capability::MultiProtocol { afi, safi } => Some((*afi, *safi)),
            _ => None,
        })
        .collect();
    open.capabilities.retain(|capability| {
        !matches!(
            capability,
            Capability::GracefulRestart { .. }
                | Capability::EnhancedRouteRefresh
                | Capability::ExtendedMessage
        )
    });
    if let Some(restart_time) = restart_seconds {
        let kept = |(afi, safi)| GracefulRestartFamily { afi, safi, forwarding_preserved: true };
        open.capabilities.push(Capability::GracefulRestart {
            restart_state: restarted,
            notification: false,
            restart_time,
            families: families.into_iter().map(kept).collect(),
        });
    }
    open
}

/// UPDATEs that say `changes`, withdrawals first.
///
/// # Errors
/// When attributes do not fit a message; configuration bounds them, so that is a bug.
pub(super) fn updates(changes: &Changes, four_octets: bool) -> Result<Vec<BytesMut>, EncodeError> {
    let mut messages = Vec::new();
    for by_mp in [false, true] {
        for v6 in [false, true] {
            let of = changes
                .withdraw
                .iter()
                .filter(|(p, hop)| p.address.is_ipv6() == v6 && (v6 || hop.is_ipv6()) == by_mp);
            let prefixes: Vec<Prefix> = of.map(|(prefix, _)| *prefix).collect();
            for chunk in chunks(&prefixes, 0) {
                messages.push(if by_mp {
                    unreachable(v6, chunk)?
                } else {
                    body(&[], chunk, &[], four_octets)?
                });
            }
        }
    }
    for (attributes, prefixes) in &changes.announce {
        let v6 = prefixes.first().is_some_and(|prefix| prefix.address.is_ipv6());
        let path = path_attributes(attributes);
        let mut measured = Vec::new();
        rustbgpd_wire::attribute::encode_path_attributes(&path, &mut measured, four_octets, false)?;
        for chunk in chunks(prefixes, measured.len()) {
            messages.push(match (v6, attributes.next_hop) {
                (false, IpAddr::V4(hop)) => {
                    let mut path = path.clone();
                    path.push(PathAttribute::NextHop(hop));
                    body(chunk, &[], &path, four_octets)?
                }
                _ => reachable(v6, attributes.next_hop, chunk, &path, four_octets)?,
            });
        }
    }
    Ok(messages)
}

/// The mark that all has been said (RFC 4724 section 2).
///
/// # Errors
/// Never in practice.
pub(super) fn end_of_rib(v6: bool) -> Result<BytesMut, EncodeError> {
    if v6 { unreachable(true, &[]) } else { body(&[], &[], &[], true) }
}

/// Prefixes in portions that fit one message beside so many bytes of attributes.
fn chunks(prefixes: &[Prefix], attributes: usize) -> std::slice::Chunks<'_, Prefix> {
    let each = if prefixes.first().is_some_and(|p| p.address.is_ipv6()) { 17 } else { 5 };
    let room = usize::from(LONGEST).saturating_sub(UPDATE_OVERHEAD + attributes);
    prefixes.chunks((room / each).max(1))
}

/// An UPDATE with IPv4 prefixes in its body, the old way.
fn body(
    announced: &[Prefix],
    withdrawn: &[Prefix],
    attributes: &[PathAttribute],
    four_octets: bool,
) -> Result<BytesMut, EncodeError> {
    let entry = |prefix: &Prefix| match prefix.address {
        IpAddr::V4(a) => Some(Ipv4NlriEntry { path_id: 0, prefix: Ipv4Prefix::new(a, prefix.length) }),
        IpAddr::V6(_) => None,
    };
    let [announced, withdrawn] =
        [announced, withdrawn].map(|list| list.iter().filter_map(entry).collect::<Vec<_>>());
    let mode = Ipv4UnicastMode::Body;
    let update = UpdateMessage::try_build(&announced, &withdrawn, attributes, four_octets, false, mode)?;
    encode_message(&rustbgpd_wire::Message::Update(update))
}

fn reachable(
    v6: bool,
    next_hop: IpAddr,
    prefixes: &[Prefix],
    attributes: &[PathAttribute],
    four_octets: bool,
) -> Result<BytesMut, EncodeError> {
    let reach = MpReachNlri {
        afi: afi(v6),
        safi: Safi::Unicast,
        next_hop,
        link_local_next_hop: None,
        announced: prefixes.iter().map(nlri).collect(),
        flowspec_announced: Vec::new(),
        evpn_announced: Vec::new(),
        bgpls_announced: Vec::new(),
        vpn_announced: Vec::new(),
        labeled_announced: Vec::new(),
        rtc_announced: Vec::new(),
    };
    // First, as RFC 7606 section 5.1 asks.
    let mut all = vec![PathAttribute::MpReachNlri(Box::new(reach))];
    all.extend_from_slice(attributes);
    body(&[], &[], &all, four_octets)
}

fn unreachable(v6: bool, prefixes: &[Prefix]) -> Result<BytesMut, EncodeError> {
    let gone = MpUnreachNlri {
        afi: afi(v6),
        safi: Safi::Unicast,
        withdrawn: prefixes.iter().map(nlri).collect(),
        flowspec_withdrawn: Vec::new(),
        evpn_withdrawn: Vec::new(),
        bgpls_withdrawn: Vec::new(),
        vpn_withdrawn: Vec::new(),
        labeled_withdrawn: Vec::new(),
        rtc_withdrawn: Vec::new(),
    };
    body(&[], &[], &[PathAttribute::MpUnreachNlri(Box::new(gone))], true)
}

fn afi(v6: bool) -> Afi {
    if v6 { Afi::Ipv6 } else { Afi::Ipv4 }
}

fn nlri(prefix: &Prefix) -> NlriEntry {
    let prefix = match prefix.address {
        IpAddr::V4(a) => rustbgpd_wire::Prefix::V4(Ipv4Prefix::new(a, prefix.length)),
        IpAddr::V6(a) => rustbgpd_wire::Prefix::V6(Ipv6Prefix::new(a, prefix.length)),
    };
    NlriEntry { path_id: 0, prefix }
}

fn path_attributes(attributes: &Attributes) -> Vec<PathAttribute> {
    let path = match attributes.as_path.as_slice() {
        [] => Vec::new(),
        path => vec![AsPathSegment::AsSequence(path.to_vec())],
    };
    let mut all = vec![PathAttribute::Origin(Origin::Igp), PathAttribute::AsPath(AsPath { segments: path })];
    all.extend(attributes.med.map(PathAttribute::Med));
    all.extend(attributes.local_pref.map(PathAttribute::LocalPref));
    if !attributes.communities.is_empty() {
        all.push(PathAttribute::Communities(attributes.communities.iter().map(|c| c.0).collect()));
    }
    if !attributes.large_communities.is_empty() {
        let large = attributes.large_communities.iter().map(|c| LargeCommunity::new(c.0, c.1, c.2));
        all.push(PathAttribute::LargeCommunities(large.collect()));
    }
    all
}

/// Prefixes that a router has told us of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Heard {
    pub announced: Vec<Prefix>,
    pub withdrawn: Vec<Prefix>,
    /// Attributes that are broken and, since all routes are ignored, do no harm (RFC 7606).
    pub malformed: usize,
}

/// Reads an UPDATE as far as counting goes.
///
/// # Errors
/// What cannot be read at all, which ends the session.
pub(super) fn heard(update: &UpdateMessage, four_octets: bool, internal: bool) -> Result<Heard, DecodeError> {
    let parsed = update.parse_revised(four_octets, internal, false, &[])?;
    let v4 = |entry: &Ipv4NlriEntry| Prefix { address: entry.prefix.addr.into(), length: entry.prefix.len };
    let any = |entry: &NlriEntry| match entry.prefix {
        rustbgpd_wire::Prefix::V4(p) => Prefix { address: p.addr.into(), length: p.len },
        rustbgpd_wire::Prefix::V6(p) => Prefix { address: p.addr.into(), length: p.len },
    };
    let mut heard = Heard {
        announced: parsed.update.announced.iter().map(v4).collect(),
        withdrawn: parsed.update.withdrawn.iter().map(v4).collect(),
        malformed: parsed.malformed.len(),
    };
    for attribute in &parsed.update.attributes {
        match attribute {
            PathAttribute::MpReachNlri(reach) => heard.announced.extend(reach.announced.iter().map(any)),
            PathAttribute::MpUnreachNlri(gone) => heard.withdrawn.extend(gone.withdrawn.iter().map(any)),
            _ => {}
        }
    }
    Ok(heard)
}

#[cfg(test)]
#[path = "wire_tests.rs"]
mod tests;
