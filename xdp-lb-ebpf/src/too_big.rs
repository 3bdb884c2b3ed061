//! What does not fit its tunnel: the sender is told what does, or the agent cuts it.
//!
//! ```text
//!   IPv4 with DF, IPv6 ----> "fragmentation needed" / "packet too big" from the VIP, back where it came from
//!   IPv4 without DF -------> a copy to the agent, which sends fragments through the tunnel
//!   for a pod of this node -> needs no tunnel: not here
//! ```

use xdp_lb_common::{
    backend::KIND_POD,
    cut::{CutRequest, SlowState},
    parse::{self, Bytes as _, ETHERNET_LEN, IPV4_LEN, IPV6_LEN, Version},
    reason::{DropReason, PassReason},
    toobig::{self, LEAST_V6_MTU, TooBig, V4_HEADER, V6_HEADER},
    word,
};

use crate::{maps, packet::Packet, verdict::Verdict};

/// Offset of an IP header behind Ethernet and two tags at most.
const L3_MASK: usize = 0x1f;

/// Answers or hands over a packet that was read before and found right.
#[inline(always)]
pub fn refuse(packet: &mut Packet) -> Result<Verdict, DropReason> {
    let which = maps::what_was_put_off().ok_or(DropReason::TableInconsistent)?;
    let template = maps::backend(which.backend).ok_or(DropReason::TableInconsistent)?.template();
    if template.kind == KIND_POD {
        return Ok(Verdict::OwnPod);
    }
    let mtu = template.max_inner;
    let l3 = word::masked(which.place as usize & 0xffff, L3_MASK);
    let len = (which.place >> 16) as usize;
    let h = packet.get::<IPV4_LEN>(l3).ok_or(DropReason::IpTruncated)?;
    let version = if h[0] >> 4 == 4 { Version::V4 } else { Version::V6 };
    let flags = u16::from_be_bytes([h[6], h[7]]);
    if version == Version::V4 && flags & 0x4000 == 0 {
        return cut(packet, which, l3 + len);
    }
    let addresses = parse::addresses(packet, l3, version).ok_or(DropReason::IpTruncated)?;
    // About the first fragment only (RFC 1122 section 3.2.2).
    let later = version == Version::V4 && flags & 0x1fff != 0;
    let deserves = !later && toobig::deserves(which.protocol as u8, &addresses);
    if !deserves || (version == Version::V6 && mtu < LEAST_V6_MTU) {
        return Err(DropReason::TooBig);
    }
    if !maps::may_answer() {
        return Err(DropReason::TooBigUnanswered);
    }
    let quoted = toobig::quote_len(version, len);
    let sum = toobig::quote_sum(packet, l3, quoted).ok_or(DropReason::IpTruncated)?;
    let what = TooBig { mtu, quoted: quoted as u16, sum };
    const CUT: DropReason = DropReason::IpTruncated;
    match version {
        Version::V4 => {
            let out = answer::<V4_HEADER, { V4_HEADER + IPV4_LEN }>(packet, l3, quoted)?;
            let (out, offending) = out.split_first_chunk_mut().ok_or(CUT)?;
            toobig::write_v4(out, offending.first_chunk().ok_or(CUT)?, &what);
        }
        Version::V6 => {
            let out = answer::<V6_HEADER, { V6_HEADER + IPV6_LEN }>(packet, l3, quoted)?;
            let (out, offending) = out.split_first_chunk_mut().ok_or(CUT)?;
            toobig::write_v6(out, offending.first_chunk().ok_or(CUT)?, &what);
        }
    }
    Ok(Verdict::Reply(PassReason::TooBigAnswered))
}

#[inline(always)]
fn cut(packet: &Packet, which: &SlowState, end: usize) -> Result<Verdict, DropReason> {
    // No padding: the frame ends where the packet does.
    let l3 = which.place as u16;
    let request = CutRequest { hash: which.hash, backend: which.backend, l3, len: end as u16 };
    if maps::hand_to_cutter(packet, request) {
        Ok(Verdict::Taken(PassReason::HandedToCutter))
    } else {
        Err(DropReason::CutUnavailable)
    }
}

/// The place of the answer's headers, between a link header that points back and what is quoted, and behind it the
/// header that is answered: `ALL` bytes.
#[inline(always)]
fn answer<const HEADER: usize, const ALL: usize>(
    packet: &mut Packet,
    l3: usize,
    quoted: usize,
) -> Result<&mut [u8; ALL], DropReason> {
    const CUT: DropReason = DropReason::IpTruncated;
    if !packet.move_head(-(HEADER as i32)) {
        return Err(DropReason::NoHeadroom);
    }
    let &[d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5] = packet.get::<12>(HEADER).ok_or(CUT)?;
    *packet.get_mut::<12>(0).ok_or(CUT)? = [s0, s1, s2, s3, s4, s5, d0, d1, d2, d3, d4, d5];
    // Tags and EtherType as they came.
    for at in (ETHERNET_LEN - 2..ETHERNET_LEN + 8).step_by(2) {
        if at < l3 {
            let &field = packet.get::<2>(HEADER + at).ok_or(CUT)?;
            *packet.get_mut::<2>(at).ok_or(CUT)? = field;
        }
    }
    if !packet.truncate(l3 + HEADER + quoted) {
        return Err(CUT);
    }
    packet.get_mut::<ALL>(l3).ok_or(CUT)
}
