//! The whole packet path on one screen.
//!
//! ```text
//!   wire -> parse -> classify -> Maglev slot -> (flow table) -> encap -> send
//!             |         |                       only if dirty     |
//!           Drop(r)   Pass(r)                                   Drop(r)      every exit has a counter
//! ```

use xdp_lb_common::{
    classify, decap,
    gue::Opened,
    hash,
    parse::{self, Addresses, Ethernet, Ip, Plain, Ports, Transport, UDP, Version},
    reason::{DropReason, PassReason},
    ring::NO_BACKEND,
    select::{self, Flow},
    service::{CLIENT_IP, ServiceConfig, THOROUGH},
    vip::{VIP_BALANCED, VIP_DECAP, VIP_PASS_UNMATCHED, VIP_POD, VipSlot},
    vlan,
};

use crate::{
    fragments, icmp, inside,
    maps::{self, Tables},
    packet::Packet,
    send::{self, Stop, Target},
    verdict::{Verdict, Verdict::Drop, Verdict::Pass},
};

/// The packets that nearly all are. `None`: look thoroughly.
#[inline(always)]
pub fn plain(packet: &mut Packet) -> Option<Result<Verdict, Stop>> {
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
fn forward(packet: &mut Packet, plain: Plain) -> Option<Result<Verdict, Stop>> {
    match classify::vip(&Tables, &plain.ip.addresses) {
        Some(vip) if vip.flags & VIP_BALANCED != 0 => Some(flow(packet, &plain.ip, &plain.ports, vip)),
        Some(_) => Some(Ok(Pass(PassReason::DecapVip))),
        // It may be a tunnel.
        None if maps::decap() && plain.ip.protocol == UDP => None,
        None => Some(Ok(Pass(PassReason::NotAVip))),
    }
}

/// The balancer.
#[inline(always)]
pub fn balance(packet: &mut Packet) -> Result<Verdict, Stop> {
    let addresses = match addresses(packet) {
        Ok(addresses) => addresses,
        Err(reason) => return Ok(Pass(reason)),
    };
    match classify::vip(&Tables, &addresses) {
        Some(vip) if vip.flags & VIP_BALANCED != 0 => for_vip(packet, addresses, vip),
        Some(_) => Ok(Pass(PassReason::DecapVip)),
        None => Ok(for_others(packet, addresses)),
    }
}

/// What is for nobody's VIP: ICMP, perhaps about our tunnels, or perhaps a tunnel to us.
#[inline(always)]
fn for_others(packet: &Packet, outer: Addresses) -> Verdict {
    match parse::ip(packet, outer) {
        Ok(ip) if icmp::is(&ip) => Verdict::Icmp,
        Ok(_) if maps::decap() => Verdict::Tunnel,
        _ => Pass(PassReason::NotAVip),
    }
}

#[inline(always)]
fn for_vip(packet: &mut Packet, addresses: Addresses, vip: &VipSlot) -> Result<Verdict, Stop> {
    let ip = forget(packet, parse::ip(packet, addresses)?);
    if ip.fragment.is_some() {
        return Ok(Verdict::Fragment);
    }
    let ports = match parse::transport(packet, &ip)? {
        Transport::Ports(ports) => ports,
        Transport::EchoRequest | Transport::OtherIcmp => return Ok(Verdict::Icmp),
        Transport::NeighbourDiscovery => return Ok(Pass(PassReason::NeighbourDiscovery)),
        Transport::Other => return Ok(unmatched(vip)?),
    };
    let target = target(packet, &ip, &ports, vip)?;
    send_on(packet, &ip, target, vip)
}

/// A fragment for a VIP, as [`balance`] has found out.
#[inline(always)]
pub fn fragment(packet: &mut Packet) -> Result<Verdict, Stop> {
    match addresses(packet) {
        Ok(addresses) => match classify::vip(&Tables, &addresses) {
            Some(vip) => fragment_for(packet, addresses, vip),
            None => Ok(Pass(PassReason::NotAVip)),
        },
        Err(reason) => Ok(Pass(reason)),
    }
}

/// ICMP, as [`balance`] has found out: an echo request or an error for a VIP, or what may be about a tunnel of ours.
#[inline(always)]
pub fn icmp(packet: &mut Packet) -> Result<Verdict, Stop> {
    let addresses = match addresses(packet) {
        Ok(addresses) => addresses,
        Err(reason) => return Ok(Pass(reason)),
    };
    let ip = forget(packet, parse::ip(packet, addresses)?);
    match classify::vip(&Tables, &ip.addresses) {
        Some(vip) => match parse::transport(packet, &ip)? {
            Transport::EchoRequest => Ok(send::echo(packet, &ip)?),
            _ => icmp::error(packet, &ip, vip),
        },
        None if icmp::about_tunnel(packet, &ip) => Ok(Pass(PassReason::TunnelTooBig)),
        None => Ok(Pass(PassReason::NotAVip)),
    }
}

#[inline(always)]
fn fragment_for(packet: &mut Packet, addresses: Addresses, vip: &VipSlot) -> Result<Verdict, Stop> {
    let ip = forget(packet, parse::ip(packet, addresses)?);
    let fragment = ip.fragment.ok_or(DropReason::Fragment)?;
    let target = fragments::target(packet, &ip, fragment, vip)?;
    send_on(packet, &ip, target, vip)
}

/// Sends a packet to its backend, however that was found.
#[inline(always)]
fn send_on(packet: &mut Packet, ip: &Ip, target: Option<Target>, vip: &VipSlot) -> Result<Verdict, Stop> {
    let Some(target) = target else { return Ok(unmatched(vip)?) };
    let service = packet.forget(target.service.into(), 14) as u16;
    let local = packet.forget(target.local.into(), 12) as u16;
    send::to_backend(packet, ip, &Target { service, local, ..target })
}

/// A TCP or UDP packet for a VIP.
#[inline(always)]
fn flow(packet: &mut Packet, ip: &Ip, ports: &Ports, vip: &VipSlot) -> Result<Verdict, Stop> {
    match target(packet, ip, ports, vip)? {
        Some(target) => send::to_backend(packet, ip, &target),
        None => Ok(unmatched(vip)?),
    }
}

/// Where a TCP or UDP packet for a VIP goes; `None` when no service wants it.
#[inline(always)]
fn target(packet: &Packet, ip: &Ip, ports: &Ports, vip: &VipSlot) -> Result<Option<Target>, DropReason> {
    let service = classify::service(&Tables, vip, ip.protocol, ports.destination());
    if service == 0 {
        return Ok(None);
    }
    let config = maps::service(service).ok_or(DropReason::TableInconsistent)?.config();
    choose(packet, ip, ports, service, config, config.flags & CLIENT_IP != 0).map(Some)
}

/// Which backend of a service a packet goes to.
#[inline(always)]
pub fn choose(
    packet: &Packet,
    ip: &Ip,
    ports: &Ports,
    service: u16,
    config: &'static ServiceConfig,
    client_ip: bool,
) -> Result<Target, DropReason> {
    if config.table_size == 0 {
        return Err(DropReason::EmptyService);
    }
    let hash = hash::packet(maps::seed(), &ip.addresses, ip.protocol, ports.pair, client_ip);
    let flow = Flow { service, config, hash, segment: ports.segment };
    let named = if config.flags & THOROUGH != 0 { inside::ask(packet, ip, ports, &flow)? } else { None };
    let local = match named {
        Some(backend) => backend,
        None => select::choose(&Tables, &flow).ok_or(DropReason::TableInconsistent)?.backend,
    };
    if local == NO_BACKEND {
        return Err(DropReason::EmptyService);
    }
    Ok(Target { service, config, local, hash })
}

/// A VIP packet that no service wants.
#[inline(always)]
pub fn unmatched(vip: &VipSlot) -> Result<Verdict, DropReason> {
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
pub fn addresses(packet: &Packet) -> Result<Addresses, PassReason> {
    let (kind, l3) = vlan::network(packet);
    let version = match kind {
        Ethernet::Ipv4 => Version::V4,
        Ethernet::Ipv6 => Version::V6,
        Ethernet::Tagged => return Err(PassReason::VlanDepth),
        Ethernet::Other => return Err(PassReason::NotIp),
    };
    parse::addresses(packet, packet.forget(l3, 5), version).ok_or(PassReason::NoAddress)
}

/// Bits of the offset of any header: six extension headers have at most 12 KB.
const OFFSET_BITS: u32 = 15;

/// What was found, without how: headers and tags of all kinds lead to the same places.
#[inline(always)]
pub fn forget(packet: &Packet, ip: Ip) -> Ip {
    // An offset that is a constant on one of the ways makes 6.12's verifier lose the packet's bounds.
    let addresses = Addresses { l3: packet.forget(ip.addresses.l3, 5), ..ip.addresses };
    Ip {
        addresses,
        protocol: packet.forget(ip.protocol.into(), 8) as u8,
        l4: packet.forget(ip.l4, OFFSET_BITS),
        end: packet.forget(ip.end, 17),
        ..ip
    }
}

/// Takes a tunnel to one of our VIPs off.
#[inline(always)]
fn take_off(packet: &mut Packet, outer: Addresses) -> Verdict {
    match opened(packet, outer) {
        // Who asks for the maps of pods does so elsewhere: the others pay for one bit.
        Ok(Tunnel { flags, .. }) if flags & VIP_POD != 0 => Verdict::Pod,
        Ok(Tunnel { outer, inner, .. }) => send::up(packet, &outer, &inner),
        Err(verdict) => verdict,
    }
}

/// A tunnel that is ours to take off.
pub struct Tunnel {
    /// Its header.
    pub outer: Ip,
    /// The packet in it.
    pub inner: Ip,
    /// `VIP_*` bits of the inner destination.
    pub flags: u32,
}

/// Opens a tunnel to one of our VIPs, or says what becomes of it instead.
#[inline(always)]
pub fn opened(packet: &Packet, outer: Addresses) -> Result<Tunnel, Verdict> {
    let Ok(outer) = parse::ip(packet, outer) else { return Err(Pass(PassReason::NotAVip)) };
    let outer = forget(packet, outer);
    let Some(accept) = maps::tunnel_sources() else { return Err(Pass(PassReason::NotAVip)) };
    let opened = decap::open(packet, &outer, accept).map_err(Pass)?;
    let opened =
        Opened { l3: packet.forget(opened.l3, OFFSET_BITS), end: packet.forget(opened.end, 17), ..opened };
    let allowed = accept.allows(outer.addresses.version, outer.addresses.source);
    let Some(inner) = parse::addresses(packet, opened.l3, opened.version) else {
        return Err(if allowed {
            Drop(DropReason::TunnelMalformed)
        } else {
            Pass(PassReason::TunnelForOthers)
        });
    };
    let flags = classify::vip(&Tables, &inner).map_or(0, |vip| vip.flags);
    if flags & (VIP_DECAP | VIP_POD) == 0 {
        return Err(Pass(PassReason::TunnelForOthers));
    }
    if !allowed {
        return Err(Drop(DropReason::TunnelSource));
    }
    match parse::ip(packet, inner) {
        Ok(inner) if inner.end <= opened.end => Ok(Tunnel { outer, inner, flags }),
        _ => Err(Drop(DropReason::TunnelMalformed)),
    }
}
