//! IPv6 (RFC 8200): 40 bytes, and the extension headers that tests put behind them.

use std::net::Ipv6Addr;

use super::{Frame, Kind, Layer, Literal, Network};

/// An IPv6 header: hop limit 64, no class, no label, unless a test says otherwise.
#[derive(Clone, Debug)]
pub struct Ipv6 {
    version: u8,
    traffic_class: u8,
    flow_label: u32,
    payload_length: Option<u16>,
    next_header: Option<u8>,
    hop_limit: u8,
    source: Ipv6Addr,
    destination: Ipv6Addr,
}

/// An extension header whose length is counted in eight bytes, the first not counted.
#[derive(Clone, Debug)]
pub struct Extension {
    protocol: u8,
    next_header: Option<u8>,
    length: Option<u8>,
    body: Vec<u8>,
}

/// A fragment header, 8 bytes.
#[derive(Clone, Debug)]
pub struct FragmentHeader {
    next_header: Option<u8>,
    offset_and_more: u16,
    id: u32,
}

impl<Top: Layer + 'static> Frame<Top> {
    /// An IPv6 header; above another IP header it is the inner one of a tunnel.
    #[must_use]
    #[track_caller]
    pub fn ipv6(self, source: impl Literal<Ipv6Addr>, destination: impl Literal<Ipv6Addr>) -> Frame<Ipv6> {
        self.then(Ipv6 {
            version: 6,
            traffic_class: 0,
            flow_label: 0,
            payload_length: None,
            next_header: None,
            hop_limit: 64,
            source: source.value(),
            destination: destination.value(),
        })
    }

    /// A hop-by-hop options header; `options` are padded to eight bytes.
    #[must_use]
    pub fn hop_by_hop(self, options: &[u8]) -> Frame<Extension> {
        self.extension(0, &padded_options(options))
    }

    /// A destination options header; `options` are padded to eight bytes.
    #[must_use]
    pub fn destination_options(self, options: &[u8]) -> Frame<Extension> {
        self.extension(60, &padded_options(options))
    }

    /// A routing header; `data` follows type and segments left and is padded with zeros to eight bytes.
    ///
    /// The transport checksum above is computed with the destination in the IPv6 header: right for no segments left.
    #[must_use]
    pub fn routing(self, kind: u8, segments_left: u8, data: &[u8]) -> Frame<Extension> {
        self.extension(43, &[&[kind, segments_left], data].concat())
    }

    /// Any extension header by its number; `body` follows the length byte and is padded with zeros to eight bytes.
    #[must_use]
    pub fn extension(self, number: u8, body: &[u8]) -> Frame<Extension> {
        let mut body = body.to_vec();
        body.resize((2 + body.len()).next_multiple_of(8) - 2, 0);
        self.then(Extension { protocol: number, next_header: None, length: None, body })
    }

    /// A fragment header: `offset` in bytes, a multiple of eight; `more` when it is not the last. Offset 0 and no more is
    /// an atomic fragment (RFC 6946).
    ///
    /// # Panics
    /// When `offset` cannot be said in the header.
    #[must_use]
    #[track_caller]
    pub fn fragment_header(self, offset: u16, more: bool, id: u32) -> Frame<FragmentHeader> {
        assert!(offset.is_multiple_of(8), "fragment offset {offset} is not a multiple of 8");
        self.then(FragmentHeader { next_header: None, offset_and_more: offset | u16::from(more), id })
    }
}

impl Frame<Ipv6> {
    /// Traffic class: DSCP in the high six bits, ECN in the low two.
    #[must_use]
    pub fn traffic_class(self, class: u8) -> Self {
        self.with(|ip| ip.traffic_class = class)
    }

    /// Flow label, 20 bits.
    ///
    /// # Panics
    /// When it has more.
    #[must_use]
    #[track_caller]
    pub fn flow_label(self, label: u32) -> Self {
        assert!(label < 1 << 20, "flow label {label:#x} has more than 20 bits");
        self.with(|ip| ip.flow_label = label)
    }

    /// Hop limit.
    #[must_use]
    pub fn hop_limit(self, limit: u8) -> Self {
        self.with(|ip| ip.hop_limit = limit)
    }

    /// A version that need not be 6.
    #[must_use]
    pub fn version(self, version: u8) -> Self {
        self.with(|ip| ip.version = version)
    }

    /// A payload length that need not be true.
    #[must_use]
    pub fn payload_length(self, length: u16) -> Self {
        self.with(|ip| ip.payload_length = Some(length))
    }

    /// A next header that need not be what follows.
    #[must_use]
    pub fn next_header(self, protocol: u8) -> Self {
        self.with(|ip| ip.next_header = Some(protocol))
    }
}

impl Frame<Extension> {
    /// A next header that need not be what follows.
    #[must_use]
    pub fn next_header(self, protocol: u8) -> Self {
        self.with(|header| header.next_header = Some(protocol))
    }

    /// A length, in eight bytes and the first not counted, that need not be true.
    #[must_use]
    pub fn length(self, length: u8) -> Self {
        self.with(|header| header.length = Some(length))
    }
}

impl Frame<FragmentHeader> {
    /// A next header that need not be what follows.
    #[must_use]
    pub fn next_header(self, protocol: u8) -> Self {
        self.with(|header| header.next_header = Some(protocol))
    }
}

/// Options padded with Pad1 or PadN so that, with the two bytes before them, they fill eights (RFC 8200 4.2).
fn padded_options(options: &[u8]) -> Vec<u8> {
    let mut padded = options.to_vec();
    // A header of next header and length alone still has six bytes of room.
    let missing = (2 + options.len()).next_multiple_of(8) - 2 - options.len();
    match missing {
        0 => {}
        1 => padded.push(0),
        _ => {
            padded.extend([1, u8::try_from(missing - 2).expect("less than eight")]);
            padded.resize(options.len() + missing, 0);
        }
    }
    padded
}

impl Layer for Ipv6 {
    fn kind(&self) -> Kind {
        Kind::IPV6
    }

    fn network(&self) -> Option<Network> {
        Some(Network::V6 { source: self.source, destination: self.destination })
    }

    fn encode(&self, carried: Kind, payload: &[u8], _: Option<Network>) -> Vec<u8> {
        assert!(self.version < 16, "IPv6 version {} does not fit 4 bits", self.version);
        let first = u32::from(self.version) << 28 | u32::from(self.traffic_class) << 20 | self.flow_label;
        let payload_length = self
            .payload_length
            .unwrap_or_else(|| u16::try_from(payload.len()).expect("IPv6 payload length fits 16 bits"));
        [
            &first.to_be_bytes()[..],
            &payload_length.to_be_bytes(),
            &[self.next_header.unwrap_or(carried.protocol), self.hop_limit],
            &self.source.octets(),
            &self.destination.octets(),
            payload,
        ]
        .concat()
    }
}

impl Layer for Extension {
    fn kind(&self) -> Kind {
        Kind::transport(self.protocol)
    }

    fn encode(&self, carried: Kind, payload: &[u8], _: Option<Network>) -> Vec<u8> {
        let right = (2 + self.body.len()) / 8 - 1;
        let length =
            self.length.unwrap_or_else(|| u8::try_from(right).expect("an extension header fits 2 KiB"));
        [&[self.next_header.unwrap_or(carried.protocol), length], &self.body[..], payload].concat()
    }
}

impl Layer for FragmentHeader {
    fn kind(&self) -> Kind {
        Kind::transport(44)
    }

    fn encode(&self, carried: Kind, payload: &[u8], _: Option<Network>) -> Vec<u8> {
        [
            &[self.next_header.unwrap_or(carried.protocol), 0][..],
            &self.offset_and_more.to_be_bytes(),
            &self.id.to_be_bytes(),
            payload,
        ]
        .concat()
    }
}
