//! A directory for the lab's files: configurations and what servers want to write.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::id::LabId;
use super::namespace::Lifetime;

/// A directory below the system's temporary one, named after the lab; it goes when dropped.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
    lifetime: Lifetime,
}

impl Scratch {
    /// Makes the one of lab `id`.
    ///
    /// # Errors
    /// When the temporary directory cannot be written.
    pub fn create(id: LabId, lifetime: Lifetime) -> Result<Self> {
        let path = std::env::temp_dir().join(id.to_string());
        fs::create_dir(&path).with_context(|| format!("make {}", path.display()))?;
        Ok(Self { path, lifetime })
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a file at once and whole (by renaming), so that a reader meets the old or the new one.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.path.join(name);
        let fresh = self.path.join(format!(".{name}.new"));
        fs::write(&fresh, text)
            .and_then(|()| fs::rename(&fresh, &path))
            .with_context(|| format!("write {}", path.display()))?;
        Ok(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if self.lifetime == Lifetime::Dropped
            && let Err(error) = fs::remove_dir_all(&self.path)
        {
            eprintln!("lab: cannot remove {}: {error}", self.path.display());
        }
    }
}
