//! What becomes of a packet. Each verdict but the two that forward carries its reason.

use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS, XDP_REDIRECT, XDP_TX};
use xdp_lb_common::reason::{DropReason, PassReason};

use crate::maps;

/// In place of an XDP action: [`Verdict::Fragment`].
pub const FRAGMENT: u32 = 16;
/// In place of an XDP action: [`Verdict::Tunnel`].
pub const TUNNEL: u32 = 17;
/// In place of an XDP action: [`Verdict::Icmp`].
pub const ICMP: u32 = 18;

/// In place of an XDP action: [`Verdict::Tag`].
pub const TAG: u32 = 19;
/// In place of an XDP action: [`Verdict::Pod`].
pub const POD: u32 = 20;
/// In place of an XDP action: [`Verdict::OwnPod`]. With [`TAG`] one of the last two that come after everything else.
pub const OWN_POD: u32 = 21;

/// The end of the pipeline.
pub enum Verdict {
    /// Out of the interface it came in by; counted with its service.
    Transmit,
    /// Out of another interface; counted with its service.
    Redirect(u32),
    /// An answer of our own, out of the interface it came in by.
    Reply(PassReason),
    /// Somebody else has a copy and goes on with it.
    Taken(PassReason),
    /// To the kernel.
    Pass(PassReason),
    /// Nowhere.
    Drop(DropReason),
    /// To the function for fragments.
    Fragment,
    /// To the function for tunnels.
    Tunnel,
    /// ICMP for a VIP or about a tunnel: a function of its own looks.
    Icmp,
    /// A tunnel whose VIP is a pod's: a function of its own takes it off.
    Pod,
    /// For a pod of this node: [`crate::pods::hand_over`] goes on with what was put off.
    OwnPod,
    /// Into another VLAN: [`crate::send::tag`] goes on with what was put off. Counted with its service.
    Tag,
}

impl Verdict {
    /// Counts and gives XDP its answer.
    #[inline(always)]
    pub fn conclude(self) -> u32 {
        match self {
            Self::Fragment => FRAGMENT,
            Self::Tunnel => TUNNEL,
            Self::Icmp => ICMP,
            Self::Pod => POD,
            Self::Tag => TAG,
            Self::OwnPod => OWN_POD,
            Self::Transmit => XDP_TX,
            Self::Redirect(ifindex) if maps::redirect(ifindex) => XDP_REDIRECT,
            // The agent puts every interface of a header into the device map before the header goes live.
            Self::Redirect(_) => {
                maps::count_drop(DropReason::TableInconsistent);
                XDP_DROP
            }
            Self::Reply(reason) => {
                maps::count_pass(reason);
                XDP_TX
            }
            Self::Taken(reason) => {
                maps::count_pass(reason);
                XDP_DROP
            }
            Self::Pass(reason) => {
                maps::count_pass(reason);
                XDP_PASS
            }
            Self::Drop(reason) => {
                maps::count_drop(reason);
                XDP_DROP
            }
        }
    }
}
