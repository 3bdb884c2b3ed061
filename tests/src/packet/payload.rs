//! Bytes above the last header, or in place of one.

use super::{Frame, Kind, Layer, Network};

/// Bytes.
#[derive(Clone, Debug)]
pub struct Payload {
    bytes: Vec<u8>,
    kind: Kind,
}

impl Payload {
    pub(super) fn opaque(bytes: &[u8]) -> Self {
        Self { bytes: bytes.to_vec(), kind: Kind::OPAQUE }
    }
}

impl<Top: Layer + 'static> Frame<Top> {
    /// Data. Straight above Ethernet or IP its type is the one for experiments, unless set.
    #[must_use]
    pub fn payload(self, bytes: &[u8]) -> Frame<Payload> {
        self.then(Payload::opaque(bytes))
    }

    /// A whole IP packet as it is, announced by its version: what a tunnel carries.
    ///
    /// # Panics
    /// When the first byte says neither 4 nor 6.
    #[must_use]
    #[track_caller]
    pub fn inner(self, packet: &[u8]) -> Frame<Payload> {
        let kind = match packet.first().map(|byte| byte >> 4) {
            Some(4) => Kind::IPV4,
            Some(6) => Kind::IPV6,
            other => panic!("no IP packet to carry: version {other:?}"),
        };
        self.then(Payload { bytes: packet.to_vec(), kind })
    }
}

impl Layer for Payload {
    fn kind(&self) -> Kind {
        self.kind
    }

    fn encode(&self, _: Kind, payload: &[u8], _: Option<Network>) -> Vec<u8> {
        [&self.bytes, payload].concat()
    }
}
