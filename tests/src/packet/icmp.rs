//! ICMP (RFC 792) and ICMPv6 (RFC 4443): type, code, checksum and four bytes that depend on the type.

use std::net::Ipv6Addr;

use super::checksum::{internet_checksum, transport_checksum};
use super::{Frame, Kind, Layer, Literal, Network, Payload};

const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

/// An ICMP or ICMPv6 header.
#[derive(Clone, Debug)]
pub struct Icmp {
    protocol: u8,
    kind: u8,
    code: u8,
    checksum: Option<u16>,
    rest: [u8; 4],
}

impl<Top: Layer + 'static> Frame<Top> {
    /// Any ICMP message; its second four bytes are zero unless set with `rest`.
    #[must_use]
    pub fn icmp(self, kind: u8, code: u8) -> Frame<Icmp> {
        self.then(Icmp { protocol: ICMP, kind, code, checksum: None, rest: [0; 4] })
    }

    /// Any ICMPv6 message; its second four bytes are zero unless set with `rest`.
    #[must_use]
    pub fn icmpv6(self, kind: u8, code: u8) -> Frame<Icmp> {
        self.then(Icmp { protocol: ICMPV6, kind, code, checksum: None, rest: [0; 4] })
    }

    /// An ICMP echo request.
    #[must_use]
    pub fn echo_request(self, id: u16, sequence: u16) -> Frame<Icmp> {
        self.icmp(8, 0).id_and_sequence(id, sequence)
    }

    /// An ICMP echo reply.
    #[must_use]
    pub fn echo_reply(self, id: u16, sequence: u16) -> Frame<Icmp> {
        self.icmp(0, 0).id_and_sequence(id, sequence)
    }

    /// An ICMPv6 echo request.
    #[must_use]
    pub fn echo_request_v6(self, id: u16, sequence: u16) -> Frame<Icmp> {
        self.icmpv6(128, 0).id_and_sequence(id, sequence)
    }

    /// An ICMPv6 echo reply.
    #[must_use]
    pub fn echo_reply_v6(self, id: u16, sequence: u16) -> Frame<Icmp> {
        self.icmpv6(129, 0).id_and_sequence(id, sequence)
    }

    /// "Who has `target`?" (RFC 4861 4.3), without options.
    #[must_use]
    #[track_caller]
    pub fn neighbour_solicitation(self, target: impl Literal<Ipv6Addr>) -> Frame<Payload> {
        self.icmpv6(135, 0).payload(&target.value().octets())
    }

    /// "`target` is here" (RFC 4861 4.4), solicited and overriding, without options.
    #[must_use]
    #[track_caller]
    pub fn neighbour_advertisement(self, target: impl Literal<Ipv6Addr>) -> Frame<Payload> {
        self.icmpv6(136, 0).rest([0x60, 0, 0, 0]).payload(&target.value().octets())
    }
}

impl Frame<Icmp> {
    /// The second four bytes of the header: identifier and sequence, MTU, pointer or flags.
    #[must_use]
    pub fn rest(self, rest: [u8; 4]) -> Self {
        self.with(|icmp| icmp.rest = rest)
    }

    /// A checksum that need not be right.
    #[must_use]
    pub fn checksum(self, checksum: u16) -> Self {
        self.with(|icmp| icmp.checksum = Some(checksum))
    }

    fn id_and_sequence(self, id: u16, sequence: u16) -> Self {
        let ([a, b], [c, d]) = (id.to_be_bytes(), sequence.to_be_bytes());
        self.rest([a, b, c, d])
    }
}

impl Layer for Icmp {
    fn kind(&self) -> Kind {
        Kind::transport(self.protocol)
    }

    fn encode(&self, _: Kind, payload: &[u8], below: Option<Network>) -> Vec<u8> {
        let message = |checksum: u16| {
            [&[self.kind, self.code], &checksum.to_be_bytes()[..], &self.rest, payload].concat()
        };
        let right = match self.protocol {
            // Only ICMPv6 covers a pseudo header.
            ICMP => internet_checksum(&[&message(0)]),
            _ => transport_checksum(below, ICMPV6, &message(0)),
        };
        message(self.checksum.unwrap_or(right))
    }
}
