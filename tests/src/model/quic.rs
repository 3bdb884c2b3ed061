//! Server ids in QUIC connection ids (draft-ietf-quic-load-balancers, plain text), by what all versions keep (RFC 8999).

use super::read::Read;

/// How backends make their connection ids.
pub(super) struct Ids<'a> {
    /// Their first three bits; none is any.
    pub configs: &'a [u8],
    /// Bytes of a server id.
    pub server_id: usize,
    /// Fewest bytes behind it.
    pub nonce: usize,
    /// The other five bits are the length of the rest.
    pub lengths: bool,
}

/// The server id of a datagram's first packet.
pub(super) fn server_id<'a>(datagram: &'a [u8], ids: &Ids<'_>) -> Option<&'a [u8]> {
    let least = 1 + ids.server_id + ids.nonce;
    let first = datagram.byte(0)?;
    // A long header says the connection id's length; of a short one only the least is known.
    let (cid, length) = if first & 0x80 != 0 {
        let version = datagram.long(1)?;
        let length = usize::from(datagram.byte(5)?);
        let cid = datagram.get(6..6 + length)?;
        if version == 0 || length < least {
            return None;
        }
        (cid, Some(length))
    } else {
        (datagram.get(1..).filter(|cid| cid.len() >= least)?, None)
    };
    let config = cid[0] >> 5;
    if config == 7 || !(ids.configs.is_empty() || ids.configs.contains(&config)) {
        return None;
    }
    if ids.lengths {
        let said = 1 + usize::from(cid[0] & 0x1f);
        let fits = length.map_or((least..=cid.len()).contains(&said), |length| said == length);
        if !fits {
            return None;
        }
    }
    cid.get(1..1 + ids.server_id)
}
