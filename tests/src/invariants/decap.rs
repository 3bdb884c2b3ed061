//! The backend side: what counts as a tunnel, and whom it may come from.
//!
//! Input: a count of IPv4 and one of IPv6 prefixes (a byte each, taken modulo 4), five bytes for each of the former
//! (address, length) and seventeen of the latter, then a frame.

use xdp_lb_common::decap::{self, ACCEPT_GUE, ACCEPT_IPIP, AllowList, MAX_SOURCES, Prefix4, Prefix6};
use xdp_lb_common::parse::{self, Version};

use super::parser::read;

pub fn check(data: &[u8]) {
    let Some((list, masks, frame)) = allow_list(data) else { return };
    let Some((addresses, ip)) = read(frame) else { return };
    let plainly = masks.iter().any(|&(version, address, len)| {
        version == addresses.version && len <= 128 && {
            let mask = u128::MAX.checked_shl(128 - len).unwrap_or(0);
            u128::from_be_bytes(number(addresses.source)) & mask == address & mask
        }
    });
    assert_eq!(list.allows(addresses.version, addresses.source), plainly);

    let Some(outer) = ip else { return };
    let Ok(opened) = decap::open(frame, &outer, &list) else {
        assert!(outer.fragment.is_some() || ![parse::IPIP, parse::IPV6_IN_IP].contains(&outer.protocol));
        return;
    };
    assert!(outer.fragment.is_none() && outer.l4 <= opened.l3 && opened.end <= outer.end, "{opened:?}");
    let Some(inner) = parse::addresses(frame, opened.l3, opened.version) else { return };
    let Ok(inner) = parse::ip(frame, inner) else { return };
    assert!(opened.l3 == inner.addresses.l3 && inner.l4 <= inner.end);
    // Where the tunnel is taken off, the packet reads as it would have without.
    if inner.end <= opened.end {
        let kind = parse::ethertype(opened.version);
        let bare = [&frame[..12], &kind, &frame[opened.l3..opened.end]].concat();
        let Some((_, Some(again))) = read(&bare) else { panic!("the inner packet does not parse alone") };
        let moved = opened.l3 - parse::ETHERNET_LEN;
        assert_eq!((again.l4 + moved, again.end + moved), (inner.l4, inner.end));
        assert_eq!((again.protocol, again.fragment), (inner.protocol, inner.fragment));
    }
}

/// The address's 16 bytes in network order, IPv4 mapped.
fn number([a, b]: parse::Words) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&a.to_le_bytes());
    bytes[8..].copy_from_slice(&b.to_le_bytes());
    bytes
}

type Mask = (Version, u128, u32);

fn allow_list(data: &[u8]) -> Option<(AllowList, Vec<Mask>, &[u8])> {
    let (&[four, six], mut rest) = data.split_first_chunk::<2>()?;
    let mut list = AllowList {
        kinds: ACCEPT_IPIP | ACCEPT_GUE,
        gue_port: 6080,
        v4_count: u32::from(four % 4),
        v6_count: u32::from(six % 4),
        v4: [Prefix4::default(); MAX_SOURCES],
        v6: [Prefix6::default(); MAX_SOURCES],
    };
    let mut masks = Vec::new();
    for i in 0..usize::from(four % 4) {
        let (&[a, b, c, d, len], after) = rest.split_first_chunk::<5>()?;
        let len = u32::from(len % 33);
        let mask = u32::MAX.checked_shl(32 - len).unwrap_or(0);
        let address = u32::from_be_bytes([a, b, c, d]) & mask;
        list.v4[i] = Prefix4 { address: address.to_be_bytes(), mask: mask.to_be_bytes() };
        masks.push((Version::V4, 0xffff_0000_0000 | u128::from(address), 96 + len));
        rest = after;
    }
    for i in 0..usize::from(six % 4) {
        let (address, after) = rest.split_first_chunk::<16>()?;
        let (&len, after) = after.split_first()?;
        let len = u32::from(len % 129);
        let mask = u128::MAX.checked_shl(128 - len).unwrap_or(0);
        let address = u128::from_be_bytes(*address) & mask;
        list.v6[i] = Prefix6 { address: address.to_be_bytes(), mask: mask.to_be_bytes() };
        masks.push((Version::V6, address, len));
        rest = after;
    }
    Some((list, masks, rest))
}
