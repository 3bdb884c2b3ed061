//! Keys in files of their own.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use tracing::warn;

/// Longest key that is read, in bytes.
const LONGEST: u64 = 4096;

/// What the file holds, without its end of line. One that others may read is used, with a warning.
///
/// # Errors
/// When it cannot be read.
pub fn secret(path: &Path) -> io::Result<Vec<u8>> {
    let file = File::open(path)?;
    if file.metadata()?.mode() & 0o077 != 0 {
        warn!(path = %path.display(), "others than its owner may read this key: chmod 600");
    }
    let mut key = Vec::new();
    file.take(LONGEST).read_to_end(&mut key)?;
    while matches!(key.last(), Some(b'\n' | b'\r')) {
        key.pop();
    }
    Ok(key)
}
