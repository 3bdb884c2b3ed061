//! Why a packet was not forwarded, and what the flow table did: one list for counters, CLI, metrics and docs.
//!
//! Each reason has a field of its own in the `counters` map, so bpftool shows it by name.

use bytemuck::{Pod, Zeroable};

/// A closed set of reasons with one counter each.
pub trait Reason: Copy + 'static {
    /// The counters, one `u64` field per reason in declaration order.
    type Counts: Pod;
    /// All of them in counter order.
    const ALL: &'static [Self];
    /// Position of this reason's counter.
    fn index(self) -> usize;
    /// Name in metrics and CLI.
    fn name(self) -> &'static str;
    /// One sentence for people.
    fn sentence(self) -> &'static str;
}

macro_rules! reasons {
    ($(#[$doc:meta])* $enum:ident, $counts:ident { $($variant:ident $field:ident $sentence:literal,)* }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u32)]
        pub enum $enum { $( #[doc = $sentence] $variant, )* }

        #[doc = concat!("A counter for every [`", stringify!($enum), "`].")]
        #[repr(C)]
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
        pub struct $counts { $( #[doc = $sentence] pub $field: u64, )* }

        impl Reason for $enum {
            type Counts = $counts;
            const ALL: &'static [Self] = &[$(Self::$variant,)*];
            #[inline(always)]
            fn index(self) -> usize { self as u32 as usize }
            fn name(self) -> &'static str { match self { $(Self::$variant => stringify!($field),)* } }
            fn sentence(self) -> &'static str { match self { $(Self::$variant => $sentence,)* } }
        }

        const _: () = assert!(size_of::<$counts>() == 8 * $enum::ALL.len());
    };
}

reasons! {
    /// Why a packet was dropped. Only packets for a VIP, or tunnels to one, are ever dropped.
    DropReason, DropCounts {
        NoService no_service "The address is a VIP but no service takes this protocol and port.",
        EmptyService empty_service "The service has no backend that takes flows.",
        SourceDenied source_denied "The client's address is not let in by the service's source_ranges.",
        NoSlice no_slice "No backend of the service owns the destination port (affinity dest-port).",
        SliceDown slice_down "The backend that owns the destination port is down (affinity dest-port).",
        NextHopUnresolved next_hop_unresolved "The backend's next hop is not known, so there is no header to send with.",
        IpTruncated ip_truncated "The frame ends inside the IP header or its extension headers.",
        IpHeader ip_header "The IP header contradicts itself: version or header length.",
        IpLength ip_length "The IP length says more than the frame holds, or less than the header.",
        TtlZero ttl_zero "The TTL or hop limit is 0.",
        ExtensionHeaders extension_headers "More IPv6 extension headers than are followed.",
        Fragment fragment "A fragment of neither TCP nor UDP, or of a fragment.",
        FragmentEarly fragment_early "A later fragment whose datagram's first one has not come by here.",
        FragmentLate fragment_late "A later fragment more than 30 seconds behind its datagram's first one.",
        FragmentOrphan fragment_orphan "A later fragment of a datagram whose backend has gone meanwhile.",
        FragmentTiny fragment_tiny "A first fragment that is too short for its headers.",
        FragmentOverlap fragment_overlap "A TCP fragment at offset 8, which could write over the header.",
        FragmentLength fragment_length "A fragment that ends beyond 65535 bytes, or in the middle of eight though more follow.",
        FragmentRefused fragment_refused "A fragment for a service that says fragments: drop.",
        L4Truncated l4_truncated "The packet ends inside the TCP, UDP or ICMP header.",
        L4Length l4_length "The TCP data offset or the UDP length does not fit the packet.",
        IcmpUnhandled icmp_unhandled "ICMP for a VIP that is neither an echo request nor an error.",
        IcmpQuote icmp_quote "An ICMP error for a VIP whose quoted packet is cut short, contradicts itself or has no ports.",
        IcmpEmbedded icmp_embedded "An ICMP error for a VIP about a packet that another address sent.",
        NoHeadroom no_headroom "The driver left no room in front of the packet for the tunnel header.",
        TooBig too_big "Too big for the tunnel, and nobody can be told: the source is no host, or it is ICMP, or IPv6 in a tunnel of less than 1280 bytes.",
        TooBigUnanswered too_big_unanswered "Too big for the tunnel; this CPU told enough senders in this second.",
        CutUnavailable cut_unavailable "Too big for the tunnel, to be cut into fragments, but the agent is down or busy.",
        TunnelSource tunnel_source "A tunnel to one of our VIPs from a source outside allow_sources.",
        TunnelMalformed tunnel_malformed "A tunnel from an allowed source whose inner packet is cut short or lies about its length.",
        TunnelEcn tunnel_ecn "A tunnel marked as congested around a packet that does not know ECN: the mark is a loss (RFC 6040).",
        PodPort pod_port "A tunnel to a pod, or to what was one, for a port of the VIP that decap.translate does not lead there.",
        PodProtocol pod_protocol "A tunnel to a pod with neither TCP, UDP nor ICMP inside.",
        PodFlowTaken pod_flow_taken "A client's port that speaks to a pod's port as another port or VIP already: the pod could not tell them apart.",
        PodFlowsFull pod_flows_full "The flow could not be remembered (limits.pod_flows), so its answers would have left from the pod's own address.",
        TableInconsistent table_inconsistent "A table names an entry that is not there: a bug of the agent.",
    }
}

reasons! {
    /// Why a packet went to the kernel, or was answered on the spot.
    PassReason, PassCounts {
        NotIp not_ip "Neither IPv4 nor IPv6.",
        VlanDepth vlan_depth "More VLAN tags than are looked behind.",
        NoAddress no_address "The frame ends before the destination address.",
        NotAVip not_a_vip "The destination is no VIP of ours.",
        Unmatched unmatched "A VIP packet for no service, where the VIP says unmatched: pass.",
        LocalBackend local_backend "This node is the chosen backend, or runs it: a pod, whose address and port took the VIP's place.",
        NeighbourDiscovery neighbour_discovery "IPv6 neighbour or router discovery that names a VIP.",
        Decapsulated decapsulated "A tunnel was taken off and the inner packet handed to the stack.",
        DecapPod decap_pod "A tunnel to a pod was taken off, and the VIP and its port became the pod's.",
        FromPod from_pod "An answer of a pod left as the VIP's.",
        DecapVip decap_vip "A packet for a VIP that lives on this node, without a tunnel.",
        TunnelForOthers tunnel_for_others "A tunnel whose inner destination is none of our VIPs.",
        GueControl gue_control "A control message of GUE.",
        GueUnknown gue_unknown "GUE of a version, with flags or with a content that is not known here.",
        EchoAnswered echo_answered "An echo request to a VIP, answered.",
        TooBigAnswered too_big_answered "Too big for the tunnel; the sender was told what fits.",
        HandedToCutter handed_to_cutter "Too big for the tunnel, IPv4 without DF: the agent sends it on in fragments.",
        TunnelTooBig tunnel_too_big "A router says that a tunnel of ours is too big for a link; the agent lowers the backend's MTU.",
    }
}

reasons! {
    /// What the flow table did for packets that asked it.
    FlowEvent, FlowCounts {
        Hit hit "The flow was remembered.",
        Miss miss "The flow was not remembered.",
        Stale stale "The flow was remembered with a backend that is gone; it was chosen anew.",
        Remembered remembered "A flow was remembered.",
        SetFull set_full "Not remembered: every way of the set belongs to a live flow.",
        OverLimit over_limit "Not remembered: new_flow_limit was reached.",
        CidKnown cid_known "A QUIC connection id named a live backend.",
        CidUnknown cid_unknown "A QUIC packet whose connection id names no live backend: it went where its addresses and ports say.",
        IceUnknown ice_unknown "A STUN Binding request whose ufrag names no live backend: it went where its flow does.",
        IceConflict ice_conflict "A STUN Binding request named another backend than the flow's live one: the flow stayed.",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{format, string::String};

    /// The table in the documentation, row by row.
    fn rows<R: Reason>() -> String {
        R::ALL.iter().map(|r| format!("| `{}` | {} |\n", r.name(), r.sentence())).collect()
    }

    #[test]
    fn the_documentation_lists_every_reason() {
        let page = include_str!("../../docs/reasons.md");
        for table in [rows::<DropReason>(), rows::<PassReason>(), rows::<FlowEvent>()] {
            assert!(page.contains(&table), "docs/reasons.md lacks this table:\n{table}");
        }
    }

    #[test]
    fn reasons_count_in_declaration_order() {
        for (index, reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(reason.index(), index);
        }
    }
}
