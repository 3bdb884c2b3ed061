//! A small dissector, for the messages of failing tests: which bytes of a frame are which field.
//!
//! It never fails: what it cannot follow is `payload`, what is cut short says so. Every byte belongs to exactly one
//! field, in order.

use std::collections::BTreeMap;
use std::fmt::{self, Display};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::ops::Range;

use super::Mac;

/// A run of bytes with a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// Which bytes of the frame.
    pub at: Range<usize>,
    /// `ipv4.ttl`; a second header of its kind is `ipv4[2].ttl`.
    pub name: String,
    /// The frame ends inside.
    pub cut: bool,
}

impl Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        if self.cut { f.write_str(" (cut)") } else { Ok(()) }
    }
}

impl Field {
    /// The value for people, where bytes alone do not say it.
    #[must_use]
    pub fn meaning(&self, bytes: &[u8]) -> Option<String> {
        let address =
            matches!(self.name.rsplit('.').next(), Some("source" | "destination" | "sender" | "target"));
        match *bytes {
            [a] => Some(a.to_string()),
            [a, b] => Some(u16::from_be_bytes([a, b]).to_string()),
            [a, b, c, d] if address => Some(Ipv4Addr::new(a, b, c, d).to_string()),
            [a, b, c, d, e, g] if address => Some(Mac([a, b, c, d, e, g]).to_string()),
            _ if address => <[u8; 16]>::try_from(bytes).ok().map(|octets| Ipv6Addr::from(octets).to_string()),
            _ => None,
        }
    }
}

/// Names every byte of `frame`.
#[must_use]
pub fn dissect(frame: &[u8]) -> Vec<Field> {
    let mut walk = Walk { frame, position: 0, end: frame.len(), seen: BTreeMap::new(), fields: Vec::new() };
    walk.ethernet();
    let end = walk.end;
    walk.rest("payload");
    // Whatever lies beyond the IP length.
    walk.end = frame.len();
    debug_assert!(walk.position == end, "the payload reaches to the packet's end");
    walk.rest("trailer");
    walk.fields
}

struct Walk<'a> {
    frame: &'a [u8],
    position: usize,
    /// Where the innermost packet says that it ends, at most the frame's end.
    end: usize,
    /// How many headers of each kind there were.
    seen: BTreeMap<&'static str, usize>,
    fields: Vec<Field>,
}

impl<'a> Walk<'a> {
    /// Begins a header and returns the prefix of its fields' names.
    fn header(&mut self, kind: &'static str) -> String {
        let count = self.seen.entry(kind).or_insert(0);
        *count += 1;
        if *count == 1 { kind.to_owned() } else { format!("{kind}[{count}]") }
    }

    /// Takes a field; the bytes are there only when all of them are.
    fn field(&mut self, header: &str, name: &str, length: usize) -> Option<&'a [u8]> {
        let stop = (self.position + length).min(self.end);
        let at = self.position..stop;
        let cut = at.len() < length;
        self.position = stop;
        if !at.is_empty() {
            self.fields.push(Field { at: at.clone(), name: format!("{header}.{name}"), cut });
        }
        if cut { None } else { self.frame.get(at) }
    }

    fn number(&mut self, header: &str, name: &str, length: usize) -> Option<usize> {
        let bytes = self.field(header, name, length)?;
        Some(bytes.iter().fold(0, |number, &byte| number << 8 | usize::from(byte)))
    }

    fn rest(&mut self, name: &str) {
        if self.position < self.end {
            self.fields.push(Field { at: self.position..self.end, name: name.to_owned(), cut: false });
            self.position = self.end;
        }
    }

    fn ethernet(&mut self) -> Option<()> {
        let header = self.header("eth");
        self.field(&header, "destination", 6)?;
        self.field(&header, "source", 6)?;
        let mut ethertype = self.number(&header, "ethertype", 2)?;
        while matches!(ethertype, 0x8100 | 0x88a8) {
            let header = self.header("vlan");
            self.field(&header, "tci", 2)?;
            ethertype = self.number(&header, "ethertype", 2)?;
        }
        match ethertype {
            0x0800 => self.ipv4(),
            0x86dd => self.ipv6(),
            0x0806 => self.arp(),
            _ => None,
        }
    }

    fn arp(&mut self) -> Option<()> {
        let header = self.header("arp");
        for (name, length) in [
            ("hardware", 2),
            ("protocol", 2),
            ("lengths", 2),
            ("operation", 2),
            ("mac.sender", 6),
            ("sender", 4),
            ("mac.target", 6),
            ("target", 4),
        ] {
            self.field(&header, name, length)?;
        }
        self.rest("trailer");
        Some(())
    }

    fn ipv4(&mut self) -> Option<()> {
        let start = self.position;
        let header = self.header("ipv4");
        let header_length = (self.number(&header, "version_ihl", 1)? & 15) * 4;
        self.field(&header, "tos", 1)?;
        let total_length = self.number(&header, "total_length", 2)?;
        self.field(&header, "id", 2)?;
        let fragment = self.number(&header, "flags_offset", 2)?;
        self.field(&header, "ttl", 1)?;
        let protocol = self.number(&header, "protocol", 1)?;
        self.field(&header, "checksum", 2)?;
        self.field(&header, "source", 4)?;
        self.field(&header, "destination", 4)?;
        self.field(&header, "options", header_length.saturating_sub(20))?;
        self.clip(start + total_length);
        let first = fragment & 0x1fff == 0;
        if first { self.transport(protocol) } else { None }
    }

    fn ipv6(&mut self) -> Option<()> {
        let header = self.header("ipv6");
        self.field(&header, "version_class_label", 4)?;
        let payload_length = self.number(&header, "payload_length", 2)?;
        let mut protocol = self.number(&header, "next_header", 1)?;
        self.field(&header, "hop_limit", 1)?;
        self.field(&header, "source", 16)?;
        self.field(&header, "destination", 16)?;
        self.clip(self.position + payload_length);
        loop {
            let kind = match protocol {
                0 => "hop_by_hop",
                43 => "routing",
                44 => "fragment",
                60 => "destination_options",
                _ => return self.transport(protocol),
            };
            let header = self.header(kind);
            protocol = self.number(&header, "next_header", 1)?;
            if kind == "fragment" {
                self.field(&header, "reserved", 1)?;
                let fragment = self.number(&header, "offset_more", 2)?;
                self.field(&header, "id", 4)?;
                if fragment & 0xfff8 != 0 {
                    return None;
                }
            } else {
                let length = self.number(&header, "length", 1)?;
                self.field(&header, "body", 6 + 8 * length)?;
            }
        }
    }

    /// The packet ends at `end`, if that can be.
    fn clip(&mut self, end: usize) {
        if (self.position..self.end).contains(&end) {
            self.end = end;
        }
    }

    fn transport(&mut self, protocol: usize) -> Option<()> {
        match protocol {
            4 => return self.ipv4(),
            41 => return self.ipv6(),
            1 | 58 => {
                let header = self.header(if protocol == 1 { "icmp" } else { "icmpv6" });
                for (name, length) in [("type", 1), ("code", 1), ("checksum", 2), ("rest", 4)] {
                    self.field(&header, name, length)?;
                }
            }
            17 => {
                let header = self.header("udp");
                for name in ["source_port", "destination_port", "length", "checksum"] {
                    self.field(&header, name, 2)?;
                }
            }
            6 => self.tcp()?,
            _ => {}
        }
        None
    }

    fn tcp(&mut self) -> Option<()> {
        let header = self.header("tcp");
        self.field(&header, "source_port", 2)?;
        self.field(&header, "destination_port", 2)?;
        self.field(&header, "sequence", 4)?;
        self.field(&header, "acknowledgement", 4)?;
        let words = self.number(&header, "data_offset", 1)? >> 4;
        self.field(&header, "flags", 1)?;
        self.field(&header, "window", 2)?;
        self.field(&header, "checksum", 2)?;
        self.field(&header, "urgent", 2)?;
        self.field(&header, "options", (words * 4).saturating_sub(20))?;
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::eth;

    fn names(frame: &[u8]) -> Vec<String> {
        dissect(frame).iter().map(ToString::to_string).collect()
    }

    fn tunnel() -> Vec<u8> {
        eth("02:00:00:00:00:01", "02:00:00:00:00:02")
            .vlan(7)
            .ipv6("2001:db8::1", "2001:db8::2")
            .ipv4("192.0.2.1", "192.0.2.2")
            .options(&[1, 1, 1])
            .tcp(1, 2)
            .options(&[2, 4, 5, 0xb4])
            .payload(b"hello")
            .trailer(&[0; 3])
            .build()
    }

    #[test]
    fn headers_are_named_inside_out() {
        let names = names(&tunnel());
        assert_eq!(
            names[..5],
            ["eth.destination", "eth.source", "eth.ethertype", "vlan.tci", "vlan.ethertype"]
        );
        let tail = ["tcp.checksum", "tcp.urgent", "tcp.options", "payload", "trailer"];
        assert_eq!(names[names.len() - 5..], tail);
    }

    #[test]
    fn a_second_header_of_its_kind_is_numbered() {
        let frame = eth("02:00:00:00:00:01", "02:00:00:00:00:02")
            .ipv4("192.0.2.1", "192.0.2.2")
            .ipv4("192.0.2.3", "192.0.2.4")
            .build();
        assert!(names(&frame).contains(&"ipv4[2].ttl".to_owned()));
    }

    /// Every byte has one name, wherever the frame is cut and whichever byte lies.
    #[test]
    fn fields_cover_any_bytes() {
        let whole = tunnel();
        for length in 0..=whole.len() {
            for broken in 0..length {
                let mut frame = whole[..length].to_vec();
                frame[broken] ^= 0xff;
                let mut position = 0;
                for field in dissect(&frame) {
                    assert_eq!(field.at.start, position, "gap in {length} bytes, byte {broken} flipped");
                    assert!(!field.at.is_empty());
                    position = field.at.end;
                }
                assert_eq!(position, length);
            }
        }
    }
}
