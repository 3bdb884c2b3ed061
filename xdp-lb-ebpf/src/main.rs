//! The XDP programs: `xdp_lb` balances, `xdp_decap` takes tunnels off on a backend's node.
//!
//! `pipeline` is the packet path, `packet` the packet's memory, `maps` the tables, `send` what changes
//! the packet. What is arithmetic lives in `xdp-lb-common`, where it is tested without a kernel.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]
#![expect(missing_docs, reason = "the xdp macro wraps documented functions in ones without documentation")]

mod inside;
mod maps;
mod packet;
mod pipeline;
mod send;
mod trace;
mod verdict;

use aya_ebpf::{bindings::xdp_md, macros::xdp, programs::XdpContext};

use crate::packet::Packet;

/// The balancer, which also takes tunnels off where one configuration asks for both.
#[xdp]
#[inline(always)]
pub fn xdp_lb(ctx: XdpContext) -> u32 {
    let raw = ctx.ctx;
    let action = match pipeline::plain(&mut Packet::new(ctx)) {
        Some(verdict) => verdict.conclude(),
        None => xdp_lb_thorough(raw),
    };
    trace::told(raw, action)
}

/// What is not a plain packet: a function of its own, so that its many cases take no registers from the others.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn xdp_lb_thorough(ctx: *mut xdp_md) -> u32 {
    pipeline::balance(&mut Packet::new(XdpContext::new(ctx))).conclude()
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
