//! Puts the tables' maps and the load-time constants into the object: relocations that aya does not know. Pure; called
//! by [`super::load`].
//!
//! Where the program wants a table's address it has a 64-bit load of a mark and the table's number
//! ([`names::table_mark`]). The kernel takes the same instruction with another source register as "the address of the
//! value of this map", so that a lookup is an addition. Constants ([`names::constant_mark`]) become the operand.
//!
//! ```text
//!   0x18 | dst, 0     | number | 0 | mark      ->  0x18 | dst, MAP_VALUE | map fd   | 0 | offset 0
//!                                                  0x18 | dst, 0         | low half | 0 | high half
//! ```

use xdp_lb_common::names::{self, Constant};

const INSTRUCTION: usize = 8;
const LOAD_64: u8 = 0x18;
/// `BPF_PSEUDO_MAP_VALUE`, in the half of the second byte that is the source register.
const MAP_VALUE: u8 = 2 << 4;

/// What the marks stand for.
pub struct Marks {
    /// A descriptor for each of [`names::TABLES`].
    pub tables: [i32; names::TABLES.len()],
    /// A value for each of [`Constant::ALL`].
    pub constants: [u64; Constant::ALL.len()],
    /// Programs understand frames in several buffers.
    pub frags: bool,
}

/// A copy of `object`, aligned as aya wants it, with every mark replaced; `None` when a table is not marked anywhere.
pub fn link(object: &[u8], marks: &Marks) -> Option<Linked> {
    let mut words = vec![0u64; object.len().div_ceil(INSTRUCTION)];
    let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut words);
    bytes[..object.len()].copy_from_slice(object);
    let mut found = [false; names::TABLES.len()];
    for at in (0..bytes.len().saturating_sub(INSTRUCTION)).step_by(INSTRUCTION) {
        let pair = &mut bytes[at..at + 2 * INSTRUCTION];
        if pair[0] != LOAD_64 || pair[1] >> 4 != 0 {
            continue;
        }
        let value = operand(pair);
        let number = value as u32 as usize;
        if value == names::table_mark(number as u32) && number < found.len() {
            found[number] = true;
            pair[1] |= MAP_VALUE;
            set_operand(pair, u64::from(marks.tables[number] as u32));
        } else if let Some(&constant) = Constant::ALL.get(number)
            && value == names::constant_mark(constant)
        {
            set_operand(pair, marks.constants[number]);
        }
    }
    if !marks.frags {
        shorten(&mut bytes[..object.len()]);
    }
    found.iter().all(|&found| found).then_some(Linked { words, len: object.len() })
}

/// Cuts the name of the programs' section short, wherever it is told: in the table of sections, and in the types of
/// functions.
fn shorten(object: &mut [u8]) {
    let name = names::FRAGS_SECTION;
    let mut at = 0;
    while let Some(found) = object[at..].windows(name.len()).position(|window| window == name) {
        object[at + found + names::FRAGS_MARK] = 0;
        at += found + name.len();
    }
}

/// The 64-bit operand of a pair of instructions: half in each.
fn operand(pair: &[u8]) -> u64 {
    let half = |at: usize| u32::from_le_bytes([pair[at], pair[at + 1], pair[at + 2], pair[at + 3]]);
    u64::from(half(INSTRUCTION + 4)) << 32 | u64::from(half(4))
}

fn set_operand(pair: &mut [u8], value: u64) {
    let [low, high] = [value as u32, (value >> 32) as u32].map(u32::to_le_bytes);
    pair[4..8].copy_from_slice(&low);
    pair[INSTRUCTION + 4..].copy_from_slice(&high);
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
        set_operand(&mut pair, value);
        pair
    }

    #[test]
    fn marks_are_replaced_and_nothing_else_changes() {
        let marks = Marks {
            tables: std::array::from_fn(|n| 40 + n as i32),
            constants: std::array::from_fn(|n| 0xffff_0000_0000_0000 + n as u64),
            frags: true,
        };
        let tables = (0..names::TABLES.len() as u32).map(|n| load(3, names::table_mark(n)));
        let constants = Constant::ALL.map(|constant| load(4, names::constant_mark(constant)));
        let others =
            [load(5, 99), load(6, names::table_mark(99)), load(7, names::constant_mark(Constant::Seed) + 99)];
        let object =
            [tables.chain(constants).chain(others).flatten().collect::<Vec<u8>>(), vec![7; 5]].concat();

        let tables = marks.tables.map(|fd| load(0x23, fd as u64));
        let constants = marks.constants.map(|value| load(4, value));
        let wanted = tables.into_iter().chain(constants).chain(others).flatten().collect::<Vec<u8>>();
        assert_eq!(link(&object, &marks).unwrap().bytes(), [wanted, vec![7; 5]].concat());
        assert!(link(&object[16..], &marks).is_none(), "a table without a mark");
        let named = [&object[..], b".relxdp.frags\0xdp.frags\0xdp.fra"].concat();
        assert!(link(&named, &marks).unwrap().bytes().ends_with(b".relxdp.frags\0xdp.frags\0xdp.fra"));
        let one_buffer = link(&named, &Marks { frags: false, ..marks }).unwrap();
        assert!(one_buffer.bytes().ends_with(b".relxdp\0frags\0xdp\0frags\0xdp.fra"));
    }
}
