//! To the pod and back (`delivery: pod`): what [`translate`] makes of a packet whose tunnel ends at a pod, and of its answer.

use aya_ebpf::programs::TcContext;
use xdp_lb_common::{
    icmp::ICMP_LEN,
    parse::{self, Bytes as _, ETHERNET_LEN, Ethernet, IPV4_LEN, IPV6_LEN, Version},
    reason::{DropReason, PassReason},
    translate,
    vip::VIP_DECAP,
};

use crate::{
    maps::{self, Tables},
    packet::{Leaving, Packet},
    pipeline, send,
    verdict::{Verdict, Verdict::Drop, Verdict::Pass},
};

/// Takes off a tunnel to a pod, as [`pipeline::decap`] has found out, and makes the packet the pod's.
#[inline(always)]
pub fn deliver(packet: &mut Packet) -> Verdict {
    let tunnel =
        match pipeline::addresses(packet).map_err(Pass).and_then(|outer| pipeline::opened(packet, outer)) {
            Ok(tunnel) => tunnel,
            Err(verdict) => return verdict,
        };
    let (vip, pod) = (tunnel.inner.addresses.destination, tunnel.outer.addresses.destination);
    let is_pod = translate::serves(&Tables, vip, pod);
    if !is_pod && tunnel.flags & VIP_DECAP == 0 {
        return Drop(DropReason::PodPort);
    }
    match send::up(packet, &tunnel.outer, &tunnel.inner) {
        Pass(_) if is_pod => {}
        verdict => return verdict,
    }
    // Read anew: all offsets have changed.
    let Ok(addresses) = pipeline::addresses(packet) else { return Drop(DropReason::TunnelMalformed) };
    let Ok(ip) = parse::ip(packet, addresses) else { return Drop(DropReason::TunnelMalformed) };
    let ip = pipeline::forget(packet, ip);
    match translate::inbound(packet, &ip, pod, &Tables) {
        Ok(()) => Pass(PassReason::DecapPod),
        Err(reason) => Drop(reason),
    }
}

/// Makes a packet for a VIP the pod's of this node that was chosen, as [`crate::too_big`] has found out: what
/// [`deliver`] does behind a tunnel.
#[inline(always)]
pub fn hand_over(packet: &mut Packet) -> Result<Verdict, DropReason> {
    const CUT: DropReason = DropReason::IpTruncated;
    let which = maps::what_was_put_off().ok_or(DropReason::TableInconsistent)?;
    let pod = translate::words(maps::backend(which.backend).ok_or(DropReason::TableInconsistent)?.address);
    let addresses = pipeline::addresses(packet).map_err(|_| CUT)?;
    let ip = parse::ip(packet, addresses)?;
    let ip = pipeline::forget(packet, ip);
    translate::inbound(packet, &ip, pod, &Tables)?;
    maps::count_forwarded(which.service as u16, which.stats, u64::from(which.place >> 16));
    Ok(Pass(PassReason::LocalBackend))
}

/// Headers that [`translate::outbound`] reads of nearly all packets.
const PLAIN: usize = ETHERNET_LEN + IPV6_LEN + 8;
/// And of an ICMP error.
const QUOTING: usize = ETHERNET_LEN + IPV6_LEN + ICMP_LEN + IPV6_LEN + 20;

/// True for ICMP of IPv4, and of IPv6 without extension headers.
#[inline(always)]
fn may_be_icmp(packet: &Leaving) -> bool {
    match (parse::ethernet(packet), packet.get::<{ ETHERNET_LEN + IPV4_LEN }>(0)) {
        (Ethernet::Ipv4, Some(h)) => h[ETHERNET_LEN + 9] == parse::ICMP,
        (Ethernet::Ipv6, Some(h)) => h[ETHERNET_LEN + 6] == parse::ICMPV6,
        _ => false,
    }
}

/// Makes a packet that leaves the node the VIP's if a pod answers with it. `None`: it is left alone.
#[inline(always)]
pub fn leave(ctx: &TcContext) -> Option<()> {
    let mut packet = Leaving::new(ctx);
    // All that is read is brought together before the headers are: 5.10 reads what they do not say from a stack where
    // nobody wrote it, if they have to wait there for a helper.
    packet.gather(if may_be_icmp(&packet) { QUOTING } else { PLAIN });
    let version = match parse::ethernet(&packet) {
        Ethernet::Ipv4 => Version::V4,
        Ethernet::Ipv6 => Version::V6,
        Ethernet::Tagged | Ethernet::Other => return None,
    };
    let addresses = parse::addresses(&packet, ETHERNET_LEN, version)?;
    let ip = parse::ip(&packet, addresses).ok()?;
    translate::outbound(&mut packet, &ip, &Tables)?;
    maps::count_left(PassReason::FromPod);
    Some(())
}
