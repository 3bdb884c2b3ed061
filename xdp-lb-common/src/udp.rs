//! The payload of a UDP datagram: what the affinities that look inside are given.
//!
//! ```text
//!  |<- l4: 8 ->|<------ payload ----->|<- in IP, not in UDP ->|<- padding ->|
//!              ^ start                ^ end
//! ```

use crate::{
    parse::{Bytes, ETHERNET_LEN, IPV6_LEN, Ip, MAX_EXTENSIONS},
    word,
};

/// Length of the UDP header (RFC 768).
pub const UDP_LEN: usize = 8;

/// Tags, an IPv6 header and all extension headers that are followed end below.
pub(crate) const START_MASK: usize = 0x3fff;
const _: () = assert!(ETHERNET_LEN + 8 + IPV6_LEN + MAX_EXTENSIONS * 2048 + UDP_LEN <= START_MASK);

/// Where a datagram's payload is in its frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Payload {
    /// Offset of its first byte.
    pub start: usize,
    /// Offset just behind it, by the UDP length; of a first fragment, the fragment's end.
    pub end: usize,
}

impl Payload {
    /// Of the UDP datagram or first fragment in `ip`, whose header [`crate::parse::transport`] or
    /// [`crate::fragment::ports`] has found valid: of those only fragments say that they are longer than they are.
    #[must_use]
    #[inline(always)]
    pub fn of<B: Bytes + ?Sized>(frame: &B, ip: &Ip) -> Option<Self> {
        let length = u16::from_be_bytes(*frame.get::<2>(ip.l4 + 4)?) as usize;
        // One bound for all ways through the IP header, or the verifier walks what looks inside once for each.
        let start = word::masked(ip.l4 + UDP_LEN, START_MASK);
        let payload = Self { start, end: (ip.l4 + length).min(ip.end) };
        if length < UDP_LEN { None } else { Some(payload) }
    }

    /// Length in bytes.
    #[must_use]
    #[inline(always)]
    pub const fn len(&self) -> usize {
        self.end.wrapping_sub(self.start)
    }

    /// True when there is none.
    #[must_use]
    #[inline(always)]
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// `N` bytes at `offset` from the start; `None` beyond the payload's end.
    #[must_use]
    #[inline(always)]
    pub fn get<'a, const N: usize, B: Bytes + ?Sized>(
        &self,
        frame: &'a B,
        offset: usize,
    ) -> Option<&'a [u8; N]> {
        if offset + N > self.len() { None } else { frame.get::<N>(self.start + offset) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse::{Addresses, UDP, Version};

    fn ip(l4: usize, end: usize) -> Ip {
        let addresses = Addresses { version: Version::V4, l3: 14, source: [0; 2], destination: [0; 2] };
        Ip { addresses, protocol: UDP, l4, end, tos: 0, fragment: None }
    }

    #[test]
    fn the_udp_length_bounds_it_not_the_frame() {
        let mut frame = [0u8; 60];
        frame[38..40].copy_from_slice(&11u16.to_be_bytes());
        let payload = Payload::of(&frame[..], &ip(34, 50)).unwrap();
        assert_eq!(payload, Payload { start: 42, end: 45 });
        assert_eq!((payload.len(), payload.is_empty()), (3, false));
        assert!(payload.get::<3, _>(&frame[..], 0).is_some());
        assert!(payload.get::<3, _>(&frame[..], 1).is_none());
    }

    #[test]
    fn nothing_behind_the_packet_counts() {
        let ends = [(7, None), (8, Some(42)), (16, Some(50)), (17, Some(50)), (0, None), (65535, Some(50))];
        for (length, end) in ends {
            let mut frame = [0u8; 60];
            frame[38..40].copy_from_slice(&u16::to_be_bytes(length));
            assert_eq!(Payload::of(&frame[..], &ip(34, 50)).map(|payload| payload.end), end, "{length}");
        }
    }
}
