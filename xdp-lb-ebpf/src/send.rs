//! The stages that change the packet: into the tunnel, out of it, or back as an echo reply.

use xdp_lb_common::{
    backend::{HEADER_LEN, KIND_IPV4, KIND_IPV6, KIND_LOCAL, Template},
    echo,
    encap::{self, Inner, V4_HEADER, V6_HEADER},
    hash::FlowHash,
    parse::{self, Bytes as _, ETHERNET_LEN, Ip, Version},
    reason::{DropReason, PassReason},
    service::ServiceConfig,
};

use crate::{maps, packet::Packet, verdict::Verdict};

/// Why a packet goes no further on the common way.
pub enum Stop {
    /// Nowhere.
    Drop(DropReason),
    /// It does not fit the tunnel; [`crate::too_big`] is to look at what was put off.
    TooBig,
}

impl From<DropReason> for Stop {
    #[inline(always)]
    fn from(reason: DropReason) -> Self {
        Self::Drop(reason)
    }
}

/// Puts the packet into the tunnel to ring member `local` and sends it out.
#[inline(always)]
pub fn to_backend(
    packet: &mut Packet,
    ip: &Ip,
    service: u16,
    config: &ServiceConfig,
    local: u16,
    hash: FlowHash,
) -> Result<Verdict, Stop> {
    let local = u32::from(local);
    let index = config.backend_base + local;
    let backend = maps::backend(index).ok_or(DropReason::TableInconsistent)?;
    let template = backend.template();
    let len = ip.len();
    let verdict = match template.kind {
        KIND_IPV4 | KIND_IPV6 if !encap::fits(template, len) => {
            return Err(maps::put_off(ip, index, hash));
        }
        KIND_IPV4 | KIND_IPV6 => into_tunnel(packet, ip, template, hash)?,
        KIND_LOCAL => Verdict::Pass(PassReason::LocalBackend),
        _ => return Err(DropReason::NextHopUnresolved.into()),
    };
    maps::count_forwarded(service, config.stats_base + local, len as u64);
    Ok(verdict)
}

#[inline(always)]
fn into_tunnel(
    packet: &mut Packet,
    ip: &Ip,
    template: &Template,
    hash: FlowHash,
) -> Result<Verdict, DropReason> {
    let inner = Inner { version: ip.addresses.version, len: ip.len() as u16, tos: ip.tos, hash };
    // The outer IP header takes the old Ethernet header's place; only the difference is new room.
    if template.kind == KIND_IPV4 {
        grow::<V4_HEADER>(packet).map(|out| encap::write_v4(out, template, &inner))
    } else {
        grow::<V6_HEADER>(packet).map(|out| encap::write_v6(out, template, &inner))
    }
    .ok_or(DropReason::NoHeadroom)?;
    Ok(if template.ifindex == packet.ingress() {
        Verdict::Transmit
    } else {
        Verdict::Redirect(template.ifindex)
    })
}

/// Room for an `N`-byte header in front of the IP packet.
#[inline(always)]
fn grow<const N: usize>(packet: &mut Packet) -> Option<&mut [u8; N]> {
    const { assert!(N <= HEADER_LEN) };
    if !packet.move_head(ETHERNET_LEN as i32 - N as i32) {
        return None;
    }
    packet.get_mut::<N>(0)
}

/// Takes everything in front of `inner` off and hands it to the stack with the frame's own MACs.
#[inline(always)]
pub fn up(packet: &mut Packet, inner: &Ip) -> Verdict {
    const MALFORMED: Verdict = Verdict::Drop(DropReason::TunnelMalformed);
    let Some(&[d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5]) = packet.get::<12>(0) else {
        return MALFORMED;
    };
    // Two words in registers: an array would go over the stack, where the verifier wants its words aligned.
    let macs = (u64::from_le_bytes([d0, d1, d2, d3, d4, d5, s0, s1]), u32::from_le_bytes([s2, s3, s4, s5]));
    let strip = inner.addresses.l3 - ETHERNET_LEN;
    if !packet.move_head(strip as i32) {
        return MALFORMED;
    }
    let Some(new) = packet.get_mut::<ETHERNET_LEN>(0) else { return MALFORMED };
    new[..8].copy_from_slice(&macs.0.to_le_bytes());
    new[8..12].copy_from_slice(&macs.1.to_le_bytes());
    [new[12], new[13]] = parse::ethertype(inner.addresses.version);
    Verdict::Pass(PassReason::Decapsulated)
}

/// Answers an echo request.
#[inline(always)]
pub fn echo(packet: &mut Packet, ip: &Ip) -> Result<Verdict, DropReason> {
    const CUT: DropReason = DropReason::L4Truncated;
    echo::swap_macs(packet.get_mut::<ETHERNET_LEN>(0).ok_or(CUT)?);
    match ip.addresses.version {
        Version::V4 => echo::reply_v4(packet.get_mut::<20>(ETHERNET_LEN).ok_or(CUT)?),
        Version::V6 => echo::reply_v6(packet.get_mut::<40>(ETHERNET_LEN).ok_or(CUT)?),
    }
    let reply = match ip.addresses.version {
        Version::V4 => 0,
        Version::V6 => 129,
    };
    echo::reply_icmp(packet.get_mut::<8>(ip.l4).ok_or(CUT)?, reply);
    Ok(Verdict::Reply(PassReason::EchoAnswered))
}
