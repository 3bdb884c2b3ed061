//! The whole packet path on one screen.
//!
//! ```text
//!   wire -> parse -> classify -> Maglev slot -> (flow table) -> encap -> send
//!             |         |                       only if dirty     |
//!           Drop(r)   Pass(r)                                   Drop(r)      every exit has a counter
//! ```

use xdp_lb_common::{
    classify, hash,
    parse::{self, Addresses, Ethernet, Ip, Plain, Ports, Transport, Version},
    reason::{DropReason, PassReason},
    ring::NO_BACKEND,
    select::{self, Flow},
    service::{CLIENT_IP, THOROUGH},
    vip::{VIP_BALANCED, VIP_DECAP, VIP_PASS_UNMATCHED, VipSlot},
};

use crate::{
    inside,
    maps::{self, Tables},
    packet::Packet,
    send,
    verdict::{Verdict, Verdict::Drop, Verdict::Pass},
};

/// The packets that nearly all are. `None`: look thoroughly.
#[inline(always)]
pub fn plain(packet: &mut Packet) -> Option<Verdict> {
    match parse::ethernet(packet) {
        Ethernet::Ipv4 => {
            let plain = parse::plain_v4(packet)?;
            forward(packet, plain)
        }
        Ethernet::Ipv6 => {
            let plain = parse::plain_v6(packet)?;
            forward(packet, plain)
        }
        _ => None,
    }
}

#[inline(always)]
fn forward(packet: &mut Packet, plain: Plain) -> Option<Verdict> {
    match classify::vip(&Tables, &plain.ip.addresses) {
        Some(vip) if vip.flags & VIP_BALANCED != 0 => {
            Some(flow(packet, &plain.ip, &plain.ports, vip).unwrap_or_else(Drop))
        }
        Some(_) => Some(Pass(PassReason::DecapVip)),
        None => Some(Pass(PassReason::NotAVip)),
    }
}

/// The balancer.
#[inline(always)]
pub fn balance(packet: &mut Packet) -> Verdict {
    let addresses = match addresses(packet) {
        Ok(addresses) => addresses,
        Err(reason) => return Pass(reason),
    };
    match classify::vip(&Tables, &addresses) {
        Some(vip) if vip.flags & VIP_BALANCED != 0 => for_vip(packet, addresses, vip).unwrap_or_else(Drop),
        Some(_) => Pass(PassReason::DecapVip),
        None if maps::decap() => take_off(packet, addresses),
        None => Pass(PassReason::NotAVip),
    }
}

#[inline(always)]
fn for_vip(packet: &mut Packet, addresses: Addresses, vip: &VipSlot) -> Result<Verdict, DropReason> {
    let ip = parse::ip(packet, addresses)?;
    if ip.fragment {
        return Err(DropReason::Fragment);
    }
    let ports = match parse::transport(packet, &ip)? {
        Transport::Ports(ports) => ports,
        Transport::EchoRequest => return send::echo(packet, &ip),
        Transport::NeighbourDiscovery => return Ok(Pass(PassReason::NeighbourDiscovery)),
        Transport::OtherIcmp => return Err(DropReason::IcmpUnhandled),
        Transport::Other => return unmatched(vip),
    };
    flow(packet, &ip, &ports, vip)
}

/// A TCP or UDP packet for a VIP.
#[inline(always)]
fn flow(packet: &mut Packet, ip: &Ip, ports: &Ports, vip: &VipSlot) -> Result<Verdict, DropReason> {
    let service = classify::service(&Tables, vip, ip.protocol, ports.destination());
    if service == 0 {
        return unmatched(vip);
    }
    let config = maps::service(service).ok_or(DropReason::TableInconsistent)?.config();
    if config.table_size == 0 {
        return Err(DropReason::EmptyService);
    }
    let hash =
        hash::packet(maps::seed(), &ip.addresses, ip.protocol, ports.pair, config.flags & CLIENT_IP != 0);
    let flow = Flow { service, config, hash, segment: ports.segment };
    let named = if config.flags & THOROUGH != 0 { inside::ask(packet, ip, ports, &flow)? } else { None };
    let backend = match named {
        Some(backend) => backend,
        None => select::choose(&Tables, &flow).ok_or(DropReason::TableInconsistent)?.backend,
    };
    if backend == NO_BACKEND {
        return Err(DropReason::EmptyService);
    }
    send::to_backend(packet, ip, service, config, backend, hash)
}

/// A VIP packet that no service wants.
#[inline(always)]
fn unmatched(vip: &VipSlot) -> Result<Verdict, DropReason> {
    if vip.flags & VIP_PASS_UNMATCHED != 0 {
        Ok(Pass(PassReason::Unmatched))
    } else {
        Err(DropReason::NoService)
    }
}

/// The backend side alone.
#[inline(always)]
pub fn decap(packet: &mut Packet) -> Verdict {
    match addresses(packet) {
        Ok(outer) if classify::vip(&Tables, &outer).is_some() => Pass(PassReason::DecapVip),
        Ok(outer) => take_off(packet, outer),
        Err(reason) => Pass(reason),
    }
}

/// Whom the frame's IP header names.
#[inline(always)]
fn addresses(packet: &Packet) -> Result<Addresses, PassReason> {
    let version = match parse::ethernet(packet) {
        Ethernet::Ipv4 => Version::V4,
        Ethernet::Ipv6 => Version::V6,
        Ethernet::Tagged => return Err(PassReason::VlanTagged),
        Ethernet::Other => return Err(PassReason::NotIp),
    };
    parse::addresses(packet, parse::ETHERNET_LEN, version).ok_or(PassReason::NoAddress)
}

/// Takes a tunnel to one of our VIPs off.
#[inline(always)]
fn take_off(packet: &mut Packet, outer: Addresses) -> Verdict {
    let Ok(outer) = parse::ip(packet, outer) else { return Pass(PassReason::NotAVip) };
    let Some(version) = xdp_lb_common::decap::inner_version(&outer) else { return Pass(PassReason::NotAVip) };
    let allowed =
        maps::tunnel_sources().is_some_and(|s| s.allows(outer.addresses.version, outer.addresses.source));
    let Some(inner) = parse::addresses(packet, outer.l4, version) else {
        return if allowed { Drop(DropReason::TunnelMalformed) } else { Pass(PassReason::TunnelForOthers) };
    };
    match classify::vip(&Tables, &inner) {
        Some(vip) if vip.flags & VIP_DECAP != 0 => {}
        _ => return Pass(PassReason::TunnelForOthers),
    }
    if !allowed {
        return Drop(DropReason::TunnelSource);
    }
    match parse::ip(packet, inner) {
        Ok(inner) if inner.end <= outer.end => send::up(packet, &inner),
        _ => Drop(DropReason::TunnelMalformed),
    }
}
