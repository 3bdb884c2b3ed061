//! ARP for IPv4 over Ethernet (RFC 826), 28 bytes.

use std::net::Ipv4Addr;

use super::{Frame, Kind, Layer, Literal, Mac, Network};

/// An ARP message.
#[derive(Clone, Debug)]
pub struct Arp {
    operation: u16,
    sender: (Mac, Ipv4Addr),
    target: (Mac, Ipv4Addr),
}

impl<Top: Layer + 'static> Frame<Top> {
    /// "Who has `target`? Tell `sender`."
    #[must_use]
    #[track_caller]
    pub fn arp_request(
        self,
        mac: impl Literal<Mac>,
        sender: impl Literal<Ipv4Addr>,
        target: impl Literal<Ipv4Addr>,
    ) -> Frame<Arp> {
        self.then(Arp {
            operation: 1,
            sender: (mac.value(), sender.value()),
            target: (Mac([0; 6]), target.value()),
        })
    }

    /// "`sender` is at `mac`", told to `target`.
    #[must_use]
    #[track_caller]
    pub fn arp_reply(
        self,
        mac: impl Literal<Mac>,
        sender: impl Literal<Ipv4Addr>,
        target_mac: impl Literal<Mac>,
        target: impl Literal<Ipv4Addr>,
    ) -> Frame<Arp> {
        self.then(Arp {
            operation: 2,
            sender: (mac.value(), sender.value()),
            target: (target_mac.value(), target.value()),
        })
    }
}

impl Layer for Arp {
    fn kind(&self) -> Kind {
        Kind::link(0x0806)
    }

    fn encode(&self, _: Kind, payload: &[u8], _: Option<Network>) -> Vec<u8> {
        [
            // Ethernet, IPv4, and the lengths of their addresses.
            &[0, 1, 8, 0, 6, 4][..],
            &self.operation.to_be_bytes(),
            &self.sender.0.0,
            &self.sender.1.octets(),
            &self.target.0.0,
            &self.target.1.octets(),
            payload,
        ]
        .concat()
    }
}
