//! The backend side: which tunnels are taken off, and what the packet looks like then.

use xdp_lb_common::reason::{DropReason, PassReason};

use super::file::{Decap, File};
use super::icmp::updated;
use super::ip::{self, Ip, Version};
use super::read::Read;
use super::step::{End, Judged};
use crate::prog::XdpAction;

/// Where a tunnel's packet is.
struct Inside {
    version: Version,
    l3: usize,
    /// Where the tunnel ends; `None` when it lies about that.
    end: Option<usize>,
}

/// What becomes of a packet that is for no VIP.
pub(super) fn take_off(file: &File, outer: &Ip<'_>) -> Judged<End> {
    let Some(decap) = &file.decap else { return Err(PassReason::NotAVip.into()) };
    let inside = open(decap, outer)?;
    let allowed = decap.allow.iter().any(|prefix| prefix.holds(outer.named.source));
    let Some(named) = ip::named(outer.named.frame, inside.version, inside.l3) else {
        let cut: End =
            if allowed { DropReason::TunnelMalformed.into() } else { PassReason::TunnelForOthers.into() };
        return Err(cut);
    };
    if !file.is_decapped(named.destination) {
        return Err(PassReason::TunnelForOthers.into());
    }
    if !allowed {
        return Err(DropReason::TunnelSource.into());
    }
    let inner = ip::ip(named).map_err(|_| DropReason::TunnelMalformed)?;
    if inside.end.is_none_or(|end| inner.end > end) {
        return Err(DropReason::TunnelMalformed.into());
    }
    let ecn = ecn(outer.tos & 3, inner.tos & 3).ok_or(DropReason::TunnelEcn)?;
    Ok(End::Changed(XdpAction::Pass, handed_up(outer, &inner, ecn), Some(PassReason::Decapsulated)))
}

fn open(decap: &Decap, outer: &Ip<'_>) -> Result<Inside, PassReason> {
    let end = Some(outer.end);
    match outer.protocol {
        _ if outer.fragment.is_some() => Err(PassReason::NotAVip),
        4 if decap.ipip => Ok(Inside { version: Version::V4, l3: outer.l4, end }),
        41 if decap.ipip => Ok(Inside { version: Version::V6, l3: outer.l4, end }),
        17 if decap.gue => gue(decap, outer),
        _ => Err(PassReason::NotAVip),
    }
}

fn gue(decap: &Decap, outer: &Ip<'_>) -> Result<Inside, PassReason> {
    let udp = outer.payload();
    if udp.len() < 8 || udp.short(2) != Some(decap.gue_port) {
        return Err(PassReason::NotAVip);
    }
    let length = udp.short(4).map_or(0, usize::from);
    let end = (8..=udp.len()).contains(&length).then_some(outer.l4 + length);
    let h: [u8; 4] = udp.some(8).ok_or(PassReason::GueUnknown)?;
    let at = outer.l4 + 8;
    match h[0] >> 4 {
        4 => Ok(Inside { version: Version::V4, l3: at, end }),
        6 => Ok(Inside { version: Version::V6, l3: at, end }),
        2 | 3 => Err(PassReason::GueControl),
        0 | 1 => {
            let version = match h {
                [_, 4, 0, 0] => Version::V4,
                [_, 41, 0, 0] => Version::V6,
                _ => return Err(PassReason::GueUnknown),
            };
            Ok(Inside { version, l3: at + 4 + usize::from(h[0] & 0x1f) * 4, end })
        }
        _ => Err(PassReason::GueUnknown),
    }
}

/// The ECN field of a packet that comes out of a tunnel (RFC 6040, figure 4); `None` is a loss.
fn ecn(outer: u8, inner: u8) -> Option<u8> {
    const NOT_ECT: u8 = 0;
    const ECT_1: u8 = 1;
    const ECT_0: u8 = 2;
    const CE: u8 = 3;
    match (inner, outer) {
        (NOT_ECT, CE) => None,
        (ECT_0 | ECT_1, CE) => Some(CE),
        (ECT_0, ECT_1) => Some(ECT_1),
        _ => Some(inner),
    }
}

/// The inner packet, and what is behind it, with the frame's own MACs and tags.
fn handed_up(outer: &Ip<'_>, inner: &Ip<'_>, ecn: u8) -> Vec<u8> {
    let frame = outer.named.frame;
    let mut out = frame[..outer.named.l3 - 2].to_vec();
    out.extend(inner.named.version.ethertype().to_be_bytes());
    let l3 = out.len();
    out.extend(&frame[inner.named.l3..]);
    if ecn != inner.tos & 3 {
        match inner.named.version {
            Version::V4 => {
                out[l3 + 1] = out[l3 + 1] & !3 | ecn;
                let old = &frame[inner.named.l3..];
                let sum = updated(old, 10, 0, &out[l3..]);
                out[l3 + 10..l3 + 12].copy_from_slice(&sum.to_be_bytes());
            }
            Version::V6 => out[l3 + 1] = out[l3 + 1] & !0x30 | ecn << 4,
        }
    }
    out
}
