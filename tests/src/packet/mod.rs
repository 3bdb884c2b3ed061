//! Frames as the wire carries them, built by hand: the other opinion in every golden test.
//!
//! Nothing here uses xdp-lb's own parser, checksum or encapsulation. A frame is a stack of layers, written
//! in the order of the bytes; lengths, checksums and protocol numbers are right unless a test says otherwise:
//!
//! ```
//! use xdp_lb_tests::packet::eth;
//!
//! let call = eth("02:00:00:00:00:01", "02:00:00:00:00:02")
//!     .ipv4("198.51.100.7", "203.0.113.10").ttl(63).tos(0x2e << 2).df()
//!     .udp(40000, 5060)
//!     .payload(b"OPTIONS sip:example.org SIP/2.0");
//! assert_eq!(call.build().len(), 14 + 20 + 8 + 31);
//! assert_eq!(call.at(20).len(), 20);
//! ```
//!
//! A setter belongs to the layer written last, and is only there where that layer has the field.
//! [`assert_packet_eq`] compares whole frames and names the field of the first difference.

mod address;
mod arp;
mod checksum;
mod diff;
mod dissect;
mod ethernet;
mod frame;
mod icmp;
mod ipv4;
mod ipv6;
mod payload;
mod rtc;
mod tcp;
mod udp;

pub use address::{Literal, Mac};
pub use arp::Arp;
pub use checksum::internet_checksum;
pub use diff::{assert_packet_eq, difference};
pub use dissect::{Field, dissect};
pub use ethernet::{Ethernet, Vlan, eth};
pub use frame::{Frame, Kind, Layer, Network, raw};
pub use icmp::Icmp;
pub use ipv4::Ipv4;
pub use ipv6::{Extension, FragmentHeader, Ipv6};
pub use payload::Payload;
pub use rtc::{binding_request, quic_long, quic_short, stun};
pub use tcp::{ACK, CWR, ECE, FIN, PSH, RST, SYN, Tcp, URG};
pub use udp::Udp;

#[cfg(test)]
mod tests;
