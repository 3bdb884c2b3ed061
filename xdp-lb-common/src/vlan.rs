//! VLAN tags in front of the IP header (IEEE 802.1Q, 802.1ad): up to two are looked behind, and kept on the way out.
//!
//! ```text
//!   in   | MACs | tags, 0 to 8 bytes | type | IP packet ...
//!   out  | MACs | tags, as they came | type | outer header | IP packet ...
//! ```
//!
//! So backends are reached, and echo replies sent, in the VLAN in which the packet came. A backend behind a VLAN device
//! is reached in that device's VLAN: its template's tag takes the place of all others.

use crate::parse::{Bytes, ETHERNET_LEN, Ethernet, ethertype_at};

/// Tags that are looked behind.
pub const MAX_TAGS: usize = 2;
/// Length of a tag.
pub const TAG_LEN: usize = 4;

/// What the Ethernet header announces behind its tags, and where that begins. [`Ethernet::Tagged`] means more tags
/// than are looked behind.
#[must_use]
#[inline(always)]
pub fn network<B: Bytes + ?Sized>(frame: &B) -> (Ethernet, usize) {
    let mut l3 = ETHERNET_LEN;
    let mut kind = ethertype_at(frame, l3 - 2);
    for _ in 0..MAX_TAGS {
        if kind != Ethernet::Tagged {
            break;
        }
        l3 += TAG_LEN;
        kind = ethertype_at(frame, l3 - 2);
    }
    (kind, l3)
}

/// The tags of a frame, taken out of it before its head moves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tags {
    /// Their bytes in the order of the wire, from the low end.
    pub bytes: u64,
    /// How many bytes: 0, 4 or 8.
    pub len: usize,
}

impl Tags {
    /// Those in front of an IP header at `l3`; none when the frame ends before it.
    #[must_use]
    #[inline(always)]
    pub fn before<B: Bytes + ?Sized>(frame: &B, l3: usize) -> Self {
        const ONE: usize = ETHERNET_LEN + TAG_LEN;
        const TWO: usize = ONE + TAG_LEN;
        let bytes = match l3 {
            ONE => frame.get::<4>(12).map(|&bytes| u64::from(u32::from_le_bytes(bytes))),
            TWO => frame.get::<8>(12).map(|&bytes| u64::from_le_bytes(bytes)),
            _ => None,
        };
        bytes.map_or_else(Self::default, |bytes| Self { bytes, len: l3 - ETHERNET_LEN })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    fn frame(types: &[u16]) -> Vec<u8> {
        let (last, tags) = types.split_last().unwrap();
        let mut frame = Vec::from([0; 12]);
        for (tci, tag) in (0x6007u16..).zip(tags) {
            frame.extend(tag.to_be_bytes());
            frame.extend(tci.to_be_bytes());
        }
        frame.extend(last.to_be_bytes());
        frame
    }

    #[test]
    fn every_tag_in_every_place() {
        for tag in [0x8100, 0x88a8, 0x9100] {
            for (types, kind, l3) in [
                (&[0x0800][..], Ethernet::Ipv4, 14),
                (&[tag, 0x0800], Ethernet::Ipv4, 18),
                (&[0x88a8, tag, 0x86dd], Ethernet::Ipv6, 22),
                (&[tag, 0x8100, 0x0806], Ethernet::Other, 22),
                (&[tag, 0x8100, 0x8100, 0x0800], Ethernet::Tagged, 22),
            ] {
                assert_eq!(network(&frame(types)[..]), (kind, l3), "{types:04x?}");
            }
        }
    }

    #[test]
    fn tags_keep_their_bytes() {
        let frame = frame(&[0x88a8, 0x8100, 0x0800]);
        assert_eq!(Tags::before(&frame[..], 14), Tags::default());
        let one = Tags::before(&frame[..], 18);
        assert_eq!((&one.bytes.to_le_bytes()[..4], one.len), (&frame[12..16], 4));
        let two = Tags::before(&frame[..], 22);
        assert_eq!((&two.bytes.to_le_bytes()[..], two.len), (&frame[12..20], 8));
    }

    #[test]
    fn a_tag_at_the_end_announces_nothing() {
        assert_eq!(network(&frame(&[0x8100])[..]), (Ethernet::Other, 18));
    }
}
