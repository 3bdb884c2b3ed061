//! What a configuration on disk looks like from outside, to see whether it is still the one that was read.

use std::{
    ffi::OsStr,
    fs::{self, Metadata},
    io,
    os::unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    path::{Path, PathBuf},
};

/// Endings of files that belong to a directory's configuration.
const ENDINGS: [&str; 2] = ["yaml", "yml"];
/// More files are no configuration.
const MOST: usize = 10_000;

/// Files of a configuration with what changes when one is written or replaced. Symbolic links are followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamp {
    is_directory: bool,
    files: Vec<(PathBuf, Identity)>,
}

/// Device, inode, length, and nanoseconds of the last change of content and of inode.
type Identity = (u64, u64, u64, i128, i128);

impl Stamp {
    /// Of a file, or of the configuration's files in a directory.
    ///
    /// # Errors
    /// When one cannot be looked at.
    pub fn of(path: &Path) -> io::Result<Self> {
        let metadata = fs::metadata(path)?;
        if !metadata.is_dir() {
            return Ok(Self { is_directory: false, files: vec![(path.to_owned(), identity(&metadata))] });
        }
        let mut files = Vec::new();
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            if !is_named(&entry.file_name()) {
                continue;
            }
            let metadata = fs::metadata(entry.path())?;
            if metadata.is_file() {
                files.push((entry.path(), identity(&metadata)));
            }
            if files.len() > MOST {
                return Err(io::Error::other("more than 10000 files are no configuration"));
            }
        }
        files.sort();
        Ok(Self { is_directory: true, files })
    }

    /// Whether the configuration is a directory of files.
    #[must_use]
    pub fn is_directory(&self) -> bool {
        self.is_directory
    }

    /// The files in the order of their names.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(|(path, _)| path.as_path())
    }
}

/// Whether a file of this name belongs to a directory's configuration. Hidden ones do not: editors keep theirs so, and
/// Kubernetes the versions of a ConfigMap.
#[must_use]
pub fn is_named(name: &OsStr) -> bool {
    let ending = Path::new(name).extension();
    !name.as_bytes().starts_with(b".") && ENDINGS.iter().any(|e| ending == Some(OsStr::new(e)))
}

fn identity(m: &Metadata) -> Identity {
    let nanoseconds = |s: i64, ns: i64| i128::from(s) * 1_000_000_000 + i128::from(ns);
    (
        m.dev(),
        m.ino(),
        m.len(),
        nanoseconds(m.mtime(), m.mtime_nsec()),
        nanoseconds(m.ctime(), m.ctime_nsec()),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hidden_and_foreign_files_are_none_of_ours() {
        for (name, ours) in [
            ("a.yaml", true),
            ("b.yml", true),
            (".a.yaml", false),
            ("a.yaml~", false),
            ("..data", false),
            ("yaml", false),
        ] {
            assert_eq!(is_named(OsStr::new(name)), ours, "{name}");
        }
    }
}
