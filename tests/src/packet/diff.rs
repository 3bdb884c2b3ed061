//! Two packets that should be equal, and how a test says that they are not.

use std::fmt::Write;
use std::ops::Range;

use super::{Field, dissect};

/// Bytes on a line of a long field.
const LINE: usize = 16;

/// Compares whole packets.
///
/// # Panics
/// When they differ, with both in annotated hexadecimal, the offset of the first difference and the field it is in.
#[track_caller]
pub fn assert_packet_eq(actual: &[u8], expected: &[u8]) {
    if let Some(difference) = difference(actual, expected) {
        panic!("{difference}");
    }
}

/// What tells `actual` from `expected`, for people; `None` when nothing does.
#[must_use]
pub fn difference(actual: &[u8], expected: &[u8]) -> Option<String> {
    if actual == expected {
        return None;
    }
    let common = actual.iter().zip(expected).take_while(|(a, e)| a == e).count();
    let mut text = headline(actual, expected, common);
    list(&mut text, "actual", actual, expected);
    list(&mut text, "expected", expected, actual);
    Some(text)
}

fn headline(actual: &[u8], expected: &[u8], at: usize) -> String {
    match (actual.get(at), expected.get(at)) {
        (Some(a), Some(e)) => {
            format!("packets differ first at byte {at}, {}: {a:02x}, expected {e:02x}\n", name(expected, at))
        }
        (None, _) => format!(
            "packet ends after {} bytes, expected {} ({} comes next)\n",
            actual.len(),
            expected.len(),
            name(expected, at)
        ),
        (_, None) => {
            format!("packet has {} bytes, expected {}; the rest is equal\n", actual.len(), expected.len())
        }
    }
}

/// The name of the field that `byte` is in.
fn name(frame: &[u8], byte: usize) -> String {
    let field = dissect(frame).into_iter().find(|field| field.at.contains(&byte));
    field.map_or_else(|| "nothing".to_owned(), |field| field.name)
}

/// One line a field, `>` before those in which `other` has something else.
fn list(text: &mut String, title: &str, frame: &[u8], other: &[u8]) {
    let _ = writeln!(text, "{title}, {} bytes:", frame.len());
    for field in dissect(frame) {
        for (part, start) in field.at.clone().step_by(LINE).enumerate() {
            let at = start..(start + LINE).min(field.at.end);
            let label = if part == 0 { field.to_string() } else { String::new() };
            line(text, &at, &label, &field, frame, other);
        }
    }
}

fn line(text: &mut String, at: &Range<usize>, label: &str, field: &Field, frame: &[u8], other: &[u8]) {
    let bytes = &frame[at.clone()];
    let mark = if other.get(at.clone()) == Some(bytes) { ' ' } else { '>' };
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x} ")).collect();
    let meaning = field.meaning(bytes).map_or_else(String::new, |meaning| format!(" {meaning}"));
    let start = at.start;
    let _ = writeln!(text, "{}", format!("{mark}{start:5}  {label:28} {hex:48}{meaning}").trim_end());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::packet::eth;

    fn packet(ttl: u8) -> Vec<u8> {
        eth("02:00:00:00:00:01", "02:00:00:00:00:02")
            .ipv4("192.0.2.1", "192.0.2.2")
            .ttl(ttl)
            .checksum(0)
            .udp(1, 2)
            .payload(&[0x5a; 20])
            .build()
    }

    #[test]
    fn equal_packets_do_not_differ() {
        assert_eq!(difference(&packet(1), &packet(1)), None);
    }

    #[test]
    fn the_first_difference_is_named() {
        let text = difference(&packet(1), &packet(2)).unwrap();
        assert!(text.starts_with("packets differ first at byte 22, ipv4.ttl: 01, expected 02\n"), "{text}");
        let marked: Vec<_> = text.lines().filter(|line| line.starts_with('>')).collect();
        assert_eq!(marked.len(), 2, "one field in each of two packets: {text}");
        assert!(marked.iter().all(|line| line.contains("ipv4.ttl")), "{text}");
    }

    #[test]
    fn lengths_differ_with_words() {
        let whole = packet(1);
        let text = difference(&whole[..40], &whole).unwrap();
        assert!(
            text.starts_with("packet ends after 40 bytes, expected 62 (udp.checksum comes next)\n"),
            "{text}"
        );
        let text = difference(&whole, &whole[..40]).unwrap();
        assert!(text.starts_with("packet has 62 bytes, expected 40; the rest is equal\n"), "{text}");
    }
}
