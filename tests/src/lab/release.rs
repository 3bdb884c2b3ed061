//! Another release of the product: a copy of its binary with another version and really different programs, made
//! without a second build.
//!
//! In the BPF object every `w0 = n` (a 32-bit move, as compilers write it) becomes `r0 = n` (64 bits): the same for the
//! verifier and for every packet, and other instructions with another tag. The version is written over by one of the
//! same length.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use super::product;

/// The version that the copy says it is.
pub const VERSION: &str = "9.8.7";
/// The version that it is a copy of.
const OWN: &str = env!("CARGO_PKG_VERSION");

/// `EM_BPF`.
const MACHINE: u16 = 247;
/// `SHF_EXECINSTR`.
const EXECUTABLE: u64 = 4;
/// `BPF_ALU | BPF_MOV | BPF_K` and `BPF_ALU64 | BPF_MOV | BPF_K`.
const MOVES: [u8; 2] = [0xb4, 0xb7];
/// `BPF_LD | BPF_IMM | BPF_DW`, which is two instructions long.
const LOAD_64: u8 = 0x18;
const INSTRUCTION: usize = 8;

/// Writes another release into `directory`.
///
/// # Errors
/// When there is no binary, or nothing in it that can be changed so.
pub fn another(directory: &Path) -> Result<PathBuf> {
    let own = product::binary()?;
    let mut bytes = fs::read(&own).with_context(|| format!("read {}", own.display()))?;
    ensure!(OWN.len() == VERSION.len(), "a version as long as {OWN} is needed");
    let versions = replace(&mut bytes, OWN.as_bytes(), VERSION.as_bytes());
    let moves = objects(&bytes).into_iter().map(|at| widen(&mut bytes[at..])).sum::<Option<usize>>();
    ensure!(versions > 0 && moves > Some(0), "{versions} versions and {moves:?} instructions to change");
    let path = directory.join("xdp-lb-another");
    fs::write(&path, bytes)
        .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(0o755)))
        .with_context(|| format!("write {}", path.display()))?;
    Ok(path)
}

/// Replaces every occurrence and says how many there were.
fn replace(bytes: &mut [u8], old: &[u8], new: &[u8]) -> usize {
    let (mut count, mut at) = (0, 0);
    while let Some(found) = bytes[at..].iter().position(|byte| *byte == old[0]) {
        at += found;
        if bytes[at..].starts_with(old) {
            bytes[at..at + old.len()].copy_from_slice(new);
            count += 1;
        }
        at += 1;
    }
    count
}

/// Where BPF objects begin.
fn objects(bytes: &[u8]) -> Vec<usize> {
    // 64 bits, little-endian, relocatable.
    let is_one = |at: &usize| {
        bytes[*at..].starts_with(b"\x7fELF\x02\x01")
            && bytes.get(at + 16..at + 20) == Some(&[1, 0, MACHINE as u8, (MACHINE >> 8) as u8])
    };
    // Included aligned.
    (0..bytes.len()).step_by(INSTRUCTION).filter(is_one).collect()
}

/// Changes the programs of the object at the beginning of `bytes`, and says how many instructions those were; `None` where
/// the object is cut off.
fn widen(bytes: &mut [u8]) -> Option<usize> {
    let word = |bytes: &[u8], at: usize| Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
    let half = |bytes: &[u8], at: usize| Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
    let (sections, length) = (word(bytes, 0x28)?, usize::from(half(bytes, 0x3a)?));
    let mut count = 0;
    for n in 0..usize::from(half(bytes, 0x3c)?) {
        let header = usize::try_from(sections).ok()? + n * length;
        if word(bytes, header + 0x08)? & EXECUTABLE == 0 {
            continue;
        }
        let [start, size] = [0x18, 0x20].map(|field| word(bytes, header + field));
        let (start, size) = (usize::try_from(start?).ok()?, usize::try_from(size?).ok()?);
        let code = bytes.get_mut(start..start + size)?;
        let mut at = 0;
        while at + INSTRUCTION <= code.len() {
            let instruction = &mut code[at..at + INSTRUCTION];
            // `w0 = n` with a small n that is not negative: its upper half is 0 either way.
            if instruction[0] == MOVES[0] && instruction[1..4] == [0; 3] && instruction[5..] == [0; 3] {
                instruction[0] = MOVES[1];
                count += 1;
            }
            at += if instruction[0] == LOAD_64 { 2 * INSTRUCTION } else { INSTRUCTION };
        }
    }
    Some(count)
}
