//! Tests of [`super`]: what we write is read back by the codec, and is what the RFCs draw.

use bytes::Bytes;
use proptest::prelude::*;
use rustbgpd_wire::{Message, decode_message};

use super::super::settings::{Community, LargeCommunity as Large};
use super::*;

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn host(text: &str) -> Prefix {
    Prefix::host(ip(text))
}

fn attributes(next_hop: &str) -> Attributes {
    Attributes {
        as_path: vec![4_200_000_001, 4_200_000_001],
        next_hop: ip(next_hop),
        med: Some(50),
        local_pref: None,
        communities: vec![Community(0xfbf4_0064)],
        large_communities: vec![Large(64_500, 1, 2)],
    }
}

fn decode(bytes: &BytesMut) -> UpdateMessage {
    let mut bytes = Bytes::copy_from_slice(bytes);
    match decode_message(&mut bytes, LONGEST).unwrap() {
        Message::Update(update) => update,
        other => panic!("{other:?}"),
    }
}

fn announce(attributes: Attributes, prefixes: Vec<Prefix>) -> Changes {
    Changes { withdraw: Vec::new(), announce: vec![(attributes, prefixes)] }
}

#[test]
fn ipv4_over_ipv4_byte_for_byte() {
    let messages = updates(&announce(attributes("10.0.0.2"), vec![host("203.0.113.10")]), true).unwrap();
    assert_eq!(messages.len(), 1);
    let expected: &[&[u8]] = &[
        &[0xff; 16],
        &[0, 19 + 4 + 53 + 5, 2],
        &[0, 0, 0, 53],
        &[0x40, 1, 1, 0],                                               // ORIGIN IGP
        &[0x40, 2, 10, 2, 2, 0xfa, 0x56, 0xea, 1, 0xfa, 0x56, 0xea, 1], // AS_PATH
        &[0x80, 4, 4, 0, 0, 0, 50],                                     // MED
        &[0xc0, 8, 4, 0xfb, 0xf4, 0, 0x64],                             // COMMUNITIES
        &[0xc0, 32, 12, 0, 0, 0xfb, 0xf4, 0, 0, 0, 1, 0, 0, 0, 2],      // LARGE_COMMUNITY
        &[0x40, 3, 4, 10, 0, 0, 2],                                     // NEXT_HOP
        &[32, 203, 0, 113, 10],
    ];
    let mut sorted = expected.concat();
    // The codec may order attributes as it likes; the RFC only wishes for an order.
    let mut found = messages[0].to_vec();
    assert_eq!(found.len(), sorted.len(), "{found:02x?}");
    assert_eq!(found[..23], sorted[..23]);
    found.sort_unstable();
    sorted.sort_unstable();
    assert_eq!(found, sorted);
}

#[test]
fn next_hops_of_ipv6_are_in_mp_reach_alone() {
    for prefix in ["203.0.113.10", "2001:db8::10"] {
        let messages = updates(&announce(attributes("fd00::2"), vec![host(prefix)]), true).unwrap();
        let parsed = decode(&messages[0]).parse(true, false, &[]).unwrap();
        assert!(parsed.announced.is_empty(), "{parsed:?}");
        let reach = parsed.attributes.iter().find_map(|a| match a {
            PathAttribute::MpReachNlri(reach) => Some(reach),
            PathAttribute::NextHop(_) => panic!("NEXT_HOP beside MP_REACH_NLRI"),
            _ => None,
        });
        let reach = reach.unwrap();
        assert_eq!((reach.next_hop, reach.announced.len()), (ip("fd00::2"), 1));
        assert_eq!(reach.afi, if prefix.contains(':') { Afi::Ipv6 } else { Afi::Ipv4 });
    }
}

#[test]
fn withdrawals_go_the_way_the_routes_came() {
    let changes = Changes {
        withdraw: vec![
            (host("203.0.113.1"), ip("10.0.0.2")),
            (host("203.0.113.2"), ip("fd00::2")),
            (host("2001:db8::1"), ip("fd00::2")),
        ],
        announce: Vec::new(),
    };
    let heard: Vec<Heard> =
        updates(&changes, true).unwrap().iter().map(|m| heard(&decode(m), true, false).unwrap()).collect();
    let all: Vec<Prefix> = heard.iter().flat_map(|h| h.withdrawn.clone()).collect();
    assert_eq!(all, [host("203.0.113.1"), host("203.0.113.2"), host("2001:db8::1")]);
    let messages = updates(&changes, true).unwrap();
    assert!(!decode(&messages[0]).withdrawn_routes.is_empty());
    assert!(messages[1..].iter().all(|m| decode(m).withdrawn_routes.is_empty()));
}

#[test]
fn the_end_of_the_rib() {
    let four = end_of_rib(false).unwrap();
    assert_eq!(four[16..], [0, 23, 2, 0, 0, 0, 0]);
    let six = decode(&end_of_rib(true).unwrap());
    assert_eq!(six.path_attributes[..], [0x80, 15, 3, 0, 2, 1]);
}

#[test]
fn the_open_keeps_forwarding_and_offers_nothing_we_do_not_do() {
    let open = OpenMessage {
        version: 4,
        my_as: 23_456,
        hold_time: 9,
        bgp_identifier: "10.0.0.2".parse().unwrap(),
        capabilities: vec![
            Capability::MultiProtocol { afi: Afi::Ipv4, safi: Safi::Unicast },
            Capability::MultiProtocol { afi: Afi::Ipv6, safi: Safi::Unicast },
            Capability::RouteRefresh,
            Capability::EnhancedRouteRefresh,
            Capability::ExtendedMessage,
            Capability::GracefulRestart {
                restart_state: false,
                notification: true,
                restart_time: 5,
                families: Vec::new(),
            },
            Capability::FourOctetAs { asn: 4_200_000_001 },
        ],
    };
    let restart = |open: &OpenMessage| {
        open.capabilities.iter().find_map(|c| match c {
            Capability::GracefulRestart { restart_state, notification, restart_time, families } => Some((
                *restart_state,
                *notification,
                *restart_time,
                families.iter().filter(|f| f.forwarding_preserved).count(),
            )),
            _ => None,
        })
    };
    for restarted in [false, true] {
        let ours = our_open(open.clone(), Some(30), restarted);
        assert_eq!(restart(&ours), Some((restarted, false, 30, 2)));
        assert!(ours.capabilities.contains(&Capability::RouteRefresh));
        for not in [Capability::EnhancedRouteRefresh, Capability::ExtendedMessage] {
            assert!(!ours.capabilities.contains(&not), "{not:?}");
        }
    }
    assert_eq!(restart(&our_open(open, None, true)), None);
}

#[test]
fn many_prefixes_fill_messages_and_none_is_lost() {
    for (prefixes, least) in [
        (
            (0..10_000u32)
                .map(|i| Prefix::host(std::net::Ipv4Addr::from(0x0a00_0000 + i).into()))
                .collect::<Vec<_>>(),
            10,
        ),
        ((0..2000u128).map(|i| Prefix::host(std::net::Ipv6Addr::from(i << 3).into())).collect(), 5),
    ] {
        let hop = if prefixes[0].address.is_ipv4() { "10.0.0.2" } else { "fd00::2" };
        let messages = updates(&announce(attributes(hop), prefixes.clone()), true).unwrap();
        assert!(messages.iter().all(|m| m.len() <= usize::from(LONGEST)));
        assert!((least..2 * least + 5).contains(&messages.len()), "{} messages", messages.len());
        let heard: Vec<Prefix> =
            messages.iter().flat_map(|m| heard(&decode(m), true, false).unwrap().announced).collect();
        assert_eq!(heard, prefixes);
    }
}

proptest! {
    /// Whatever a router sends: an answer, never a panic.
    #[test]
    fn any_bytes_as_an_update(body in proptest::collection::vec(any::<u8>(), 0..300), four in any::<bool>(), internal in any::<bool>()) {
        let mut bytes = Bytes::copy_from_slice(&body);
        if let Ok(update) = UpdateMessage::decode(&mut bytes, body.len()) {
            drop(heard(&update, four, internal));
        }
    }
}
