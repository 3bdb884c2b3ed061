//! IPv4 (RFC 791), 20 bytes and options.

use std::net::Ipv4Addr;

use super::{Frame, Kind, Layer, Literal, Network, internet_checksum};

const RESERVED: u16 = 0x8000;
const DONT_FRAGMENT: u16 = 0x4000;
const MORE_FRAGMENTS: u16 = 0x2000;

/// An IPv4 header: TTL 64, id 0, no flags, unless a test says otherwise.
#[derive(Clone, Debug)]
pub struct Ipv4 {
    version: u8,
    ihl: Option<u8>,
    tos: u8,
    total_length: Option<u16>,
    id: u16,
    flags_and_offset: u16,
    ttl: u8,
    protocol: Option<u8>,
    checksum: Option<u16>,
    source: Ipv4Addr,
    destination: Ipv4Addr,
    options: Vec<u8>,
}

impl<Top: Layer + 'static> Frame<Top> {
    /// An IPv4 header; above another IP header it is the inner one of a tunnel.
    #[must_use]
    #[track_caller]
    pub fn ipv4(self, source: impl Literal<Ipv4Addr>, destination: impl Literal<Ipv4Addr>) -> Frame<Ipv4> {
        self.then(Ipv4 {
            version: 4,
            ihl: None,
            tos: 0,
            total_length: None,
            id: 0,
            flags_and_offset: 0,
            ttl: 64,
            protocol: None,
            checksum: None,
            source: source.value(),
            destination: destination.value(),
            options: Vec::new(),
        })
    }
}

impl Frame<Ipv4> {
    /// Time to live.
    #[must_use]
    pub fn ttl(self, ttl: u8) -> Self {
        self.with(|ip| ip.ttl = ttl)
    }

    /// The whole TOS byte: DSCP in the high six bits, ECN in the low two.
    #[must_use]
    pub fn tos(self, tos: u8) -> Self {
        self.with(|ip| ip.tos = tos)
    }

    /// Identification.
    #[must_use]
    pub fn id(self, id: u16) -> Self {
        self.with(|ip| ip.id = id)
    }

    /// Don't fragment.
    #[must_use]
    pub fn df(self) -> Self {
        self.with(|ip| ip.flags_and_offset |= DONT_FRAGMENT)
    }

    /// The bit that must be zero (RFC 3514 knows why).
    #[must_use]
    pub fn reserved_flag(self) -> Self {
        self.with(|ip| ip.flags_and_offset |= RESERVED)
    }

    /// A fragment: `offset` in bytes, a multiple of eight; `more` when it is not the last.
    ///
    /// # Panics
    /// When `offset` cannot be said in the header.
    #[must_use]
    #[track_caller]
    pub fn fragment(self, offset: u16, more: bool) -> Self {
        assert!(offset.is_multiple_of(8), "fragment offset {offset} is not a multiple of 8");
        let more = if more { MORE_FRAGMENTS } else { 0 };
        self.with(|ip| {
            ip.flags_and_offset = ip.flags_and_offset & (RESERVED | DONT_FRAGMENT) | more | (offset / 8)
        })
    }

    /// Options, padded with zeros ("end of options") to four bytes.
    #[must_use]
    pub fn options(self, options: &[u8]) -> Self {
        self.with(|ip| ip.options = options.to_vec())
    }

    /// A version that need not be 4.
    #[must_use]
    pub fn version(self, version: u8) -> Self {
        self.with(|ip| ip.version = version)
    }

    /// A header length, in words of four bytes, that need not be true.
    #[must_use]
    pub fn ihl(self, words: u8) -> Self {
        self.with(|ip| ip.ihl = Some(words))
    }

    /// A total length that need not be true.
    #[must_use]
    pub fn total_length(self, length: u16) -> Self {
        self.with(|ip| ip.total_length = Some(length))
    }

    /// A protocol number that need not be what follows.
    #[must_use]
    pub fn protocol(self, protocol: u8) -> Self {
        self.with(|ip| ip.protocol = Some(protocol))
    }

    /// A header checksum that need not be right.
    #[must_use]
    pub fn checksum(self, checksum: u16) -> Self {
        self.with(|ip| ip.checksum = Some(checksum))
    }
}

impl Layer for Ipv4 {
    fn kind(&self) -> Kind {
        Kind::IPV4
    }

    fn network(&self) -> Option<Network> {
        Some(Network::V4 { source: self.source, destination: self.destination })
    }

    fn encode(&self, carried: Kind, payload: &[u8], _: Option<Network>) -> Vec<u8> {
        let mut options = self.options.clone();
        options.resize(options.len().next_multiple_of(4), 0);
        let header_length = 20 + options.len();
        let ihl =
            self.ihl.unwrap_or_else(|| u8::try_from(header_length / 4).expect("IPv4 options fit 40 bytes"));
        assert!(ihl < 16 && self.version < 16, "IPv4 version {} and IHL {ihl} are 4 bits each", self.version);
        let total_length = self.total_length.unwrap_or_else(|| {
            u16::try_from(header_length + payload.len()).expect("IPv4 total length fits 16 bits")
        });
        let header = |checksum: u16| {
            [
                &[self.version << 4 | ihl, self.tos][..],
                &total_length.to_be_bytes(),
                &self.id.to_be_bytes(),
                &self.flags_and_offset.to_be_bytes(),
                &[self.ttl, self.protocol.unwrap_or(carried.protocol)],
                &checksum.to_be_bytes(),
                &self.source.octets(),
                &self.destination.octets(),
                &options,
            ]
            .concat()
        };
        let checksum = self.checksum.unwrap_or_else(|| internet_checksum(&[&header(0)]));
        [&header(checksum), payload].concat()
    }
}
