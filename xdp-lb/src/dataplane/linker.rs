//! Puts the tables' maps into the object: the one relocation that aya does not know. Pure; called by [`super::load`].
//!
//! Where the program wants a table's address it has a 64-bit load of a mark and the table's number
//! ([`names::table_mark`]). The kernel takes the same instruction with another source register as "the address of the
//! value of this map", so that a lookup is an addition.
//!
//! ```text
//!   0x18 | dst   | 0 | number | 0 | 0 | 0 | 0 | mark       ->  0x18 | dst | VALUE | map fd | 0 | 0 | 0 | 0 | offset 0
//! ```

use xdp_lb_common::names;

const INSTRUCTION: usize = 8;
const LOAD_64: u8 = 0x18;
/// `BPF_PSEUDO_MAP_VALUE`, in the half of the second byte that is the source register.
const MAP_VALUE: u8 = 2 << 4;

/// A copy of `object`, aligned as aya wants it, in which every mark of table `n` loads the address of map
/// `descriptors[n]`; `None` when a table is not marked anywhere.
pub fn link(object: &[u8], descriptors: &[i32; names::TABLES.len()]) -> Option<Linked> {
    let mut words = vec![0u64; object.len().div_ceil(INSTRUCTION)];
    let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut words);
    bytes[..object.len()].copy_from_slice(object);
    for (number, descriptor) in descriptors.iter().enumerate() {
        let mark = names::table_mark(number as u32).to_le_bytes();
        let mut found = false;
        for at in (0..bytes.len().saturating_sub(INSTRUCTION)).step_by(INSTRUCTION) {
            let pair = &mut bytes[at..at + 2 * INSTRUCTION];
            if pair[0] == LOAD_64 && pair[1] >> 4 == 0 && pair[4..8] == mark[..4] && pair[12..16] == mark[4..] {
                pair[1] |= MAP_VALUE;
                pair[4..8].copy_from_slice(&descriptor.to_le_bytes());
                pair[12..16].fill(0);
                found = true;
            }
        }
        if !found {
            return None;
        }
    }
    Some(Linked { words, len: object.len() })
}

/// An object with its tables.
pub struct Linked {
    words: Vec<u64>,
    len: usize,
}

impl Linked {
    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        &bytemuck::cast_slice(&self.words)[..self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(register: u8, value: u64) -> [u8; 16] {
        let mut pair = [0; 16];
        (pair[0], pair[1]) = (LOAD_64, register);
        pair[4..8].copy_from_slice(&value.to_le_bytes()[..4]);
        pair[12..].copy_from_slice(&value.to_le_bytes()[4..]);
        pair
    }

    #[test]
    fn marks_become_maps_and_nothing_else_changes() {
        let marks: Vec<[u8; 16]> =
            (0..names::TABLES.len() as u32).map(|n| load(3, names::table_mark(n))).collect();
        let object = [&marks.concat()[..], &load(4, 99), &[7; 5]].concat();
        let fds = std::array::from_fn(|n| 40 + n as i32);
        let linked = link(&object, &fds).unwrap();
        for (n, fd) in fds.iter().enumerate() {
            let pair = &linked.bytes()[16 * n..][..16];
            assert_eq!((pair[0], pair[1], &pair[4..8], &pair[8..]), (0x18, 0x23, &fd.to_le_bytes()[..], &[0; 8][..]));
        }
        let rest = 16 * fds.len();
        assert_eq!(linked.bytes()[rest..], object[rest..]);
        assert!(link(&object[16..], &fds).is_none(), "a table without a mark");
    }
}
