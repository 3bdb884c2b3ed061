use std::vec::Vec;

use proptest::prelude::*;

use super::*;

/// The payload behind 42 bytes of headers and before six of padding.
fn asked(payload: &[u8], config: &Config) -> Route {
    let frame = [&[0xaa; 42][..], payload, &[0xbb; 6]].concat();
    route(&frame[..], Payload { start: 42, end: 42 + payload.len() }, config)
}

fn long(version: u32, dcid: &[u8]) -> Vec<u8> {
    let len = [dcid.len() as u8];
    // An empty source connection id, and some of the packet.
    [&[0xc3][..], &version.to_be_bytes(), &len, dcid, &[0], &[0x5a; 16]].concat()
}

fn short(dcid: &[u8]) -> Vec<u8> {
    [&[0x43][..], dcid, &[0x5a; 16]].concat()
}

fn cid(config_id: u8, len: u8, server_id: &[u8], nonce: &[u8]) -> Vec<u8> {
    [&[config_id << 5 | len][..], server_id, nonce].concat()
}

fn config(ids: u8, server_id_len: u8, nonce_len: u8) -> Config {
    Config::new(ids, server_id_len, nonce_len, true).unwrap()
}

fn server(id: &[u8]) -> Route {
    Route::Server(ServerId::new(id).unwrap())
}

/// Appendix B.1 of the draft: `cr_bits 0, sid c4605e, nonce 4504cc4f, cid 07c4605e4504cc4f`.
#[test]
fn the_drafts_first_vector() {
    let dcid = [0x07, 0xc4, 0x60, 0x5e, 0x45, 0x04, 0xcc, 0x4f];
    let config = config(1, 3, 4);
    assert_eq!(asked(&short(&dcid), &config), server(&[0xc4, 0x60, 0x5e]));
    assert_eq!(asked(&long(1, &dcid), &config), server(&[0xc4, 0x60, 0x5e]));
}

/// The second, `cr_bits 1, sid 350d28b420, nonce 3487d970b`. The draft prints it with a digit misplaced and one lost
/// (`20a350d28b4203487d970b`, where `2a350d28b4203487d9700b` has the length that the text asks for).
#[test]
fn the_drafts_second_vector() {
    let dcid = cid(1, 10, &[0x35, 0x0d, 0x28, 0xb4, 0x20], &[0x34, 0x87, 0xd9, 0x70, 0x0b]);
    assert_eq!(dcid[0], 0x2a);
    let config = config(1 << 1, 5, 5);
    assert_eq!(asked(&short(&dcid), &config), server(&[0x35, 0x0d, 0x28, 0xb4, 0x20]));
    assert_eq!(asked(&long(0x6b33_43cf, &dcid), &config), server(&[0x35, 0x0d, 0x28, 0xb4, 0x20]));
}

/// RFC 9001 appendix A: the client's first Initial, DCID `8394c8f03e515708`.
#[test]
fn a_clients_own_id_falls_back() {
    let dcid = [0x83, 0x94, 0xc8, 0xf0, 0x3e, 0x51, 0x57, 0x08];
    let initial = long(1, &dcid);
    assert_eq!(asked(&initial, &config(1, 3, 4)), Route::Fallback(Unroutable::ConfigId));
    // 0x83 is configuration 4 and says 3: the length gives it away, or its own, or nothing.
    assert_eq!(asked(&initial, &config(1 << 4, 3, 4)), Route::Fallback(Unroutable::CidLength));
    assert_eq!(asked(&initial, &config(1 << 4, 3, 5)), Route::Fallback(Unroutable::CidTooShort));
    let unchecked = Config::new(1 << 4, 3, 4, false).unwrap();
    assert_eq!(asked(&initial, &unchecked), server(&[0x94, 0xc8, 0xf0]));
}

#[test]
fn several_configurations_at_once() {
    let config = Config::new(1 << 2 | 1 << 5, 2, 4, true).unwrap();
    for id in 0..8 {
        let dcid = cid(id, 6, &[0x0a, 0x01], &[9; 4]);
        let wanted =
            if id == 2 || id == 5 { server(&[0x0a, 0x01]) } else { Route::Fallback(Unroutable::ConfigId) };
        assert_eq!(asked(&short(&dcid), &config), wanted, "{id}");
        assert_eq!(asked(&long(1, &dcid), &config), wanted, "{id}");
    }
}

/// A server without a configuration says so, and even a table that holds bit 7 does not make it ours.
#[test]
fn seven_is_never_routable() {
    let dcid = cid(7, 6, &[1, 2], &[9; 4]);
    let all = Config { config_ids: 0xff, server_id_len: 2, cid_len: 7, flags: 0 };
    assert_eq!(asked(&short(&dcid), &all), Route::Fallback(Unroutable::ConfigId));
}

#[test]
fn servers_may_append_bytes() {
    let config = config(1, 2, 4);
    let dcid = cid(0, 8, &[0x0a, 0x01], &[9; 6]);
    assert_eq!(asked(&long(1, &dcid), &config), server(&[0x0a, 0x01]));
    assert_eq!(asked(&short(&dcid), &config), server(&[0x0a, 0x01]));
    // Longer than version 1 allows: another version may (RFC 8999).
    let dcid = cid(0, 31, &[0x0a, 0x01], &[9; 29]);
    assert_eq!(asked(&long(0x1a2a_3a4a, &dcid), &config), server(&[0x0a, 0x01]));
}

#[test]
fn the_length_inside_must_fit() {
    let config = config(1, 2, 4);
    let at =
        |len: u8, packet: fn(&[u8]) -> Vec<u8>| asked(&packet(&cid(0, len, &[0x0a, 0x01], &[9; 4])), &config);
    let wrong = Route::Fallback(Unroutable::CidLength);
    assert_eq!(at(5, short), wrong);
    assert_eq!(at(5, |dcid| long(1, dcid)), wrong);
    assert_eq!(at(7, |dcid| long(1, dcid)), wrong);
    assert_eq!(at(6, short), server(&[0x0a, 0x01]));
    // 23 bytes of datagram follow the first: an id of 23 fits, one of 24 does not.
    assert_eq!(at(22, short), server(&[0x0a, 0x01]));
    assert_eq!(at(23, short), wrong);
}

#[test]
fn version_negotiation_is_no_clients() {
    let dcid = cid(0, 6, &[0x0a, 0x01], &[9; 4]);
    assert_eq!(asked(&long(0, &dcid), &config(1, 2, 4)), Route::Fallback(Unroutable::VersionNegotiation));
}

#[test]
fn cut_datagrams_are_named() {
    let config = config(1, 2, 4);
    let dcid = cid(0, 6, &[0x0a, 0x01], &[9; 4]);
    let cut = Route::Fallback(Unroutable::Truncated);
    for len in 0..8 {
        assert_eq!(asked(&short(&dcid)[..len], &config), cut, "{len}");
    }
    assert_eq!(asked(&short(&dcid)[..8], &config), server(&[0x0a, 0x01]));
    for len in 1..13 {
        assert_eq!(asked(&long(1, &dcid)[..len], &config), cut, "{len}");
    }
    assert_eq!(asked(&long(1, &dcid)[..13], &config), server(&[0x0a, 0x01]));
    assert_eq!(asked(&long(1, &[]), &config), Route::Fallback(Unroutable::CidTooShort));
}

#[test]
fn configurations_that_the_draft_forbids() {
    assert!(Config::new(1, 8, 11, true).is_some());
    assert!(Config::new(Config::ANY, 1, 18, false).is_some());
    for (ids, server_id, nonce) in [
        (0, 2, 4),
        (0x80, 2, 4),
        (0xff, 2, 4),
        (1, 0, 4),
        (1, 9, 4),
        (1, 2, 3),
        (1, 8, 12),
        (1, 1, 19),
        (1, 2, 255),
    ] {
        assert_eq!(Config::new(ids, server_id, nonce, true), None, "{ids:#x} {server_id} {nonce}");
    }
}

proptest! {
    /// Whatever the first byte's other bits, the version and the nonce: the id comes back in both forms.
    #[test]
    fn ids_come_back(
        first in any::<u8>(),
        version in 1u32..,
        config_id in 0u8..7,
        id in proptest::collection::vec(any::<u8>(), 1..=8),
        nonce in proptest::collection::vec(any::<u8>(), 4..=11),
    ) {
        let dcid = cid(config_id, (id.len() + nonce.len()) as u8, &id, &nonce);
        let config = config(1 << config_id, id.len() as u8, nonce.len() as u8);
        let (mut a, mut b) = (long(version, &dcid), short(&dcid));
        a[0] = first | 0x80;
        b[0] = first & 0x7f;
        prop_assert_eq!(asked(&a, &config), server(&id));
        prop_assert_eq!(asked(&b, &config), server(&id));
    }
}
