//! Lowers the MSS that servers behind a VIP offer to what fits the tunnel. TC egress: XDP sees nothing that leaves.

use aya_ebpf::{
    EbpfContext as _,
    helpers::generated::{bpf_l4_csum_replace, bpf_skb_store_bytes},
    programs::TcContext,
};
use xdp_lb_common::{
    classify, mss,
    parse::{self, Addresses, ETHERNET_LEN, Ethernet, TCP, Version},
    vip::{VIP_DECAP, VIP_POD},
};

use crate::{
    maps::{self, Tables},
    packet::Leaving,
};

/// Offset of the checksum in a TCP header.
const CHECKSUM: usize = 16;

/// Lowers the MSS of the packet if it is a SYN of a VIP that lives here. `None` when it is left alone.
#[inline(always)]
pub fn lower(ctx: &TcContext) -> Option<()> {
    let packet = Leaving::new(ctx);
    let version = match parse::ethernet(&packet) {
        Ethernet::Ipv4 => Version::V4,
        Ethernet::Ipv6 => Version::V6,
        Ethernet::Tagged | Ethernet::Other => return None,
    };
    let addresses = parse::addresses(&packet, ETHERNET_LEN, version)?;
    // The answers of a VIP come from it.
    let turned = Addresses { destination: addresses.source, ..addresses };
    classify::vip(&Tables, &turned).filter(|vip| vip.flags & (VIP_DECAP | VIP_POD) != 0)?;
    let ip = parse::ip(&packet, addresses).ok().filter(|ip| ip.protocol == TCP && ip.fragment.is_none())?;
    let (at, offered) = mss::find(&packet, ip.l4)?;
    let most = maps::mss().version(version);
    if most == 0 || offered <= most {
        return None;
    }
    let (old, new) = (offered.to_be(), most.to_be());
    let skb = ctx.as_ptr().cast();
    // SAFETY: the kernel checks offsets and lengths. The first call ends all views of the packet, and none is used
    // after it. The second knows whether the checksum is there already or the device's to make.
    unsafe {
        if bpf_skb_store_bytes(skb, at as u32, (&raw const new).cast(), 2, 0) == 0 {
            bpf_l4_csum_replace(skb, (ip.l4 + CHECKSUM) as u32, old.into(), new.into(), 2);
        }
    }
    Some(())
}
