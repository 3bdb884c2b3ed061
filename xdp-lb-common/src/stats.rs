//! Counters, all per CPU, all 64 bit.

use bytemuck::{Pod, Zeroable};

use crate::reason::{DropReason, FlowEvent, PassReason};

/// `stats_base` of a service that got no counters of its own: outside every map.
pub const NO_STATS: u32 = 1 << 31;

/// Packets and bytes. 16 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Traffic {
    /// Packets forwarded.
    pub packets: u64,
    /// Bytes of the inner IP packets forwarded.
    pub bytes: u64,
}

macro_rules! counters {
    ($(#[$doc:meta])* $name:ident { $($group:ident: $reason:ty,)* }) => {
        $(#[$doc])*
        #[repr(C)]
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
        pub struct $name { $(
            #[doc = concat!("By [`", stringify!($reason), "`].")]
            pub $group: <$reason as crate::reason::Reason>::Counts,
        )* }
    };
}

counters! {
    /// Every packet that was not forwarded, every echo answered, and what the flow table did.
    Counters {
        drops: DropReason,
        passes: PassReason,
        flows: FlowEvent,
    }
}
