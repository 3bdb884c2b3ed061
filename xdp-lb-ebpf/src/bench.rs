//! What the packet path is measured against: a wrapper that restores the packet, and two programs behind it.
//!
//! A repeated test run keeps the packet as the last iteration left it, so `bench_restore` runs before the
//! program under test each time: it moves the head back, writes anew what that program can have overwritten,
//! picks the flow, and tail-calls.
//!
//! ```text
//!  run n-1 left |<- tunnel ->|old Ethernet's place|IP ....|
//!  run n        |            |Ethernet, written   |IP ....|
//!                             ^ head                ^ 8 bytes with the source address, written: the flow
//! ```
//!
//! Everything is stored in the widths in which a parser loads it: a load that straddles two stores still on
//! their way to the cache waits for both, which no packet from a NIC makes it do.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]
#![expect(missing_docs, reason = "the xdp macro wraps documented functions in ones without documentation")]

#[expect(dead_code, reason = "the packet path uses the rest")]
mod packet;

use aya_ebpf::{
    EbpfContext as _,
    bindings::xdp_action::{XDP_ABORTED, XDP_DROP, XDP_PASS, XDP_TX},
    btf_maps::{Array, ProgramArray},
    helpers::bpf_tail_call,
    macros::{btf_map, xdp},
    programs::XdpContext,
};
use xdp_lb_common::{
    encap::V4_HEADER,
    parse::{Bytes as _, ETHERNET_LEN, IPV4_LEN},
};

use crate::packet::Packet;

/// The program under test, at index 0.
#[btf_map(name = "subject")]
static SUBJECT: ProgramArray<1> = ProgramArray::new();
/// Packets so far, which is where the next flow comes from; and how many of them came back as expected.
#[btf_map(name = "progress")]
static PROGRESS: Array<[u64; 2], 1> = Array::new();

macro_rules! constants {
    ($($(#[$doc:meta])* $name:ident: $type:ty = $default:expr;)*) => { $(
        $(#[$doc])*
        #[unsafe(no_mangle)]
        static $name: $type = $default;
    )* };
}

/// A constant as the harness set it.
macro_rules! constant {
    ($name:ident) => {
        // SAFETY: a static of the program, read-only; volatile or rustc folds the default in.
        unsafe { core::ptr::read_volatile(&raw const $name) }
    };
}

constants! {
    /// Length of the packet.
    LENGTH: u32 = 64;
    /// First 8 bytes of its Ethernet header.
    ETHERNET_0: u64 = 0;
    /// The next 4.
    ETHERNET_8: u32 = 0;
    /// Its EtherType.
    ETHERNET_12: u16 = 0;
    /// Bytes 18..26: identification to checksum of an outer IPv4 header, which decap overwrites; 0 leaves them.
    OUTER: u64 = 0;
    /// Offset of the 8 bytes that the flow goes into.
    FLOW_AT: u32 = 26;
    /// These bytes; the first four are a big-endian number to which the flow's is added bit by bit.
    FLOW_BYTES: u64 = 0;
    /// Flows: packets come from so many sources in a mixed order.
    FLOWS: u64 = 1;
    /// And go to so many destinations, the last four of the eight bytes, in another order.
    DESTINATIONS: u64 = 1;
    /// Length of a packet that the program under test has dealt with; 0 does not look.
    EXPECTED: u32 = 0;
}

/// Restores the packet, then runs the program under test on it.
#[xdp]
#[inline(always)]
pub fn bench_restore(ctx: XdpContext) -> u32 {
    let raw = ctx.as_ptr();
    if restore(&mut Packet::new(ctx)).is_some() {
        // SAFETY: the context is the one the kernel gave us, the map is a program array.
        unsafe { bpf_tail_call(raw.cast(), (&raw const SUBJECT).cast_mut().cast(), 0) };
    }
    XDP_ABORTED
}

/// The floor: what the harness costs.
#[xdp]
pub fn bench_pass(_ctx: XdpContext) -> u32 {
    XDP_PASS
}

/// Live frames: writes the header anew, which the last receiver of the page changed, and sends it.
#[xdp]
#[inline(always)]
pub fn bench_live(ctx: XdpContext) -> u32 {
    restore(&mut Packet::new(ctx)).map_or(XDP_ABORTED, |()| XDP_TX)
}

/// What comes back.
#[xdp]
pub fn bench_drop(_ctx: XdpContext) -> u32 {
    XDP_DROP
}

/// The limit: an IPv4 tunnel header that is the same for every packet, without a look at anything.
#[xdp]
#[inline(always)]
pub fn bench_limit(ctx: XdpContext) -> u32 {
    constant_header(&mut Packet::new(ctx)).map_or(XDP_ABORTED, |()| XDP_TX)
}

#[inline(always)]
fn restore(packet: &mut Packet) -> Option<()> {
    let [n, as_expected] = {
        // SAFETY: a map element that only this program writes, in a test run on one CPU.
        unsafe { &mut *PROGRESS.get_ptr_mut(0)? }
    };
    let len = packet.len() as u32;
    if constant!(EXPECTED) != 0 && len == constant!(EXPECTED) {
        *as_expected += 1;
    }
    // Moved even where nothing has to be: the floor pays what the other rows pay.
    if !packet.move_head(len.wrapping_sub(constant!(LENGTH)) as i32) {
        return None;
    }
    let ethernet = packet.get_mut::<ETHERNET_LEN>(0)?;
    ethernet[..8].copy_from_slice(&constant!(ETHERNET_0).to_le_bytes());
    ethernet[8..12].copy_from_slice(&constant!(ETHERNET_8).to_le_bytes());
    ethernet[12..].copy_from_slice(&constant!(ETHERNET_12).to_le_bytes());
    if constant!(OUTER) != 0 {
        *packet.get_mut::<8>(18)? = constant!(OUTER).to_le_bytes();
    }
    let flow = steps(*n, 0x9e37_79b9_7f4a_7c15, constant!(FLOWS)).swap_bytes();
    let destination = steps(*n, 0xd1b5_4a32_d192_ed03, constant!(DESTINATIONS)).swap_bytes();
    *packet.get_mut::<8>(constant!(FLOW_AT) as usize)? =
        (constant!(FLOW_BYTES) ^ u64::from(flow) ^ u64::from(destination) << 32).to_le_bytes();
    *n = n.wrapping_add(1);
    Some(())
}

/// The flow of the `n`th packet: steps of the golden ratio, which reach each of N flows within 3 N packets
/// and never fall into a cycle that a branch predictor could learn. Other odd steps for what else differs.
#[inline(always)]
fn steps(n: u64, step: u64, of: u64) -> u32 {
    (((n.wrapping_mul(step) >> 32) * of) >> 32) as u32
}

#[inline(always)]
fn constant_header(packet: &mut Packet) -> Option<()> {
    // Ethernet; IPv4 with DF, TTL 64, IPIP; 172.16.0.1 to 10.1.2.11.
    const HEADER: [u8; V4_HEADER] = [
        0x00, 0x00, 0x5e, 0x00, 0x01, 0x01, 0x02, 0x00, 0x00, 0x00, 0x00, 0x01, 0x08, 0x00, //
        0x45, 0x00, 0x00, 0x54, 0x00, 0x00, 0x40, 0x00, 0x40, 0x04, 0x2c, 0x8e, //
        0xac, 0x10, 0x00, 0x01, 0x0a, 0x01, 0x02, 0x0b,
    ];
    if !packet.move_head(-(IPV4_LEN as i32)) {
        return None;
    }
    *packet.get_mut::<V4_HEADER>(0)? = HEADER;
    Some(())
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
