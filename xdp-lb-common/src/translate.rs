//! Between a VIP and a pod (`delivery: pod`): the node's side, after the tunnel is off and before the packet leaves.
//!
//! ```text
//!   in:   client -> VIP:port        becomes  client -> pod:target     XDP, before conntrack; remembers who asked for what
//!   out:  pod:target -> client      becomes  VIP:port -> client       TC egress, after conntrack; only what was remembered
//! ```
//!
//! The pod is the tunnel's outer destination, so `pod_ports` says what its target port is and nothing is chosen here. Out
//! again, the pod's port does not tell the VIP: a pod answers strangers as well, and two VIPs may lead to one port. So each
//! flow is remembered (`pod_flows`), and what was never asked through a tunnel is left alone.
//!
//! Checksums are updated, never computed (RFC 1624): a wrong one stays wrong, a UDP checksum of 0 stays 0. ICMP errors
//! quote the other direction's packet, which is translated too. Of fragments only the first has ports; those that follow
//! need the address alone, which the outer destination tells on the way in and the identification on the way out.

use bytemuck::{Pod, Zeroable};

use crate::{
    icmp::{self, ICMP_LEN, NoFlow, Quote},
    parse::{Bytes, ICMP, ICMPV6, Ip, TCP, UDP, Version, Words, part},
    reason::DropReason,
};

/// Seconds that a pod's port and a client's are kept for one port of one VIP, when another of them meets there.
pub const HOLD: u32 = 60;
/// Seconds within which all fragments of an answer leave: the stack sends them one after the other.
pub const FRAGMENT_LIFE: u32 = 2;

/// A VIP's port at a pod: key of `pod_ports`, whose values are target ports as numbers. 40 bytes.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Pod, Zeroable)]
pub struct PodPort {
    /// VIP, network order; IPv4 as `::ffff:a.b.c.d`.
    pub vip: [u8; 16],
    /// Pod's own address, likewise.
    pub pod: [u8; 16],
    /// The VIP's port, network order.
    pub port: [u8; 2],
    /// TCP or UDP.
    pub protocol: u8,
    /// 1 in an entry that says that there is some port of this protocol (for fragments, which have none), or of any with
    /// protocol 0. The port is 0 then.
    pub any: u8,
    /// Zero.
    pub reserved: [u8; 4],
}

/// A pod's flow, or a datagram that leaves it in fragments: key of `pod_flows`. 40 bytes.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct PodFlow {
    /// Pod's own address, network order; IPv4 as `::ffff:a.b.c.d`.
    pub pod: [u8; 16],
    /// The client's.
    pub client: [u8; 16],
    /// The pod's port, then the client's, network order; of fragments the identification.
    pub ports: [u8; 4],
    /// TCP or UDP.
    pub protocol: u8,
    /// 1 for a datagram in fragments.
    pub fragment: u8,
    /// Zero.
    pub reserved: [u8; 2],
}

/// What a pod's flow is to the client: value of `pod_flows`. 24 bytes.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct PodPeer {
    /// VIP, network order; IPv4 as `::ffff:a.b.c.d`.
    pub vip: [u8; 16],
    /// The VIP's port, network order.
    pub port: [u8; 2],
    /// 1 after the client's FIN or RST, until its next SYN.
    pub closing: u8,
    /// Zero.
    pub reserved: u8,
    /// Second of the client's last packet, as [`Tables::second`] counts.
    pub seen: u32,
}

const _: () = assert!(size_of::<PodPort>() == 40 && size_of::<PodFlow>() == 40 && size_of::<PodPeer>() == 24);

impl PodPort {
    /// The key of a port, `port` in network order.
    #[must_use]
    #[inline(always)]
    pub fn of(vip: Words, pod: Words, protocol: u8, port: [u8; 2]) -> Self {
        Self { vip: bytes(vip), pod: bytes(pod), port, protocol, any: 0, reserved: [0; 4] }
    }

    /// The key of the entry that says that some port is there.
    #[must_use]
    #[inline(always)]
    pub fn any(vip: Words, pod: Words, protocol: u8) -> Self {
        Self { any: 1, ..Self::of(vip, pod, protocol, [0; 2]) }
    }
}

impl PodFlow {
    #[inline(always)]
    fn of(pod: Words, client: Words, protocol: u8, ports: [u8; 4]) -> Self {
        Self { pod: bytes(pod), client: bytes(client), ports, protocol, fragment: 0, reserved: [0; 2] }
    }

    #[inline(always)]
    fn fragment(ip: &Ip, id: u32) -> Self {
        let addresses = &ip.addresses;
        let key = Self::of(addresses.source, addresses.destination, ip.protocol, id.to_le_bytes());
        Self { fragment: 1, ..key }
    }
}

/// Network-order bytes of an address.
#[inline(always)]
const fn bytes([a, b]: Words) -> [u8; 16] {
    (a as u128 | (b as u128) << 64).to_le_bytes()
}

/// An address of network-order bytes.
#[must_use]
#[inline(always)]
pub const fn words(bytes: [u8; 16]) -> Words {
    let word = u128::from_le_bytes(bytes);
    [word as u64, (word >> 64) as u64]
}

/// How the sum of a checksum's words changes: those that came less those that went. Of little-endian words, as a checksum
/// that is read as one; in sums with end-around carry the order of bytes does not matter (RFC 1071 section 2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Delta(u32);

impl Delta {
    /// With one more word that changes from `old` to `new`.
    #[must_use]
    #[inline(always)]
    pub const fn word(self, old: [u8; 2], new: [u8; 2]) -> Self {
        Self(self.0 + !u16::from_le_bytes(old) as u32 + u16::from_le_bytes(new) as u32)
    }

    /// With an address that changes. Halves that stay the same add one of the two zeros.
    #[must_use]
    #[inline(always)]
    pub const fn address(self, old: Words, new: Words) -> Self {
        Self(self.0 + halves(!old[0]) + halves(!old[1]) + halves(new[0]) + halves(new[1]))
    }

    /// Both changes.
    #[must_use]
    #[inline(always)]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }

    /// The change as a sum of 16 bits, for a helper that adds it.
    #[must_use]
    #[inline(always)]
    pub const fn sum(self) -> u16 {
        // Fewer than 2^16 words: two rounds are enough.
        let s = (self.0 & 0xffff) + (self.0 >> 16);
        ((s & 0xffff) + (s >> 16)) as u16
    }

    /// The checksum after the change (RFC 1624, equation 3).
    #[must_use]
    #[inline(always)]
    pub const fn apply(self, checksum: [u8; 2]) -> [u8; 2] {
        let sum = Self(self.0 + !u16::from_le_bytes(checksum) as u32).sum();
        (!sum).to_le_bytes()
    }
}

/// Sum of a word's four 16-bit parts.
#[inline(always)]
const fn halves(word: u64) -> u32 {
    let pairs = (word & 0x0000_ffff_0000_ffff) + (word >> 16 & 0x0000_ffff_0000_ffff);
    (pairs as u32) + (pairs >> 32) as u32
}

/// A frame that can be written.
pub trait Rewrite: Bytes {
    /// Stores bytes; `None` beyond the end.
    fn put<const N: usize>(&mut self, offset: usize, bytes: &[u8; N]) -> Option<()>;

    /// Changes the packet's own transport checksum at `offset`: `addresses` is the pseudo header's part, `own` that of
    /// what is in the packet. With `may_be_absent` (UDP) 0 is no checksum and stays, and a sum that comes out as 0 is
    /// written as its other form.
    fn adjust(&mut self, offset: usize, addresses: Delta, own: Delta, may_be_absent: bool) -> Option<()> {
        let old = *self.get::<2>(offset)?;
        if may_be_absent && old == [0; 2] {
            return Some(());
        }
        let new = addresses.and(own).apply(old);
        self.put(offset, &if may_be_absent && new == [0; 2] { [0xff; 2] } else { new })
    }
}

impl Rewrite for [u8] {
    fn put<const N: usize>(&mut self, offset: usize, bytes: &[u8; N]) -> Option<()> {
        self.get_mut(offset..offset.checked_add(N)?)?.copy_from_slice(bytes);
        Some(())
    }
}

/// The maps.
pub trait Tables {
    /// Target port of a VIP's port at a pod.
    fn pod_port(&self, key: &PodPort) -> Option<u16>;
    /// What is remembered of a flow.
    fn pod_flow(&self, key: &PodFlow) -> Option<PodPeer>;
    /// Remembers it; false when there is no room.
    fn remember(&self, key: &PodFlow, peer: &PodPeer) -> bool;
    /// The time in seconds, more or less.
    fn second(&self) -> u32;
}

const SYN: u8 = 0x02;
const FIN_OR_RST: u8 = 0x05;
/// Offsets of the checksum in the transport header.
const TCP_SUM: usize = 16;
const UDP_SUM: usize = 6;
/// Offset of the addresses in an IP header, and of IPv4's checksum.
const V4_SOURCE: usize = 12;
const V4_SUM: usize = 10;
const V6_SOURCE: usize = 8;

/// True when tunnels to this address may be for this VIP at a pod.
#[must_use]
#[inline(always)]
pub fn serves(tables: &impl Tables, vip: Words, pod: Words) -> bool {
    tables.pod_port(&PodPort::any(vip, pod, 0)).is_some()
}

/// Makes a packet for a VIP, whose tunnel to `pod` is off, the pod's.
///
/// # Errors
/// Why it is dropped; it may be half translated.
#[inline(always)]
pub fn inbound<F: Rewrite + ?Sized>(
    frame: &mut F,
    ip: &Ip,
    pod: Words,
    tables: &impl Tables,
) -> Result<(), DropReason> {
    let vip = ip.addresses.destination;
    if let Some(fragment) = ip.fragment {
        if ip.protocol != TCP && ip.protocol != UDP {
            return Err(DropReason::Fragment);
        }
        if fragment.offset != 0 {
            tables.pod_port(&PodPort::any(vip, pod, ip.protocol)).ok_or(DropReason::PodPort)?;
            return address(frame, ip, Side::Destination, vip, pod).ok_or(DropReason::IpTruncated);
        }
    }
    match (ip.protocol, ip.addresses.version) {
        (TCP | UDP, _) => segment(frame, ip, pod, tables),
        (ICMP, Version::V4) | (ICMPV6, Version::V6) => error_in(frame, ip, pod, tables),
        _ => Err(DropReason::PodProtocol),
    }
}

#[inline(always)]
fn segment<F: Rewrite + ?Sized>(
    frame: &mut F,
    ip: &Ip,
    pod: Words,
    tables: &impl Tables,
) -> Result<(), DropReason> {
    let cut = if ip.fragment.is_some() { DropReason::FragmentTiny } else { DropReason::L4Truncated };
    let (vip, client) = (ip.addresses.destination, ip.addresses.source);
    let &[s0, s1, d0, d1] = within::<4, F>(frame, ip.l4, ip.end).ok_or(cut)?;
    let port = [d0, d1];
    let flags = if ip.protocol == TCP { within::<2, F>(frame, ip.l4 + 12, ip.end).ok_or(cut)?[1] } else { 0 };
    // The checksum is there as well, or what follows would be half of a translation.
    within::<2, F>(frame, ip.l4 + sum_at(ip.protocol), ip.end).ok_or(cut)?;
    let target = tables.pod_port(&PodPort::of(vip, pod, ip.protocol, port)).ok_or(DropReason::PodPort)?;
    let [t0, t1] = target.to_be_bytes();
    let key = PodFlow::of(pod, client, ip.protocol, [t0, t1, s0, s1]);
    let known = tables.pod_flow(&key);
    let now = tables.second();
    let is_same = known.is_some_and(|peer| peer.vip == bytes(vip) && peer.port == port);
    let was_closing = known.map_or(0, |peer| peer.closing);
    let ends = u8::from(flags & FIN_OR_RST != 0);
    let begins = flags & (SYN | FIN_OR_RST) == SYN;
    if let Some(other) = known.filter(|_| !is_same)
        && other.closing == 0
        && now.wrapping_sub(other.seen) < HOLD
    {
        return Err(DropReason::PodFlowTaken);
    }
    let closing = if begins || !is_same { ends } else { was_closing | ends };
    let peer = PodPeer { vip: bytes(vip), port, closing, reserved: 0, seen: now };
    if known != Some(peer) && !tables.remember(&key, &peer) {
        return Err(DropReason::PodFlowsFull);
    }
    address(frame, ip, Side::Destination, vip, pod).ok_or(DropReason::IpTruncated)?;
    frame.put(ip.l4 + 2, &[t0, t1]).ok_or(cut)?;
    let own = Delta::default().word(port, [t0, t1]);
    let addresses = Delta::default().address(vip, pod);
    frame.adjust(ip.l4 + sum_at(ip.protocol), addresses, own, ip.protocol == UDP).ok_or(cut)
}

/// A router's word about an answer of the pod: it names the VIP twice, in its own header and in the packet that it quotes.
#[inline(always)]
fn error_in<F: Rewrite + ?Sized>(
    frame: &mut F,
    ip: &Ip,
    pod: Words,
    tables: &impl Tables,
) -> Result<(), DropReason> {
    let refused = |no_flow| match no_flow {
        NoFlow::NotAnError => DropReason::IcmpUnhandled,
        NoFlow::NotOurPacket => DropReason::IcmpEmbedded,
        _ => DropReason::IcmpQuote,
    };
    let vip = ip.addresses.destination;
    let quote = icmp::quote(frame, ip).map_err(refused)?;
    let &[v0, v1, ..] = ports(frame, &quote).ok_or(DropReason::IcmpQuote)?;
    let key = PodPort::of(vip, pod, quote.protocol, [v0, v1]);
    let target = tables.pod_port(&key).ok_or(DropReason::PodPort)?.to_be_bytes();
    let change = Change { from: vip, to: pod, old: [v0, v1], new: target };
    let own = quoted(frame, &quote, Side::Source, &change).ok_or(DropReason::IcmpQuote)?;
    address(frame, ip, Side::Destination, vip, pod).ok_or(DropReason::IpTruncated)?;
    own_sum(frame, ip, Delta::default().address(vip, pod), own).ok_or(DropReason::L4Truncated)
}

/// Makes a packet that leaves a pod the VIP's, if it answers one that came through a tunnel. `None`: it does not, and is as it was.
#[inline(always)]
pub fn outbound<F: Rewrite + ?Sized>(frame: &mut F, ip: &Ip, tables: &impl Tables) -> Option<()> {
    let (pod, client) = (ip.addresses.source, ip.addresses.destination);
    // Two plain values: an option that waits for a look-up has nothing written where it says nothing.
    let (is_fragment, id, offset) = match ip.fragment {
        Some(fragment) => (true, fragment.id, fragment.offset),
        None => (false, 0, 0),
    };
    if offset != 0 {
        let peer = tables.pod_flow(&PodFlow::fragment(ip, id))?;
        if tables.second().wrapping_sub(peer.seen) >= FRAGMENT_LIFE {
            return None;
        }
        return address(frame, ip, Side::Source, pod, words(peer.vip));
    }
    if ip.protocol != TCP && ip.protocol != UDP {
        let is_icmp =
            matches!((ip.protocol, ip.addresses.version), (ICMP, Version::V4) | (ICMPV6, Version::V6));
        return if is_icmp && !is_fragment { error_out(frame, ip, tables) } else { None };
    }
    let &ports = within::<4, F>(frame, ip.l4, ip.end)?;
    within::<2, F>(frame, ip.l4 + sum_at(ip.protocol), ip.end)?;
    let [p0, p1, ..] = ports;
    let peer = tables.pod_flow(&PodFlow::of(pod, client, ip.protocol, ports))?;
    if is_fragment {
        let first = PodPeer { seen: tables.second(), ..peer };
        // Without it, the others leave as the pod's, and the client counts one datagram lost.
        tables.remember(&PodFlow::fragment(ip, id), &first);
    }
    let vip = words(peer.vip);
    address(frame, ip, Side::Source, pod, vip)?;
    frame.put(ip.l4, &peer.port)?;
    let own = Delta::default().word([p0, p1], peer.port);
    frame.adjust(ip.l4 + sum_at(ip.protocol), Delta::default().address(pod, vip), own, ip.protocol == UDP)
}

/// The pod's or the node's word about a client's packet: to the client that packet went to the VIP.
#[inline(always)]
fn error_out<F: Rewrite + ?Sized>(frame: &mut F, ip: &Ip, tables: &impl Tables) -> Option<()> {
    let quote = icmp::quote(frame, ip).ok()?;
    let &[c0, c1, p0, p1] = ports(frame, &quote)?;
    let (client, pod) = (quote.addresses.source, quote.addresses.destination);
    let peer = tables.pod_flow(&PodFlow::of(pod, client, quote.protocol, [p0, p1, c0, c1]))?;
    let vip = words(peer.vip);
    let own = quoted(
        frame,
        &quote,
        Side::Destination,
        &Change { from: pod, to: vip, old: [p0, p1], new: peer.port },
    )?;
    let mut addresses = Delta::default();
    // The node speaks for itself.
    if ip.addresses.source == pod {
        address(frame, ip, Side::Source, pod, vip)?;
        addresses = addresses.address(pod, vip);
    }
    own_sum(frame, ip, addresses, own)
}

/// Which half of a header.
#[derive(Clone, Copy)]
enum Side {
    Source,
    Destination,
}

/// An address and a port that take others' places.
struct Change {
    from: Words,
    to: Words,
    old: [u8; 2],
    new: [u8; 2],
}

/// Ports of a quoted TCP or UDP packet.
#[inline(always)]
fn ports<'a, F: Bytes + ?Sized>(frame: &'a F, quote: &Quote) -> Option<&'a [u8; 4]> {
    if quote.protocol != TCP && quote.protocol != UDP {
        return None;
    }
    // RFC 792's eight bytes.
    within::<8, F>(frame, quote.l4, quote.end)?;
    within::<4, F>(frame, quote.l4, quote.end)
}

/// Changes one side of a quoted packet, and tells what that does to the sum over the quote.
#[inline(always)]
fn quoted<F: Rewrite + ?Sized>(frame: &mut F, quote: &Quote, side: Side, change: &Change) -> Option<Delta> {
    let Change { from, to, old, new } = *change;
    let l3 = quote.addresses.l3;
    let mut sum = Delta::default().address(from, to).word(old, new);
    let half = match side {
        Side::Source => 0,
        Side::Destination => 1,
    };
    match quote.addresses.version {
        Version::V4 => {
            let &[a, b] = frame.get::<2>(l3 + V4_SUM)?;
            let fixed = Delta::default().address(from, to).apply([a, b]);
            frame.put(l3 + V4_SUM, &fixed)?;
            frame.put(l3 + V4_SOURCE + 4 * half, &part::<12, 4, 16>(&bytes(to)))?;
            sum = sum.word([a, b], fixed);
        }
        Version::V6 => frame.put(l3 + V6_SOURCE + 16 * half, &bytes(to))?,
    }
    frame.put(quote.l4 + 2 * half, &new)?;
    // What was quoted of the transport's checksum: all of UDP's, seldom TCP's.
    let at = quote.l4 + sum_at(quote.protocol);
    if let Some(&[a, b]) = within::<2, F>(frame, at, quote.end)
        && !(quote.protocol == UDP && [a, b] == [0; 2])
    {
        let fixed = Delta::default().address(from, to).word(old, new).apply([a, b]);
        let fixed = if quote.protocol == UDP && fixed == [0; 2] { [0xff; 2] } else { fixed };
        frame.put(at, &fixed)?;
        sum = sum.word([a, b], fixed);
    }
    Some(sum)
}

/// Changes the checksum of the ICMP message itself; only ICMPv6's covers addresses.
#[inline(always)]
fn own_sum<F: Rewrite + ?Sized>(frame: &mut F, ip: &Ip, addresses: Delta, own: Delta) -> Option<()> {
    const { assert!(ICMP_LEN > 4) };
    let addresses = match ip.addresses.version {
        Version::V4 => Delta::default(),
        Version::V6 => addresses,
    };
    frame.adjust(ip.l4 + 2, addresses, own, false)
}

/// Changes one address of a packet's own header, and IPv4's checksum with it.
#[inline(always)]
fn address<F: Rewrite + ?Sized>(frame: &mut F, ip: &Ip, side: Side, from: Words, to: Words) -> Option<()> {
    let l3 = ip.addresses.l3;
    let half = match side {
        Side::Source => 0,
        Side::Destination => 1,
    };
    match ip.addresses.version {
        Version::V4 => {
            let fixed = Delta::default().address(from, to).apply(*frame.get::<2>(l3 + V4_SUM)?);
            frame.put(l3 + V4_SUM, &fixed)?;
            frame.put(l3 + V4_SOURCE + 4 * half, &part::<12, 4, 16>(&bytes(to)))
        }
        Version::V6 => frame.put(l3 + V6_SOURCE + 16 * half, &bytes(to)),
    }
}

#[inline(always)]
const fn sum_at(protocol: u8) -> usize {
    if protocol == TCP { TCP_SUM } else { UDP_SUM }
}

/// `N` bytes at `offset` that end at `end` or before.
#[inline(always)]
fn within<const N: usize, F: Bytes + ?Sized>(frame: &F, offset: usize, end: usize) -> Option<&[u8; N]> {
    if offset + N > end { None } else { frame.get::<N>(offset) }
}

#[cfg(test)]
mod tests;
