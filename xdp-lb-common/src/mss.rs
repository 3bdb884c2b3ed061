//! The largest segment that our side offers clients: no more than fits their way to us, the tunnel.
//!
//! A server behind a VIP knows its own link's MTU, not that the client's packets come in a tunnel. What it says in its
//! SYN or SYN-ACK (RFC 9293 section 3.7.1) is lowered on its way out, never raised.

use crate::{
    parse::{Bytes, IPV4_LEN, IPV6_LEN, Version},
    word,
};

/// Length of a TCP header without options.
const TCP_LEN: usize = 20;
/// Options that are looked at: a SYN has five or six.
const MOST_OPTIONS: usize = 16;
const END: u8 = 0;
const NOP: u8 = 1;
const MSS: u8 = 2;
/// IP header, extensions and all options end below.
const MASK: usize = 0x3fff;

/// The largest segments as [`crate::control::Control::mss`] holds them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Of IPv4, bytes; 0 for no limit.
    pub v4: u16,
    /// Of IPv6, bytes; 0 for no limit.
    pub v6: u16,
}

impl Limits {
    /// For packets of `inner` bytes at most.
    #[must_use]
    pub const fn of(inner: u16) -> Self {
        Self {
            v4: inner.saturating_sub((IPV4_LEN + TCP_LEN) as u16),
            v6: inner.saturating_sub((IPV6_LEN + TCP_LEN) as u16),
        }
    }

    /// To the map's word.
    #[must_use]
    pub const fn pack(self) -> u32 {
        self.v4 as u32 | (self.v6 as u32) << 16
    }

    /// From the map's word.
    #[must_use]
    #[inline(always)]
    pub const fn unpack(word: u32) -> Self {
        Self { v4: word as u16, v6: (word >> 16) as u16 }
    }

    /// The limit of a version; 0 for none.
    #[must_use]
    #[inline(always)]
    pub const fn version(self, version: Version) -> u16 {
        match version {
            Version::V4 => self.v4,
            Version::V6 => self.v6,
        }
    }
}

/// Where the MSS option of the TCP header at `l4` has its value, and what that is. `None` without a SYN, without the
/// option, or when the options contradict themselves before it comes.
#[must_use]
#[inline(always)]
pub fn find<B: Bytes + ?Sized>(frame: &B, l4: usize) -> Option<(usize, u16)> {
    const SYN: u8 = 2;
    let l4 = word::masked(l4, MASK);
    let h = frame.get::<TCP_LEN>(l4)?;
    let end = (h[12] >> 4) as usize * 4;
    if h[13] & SYN == 0 {
        return None;
    }
    let mut at = TCP_LEN;
    for _ in 0..MOST_OPTIONS {
        // The verifier would walk on once for each place that an option can end at.
        at = word::masked(at, 0x1ff);
        // Four bytes are the option that is looked for; shorter ones at the end are not it.
        if at + 4 > end {
            return None;
        }
        let offset = word::masked(l4 + at, MASK);
        let &[kind, len, m0, m1] = frame.get::<4>(offset)?;
        match (kind, len) {
            (MSS, 4) => return Some((offset + 2, u16::from_be_bytes([m0, m1]))),
            (NOP, _) => at += 1,
            (END, _) | (_, 0 | 1) => return None,
            _ => at += len as usize,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    fn segment(flags: u8, options: &[u8]) -> Vec<u8> {
        let mut frame = Vec::from([0u8; 7]);
        frame.extend([0, 80, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, ((20 + options.len()) / 4 * 16) as u8, flags]);
        frame.extend([0; 6]);
        frame.extend(options);
        frame
    }

    #[test]
    fn the_option_is_found_wherever_it_stands() {
        let mss = [2, 4, 5, 0xb4];
        for before in
            [&[][..], &[1, 1, 1, 1], &[1, 3, 3, 7], &[4, 2, 1, 1], &[8, 10, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1]]
        {
            for after in [&[][..], &[0; 4], &[1; 8]] {
                let frame = segment(2, &[before, &mss, after].concat());
                assert_eq!(find(&frame[..], 7), Some((7 + 20 + before.len() + 2, 1460)), "{before:?}");
                let frame = segment(0x12, &[before, &mss, after].concat());
                assert!(find(&frame[..], 7).is_some());
                let frame = segment(0x10, &[before, &mss, after].concat());
                assert_eq!(find(&frame[..], 7), None, "no SYN");
            }
        }
    }

    #[test]
    fn a_length_that_lies_leads_nowhere() {
        let mut frame = segment(2, &[8, 240, 0, 0, 1, 1, 1, 1]);
        // What 256 less would come to: a sequence number that looks like the option.
        frame[7 + 4..7 + 8].copy_from_slice(&[2, 4, 5, 0xb4]);
        assert_eq!(find(&frame[..], 7), None);
    }

    #[test]
    fn what_is_no_option() {
        for options in [
            &[][..],
            &[1, 1, 1, 2],
            &[0, 0, 0, 0, 2, 4, 5, 0xb4],
            &[3, 0, 0, 0, 2, 4, 5, 0xb4],
            &[3, 9, 0, 0, 2, 4, 5, 0xb4],
            &[2, 3, 5, 0xb4],
        ] {
            assert_eq!(find(&segment(2, options)[..], 7), None, "{options:?}");
        }
        let cut = segment(2, &[2, 4, 5, 0xb4]);
        for len in 0..cut.len() {
            assert_eq!(find(&cut[..len], 7), None);
        }
    }

    #[test]
    fn limits_of_a_packet() {
        let limits = Limits::of(1480);
        assert_eq!((limits.v4, limits.v6), (1440, 1420));
        assert_eq!(Limits::unpack(limits.pack()), limits);
        assert_eq!(Limits::of(10), Limits::default());
    }
}
