//! Ethernet, VLAN tags and IP headers: what a frame says of itself, and what is wrong with it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use xdp_lb_common::reason::{DropReason, PassReason};

use super::read::Read;

/// Followed extension headers of a packet.
const MOST_EXTENSIONS: usize = 6;

/// IP version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Version {
    /// Length of the header without options.
    pub(super) const fn header(self) -> usize {
        match self {
            Self::V4 => 20,
            Self::V6 => 40,
        }
    }

    /// In Ethernet.
    pub(super) const fn ethertype(self) -> u16 {
        match self {
            Self::V4 => 0x0800,
            Self::V6 => 0x86dd,
        }
    }

    /// In a tunnel.
    pub(super) const fn protocol(self) -> u8 {
        match self {
            Self::V4 => 4,
            Self::V6 => 41,
        }
    }
}

/// Where a frame's IP header begins, behind at most two tags.
pub(super) fn network(frame: &[u8]) -> Result<(Version, usize), PassReason> {
    for l3 in [14, 18, 22] {
        match frame.short(l3 - 2) {
            Some(0x0800) => return Ok((Version::V4, l3)),
            Some(0x86dd) => return Ok((Version::V6, l3)),
            // 802.1Q, 802.1ad, and what was used before it had a number.
            Some(0x8100 | 0x88a8 | 0x9100) => {}
            _ => return Err(PassReason::NotIp),
        }
    }
    Err(PassReason::VlanDepth)
}

/// An IP header of which only the addresses were looked at.
#[derive(Clone, Copy, Debug)]
pub(super) struct Named<'a> {
    pub frame: &'a [u8],
    pub version: Version,
    pub l3: usize,
    pub source: IpAddr,
    pub destination: IpAddr,
}

/// Whom the header at `l3` names; `None` when the frame ends inside it.
pub(super) fn named(frame: &[u8], version: Version, l3: usize) -> Option<Named<'_>> {
    let (source, destination) = match version {
        Version::V4 => {
            let h: [u8; 20] = frame.some(l3)?;
            (
                Ipv4Addr::new(h[12], h[13], h[14], h[15]).into(),
                Ipv4Addr::new(h[16], h[17], h[18], h[19]).into(),
            )
        }
        Version::V6 => {
            let address = |at| frame.some::<16>(l3 + at).map(Ipv6Addr::from);
            (address(8)?.into(), address(24)?.into())
        }
    };
    Some(Named { frame, version, l3, source, destination })
}

/// What an IP header says of a fragment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fragment {
    pub id: u32,
    pub offset: usize,
    pub more: bool,
}

/// A packet whose IP header is right.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ip<'a> {
    pub named: Named<'a>,
    pub protocol: u8,
    /// Where what it carries begins.
    pub l4: usize,
    /// Just behind the packet.
    pub end: usize,
    pub tos: u8,
    pub fragment: Option<Fragment>,
}

impl<'a> Ip<'a> {
    /// The packet without what is in front of it or behind.
    pub fn whole(&self) -> &'a [u8] {
        &self.named.frame[self.named.l3..self.end]
    }

    /// What it carries.
    pub fn payload(&self) -> &'a [u8] {
        &self.named.frame[self.l4..self.end]
    }
}

/// Reads the header and, of IPv6, its extension headers.
pub(super) fn ip(named: Named<'_>) -> Result<Ip<'_>, DropReason> {
    match named.version {
        Version::V4 => v4(named),
        Version::V6 => v6(named),
    }
}

fn v4(named: Named<'_>) -> Result<Ip<'_>, DropReason> {
    let Named { frame, l3, .. } = named;
    let h: [u8; 20] = frame.some(l3).ok_or(DropReason::IpTruncated)?;
    let header = usize::from(h[0] & 0xf) * 4;
    if h[0] >> 4 != 4 || header < 20 {
        return Err(DropReason::IpHeader);
    }
    let total = usize::from(u16::from_be_bytes([h[2], h[3]]));
    if total < header || l3 + total > frame.len() {
        return Err(DropReason::IpLength);
    }
    if h[8] == 0 {
        return Err(DropReason::TtlZero);
    }
    let id = u16::from_be_bytes([h[4], h[5]]).into();
    let more = h[6] & 0x20 != 0;
    let offset = usize::from(u16::from_be_bytes([h[6] & 0x1f, h[7]])) * 8;
    let fragment = (more || offset != 0).then_some(Fragment { id, offset, more });
    Ok(Ip { named, protocol: h[9], l4: l3 + header, end: l3 + total, tos: h[1], fragment })
}

fn v6(named: Named<'_>) -> Result<Ip<'_>, DropReason> {
    let Named { frame, l3, .. } = named;
    let h: [u8; 8] = frame.some(l3).ok_or(DropReason::IpTruncated)?;
    if h[0] >> 4 != 6 {
        return Err(DropReason::IpHeader);
    }
    let end = l3 + 40 + usize::from(u16::from_be_bytes([h[4], h[5]]));
    if end > frame.len() {
        return Err(DropReason::IpLength);
    }
    if h[7] == 0 {
        return Err(DropReason::TtlZero);
    }
    let tos = (u16::from_be_bytes([h[0], h[1]]) >> 4 & 0xff) as u8;
    let packet = Ip { named, protocol: h[6], l4: l3 + 40, end, tos, fragment: None };
    extensions(packet)
}

/// Follows extension headers to what they are in front of, or to the end of a later fragment's fragment header.
fn extensions(mut packet: Ip<'_>) -> Result<Ip<'_>, DropReason> {
    let frame = packet.named.frame;
    // A first fragment must hold all of its headers (RFC 7112).
    let short = |packet: &Ip<'_>| {
        if packet.fragment.is_some() { DropReason::FragmentTiny } else { DropReason::IpTruncated }
    };
    let mut followed = 0;
    while is_extension(packet.protocol) {
        if followed == MOST_EXTENSIONS {
            return Err(DropReason::ExtensionHeaders);
        }
        followed += 1;
        let h: [u8; 8] = frame[..packet.end].some(packet.l4).ok_or_else(|| short(&packet))?;
        let [next, length, f0, f1, i0, i1, i2, i3] = h;
        let bytes = match packet.protocol {
            44 => {
                let word = u16::from_be_bytes([f0, f1]);
                let (offset, more) = (usize::from(word & 0xfff8), word & 1 != 0);
                // An atomic fragment is a whole packet (RFC 6946).
                if offset != 0 || more {
                    if packet.fragment.is_some() {
                        return Err(DropReason::Fragment);
                    }
                    packet.fragment =
                        Some(Fragment { id: u32::from_be_bytes([i0, i1, i2, i3]), offset, more });
                    if offset != 0 {
                        return Ok(Ip { protocol: next, l4: packet.l4 + 8, ..packet });
                    }
                }
                8
            }
            51 => (usize::from(length) + 2) * 4,
            _ => (usize::from(length) + 1) * 8,
        };
        packet.protocol = next;
        packet.l4 += bytes;
        if packet.l4 > packet.end {
            return Err(short(&packet));
        }
    }
    Ok(packet)
}

/// Hop-by-hop options, routing, fragment, authentication, destination options.
pub(super) const fn is_extension(protocol: u8) -> bool {
    matches!(protocol, 0 | 43 | 44 | 51 | 60)
}
