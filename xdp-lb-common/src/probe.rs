//! Health checks' packets: what the TC programs that carry them share with the agent.
//!
//! Questions are asked in a network namespace of the agent's own, from an address of the node and a port of
//! [`FIRST_PORT`] and above, on sockets whose mark says through which tunnel they leave.
//!
//! ```text
//!  agent's namespace                     | node
//!  socket, mark --probe_label--> 02 70 mark | --xdp_lb_probe--> | Ethernet | outer IP | question --> backend
//!  socket <------------------------------| <--probe_back------- answer: VIP -> node's address, our port
//! ```

use bytemuck::{Pod, Zeroable};

use crate::backend::Template;

/// Program on the egress of the namespace's interface: writes the mark into the Ethernet destination, since a packet
/// loses its mark between namespaces.
pub const PROGRAM_LABEL: &str = "probe_label";
/// Program on the node's end of the pair: puts the packet into the tunnel that the label names.
pub const PROGRAM_OUT: &str = "xdp_lb_probe";
/// Program on the node's interfaces: hands answers back to the namespace, before the node's own stack resets them.
pub const PROGRAM_BACK: &str = "probe_back";

/// One [`ProbeControl`].
pub const CONTROL: &str = "probe_control";
/// [`ProbeWay`] by mark.
pub const WAYS: &str = "probe_ways";
/// [`ProbeTuple`] by port minus [`FIRST_PORT`].
pub const PORTS: &str = "probe_ports";

/// Above Linux's own choice for outgoing connections (32768..=60999).
pub const FIRST_PORT: u16 = 61000;
/// Ports to ask from.
pub const PORT_COUNT: u32 = 65536 - FIRST_PORT as u32;
/// Marks, 0 included, which means none: 16 bits, so that the outer IPv4 header's id can hold one.
pub const WAY_COUNT: u32 = 1 << 16;
/// What a labelled packet's Ethernet destination begins with; the mark follows in network order.
pub const LABEL: [u8; 2] = [0x02, 0x70];
/// Ethernet address of the namespace's interface: locally administered, "xlbp".
pub const INSIDE_MAC: [u8; 6] = [0x02, 0x01, 0x78, 0x6c, 0x62, 0x70];

/// Where answers go.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct ProbeControl {
    /// Address that questions over IPv4 come from, as `::ffff:a.b.c.d`; all zero without one.
    pub source_v4: [u8; 16],
    /// The same for IPv6.
    pub source_v6: [u8; 16],
    /// The node's end of the pair; 0 hands nothing back.
    pub ifindex: u32,
    /// Zero.
    pub reserved: u32,
}

/// A tunnel, and the last ICMP error that came back from it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
pub struct ProbeWay {
    /// The header that clients' packets get.
    pub template: Template,
    /// Who sent the error; IPv4 as `::ffff:a.b.c.d`.
    pub error_by: [u8; 16],
    /// Errors so far (16 bits), IP version (4), ICMP type (8) and code (4; larger ones as 15): [`TunnelError`].
    pub error: u32,
    /// Zero.
    pub reserved: u32,
}

/// A question under way, from the port that is the index.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct ProbeTuple {
    /// Who is asked; IPv4 as `::ffff:a.b.c.d`.
    pub address: [u8; 16],
    /// On which port, network order.
    pub port: [u8; 2],
    /// 6 or 17; 0 for none.
    pub protocol: u8,
    /// Zero.
    pub reserved: [u8; 5],
}

const _: () = assert!(size_of::<ProbeControl>() == 40);
const _: () = assert!(size_of::<ProbeWay>() == 88);
const _: () = assert!(size_of::<ProbeTuple>() == 24);

/// An ICMP error that a tunnel brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TunnelError {
    /// 4 or 6.
    pub version: u8,
    /// ICMP type.
    pub kind: u8,
    /// ICMP code.
    pub code: u8,
}

impl TunnelError {
    /// As [`ProbeWay::error`], one more than `before`.
    #[must_use]
    #[inline(always)]
    pub const fn pack(self, before: u32) -> u32 {
        let code = if self.code > 15 { 15 } else { self.code };
        let count = (before >> 16).wrapping_add(1) << 16;
        count | (self.version as u32 & 15) << 12 | (self.kind as u32) << 4 | code as u32
    }

    /// Of a [`ProbeWay::error`].
    #[must_use]
    pub const fn unpack(error: u32) -> Self {
        Self { version: (error >> 12 & 15) as u8, kind: (error >> 4) as u8, code: (error & 15) as u8 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_counted_and_come_out_as_they_went_in() {
        let mut word = 0;
        for (version, kind, code) in [(4, 3, 2), (6, 4, 1), (4, 11, 0), (6, 1, 5), (4, 255, 15)] {
            let error = TunnelError { version, kind, code };
            let next = error.pack(word);
            assert_eq!((next >> 16, TunnelError::unpack(next)), ((word >> 16) + 1, error));
            word = next;
        }
        assert_eq!(TunnelError { version: 4, kind: 3, code: 2 }.pack(0xffff_0000) >> 16, 0);
    }
}
