//! Payloads of UDP datagrams that say which server they are for: STUN Binding requests and QUIC packets.

/// A STUN message (RFC 8489) of the given type with these attributes.
#[must_use]
pub fn stun(kind: u16, attributes: &[(u16, &[u8])]) -> Vec<u8> {
    let mut body = Vec::new();
    for (name, value) in attributes {
        body.extend(name.to_be_bytes());
        body.extend((value.len() as u16).to_be_bytes());
        body.extend(*value);
        body.resize(body.len().next_multiple_of(4), 0);
    }
    let mut message = kind.to_be_bytes().to_vec();
    message.extend((body.len() as u16).to_be_bytes());
    message.extend([0x21, 0x12, 0xa4, 0x42]);
    message.extend([0x77; 12]);
    message.extend(body);
    message
}

/// An ICE agent's Binding request: `receiver:sender`, priority and role behind it, and room for an integrity.
#[must_use]
pub fn binding_request(username: &str) -> Vec<u8> {
    let attributes: [(u16, &[u8]); 4] =
        [(0x0006, username.as_bytes()), (0x0024, &[0x6e, 0, 1, 0xff]), (0x802a, &[1; 8]), (0x0008, &[9; 20])];
    stun(0x0001, &attributes)
}

/// A long header of QUIC version 1 (RFC 9000 section 17.2) with some of a payload.
#[must_use]
pub fn quic_long(destination: &[u8]) -> Vec<u8> {
    let mut packet = vec![0xc3, 0, 0, 0, 1, destination.len() as u8];
    packet.extend(destination);
    packet.extend([4, 1, 2, 3, 4, 0, 0x40, 0x20]);
    packet.extend([0x5a; 32]);
    packet
}

/// A short header (RFC 9000 section 17.3) with some of a payload.
#[must_use]
pub fn quic_short(destination: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x41];
    packet.extend(destination);
    packet.extend([0x5a; 32]);
    packet
}
