//! ICMP errors: those about a VIP's flow go to the flow's backend, those about a tunnel of ours are noted.

use xdp_lb_common::{
    classify, hash,
    icmp::{self, Complaint, NoFlow},
    parse::{self, ICMP, ICMPV6, Ip},
    reason::DropReason,
    ring::NO_BACKEND,
    select,
    service::{CLIENT_IP, DEST_PORT, ICE_UFRAG, QUIC_CID},
    vip::{VIP_BALANCED, VipSlot},
};

use crate::{
    inside,
    maps::{self, Tables},
    packet::Packet,
    pipeline::unmatched,
    send::{self, Stop, Target},
    verdict::Verdict,
};

/// Sends an ICMP error for `vip` where the packets of the quoted flow go, without being one of them.
#[inline(always)]
pub fn error(packet: &mut Packet, ip: &Ip, vip: &VipSlot) -> Result<Verdict, Stop> {
    let (_, flow) = icmp::flow(packet, ip).map_err(|no_flow| match no_flow {
        NoFlow::NotAnError => DropReason::IcmpUnhandled,
        NoFlow::NotOurPacket => DropReason::IcmpEmbedded,
        _ => DropReason::IcmpQuote,
    })?;
    let service = classify::service(&Tables, vip, flow.protocol, flow.destination());
    if service == 0 {
        return Ok(unmatched(vip)?);
    }
    let config = maps::service(service).ok_or(DropReason::TableInconsistent)?.config();
    if config.table_size == 0 {
        return Err(DropReason::EmptyService.into());
    }
    let flags = config.flags;
    if flags & DEST_PORT != 0 {
        let local = inside::slice(service, flow.destination())?;
        let hash = hash::packet(maps::seed(), &flow.addresses, flow.protocol, flow.pair, false);
        return send::to_backend(packet, ip, &Target { service, config, local, hash });
    }
    let hash = hash::packet(maps::seed(), &flow.addresses, flow.protocol, flow.pair, flags & CLIENT_IP != 0);
    let first = flags & (ICE_UFRAG | QUIC_CID) != 0;
    let choice = select::look(&Tables, config, hash, flow.protocol == parse::TCP, first)
        .ok_or(DropReason::TableInconsistent)?;
    if choice.backend == NO_BACKEND {
        return Err(DropReason::EmptyService.into());
    }
    send::to_backend(packet, ip, &Target { service, config, local: choice.backend, hash })
}

/// True for whole ICMP messages of both versions.
#[inline(always)]
pub fn is(ip: &Ip) -> bool {
    ip.fragment.is_none() && (ip.protocol == ICMP || ip.protocol == ICMPV6)
}

/// True when ICMP for nobody's VIP says that a tunnel to a backend was too big for a link: noted for the agent,
/// which knows our outer sources and the backends. It goes on to the kernel like any ICMP for this node.
#[inline(always)]
pub fn about_tunnel(packet: &Packet, ip: &Ip) -> bool {
    let Ok(quote) = icmp::quote(packet, ip) else { return false };
    let Complaint::TooBig { mtu } = quote.complaint else { return false };
    let Some(tunnel) = quote.tunnel(packet) else { return false };
    // A tunnel of ours carries packets for a VIP; where the quote reaches so far, a forger has to know one.
    let carries_vip = |inner| classify::vip(&Tables, &inner).is_some_and(|vip| vip.flags & VIP_BALANCED != 0);
    if !tunnel.inner.is_none_or(carries_vip) {
        return false;
    }
    maps::note_path_mtu(tunnel.backend, tunnel.port, ip.addresses.destination, mtu);
    true
}
