//! UDP (RFC 768), 8 bytes.

use super::checksum::transport_checksum;
use super::{Frame, Kind, Layer, Network};

const PROTOCOL: u8 = 17;

/// A UDP header.
#[derive(Clone, Debug)]
pub struct Udp {
    source: u16,
    destination: u16,
    length: Option<u16>,
    checksum: Option<u16>,
}

impl<Top: Layer + 'static> Frame<Top> {
    /// A UDP header with these ports.
    #[must_use]
    pub fn udp(self, source: u16, destination: u16) -> Frame<Udp> {
        self.then(Udp { source, destination, length: None, checksum: None })
    }
}

impl Frame<Udp> {
    /// A length that need not be true.
    #[must_use]
    pub fn length(self, length: u16) -> Self {
        self.with(|udp| udp.length = Some(length))
    }

    /// A checksum that need not be right; 0 is "none".
    #[must_use]
    pub fn checksum(self, checksum: u16) -> Self {
        self.with(|udp| udp.checksum = Some(checksum))
    }
}

impl Layer for Udp {
    fn kind(&self) -> Kind {
        Kind::transport(PROTOCOL)
    }

    fn encode(&self, _: Kind, payload: &[u8], below: Option<Network>) -> Vec<u8> {
        let length =
            self.length.unwrap_or_else(|| u16::try_from(8 + payload.len()).expect("UDP length fits 16 bits"));
        let message = |checksum: u16| {
            let words = [self.source, self.destination, length, checksum];
            [&words.map(u16::to_be_bytes).concat(), payload].concat()
        };
        let checksum =
            self.checksum.unwrap_or_else(|| match transport_checksum(below, PROTOCOL, &message(0)) {
                // Zero on the wire would say that there is none.
                0 => 0xffff,
                right => right,
            });
        message(checksum)
    }
}
