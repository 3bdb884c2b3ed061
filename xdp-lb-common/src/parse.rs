//! Reads a frame: Ethernet, IPv4 with options, IPv6 with extension headers, TCP, UDP, ICMP.
//!
//! Generic over where the bytes come from, so that the kernel (bounds-checked packet memory), `explain`,
//! the unit tests and the fuzzer run the same code. Parsing is staged, because only packets for a VIP may
//! be judged: first the destination alone, then the rest of the IP header, then the transport.
//!
//! ```text
//!  |<- l3 ->|<------- header ------>|<- l4 ..............>|<- padding ->|
//!  Ethernet  IP + options/extensions  TCP/UDP/ICMP          not in IP length
//!                                                         ^ end
//! ```

use network_types::{
    eth::EthHdr,
    ip::{IpProto, Ipv4Hdr, Ipv6Hdr},
};

use crate::{fragment::Fragment, reason::DropReason};

/// Length of the Ethernet header.
pub const ETHERNET_LEN: usize = EthHdr::LEN;
/// Length of an IPv4 header without options.
pub const IPV4_LEN: usize = Ipv4Hdr::LEN;
/// Length of the fixed IPv6 header.
pub const IPV6_LEN: usize = Ipv6Hdr::LEN;
/// IPv6 extension headers that are followed.
pub const MAX_EXTENSIONS: usize = 6;

/// Protocol number of TCP.
pub const TCP: u8 = IpProto::Tcp as u8;
/// Protocol number of UDP.
pub const UDP: u8 = IpProto::Udp as u8;
/// Protocol number of ICMP.
pub const ICMP: u8 = IpProto::Icmp as u8;
/// Protocol number of ICMPv6.
pub const ICMPV6: u8 = IpProto::Ipv6Icmp as u8;
/// Protocol number of IPv4 in IP (RFC 2003).
pub const IPIP: u8 = IpProto::Ipv4 as u8;
/// Protocol number of IPv6 in IP (RFC 2473, RFC 4213).
pub const IPV6_IN_IP: u8 = IpProto::Ipv6 as u8;

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const ETHERTYPE_VLAN: u16 = 0x8100;
const ETHERTYPE_QINQ: u16 = 0x88a8;
/// Outer tag of two before 802.1ad had a number for it.
const ETHERTYPE_QINQ_OLD: u16 = 0x9100;

/// A frame's bytes.
pub trait Bytes {
    /// `N` bytes at `offset`, or `None` beyond the end.
    fn get<const N: usize>(&self, offset: usize) -> Option<&[u8; N]>;
    /// Length of what [`Bytes::get`] reaches: the frame, or the first of several buffers that a driver put it in.
    fn len(&self) -> usize;
    /// Length of the frame, all its buffers together.
    #[inline(always)]
    fn whole(&self) -> usize {
        self.len()
    }
    /// True for a frame of no bytes.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Bytes for [u8] {
    fn get<const N: usize>(&self, offset: usize) -> Option<&[u8; N]> {
        self.get(offset..offset.checked_add(N)?)?.try_into().ok()
    }
    fn len(&self) -> usize {
        <[u8]>::len(self)
    }
}

/// What the Ethernet header announces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ethernet {
    /// IPv4 follows.
    Ipv4,
    /// IPv6 follows.
    Ipv6,
    /// A VLAN tag follows.
    Tagged,
    /// Something else follows, or the frame ends.
    Other,
}

/// Reads the Ethernet header's own EtherType; [`crate::vlan::network`] looks behind tags.
#[must_use]
#[inline(always)]
pub fn ethernet<B: Bytes + ?Sized>(frame: &B) -> Ethernet {
    ethertype_at(frame, ETHERNET_LEN - 2)
}

/// Reads an EtherType.
#[must_use]
#[inline(always)]
pub fn ethertype_at<B: Bytes + ?Sized>(frame: &B, offset: usize) -> Ethernet {
    // Compared as numbers: arrays are compared byte by byte.
    match frame.get::<2>(offset).map(|&bytes| u16::from_be_bytes(bytes)) {
        Some(ETHERTYPE_IPV4) => Ethernet::Ipv4,
        Some(ETHERTYPE_IPV6) => Ethernet::Ipv6,
        Some(ETHERTYPE_VLAN | ETHERTYPE_QINQ | ETHERTYPE_QINQ_OLD) => Ethernet::Tagged,
        _ => Ethernet::Other,
    }
}

/// EtherType of an IP version.
#[must_use]
#[inline(always)]
pub const fn ethertype(version: Version) -> [u8; 2] {
    match version {
        Version::V4 => ETHERTYPE_IPV4.to_be_bytes(),
        Version::V6 => ETHERTYPE_IPV6.to_be_bytes(),
    }
}

/// IP version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// An address as two little-endian words of its 16 network-order bytes; IPv4 as `::ffff:a.b.c.d`.
pub type Words = [u64; 2];

/// Words of an IPv4 address.
#[must_use]
#[inline(always)]
pub const fn v4_words(address: [u8; 4]) -> Words {
    [0, 0xffff_0000 | (u32::from_le_bytes(address) as u64) << 32]
}

/// Words of 16 network-order bytes.
#[must_use]
#[inline(always)]
pub fn words(bytes: &[u8; 16]) -> Words {
    [u64::from_le_bytes(part::<0, 8, 16>(bytes)), u64::from_le_bytes(part::<8, 8, 16>(bytes))]
}

/// `M` bytes at offset `AT` of a header: one load, where an array of single bytes would be as many.
#[must_use]
#[inline(always)]
pub const fn part<const AT: usize, const M: usize, const N: usize>(header: &[u8; N]) -> [u8; M] {
    const { assert!(AT + M <= N) };
    match header.split_at(AT).1.first_chunk::<M>() {
        Some(part) => *part,
        None => [0; M],
    }
}

/// Two bytes at offset `AT` as a number in network order.
#[must_use]
#[inline(always)]
pub const fn be16<const AT: usize, const N: usize>(header: &[u8; N]) -> u16 {
    u16::from_be_bytes(part::<AT, 2, N>(header))
}

/// Source and destination of an IP header whose other fields have not been looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// IP version by the EtherType, or by the tunnel's protocol number.
    pub version: Version,
    /// Offset of the IP header.
    pub l3: usize,
    /// Source.
    pub source: Words,
    /// Destination.
    pub destination: Words,
}

/// Reads the addresses of the IP header at `l3`; `None` when the frame ends before them.
#[must_use]
#[inline(always)]
pub fn addresses<B: Bytes + ?Sized>(frame: &B, l3: usize, version: Version) -> Option<Addresses> {
    Some(match version {
        Version::V4 => {
            let h = frame.get::<20>(l3)?;
            Addresses {
                version,
                l3,
                source: v4_words(part::<12, 4, 20>(h)),
                destination: v4_words(part::<16, 4, 20>(h)),
            }
        }
        Version::V6 => {
            let h = frame.get::<40>(l3)?;
            Addresses {
                version,
                l3,
                source: words(&part::<8, 16, 40>(h)),
                destination: words(&part::<24, 16, 40>(h)),
            }
        }
    })
}

/// A valid IP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ip {
    /// Where it was found and whom it names.
    pub addresses: Addresses,
    /// Protocol of what follows the header and its extensions.
    pub protocol: u8,
    /// Offset of what follows.
    pub l4: usize,
    /// Offset just behind the packet; the frame may be longer.
    pub end: usize,
    /// TOS or traffic class.
    pub tos: u8,
    /// One of several fragments. Of a later one `l4` and `protocol` are what its header says, whatever it holds.
    pub fragment: Option<Fragment>,
}

impl Ip {
    /// Length of the IP packet.
    #[must_use]
    #[inline(always)]
    pub fn len(&self) -> usize {
        self.end.wrapping_sub(self.addresses.l3)
    }

    /// Never: a valid header has a length.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        false
    }
}

/// Checks the IP header behind `addresses` and finds what follows it.
///
/// # Errors
/// The reason to drop the packet, if it is for a VIP.
#[inline(always)]
pub fn ip<B: Bytes + ?Sized>(frame: &B, addresses: Addresses) -> Result<Ip, DropReason> {
    match addresses.version {
        Version::V4 => ipv4(frame, addresses),
        Version::V6 => ipv6(frame, addresses),
    }
}

#[inline(always)]
fn ipv4<B: Bytes + ?Sized>(frame: &B, addresses: Addresses) -> Result<Ip, DropReason> {
    let l3 = addresses.l3;
    let h = frame.get::<20>(l3).ok_or(DropReason::IpTruncated)?;
    let header = ((h[0] & 0xf) as usize) << 2;
    if h[0] >> 4 != 4 || header < IPV4_LEN {
        return Err(DropReason::IpHeader);
    }
    let total = u16::from_be_bytes([h[2], h[3]]) as usize;
    let end = l3 + total;
    if total < header || end > frame.whole() {
        return Err(DropReason::IpLength);
    }
    if h[8] == 0 {
        return Err(DropReason::TtlZero);
    }
    let fragment = Fragment::v4(be16::<4, _>(h), be16::<6, _>(h));
    Ok(Ip { addresses, protocol: h[9], l4: l3 + header, end, tos: h[1], fragment })
}

#[inline(always)]
fn ipv6<B: Bytes + ?Sized>(frame: &B, addresses: Addresses) -> Result<Ip, DropReason> {
    let l3 = addresses.l3;
    let h = frame.get::<40>(l3).ok_or(DropReason::IpTruncated)?;
    if h[0] >> 4 != 6 {
        return Err(DropReason::IpHeader);
    }
    let end = l3 + IPV6_LEN + u16::from_be_bytes([h[4], h[5]]) as usize;
    if end > frame.whole() {
        return Err(DropReason::IpLength);
    }
    if h[7] == 0 {
        return Err(DropReason::TtlZero);
    }
    let tos = h[0] << 4 | h[1] >> 4;
    let plain = Ip { addresses, protocol: h[6], l4: l3 + IPV6_LEN, end, tos, fragment: None };
    if is_extension(plain.protocol) { extensions(frame, plain) } else { Ok(plain) }
}

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION_OPTIONS: u8 = 60;

/// True for an IPv6 extension header that is followed.
#[must_use]
#[inline(always)]
pub const fn is_extension(protocol: u8) -> bool {
    matches!(protocol, HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION_OPTIONS)
}

/// Follows extension headers (RFC 8200 section 4) up to the transport, or up to the fragment header of a fragment that
/// is not the first. A first fragment must hold all of them (RFC 7112).
#[inline(always)]
fn extensions<B: Bytes + ?Sized>(frame: &B, mut ip: Ip) -> Result<Ip, DropReason> {
    for _ in 0..MAX_EXTENSIONS {
        let Some(h) = frame.get::<8>(ip.l4).filter(|_| ip.l4 + 8 <= ip.end) else { return Err(cut(&ip)) };
        let len = match ip.protocol {
            FRAGMENT => {
                if let Some(fragment) = Fragment::v6(h) {
                    // A fragment of a fragment: nobody sends it, and its datagram cannot be told.
                    if ip.fragment.is_some() {
                        return Err(DropReason::Fragment);
                    }
                    ip.fragment = Some(fragment);
                    if fragment.offset != 0 {
                        ip.protocol = h[0];
                        ip.l4 += 8;
                        return Ok(ip);
                    }
                }
                8
            }
            AUTHENTICATION => (h[1] as usize + 2) * 4,
            _ => (h[1] as usize + 1) * 8,
        };
        ip.protocol = h[0];
        ip.l4 += len;
        if ip.l4 > ip.end {
            return Err(cut(&ip));
        }
        if !is_extension(ip.protocol) {
            return Ok(ip);
        }
    }
    Err(DropReason::ExtensionHeaders)
}

#[inline(always)]
const fn cut(ip: &Ip) -> DropReason {
    if ip.fragment.is_some() { DropReason::FragmentTiny } else { DropReason::IpTruncated }
}

/// What a packet means for its flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Segment {
    /// UDP.
    Datagram,
    /// TCP that opens a connection: SYN without ACK, FIN or RST.
    Syn,
    /// TCP with FIN or RST.
    Closing,
    /// Any other TCP segment that carries data.
    Data,
    /// Any other TCP segment without data.
    Ack,
}

/// What [`Segment`] is told by. Kept raw, because only packets that ask the flow table need to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RawSegment {
    /// UDP.
    Datagram,
    /// TCP.
    Tcp {
        /// The header's flags.
        flags: u8,
        /// Bytes of data behind the header.
        data: u16,
    },
}

impl From<RawSegment> for Segment {
    #[inline(always)]
    fn from(raw: RawSegment) -> Self {
        match raw {
            RawSegment::Datagram => Self::Datagram,
            RawSegment::Tcp { flags, .. } if flags & (FIN | RST) != 0 => Self::Closing,
            RawSegment::Tcp { flags, .. } if flags & (SYN | ACK) == SYN => Self::Syn,
            RawSegment::Tcp { data: 0, .. } => Self::Ack,
            RawSegment::Tcp { .. } => Self::Data,
        }
    }
}

/// The transport header of TCP or UDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ports {
    /// Source and destination port as they stand in the packet: a little-endian word of the network-order bytes.
    pub pair: u32,
    /// What it means for the flow.
    pub segment: RawSegment,
}

impl Ports {
    /// [`Self::pair`] of two port numbers.
    #[must_use]
    pub const fn pair_of(source: u16, destination: u16) -> u32 {
        source.swap_bytes() as u32 | (destination.swap_bytes() as u32) << 16
    }

    /// Destination port.
    #[must_use]
    #[inline(always)]
    pub const fn destination(&self) -> u16 {
        ((self.pair >> 16) as u16).swap_bytes()
    }
}

/// What follows the IP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// TCP or UDP.
    Ports(Ports),
    /// ICMP or ICMPv6 echo request.
    EchoRequest,
    /// ICMPv6 router and neighbour discovery (RFC 4861), addressed to the VIP itself.
    NeighbourDiscovery,
    /// Other ICMP.
    OtherIcmp,
    /// Any other protocol.
    Other,
}

/// Reads the transport header of a packet that is no fragment.
///
/// # Errors
/// The reason to drop the packet.
#[inline(always)]
pub fn transport<B: Bytes + ?Sized>(frame: &B, ip: &Ip) -> Result<Transport, DropReason> {
    match ip.protocol {
        TCP => tcp(frame, ip),
        UDP => udp(frame, ip),
        ICMP if ip.addresses.version == Version::V4 => icmp(frame, ip),
        ICMPV6 if ip.addresses.version == Version::V6 => icmp(frame, ip),
        _ => Ok(Transport::Other),
    }
}

#[inline(always)]
fn udp<B: Bytes + ?Sized>(frame: &B, ip: &Ip) -> Result<Transport, DropReason> {
    let h = l4::<8, B>(frame, ip)?;
    let len = u16::from_be_bytes([h[4], h[5]]) as usize;
    if len < 8 || ip.l4 + len > ip.end {
        return Err(DropReason::L4Length);
    }
    Ok(Transport::Ports(Ports {
        pair: u32::from_le_bytes(part::<0, 4, _>(h)),
        segment: RawSegment::Datagram,
    }))
}

const FIN: u8 = 1;
const SYN: u8 = 2;
const RST: u8 = 4;
const ACK: u8 = 16;

#[inline(always)]
fn tcp<B: Bytes + ?Sized>(frame: &B, ip: &Ip) -> Result<Transport, DropReason> {
    let h = l4::<20, B>(frame, ip)?;
    let header = (h[12] >> 4) as usize * 4;
    if header < 20 || ip.l4 + header > ip.end {
        return Err(DropReason::L4Length);
    }
    Ok(Transport::Ports(Ports {
        pair: u32::from_le_bytes(part::<0, 4, _>(h)),
        segment: RawSegment::Tcp { flags: h[13], data: (ip.end - ip.l4 - header) as u16 },
    }))
}

/// A packet as nearly all are: no tag, no option, no extension header, no fragment, TCP or UDP, every length right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plain {
    /// What [`ip`] would say.
    pub ip: Ip,
    /// What [`transport`] would say.
    pub ports: Ports,
}

/// Reads an IPv4 packet behind an untagged Ethernet header if it is plain. Answers `None` for every other, good or bad.
#[inline(always)]
pub fn plain_v4<B: Bytes + ?Sized>(frame: &B) -> Option<Plain> {
    const L4: usize = ETHERNET_LEN + IPV4_LEN;
    let h = frame.get::<{ IPV4_LEN + 8 }>(ETHERNET_LEN)?;
    let fragment = be16::<6, _>(h) & 0x3fff != 0;
    if h[0] != 0x45 || fragment || h[8] == 0 {
        return None;
    }
    let addresses = Addresses {
        version: Version::V4,
        l3: ETHERNET_LEN,
        source: v4_words(part::<12, 4, _>(h)),
        destination: v4_words(part::<16, 4, _>(h)),
    };
    let end = ETHERNET_LEN + be16::<2, _>(h) as usize;
    plain_ports(frame, Ip { addresses, protocol: h[9], l4: L4, end, tos: h[1], fragment: None })
}

/// Reads an IPv6 packet behind an untagged Ethernet header if it is plain. Answers `None` for every other, good or bad.
#[inline(always)]
pub fn plain_v6<B: Bytes + ?Sized>(frame: &B) -> Option<Plain> {
    const L4: usize = ETHERNET_LEN + IPV6_LEN;
    let h = frame.get::<{ IPV6_LEN + 8 }>(ETHERNET_LEN)?;
    if h[0] >> 4 != 6 || h[7] == 0 {
        return None;
    }
    let addresses = Addresses {
        version: Version::V6,
        l3: ETHERNET_LEN,
        source: words(&part::<8, 16, _>(h)),
        destination: words(&part::<24, 16, _>(h)),
    };
    let end = L4 + be16::<4, _>(h) as usize;
    let tos = (be16::<0, _>(h) >> 4) as u8;
    plain_ports(frame, Ip { addresses, protocol: h[6], l4: L4, end, tos, fragment: None })
}

#[inline(always)]
fn plain_ports<B: Bytes + ?Sized>(frame: &B, ip: Ip) -> Option<Plain> {
    if ip.end > frame.len() {
        return None;
    }
    let segment = match ip.protocol {
        TCP => {
            let h = frame.get::<20>(ip.l4)?;
            let header = (h[12] >> 4) as usize * 4;
            if header < 20 || ip.l4 + header > ip.end {
                return None;
            }
            RawSegment::Tcp { flags: h[13], data: (ip.end - ip.l4 - header) as u16 }
        }
        UDP => {
            let len = be16::<4, 8>(frame.get::<8>(ip.l4)?) as usize;
            if len < 8 || ip.l4 + len > ip.end {
                return None;
            }
            RawSegment::Datagram
        }
        _ => return None,
    };
    Some(Plain { ip, ports: Ports { pair: u32::from_le_bytes(*frame.get::<4>(ip.l4)?), segment } })
}

/// ICMP type of an echo request (RFC 792).
const ECHO_V4: u8 = 8;
/// ICMPv6 type of an echo request (RFC 4443).
const ECHO_V6: u8 = 128;

#[inline(always)]
fn icmp<B: Bytes + ?Sized>(frame: &B, ip: &Ip) -> Result<Transport, DropReason> {
    let h = l4::<8, B>(frame, ip)?;
    Ok(match (ip.addresses.version, h[0], h[1]) {
        (Version::V4, ECHO_V4, 0) | (Version::V6, ECHO_V6, 0) => Transport::EchoRequest,
        (Version::V6, 133..=137, _) => Transport::NeighbourDiscovery,
        _ => Transport::OtherIcmp,
    })
}

/// `N` bytes of transport header, inside the IP packet and not merely inside the frame.
#[inline(always)]
fn l4<'a, const N: usize, B: Bytes + ?Sized>(frame: &'a B, ip: &Ip) -> Result<&'a [u8; N], DropReason> {
    if ip.l4 + N > ip.end {
        return Err(DropReason::L4Truncated);
    }
    frame.get::<N>(ip.l4).ok_or(DropReason::L4Truncated)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    fn frame(version: Version, protocol: u8, transport: &[u8]) -> Vec<u8> {
        let mut frame = Vec::from([2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2]);
        frame.extend(ethertype(version));
        let len = transport.len() as u16;
        match version {
            Version::V4 => {
                let [a, b] = (len + 20).to_be_bytes();
                frame
                    .extend([0x45, 0, a, b, 0, 0, 0x40, 0, 64, protocol, 0, 0, 10, 0, 0, 1, 203, 0, 113, 10]);
            }
            Version::V6 => {
                let [a, b] = len.to_be_bytes();
                frame.extend([0x60, 0, 0, 0, a, b, protocol, 64]);
                frame.extend([0xfd; 32]);
            }
        }
        frame.extend(transport);
        frame
    }

    fn plain(frame: &[u8]) -> Option<Plain> {
        match ethernet(frame) {
            Ethernet::Ipv4 => plain_v4(frame),
            Ethernet::Ipv6 => plain_v6(frame),
            _ => None,
        }
    }

    fn thorough(frame: &[u8]) -> Option<Plain> {
        let version = match ethernet(frame) {
            Ethernet::Ipv4 => Version::V4,
            Ethernet::Ipv6 => Version::V6,
            _ => return None,
        };
        let ip =
            ip(frame, addresses(frame, ETHERNET_LEN, version)?).ok().filter(|ip| ip.fragment.is_none())?;
        match transport(frame, &ip) {
            Ok(Transport::Ports(ports)) => Some(Plain { ip, ports }),
            _ => None,
        }
    }

    /// What the quick parser says is what the thorough one says, and it says so of every packet without options and
    /// extension headers: each byte of each header set to a few values, and the frame cut anywhere.
    #[test]
    fn a_plain_packet_is_read_alike_by_both_parsers() {
        let tcp = [0x9c, 0x40, 1, 187, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 0x10, 0xff, 0xff, 0, 0, 0, 0, 1, 2, 3];
        let udp = [0x9c, 0x40, 1, 187, 0, 11, 0, 0, 1, 2, 3];
        let mut plain_ones = 0;
        for version in [Version::V4, Version::V6] {
            for (protocol, transport) in [(TCP, &tcp[..]), (UDP, &udp[..]), (ICMP, &udp[..])] {
                let whole = frame(version, protocol, transport);
                let mut check = |frame: &[u8]| {
                    let (quick, slow) = (plain(frame), thorough(frame));
                    if let Some(quick) = quick {
                        plain_ones += 1;
                        assert_eq!(Some(quick), slow, "{frame:02x?}");
                    } else if let Some(slow) = slow {
                        let bare = ETHERNET_LEN + if version == Version::V4 { IPV4_LEN } else { IPV6_LEN };
                        assert!(
                            slow.ip.l4 != bare,
                            "plain, but only the thorough parser says so: {frame:02x?}"
                        );
                    }
                };
                check(&whole);
                (0..whole.len()).for_each(|cut| check(&whole[..cut]));
                for at in 12..whole.len() {
                    for value in 0..=255 {
                        let mut changed = whole.clone();
                        changed[at] = value;
                        check(&changed);
                    }
                }
            }
        }
        assert!(plain_ones > 10_000, "{plain_ones}");
    }
}
