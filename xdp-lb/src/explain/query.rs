//! The packet that is asked about.

use std::net::{IpAddr, SocketAddr};

use xdp_lb_common::{
    affinity::Named,
    parse::{Addresses, ETHERNET_LEN, Ports, Segment, TCP, UDP, Version, v4_words, words},
};

use crate::{model::Protocol, template::map_address};

/// A packet to explain. Both addresses are of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Query {
    /// TCP or UDP.
    pub protocol: Protocol,
    /// Client.
    pub source: SocketAddr,
    /// VIP and port.
    pub destination: SocketAddr,
    /// What the packet means for its flow; always [`Segment::Datagram`] for UDP.
    pub segment: Segment,
    /// Length of the IP packet in bytes.
    pub len: u16,
    /// Its TOS or traffic class.
    pub tos: u8,
    /// What its payload says of a backend, where the affinity asks.
    pub named: Named,
}

impl Query {
    /// A packet of a UDP flow, or of a TCP connection that exists; `None` when one address is IPv4 and the other IPv6.
    #[must_use]
    pub fn new(protocol: Protocol, source: SocketAddr, destination: SocketAddr) -> Option<Self> {
        let segment = match protocol {
            Protocol::Tcp => Segment::Data,
            Protocol::Udp => Segment::Datagram,
        };
        let same_family = source.is_ipv4() == destination.is_ipv4();
        same_family.then_some(Self {
            protocol,
            source,
            destination,
            segment,
            len: 100,
            tos: 0,
            named: Named::Nothing,
        })
    }

    /// The same with another meaning for the flow; a datagram stays one.
    #[must_use]
    pub fn with_segment(self, segment: Segment) -> Self {
        match self.protocol {
            Protocol::Tcp => Self { segment, ..self },
            Protocol::Udp => self,
        }
    }

    pub(super) fn addresses(&self) -> Addresses {
        let (version, source, destination) = match (self.source.ip(), self.destination.ip()) {
            (IpAddr::V4(s), IpAddr::V4(d)) => (Version::V4, v4_words(s.octets()), v4_words(d.octets())),
            (s, d) => (Version::V6, v6_words(s), v6_words(d)),
        };
        Addresses { version, l3: ETHERNET_LEN, source, destination }
    }

    pub(super) fn ports(&self) -> u32 {
        Ports::pair_of(self.source.port(), self.destination.port())
    }

    pub(super) fn protocol_number(&self) -> u8 {
        match self.protocol {
            Protocol::Tcp => TCP,
            Protocol::Udp => UDP,
        }
    }
}

fn v6_words(address: IpAddr) -> [u64; 2] {
    words(&map_address(address))
}
