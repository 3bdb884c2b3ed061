//! Headers of TCP, UDP and ICMP in packets that are no fragments.

use xdp_lb_common::reason::DropReason;

use super::ip::{Ip, Version};
use super::read::Read;

/// What a packet means for its flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Segment {
    Datagram,
    /// Opens a connection.
    Syn,
    /// FIN or RST.
    Closing,
    Data,
    /// None of these, and no data.
    Ack,
}

/// A transport header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transport {
    Ports {
        source: u16,
        destination: u16,
        segment: Segment,
    },
    EchoRequest,
    /// Router and neighbour discovery (RFC 4861).
    Discovery,
    OtherIcmp,
    Other,
}

pub(super) fn transport(ip: &Ip<'_>) -> Result<Transport, DropReason> {
    let payload = ip.payload();
    match (ip.protocol, ip.named.version) {
        (6, _) => tcp(payload),
        (17, _) => udp(payload),
        (1, Version::V4) => icmp(payload, |kind, code| match (kind, code) {
            (8, 0) => Transport::EchoRequest,
            _ => Transport::OtherIcmp,
        }),
        (58, Version::V6) => icmp(payload, |kind, code| match (kind, code) {
            (128, 0) => Transport::EchoRequest,
            (133..=137, _) => Transport::Discovery,
            _ => Transport::OtherIcmp,
        }),
        _ => Ok(Transport::Other),
    }
}

fn tcp(payload: &[u8]) -> Result<Transport, DropReason> {
    let h: [u8; 20] = payload.some(0).ok_or(DropReason::L4Truncated)?;
    let header = usize::from(h[12] >> 4) * 4;
    if header < 20 || header > payload.len() {
        return Err(DropReason::L4Length);
    }
    Ok(ports(&h, segment(h[13], payload.len() - header)))
}

/// Of TCP flags and so many bytes of data.
pub(super) fn segment(flags: u8, data: usize) -> Segment {
    let (fin, syn, rst, ack) = (flags & 1 != 0, flags & 2 != 0, flags & 4 != 0, flags & 16 != 0);
    if fin || rst {
        Segment::Closing
    } else if syn && !ack {
        Segment::Syn
    } else if data > 0 {
        Segment::Data
    } else {
        Segment::Ack
    }
}

fn udp(payload: &[u8]) -> Result<Transport, DropReason> {
    let h: [u8; 8] = payload.some(0).ok_or(DropReason::L4Truncated)?;
    let length = usize::from(u16::from_be_bytes([h[4], h[5]]));
    if length < 8 || length > payload.len() {
        return Err(DropReason::L4Length);
    }
    Ok(ports(&h, Segment::Datagram))
}

/// The first four bytes of TCP and UDP.
fn ports(h: &[u8], segment: Segment) -> Transport {
    let source = u16::from_be_bytes([h[0], h[1]]);
    let destination = u16::from_be_bytes([h[2], h[3]]);
    Transport::Ports { source, destination, segment }
}

fn icmp(payload: &[u8], kind: impl Fn(u8, u8) -> Transport) -> Result<Transport, DropReason> {
    let h: [u8; 8] = payload.some(0).ok_or(DropReason::L4Truncated)?;
    Ok(kind(h[0], h[1]))
}

/// What a UDP datagram carries: as long as its own header says, at most to the packet's end.
pub(super) fn datagram<'a>(ip: &Ip<'a>) -> &'a [u8] {
    let udp = ip.payload();
    let length = udp.short(4).map_or(0, usize::from);
    udp.get(8..length.min(udp.len())).unwrap_or(&[])
}
