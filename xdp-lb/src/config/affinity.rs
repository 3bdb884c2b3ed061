//! What backends claim of a service's packets (port slices, server ids), how QUIC connection ids look, and which clients are
//! let in: read here and judged here. Called by [`super::service`] and [`super::check`].

use std::collections::HashMap;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use xdp_lb_common::{affinity::MOVE_AFTER, quic, server_id};

use super::draft::{Claim, PortsDraft, ServiceDraft, SourcesDraft};
use super::finding::{Findings, Placed, Spot};
use super::keys;
use super::leaf;
use super::reader::{Item, Leaf, Mapping, must_be};
use super::service::{port_ranges, show};
use crate::model::{Affinity, CidFormat, Protocol, ServerIdBytes};

/// `quic_cid`; `None` after a mistake.
pub(super) fn cid_format(keys: &Mapping<'_>, affinity: Option<Affinity>) -> Option<CidFormat> {
    let default = CidFormat::default();
    let Some(item) = keys.get("quic_cid") else { return Some(default) };
    if affinity.is_some_and(|affinity| affinity != Affinity::QuicCid) {
        item.fail("has no meaning without `affinity: quic-cid`; remove it or add that");
    }
    let keys = item.mapping(&keys::QUIC_CID)?;
    let config_ids = match keys.get("config_ids") {
        None => Some(default.config_ids),
        Some(item) if item.text() == Some("any") => Some(default.config_ids),
        Some(item) => {
            let ids: Vec<Option<u8>> =
                item.one_or_more().iter().map(|item| item.leaf(leaf::number(0..=6))).collect();
            ids.into_iter().try_fold(0, |mask, id| Some(mask | 1 << id?)).filter(|&mask| mask != 0)
        }
    };
    let nonce = keys.leaf("nonce", default.nonce, leaf::number(quic::MIN_NONCE..=quic::MAX_CID - 2));
    let length_encoded = keys.leaf("length_encoded", false, leaf::boolean);
    Some(CidFormat { config_ids: config_ids?, nonce: nonce?, length_encoded: length_encoded? })
}

/// `source_ranges`. What is listed twice is reported and left out.
pub(super) fn source_ranges(keys: &Mapping<'_>) -> SourcesDraft {
    let Some(keys) = keys.get("source_ranges").and_then(|item| item.mapping(&keys::SOURCE_RANGES)) else {
        return SourcesDraft::default();
    };
    let mut seen: HashMap<(IpAddr, u8), Spot> = HashMap::new();
    let mut list = |key| {
        let items = keys.get(key).and_then(|item| item.list()).unwrap_or_default();
        let mut prefixes: Vec<Placed<(IpAddr, u8)>> = Vec::new();
        for prefix in items.iter().filter_map(|item| item.placed(leaf::prefix)) {
            if let Some(first) = seen.get(&prefix.value) {
                let (address, length) = prefix.value;
                let message =
                    format!("{address}/{length} is listed twice, first as {}; remove one", first.path);
                keys.findings.error(&prefix.spot, message);
                continue;
            }
            seen.insert(prefix.value, prefix.spot.clone());
            prefixes.push(prefix);
        }
        prefixes
    };
    SourcesDraft { allow: list("allow"), deny: list("deny") }
}

/// What the backend under `keys` claims. `None` without an address.
pub(super) fn claim(
    keys: &Mapping<'_>,
    affinity: Option<Affinity>,
    address: Option<&Placed<IpAddr>>,
) -> Option<Claim> {
    let ports = keys.get("ports");
    let id = keys.get("server_id");
    let misplaced = |item: &Option<Item<'_>>, wanted: bool, which: &str| {
        if let Some(item) = item.as_ref().filter(|_| affinity.is_some() && !wanted) {
            item.fail(format!("has no meaning without `affinity: {which}`; remove it or set that"));
        }
    };
    let by_port = affinity == Some(Affinity::DestPort);
    let by_id = affinity.is_some_and(Affinity::has_server_ids);
    misplaced(&ports, by_port, "dest-port");
    misplaced(&id, by_id, "quic-cid` or `ice-ufrag");
    let is_missing = by_port && ports.is_none() || by_id && id.is_none();
    let slice = ports.filter(|_| by_port).map(|item| port_ranges(&item)).filter(|ranges| !ranges.is_empty());
    let server_id = id.filter(|_| by_id).and_then(|item| match affinity {
        Some(Affinity::IceUfrag) => item.placed(ufrag),
        _ => item.placed(hex),
    });
    let address = Placed { value: address?.value, spot: address?.spot.clone() };
    Some(Claim { address, slice, server_id, is_missing })
}

/// Two to sixteen hexadecimal digits.
pub(super) fn hex(text: &str) -> Leaf<ServerIdBytes> {
    let what = "1 to 8 bytes as pairs of hexadecimal digits, as in \"0a01\"";
    let digits: Option<Vec<u8>> = text.chars().map(|c| c.to_digit(16).map(|digit| digit as u8)).collect();
    let Some(digits) = digits.filter(|digits| digits.len().is_multiple_of(2)) else {
        return must_be(what, text);
    };
    let bytes: Vec<u8> = digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect();
    ServerIdBytes::new(&bytes).map_or_else(|| must_be(what, text), Ok)
}

/// The first characters of a ufrag (`ice-char` of RFC 8839 section 5.4).
pub(super) fn ufrag(text: &str) -> Leaf<ServerIdBytes> {
    let is_ice = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'+' || byte == b'/');
    match ServerIdBytes::new(text.as_bytes()) {
        Some(id) if is_ice => Ok(id),
        _ => must_be("the first 1 to 8 characters (letters, digits, + and /) of the server's ufrags", text),
    }
}

/// Judges one service.
pub(super) fn check(service: &ServiceDraft, findings: &Findings) {
    let Some(affinity) = &service.affinity else { return };
    let udp_only = affinity.value.has_server_ids();
    if udp_only && service.protocol == Some(Protocol::Tcp) {
        findings.error(&affinity.spot, "is for `protocol: udp`; TCP carries no such ids");
    }
    for claim in service.claims.iter().filter(|claim| claim.is_missing) {
        let what = match affinity.value {
            Affinity::DestPort => "`ports: \"20000-24999\"`: the slice of the service's ports that it owns",
            Affinity::QuicCid => "`server_id: \"0a01\"`: what its connection ids carry",
            _ => "`server_id: \"sfu1\"`: what its ufrags begin with",
        };
        findings.error(&claim.address.spot, format!("needs {what}"));
    }
    match affinity.value {
        Affinity::DestPort => slices(service, findings),
        Affinity::QuicCid => {
            ids(service, findings);
            connection_ids(service, findings);
        }
        Affinity::IceUfrag => {
            ids(service, findings);
            timeout(service, findings);
        }
        Affinity::FiveTuple | Affinity::ClientIp => {}
    }
}

/// A flow must be remembered for longer than it takes to call it silent.
fn timeout(service: &ServiceDraft, findings: &Findings) {
    const LEAST: Duration = MOVE_AFTER.saturating_mul(3);
    if let Some(Placed { value, spot }) = service.flow_timeout.as_ref().filter(|t| t.value < LEAST) {
        let message = format!(
            "must be {} or more with `affinity: ice-ufrag`, is {}",
            leaf::show(LEAST),
            leaf::show(*value)
        );
        findings.error(spot, message);
    }
}

/// Unique, and of one length.
fn ids(service: &ServiceDraft, findings: &Findings) {
    let ids = || service.claims.iter().filter_map(|claim| Some((claim, claim.server_id.as_ref()?)));
    let Some((_, first)) = ids().next() else { return };
    let mut seen: HashMap<ServerIdBytes, (&Spot, IpAddr)> = HashMap::new();
    for (claim, id) in ids() {
        if id.value.len != first.value.len {
            let (a, b) = (id.value.len, first.value.len);
            let message = format!(
                "has {a} bytes and {} has {b}; all of a service need the same length",
                first.spot.path
            );
            findings.error(&id.spot, message);
        } else if let Some((other, address)) = seen.get(&id.value) {
            let message = format!("is the id of {address} too ({}); give each backend its own", other.path);
            findings.error(&id.spot, message);
        } else {
            seen.insert(id.value, (&id.spot, claim.address.value));
        }
    }
}

/// A connection id has twenty bytes at most.
fn connection_ids(service: &ServiceDraft, findings: &Findings) {
    let (Some(cid), Some(id)) =
        (service.cid, service.claims.iter().find_map(|claim| claim.server_id.as_ref()))
    else {
        return;
    };
    let need = 1 + usize::from(id.value.len) + usize::from(cid.nonce);
    if need > usize::from(quic::MAX_CID) {
        let message = format!(
            "of {} bytes and a nonce of {} make connection ids of {need}; QUIC has {} at most",
            id.value.len,
            cid.nonce,
            quic::MAX_CID
        );
        findings.error(&id.spot, message);
    }
}

const _: () = assert!(1 + server_id::MAX_LEN + quic::MIN_NONCE as usize <= quic::MAX_CID as usize);

/// A run of ports and whose it is.
struct Owned<'a> {
    range: &'a RangeInclusive<u16>,
    spot: &'a Spot,
    owner: IpAddr,
}

fn slices(service: &ServiceDraft, findings: &Findings) {
    let mut owned: Vec<Owned<'_>> = Vec::new();
    for claim in &service.claims {
        let owner = claim.address.value;
        owned.extend(claim.slice.iter().flatten().map(|r| Owned { range: &r.value, spot: &r.spot, owner }));
    }
    owned.sort_by_key(|slice| (*slice.range.start(), *slice.range.end()));
    let mut overlaps = false;
    // The slice that reaches furthest of those that began earlier: if any of them overlaps, this one does.
    let mut furthest: Option<&Owned<'_>> = None;
    for slice in &owned {
        if let Some(other) = furthest.filter(|other| slice.range.start() <= other.range.end()) {
            overlaps = true;
            let (early, late) = if other.spot.pos < slice.spot.pos { (other, slice) } else { (slice, other) };
            let both = show(&(*slice.range.start()..=*slice.range.end().min(other.range.end())));
            let message = format!(
                "overlaps {} of {}: both own {both}; give it to one of them",
                early.spot.path, early.owner
            );
            findings.error(late.spot, message);
        }
        if furthest.is_none_or(|other| slice.range.end() > other.range.end()) {
            furthest = Some(slice);
        }
    }
    let Some(ports) = &service.ports else { return };
    for slice in &owned {
        if let Some(port) = slice.range.clone().find(|&port| !serves(ports, port)) {
            let message = format!("{port} is none of the service's ports; cut the slice or add it there");
            findings.error(slice.spot, message);
        }
    }
    if overlaps {
        return;
    }
    if service.protocol == Some(Protocol::Udp) {
        pairs(&owned, ports, findings);
    }
    unowned(&owned, ports, service, findings);
}

fn serves(ports: &PortsDraft, port: u16) -> bool {
    match ports {
        PortsDraft::All(_) => true,
        PortsDraft::Ranges(ranges) => ranges.iter().any(|range| range.value.contains(&port)),
    }
}

/// RTP has an even port and its RTCP the next (RFC 3550 section 11): nobody else may get one without the other.
fn pairs(owned: &[Owned<'_>], ports: &PortsDraft, findings: &Findings) {
    let owner = |port: u16| owned.iter().find(|slice| slice.range.contains(&port));
    for slice in owned {
        let (first, last) = (*slice.range.start(), *slice.range.end());
        let ends = [
            (first % 2 == 1).then(|| (first - 1, first, first - 1)),
            (last % 2 == 0).then(|| (last, last + 1, last + 1)),
        ];
        for (even, odd, partner) in ends.into_iter().flatten() {
            let other = owner(partner);
            if other.is_some_and(|other| other.owner == slice.owner) || !serves(ports, partner) {
                continue;
            }
            // Two owners: reported once, at the slice with the odd port.
            let message = match other {
                Some(_) if partner == odd => continue,
                Some(other) => format!(
                    "splits the RTP/RTCP pair {even}, {odd}: {even} is {} of {}; let both be one backend's",
                    other.spot.path, other.owner
                ),
                None => format!(
                    "splits the RTP/RTCP pair {even}, {odd}: nobody owns {partner}; let both be this backend's"
                ),
            };
            findings.error(slice.spot, message);
        }
    }
}

/// Ports of the service that nobody owns: seldom meant.
fn unowned(owned: &[Owned<'_>], ports: &PortsDraft, service: &ServiceDraft, findings: &Findings) {
    let PortsDraft::Ranges(ranges) = ports else { return };
    if owned.is_empty() || service.claims.iter().any(|claim| claim.slice.is_none()) {
        return;
    }
    for range in ranges {
        let mut port = u32::from(*range.value.start());
        let end = u32::from(*range.value.end());
        while let Some(slice) =
            owned.iter().find(|s| s.range.contains(&(port as u16))).filter(|_| port <= end)
        {
            port = u32::from(*slice.range.end()) + 1;
        }
        if port <= end {
            let message = format!("no backend owns {port}: packets to it are dropped as no_slice");
            findings.warn(&range.spot, message);
        }
    }
}
