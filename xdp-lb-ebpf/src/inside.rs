//! Affinities that look into the packet: functions of their own, which take and give numbers. The verifier walks each by
//! itself whatever it is given, their registers are nobody else's, and their stacks are not on top of each other.

use aya_ebpf::{bindings::xdp_md, programs::XdpContext};
use xdp_lb_common::{
    affinity::{self, Asked},
    hash::FlowHash,
    parse::{Addresses, Ip, Ports, RawSegment, UDP, Version},
    reason::DropReason,
    select::Flow,
    service::DEST_PORT,
};

use crate::{
    maps::{self, Tables},
    packet::Packet,
};

/// Answers above are no backend.
const OTHER: u32 = 1 << 16;
/// The packet asks for nobody and need not, or nobody owns the port.
const NOTHING: u32 = OTHER;
/// The packet should ask and does not, or the port's owner is down.
const NOBODY: u32 = OTHER | 1;

/// The ring-local backend of a packet's port, or that it names, or that its flow has.
#[inline(always)]
pub fn ask(packet: &Packet, ip: &Ip, ports: &Ports, flow: &Flow<RawSegment>) -> Result<u16, DropReason> {
    let service = flow.service as u64;
    let asked = if flow.config.flags & DEST_PORT == 0 && ip.protocol == UDP {
        xdp_lb_asked(packet.context(), service, ip.l4 as u64, ip.end as u64)
    } else {
        NOTHING
    };
    match xdp_lb_inside(service, ports.destination() as u64, asked as u64, flow.hash.0) {
        backend @ 0..OTHER => Ok(backend as u16),
        NOTHING => Err(DropReason::NoSlice),
        NOBODY => Err(DropReason::SliceDown),
        _ => Err(DropReason::TableInconsistent),
    }
}

/// Whom the datagram with its UDP header at `l4` asks for; its packet ends at `end`.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn xdp_lb_asked(ctx: *mut xdp_md, service: u64, l4: u64, end: u64) -> u32 {
    let packet = Packet::new(XdpContext::new(ctx));
    let config = maps::known_service(service as u32).config();
    let addresses = Addresses { version: Version::V4, l3: 0, source: [0; 2], destination: [0; 2] };
    let l4 = l4 as usize & L4_MASK;
    let ip = Ip { addresses, protocol: UDP, l4, end: end as usize, tos: 0, fragment: false };
    match affinity::asked(&Tables, config, affinity::named(&packet, &ip, config, maps::seed())) {
        Asked::Nothing => NOTHING,
        Asked::Nobody => NOBODY,
        Asked::Backend(local) => local as u32,
    }
}

/// The backend of a packet to `port` that asks for `asked`.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn xdp_lb_inside(service: u64, port: u64, asked: u64, hash: u64) -> u32 {
    let config = maps::known_service(service as u32).config();
    let asked = match asked as u32 {
        NOTHING => Asked::Nothing,
        backend @ 0..OTHER => Asked::Backend(backend as u16),
        _ => Asked::Nobody,
    };
    // Datagrams only: TCP names nobody, and a port needs no flow.
    let segment = RawSegment::Datagram;
    let flow = Flow { service: service as u16, config, hash: FlowHash(hash), segment };
    match affinity::choose(&Tables, &flow, port as u16, asked) {
        Ok(choice) => choice.backend as u32,
        Err(DropReason::NoSlice) => NOTHING,
        Err(DropReason::SliceDown) => NOBODY,
        Err(_) => u32::MAX,
    }
}

/// A transport header begins below: all tags, an IPv6 header and all extension headers that are followed.
const L4_MASK: usize = 0x3fff;
