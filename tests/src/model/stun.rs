//! Whom a STUN Binding request of ICE is for (RFC 8489, RFC 8445): the start of the name in front of the colon.

use super::affinity::Asked;
use super::read::Read;

/// Attributes that are looked at.
const MOST_ATTRIBUTES: usize = 10;
/// Most bytes of attributes.
const MOST_BYTES: usize = 2044;
/// Most bytes of a name.
const LONGEST_NAME: usize = 508;

/// What a datagram asks for; ids are `length` bytes.
pub(super) fn asked(datagram: &[u8], length: usize) -> Asked<&[u8]> {
    // Type, length, cookie, transaction.
    let is_binding_request =
        datagram.len() >= 20 && datagram.starts_with(&[0, 1]) && datagram[4..8] == [0x21, 0x12, 0xa4, 0x42];
    if !is_binding_request {
        return Asked::Nothing;
    }
    server_id(datagram, length).map_or(Asked::Nobody, Asked::For)
}

fn server_id(request: &[u8], length: usize) -> Option<&[u8]> {
    let said = usize::from(request.short(2)?);
    let mut body = request.get(20..)?;
    if said != body.len() || said % 4 != 0 || said > MOST_BYTES {
        return None;
    }
    for _ in 0..MOST_ATTRIBUTES {
        let (kind, bytes) = (body.short(0)?, usize::from(body.short(2)?));
        let rest = body.get(4 + bytes.next_multiple_of(4)..)?;
        match kind {
            // USERNAME.
            6 => return ufrag(&body[4..4 + bytes])?.get(..length),
            // Behind an integrity or the fingerprint nothing counts.
            0x0008 | 0x001c | 0x8028 => return None,
            _ => body = rest,
        }
    }
    None
}

/// The receiver's part of a name.
fn ufrag(name: &[u8]) -> Option<&[u8]> {
    let colon = name.iter().position(|&byte| byte == b':')?;
    (name.len() <= LONGEST_NAME).then_some(&name[..colon])
}
