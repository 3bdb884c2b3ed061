//! Flows of test runs: their frames and the questions about them.

use std::net::{IpAddr, SocketAddr};

use xdp_lb::explain::Query;
use xdp_lb::model::Protocol;
use xdp_lb_common::parse::Segment;
use xdp_lb_tests::packet::{ACK, FIN, Frame, Layer, PSH, SYN, eth};

/// `lo` has no address of its own.
const OWN_MAC: &str = "00:00:00:00:00:00";
/// Who sends every packet.
const ROUTER_MAC: &str = "00:00:5e:00:01:01";

/// A client's five-tuple.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Flow {
    /// TCP, else UDP.
    pub tcp: bool,
    /// Client.
    pub source: SocketAddr,
    /// VIP and port.
    pub destination: SocketAddr,
}

/// One packet of a flow.
#[derive(Clone, Debug)]
pub struct Sent {
    /// The frame.
    pub frame: Vec<u8>,
    /// The question about it.
    pub query: Query,
}

impl Flow {
    /// A packet of this flow that means `segment`, with a payload of so many bytes where its kind may have one.
    ///
    /// # Panics
    /// When source and destination are of two families.
    pub fn packet(&self, segment: Segment, payload: usize, tos: u8) -> Sent {
        let frame = match (self.source.ip(), self.destination.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                self.transport(eth(OWN_MAC, ROUTER_MAC).ipv4(from, to).tos(tos), segment, payload)
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                self.transport(eth(OWN_MAC, ROUTER_MAC).ipv6(from, to).traffic_class(tos), segment, payload)
            }
            _ => panic!("{self:?} is of two families"),
        };
        let protocol = if self.tcp { Protocol::Tcp } else { Protocol::Udp };
        let query = Query::new(protocol, self.source, self.destination).expect("one family");
        let len = u16::try_from(frame.len() - 14).expect("a short packet");
        Sent { query: Query { len, tos, ..query.with_segment(segment) }, frame }
    }

    fn transport<T: Layer + 'static>(&self, ip: Frame<T>, segment: Segment, payload: usize) -> Vec<u8> {
        let (source, destination) = (self.source.port(), self.destination.port());
        let (flags, payload) = match segment {
            Segment::Datagram => return ip.udp(source, destination).payload(&vec![7; payload]).build(),
            Segment::Syn => (SYN, 0),
            Segment::Ack => (ACK, 0),
            Segment::Closing => (FIN | ACK, payload),
            Segment::Data => (PSH | ACK, payload.max(1)),
        };
        ip.tcp(source, destination).flags(flags).payload(&vec![7; payload]).build()
    }
}
