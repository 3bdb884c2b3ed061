use proptest::prelude::*;

use super::*;

fn packet(options: &[u8], flags: u16, data: &[u8]) -> Vec<u8> {
    let mut head = vec![0x45, 0x10, 0, 0, 0xbe, 0xef, 0, 0, 61, 17, 0, 0, 198, 51, 100, 7, 203, 0, 113, 10];
    head.extend(options);
    fragment(&head, flags, data)
}

fn sum_is_right(fragment: &[u8]) -> bool {
    let len = usize::from(fragment[0] & 0xf) * 4;
    checksum::fold(checksum::sum(&fragment[..len])) == 0xffff
}

/// A receiver: data by offset, and whether the last piece says that no more follow.
fn reassemble(fragments: &[Vec<u8>]) -> (Vec<u8>, bool) {
    let mut data = Vec::new();
    let mut more = true;
    for fragment in fragments {
        let header = Header::read(fragment).unwrap();
        let at = usize::from(header.flags & OFFSET) * 8;
        let first = usize::from(Header::read(&fragments[0]).unwrap().flags & OFFSET) * 8;
        assert_eq!(at - first, data.len(), "in order, without holes");
        assert!(more, "nothing follows the last");
        data.extend(&fragment[header.len..]);
        more = header.flags & MORE != 0;
        assert!(!more || (fragment.len() - header.len).is_multiple_of(8));
    }
    (data, more)
}

#[test]
fn a_full_frame_through_a_full_frame() {
    let data: Vec<u8> = (0..1480u16).map(|n| n as u8).collect();
    let fragments = cut(&packet(&[], 0, &data), 1480).unwrap();
    assert_eq!(fragments.iter().map(Vec::len).collect::<Vec<_>>(), [20 + 1456, 20 + 24]);
    assert_eq!(fragments[0][6..8], [0x20, 0]);
    assert_eq!(fragments[1][6..8], [0, 182]);
    assert_eq!(reassemble(&fragments), (data, false));
}

#[test]
fn options_go_where_their_flag_says() {
    // Record route (not copied), a NOP, loose source route (copied), the end.
    let options = [7, 7, 4, 0, 0, 0, 0, 1, 131, 7, 4, 10, 0, 0, 1, 0];
    let data = [7; 64];
    let fragments = cut(&packet(&options, 0, &data), 68).unwrap();
    assert_eq!(fragments[0][20..36], options);
    for later in &fragments[1..] {
        assert_eq!(later[0], 0x47);
        assert_eq!(later[20..28], [131, 7, 4, 10, 0, 0, 1, 0]);
    }
    assert_eq!(reassemble(&fragments), (data.to_vec(), false));
}

#[test]
fn what_cannot_be_cut() {
    let whole = packet(&[], 0, &[1; 100]);
    assert_eq!(cut(&packet(&[], DONT_FRAGMENT, &[1; 100]), 60), Err(Uncut::DontFragment));
    assert_eq!(cut(&whole, 27), Err(Uncut::TooShort));
    assert_eq!(cut(&whole, 28).unwrap().len(), 13);
    assert_eq!(cut(&whole, 19), Err(Uncut::TooShort));
    assert_eq!(cut(&whole[..119], 60), Err(Uncut::Malformed));
    assert_eq!(cut(&[], 60), Err(Uncut::Malformed));
    let mut damaged = whole.clone();
    damaged[8] = 60;
    assert_eq!(cut(&damaged, 60), Err(Uncut::Checksum));
    for options in [[131, 0, 0, 0], [131, 1, 0, 0], [131, 5, 0, 0], [1, 1, 1, 131]] {
        assert_eq!(cut(&packet(&options, 0, &[1; 100]), 60), Err(Uncut::Malformed), "{options:?}");
    }
    assert_eq!(cut(&whole, 120), Ok(vec![whole]), "short enough");
}

proptest! {
    #[test]
    fn fragments_carry_the_packet_and_nothing_else(
        data in proptest::collection::vec(any::<u8>(), 0..3000),
        words in 0..=10usize,
        copied in any::<bool>(),
        first in 0..100u16,
        more in any::<bool>(),
        reserved in any::<bool>(),
        most in 0..1600usize,
    ) {
        let mut options = vec![if copied { 0x94 } else { 0x44 }, (words * 4) as u8];
        options.resize(words * 4, 9);
        options.truncate(words * 4);
        let data = if more { &data[..data.len() & !7] } else { &data[..] };
        let flags = first | if more { MORE } else { 0 } | if reserved { 0x8000 } else { 0 };
        let whole = packet(&options, flags, data);
        match cut(&whole, most) {
            Err(why) => {
                prop_assert_eq!(why, Uncut::TooShort);
                prop_assert!(whole.len() > most && most < 60 + 8, "{} into {}", whole.len(), most);
            }
            Ok(fragments) => {
                prop_assert_eq!(reassemble(&fragments), (data.to_vec(), more));
                for (number, fragment) in fragments.iter().enumerate() {
                    prop_assert!(fragment.len() <= most || fragments.len() == 1 && whole.len() <= most);
                    prop_assert!(sum_is_right(fragment));
                    // Everything but lengths, flags and checksum.
                    for kept in [1..2, 4..6, 8..10, 12..20] {
                        prop_assert_eq!(&fragment[kept.clone()], &whole[kept]);
                    }
                    prop_assert_eq!(fragment[6] & 0x80 != 0, reserved);
                    let len = usize::from(fragment[0] & 0xf) * 4;
                    let expected = if number == 0 || copied { 20 + words * 4 } else { 20 };
                    prop_assert_eq!(len, expected);
                }
            }
        }
    }

    #[test]
    fn nothing_panics(bytes in proptest::collection::vec(any::<u8>(), 0..100), most in 0..100usize) {
        let _ = cut(&bytes, most);
    }
}
