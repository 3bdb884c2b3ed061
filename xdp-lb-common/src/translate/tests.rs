//! Every translated packet is compared, byte for byte, with one that was written from nothing with the other addresses.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::vec::Vec;

use proptest::{collection::vec, prelude::*, sample::select};

use super::*;
use crate::parse::{self, v4_words};

const CLIENT: u8 = 0;
const VIP: u8 = 1;
const POD: u8 = 2;
const ROUTER: u8 = 3;
const OTHER_VIP: u8 = 4;

/// Somebody's address as bytes of the version's length.
fn address(version: Version, who: u8) -> Vec<u8> {
    match version {
        Version::V4 => match who {
            CLIENT => Vec::from([198, 51, 100, 7]),
            VIP => Vec::from([203, 0, 113, 10]),
            POD => Vec::from([10, 244, 1, 101]),
            ROUTER => Vec::from([192, 0, 2, 1]),
            _ => Vec::from([203, 0, 113, 11]),
        },
        Version::V6 => {
            let mut bytes = Vec::from([0x20, 1, 0xd, 0xb8, 0, who, 0xff, 0xff, 0, 0, 0, 0, who, 0, 0xfe]);
            bytes.push(who + 1);
            bytes
        }
    }
}

fn word(version: Version, who: u8) -> Words {
    let bytes = address(version, who);
    match version {
        Version::V4 => v4_words(bytes.try_into().unwrap()),
        Version::V6 => parse::words(&bytes.try_into().unwrap()),
    }
}

fn checksum(parts: &[&[u8]]) -> [u8; 2] {
    let sum: u32 = parts.iter().map(|bytes| crate::checksum::sum(bytes)).sum();
    (!crate::checksum::fold(sum)).to_be_bytes()
}

/// What is in a packet besides its addresses and ports.
#[derive(Clone, Debug)]
struct Look {
    version: Version,
    protocol: u8,
    flags: u8,
    /// IPv4 options, in words; IPv6 destination options, in eights.
    extra: u8,
    payload: Vec<u8>,
    /// UDP over IPv4 without a checksum.
    unsummed: bool,
}

/// TCP or UDP, checksum included.
fn transport(look: &Look, from: (u8, u16), to: (u8, u16)) -> Vec<u8> {
    let mut bytes = [from.1.to_be_bytes(), to.1.to_be_bytes()].concat();
    if look.protocol == TCP {
        bytes.extend([1, 2, 3, 4, 5, 6, 7, 8, 0x50, look.flags, 0xff, 0xff, 0, 0, 0, 0]);
    } else {
        bytes.extend((8 + look.payload.len() as u16).to_be_bytes());
        bytes.extend([0, 0]);
    }
    bytes.extend(&look.payload);
    let pseudo = [
        address(look.version, from.0),
        address(look.version, to.0),
        Vec::from([0, look.protocol]),
        Vec::from((bytes.len() as u16).to_be_bytes()),
    ]
    .concat();
    let mut sum = checksum(&[&pseudo, &bytes]);
    if look.protocol == UDP {
        sum = if look.unsummed {
            [0; 2]
        } else if sum == [0; 2] {
            [0xff; 2]
        } else {
            sum
        };
    }
    let at = sum_at(look.protocol);
    bytes[at..at + 2].copy_from_slice(&sum);
    bytes
}

/// An IP packet around `inside`; a fragment where `fragment` says offset (in eights), more, and identification.
fn ip(
    look: &Look,
    protocol: u8,
    from: u8,
    to: u8,
    fragment: Option<(u16, bool, u16)>,
    inside: &[u8],
) -> Vec<u8> {
    let (source, destination) = (address(look.version, from), address(look.version, to));
    match look.version {
        Version::V4 => {
            let words = 5 + look.extra;
            let total = u16::from(words) * 4 + inside.len() as u16;
            let (offset, more, id) = fragment.unwrap_or((0, false, 0x1234));
            let mut h = Vec::from([0x40 | words, 0x28]);
            h.extend(total.to_be_bytes());
            h.extend(id.to_be_bytes());
            h.extend((offset | u16::from(more) << 13).to_be_bytes());
            h.extend([61, protocol, 0, 0]);
            h.extend([source, destination].concat());
            h.extend(std::iter::repeat_n(1, usize::from(look.extra) * 4));
            let sum = checksum(&[&h]);
            h[10..12].copy_from_slice(&sum);
            [&h, inside].concat()
        }
        Version::V6 => {
            let mut inner = inside.to_vec();
            let mut next = protocol;
            if look.extra > 0 && fragment.is_none() {
                let mut options = Vec::from([next, look.extra - 1]);
                options.resize(usize::from(look.extra) * 8, 0);
                inner = [options, inner].concat();
                next = 60;
            }
            if let Some((offset, more, id)) = fragment {
                let mut header = Vec::from([next, 0]);
                header.extend((offset << 3 | u16::from(more)).to_be_bytes());
                header.extend(u32::from(id).to_be_bytes());
                inner = [header, inner].concat();
                next = 44;
            }
            let mut h = Vec::from([0x62, 0x80, 0, 9]);
            h.extend((inner.len() as u16).to_be_bytes());
            h.extend([next, 61]);
            h.extend([source, destination].concat());
            [h, inner].concat()
        }
    }
}

fn frame(look: &Look, packet: &[u8]) -> Vec<u8> {
    let kind = parse::ethertype(look.version);
    // What is behind the packet is padding.
    [&[2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2][..], &kind, packet, &[0xee; 3]].concat()
}

fn whole(look: &Look, from: (u8, u16), to: (u8, u16)) -> Vec<u8> {
    frame(look, &ip(look, look.protocol, from.0, to.0, None, &transport(look, from, to)))
}

/// An ICMP error from `by` to `to`, quoting the first `quoted` bytes of `packet` behind its IP header.
fn error(look: &Look, by: u8, to: u8, packet: &[u8], quoted: usize) -> Vec<u8> {
    let plain = Look { extra: 0, ..look.clone() };
    let header = if look.version == Version::V4 {
        20 + 4 * usize::from(look.extra)
    } else {
        40 + 8 * usize::from(look.extra)
    };
    let quote = &packet[..packet.len().min(header + quoted)];
    let (protocol, kind) = if look.version == Version::V4 { (ICMP, 3) } else { (ICMPV6, 1) };
    let mut message = [&[kind, 1, 0, 0, 0, 0, 0, 0][..], quote].concat();
    let pseudo = match look.version {
        Version::V4 => Vec::new(),
        Version::V6 => [
            address(look.version, by),
            address(look.version, to),
            Vec::from([0, protocol]),
            Vec::from((message.len() as u16).to_be_bytes()),
        ]
        .concat(),
    };
    let sum = checksum(&[&pseudo, &message]);
    message[2..4].copy_from_slice(&sum);
    frame(look, &ip(&plain, protocol, by, to, None, &message))
}

/// Maps as the kernel has them.
#[derive(Default)]
struct Maps {
    ports: HashMap<[u8; 40], u16>,
    flows: RefCell<HashMap<[u8; 40], PodPeer>>,
    room: Cell<Option<usize>>,
    now: Cell<u32>,
}

impl Maps {
    fn with(look: &Look, port: u16, target: u16) -> Self {
        let mut maps = Self::default();
        maps.lead(look, VIP, port, target);
        maps
    }

    fn lead(&mut self, look: &Look, vip: u8, port: u16, target: u16) {
        let (vip, pod) = (word(look.version, vip), word(look.version, POD));
        for (key, value) in [
            (PodPort::of(vip, pod, look.protocol, port.to_be_bytes()), target),
            (PodPort::any(vip, pod, look.protocol), 0),
        ] {
            self.ports.insert(bytemuck::cast(key), value);
        }
    }
}

impl Tables for Maps {
    fn pod_port(&self, key: &PodPort) -> Option<u16> {
        self.ports.get(&bytemuck::cast::<_, [u8; 40]>(*key)).copied()
    }
    fn pod_flow(&self, key: &PodFlow) -> Option<PodPeer> {
        self.flows.borrow().get(&bytemuck::cast::<_, [u8; 40]>(*key)).copied()
    }
    fn remember(&self, key: &PodFlow, peer: &PodPeer) -> bool {
        let mut flows = self.flows.borrow_mut();
        if self.room.get().is_some_and(|room| flows.len() >= room) {
            return false;
        }
        flows.insert(bytemuck::cast(*key), *peer);
        true
    }
    fn second(&self) -> u32 {
        self.now.get()
    }
}

fn read(frame: &[u8], version: Version) -> Ip {
    parse::ip(frame, parse::addresses(frame, 14, version).unwrap()).unwrap()
}

fn go_in(frame: &mut [u8], look: &Look, maps: &Maps) -> Result<(), DropReason> {
    let ip = read(frame, look.version);
    inbound(frame, &ip, word(look.version, POD), maps)
}

fn go_out(frame: &mut [u8], look: &Look, maps: &Maps) -> Option<()> {
    let ip = read(frame, look.version);
    outbound(frame, &ip, maps)
}

fn looks() -> impl Strategy<Value = Look> {
    let version = select(std::vec![Version::V4, Version::V6]);
    (version, select(std::vec![TCP, UDP]), any::<u8>(), 0..4u8, vec(any::<u8>(), 0..40), any::<bool>())
        .prop_map(|(version, protocol, flags, extra, payload, unsummed)| {
            let unsummed = unsummed && protocol == UDP && version == Version::V4;
            Look { version, protocol, flags, extra, payload, unsummed }
        })
}

fn plain(version: Version, protocol: u8) -> Look {
    Look { version, protocol, flags: 0x10, extra: 0, payload: b"hello".to_vec(), unsummed: false }
}

fn all() -> impl Iterator<Item = Look> {
    [Version::V4, Version::V6]
        .into_iter()
        .flat_map(|version| [TCP, UDP].map(|protocol| plain(version, protocol)))
}

proptest! {
    #[test]
    fn there_and_back_is_as_if_written_anew(look in looks(), client in any::<u16>(), port in any::<u16>(), target in any::<u16>()) {
        let maps = Maps::with(&look, port, target);
        let mut packet = whole(&look, (CLIENT, client), (VIP, port));
        prop_assert_eq!(go_in(&mut packet, &look, &maps), Ok(()));
        prop_assert_eq!(packet, whole(&look, (CLIENT, client), (POD, target)));
        let mut answer = whole(&look, (POD, target), (CLIENT, client));
        prop_assert_eq!(go_out(&mut answer, &look, &maps), Some(()));
        prop_assert_eq!(answer, whole(&look, (VIP, port), (CLIENT, client)));
    }

    #[test]
    fn errors_are_translated_with_what_they_quote(
        look in looks(), client in any::<u16>(), port in any::<u16>(), target in any::<u16>(), halves in 4..32usize, by_node in any::<bool>()
    ) {
        // Half of a checksum that is quoted cannot be updated.
        let quoted = 2 * halves;
        let maps = Maps::with(&look, port, target);
        let mut opens = whole(&look, (CLIENT, client), (VIP, port));
        go_in(&mut opens, &look, &maps).unwrap();
        let packet = |from: (u8, u16), to: (u8, u16)| {
            ip(&look, look.protocol, from.0, to.0, None, &transport(&look, from, to))
        };
        // A router complains about an answer.
        let mut told = error(&look, ROUTER, VIP, &packet((VIP, port), (CLIENT, client)), quoted);
        prop_assert_eq!(go_in(&mut told, &look, &maps), Ok(()));
        prop_assert_eq!(told, error(&look, ROUTER, POD, &packet((POD, target), (CLIENT, client)), quoted));
        // The pod, or its node, complains about a packet of the client's.
        let (inner, outer) = if by_node { (ROUTER, ROUTER) } else { (POD, VIP) };
        let mut told = error(&look, inner, CLIENT, &packet((CLIENT, client), (POD, target)), quoted);
        prop_assert_eq!(go_out(&mut told, &look, &maps), Some(()));
        prop_assert_eq!(told, error(&look, outer, CLIENT, &packet((CLIENT, client), (VIP, port)), quoted));
    }

    #[test]
    fn fragments_are_put_together_at_the_other_end(look in looks(), id in any::<u16>(), more in vec(any::<u8>(), 40..64)) {
        let look = Look { payload: more, ..look };
        let maps = Maps::with(&look, 80, 8080);
        let pieces = |from: (u8, u16), to: (u8, u16)| -> Vec<Vec<u8>> {
            let bytes = transport(&look, from, to);
            let (first, rest) = bytes.split_at(24);
            let piece = |offset, more, bytes: &[u8]| {
                frame(&look, &ip(&look, look.protocol, from.0, to.0, Some((offset, more, id)), bytes))
            };
            Vec::from([piece(0, true, first), piece(3, false, rest)])
        };
        let there = pieces((CLIENT, 999), (VIP, 80)).into_iter().map(|mut piece| {
            go_in(&mut piece, &look, &maps).unwrap();
            piece
        });
        prop_assert_eq!(there.collect::<Vec<_>>(), pieces((CLIENT, 999), (POD, 8080)));
        let back = pieces((POD, 8080), (CLIENT, 999)).into_iter().map(|mut piece| {
            go_out(&mut piece, &look, &maps).unwrap();
            piece
        });
        prop_assert_eq!(back.collect::<Vec<_>>(), pieces((VIP, 80), (CLIENT, 999)));
        // The identification comes round again, for a datagram to a stranger.
        maps.now.set(FRAGMENT_LIFE);
        let mut late = pieces((POD, 8080), (CLIENT, 999)).remove(1);
        prop_assert_eq!(go_out(&mut late, &look, &maps), None);
    }

    /// Whatever the bytes, nothing panics, and what leaves alone is left as it was.
    #[test]
    fn noise_is_survived(look in looks(), cut in 0..80usize, at in 14..90usize, byte in any::<u8>()) {
        let maps = Maps::with(&look, 80, 8080);
        let mut packet = whole(&look, (CLIENT, 999), (VIP, 80));
        let len = packet.len();
        if let Some(target) = packet.get_mut(at) {
            *target = byte;
        }
        let packet = &mut packet[..len.saturating_sub(cut)];
        if let Some(Ok(ip)) = parse::addresses(&*packet, 14, look.version).map(|a| parse::ip(&*packet, a)) {
            let _ = inbound(packet, &ip, word(look.version, POD), &maps);
            let before = packet.to_vec();
            if outbound(packet, &ip, &Maps::default()).is_none() {
                prop_assert_eq!(&*packet, &before[..]);
            }
        }
    }
}

#[test]
fn strangers_of_a_pod_are_left_alone() {
    for look in all() {
        let maps = Maps::with(&look, 80, 8080);
        let mut opens = whole(&look, (CLIENT, 999), (VIP, 80));
        go_in(&mut opens, &look, &maps).unwrap();
        for (from, to) in
            [((POD, 8080), (CLIENT, 998)), ((POD, 8081), (CLIENT, 999)), ((POD, 8080), (ROUTER, 999))]
        {
            let mut packet = whole(&look, from, to);
            assert_eq!(go_out(&mut packet, &look, &maps), None);
            assert_eq!(packet, whole(&look, from, to));
        }
    }
}

#[test]
fn what_leads_nowhere_is_named() {
    for look in all() {
        let maps = Maps::with(&look, 80, 8080);
        let mut unknown = whole(&look, (CLIENT, 999), (VIP, 81));
        assert_eq!(go_in(&mut unknown, &look, &maps), Err(DropReason::PodPort));
        let mut unknown = whole(&look, (CLIENT, 999), (OTHER_VIP, 80));
        assert_eq!(go_in(&mut unknown, &look, &maps), Err(DropReason::PodPort));
        let piece = |vip| frame(&look, &ip(&look, look.protocol, CLIENT, vip, Some((3, false, 1)), &[0; 16]));
        assert_eq!(go_in(&mut piece(OTHER_VIP), &look, &maps), Err(DropReason::PodPort));
        let mut sctp = frame(&look, &ip(&look, 132, CLIENT, VIP, None, &[0; 16]));
        assert_eq!(go_in(&mut sctp, &look, &maps), Err(DropReason::PodProtocol));
        let mut tiny = frame(&look, &ip(&look, look.protocol, CLIENT, VIP, None, &[0, 1, 0, 80]));
        assert_eq!(go_in(&mut tiny, &look, &maps), Err(DropReason::L4Truncated));
        maps.room.set(Some(0));
        let mut new = whole(&look, (CLIENT, 999), (VIP, 80));
        assert_eq!(go_in(&mut new, &look, &maps), Err(DropReason::PodFlowsFull));
    }
}

/// Two VIPs lead to one port of the pod, and one client uses one port for both.
#[test]
fn a_pod_sees_one_flow_at_a_time_where_two_would_look_the_same() {
    for look in all() {
        let mut maps = Maps::with(&look, 80, 8080);
        maps.lead(&look, OTHER_VIP, 443, 8080);
        let send = |vip: (u8, u16), flags| {
            let look = Look { flags, ..look.clone() };
            go_in(&mut whole(&look, (CLIENT, 999), vip), &look, &maps)
        };
        let (one, two) = ((VIP, 80), (OTHER_VIP, 443));
        assert_eq!(send(one, SYN), Ok(()));
        assert_eq!(send(two, SYN), Err(DropReason::PodFlowTaken), "not even by a SYN: it may be forged");
        maps.now.set(HOLD - 1);
        assert_eq!(send(one, 0x10), Ok(()));
        maps.now.set(HOLD);
        assert_eq!(send(two, SYN), Err(DropReason::PodFlowTaken), "the first one has spoken since");
        maps.now.set(2 * HOLD - 1);
        assert_eq!(send(two, SYN), Ok(()), "the first one is silent");
        let mut answer = whole(&look, (POD, 8080), (CLIENT, 999));
        go_out(&mut answer, &look, &maps).unwrap();
        assert_eq!(answer, whole(&look, (OTHER_VIP, 443), (CLIENT, 999)));
        if look.protocol == TCP {
            assert_eq!(send(two, 0x11), Ok(()));
            assert_eq!(send(two, 0x10), Ok(()), "the last acknowledgement opens nothing");
            assert_eq!(send(one, SYN), Ok(()), "the other one is over");
            assert_eq!(send(two, SYN), Err(DropReason::PodFlowTaken));
        }
    }
}

#[test]
fn the_delta_is_that_of_a_full_sum() {
    let mut bytes = [0x45u8, 0, 0, 0x54, 0xbe, 0xef, 0x40, 0, 64, 1, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
    for new in [[0u8, 0], [0, 1], [8, 0], [0xff, 0xff], [0x40, 1]] {
        let before = checksum(&[&bytes]);
        let delta = Delta::default().word([bytes[8], bytes[9]], new);
        bytes[8..10].copy_from_slice(&new);
        assert_eq!(delta.apply(before), checksum(&[&bytes]));
    }
    let [a, b] = [word(Version::V6, CLIENT), word(Version::V6, VIP)];
    let sum = |w| checksum(&[&bytes_of(w)]);
    assert_eq!(Delta::default().address(a, b).apply(sum(a)), sum(b));
    assert_eq!(Delta::default().address(a, a).sum(), 0xffff, "one of the two zeros");
}

fn bytes_of(words: Words) -> [u8; 16] {
    bytes(words)
}
