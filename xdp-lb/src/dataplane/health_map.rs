//! Health in words, pinned beside the maps as `ROOT/health`, so that `status` can say why a backend is down whether or
//! not the agent runs. An array by the index of `backends`; the address says whom an entry is about.

use std::{
    collections::BTreeMap,
    fs, io,
    net::{IpAddr, Ipv6Addr},
    os::fd::{AsFd as _, OwnedFd},
};

use bytemuck::{Pod, Zeroable};

use super::{mapped::Mapped, root::BpffsRoot, sys};
use crate::template::map_address;

const NAME: &str = "health";
const TEXT: usize = 224;

/// An entry. 256 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
struct Entry {
    /// Whom it is about; IPv4 as `::ffff:a.b.c.d`.
    address: [u8; 16],
    /// Since when it is so, seconds since 1970.
    since: u64,
    /// Bytes of `text`; 0 for an entry that says nothing.
    len: u32,
    reserved: u32,
    /// UTF-8.
    text: [u8; TEXT],
}

const _: () = assert!(size_of::<Entry>() == 256);

/// What is said of a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Words {
    /// State and reason.
    pub text: String,
    /// Since when it is so, seconds since 1970.
    pub since: u64,
}

/// The pinned array, with what was written to it last.
pub struct HealthMap {
    entries: Mapped<Entry>,
    written: BTreeMap<u32, Entry>,
}

impl HealthMap {
    /// Makes it anew, with `len` entries: what an earlier agent said is not known to hold.
    ///
    /// # Errors
    /// What `bpf(2)` says.
    pub fn create(root: &BpffsRoot, len: u32) -> io::Result<Self> {
        let map = sys::create_mapped_array(NAME, size_of::<Entry>() as u32, len)?;
        match fs::remove_file(root.health()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => sys::pin(&map, &root.health())?,
        }
        Ok(Self { entries: Mapped::new(map.as_fd(), len, true)?, written: BTreeMap::new() })
    }

    /// Says exactly this, by index and address.
    ///
    /// # Errors
    /// For an index outside the map.
    pub fn write(&mut self, words: &BTreeMap<u32, (IpAddr, Words)>) -> io::Result<()> {
        let gone: Vec<u32> =
            self.written.keys().filter(|index| !words.contains_key(index)).copied().collect();
        for index in gone {
            self.entries.write(index, &Entry::zeroed())?;
            self.written.remove(&index);
        }
        for (&index, (address, words)) in words {
            let entry = entry(*address, words);
            if self.written.get(&index) != Some(&entry) {
                self.entries.write(index, &entry)?;
                self.written.insert(index, entry);
            }
        }
        Ok(())
    }
}

/// What is pinned below `root`, by index of `backends`; nothing where no agent asks.
///
/// # Errors
/// What `bpf(2)` says.
pub fn read(root: &BpffsRoot) -> io::Result<BTreeMap<u32, (IpAddr, Words)>> {
    let map: OwnedFd = match sys::pinned(&root.health()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        map => map?,
    };
    let entries = Mapped::<Entry>::new(map.as_fd(), sys::map_len(&map)?, false)?;
    let said = (0..entries.len()).filter_map(|index| {
        let entry = entries.read(index).filter(|entry| entry.len > 0)?;
        let text = &entry.text[..TEXT.min(entry.len as usize)];
        let words = Words { text: String::from_utf8_lossy(text).into_owned(), since: entry.since };
        Some((index, (Ipv6Addr::from(entry.address).to_canonical(), words)))
    });
    Ok(said.collect())
}

fn entry(address: IpAddr, words: &Words) -> Entry {
    let mut entry = Entry { address: map_address(address), since: words.since, ..Entry::zeroed() };
    let end = words.text.floor_char_boundary(TEXT);
    entry.text[..end].copy_from_slice(&words.text.as_bytes()[..end]);
    entry.len = end as u32;
    entry
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_words_end_at_a_character() {
        let words = Words { text: "é".repeat(200), since: 7 };
        let entry = entry(IpAddr::from([10, 0, 0, 1]), &words);
        assert_eq!((entry.len, entry.since), (224, 7));
        assert!(std::str::from_utf8(&entry.text[..224]).is_ok());
        let words = Words { text: format!("x{}", "é".repeat(200)), since: 7 };
        assert_eq!(super::entry(IpAddr::from([10, 0, 0, 1]), &words).len, 223);
    }
}
