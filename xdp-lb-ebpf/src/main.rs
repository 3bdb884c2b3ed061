//! The XDP programs: `xdp_lb` balances, `xdp_decap` takes tunnels off on a backend's node.
//!
//! `pipeline` is the packet path, `fragments` what it does with fragments, `packet` the packet's memory, `maps` the
//! tables, `send` what changes the packet. What is arithmetic lives in `xdp-lb-common`, where it is tested without a kernel.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]
#![expect(missing_docs, reason = "the xdp macro wraps documented functions in ones without documentation")]

mod fragments;
mod inside;
mod maps;
mod packet;
mod pipeline;
mod send;
mod trace;
mod verdict;

use aya_ebpf::{bindings::xdp_md, macros::xdp, programs::XdpContext};

use crate::{
    packet::Packet,
    verdict::{FRAGMENT, TUNNEL},
};

/// The balancer, which also takes tunnels off where one configuration asks for both.
#[xdp]
#[inline(always)]
pub fn xdp_lb(ctx: XdpContext) -> u32 {
    let raw = ctx.ctx;
    let action = match pipeline::plain(&mut Packet::new(ctx)) {
        Some(verdict) => verdict.conclude(),
        None => match xdp_lb_thorough(raw) {
            FRAGMENT => xdp_lb_fragment(raw),
            TUNNEL => xdp_lb_tunnel(raw),
            action => action,
        },
    };
    trace::told(raw, action)
}

/// What is not a plain packet: a function of its own, so that its many cases take no registers from the others.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn xdp_lb_thorough(ctx: *mut xdp_md) -> u32 {
    pipeline::balance(&mut Packet::new(XdpContext::new(ctx))).conclude()
}

/// Fragments for a VIP. It reads the headers again, and so does the next: the verifier checks each function once, whatever
/// led to it.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn xdp_lb_fragment(ctx: *mut xdp_md) -> u32 {
    pipeline::fragment(&mut Packet::new(XdpContext::new(ctx))).conclude()
}

/// What is for no VIP that is balanced here and may be a tunnel.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn xdp_lb_tunnel(ctx: *mut xdp_md) -> u32 {
    pipeline::decap(&mut Packet::new(XdpContext::new(ctx))).conclude()
}

/// The backend side.
#[xdp]
#[inline(always)]
pub fn xdp_decap(ctx: XdpContext) -> u32 {
    let raw = ctx.ctx;
    trace::told(raw, pipeline::decap(&mut Packet::new(ctx)).conclude())
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
