//! The programs: `xdp_lb` balances, `xdp_decap` takes tunnels off on a backend's node, `xdp_lb_mss` and `xdp_lb_from_pod`
//! see what leaves it.
//!
//! `pipeline` is the packet path, `fragments` what it does with fragments, `icmp` what routers say, `too_big` what does
//! not fit its tunnel, `mss` what servers offer, `pods` what is translated for pods, `packet` the packet's memory, `maps` the tables, `send` what changes the
//! packet. What is arithmetic lives in `xdp-lb-common`, where it is tested without a kernel.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]
#![expect(missing_docs, reason = "the xdp macro wraps documented functions in ones without documentation")]

mod fragments;
mod icmp;
mod inside;
mod maps;
mod mss;
mod packet;
mod pipeline;
mod pods;
mod send;
mod too_big;
mod trace;
mod verdict;

use aya_ebpf::{
    bindings::{TC_ACT_UNSPEC, xdp_md},
    macros::{classifier, xdp},
    programs::{TcContext, XdpContext},
};

use crate::{
    packet::Packet,
    send::Stop,
    verdict::{FRAGMENT, ICMP, OWN_POD, POD, TAG, TUNNEL, Verdict},
};

/// The balancer, which also takes tunnels off where one configuration asks for both.
#[xdp(frags)]
#[inline(always)]
pub fn xdp_lb(ctx: XdpContext) -> u32 {
    let raw = ctx.ctx;
    let action = match pipeline::plain(&mut Packet::new(ctx)) {
        Some(Ok(verdict)) => verdict.conclude(),
        Some(Err(Stop::Drop(reason))) => Verdict::Drop(reason).conclude(),
        Some(Err(Stop::TooBig)) => xdp_lb_too_big(raw),
        // One after the other, not one inside the other: the stack is for all functions together.
        None => match xdp_lb_thorough(raw) {
            FRAGMENT => match xdp_lb_fragment(raw) {
                TOO_BIG => xdp_lb_too_big(raw),
                action => action,
            },
            TUNNEL => match xdp_lb_tunnel(raw) {
                POD => xdp_lb_pod(raw),
                action => action,
            },
            ICMP => match xdp_lb_icmp(raw) {
                TOO_BIG => xdp_lb_too_big(raw),
                action => action,
            },
            TOO_BIG => xdp_lb_too_big(raw),
            action => action,
        },
    };
    trace::told(raw, if action < TAG { action } else { last(raw, action) })
}

/// What comes after everything else.
#[inline(always)]
fn last(raw: *mut xdp_md, action: u32) -> u32 {
    if action == OWN_POD { xdp_lb_own_pod(raw) } else { xdp_lb_tag(raw) }
}

/// No XDP action: the packet that was put off does not fit its tunnel.
const TOO_BIG: u32 = u32::MAX;

/// What is not a plain packet: a function of its own, so that its many cases take no registers from the others.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn xdp_lb_thorough(ctx: *mut xdp_md) -> u32 {
    match pipeline::balance(&mut Packet::new(XdpContext::new(ctx))) {
        Ok(verdict) => verdict.conclude(),
        Err(Stop::Drop(reason)) => Verdict::Drop(reason).conclude(),
        Err(Stop::TooBig) => TOO_BIG,
    }
}

/// What does not fit its tunnel: rare, so it is read anew and costs the others nothing.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn xdp_lb_too_big(ctx: *mut xdp_md) -> u32 {
    too_big::refuse(&mut Packet::new(XdpContext::new(ctx))).unwrap_or_else(Verdict::Drop).conclude()
}

/// Fragments for a VIP. It reads the headers again, and so does the next: the verifier checks each function once, whatever
/// led to it.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn xdp_lb_fragment(ctx: *mut xdp_md) -> u32 {
    match pipeline::fragment(&mut Packet::new(XdpContext::new(ctx))) {
        Ok(verdict) => verdict.conclude(),
        Err(Stop::Drop(reason)) => Verdict::Drop(reason).conclude(),
        Err(Stop::TooBig) => TOO_BIG,
    }
}

/// ICMP for a VIP or about a tunnel.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn xdp_lb_icmp(ctx: *mut xdp_md) -> u32 {
    match pipeline::icmp(&mut Packet::new(XdpContext::new(ctx))) {
        Ok(verdict) => verdict.conclude(),
        Err(Stop::Drop(reason)) => Verdict::Drop(reason).conclude(),
        Err(Stop::TooBig) => TOO_BIG,
    }
}

/// A packet in its tunnel that leaves in another VLAN than it came in.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn xdp_lb_tag(ctx: *mut xdp_md) -> u32 {
    send::tag(&mut Packet::new(XdpContext::new(ctx))).unwrap_or_else(Verdict::Drop).conclude()
}

/// What is for no VIP that is balanced here and may be a tunnel.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn xdp_lb_tunnel(ctx: *mut xdp_md) -> u32 {
    pipeline::decap(&mut Packet::new(XdpContext::new(ctx))).conclude()
}

/// The backend side.
#[xdp(frags)]
#[inline(always)]
pub fn xdp_decap(ctx: XdpContext) -> u32 {
    let raw = ctx.ctx;
    let action = pipeline::decap(&mut Packet::new(ctx)).conclude();
    trace::told(raw, if action == POD { xdp_lb_pod(raw) } else { action })
}

/// A tunnel that ends at a pod.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn xdp_lb_pod(ctx: *mut xdp_md) -> u32 {
    pods::deliver(&mut Packet::new(XdpContext::new(ctx))).conclude()
}

/// A packet for a pod of this node, as it came.
#[inline(never)]
#[unsafe(no_mangle)]
extern "C" fn xdp_lb_own_pod(ctx: *mut xdp_md) -> u32 {
    pods::hand_over(&mut Packet::new(XdpContext::new(ctx))).unwrap_or_else(Verdict::Drop).conclude()
}

/// What leaves a node with pods; it always goes on.
#[classifier]
#[inline(always)]
pub fn xdp_lb_from_pod(ctx: TcContext) -> i32 {
    let _ = pods::leave(&ctx);
    TC_ACT_UNSPEC
}

/// What leaves a backend's node; it always goes on.
#[classifier]
#[inline(always)]
pub fn xdp_lb_mss(ctx: TcContext) -> i32 {
    let _ = mss::lower(&ctx);
    TC_ACT_UNSPEC
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
