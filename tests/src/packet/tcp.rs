//! TCP (RFC 9293), 20 bytes and options.

use super::checksum::transport_checksum;
use super::{Frame, Kind, Layer, Network};

const PROTOCOL: u8 = 6;

/// No more data from the sender.
pub const FIN: u8 = 0x01;
/// Synchronize sequence numbers.
pub const SYN: u8 = 0x02;
/// Reset.
pub const RST: u8 = 0x04;
/// Push.
pub const PSH: u8 = 0x08;
/// The acknowledgement number counts.
pub const ACK: u8 = 0x10;
/// The urgent pointer counts.
pub const URG: u8 = 0x20;
/// ECN echo.
pub const ECE: u8 = 0x40;
/// Congestion window reduced.
pub const CWR: u8 = 0x80;

/// A TCP header; ACK alone is set unless a test says otherwise.
#[derive(Clone, Debug)]
pub struct Tcp {
    source: u16,
    destination: u16,
    sequence: u32,
    acknowledgement: u32,
    data_offset: Option<u8>,
    flags: u8,
    window: u16,
    checksum: Option<u16>,
    options: Vec<u8>,
}

impl<Top: Layer + 'static> Frame<Top> {
    /// A TCP header with these ports.
    #[must_use]
    pub fn tcp(self, source: u16, destination: u16) -> Frame<Tcp> {
        self.then(Tcp {
            source,
            destination,
            sequence: 0,
            acknowledgement: 0,
            data_offset: None,
            flags: ACK,
            window: 64240,
            checksum: None,
            options: Vec::new(),
        })
    }
}

impl Frame<Tcp> {
    /// All flags: `SYN | ACK`.
    #[must_use]
    pub fn flags(self, flags: u8) -> Self {
        self.with(|tcp| tcp.flags = flags)
    }

    /// Sequence number.
    #[must_use]
    pub fn seq(self, sequence: u32) -> Self {
        self.with(|tcp| tcp.sequence = sequence)
    }

    /// Acknowledgement number.
    #[must_use]
    pub fn ack(self, acknowledgement: u32) -> Self {
        self.with(|tcp| tcp.acknowledgement = acknowledgement)
    }

    /// Window.
    #[must_use]
    pub fn window(self, window: u16) -> Self {
        self.with(|tcp| tcp.window = window)
    }

    /// Options, padded with zeros ("end of options") to four bytes.
    #[must_use]
    pub fn options(self, options: &[u8]) -> Self {
        self.with(|tcp| tcp.options = options.to_vec())
    }

    /// A data offset, in words of four bytes, that need not be true.
    #[must_use]
    pub fn data_offset(self, words: u8) -> Self {
        self.with(|tcp| tcp.data_offset = Some(words))
    }

    /// A checksum that need not be right.
    #[must_use]
    pub fn checksum(self, checksum: u16) -> Self {
        self.with(|tcp| tcp.checksum = Some(checksum))
    }
}

impl Layer for Tcp {
    fn kind(&self) -> Kind {
        Kind::transport(PROTOCOL)
    }

    fn encode(&self, _: Kind, payload: &[u8], below: Option<Network>) -> Vec<u8> {
        let mut options = self.options.clone();
        options.resize(options.len().next_multiple_of(4), 0);
        let words = u8::try_from((20 + options.len()) / 4).expect("TCP options fit 40 bytes");
        let data_offset = self.data_offset.unwrap_or(words);
        assert!(data_offset < 16, "TCP data offset {data_offset} does not fit 4 bits");
        let message = |checksum: u16| {
            [
                &self.source.to_be_bytes()[..],
                &self.destination.to_be_bytes(),
                &self.sequence.to_be_bytes(),
                &self.acknowledgement.to_be_bytes(),
                &[data_offset << 4, self.flags],
                &self.window.to_be_bytes(),
                &checksum.to_be_bytes(),
                &[0, 0],
                &options,
                payload,
            ]
            .concat()
        };
        message(self.checksum.unwrap_or_else(|| transport_checksum(below, PROTOCOL, &message(0))))
    }
}
