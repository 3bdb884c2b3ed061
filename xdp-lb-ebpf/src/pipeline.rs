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
    service::CLIENT_IP,
    vip::{VIP_BALANCED, VIP_DECAP, VIP_PASS_UNMATCHED, VipSlot},
    word,
};

use crate::{
    icmp,
    maps::{self, Tables},
    packet::Packet,
    send::{self, Stop},
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

/// What is for nobody's VIP: ICMP about our tunnels, or a tunnel to us.
#[inline(always)]
fn for_others(packet: &mut Packet, outer: Addresses) -> Verdict {
    match parse::ip(packet, outer) {
        Ok(ip) if icmp::is(&ip) && icmp::about_tunnel(packet, &ip) => Pass(PassReason::TunnelTooBig),
        Ok(ip) if !icmp::is(&ip) && maps::decap() => take_off(packet, &ip),
        _ => Pass(PassReason::NotAVip),
    }
}

#[inline(always)]
fn for_vip(packet: &mut Packet, addresses: Addresses, vip: &VipSlot) -> Result<Verdict, Stop> {
    let ip = bounded(parse::ip(packet, addresses)?);
    if ip.fragment {
        return Err(DropReason::Fragment.into());
    }
    let ports = match parse::transport(packet, &ip)? {
        Transport::Ports(ports) => ports,
        Transport::EchoRequest => return Ok(send::echo(packet, &ip)?),
        Transport::NeighbourDiscovery => return Ok(Pass(PassReason::NeighbourDiscovery)),
        Transport::OtherIcmp => return icmp::error(packet, &ip, vip),
        Transport::Other => return Ok(unmatched(vip)?),
    };
    flow(packet, &ip, &ports, vip)
}

/// A TCP or UDP packet for a VIP.
#[inline(always)]
fn flow(packet: &mut Packet, ip: &Ip, ports: &Ports, vip: &VipSlot) -> Result<Verdict, Stop> {
    let service = classify::service(&Tables, vip, ip.protocol, ports.destination());
    if service == 0 {
        return Ok(unmatched(vip)?);
    }
    let config = maps::service(service).ok_or(DropReason::TableInconsistent)?.config();
    if config.table_size == 0 {
        return Err(DropReason::EmptyService.into());
    }
    let hash =
        hash::packet(maps::seed(), &ip.addresses, ip.protocol, ports.pair, config.flags & CLIENT_IP != 0);
    let choice = select::choose(&Tables, &Flow { service, config, hash, segment: ports.segment })
        .ok_or(DropReason::TableInconsistent)?;
    if choice.backend == NO_BACKEND {
        return Err(DropReason::EmptyService.into());
    }
    send::to_backend(packet, ip, service, config, choice.backend, hash)
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
        Ok(outer) => match parse::ip(packet, outer) {
            Ok(outer) => take_off(packet, &outer),
            Err(_) => Pass(PassReason::NotAVip),
        },
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

/// The same with one bound for all ways through the IP header, or the verifier walks what follows once for each.
#[inline(always)]
fn bounded(ip: Ip) -> Ip {
    /// An IP header and all extension headers that are followed end below.
    const L4_MASK: usize = 0x3fff;
    Ip { l4: word::masked(ip.l4, L4_MASK), ..ip }
}

/// Takes a tunnel to one of our VIPs off.
#[inline(always)]
fn take_off(packet: &mut Packet, outer: &Ip) -> Verdict {
    let outer = bounded(*outer);
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
