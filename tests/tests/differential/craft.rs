//! Packets as bytes, built from the inside out: lengths and checksums are right. What is wrong comes by mutation.

use std::net::IpAddr;

use xdp_lb_tests::packet::internet_checksum;

/// An IP header.
#[derive(Clone, Debug)]
pub struct Ip {
    pub source: IpAddr,
    pub destination: IpAddr,
    pub tos: u8,
    pub ttl: u8,
    /// IPv4: identification.
    pub id: u16,
    /// IPv4: flags and offset.
    pub flags: u16,
    /// IPv4, in fours.
    pub options: Vec<u8>,
    /// IPv6: extension headers by their numbers, without their first byte.
    pub extensions: Vec<(u8, Vec<u8>)>,
    /// IPv6.
    pub label: u32,
}

impl Ip {
    /// A plain one.
    pub fn new(source: IpAddr, destination: IpAddr) -> Self {
        Self {
            source,
            destination,
            tos: 0,
            ttl: 61,
            id: 0x1234,
            flags: 0,
            options: Vec::new(),
            extensions: Vec::new(),
            label: 0,
        }
    }

    /// The packet that carries `payload`.
    pub fn packet(&self, protocol: u8, payload: &[u8]) -> Vec<u8> {
        match (self.source, self.destination) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                let header = 20 + self.options.len();
                let [l0, l1] = ((header + payload.len()) as u16).to_be_bytes();
                let ([i0, i1], [f0, f1]) = (self.id.to_be_bytes(), self.flags.to_be_bytes());
                let first = 0x40 | (header / 4) as u8;
                let mut h = vec![first, self.tos, l0, l1, i0, i1, f0, f1, self.ttl, protocol, 0, 0];
                h.extend(from.octets());
                h.extend(to.octets());
                h.extend(&self.options);
                let sum = internet_checksum(&[&h]);
                h[10..12].copy_from_slice(&sum.to_be_bytes());
                h.extend(payload);
                h
            }
            (from, to) => {
                let octets = |address| match address {
                    IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
                    IpAddr::V6(v6) => v6.octets(),
                };
                let numbers = self.extensions.iter().map(|(number, _)| *number).chain([protocol]);
                let next: Vec<u8> = numbers.collect();
                let mut carried = Vec::new();
                for ((_, rest), next) in self.extensions.iter().zip(&next[1..]) {
                    carried.push(*next);
                    carried.extend(rest);
                }
                carried.extend(payload);
                let first = 6 << 28 | u32::from(self.tos) << 20 | self.label & 0xf_ffff;
                let mut h = first.to_be_bytes().to_vec();
                h.extend((carried.len() as u16).to_be_bytes());
                h.extend([next[0], self.ttl]);
                h.extend(octets(from));
                h.extend(octets(to));
                h.extend(carried);
                h
            }
        }
    }

    fn sum(&self, protocol: u8, message: &[u8]) -> [u8; 2] {
        let octets = |address| match address {
            IpAddr::V4(v4) => v4.octets().to_vec(),
            IpAddr::V6(v6) => v6.octets().to_vec(),
        };
        let (from, to) = (octets(self.source), octets(self.destination));
        let length = (message.len() as u32).to_be_bytes();
        internet_checksum(&[&from, &to, &length, &[0, 0, 0, protocol], message]).to_be_bytes()
    }

    /// A UDP datagram in this packet.
    pub fn udp(&self, source: u16, destination: u16, payload: &[u8]) -> Vec<u8> {
        let length = (8 + payload.len()) as u16;
        let mut message = [source, destination, length, 0].map(u16::to_be_bytes).concat();
        message.extend(payload);
        let sum = match self.sum(17, &message) {
            [0, 0] => [0xff, 0xff],
            sum => sum,
        };
        message[6..8].copy_from_slice(&sum);
        message
    }

    /// A TCP segment in this packet; options in fours.
    pub fn tcp(&self, source: u16, destination: u16, flags: u8, options: &[u8], payload: &[u8]) -> Vec<u8> {
        let mut message = [source, destination].map(u16::to_be_bytes).concat();
        message.extend([
            1,
            2,
            3,
            4,
            5,
            6,
            7,
            8,
            (5 + options.len() / 4) as u8 * 16,
            flags,
            0xff,
            0xff,
            0,
            0,
            0,
            0,
        ]);
        message.extend(options);
        message.extend(payload);
        let sum = self.sum(6, &message);
        message[16..18].copy_from_slice(&sum);
        message
    }

    /// An ICMP or ICMPv6 message in this packet.
    pub fn icmp(&self, kind: u8, code: u8, rest: [u8; 4], body: &[u8]) -> Vec<u8> {
        let mut message = vec![kind, code, 0, 0];
        message.extend(rest);
        message.extend(body);
        let sum = match self.source {
            IpAddr::V4(_) => internet_checksum(&[&message]).to_be_bytes(),
            IpAddr::V6(_) => self.sum(58, &message),
        };
        message[2..4].copy_from_slice(&sum);
        message
    }

    /// Its ICMP's protocol number.
    pub fn icmp_protocol(&self) -> u8 {
        if self.source.is_ipv4() { 1 } else { 58 }
    }
}

/// A frame with tags, and a trailer that no length counts.
pub fn frame(tags: &[[u8; 4]], packet: &[u8], trailer: &[u8]) -> Vec<u8> {
    let mut frame = vec![0, 0, 0, 0, 0, 0, 0x00, 0x00, 0x5e, 0x00, 0x01, 0x01];
    frame.extend(tags.concat());
    frame.extend(if packet.first().is_some_and(|first| first >> 4 == 6) {
        [0x86, 0xdd]
    } else {
        [0x08, 0x00]
    });
    frame.extend(packet);
    frame.extend(trailer);
    frame
}
