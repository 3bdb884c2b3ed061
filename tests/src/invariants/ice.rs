//! STUN: the classifier against the same rules written with slices, and blind to what is around the datagram.
//!
//! Input: a byte whose low three bits are the id's length less one, then the UDP payload.

use xdp_lb_common::ice::{self, Datagram, Protocol, Unroutable};
use xdp_lb_common::server_id::ServerId;
use xdp_lb_common::udp::Payload;

const SEED: u64 = 0x1ce;

pub fn check(data: &[u8]) {
    let Some((&knob, payload)) = data.split_first() else { return };
    let id_len = (knob & 7) + 1;
    let found = classify(payload, id_len, SEED, 0, &[]);
    // Neither zeros nor colons around the datagram are part of it.
    assert_eq!(classify(payload, id_len, SEED, b':', &[b':'; 16]), found);
    assert_eq!(classify(payload, id_len, SEED, 0xff, &[0xff; 3]), found);
    match (found, plainly(payload, id_len)) {
        (Datagram::BindingRequest(ufrag), Ok((id, name))) => {
            assert_eq!(ufrag.server_id, id);
            assert!(ufrag.server_tag != 0 && ufrag.pair_tag != 0);
            assert_ne!(classify(payload, id_len, SEED + 1, 0, &[]), found, "tags depend on the seed");
            same_server(name, id_len, ufrag.server_tag);
        }
        (Datagram::BindingRequest(ufrag), Err(other)) => panic!("{ufrag:?}, not {other:?}"),
        (found, model) => assert_eq!(Err(found), model.map(|(id, _)| id)),
    }
}

/// Another client of the same server: the server's tag stays.
fn same_server(name: &[u8], id_len: u8, tag: u32) {
    let server = name.split(|&byte| byte == b':').next().unwrap_or_default();
    for client in [&b"abcd"[..], b"", b"x:y", &[0; 17]] {
        let name = [server, b":", client].concat();
        if let Datagram::BindingRequest(ufrag) = classify(&request(&name), id_len, SEED, 0, &[]) {
            assert_eq!(ufrag.server_tag, tag);
        } else {
            assert!(name.len() > ice::MAX_USERNAME);
        }
    }
}

/// A Binding request with this USERNAME alone.
pub fn request(name: &[u8]) -> Vec<u8> {
    let padded = name.len().next_multiple_of(4);
    let length = u16::try_from(4 + padded).expect("a short name").to_be_bytes();
    let name_length = u16::try_from(name.len()).expect("a short name").to_be_bytes();
    let head = [&[0, 1][..], &length, &[0x21, 0x12, 0xa4, 0x42], &[9; 12], &[0, 6], &name_length];
    let mut message = [&head.concat()[..], name].concat();
    message.resize(24 + padded, 0);
    message
}

fn classify(payload: &[u8], id_len: u8, seed: u64, around: u8, behind: &[u8]) -> Datagram {
    let frame = [&[around; 42], payload, behind].concat();
    ice::classify(&frame[..], Payload { start: 42, end: 42 + payload.len() }, id_len, seed)
}

/// RFC 7983, RFC 8489 and RFC 8445 once more, plainly. The id and the whole name, or what else it is.
fn plainly(payload: &[u8], id_len: u8) -> Result<(ServerId, &[u8]), Datagram> {
    let bad = |why| Err(Datagram::Unroutable(why));
    if payload.len() < 2 {
        return Err(Datagram::NotStun(Protocol::Unknown));
    }
    if payload[0] > 3 {
        return Err(Datagram::NotStun(match payload[0] {
            4..16 => Protocol::Unknown,
            16..20 => Protocol::Zrtp,
            20..64 => Protocol::Dtls,
            64..80 => Protocol::ChannelData,
            128..192 if (192..224).contains(&payload[1]) => Protocol::Rtcp,
            128..192 => Protocol::Rtp,
            _ => Protocol::Quic,
        }));
    }
    if payload.len() < 20 || payload[4..8] != [0x21, 0x12, 0xa4, 0x42] {
        return Err(Datagram::NotStun(Protocol::Unknown));
    }
    if payload[..2] != [0, 1] {
        return Err(Datagram::OtherStun);
    }
    let length = usize::from(u16::from_be_bytes([payload[2], payload[3]]));
    if !length.is_multiple_of(4) || payload.len() != 20 + length {
        return bad(Unroutable::Length);
    }
    if length > ice::MAX_BODY {
        return bad(Unroutable::TooLong);
    }
    let mut rest = &payload[20..];
    for seen in 0.. {
        if rest.is_empty() {
            return bad(Unroutable::NoUsername);
        }
        if seen == ice::MAX_ATTRIBUTES {
            return bad(Unroutable::TooManyAttributes);
        }
        let kind = u16::from_be_bytes([rest[0], rest[1]]);
        let len = usize::from(u16::from_be_bytes([rest[2], rest[3]]));
        let Some(after) = rest.get(4 + len.next_multiple_of(4)..) else {
            return bad(Unroutable::AttributeTruncated);
        };
        match kind {
            0x0006 => return named(&rest[4..4 + len], id_len),
            0x0008 | 0x001c | 0x8028 => return bad(Unroutable::NoUsername),
            _ => rest = after,
        }
    }
    unreachable!("the loop ends by returning")
}

fn named(name: &[u8], id_len: u8) -> Result<(ServerId, &[u8]), Datagram> {
    let bad = |why| Err(Datagram::Unroutable(why));
    if name.len() > ice::MAX_USERNAME {
        return bad(Unroutable::UsernameTooLong);
    }
    let Some(colon) = name.iter().position(|&byte| byte == b':') else {
        return bad(Unroutable::NoSeparator);
    };
    match name[..colon].get(..usize::from(id_len)).and_then(ServerId::new) {
        Some(id) => Ok((id, name)),
        None => bad(Unroutable::UfragTooShort),
    }
}
