//! To the pod and back (`delivery: pod`): what [`translate`] makes of a packet whose tunnel ends at a pod, and of its answer.

use aya_ebpf::programs::TcContext;
use xdp_lb_common::{
    icmp::ICMP_LEN,
    parse::{self, ETHERNET_LEN, Ethernet, IPV6_LEN, Version},
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

/// Headers that [`translate::outbound`] reads of nearly all packets.
const PLAIN: usize = ETHERNET_LEN + IPV6_LEN + 8;
/// And of an ICMP error.
const QUOTING: usize = ETHERNET_LEN + IPV6_LEN + ICMP_LEN + IPV6_LEN + 20;

/// Makes a packet that leaves the node the VIP's if a pod answers with it. `None`: it is left alone.
#[inline(always)]
pub fn leave(ctx: &TcContext) -> Option<()> {
    let mut packet = Leaving::new(ctx);
    packet.gather(PLAIN);
    let version = match parse::ethernet(&packet) {
        Ethernet::Ipv4 => Version::V4,
        Ethernet::Ipv6 => Version::V6,
        Ethernet::Tagged | Ethernet::Other => return None,
    };
    let addresses = parse::addresses(&packet, ETHERNET_LEN, version)?;
    let ip = parse::ip(&packet, addresses).ok()?;
    if ip.protocol == parse::ICMP || ip.protocol == parse::ICMPV6 {
        packet.gather(QUOTING);
    }
    translate::outbound(&mut packet, &ip, &Tables)?;
    maps::count_left(PassReason::FromPod);
    Some(())
}
