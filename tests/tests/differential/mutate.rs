//! Good packets made bad.

use super::dice::Dice;

/// `frame` with something wrong; `other` is another frame.
pub fn spoil(dice: &mut Dice, frame: &[u8], other: &[u8]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    for _ in 0..dice.pick(&[1, 1, 1, 2, 3]) {
        once(dice, &mut frame, other);
    }
    frame.resize(frame.len().clamp(14, 3000), 0);
    frame
}

fn once(dice: &mut Dice, frame: &mut Vec<u8>, other: &[u8]) {
    // Headers are where it hurts.
    let head = frame.len().min(110);
    let at = if dice.percent(85) { dice.below(head) } else { dice.below(frame.len()) };
    match dice.below(12) {
        0..4 => frame[at] ^= 1 << dice.below(8),
        4 | 5 => frame[at] = dice.pick(&[0, 1, 6, 17, 44, 60, 0x45, 0x46, 0x60, 0x80, 0xff]),
        6 => frame.truncate(dice.within(14..=frame.len())),
        7 => frame.truncate(at.max(14)),
        8 => lie(dice, frame),
        9 => {
            let length = dice.within(1..=60);
            frame.extend(dice.bytes(length));
        }
        10 => {
            // The head of one and the tail of the other.
            let cut = at.min(other.len());
            frame.truncate(at);
            frame.extend(&other[cut..]);
        }
        _ => {
            // A piece twice.
            let end = (at + dice.pick(&[1, 2, 4, 8, 20, 40])).min(frame.len());
            let piece = frame[at..end].to_vec();
            frame.splice(at..at, piece);
        }
    }
}

/// A length field that says something else: of IP, of an extension header, of UDP, of TCP.
fn lie(dice: &mut Dice, frame: &mut [u8]) {
    let l3 = 14 + if frame[12] == 0x81 || frame[12] == 0x88 { 4 } else { 0 };
    let field = l3 + dice.pick(&[0usize, 2, 4, 6, 7, 8, 24, 32, 41, 44, 49]);
    let Some(bytes) = frame.get_mut(field..field + 2) else { return };
    let old = u16::from_be_bytes([bytes[0], bytes[1]]);
    let by = dice.pick(&[1u16, 2, 4, 8, 20, 0xffff, 0xfffe, 0xfffc, 0xfff8, 0xffec, 0x100, 0xff00]);
    bytes.copy_from_slice(&old.wrapping_add(by).to_be_bytes());
}
