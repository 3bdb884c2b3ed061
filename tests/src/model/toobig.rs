//! What does not fit its tunnel: docs/architecture.md, "What does not fit".

use std::net::IpAddr;

use xdp_lb_common::reason::{DropReason, PassReason};

use super::ip::{Ip, Version};
use super::step::{Change, End, Judged, Step};
use crate::packet::internet_checksum;
use crate::prog::XdpAction;

/// Answers of a CPU in a second.
const ANSWERS: u32 = 1000;
/// Longest answers (RFC 1812 section 4.3.2.3, RFC 4443 section 3.2).
const LONGEST_V4: usize = 576;
const LONGEST_V6: usize = 1280;
/// Network control, as RFC 1812 section 4.3.2.5 wants it.
const TOS: u8 = 0xc0;

/// Nobody reads the buffers of packets that the agent cuts: it does not run.
pub(super) fn refuse(step: &mut Step<'_>, ip: &Ip<'_>, room: usize) -> Judged<End> {
    let v4 = ip.named.version == Version::V4;
    if v4 && ip.whole()[6] & 0x40 == 0 {
        return Err(DropReason::CutUnavailable.into());
    }
    let later = v4 && ip.fragment.is_some_and(|fragment| fragment.offset != 0);
    let icmp = matches!(ip.protocol, 1 | 58);
    let useless = !v4 && room < LONGEST_V6;
    if later || icmp || useless || !is_host(ip.named.source) {
        return Err(DropReason::TooBig.into());
    }
    let second = step.second();
    let so_far = match step.model.state.answers {
        (then, count) if then == second => count,
        _ => 0,
    };
    if so_far >= ANSWERS {
        return Err(DropReason::TooBigUnanswered.into());
    }
    step.change(Change::Answer { second, count: so_far + 1 });
    Ok(End::Changed(XdpAction::Tx, answer(ip, room as u16), Some(PassReason::TooBigAnswered)))
}

/// Whether an address can be a single host's (RFC 1122 section 3.2.2, RFC 4443 section 2.4).
fn is_host(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => !matches!(v4.octets()[0], 0 | 127 | 224..),
        IpAddr::V6(v6) => !v6.is_multicast() && !v6.is_unspecified() && !v6.is_loopback(),
    }
}

/// "Fragmentation needed" or "packet too big", from the VIP.
fn answer(ip: &Ip<'_>, mtu: u16) -> Vec<u8> {
    let (frame, packet) = (ip.named.frame, ip.whole());
    let mut out = [&frame[6..12], &frame[..6], &frame[12..ip.named.l3]].concat();
    let [m0, m1] = mtu.to_be_bytes();
    let (kind, longest) = match ip.named.version {
        Version::V4 => ([3, 4], LONGEST_V4 - 28),
        Version::V6 => ([2, 0], LONGEST_V6 - 48),
    };
    let mut icmp = vec![kind[0], kind[1], 0, 0, 0, 0, m0, m1];
    icmp.extend(&packet[..packet.len().min(longest)]);
    match ip.named.version {
        Version::V4 => {
            let sum = internet_checksum(&[&icmp]);
            icmp[2..4].copy_from_slice(&sum.to_be_bytes());
            let [l0, l1] = (20 + icmp.len() as u16).to_be_bytes();
            let mut h = vec![0x45, TOS, l0, l1, 0, 0, 0x40, 0, 64, 1, 0, 0];
            h.extend(&packet[16..20]);
            h.extend(&packet[12..16]);
            let sum = internet_checksum(&[&h]);
            h[10..12].copy_from_slice(&sum.to_be_bytes());
            out.extend(h);
        }
        Version::V6 => {
            let addresses = [&packet[24..40], &packet[8..24]].concat();
            let length = icmp.len() as u32;
            let sum = internet_checksum(&[&addresses, &length.to_be_bytes(), &[0, 0, 0, 58], &icmp]);
            icmp[2..4].copy_from_slice(&sum.to_be_bytes());
            let [l0, l1] = (length as u16).to_be_bytes();
            out.extend([0x60 | TOS >> 4, TOS << 4, 0, 0, l0, l1, 58, 64]);
            out.extend(addresses);
        }
    }
    out.extend(icmp);
    out
}
