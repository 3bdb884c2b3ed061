//! ICMP errors: which flow the quoted packet belongs to (RFC 792, RFC 4443), and which tunnel of ours it was.
//!
//! Under direct server return a backend sends from the VIP. A router that cannot pass such a packet on complains to the
//! VIP, and the packet that it quotes runs from the VIP to the client: the flow's tuple is the reverse.
//!
//! ```text
//!  |<- l3 ->|<- IP ->|<- l4: 8 ->|<---------- quote ----------->|
//!  Ethernet  to VIP   type, code   IP + options, first 8 bytes of
//!                     MTU          from VIP      TCP or UDP
//!                                ^ l3          ^ l4             ^ end
//! ```
//!
//! A quote is the start of a packet, so its length fields say more than is there and are not believed; its TTL is
//! whatever was left. Eight bytes of transport are all that RFC 792 asks of a router, and enough.
//!
//! Our own tunnels are quoted as well, to their outer source. Such a message speaks of the fabric, not of a flow
//! ([`Quote::tunnel`]).

use crate::{
    parse::{
        self, Addresses, Bytes, ETHERNET_LEN, ICMP, ICMPV6, IPIP, IPV4_LEN, IPV6_IN_IP, IPV6_LEN, Ip,
        MAX_EXTENSIONS, TCP, UDP, Version, Words, be16, part,
    },
    word,
};

/// Length of an ICMP or ICMPv6 error's header.
pub const ICMP_LEN: usize = 8;

/// Tags, an IPv6 header and all extension headers that are followed end below.
const L4_MASK: usize = 0x3fff;
/// A second IPv6 header and its extension headers end below.
const QUOTED_L4_MASK: usize = 0x7fff;
const HEADERS: usize = IPV6_LEN + MAX_EXTENSIONS * 2048;
const _: () = assert!(ETHERNET_LEN + 8 + HEADERS <= L4_MASK);
const _: () = assert!(L4_MASK + ICMP_LEN + HEADERS <= QUOTED_L4_MASK);

/// What an error says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Complaint {
    /// Destination unreachable for any reason but size.
    Unreachable,
    /// Fragmentation needed, or packet too big.
    TooBig {
        /// MTU of the link in bytes; 0 from routers older than RFC 1191.
        mtu: u32,
    },
    /// Time exceeded.
    TimeExceeded,
    /// Parameter problem.
    ParameterProblem,
}

/// Why an ICMP message is for no flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoFlow {
    /// No ICMP, or none of the four errors: echo, redirect, source quench, discovery.
    NotAnError,
    /// The message ends inside its own header, the quoted IP header or the quoted transport's first 8 bytes.
    Truncated,
    /// The quoted IP header contradicts itself or the protocol.
    QuotedHeader,
    /// The quoted packet has more extension headers than are followed.
    QuotedExtensions,
    /// The quoted packet is a fragment other than the first: it has no ports.
    QuotedFragment,
    /// The quoted packet is neither TCP nor UDP.
    QuotedProtocol,
    /// The quoted packet did not come from the address that is told about it.
    NotOurPacket,
}

/// A packet as an error quotes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quote {
    /// What the error says.
    pub complaint: Complaint,
    /// Its addresses, as quoted: from us.
    pub addresses: Addresses,
    /// Protocol behind the IP header and its extensions.
    pub protocol: u8,
    /// Offset of what follows them.
    pub l4: usize,
    /// Offset just behind the quote.
    pub end: usize,
}

/// The flow that a quoted packet is the answer of: client to VIP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// From the client to the VIP; `l3` is the quoted header's.
    pub addresses: Addresses,
    /// TCP or UDP.
    pub protocol: u8,
    /// Client's and VIP's port, as [`parse::Ports::pair`].
    pub pair: u32,
}

impl Flow {
    /// The VIP's port.
    #[must_use]
    #[inline(always)]
    pub const fn destination(&self) -> u16 {
        ((self.pair >> 16) as u16).swap_bytes()
    }
}

/// A tunnel of ours that was too big for a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tunnel {
    /// Outer version.
    pub version: Version,
    /// Outer destination: the backend.
    pub backend: Words,
    /// Where GUE goes to; 0 for IP in IP.
    pub port: u16,
    /// Addresses of the packet inside, from a client to a VIP, where the quote reaches so far. RFC 792's eight bytes do
    /// not; whoever has them should ask whether the VIP is one, for the message may be forged.
    pub inner: Option<Addresses>,
}

/// Reads the error in `ip`, which is an ICMP packet and no fragment, up to the quoted transport.
///
/// # Errors
/// Why there is no such thing; never [`NoFlow::QuotedProtocol`].
#[inline(always)]
pub fn quote<B: Bytes + ?Sized>(frame: &B, ip: &Ip) -> Result<Quote, NoFlow> {
    let version = ip.addresses.version;
    match (version, ip.protocol) {
        (Version::V4, ICMP) | (Version::V6, ICMPV6) => {}
        _ => return Err(NoFlow::NotAnError),
    }
    // One bound for all ways through the IP header, here and behind the quoted one: see `word`.
    let l4 = word::masked(ip.l4, L4_MASK);
    let h = within::<ICMP_LEN, B>(frame, l4, ip.end)?;
    let complaint = complaint(version, h).ok_or(NoFlow::NotAnError)?;
    let l3 = l4 + ICMP_LEN;
    let quote = match version {
        Version::V4 => quoted_v4(frame, l3, ip.end, complaint)?,
        Version::V6 => quoted_v6(frame, l3, ip.end, complaint)?,
    };
    // Or anyone who guesses ports could speak about the flows of a VIP through another address.
    if quote.addresses.source != ip.addresses.destination {
        return Err(NoFlow::NotOurPacket);
    }
    Ok(Quote { l4: word::masked(quote.l4, QUOTED_L4_MASK), ..quote })
}

/// Reads the error in `ip` and turns the quoted packet round.
///
/// # Errors
/// Why it is for no flow.
#[inline(always)]
pub fn flow<B: Bytes + ?Sized>(frame: &B, ip: &Ip) -> Result<(Complaint, Flow), NoFlow> {
    let quote = quote(frame, ip)?;
    Ok((quote.complaint, quote.flow(frame)?))
}

#[inline(always)]
const fn complaint(version: Version, h: &[u8; ICMP_LEN]) -> Option<Complaint> {
    let mtu = u32::from_be_bytes(part::<4, 4, _>(h));
    Some(match (version, h[0], h[1]) {
        // RFC 1191 section 4: the upper half is unused.
        (Version::V4, 3, 4) => Complaint::TooBig { mtu: mtu & 0xffff },
        (Version::V4, 3, _) | (Version::V6, 1, _) => Complaint::Unreachable,
        (Version::V6, 2, _) => Complaint::TooBig { mtu },
        (Version::V4, 11, _) | (Version::V6, 3, _) => Complaint::TimeExceeded,
        (Version::V4, 12, _) | (Version::V6, 4, _) => Complaint::ParameterProblem,
        _ => return None,
    })
}

#[inline(always)]
fn quoted_v4<B: Bytes + ?Sized>(
    frame: &B,
    l3: usize,
    end: usize,
    complaint: Complaint,
) -> Result<Quote, NoFlow> {
    let h = within::<IPV4_LEN, B>(frame, l3, end)?;
    let header = ((h[0] & 0xf) as usize) << 2;
    if h[0] >> 4 != 4 || header < IPV4_LEN {
        return Err(NoFlow::QuotedHeader);
    }
    // The first fragment has the ports.
    if be16::<6, _>(h) & 0x1fff != 0 {
        return Err(NoFlow::QuotedFragment);
    }
    let protocol = h[9];
    let addresses = parse::addresses(frame, l3, Version::V4).ok_or(NoFlow::Truncated)?;
    Ok(Quote { complaint, addresses, protocol, l4: l3 + header, end })
}

#[inline(always)]
fn quoted_v6<B: Bytes + ?Sized>(
    frame: &B,
    l3: usize,
    end: usize,
    complaint: Complaint,
) -> Result<Quote, NoFlow> {
    let h = within::<IPV6_LEN, B>(frame, l3, end)?;
    if h[0] >> 4 != 6 {
        return Err(NoFlow::QuotedHeader);
    }
    let protocol = h[6];
    let addresses = parse::addresses(frame, l3, Version::V6).ok_or(NoFlow::Truncated)?;
    let plain = Quote { complaint, addresses, protocol, l4: l3 + IPV6_LEN, end };
    if is_extension(protocol) { extensions(frame, plain) } else { Ok(plain) }
}

const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const AUTHENTICATION: u8 = 51;
const DESTINATION_OPTIONS: u8 = 60;

#[inline(always)]
const fn is_extension(protocol: u8) -> bool {
    matches!(protocol, HOP_BY_HOP | ROUTING | FRAGMENT | AUTHENTICATION | DESTINATION_OPTIONS)
}

/// Follows extension headers (RFC 8200 section 4) as far as the quote goes.
#[inline(always)]
fn extensions<B: Bytes + ?Sized>(frame: &B, mut quote: Quote) -> Result<Quote, NoFlow> {
    for _ in 0..MAX_EXTENSIONS {
        let h = within::<8, B>(frame, quote.l4, quote.end)?;
        let len = match quote.protocol {
            FRAGMENT if be16::<2, _>(h) & 0xfff8 != 0 => return Err(NoFlow::QuotedFragment),
            FRAGMENT => 8,
            AUTHENTICATION => (h[1] as usize + 2) * 4,
            _ => (h[1] as usize + 1) * 8,
        };
        quote.protocol = h[0];
        quote.l4 += len;
        if !is_extension(quote.protocol) {
            return Ok(quote);
        }
    }
    Err(NoFlow::QuotedExtensions)
}

impl Quote {
    /// The flow that the packet is the answer of.
    ///
    /// # Errors
    /// [`NoFlow::QuotedProtocol`] or [`NoFlow::Truncated`].
    #[inline(always)]
    pub fn flow<B: Bytes + ?Sized>(&self, frame: &B) -> Result<Flow, NoFlow> {
        if self.protocol != TCP && self.protocol != UDP {
            return Err(NoFlow::QuotedProtocol);
        }
        let h = within::<8, B>(frame, self.l4, self.end)?;
        let Addresses { version, l3, source, destination } = self.addresses;
        Ok(Flow {
            addresses: Addresses { version, l3, source: destination, destination: source },
            protocol: self.protocol,
            pair: u32::from_le_bytes(part::<0, 4, _>(h)).rotate_left(16),
        })
    }

    /// The tunnel that the packet is: IP in IP, or UDP that has GUE inside as far as the quote reaches. Who reads it
    /// should ask whether the port is one that GUE goes to.
    #[must_use]
    #[inline(always)]
    pub fn tunnel<B: Bytes + ?Sized>(&self, frame: &B) -> Option<Tunnel> {
        let (port, inner) = match self.protocol {
            IPIP => (0, Some((self.l4, Version::V4))),
            IPV6_IN_IP => (0, Some((self.l4, Version::V6))),
            UDP => {
                let h = within::<8, B>(frame, self.l4, self.end).ok()?;
                let inner = match within::<4, B>(frame, self.l4 + 8, self.end) {
                    Ok(gue) => Some(inside_gue(gue, self.l4 + 8)?),
                    Err(_) => None,
                };
                (be16::<2, _>(h), inner)
            }
            _ => return None,
        };
        let inner = inner.and_then(|(l3, version)| inner_addresses(frame, l3, self.end, version));
        Some(Tunnel { version: self.addresses.version, backend: self.addresses.destination, port, inner })
    }
}

/// Offset and version of the packet in GUE (draft-ietf-intarea-gue-09) whose header `h` is `at`: variant 0 has a header
/// of four bytes and more, variant 1 is the packet itself, whose version's first two bits are the variant's.
#[inline(always)]
fn inside_gue(h: &[u8; 4], at: usize) -> Option<(usize, Version)> {
    let version = |protocol| match protocol {
        IPIP => Some(Version::V4),
        IPV6_IN_IP => Some(Version::V6),
        _ => None,
    };
    // Variant, control bit, then the words of the header beyond the first.
    match (h[0] >> 6, h[0] >> 4) {
        (0, _) if h[0] & 0x20 == 0 => Some((at + 4 + ((h[0] & 0x1f) as usize) * 4, version(h[1])?)),
        (1, 4) => Some((at, Version::V4)),
        (1, 6) => Some((at, Version::V6)),
        _ => None,
    }
}

#[inline(always)]
fn inner_addresses<B: Bytes + ?Sized>(
    frame: &B,
    l3: usize,
    end: usize,
    version: Version,
) -> Option<Addresses> {
    let (len, nibble) = match version {
        Version::V4 => (IPV4_LEN, 4),
        Version::V6 => (IPV6_LEN, 6),
    };
    let h = within::<IPV4_LEN, B>(frame, l3, end).ok()?;
    if l3 + len > end || h[0] >> 4 != nibble { None } else { parse::addresses(frame, l3, version) }
}

/// `N` bytes at `offset` that end at `end` or before.
#[inline(always)]
fn within<const N: usize, B: Bytes + ?Sized>(
    frame: &B,
    offset: usize,
    end: usize,
) -> Result<&[u8; N], NoFlow> {
    if offset + N > end {
        return Err(NoFlow::Truncated);
    }
    frame.get::<N>(offset).ok_or(NoFlow::Truncated)
}

#[cfg(test)]
mod tests;
