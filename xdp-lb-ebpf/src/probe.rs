//! The TC programs that carry health checks' packets (`xdp_lb_common::probe` draws the way).
//!
//! `probe_label` and `xdp_lb_probe` see nothing but questions. `probe_back` sees every packet that the node's stack
//! gets: it decides by destination address and port, and touches nothing that is not an answer to a question under
//! way. ICMP errors about a tunnel are noted for the agent and go on to the stack.
#![no_std]
#![no_main]
#![expect(
    missing_docs,
    reason = "the classifier macro wraps documented functions in ones without documentation"
)]

use aya_ebpf::{
    bindings::{
        __sk_buff, BPF_F_ADJ_ROOM_ENCAP_L3_IPV4, BPF_F_ADJ_ROOM_ENCAP_L3_IPV6, BPF_F_MMAPABLE, TC_ACT_SHOT,
        TC_ACT_UNSPEC, bpf_adj_room_mode::BPF_ADJ_ROOM_MAC,
    },
    btf_maps::Array,
    helpers::generated::bpf_redirect,
    macros::{btf_map, classifier},
    programs::TcContext,
};
use xdp_lb_common::{
    backend::{KIND_IPV4, KIND_IPV6, Template},
    checksum,
    encap::{self, Inner, V4_HEADER, V6_HEADER},
    hash::{FlowHash, mix},
    parse::{ETHERNET_LEN, IPIP, IPV4_LEN, IPV6_IN_IP, IPV6_LEN, Version, ethertype},
    probe::{
        FIRST_PORT, INSIDE_MAC, LABEL, PORT_COUNT, ProbeControl, ProbeTuple, ProbeWay, TunnelError, WAY_COUNT,
    },
};

const MMAP: usize = BPF_F_MMAPABLE as usize;
const ICMP: u8 = 1;
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMPV6: u8 = 58;
const ICMP_LEN: usize = 8;
/// Go on as if no program were here.
const NEXT: i32 = TC_ACT_UNSPEC;
const DROP: i32 = TC_ACT_SHOT;

#[btf_map(name = "probe_control")]
static CONTROL: Array<ProbeControl, 1, MMAP> = Array::new();
#[btf_map(name = "probe_ways")]
static WAYS: Array<ProbeWay, { WAY_COUNT as usize }, MMAP> = Array::new();
#[btf_map(name = "probe_ports")]
static PORTS: Array<ProbeTuple, { PORT_COUNT as usize }, 0> = Array::new();

/// Writes the socket's mark into the frame; what bears none is nobody's question.
#[classifier]
pub fn probe_label(ctx: TcContext) -> i32 {
    let skb: *mut __sk_buff = ctx.skb.skb;
    // SAFETY: the context that the kernel gave us.
    let mark = unsafe { (*skb).mark };
    if mark == 0 {
        return DROP;
    }
    let mut packet = Packet(ctx);
    let Some(to) = packet.get_mut::<6>(0) else { return DROP };
    to[..2].copy_from_slice(&LABEL);
    to[2..].copy_from_slice(&mark.to_be_bytes());
    NEXT
}

/// Puts a labelled question into its tunnel.
#[classifier]
pub fn xdp_lb_probe(ctx: TcContext) -> i32 {
    question(&mut Packet(ctx)).unwrap_or(DROP)
}

/// Hands answers back to the namespace that asked.
#[classifier]
pub fn probe_back(ctx: TcContext) -> i32 {
    answer(&mut Packet(ctx)).unwrap_or(NEXT)
}

#[inline(always)]
fn question(packet: &mut Packet) -> Option<i32> {
    let &[l0, l1, m0, m1, m2, m3] = packet.get::<6>(0)?;
    let mark = u32::from_be_bytes([m0, m1, m2, m3]);
    if [l0, l1] != LABEL {
        return None;
    }
    let way = WAYS.get(mark)?;
    if !is_carried(&way.template) {
        return None;
    }
    let ip = Ip::read(packet).filter(|ip| ip.protocol == TCP || ip.protocol == UDP)?;
    let &[s0, s1, d0, d1] = packet.get::<4>(ip.l4)?;
    let port = u16::from_be_bytes([s0, s1]);
    let entry = PORTS.get_ptr_mut(u32::from(port.checked_sub(FIRST_PORT)?))?;
    let tuple =
        ProbeTuple { address: ip.destination, port: [d0, d1], protocol: ip.protocol, reserved: [0; 5] };
    // SAFETY: a map element; one question at a time uses a port, and writing it again changes nothing.
    unsafe { *entry = tuple };
    let inner = Inner {
        version: ip.version,
        len: ip.len,
        tos: ip.tos,
        hash: FlowHash(mix(u64::from(port) << 32 | u64::from(mark))),
    };
    into_tunnel(packet, &way.template, &inner, mark)?;
    // SAFETY: takes two integers.
    Some(unsafe { bpf_redirect(way.template.ifindex, 0) } as i32)
}

/// Kinds of tunnel that questions go through.
#[inline(always)]
fn is_carried(template: &Template) -> bool {
    template.kind == KIND_IPV4 || template.kind == KIND_IPV6
}

/// The header of clients' packets, with the mark where an ICMP error quotes it: id or flow label.
#[inline(always)]
fn into_tunnel(packet: &mut Packet, template: &Template, inner: &Inner, mark: u32) -> Option<()> {
    if template.kind == KIND_IPV4 {
        packet.0.adjust_room(IPV4_LEN as i32, BPF_ADJ_ROOM_MAC, BPF_F_ADJ_ROOM_ENCAP_L3_IPV4.into()).ok()?;
        let out = packet.get_mut::<V4_HEADER>(0)?;
        encap::write_v4(out, template, inner);
        let id = mark as u16;
        let sum = checksum::update(u16::from_be_bytes([out[24], out[25]]), 0, id);
        out[18..20].copy_from_slice(&id.to_be_bytes());
        out[24..26].copy_from_slice(&sum.to_be_bytes());
    } else {
        packet.0.adjust_room(IPV6_LEN as i32, BPF_ADJ_ROOM_MAC, BPF_F_ADJ_ROOM_ENCAP_L3_IPV6.into()).ok()?;
        let out = packet.get_mut::<V6_HEADER>(0)?;
        encap::write_v6(out, template, inner);
        out[15] &= 0xf0;
        out[16..18].copy_from_slice(&(mark as u16).to_be_bytes());
    }
    Some(())
}

#[inline(always)]
fn answer(packet: &mut Packet) -> Option<i32> {
    let control = CONTROL.get(0).filter(|control| control.ifindex != 0)?;
    packet.pull();
    let ip = Ip::read(packet)?;
    let source = match ip.version {
        Version::V4 => &control.source_v4,
        Version::V6 => &control.source_v6,
    };
    let is_ours = same(&ip.destination, source);
    if ip.protocol == ICMP || ip.protocol == ICMPV6 {
        return error(packet, &ip, is_ours, control.ifindex);
    }
    if !is_ours {
        return None;
    }
    let &[s0, s1, d0, d1] = packet.get::<4>(ip.l4)?;
    under_way(&ip.source, [s0, s1], u16::from_be_bytes([d0, d1]), ip.protocol)?;
    hand_in(packet, control.ifindex)
}

/// An ICMP error: about a question it goes to who asked, about a tunnel it is noted.
#[inline(always)]
fn error(packet: &mut Packet, ip: &Ip, is_ours: bool, ifindex: u32) -> Option<i32> {
    let &[kind, code] = packet.get::<2>(ip.l4)?;
    let errors = match ip.version {
        Version::V4 => kind == 3 || kind == 11,
        Version::V6 => (1..=4).contains(&kind),
    };
    if !errors {
        return None;
    }
    let quoted = Quoted::read(packet, ip)?;
    if quoted.protocol == IPIP || quoted.protocol == IPV6_IN_IP {
        let entry = WAYS.get_ptr_mut(quoted.mark)?;
        // SAFETY: a map element; the agent writes the template alone, word by word.
        let way = unsafe { &mut *entry };
        if !is_carried(&way.template) || !leads_to(&way.template, &quoted) {
            return None;
        }
        let version = if ip.version == Version::V4 { 4 } else { 6 };
        way.error_by = ip.source;
        way.error = TunnelError { version, kind, code }.pack(way.error);
        return None;
    }
    if !is_ours {
        return None;
    }
    let &[s0, s1, d0, d1] = packet.get::<4>(quoted.l4)?;
    under_way(&quoted.destination, [d0, d1], u16::from_be_bytes([s0, s1]), quoted.protocol)?;
    hand_in(packet, ifindex)
}

/// Whether a question from our `port` to this address and port is under way.
#[inline(always)]
fn under_way(address: &[u8; 16], port: [u8; 2], ours: u16, protocol: u8) -> Option<()> {
    let tuple = PORTS.get(u32::from(ours.checked_sub(FIRST_PORT)?))?;
    let known = tuple.protocol == protocol && protocol != 0 && tuple.port == port;
    (known && same(&tuple.address, address)).then_some(())
}

#[inline(always)]
fn leads_to(template: &Template, quoted: &Quoted) -> bool {
    let bytes = &template.bytes;
    if template.kind == KIND_IPV4 {
        let [.., a, b, c, d] = quoted.destination;
        quoted.version == Version::V4 && [a, b, c, d] == [bytes[30], bytes[31], bytes[32], bytes[33]]
    } else {
        let mut to = [0; 16];
        to.copy_from_slice(&bytes[38..54]);
        quoted.version == Version::V6 && same(&to, &quoted.destination)
    }
}

#[inline(always)]
fn hand_in(packet: &mut Packet, ifindex: u32) -> Option<i32> {
    *packet.get_mut::<6>(0)? = INSIDE_MAC;
    // SAFETY: takes two integers.
    Some(unsafe { bpf_redirect(ifindex, 0) } as i32)
}

/// Compares in words: a call of memcmp would not link.
#[inline(always)]
fn same(a: &[u8; 16], b: &[u8; 16]) -> bool {
    u128::from_ne_bytes(*a) == u128::from_ne_bytes(*b)
}

/// An IP header, unfragmented; IPv6 without extension headers. Addresses as `::ffff:a.b.c.d` where IPv4.
struct Ip {
    version: Version,
    source: [u8; 16],
    destination: [u8; 16],
    protocol: u8,
    tos: u8,
    len: u16,
    /// Offset of what it carries.
    l4: usize,
}

impl Ip {
    #[inline(always)]
    fn read(packet: &Packet) -> Option<Self> {
        let kind = *packet.get::<2>(12)?;
        if kind == ethertype(Version::V4) {
            let h = packet.get::<IPV4_LEN>(ETHERNET_LEN)?;
            // Options come with no packet that we ask or are answered by.
            let whole = h[0] == 0x45 && h[6] & 0x3f == 0 && h[7] == 0;
            whole.then(|| Self {
                version: Version::V4,
                source: mapped(h[12], h[13], h[14], h[15]),
                destination: mapped(h[16], h[17], h[18], h[19]),
                protocol: h[9],
                tos: h[1],
                len: u16::from_be_bytes([h[2], h[3]]),
                l4: ETHERNET_LEN + IPV4_LEN,
            })
        } else if kind == ethertype(Version::V6) {
            let h = packet.get::<IPV6_LEN>(ETHERNET_LEN)?;
            let (mut source, mut destination) = ([0; 16], [0; 16]);
            source.copy_from_slice(&h[8..24]);
            destination.copy_from_slice(&h[24..40]);
            Some(Self {
                version: Version::V6,
                source,
                destination,
                protocol: h[6],
                tos: h[0] << 4 | h[1] >> 4,
                len: u16::from_be_bytes([h[4], h[5]]).wrapping_add(IPV6_LEN as u16),
                l4: ETHERNET_LEN + IPV6_LEN,
            })
        } else {
            None
        }
    }
}

/// The header that an ICMP error quotes.
struct Quoted {
    version: Version,
    destination: [u8; 16],
    protocol: u8,
    /// Of a tunnel.
    mark: u32,
    l4: usize,
}

impl Quoted {
    #[inline(always)]
    fn read(packet: &Packet, ip: &Ip) -> Option<Self> {
        let at = ip.l4 + ICMP_LEN;
        match ip.version {
            Version::V4 => {
                let h = packet.get::<IPV4_LEN>(at)?;
                (h[0] == 0x45).then(|| Self {
                    version: Version::V4,
                    destination: mapped(h[16], h[17], h[18], h[19]),
                    protocol: h[9],
                    mark: u32::from(u16::from_be_bytes([h[4], h[5]])),
                    l4: at + IPV4_LEN,
                })
            }
            Version::V6 => {
                let h = packet.get::<IPV6_LEN>(at)?;
                let mut destination = [0; 16];
                destination.copy_from_slice(&h[24..40]);
                Some(Self {
                    version: Version::V6,
                    destination,
                    protocol: h[6],
                    mark: u32::from_be_bytes([0, h[1] & 0x0f, h[2], h[3]]),
                    l4: at + IPV6_LEN,
                })
            }
        }
    }
}

#[inline(always)]
fn mapped(a: u8, b: u8, c: u8, d: u8) -> [u8; 16] {
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d]
}

/// The frame in a socket buffer. Every access is checked against the end of its linear part.
struct Packet(TcContext);

impl Packet {
    /// Brings the headers into the linear part, where a driver left them elsewhere.
    #[inline(always)]
    fn pull(&self) {
        const HEADERS: usize = ETHERNET_LEN + 2 * IPV6_LEN + ICMP_LEN + 4;
        let len = self.0.len() as usize;
        let wanted = if len < HEADERS { len } else { HEADERS };
        if self.0.data() + wanted > self.0.data_end() {
            // What cannot be pulled is not read.
            let _ = self.0.pull_data(wanted as u32);
        }
    }

    /// `N` bytes at `offset`.
    #[inline(always)]
    fn get<const N: usize>(&self, offset: usize) -> Option<&[u8; N]> {
        let start = self.at::<N>(offset)?;
        // SAFETY: `at` has checked start + N <= data_end, and no mutable borrow of packet bytes is alive.
        Some(unsafe { &*(start as *const [u8; N]) })
    }

    /// `N` writable bytes at `offset`.
    #[inline(always)]
    fn get_mut<const N: usize>(&mut self, offset: usize) -> Option<&mut [u8; N]> {
        let start = self.at::<N>(offset)?;
        // SAFETY: `at` has checked start + N <= data_end, and `&mut self` makes this the only borrow.
        Some(unsafe { &mut *(start as *mut [u8; N]) })
    }

    #[inline(always)]
    fn at<const N: usize>(&self, offset: usize) -> Option<usize> {
        let start = self.0.data() + offset;
        if start + N > self.0.data_end() { None } else { Some(start) }
    }
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
