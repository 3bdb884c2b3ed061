//! Health in words, pinned beside the maps as `ROOT/health`, so that `status` can say why a backend is down whether or
//! not the agent runs. An array in no order: service id and address say whom an entry is about. Services that share a
//! ring have its members in common but not their health, so there may be more to say than `backends` has entries; then
//! nothing is said about those that are up.

use std::{
    collections::{BTreeMap, BTreeSet},
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
    /// The service that asked.
    service: u32,
    /// UTF-8.
    text: [u8; TEXT],
}

const _: () = assert!(size_of::<Entry>() == 256);

/// Whom words are about: a backend of the service with this id.
pub type About = (u16, IpAddr);

/// What is said of a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Words {
    /// State and reason.
    pub text: String,
    /// Since when it is so, seconds since 1970.
    pub since: u64,
    /// Nobody asks why, if there is no room for everybody.
    pub is_up: bool,
}

/// The pinned array, with what was written to it last.
pub struct HealthMap {
    entries: Mapped<Entry>,
    written: BTreeMap<About, (u32, Entry)>,
    free: BTreeSet<u32>,
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
        let entries = Mapped::new(map.as_fd(), len, true)?;
        Ok(Self { entries, written: BTreeMap::new(), free: (0..len).collect() })
    }

    /// Says exactly this, as far as there is room.
    ///
    /// # Errors
    /// For an index outside the map.
    pub fn write(&mut self, mut words: BTreeMap<About, Words>) -> io::Result<()> {
        make_room(&mut words, self.entries.len() as usize);
        let gone: Vec<About> =
            self.written.keys().filter(|about| !words.contains_key(about)).copied().collect();
        for about in gone {
            if let Some((index, _)) = self.written.remove(&about) {
                self.entries.write(index, &Entry::zeroed())?;
                self.free.insert(index);
            }
        }
        for (about, words) in words {
            let entry = entry(about, &words);
            let index = match self.written.get(&about) {
                Some((_, written)) if *written == entry => continue,
                Some(&(index, _)) => index,
                None => match self.free.pop_first() {
                    Some(index) => index,
                    None => break,
                },
            };
            self.entries.write(index, &entry)?;
            self.written.insert(about, (index, entry));
        }
        Ok(())
    }
}

/// Leaves out who is up where not everybody fits.
fn make_room(words: &mut BTreeMap<About, Words>, len: usize) {
    if words.len() > len {
        words.retain(|_, words| !words.is_up);
    }
    while words.len() > len {
        words.pop_last();
    }
}

/// What is pinned below `root`; nothing where no agent asks.
///
/// # Errors
/// What `bpf(2)` says.
pub fn read(root: &BpffsRoot) -> io::Result<BTreeMap<About, (String, u64)>> {
    let map: OwnedFd = match sys::pinned(&root.health()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        map => map?,
    };
    let entries = Mapped::<Entry>::new(map.as_fd(), sys::map_len(&map)?, false)?;
    let said = (0..entries.len()).filter_map(|index| {
        let entry = entries.read(index).filter(|entry| entry.len > 0)?;
        let text = &entry.text[..TEXT.min(entry.len as usize)];
        let about = (u16::try_from(entry.service).ok()?, Ipv6Addr::from(entry.address).to_canonical());
        Some((about, (String::from_utf8_lossy(text).into_owned(), entry.since)))
    });
    Ok(said.collect())
}

fn entry((service, address): About, words: &Words) -> Entry {
    let (address, service, since) = (map_address(address), service.into(), words.since);
    let mut entry = Entry { address, service, since, ..Entry::zeroed() };
    let end = words.text.floor_char_boundary(TEXT);
    entry.text[..end].copy_from_slice(&words.text.as_bytes()[..end]);
    entry.len = end as u32;
    entry
}

#[cfg(test)]
mod tests {
    use super::*;

    const BACKEND: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));

    fn words(text: &str, is_up: bool) -> Words {
        Words { text: text.to_owned(), since: 7, is_up }
    }

    #[test]
    fn long_words_end_at_a_character() {
        let all = entry((3, BACKEND), &words(&"é".repeat(200), true));
        assert_eq!((all.len, all.since, all.service), (224, 7, 3));
        assert!(std::str::from_utf8(&all.text[..224]).is_ok());
        assert_eq!(entry((3, BACKEND), &words(&format!("x{}", "é".repeat(200)), true)).len, 223);
    }

    #[test]
    fn who_is_up_makes_room_for_who_is_not() {
        let said = |len| {
            let mut all: BTreeMap<About, Words> =
                (1..=6).map(|service| ((service, BACKEND), words("", service % 2 == 1))).collect();
            make_room(&mut all, len);
            all.into_keys().map(|(service, _)| service).collect::<Vec<u16>>()
        };
        assert_eq!(said(6), [1, 2, 3, 4, 5, 6]);
        assert_eq!(said(5), [2, 4, 6]);
        assert_eq!(said(2), [2, 4]);
    }
}
