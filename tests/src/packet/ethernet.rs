//! Ethernet and its VLAN tags.

use super::{Frame, Kind, Layer, Literal, Mac};

/// An Ethernet header, 14 bytes.
#[derive(Clone, Debug)]
pub struct Ethernet {
    destination: Mac,
    source: Mac,
    ethertype: Option<u16>,
}

/// A VLAN tag, 4 bytes.
#[derive(Clone, Debug)]
pub struct Vlan {
    tpid: u16,
    tci: u16,
    ethertype: Option<u16>,
}

/// Begins a frame, in the order of the wire: destination first.
#[track_caller]
pub fn eth(destination: impl Literal<Mac>, source: impl Literal<Mac>) -> Frame<Ethernet> {
    Frame::new(Ethernet { destination: destination.value(), source: source.value(), ethertype: None })
}

impl Frame<Ethernet> {
    /// An EtherType that is not what follows.
    #[must_use]
    pub fn ethertype(self, ethertype: u16) -> Self {
        self.with(|eth| eth.ethertype = Some(ethertype))
    }
}

impl Frame<Vlan> {
    /// An EtherType that is not what follows.
    #[must_use]
    pub fn ethertype(self, ethertype: u16) -> Self {
        self.with(|vlan| vlan.ethertype = Some(ethertype))
    }

    /// Priority, 0..=7.
    #[must_use]
    pub fn priority(self, priority: u16) -> Self {
        self.with(|vlan| vlan.tci = vlan.tci & 0x1fff | priority << 13)
    }
}

impl<Top: Layer + 'static> Frame<Top> {
    /// An 802.1Q tag.
    #[must_use]
    pub fn vlan(self, id: u16) -> Frame<Vlan> {
        self.then(Vlan { tpid: 0x8100, tci: id & 0x0fff, ethertype: None })
    }

    /// An 802.1ad service tag, the outer one of two.
    #[must_use]
    pub fn service_vlan(self, id: u16) -> Frame<Vlan> {
        self.then(Vlan { tpid: 0x88a8, tci: id & 0x0fff, ethertype: None })
    }
}

impl Layer for Ethernet {
    fn kind(&self) -> Kind {
        // Transparent Ethernet bridging.
        Kind { ethertype: 0x6558, protocol: 143 }
    }

    fn encode(&self, carried: Kind, payload: &[u8], _: Option<super::Network>) -> Vec<u8> {
        let ethertype = self.ethertype.unwrap_or(carried.ethertype);
        [&self.destination.0, &self.source.0, &ethertype.to_be_bytes()[..], payload].concat()
    }
}

impl Layer for Vlan {
    fn kind(&self) -> Kind {
        Kind::link(self.tpid)
    }

    fn encode(&self, carried: Kind, payload: &[u8], _: Option<super::Network>) -> Vec<u8> {
        let ethertype = self.ethertype.unwrap_or(carried.ethertype);
        [&self.tci.to_be_bytes(), &ethertype.to_be_bytes()[..], payload].concat()
    }
}
