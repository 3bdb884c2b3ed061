//! QUIC connection ids for the `quic-cid` affinity: the plaintext server id of draft-ietf-quic-load-balancers-21.
//!
//! A server writes its id into every connection id that it gives out, so a client that moves to another address stays
//! with it. Only what all versions of QUIC keep (RFC 8999) is looked at: the header form, and the destination
//! connection id (DCID) behind it.
//!
//! ```text
//!   0        1                5     6
//!  | 1....... | version: 4     | len | DCID: len bytes | ...        long header
//!  | 0....... | DCID: its length is only configured   | ...        short header
//!
//!   DCID:   0           1              1 + server_id_len
//!          | cfg:3 len:5 | server id  | nonce, at least 4 bytes |
//! ```
//!
//! `cfg` is the configuration that the id was made by, 7 says that there was none. `len` is the length of the rest, where
//! servers say so, else random.
//!
//! The first packets of a connection carry a DCID that the client made up: it is unroutable unless it happens to look
//! like one of ours, and goes where its addresses and ports say ([`Route::Fallback`]). So does a 0-RTT packet.

use bytemuck::{Pod, Zeroable};

use crate::{
    parse::{Bytes, part},
    server_id::{MAX_LEN, ServerId},
    udp::Payload,
};

/// Longest connection id of QUIC versions 1 and 2 (RFC 9000 section 17.2).
pub const MAX_CID: u8 = 20;
/// Fewest bytes of nonce (draft section 5.3).
pub const MIN_NONCE: u8 = 4;
/// Configuration id that says "not routable".
pub const UNROUTABLE: u8 = 7;

/// In [`Config::flags`]: servers write the length of the rest into the first byte, and it is checked.
pub const LENGTH_IN_CID: u8 = 1;

/// How servers make their connection ids. 4 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Config {
    /// Bit `n`: configuration id `n` is ours. Bit 7 is never set.
    pub config_ids: u8,
    /// Length of server ids, 1 to 8.
    pub server_id_len: u8,
    /// Length of connection ids, first byte and nonce included; servers may append more.
    pub cid_len: u8,
    /// [`LENGTH_IN_CID`] or 0.
    pub flags: u8,
}

const _: () = assert!(size_of::<Config>() == 4);

impl Config {
    /// Bits of all configuration ids that may be in use.
    pub const ANY: u8 = !(1 << UNROUTABLE);

    /// Ids made by any of `config_ids` (a bit each), of `server_id_len` and `nonce_len` bytes. `None` when the draft
    /// does not allow them or a key cannot hold them.
    #[must_use]
    pub const fn new(config_ids: u8, server_id_len: u8, nonce_len: u8, length_in_cid: bool) -> Option<Self> {
        let ids = config_ids != 0 && config_ids & !Self::ANY == 0;
        let server_id = 0 < server_id_len && server_id_len as usize <= MAX_LEN;
        let nonce = nonce_len >= MIN_NONCE && nonce_len < MAX_CID;
        if !(ids && server_id && nonce) || 1 + server_id_len + nonce_len > MAX_CID {
            return None;
        }
        let flags = if length_in_cid { LENGTH_IN_CID } else { 0 };
        Some(Self { config_ids, server_id_len, cid_len: 1 + server_id_len + nonce_len, flags })
    }
}

/// Where a packet's connection id sends it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// To the server with this id; when there is none, the connection id is unroutable too.
    Server(ServerId),
    /// Where addresses and ports say.
    Fallback(Unroutable),
}

/// Why a connection id names no server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unroutable {
    /// The datagram ends inside the connection id: no QUIC of ours.
    Truncated,
    /// A version negotiation packet (version 0). Only servers send it.
    VersionNegotiation,
    /// A long header's connection id is shorter than ours are: the client made it up.
    CidTooShort,
    /// Made by no configuration of ours, or by a server that has none.
    ConfigId,
    /// The length that the connection id says of itself is not its own.
    CidLength,
}

/// Reads the connection id of the first packet in a datagram; coalesced ones have the same (RFC 9000 section 12.2).
#[must_use]
#[inline(always)]
pub fn route<B: Bytes + ?Sized>(frame: &B, payload: Payload, config: &Config) -> Route {
    match server_id(frame, payload, config) {
        Ok(id) => Route::Server(id),
        Err(reason) => Route::Fallback(reason),
    }
}

const LONG_HEADER: u8 = 0x80;

#[inline(always)]
fn server_id<B: Bytes + ?Sized>(
    frame: &B,
    payload: Payload,
    config: &Config,
) -> Result<ServerId, Unroutable> {
    let &[first, _] = payload.get::<2, B>(frame, 0).ok_or(Unroutable::Truncated)?;
    if first & LONG_HEADER == 0 {
        return read(frame, payload, config, 1, None);
    }
    let h = payload.get::<6, B>(frame, 0).ok_or(Unroutable::Truncated)?;
    if u32::from_be_bytes(part::<1, 4, _>(h)) == 0 {
        return Err(Unroutable::VersionNegotiation);
    }
    let len = h[5];
    if 6 + len as usize > payload.len() {
        return Err(Unroutable::Truncated);
    }
    if len < config.cid_len {
        return Err(Unroutable::CidTooShort);
    }
    read(frame, payload, config, 6, Some(len))
}

/// Reads the connection id at `at` of the payload; `len` is its length where the header says it.
#[inline(always)]
fn read<B: Bytes + ?Sized>(
    frame: &B,
    payload: Payload,
    config: &Config,
    at: usize,
    len: Option<u8>,
) -> Result<ServerId, Unroutable> {
    if at + config.cid_len as usize > payload.len() {
        return Err(Unroutable::Truncated);
    }
    let &[octet, _] = payload.get::<2, B>(frame, at).ok_or(Unroutable::Truncated)?;
    let id = octet >> 5;
    if id == UNROUTABLE || config.config_ids >> id & 1 == 0 {
        return Err(Unroutable::ConfigId);
    }
    if config.flags & LENGTH_IN_CID != 0 {
        let said = (octet & 0x1f) + 1;
        let fits = match len {
            Some(len) => said == len,
            None => said >= config.cid_len && at + said as usize <= payload.len(),
        };
        if !fits {
            return Err(Unroutable::CidLength);
        }
    }
    ServerId::read(frame, payload.start + at + 1, config.server_id_len).ok_or(Unroutable::Truncated)
}

#[cfg(test)]
mod tests;
