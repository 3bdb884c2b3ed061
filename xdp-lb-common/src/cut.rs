//! What the packet path hands to the agent to be cut into fragments, and what the agent counts of it.
//!
//! An IPv4 packet without DF that is too big for its tunnel: the kernel half has no memory for several packets out of
//! one. It writes an event, the request and the whole frame, and the agent does the rest.

use bytemuck::{Pod, Zeroable};

/// The head of an event; `len` bytes of frame follow. 16 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct CutRequest {
    /// The flow's hash, which the tunnel's source comes from.
    pub hash: u64,
    /// Index in `backends`.
    pub backend: u32,
    /// Offset of the IP header in the frame.
    pub l3: u16,
    /// Bytes of the frame.
    pub len: u16,
}

const _: () = assert!(size_of::<CutRequest>() == 16);

/// What one CPU keeps from one function, or one packet, to the next: rare packets alone touch it. A cache line.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct SlowState {
    /// Answers to packets that are too big in the running second: the second in the high half, the count in the low.
    pub answers: u64,
    /// Hash of the flow of a packet that was put off: it is too big, or a pod's of this node.
    pub hash: u64,
    /// Index in `backends` of where it goes.
    pub backend: u32,
    /// Offset of its IP header, and in the upper half its length.
    pub place: u32,
    /// Its protocol.
    pub protocol: u32,
    /// Tag that a packet is to leave with, its bytes from the low end; 0: without any.
    pub tag: u32,
    /// Interface that it leaves by.
    pub ifindex: u32,
    /// Its service's id.
    pub service: u32,
    /// Its backend's number among those with counters.
    pub stats: u32,
    /// Zero.
    pub reserved: [u32; 5],
}

const _: () = assert!(size_of::<SlowState>() == 64);

/// What became of the packets handed over. Written by the agent alone.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct CutCounts {
    /// Packets cut and sent.
    pub packets: u64,
    /// Fragments that they became.
    pub fragments: u64,
    /// Packets that no fragments can be made of: a wrong checksum or length.
    pub malformed: u64,
    /// Packets of which the kernel took not all fragments, or whose backend is gone meanwhile.
    pub unsent: u64,
}
