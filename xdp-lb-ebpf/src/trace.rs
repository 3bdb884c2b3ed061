//! Tells what became of every packet, over aya-log: with `log.level: trace` alone, on machines whose traffic a person can
//! read. Otherwise the verifier finds that nothing here can be reached and takes it out of the program.
//!
//! One line a packet, of words that the agent's log makes fields of:
//!
//! ```text
//!   if=3 action=3 ended=0 10.1.2.11 <- 172.16.9.4     what left: with a tunnel its outer addresses
//! ```

use aya_ebpf::{bindings::xdp_md, programs::XdpContext};
use aya_log_ebpf::trace;
use xdp_lb_common::parse::{self, Bytes as _, ETHERNET_LEN, Ethernet};

use crate::{maps, packet::Packet};

/// Tells the packet's end if that is wanted; gives `action` back.
#[inline(always)]
pub fn told(ctx: *mut xdp_md, action: u32) -> u32 {
    if maps::trace() {
        xdp_lb_tell(ctx, action);
    }
    action
}

/// A function of its own: what it takes of the stack is not the packet path's.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn xdp_lb_tell(raw: *mut xdp_md, action: u32) -> u32 {
    let ended = maps::take_ended();
    let ctx = XdpContext::new(raw);
    let packet = Packet::new(XdpContext::new(raw));
    let interface = packet.ingress();
    match parse::ethernet(&packet) {
        Ethernet::Ipv4 => {
            let Some(h) = packet.get::<20>(ETHERNET_LEN) else { return 0 };
            let address = |bytes: [u8; 4]| u32::from_be_bytes(bytes);
            let (from, to) = (address(parse::part::<12, 4, 20>(h)), address(parse::part::<16, 4, 20>(h)));
            trace!(
                &ctx,
                "if={} action={} ended={} proto={} {:i} <- {:i}", interface, action, ended, h[9], to, from
            );
        }
        Ethernet::Ipv6 => {
            let Some(h) = packet.get::<40>(ETHERNET_LEN) else { return 0 };
            let (from, to) = (parse::part::<8, 16, 40>(h), parse::part::<24, 16, 40>(h));
            trace!(
                &ctx,
                "if={} action={} ended={} proto={} {:i} <- {:i}", interface, action, ended, h[6], to, from
            );
        }
        _ => trace!(&ctx, "if={} action={} ended={} no IP", interface, action, ended),
    }
    0
}
