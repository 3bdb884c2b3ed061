//! STUN for the `ice-ufrag` affinity: whose ufrag a Binding request names (RFC 8489, RFC 8445).
//!
//! An ICE agent checks a path with Binding requests whose USERNAME is `receiver:sender`, so the part in front of the
//! colon is the ufrag that the media server chose, and a prefix of it says which server that was. Everything else on
//! the port (DTLS, SRTP, SRTCP, STUN responses) says nothing of its own and follows the remembered flow.
//!
//! ```text
//!   0       2       4               8              20
//!  | 00 01 | length| 21 12 a4 42   | transaction  | attributes: length bytes
//!
//!   0       2       4                      4 + n, then up to the next multiple of four
//!  | 00 06 |   n   | server-ufrag : client-ufrag | padding |
//!                   |<- id ->|
//! ```
//!
//! Nothing is authenticated here: the message's integrity is between the agents. A caller must not let one request
//! move a flow that lives.

use crate::{
    hash::fold,
    parse::{Bytes, be16, part},
    server_id::ServerId,
    udp::{self, Payload},
    word,
};

/// Attributes that are looked at on the way to USERNAME. ICE sends it among the first five.
pub const MAX_ATTRIBUTES: usize = 10;
/// Most bytes of attributes in a request that is looked into.
pub const MAX_BODY: usize = 2044;
/// Most bytes of a USERNAME (RFC 8489 section 14.3: fewer than 509).
pub const MAX_USERNAME: usize = 508;

const HEADER: usize = 20;
const MAGIC_COOKIE: u32 = 0x2112_a442;
/// Class request, method Binding, and the two zero bits in front.
const BINDING_REQUEST: u16 = 1;

const USERNAME: u16 = 0x0006;
const MESSAGE_INTEGRITY: u16 = 0x0008;
const MESSAGE_INTEGRITY_SHA256: u16 = 0x001c;
const FINGERPRINT: u16 = 0x8028;

/// What a UDP payload is to the affinity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Datagram {
    /// A Binding request that names its receiver.
    BindingRequest(Ufrag),
    /// A Binding request that cannot be followed to a server.
    Unroutable(Unroutable),
    /// Another STUN message: a response, an indication, another method. It has no affinity of its own.
    OtherStun,
    /// No STUN at all.
    NotStun(Protocol),
}

/// Whom a Binding request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ufrag {
    /// The configured number of bytes at the start of the server's ufrag.
    pub server_id: ServerId,
    /// Tag of the server's ufrag, never 0: the same for all requests to one ICE session of the server.
    pub server_tag: u32,
    /// Tag of the whole USERNAME, never 0: the same for all requests of one pair of agents.
    pub pair_tag: u32,
}

/// Why a Binding request names nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unroutable {
    /// The message length is no multiple of four, or not what the datagram holds.
    Length,
    /// More than [`MAX_BODY`] bytes of attributes.
    TooLong,
    /// An attribute reaches beyond the message.
    AttributeTruncated,
    /// No USERNAME among the first [`MAX_ATTRIBUTES`] attributes, and there are more.
    TooManyAttributes,
    /// No USERNAME, or only behind the integrity, where it must be ignored (RFC 8489 section 14.5).
    NoUsername,
    /// A USERNAME longer than [`MAX_USERNAME`].
    UsernameTooLong,
    /// A USERNAME without a colon: not ICE.
    NoSeparator,
    /// The server's ufrag is shorter than the configured id.
    UfragTooShort,
}

/// What shares a port with STUN, by the first byte (RFC 7983, RFC 9443; RTP and RTCP by RFC 5761).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// First byte 16 to 19.
    Zrtp,
    /// First byte 20 to 63.
    Dtls,
    /// TURN ChannelData: first byte 64 to 79.
    ChannelData,
    /// RTP or SRTP: first byte 128 to 191.
    Rtp,
    /// RTCP or SRTCP: the same with a packet type of 192 to 223.
    Rtcp,
    /// QUIC: first byte 80 to 127, or 192 and more.
    Quic,
    /// Nothing known, fewer than two bytes, or STUN without the magic cookie (RFC 3489).
    Unknown,
}

/// Classifies a payload. `id_len` is the configured length of server ids, 1 to 8; `seed` the balancer's.
#[must_use]
#[inline(always)]
pub fn classify<B: Bytes + ?Sized>(frame: &B, payload: Payload, id_len: u8, seed: u64) -> Datagram {
    let Some(&[first, second]) = payload.get::<2, B>(frame, 0) else {
        return Datagram::NotStun(Protocol::Unknown);
    };
    if first > 3 {
        return Datagram::NotStun(protocol(first, second));
    }
    let Some(header) = payload.get::<HEADER, B>(frame, 0) else {
        return Datagram::NotStun(Protocol::Unknown);
    };
    if u32::from_be_bytes(part::<4, 4, _>(header)) != MAGIC_COOKIE {
        return Datagram::NotStun(Protocol::Unknown);
    }
    if be16::<0, _>(header) != BINDING_REQUEST {
        return Datagram::OtherStun;
    }
    let length = be16::<2, _>(header) as usize;
    match request(frame, payload, length, id_len, seed) {
        Ok(ufrag) => Datagram::BindingRequest(ufrag),
        Err(reason) => Datagram::Unroutable(reason),
    }
}

#[inline(always)]
const fn protocol(first: u8, second: u8) -> Protocol {
    match (first, second) {
        (16..=19, _) => Protocol::Zrtp,
        (20..=63, _) => Protocol::Dtls,
        (64..=79, _) => Protocol::ChannelData,
        (128..=191, 192..=223) => Protocol::Rtcp,
        (128..=191, _) => Protocol::Rtp,
        (80..=127 | 192..=255, _) => Protocol::Quic,
        _ => Protocol::Unknown,
    }
}

#[inline(always)]
fn request<B: Bytes + ?Sized>(
    frame: &B,
    payload: Payload,
    length: usize,
    id_len: u8,
    seed: u64,
) -> Result<Ufrag, Unroutable> {
    if length & 3 != 0 || HEADER + length != payload.len() {
        return Err(Unroutable::Length);
    }
    if length > MAX_BODY {
        return Err(Unroutable::TooLong);
    }
    username(frame, payload.start + HEADER, length)?.read(frame, id_len, seed)
}

/// A USERNAME's value.
#[derive(Clone, Copy)]
struct Username {
    /// Offset in the frame.
    at: usize,
    /// Length, without padding.
    len: usize,
}

/// Walks the attributes, `length` bytes at `body`.
#[inline(always)]
fn username<B: Bytes + ?Sized>(frame: &B, body: usize, length: usize) -> Result<Username, Unroutable> {
    let mut at = 0usize;
    for _ in 0..MAX_ATTRIBUTES {
        if at >= length {
            return Err(Unroutable::NoUsername);
        }
        let offset = body + word::masked(at, BODY_MASK);
        let h = frame.get::<4>(offset).ok_or(Unroutable::AttributeTruncated)?;
        let len = be16::<2, _>(h) as usize;
        let next = at + 4 + ((len + 3) & !3);
        if next > length {
            return Err(Unroutable::AttributeTruncated);
        }
        match be16::<0, _>(h) {
            USERNAME => return Ok(Username { at: offset + 4, len }),
            MESSAGE_INTEGRITY | MESSAGE_INTEGRITY_SHA256 | FINGERPRINT => return Err(Unroutable::NoUsername),
            _ => at = next,
        }
    }
    Err(if at >= length { Unroutable::NoUsername } else { Unroutable::TooManyAttributes })
}

const BODY_MASK: usize = 0x7ff;
const _: () = assert!(MAX_BODY < BODY_MASK);

const WORDS: usize = MAX_USERNAME.div_ceil(8);
const USERNAME_MASK: usize = 0x1ff;
const _: () = assert!(MAX_USERNAME <= USERNAME_MASK);
/// A payload's start, the message's header and its body end below.
const NAME_MASK: usize = 0x7fff;
const _: () = assert!(udp::START_MASK + HEADER + MAX_BODY <= NAME_MASK);

const PAIR: u64 = 0x9e37_79b9_7f4a_7c15;
const SERVER: u64 = 0xbf58_476d_1ce4_e5b9;

impl Username {
    /// One pass over the name, eight bytes at a time.
    #[inline(always)]
    fn read<B: Bytes + ?Sized>(self, frame: &B, id_len: u8, seed: u64) -> Result<Ufrag, Unroutable> {
        if self.len > MAX_USERNAME {
            return Err(Unroutable::UsernameTooLong);
        }
        // Equal bounds after every attribute, or the verifier walks the rest once for each.
        let at = word::masked(self.at, NAME_MASK);
        let mut tags = Tags { pair: fold(seed ^ self.len as u64, PAIR), server: seed, open: u64::MAX };
        for i in 0..WORDS {
            let len = word::masked(self.len, USERNAME_MASK);
            if 8 * i >= len {
                break;
            }
            // Padded to four bytes, as all attributes are: the walk has seen the padding inside the message.
            let word = word::little_endian(frame, at + 8 * i, if 8 * i + 8 > len { len - 8 * i } else { 8 });
            tags.take(word.ok_or(Unroutable::AttributeTruncated)?);
        }
        if tags.open != 0 {
            return Err(Unroutable::NoSeparator);
        }
        let id = ServerId::read(frame, at, id_len).ok_or(Unroutable::UfragTooShort)?;
        // The colon is among the id's bytes: also where the name is shorter than the id.
        if lowest_colon(id.0) != 0 {
            return Err(Unroutable::UfragTooShort);
        }
        Ok(Ufrag { server_id: id, server_tag: tag(tags.server), pair_tag: tag(tags.pair) })
    }
}

/// The two hashes on their way through a name.
struct Tags {
    /// Of all words; it starts from the length.
    pair: u64,
    /// Of the words up to the colon, and the colon itself: it tells a name from the same with zeros behind it.
    server: u64,
    /// All ones until the colon has been seen.
    open: u64,
}

impl Tags {
    /// Takes the next eight bytes in, the first lowest, zeros behind the name's end.
    #[inline(always)]
    fn take(&mut self, word: u64) {
        let colon = lowest_colon(word);
        self.pair = fold(self.pair ^ word, PAIR);
        let next = fold(self.server ^ word & through(colon), SERVER);
        self.server ^= (self.server ^ next) & self.open;
        self.open &= all_without(colon);
    }
}

/// A one in every byte.
const LOW: u64 = 0x0101_0101_0101_0101;

/// The highest bit of the first byte that is a colon, or 0. Bytes count from the lowest.
#[inline(always)]
const fn lowest_colon(word: u64) -> u64 {
    // Zero bytes of a word: Mycroft's test, exact for the lowest.
    let zeros = word ^ (LOW * b':' as u64);
    let hits = zeros.wrapping_sub(LOW) & !zeros & (LOW << 7);
    hits & hits.wrapping_neg()
}

/// Ones for the bytes up to the colon and for the colon, whose own highest bit is 0; all without one.
#[inline(always)]
const fn through(colon: u64) -> u64 {
    colon.wrapping_sub(1)
}

/// All ones without a colon, else 0. A comparison would be a branch to the verifier, and two ways on from every word;
/// the product has a one in its highest byte wherever the colon is.
#[inline(always)]
const fn all_without(colon: u64) -> u64 {
    ((colon >> 7).wrapping_mul(LOW) >> 56).wrapping_sub(1)
}

#[inline(always)]
fn tag(hash: u64) -> u32 {
    (fold(hash, PAIR) as u32).max(1)
}

#[cfg(test)]
mod tests;
