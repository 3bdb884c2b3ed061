//! The packet's memory: every access checked against its end, headers loaded anew after the head moved.
//! Nothing else in the kernel half touches packet bytes.

use core::arch::asm;

use aya_ebpf::{
    EbpfContext as _,
    bindings::{BPF_F_MARK_MANGLED_0, BPF_F_PSEUDO_HDR, xdp_md},
    helpers::generated::{
        bpf_l4_csum_replace, bpf_skb_pull_data, bpf_skb_store_bytes, bpf_xdp_adjust_head,
        bpf_xdp_adjust_tail, bpf_xdp_get_buff_len,
    },
    programs::{TcContext, XdpContext},
};
use xdp_lb_common::{
    names::{self, Constant},
    parse::Bytes,
    translate::{Delta, Rewrite},
};

/// The frame under the program's hands.
pub struct Packet {
    ctx: XdpContext,
}

impl Packet {
    /// Of an XDP context.
    #[inline(always)]
    pub fn new(ctx: XdpContext) -> Self {
        Self { ctx }
    }

    /// The context, for a function of its own and for helpers that copy from the frame.
    #[inline(always)]
    pub fn context(&self) -> *mut xdp_md {
        self.ctx.ctx
    }

    /// Interface that the packet came in by.
    #[inline(always)]
    pub fn ingress(&self) -> u32 {
        self.ctx.ingress_ifindex() as u32
    }

    /// Moves the packet's start: `by` bytes of room in front of it (negative) or off it (positive).
    /// The bytes gained are undefined. False when the driver left no room; the packet is then unchanged.
    #[inline(always)]
    pub fn move_head(&mut self, by: i32) -> bool {
        // SAFETY: the context is the one the kernel gave us; `&mut self` ends every borrow of packet bytes.
        unsafe { bpf_xdp_adjust_head(self.ctx.as_ptr().cast(), by) == 0 }
    }

    /// Cuts the frame after `len` bytes; false when it has fewer, or the driver refuses.
    #[inline(always)]
    pub fn truncate(&mut self, len: usize) -> bool {
        let by = len as i32 - self.whole() as i32;
        // SAFETY: the context is the one the kernel gave us; `&mut self` ends every borrow of packet bytes.
        by <= 0 && unsafe { bpf_xdp_adjust_tail(self.ctx.as_ptr().cast(), by) == 0 }
    }

    /// `N` writable bytes at `offset`.
    #[inline(always)]
    pub fn get_mut<const N: usize>(&mut self, offset: usize) -> Option<&mut [u8; N]> {
        let start = self.at::<N>(offset)?;
        // SAFETY: `at` has checked start + N <= data_end, and `&mut self` makes this the only borrow.
        Some(unsafe { &mut *(start as *mut [u8; N]) })
    }

    /// The same number, of which the verifier now knows no more than `bits` (below 32) bits: paths that differ in it
    /// alone are checked once. Twice the same exclusive or of something unknown; the verifier does not do sums.
    #[inline(always)]
    pub fn forget(&self, value: usize, bits: u32) -> usize {
        let mut value = value as u64;
        // SAFETY: a field of the context, and arithmetic on registers.
        unsafe {
            let unknown = u64::from((*self.ctx.ctx).rx_queue_index);
            asm!("{0} ^= {1}", "{0} ^= {1}", inout(reg) value, in(reg) unknown, options(pure, nomem, nostack, preserves_flags));
        }
        value as usize & ((1 << bits) - 1)
    }

    /// Address of `N` bytes at `offset`. The comparison is what the verifier wants to see.
    #[inline(always)]
    fn at<const N: usize>(&self, offset: usize) -> Option<usize> {
        let start = self.ctx.data() + offset;
        if start + N > self.ctx.data_end() { None } else { Some(start) }
    }
}

impl Bytes for Packet {
    #[inline(always)]
    fn get<const N: usize>(&self, offset: usize) -> Option<&[u8; N]> {
        let start = self.at::<N>(offset)?;
        // SAFETY: `at` has checked start + N <= data_end, and no mutable borrow of packet bytes is alive.
        Some(unsafe { &*(start as *const [u8; N]) })
    }

    #[inline(always)]
    fn len(&self) -> usize {
        self.ctx.data_end() - self.ctx.data()
    }

    /// Plain packets do not ask: a frame that is longer than its first buffer is none of them.
    #[inline(always)]
    fn whole(&self) -> usize {
        if in_several_buffers() {
            // SAFETY: the context is the one the kernel gave us. Kernels before 5.18 do not know the helper, and never see
            // it: to them the constant is 0.
            return unsafe { bpf_xdp_get_buff_len(self.ctx.as_ptr().cast()) as usize };
        }
        self.len()
    }
}

impl Rewrite for Packet {
    #[inline(always)]
    fn put<const N: usize>(&mut self, offset: usize, bytes: &[u8; N]) -> Option<()> {
        *self.get_mut::<N>(offset)? = *bytes;
        Some(())
    }
}

/// True when frames may be in several buffers: a number that the agent knew when it loaded the program.
#[inline(always)]
fn in_several_buffers() -> bool {
    let value: u64;
    // SAFETY: loads a constant.
    unsafe {
        asm!("{0} = {1} ll", out(reg) value, const names::constant_mark(Constant::Frags), options(pure, nomem, nostack, preserves_flags));
    }
    value != 0
}

/// A frame on its way out, to look at.
pub struct Leaving<'a>(&'a TcContext);

impl<'a> Leaving<'a> {
    /// Of a TC context. What of the frame is not in one piece counts as not there: headers that this node's own stack
    /// wrote are.
    #[inline(always)]
    pub fn new(ctx: &'a TcContext) -> Self {
        Self(ctx)
    }

    /// Brings the first `len` bytes of the frame into one piece, where they are not.
    #[inline(always)]
    pub fn gather(&mut self, len: usize) {
        let whole = self.0.len() as usize;
        let wanted = if whole < len { whole } else { len };
        if self.0.data() + wanted > self.0.data_end() {
            // SAFETY: the context is the one the kernel gave us; `&mut self` ends every borrow of packet bytes. What cannot
            // be had is not read.
            unsafe { bpf_skb_pull_data(self.0.as_ptr().cast(), wanted as u32) };
        }
    }
}

impl Bytes for Leaving<'_> {
    #[inline(always)]
    fn get<const N: usize>(&self, offset: usize) -> Option<&[u8; N]> {
        let start = self.0.data() + offset;
        if start + N > self.0.data_end() {
            return None;
        }
        // SAFETY: just checked.
        Some(unsafe { &*(start as *const [u8; N]) })
    }

    #[inline(always)]
    fn len(&self) -> usize {
        self.0.len() as usize
    }
}

impl Rewrite for Leaving<'_> {
    /// By a helper, which makes the bytes this frame's own first: a clone may be on its way elsewhere.
    #[inline(always)]
    fn put<const N: usize>(&mut self, offset: usize, bytes: &[u8; N]) -> Option<()> {
        // SAFETY: the kernel checks offset and length; `&mut self` ends every borrow of packet bytes.
        let done = unsafe {
            bpf_skb_store_bytes(self.0.as_ptr().cast(), offset as u32, bytes.as_ptr().cast(), N as u32, 0)
        };
        if done == 0 { Some(()) } else { None }
    }

    /// By a helper, which knows whether the checksum is there already or the device's to make: then it covers the pseudo
    /// header alone.
    #[inline(always)]
    fn adjust(&mut self, offset: usize, addresses: Delta, own: Delta, may_be_absent: bool) -> Option<()> {
        let absent = if may_be_absent { u64::from(BPF_F_MARK_MANGLED_0) } else { 0 };
        let skb = self.0.as_ptr().cast();
        // SAFETY: the kernel checks the offset; `&mut self` ends every borrow of packet bytes. A width of 0 in the flags says
        // that the change is given as a sum.
        let done = unsafe {
            bpf_l4_csum_replace(
                skb,
                offset as u32,
                0,
                addresses.sum().into(),
                absent | u64::from(BPF_F_PSEUDO_HDR),
            ) == 0
                && bpf_l4_csum_replace(skb, offset as u32, 0, own.sum().into(), absent) == 0
        };
        if done { Some(()) } else { None }
    }
}
