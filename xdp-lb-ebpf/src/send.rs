//! The stages that change the packet: into the tunnel, out of it, or back as an echo reply.

use xdp_lb_common::{
    backend::{
        KIND_GUE_IPV4, KIND_GUE_IPV6, KIND_GUE1_IPV4, KIND_GUE1_IPV6, KIND_IPV4, KIND_IPV6, KIND_LOCAL,
        KIND_UNRESOLVED, TAGGED, Template,
    },
    decap, echo,
    encap::{self, Inner, V4_HEADER, V6_HEADER},
    gue::{self, V4_GUE, V4_GUE1, V6_GUE, V6_GUE1},
    hash::FlowHash,
    parse::{self, Addresses, Bytes as _, ETHERNET_LEN, Ip, Version},
    reason::{DropReason, PassReason},
    service::ServiceConfig,
    vlan::{self, TAG_LEN, Tags},
};

use crate::{maps, packet::Packet, verdict::Verdict};

/// Where a packet goes.
pub struct Target {
    /// Service id.
    pub service: u16,
    /// Its live configuration.
    pub config: &'static ServiceConfig,
    /// Ring-local backend.
    pub local: u16,
    /// Outer source, port and flow label come from it.
    pub hash: FlowHash,
}

/// Why a packet goes no further on the common way.
pub enum Stop {
    /// Nowhere.
    Drop(DropReason),
    /// It does not fit the tunnel, or needs none; [`crate::too_big`] is to look at what was put off.
    TooBig,
}

impl From<DropReason> for Stop {
    #[inline(always)]
    fn from(reason: DropReason) -> Self {
        Self::Drop(reason)
    }
}

/// Puts the packet into the tunnel to its backend and sends it out.
#[inline(always)]
pub fn to_backend(packet: &mut Packet, ip: &Ip, target: &Target) -> Result<Verdict, Stop> {
    let Target { service, config, local, hash } = *target;
    let local = u32::from(local);
    let index = config.backend_base + local;
    let backend = maps::backend(index).ok_or(DropReason::TableInconsistent)?;
    let template = backend.template();
    let len = ip.len();
    let verdict = match template.kind {
        KIND_UNRESOLVED => return Err(DropReason::NextHopUnresolved.into()),
        KIND_LOCAL => Verdict::Pass(PassReason::LocalBackend),
        _ if !encap::fits(template, len) => {
            return Err(maps::put_off(ip, index, hash, (service, config.stats_base + local)));
        }
        _ => into_tunnel(packet, ip, template, hash)?,
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
    let tags = tags(packet, ip.addresses.l3);
    match template.kind {
        KIND_IPV4 => grow::<V4_HEADER>(packet, tags).map(|out| encap::write_v4(out, template, &inner)),
        KIND_IPV6 => grow::<V6_HEADER>(packet, tags).map(|out| encap::write_v6(out, template, &inner)),
        KIND_GUE_IPV4 => grow::<V4_GUE>(packet, tags).map(|out| gue::write_v4(out, template, &inner)),
        KIND_GUE1_IPV4 => grow::<V4_GUE1>(packet, tags).map(|out| gue::write_v4(out, template, &inner)),
        KIND_GUE_IPV6 => {
            let sum = inner_sum(packet, ip);
            grow::<V6_GUE>(packet, tags).map(|out| gue::write_v6(out, template, &inner, sum))
        }
        KIND_GUE1_IPV6 => {
            let sum = inner_sum(packet, ip);
            grow::<V6_GUE1>(packet, tags).map(|out| gue::write_v6(out, template, &inner, sum))
        }
        _ => return Err(DropReason::TableInconsistent),
    }
    .ok_or(DropReason::NoHeadroom)?;
    if tags.len != 0 {
        keep(packet, template, tags).ok_or(DropReason::NoHeadroom)?;
    }
    Ok(if template.ifindex == packet.ingress() {
        Verdict::Transmit
    } else if template.ifindex & TAGGED == 0 {
        Verdict::Redirect(template.ifindex)
    } else if maps::put_tag_off(template) {
        Verdict::Tag
    } else {
        return Err(DropReason::TableInconsistent);
    })
}

/// Gives a packet that is in its tunnel the tag that was put off, in place of those it came with, and sends it out.
#[inline(always)]
pub fn tag(packet: &mut Packet) -> Result<Verdict, DropReason> {
    let which = maps::what_was_put_off().ok_or(DropReason::TableInconsistent)?;
    let (_, l3) = vlan::network(packet);
    let (macs, gone) = (macs(packet).ok_or(DropReason::TableInconsistent)?, packet.forget(l3, 5) as i32);
    let tags = Tags { bytes: which.tag.into(), len: if which.tag == 0 { 0 } else { TAG_LEN } };
    if !packet.move_head(gone - (ETHERNET_LEN + tags.len) as i32) {
        return Err(DropReason::NoHeadroom);
    }
    put_macs(packet, macs).and_then(|()| put_tags(packet, tags)).ok_or(DropReason::NoHeadroom)?;
    Ok(if which.ifindex == packet.ingress() { Verdict::Transmit } else { Verdict::Redirect(which.ifindex) })
}

/// Both MACs, in two words: an array would go over the stack, where the verifier wants its words aligned.
#[inline(always)]
fn macs(packet: &Packet) -> Option<(u64, u32)> {
    let &[d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5] = packet.get::<12>(0)?;
    Some((u64::from_le_bytes([d0, d1, d2, d3, d4, d5, s0, s1]), u32::from_le_bytes([s2, s3, s4, s5])))
}

#[inline(always)]
fn put_macs(packet: &mut Packet, macs: (u64, u32)) -> Option<()> {
    let new = packet.get_mut::<12>(0)?;
    new[..8].copy_from_slice(&macs.0.to_le_bytes());
    new[8..12].copy_from_slice(&macs.1.to_le_bytes());
    Some(())
}

/// The tags in front of an IP header at `l3`. Kernels before 6.8 do not see that their length is small where rustc
/// takes it from a difference.
#[inline(always)]
fn tags(packet: &Packet, l3: usize) -> Tags {
    let tags = Tags::before(packet, l3);
    if tags.len == 0 { tags } else { Tags { len: packet.forget(tags.len, 4), ..tags } }
}

/// Room for a header of `N` bytes, Ethernet included, in front of the IP packet, with room for the tags in front of that:
/// the outer header takes the place of the old Ethernet header, only the difference is new.
#[inline(always)]
fn grow<const N: usize>(packet: &mut Packet, tags: Tags) -> Option<&mut [u8; N]> {
    if !packet.move_head(ETHERNET_LEN as i32 - N as i32) {
        return None;
    }
    packet.get_mut::<N>(tags.len)
}

/// Puts the template's MACs and the tags where they belong: what was written behind them announces the outer header.
#[inline(always)]
fn keep(packet: &mut Packet, template: &Template, tags: Tags) -> Option<()> {
    let macs = packet.get_mut::<12>(0)?;
    macs.copy_from_slice(template.bytes.first_chunk::<12>()?);
    put_tags(packet, tags)
}

/// Writes tags behind the MACs.
#[inline(always)]
fn put_tags(packet: &mut Packet, tags: Tags) -> Option<()> {
    if tags.len == TAG_LEN {
        *packet.get_mut::<4>(12)? = (tags.bytes as u32).to_le_bytes();
    } else if tags.len == 2 * TAG_LEN {
        *packet.get_mut::<8>(12)? = tags.bytes.to_le_bytes();
    }
    Some(())
}

/// Takes the tunnel off `inner` and hands it to the stack with the frame's own MACs and tags.
#[inline(always)]
pub fn up(packet: &mut Packet, outer: &Ip, inner: &Ip) -> Verdict {
    let Some(ecn) = decap::ecn(outer.tos, inner.tos) else { return Verdict::Drop(DropReason::TunnelEcn) };
    match strip(packet, outer.addresses.l3, inner, ecn) {
        Some(()) => Verdict::Pass(PassReason::Decapsulated),
        None => Verdict::Drop(DropReason::TunnelMalformed),
    }
}

/// Moves what is in front of an IP header at `l3` to the front of `inner`.
#[inline(always)]
fn strip(packet: &mut Packet, l3: usize, inner: &Ip, ecn: u8) -> Option<()> {
    let macs = macs(packet)?;
    let tags = tags(packet, l3);
    if !packet.move_head((inner.addresses.l3 - l3) as i32) {
        return None;
    }
    put_macs(packet, macs)?;
    put_tags(packet, tags)?;
    *packet.get_mut::<2>(ETHERNET_LEN - 2 + tags.len)? = parse::ethertype(inner.addresses.version);
    if ecn != inner.tos & 3 {
        match inner.addresses.version {
            Version::V4 => decap::set_ecn_v4(packet.get_mut::<12>(ETHERNET_LEN + tags.len)?, ecn),
            Version::V6 => decap::set_ecn_v6(packet.get_mut::<2>(ETHERNET_LEN + tags.len)?, ecn),
        }
    }
    Some(())
}

/// The sum for a GUE header over IPv6. The offset is bounded anew: 6.12's verifier loses a number that a comparison with
/// a constant has told it.
#[inline(always)]
fn inner_sum(packet: &Packet, ip: &Ip) -> Option<u64> {
    let addresses = Addresses { l3: packet.forget(ip.addresses.l3, 5), ..ip.addresses };
    gue::inner_sum(packet, &Ip { addresses, ..*ip })
}

/// Answers an echo request.
#[inline(always)]
pub fn echo(packet: &mut Packet, ip: &Ip) -> Result<Verdict, DropReason> {
    const CUT: DropReason = DropReason::L4Truncated;
    let l3 = ip.addresses.l3;
    echo::swap_macs(packet.get_mut::<ETHERNET_LEN>(0).ok_or(CUT)?);
    match ip.addresses.version {
        Version::V4 => echo::reply_v4(packet.get_mut::<20>(l3).ok_or(CUT)?),
        Version::V6 => echo::reply_v6(packet.get_mut::<40>(l3).ok_or(CUT)?),
    }
    let reply = match ip.addresses.version {
        Version::V4 => 0,
        Version::V6 => 129,
    };
    echo::reply_icmp(packet.get_mut::<8>(ip.l4).ok_or(CUT)?, reply);
    Ok(Verdict::Reply(PassReason::EchoAnswered))
}
