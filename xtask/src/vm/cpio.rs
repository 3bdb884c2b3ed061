//! Writes an initramfs: an uncompressed "newc" cpio archive, which every kernel unpacks without any option.
//!
//! The format is the kernel's `Documentation/driver-api/early-userspace/buffer-format.rst`:
//!
//! ```text
//!  "070701" | ino mode uid gid nlink mtime filesize devmajor devminor rdevmajor rdevminor namesize check
//!           | 13 fields of 8 hexadecimal digits
//!  name NUL | padding to 4 | content | padding to 4 | next entry ...      "TRAILER!!!" ends the archive
//! ```

/// `S_IFREG` and friends, with permissions.
const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const CHARACTER_DEVICE: u32 = 0o020_600;
const ALIGNMENT: usize = 4;

/// An archive under construction.
#[derive(Debug, Default)]
pub struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

/// What an entry is, beyond its name and content.
#[derive(Clone, Copy, Debug, Default)]
struct Kind {
    mode: u32,
    device: (u32, u32),
}

impl Archive {
    /// A directory. The ones above it come first: the kernel makes none by itself.
    pub fn directory(&mut self, name: &str) {
        self.entry(name, Kind { mode: DIRECTORY, ..Kind::default() }, &[]);
    }

    /// A file that everybody may run.
    pub fn file(&mut self, name: &str, content: &[u8]) {
        self.entry(name, Kind { mode: PROGRAM, ..Kind::default() }, content);
    }

    /// A character device.
    pub fn device(&mut self, name: &str, major: u32, minor: u32) {
        self.entry(name, Kind { mode: CHARACTER_DEVICE, device: (major, minor) }, &[]);
    }

    /// The whole archive.
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", Kind::default(), &[]);
        self.bytes
    }

    fn entry(&mut self, name: &str, kind: Kind, content: &[u8]) {
        self.entries += 1;
        // No file of ours comes near the 4 GiB that the format can say.
        let number = |length: usize| u32::try_from(length).unwrap_or(u32::MAX);
        let fields = [
            self.entries,
            kind.mode,
            0,
            0,
            1,
            0,
            number(content.len()),
            0,
            0,
            kind.device.0,
            kind.device.1,
            number(name.len() + 1),
            0,
        ];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(ALIGNMENT), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_as_the_format_says() {
        let mut archive = Archive::default();
        archive.file("init", b"hello");
        let bytes = archive.finish();
        let text = String::from_utf8(bytes).unwrap();
        let first = "070701\
                     00000001\
                     000081ed\
                     00000000\
                     00000000\
                     00000001\
                     00000000\
                     00000005\
                     00000000\
                     00000000\
                     00000000\
                     00000000\
                     00000005\
                     00000000init\0\0hello\0\0\0";
        assert!(text.starts_with(first), "{text:?}");
        assert_eq!(&text[first.len()..first.len() + 6], "070701", "the next entry begins at once");
        assert!(text.contains("0000000b00000000TRAILER!!!\0"));
        assert_eq!(text.len() % ALIGNMENT, 0);
    }

    #[test]
    fn every_part_begins_at_a_multiple_of_four() {
        for length in 0..9 {
            let mut archive = Archive::default();
            let name = &"abcdefgh"[..length.max(1)];
            archive.file(name, &vec![b'x'; length]);
            archive.device("dev/console", 5, 1);
            let bytes = archive.finish();
            let heads = bytes.windows(6).enumerate().filter(|(_, w)| *w == b"070701").map(|(at, _)| at);
            let heads: Vec<usize> = heads.collect();
            assert_eq!(heads.len(), 3);
            assert!(heads.iter().all(|at| at % ALIGNMENT == 0), "{heads:?}");
        }
    }

    #[test]
    fn a_device_has_its_numbers() {
        let mut archive = Archive::default();
        archive.device("dev/console", 5, 1);
        let text = String::from_utf8(archive.finish()).unwrap();
        assert_eq!(&text[14..22], "00002180");
        assert_eq!(&text[6 + 9 * 8..6 + 11 * 8], "0000000500000001");
    }
}
