//! What outlives the agent beside the maps: drains by command, and the configurations that were in force. A directory of
//! small files, each written whole; one agent writes, commands may read.
//!
//! ```text
//!   DIR/drains.json         drains by command
//!   DIR/history/N.json      the configuration of generation N, as it was written
//!   DIR/resources.json      what the cluster's resources said that were in force last, without passwords
//!   DIR/rollback.json       a rollback that outlives a restart: which text is not in force, and which generation is
//! ```

mod history;

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use serde::{Serialize, de::DeserializeOwned};

pub use self::history::{Entry, History, MOST, Origin, Rollback};
use crate::config::Document;
use crate::drains::{Drains, Written};

/// Where it is unless the command line says otherwise.
pub const DIRECTORY: &str = "/var/lib/xdp-lb";
const DRAINS: &str = "drains.json";
const RESOURCES: &str = "resources.json";

/// What cannot be kept, or read again.
#[derive(Debug, thiserror::Error)]
#[error("{what} {}: {source}", path.display())]
pub struct KeepError {
    /// What was tried.
    pub what: &'static str,
    /// On which file.
    pub path: PathBuf,
    /// What the system said, or that the text is not what it should be.
    #[source]
    pub source: io::Error,
}

/// The directory.
#[derive(Clone, Debug)]
pub struct Keep {
    dir: PathBuf,
}

impl Keep {
    /// The directory `dir`, which need not exist.
    #[must_use]
    pub fn at(dir: &Path) -> Self {
        Self { dir: dir.to_owned() }
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.dir
    }

    /// Drains by command; none where no file is.
    ///
    /// # Errors
    /// When the file cannot be read or understood.
    pub fn drains(&self) -> Result<Drains, KeepError> {
        let written: Option<Vec<Written>> = self.read(DRAINS)?;
        Ok(written.unwrap_or_default().into_iter().collect())
    }

    /// Keeps drains by command.
    ///
    /// # Errors
    /// When they cannot be written: then what was kept before still is.
    pub fn set_drains(&self, drains: &Drains) -> Result<(), KeepError> {
        self.write(DRAINS, &Vec::<Written>::from(drains))
    }

    /// The cluster's resources that were in force last; `None` where none were.
    ///
    /// # Errors
    /// When the file cannot be read or understood.
    pub fn resources(&self) -> Result<Option<Vec<Document>>, KeepError> {
        self.read(RESOURCES)
    }

    /// Keeps the cluster's resources, for a start without it.
    ///
    /// # Errors
    /// When they cannot be written: then what was kept before still is.
    pub fn set_resources(&self, documents: &[Document]) -> Result<(), KeepError> {
        if documents.is_empty() { self.remove(RESOURCES) } else { self.write(RESOURCES, &documents) }
    }

    /// The content of a file; `None` where there is none.
    fn read<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, KeepError> {
        let path = self.dir.join(name);
        match fs::read(&path) {
            Ok(bytes) => match serde_json::from_slice(&bytes) {
                Ok(value) => Ok(Some(value)),
                Err(e) => Err(KeepError { what: "understand", path, source: e.into() }),
            },
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(KeepError { what: "read", path, source }),
        }
    }

    /// Writes a file whole: a reader, or an agent that starts after a crash, finds the old text or the new one.
    fn write<T: Serialize>(&self, name: &str, value: &T) -> Result<(), KeepError> {
        let path = self.dir.join(name);
        let fresh = path.with_extension("new");
        let text = serde_json::to_vec_pretty(value).map_err(io::Error::from);
        let write = |text: Vec<u8>| {
            // Configurations name key files and addresses: nobody else's business.
            let parent = path.parent().unwrap_or(&self.dir);
            DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
            let mut file =
                OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
            file.write_all(&text)?;
            file.sync_all()?;
            fs::rename(&fresh, &path)?;
            File::open(parent)?.sync_all()
        };
        text.and_then(write).map_err(|source| KeepError { what: "write", path: path.clone(), source })
    }

    /// Removes a file, if it is there.
    fn remove(&self, name: &str) -> Result<(), KeepError> {
        let path = self.dir.join(name);
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(KeepError { what: "remove", path, source })
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
