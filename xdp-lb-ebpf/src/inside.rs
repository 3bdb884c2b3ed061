//! Affinities that look into the packet: functions of their own, which take and give numbers. The verifier walks each by
//! itself whatever it is given, and their registers are nobody else's.

use aya_ebpf::{bindings::xdp_md, programs::XdpContext};
use xdp_lb_common::{
    affinity::{self, Asked},
    hash::FlowHash,
    parse::{Addresses, Ip, Ports, UDP, Version},
    reason::DropReason,
    select::Flow,
    service::{DEST_PORT, ICE_UFRAG, QUIC_CID, SOURCE_RANGES, ServiceConfig},
};

use crate::{
    maps::{self, Tables},
    packet::Packet,
};

/// Answers above are no backend.
const OTHER: u32 = 1 << 16;
/// The slot and the flow table decide, as for everybody.
const CHOOSE: u32 = OTHER;
/// Nobody owns the port.
const NO_SLICE: u32 = OTHER | 1;
/// The port's owner is down.
const SLICE_DOWN: u32 = OTHER | 2;

/// The ring-local backend of a packet's port, or that it names, or that its flow has. `None`: the selection decides.
#[inline(always)]
pub fn ask<S>(packet: &Packet, ip: &Ip, ports: &Ports, flow: &Flow<S>) -> Result<Option<u16>, DropReason> {
    let service = flow.service as u64;
    let flags = flow.config.flags;
    admit(ip, flow.service, flow.config)?;
    let place = ip.l4 as u64 | (ip.end as u64) << 32;
    let answer = if flags & DEST_PORT != 0 {
        xdp_lb_slice(service, ports.destination() as u64)
    } else if flags & QUIC_CID != 0 {
        xdp_lb_quic(packet.context(), service, place, flow.hash.0)
    } else if flags & ICE_UFRAG != 0 {
        xdp_lb_ice(packet.context(), service, place, flow.hash.0)
    } else {
        CHOOSE
    };
    understood(answer)
}

/// The ring-local backend that owns a port of a service whose ports are owned.
#[inline(always)]
pub fn slice(service: u16, port: u16) -> Result<u16, DropReason> {
    understood(xdp_lb_slice(service.into(), port.into()))?.ok_or(DropReason::TableInconsistent)
}

#[inline(always)]
fn understood(answer: u32) -> Result<Option<u16>, DropReason> {
    match answer {
        backend @ 0..OTHER => Ok(Some(backend as u16)),
        CHOOSE => Ok(None),
        NO_SLICE => Err(DropReason::NoSlice),
        SLICE_DOWN => Err(DropReason::SliceDown),
        _ => Err(DropReason::TableInconsistent),
    }
}

/// Lets the client in, or not.
#[inline(always)]
pub fn admit(ip: &Ip, service: u16, config: &ServiceConfig) -> Result<(), DropReason> {
    if config.flags & SOURCE_RANGES != 0 {
        let [high, low] = ip.addresses.source;
        let v6 = (ip.addresses.version == Version::V6) as u64;
        if xdp_lb_admits(service as u64, v6, high, low) == 0 {
            return Err(DropReason::SourceDenied);
        }
    }
    Ok(())
}

/// Whether the service lets the client in whose address is `high` and `low`.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn xdp_lb_admits(service: u64, v6: u64, high: u64, low: u64) -> u32 {
    let version = if v6 != 0 { Version::V6 } else { Version::V4 };
    let addresses = Addresses { version, l3: 0, source: [high, low], destination: [0; 2] };
    affinity::admits(&Tables, service as u16, &addresses) as u32
}

/// The backend that owns a port.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn xdp_lb_slice(service: u64, port: u64) -> u32 {
    match affinity::slice(&Tables, config(service), port as u16) {
        Ok(choice) => choice.backend as u32,
        Err(DropReason::NoSlice) => NO_SLICE,
        Err(DropReason::SliceDown) => SLICE_DOWN,
        Err(_) => u32::MAX,
    }
}

/// The backend of a QUIC packet.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn xdp_lb_quic(ctx: *mut xdp_md, service: u64, place: u64, hash: u64) -> u32 {
    let config = config(service);
    let flow = Flow { service: service as u16, config, hash: FlowHash(hash), segment: () };
    let choice = affinity::connection(&Tables, &flow, asked(ctx, place, config, QUIC_CID));
    choice.map_or(CHOOSE, |choice| choice.backend as u32)
}

/// The backend of a packet on a port of ICE sessions.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn xdp_lb_ice(ctx: *mut xdp_md, service: u64, place: u64, hash: u64) -> u32 {
    let config = config(service);
    let flow = Flow { service: service as u16, config, hash: FlowHash(hash), segment: () };
    let choice = affinity::ice_flow(&Tables, &flow, asked(ctx, place, config, ICE_UFRAG));
    choice.map_or(u32::MAX, |choice| choice.backend as u32)
}

#[inline(always)]
fn config(service: u64) -> &'static ServiceConfig {
    maps::known_service(service as u32).config()
}

/// Whom a datagram asks for: its UDP header is at the low half of `place`, its packet ends at the high half.
#[inline(always)]
fn asked(ctx: *mut xdp_md, place: u64, config: &ServiceConfig, affinity: u16) -> Asked {
    let packet = Packet::new(XdpContext::new(ctx));
    let addresses = Addresses { version: Version::V4, l3: 0, source: [0; 2], destination: [0; 2] };
    let l4 = place as u32 as usize & L4_MASK;
    let ip = Ip { addresses, protocol: UDP, l4, end: (place >> 32) as usize, tos: 0, fragment: None };
    affinity::asked(&Tables, config, affinity::named(&packet, &ip, config, affinity, maps::seed()))
}

/// A transport header begins below: all tags, an IPv6 header and all extension headers that are followed.
const L4_MASK: usize = 0x3fff;
