use std::{string::String, vec::Vec};

use proptest::prelude::*;

use super::*;

const SEED: u64 = 0x5eed;

/// RFC 5769 section 2.1: a request with USERNAME `evtj:h6vY`.
const RFC_REQUEST: &str = "000100582112a442b7e7a701bc34d686fa87dfae802200105354554e207465737420636c69656e74\
    002400046e0001ff80290008932ff9b151263b36000600096576746a3a68367659202020\
    000800149aeaa70cbfd8cb56781ef2b5b2d3f249c1b571a280280004e57a3bcf";
/// RFC 5769 section 2.2: a response.
const RFC_RESPONSE: &str = "0101003c2112a442b7e7a701bc34d686fa87dfae8022000b7465737420766563746f7220\
    002000080001a147e112a643000800142b91f599fd9e90c38c7489f92af9ba53f06be7d780280004c07d4c96";

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
    digits.chunks(2).map(|c| u8::from_str_radix(str::from_utf8(c).unwrap(), 16).unwrap()).collect()
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = [&kind.to_be_bytes()[..], &(value.len() as u16).to_be_bytes(), value].concat();
    bytes.resize(bytes.len().next_multiple_of(4), 0x20);
    bytes
}

fn message(kind: u16, attributes: &[Vec<u8>]) -> Vec<u8> {
    let body = attributes.concat();
    let length = (body.len() as u16).to_be_bytes();
    [&kind.to_be_bytes()[..], &length, &MAGIC_COOKIE.to_be_bytes(), &[7; 12], &body].concat()
}

fn request_for(name: &[u8]) -> Vec<u8> {
    message(1, &[attribute(USERNAME, name), attribute(MESSAGE_INTEGRITY, &[0xab; 20])])
}

/// The payload behind 42 bytes of headers and before six of padding that reads like a name.
fn asked(payload: &[u8], id_len: u8) -> Datagram {
    let frame = [&[0x3a; 42][..], payload, b"ab:cd:"].concat();
    classify(&frame[..], Payload { start: 42, end: 42 + payload.len() }, id_len, SEED)
}

#[track_caller]
fn ufrag(payload: &[u8], id_len: u8) -> Ufrag {
    match asked(payload, id_len) {
        Datagram::BindingRequest(ufrag) => ufrag,
        other => panic!("{other:?}"),
    }
}

fn id(text: &[u8]) -> ServerId {
    ServerId::new(text).unwrap()
}

#[test]
fn the_sample_request_of_rfc_5769() {
    let request = hex(RFC_REQUEST);
    assert_eq!(request.len(), 108);
    for len in 1..=4u8 {
        assert_eq!(ufrag(&request, len).server_id, id(&b"evtj"[..len as usize]));
    }
    assert_eq!(asked(&request, 5), Datagram::Unroutable(Unroutable::UfragTooShort));
}

#[test]
fn the_sample_response_of_rfc_5769() {
    assert_eq!(asked(&hex(RFC_RESPONSE), 2), Datagram::OtherStun);
}

/// RFC 5769 section 2.4: long-term credentials, whose name (six katakana) has no colon.
#[test]
fn the_long_term_request_of_rfc_5769() {
    let request = message(
        1,
        &[
            attribute(USERNAME, "\u{30DE}\u{30C8}\u{30EA}\u{30C3}\u{30AF}\u{30B9}".as_bytes()),
            attribute(0x0015, b"f//499k954d6OL34oL9FSTvy64sA"),
            attribute(0x0014, b"example.org"),
            attribute(MESSAGE_INTEGRITY, &hex("f67024656dd64a3e02b8e0712e85c9a28ca89666")),
        ],
    );
    assert_eq!(request[2..4], [0, 0x60]);
    assert_eq!(asked(&request, 2), Datagram::Unroutable(Unroutable::NoSeparator));
}

#[test]
fn other_classes_and_methods_have_no_affinity() {
    // Success, error, indication; TURN's Allocate and Send; the highest type that RFC 7983 leaves to STUN.
    for kind in [0x0101, 0x0111, 0x0011, 0x0003, 0x0016, 0x03ff] {
        assert_eq!(
            asked(&message(kind, &[attribute(USERNAME, b"ab:cd")]), 2),
            Datagram::OtherStun,
            "{kind:#x}"
        );
    }
}

#[test]
fn what_else_is_on_the_port() {
    let not = |bytes: &[u8]| match asked(bytes, 2) {
        Datagram::NotStun(protocol) => protocol,
        other => panic!("{other:?}"),
    };
    assert_eq!(not(&[]), Protocol::Unknown);
    assert_eq!(not(&[0, 1, 0, 0]), Protocol::Unknown);
    let mut classic = request_for(b"ab:cd");
    classic[4] = 0;
    assert_eq!(not(&classic), Protocol::Unknown);
    for (first, wanted) in [
        (4, Protocol::Unknown),
        (15, Protocol::Unknown),
        (16, Protocol::Zrtp),
        (19, Protocol::Zrtp),
        (20, Protocol::Dtls),
        (22, Protocol::Dtls),
        (63, Protocol::Dtls),
        (64, Protocol::ChannelData),
        (79, Protocol::ChannelData),
        (80, Protocol::Quic),
        (127, Protocol::Quic),
        (128, Protocol::Rtp),
        (191, Protocol::Rtp),
        (192, Protocol::Quic),
        (255, Protocol::Quic),
    ] {
        assert_eq!(not(&[first, 96, 0, 0]), wanted, "{first}");
    }
    assert_eq!(not(&[0x80, 200, 0, 0]), Protocol::Rtcp);
    assert_eq!(not(&[0x80, 191, 0, 0]), Protocol::Rtp);
    assert_eq!(not(&[0x80]), Protocol::Unknown);
}

#[test]
fn tags_tell_sessions_and_pairs_apart() {
    let of = |name: &[u8]| {
        let found = ufrag(&request_for(name), 1);
        (found.server_tag, found.pair_tag)
    };
    let (server, pair) = of(b"abcd:efgh");
    assert_eq!(of(b"abcd:efgh"), (server, pair));
    let (same_server, other_pair) = of(b"abcd:efgi");
    assert_eq!(same_server, server);
    assert_ne!(other_pair, pair);
    // Longer by words, and with a second colon.
    assert_eq!(of(b"abcd:efgh0123456789012345678901234567890123456789").0, server);
    assert_eq!(of(b"abcd:efgh:abcd").0, server);
    assert_eq!(of(b"abcd:").0, server);
    for other in [&b"abce:efgh"[..], b"abcde:fgh", b"abc:defgh", b"abcd\0:efgh", b"\0abcd:efgh"] {
        assert_ne!(of(other).0, server, "{}", String::from_utf8_lossy(other));
    }
    // Zeros at the end are part of the name.
    assert_ne!(of(b"abcd:efgh\0").1, pair);
}

#[test]
fn tags_depend_on_the_seed() {
    let request = request_for(b"abcd:efgh");
    let of = |seed| {
        classify(
            &[&[0; 42], &request[..]].concat()[..],
            Payload { start: 42, end: 42 + request.len() },
            2,
            seed,
        )
    };
    assert_ne!(of(1), of(2));
    assert_eq!(of(1), of(1));
}

#[test]
fn the_id_must_be_inside_the_servers_ufrag() {
    for (name, len, fits) in [
        (&b"abcd:efgh"[..], 4, true),
        (b"abcd:efgh", 5, false),
        (b"abcdefgh:x", 8, true),
        (b"abcdefg:x", 8, false),
        (b"abcdefghi:x", 8, true),
        (b":abcdefgh", 1, false),
        (b"a:", 1, true),
        (b"a:", 2, false),
    ] {
        let found = asked(&request_for(name), len);
        if fits {
            assert_eq!(ufrag(&request_for(name), len).server_id, id(&name[..len as usize]));
        } else {
            assert_eq!(
                found,
                Datagram::Unroutable(Unroutable::UfragTooShort),
                "{}",
                String::from_utf8_lossy(name)
            );
        }
    }
    assert_eq!(asked(&request_for(b"abcd:efgh"), 0), Datagram::Unroutable(Unroutable::UfragTooShort));
    assert_eq!(asked(&request_for(b"abcdefghij:x"), 9), Datagram::Unroutable(Unroutable::UfragTooShort));
}

#[test]
fn lying_lengths_have_names() {
    let unroutable = |bytes: &[u8]| match asked(bytes, 2) {
        Datagram::Unroutable(why) => why,
        other => panic!("{other:?}"),
    };
    let right = request_for(b"abcd:efgh");
    let mut long = right.clone();
    long[3] += 4;
    assert_eq!(unroutable(&long), Unroutable::Length);
    let mut short = right.clone();
    short[3] -= 4;
    assert_eq!(unroutable(&short), Unroutable::Length);
    let mut odd = right.clone();
    odd[3] += 1;
    odd.push(0);
    assert_eq!(unroutable(&odd), Unroutable::Length);
    assert_eq!(unroutable(&right[..right.len() - 1]), Unroutable::Length);
}

#[test]
fn attributes_that_reach_beyond_the_message() {
    let cut = |value: &[u8], said: u16| {
        let mut bytes = message(1, &[attribute(USERNAME, value)]);
        bytes[22..24].copy_from_slice(&said.to_be_bytes());
        asked(&bytes, 1)
    };
    assert!(matches!(cut(b"ab:cd123", 8), Datagram::BindingRequest(_)));
    assert!(matches!(cut(b"ab:cd123", 5), Datagram::BindingRequest(_)));
    for said in [9, 12, 13, 0x7fff, 0xfffd, 0xffff] {
        assert_eq!(cut(b"ab:cd123", said), Datagram::Unroutable(Unroutable::AttributeTruncated), "{said}");
    }
    let mut other = message(1, &[attribute(0x24, &[0; 4]), attribute(USERNAME, b"ab:cd")]);
    other[22..24].copy_from_slice(&0xffffu16.to_be_bytes());
    assert_eq!(asked(&other, 1), Datagram::Unroutable(Unroutable::AttributeTruncated));
}

#[test]
fn a_name_that_is_missing_late_or_ignored() {
    let none = Datagram::Unroutable(Unroutable::NoUsername);
    assert_eq!(asked(&message(1, &[]), 2), none);
    assert_eq!(asked(&message(1, &[attribute(0x24, &[0; 4])]), 2), none);
    for end in [MESSAGE_INTEGRITY, MESSAGE_INTEGRITY_SHA256, FINGERPRINT] {
        assert_eq!(asked(&message(1, &[attribute(end, &[0; 20]), attribute(USERNAME, b"ab:cd")]), 2), none);
    }
    let before = |n: usize| {
        let mut attributes: Vec<_> = (0..n).map(|i| attribute(0x8030 + i as u16, &[1; 3][..i % 4])).collect();
        attributes.push(attribute(USERNAME, b"ab:cd"));
        asked(&message(1, &attributes), 2)
    };
    for n in 0..MAX_ATTRIBUTES {
        assert!(matches!(before(n), Datagram::BindingRequest(_)), "{n}");
    }
    assert_eq!(before(MAX_ATTRIBUTES), Datagram::Unroutable(Unroutable::TooManyAttributes));
    let ten: Vec<_> = (0..10).map(|_| attribute(0x24, &[0; 4])).collect();
    assert_eq!(asked(&message(1, &ten), 2), none);
}

#[test]
fn the_first_name_counts() {
    let two = message(1, &[attribute(USERNAME, b"ab:cd"), attribute(USERNAME, b"xy:cd")]);
    assert_eq!(ufrag(&two, 2).server_id, id(b"ab"));
}

#[test]
fn long_names_and_long_messages() {
    let name = |server: usize, client: usize| {
        [&std::vec![b'a'; server][..], b":", &std::vec![b'b'; client]].concat()
    };
    // ICE allows 256 characters each, STUN a little less for both together.
    assert_eq!(ufrag(&request_for(&name(256, 251)), 8).server_id, id(b"aaaaaaaa"));
    assert_eq!(ufrag(&request_for(&name(507, 0)), 8).server_id, id(b"aaaaaaaa"));
    assert_eq!(asked(&request_for(&name(508, 0)), 8), Datagram::Unroutable(Unroutable::UsernameTooLong));
    let big = |n: usize| {
        asked(&message(1, &[attribute(USERNAME, b"ab:cd"), attribute(0x8022, &std::vec![0; n])]), 2)
    };
    assert!(matches!(big(MAX_BODY - 16), Datagram::BindingRequest(_)));
    assert_eq!(big(MAX_BODY - 12), Datagram::Unroutable(Unroutable::TooLong));
}

#[test]
fn no_cut_frame_panics_or_reads_beyond() {
    let whole = hex(RFC_REQUEST);
    for len in 0..whole.len() {
        for end in [len, whole.len()] {
            let frame = [&[0; 42], &whole[..len]].concat();
            let _ = classify(&frame[..], Payload { start: 42, end: 42 + end }, 4, SEED);
        }
    }
}

/// What the name means, written without words and masks.
fn plainly(name: &[u8], id_len: u8) -> Result<ServerId, Unroutable> {
    if name.len() > 508 {
        return Err(Unroutable::UsernameTooLong);
    }
    let colon = name.iter().position(|&b| b == b':').ok_or(Unroutable::NoSeparator)?;
    name[..colon].get(..id_len as usize).and_then(ServerId::new).ok_or(Unroutable::UfragTooShort)
}

proptest! {
    #[test]
    fn names_mean_what_they_say(
        name in prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..40),
            proptest::collection::vec(prop_oneof![Just(b':'), Just(b';'), Just(0xbau8), Just(0x39u8), Just(b'a')], 0..530),
        ],
        id_len in 1u8..=8,
    ) {
        let found = match asked(&request_for(&name), id_len) {
            Datagram::BindingRequest(ufrag) => Ok(ufrag.server_id),
            Datagram::Unroutable(why) => Err(why),
            other => return Err(TestCaseError::fail(std::format!("{other:?}"))),
        };
        prop_assert_eq!(found, plainly(&name, id_len));
    }

    #[test]
    fn tags_are_functions_of_the_parts(
        server in "[a-zA-Z0-9+/]{1,40}",
        others in ("[a-zA-Z0-9+/]{0,40}", "[a-zA-Z0-9+/]{0,40}"),
    ) {
        let of = |client: &str| ufrag(&request_for(std::format!("{server}:{client}").as_bytes()), 1);
        let (a, b) = (of(&others.0), of(&others.1));
        prop_assert_eq!(a.server_tag, b.server_tag);
        prop_assert_eq!(a.pair_tag == b.pair_tag, others.0 == others.1);
    }
}
