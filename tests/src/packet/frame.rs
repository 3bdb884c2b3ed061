//! A stack of layers, and how it becomes bytes: from the inside out, each layer told what it carries.

use std::fmt::Debug;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

/// How the layer below announces this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind {
    /// In Ethernet.
    pub ethertype: u16,
    /// In IP.
    pub protocol: u8,
}

impl Kind {
    /// Nothing at all follows: IPv6's "no next header".
    pub const NOTHING: Self = Self::transport(59);
    /// Bytes without a name: the numbers for experiments (RFC 3692, IEEE 802).
    pub const OPAQUE: Self = Self { ethertype: 0x88b5, protocol: 253 };
    /// IPv4, as the inner packet of a tunnel 4.
    pub const IPV4: Self = Self { ethertype: 0x0800, protocol: 4 };
    /// IPv6, as the inner packet of a tunnel 41.
    pub const IPV6: Self = Self { ethertype: 0x86dd, protocol: 41 };

    /// Something that only IP carries.
    #[must_use]
    pub const fn transport(protocol: u8) -> Self {
        Self { ethertype: 0x88b5, protocol }
    }

    /// Something that only Ethernet carries.
    #[must_use]
    pub const fn link(ethertype: u16) -> Self {
        Self { ethertype, protocol: 253 }
    }
}

/// The addresses that a pseudo header takes from the IP layer below.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// IPv4.
    V4 {
        /// Source address.
        source: Ipv4Addr,
        /// Destination address.
        destination: Ipv4Addr,
    },
    /// IPv6.
    V6 {
        /// Source address.
        source: Ipv6Addr,
        /// Destination address.
        destination: Ipv6Addr,
    },
}

/// One header, or a payload.
pub trait Layer: Debug + Send + Sync {
    /// How the layer below announces this one.
    fn kind(&self) -> Kind;

    /// The addresses, when this is an IP header.
    fn network(&self) -> Option<Network> {
        None
    }

    /// This layer's bytes followed by `payload`, which is a `carried`; `below` is the nearest IP header below.
    fn encode(&self, carried: Kind, payload: &[u8], below: Option<Network>) -> Vec<u8>;
}

/// A frame whose last layer so far is a `Top`.
#[derive(Clone, Debug)]
pub struct Frame<Top> {
    below: Vec<Arc<dyn Layer>>,
    top: Top,
    trailer: Vec<u8>,
}

/// Bytes that are no Ethernet frame of ours.
#[must_use]
pub fn raw(bytes: &[u8]) -> Frame<super::Payload> {
    Frame::new(super::Payload::opaque(bytes))
}

impl<Top: Layer + 'static> Frame<Top> {
    pub(super) fn new(top: Top) -> Self {
        Self { below: Vec::new(), top, trailer: Vec::new() }
    }

    /// Puts `next` on top.
    pub(super) fn then<Next>(mut self, next: Next) -> Frame<Next> {
        self.below.push(Arc::new(self.top));
        Frame { below: self.below, top: next, trailer: self.trailer }
    }

    /// Changes the top layer.
    pub(super) fn with(mut self, change: impl FnOnce(&mut Top)) -> Self {
        change(&mut self.top);
        self
    }

    /// Bytes behind the packet that no IP length counts: Ethernet padding.
    #[must_use]
    pub fn trailer(mut self, bytes: &[u8]) -> Self {
        self.trailer.extend_from_slice(bytes);
        self
    }

    /// The whole frame.
    #[must_use]
    pub fn build(&self) -> Vec<u8> {
        let layers: Vec<&dyn Layer> =
            self.below.iter().map(|layer| &**layer as _).chain([&self.top as _]).collect();
        let mut bytes = Vec::new();
        let mut carried = Kind::NOTHING;
        for (depth, layer) in layers.iter().enumerate().rev() {
            let below = layers[..depth].iter().rev().find_map(|layer| layer.network());
            bytes = layer.encode(carried, &bytes, below);
            carried = layer.kind();
        }
        bytes.extend_from_slice(&self.trailer);
        bytes
    }

    /// The first `length` bytes of the frame.
    ///
    /// # Panics
    /// When the frame is shorter: the test would not cut anything.
    #[must_use]
    #[track_caller]
    pub fn at(&self, length: usize) -> Vec<u8> {
        let mut bytes = self.build();
        assert!(length <= bytes.len(), "cannot cut a frame of {} bytes at {length}", bytes.len());
        bytes.truncate(length);
        bytes
    }
}
