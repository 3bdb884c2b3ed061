//! Cuts an IPv4 packet into fragments (RFC 791 section 3.2), which may be one of several itself.
//!
//! ```text
//!   | header, all options |  8n bytes | 8n bytes | rest |
//!   | header, all options |  8n bytes |                       offset o,        more
//!   | header, copied options | 8n bytes |                     offset o + n,    more
//!   | header, copied options | rest |                         offset o + 2n,   as the packet says
//! ```

use xdp_lb_common::checksum;

/// Length of a header without options.
const HEADER: usize = 20;
const DONT_FRAGMENT: u16 = 0x4000;
const MORE: u16 = 0x2000;
const OFFSET: u16 = 0x1fff;
/// Option that ends the list.
const END: u8 = 0;
/// Option of one byte that says nothing.
const NOP: u8 = 1;
/// An option with this bit goes into every fragment.
const COPIED: u8 = 0x80;

/// Why there are no fragments.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Uncut {
    /// No IPv4 packet, or one whose lengths or options contradict each other.
    #[error("the packet contradicts itself")]
    Malformed,
    /// Its header was damaged on the way: a fragment with a right checksum would hide that.
    #[error("the header's checksum is wrong")]
    Checksum,
    /// The sender forbids it.
    #[error("the sender forbids fragments")]
    DontFragment,
    /// Header and eight bytes of data are longer than a fragment may be.
    #[error("no fragment is as short as that")]
    TooShort,
}

/// Cuts `packet` into fragments of at most `most` bytes; a packet that is short enough stays whole.
///
/// # Errors
/// [`Uncut`].
pub fn cut(packet: &[u8], most: usize) -> Result<Vec<Vec<u8>>, Uncut> {
    let header = Header::read(packet)?;
    let data = &packet[header.len..];
    if packet.len() <= most {
        return Ok(vec![packet.to_vec()]);
    }
    if header.flags & DONT_FRAGMENT != 0 {
        return Err(Uncut::DontFragment);
    }
    let options = copied_options(&packet[HEADER..header.len])?;
    let later: Vec<u8> = [&packet[..HEADER], &options].concat();
    let mut fragments = Vec::new();
    let mut done = 0;
    while done < data.len() {
        let head = if done == 0 { &packet[..header.len] } else { &later[..] };
        let room = most.checked_sub(head.len()).ok_or(Uncut::TooShort)?;
        let left = data.len() - done;
        // All but the last end at a multiple of eight.
        let take = if left <= room { left } else { room & !7 };
        if take == 0 {
            return Err(Uncut::TooShort);
        }
        let last = done + take == data.len();
        let more = if last { header.flags & MORE } else { MORE };
        let offset = usize::from(header.flags & OFFSET) + done / 8;
        // No packet reaches beyond 65535 bytes, so no offset is lost.
        let offset = u16::try_from(offset).ok().filter(|offset| *offset <= OFFSET).ok_or(Uncut::Malformed)?;
        let flags = header.flags & !(MORE | OFFSET) | more | offset;
        fragments.push(fragment(head, flags, &data[done..done + take]));
        done += take;
    }
    Ok(fragments)
}

/// A fragment of its header and data.
fn fragment(head: &[u8], flags: u16, data: &[u8]) -> Vec<u8> {
    let mut fragment = [head, data].concat();
    // At most as long as the packet.
    let (words, total) = (head.len() / 4, fragment.len() as u16);
    fragment[0] = 0x40 | words as u8;
    fragment[2..4].copy_from_slice(&total.to_be_bytes());
    fragment[6..8].copy_from_slice(&flags.to_be_bytes());
    fragment[10..12].fill(0);
    let sum = !checksum::fold(checksum::sum(&fragment[..head.len()]));
    fragment[10..12].copy_from_slice(&sum.to_be_bytes());
    fragment
}

/// What of a packet's header matters here.
struct Header {
    /// Bytes, options included.
    len: usize,
    /// Flags and fragment offset.
    flags: u16,
}

impl Header {
    fn read(packet: &[u8]) -> Result<Self, Uncut> {
        let fixed: &[u8; HEADER] = packet.first_chunk().ok_or(Uncut::Malformed)?;
        let len = usize::from(fixed[0] & 0xf) * 4;
        let total = usize::from(u16::from_be_bytes([fixed[2], fixed[3]]));
        if fixed[0] >> 4 != 4 || len < HEADER || total != packet.len() || len > total {
            return Err(Uncut::Malformed);
        }
        if checksum::fold(checksum::sum(&packet[..len])) != 0xffff {
            return Err(Uncut::Checksum);
        }
        Ok(Self { len, flags: u16::from_be_bytes([fixed[6], fixed[7]]) })
    }
}

/// The options that every fragment carries, padded to whole words.
fn copied_options(mut options: &[u8]) -> Result<Vec<u8>, Uncut> {
    let mut copied = Vec::new();
    while let Some(&kind) = options.first() {
        let len = match kind {
            END => break,
            NOP => 1,
            _ => usize::from(*options.get(1).ok_or(Uncut::Malformed)?),
        };
        if len == 0 || (kind != NOP && len < 2) {
            return Err(Uncut::Malformed);
        }
        let (option, rest) = options.split_at_checked(len).ok_or(Uncut::Malformed)?;
        if kind & COPIED != 0 {
            copied.extend_from_slice(option);
        }
        options = rest;
    }
    copied.resize(copied.len().next_multiple_of(4), END);
    Ok(copied)
}

#[cfg(test)]
mod tests;
