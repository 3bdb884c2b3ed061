//! The configurations that were in force, each by its generation: what `rollback` goes back to.
//!
//! Bounded in number and in size; the oldest go first. A generation is never written twice: going back makes a new
//! one with the old text.

use std::fs;
use std::io;

use serde::{Deserialize, Serialize};

use super::{Keep, KeepError};
use crate::file::Texts;

/// Most configurations that are kept.
pub const MOST: usize = 50;
/// Most bytes that they have together; the latest two are kept whatever their size.
const MOST_BYTES: u64 = 64 << 20;
const DIR: &str = "history";
const ROLLBACK: &str = "rollback.json";

/// One configuration that was in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its generation.
    pub generation: u32,
    /// When it came into force, seconds since 1970.
    pub applied: u64,
    /// Why.
    pub origin: Origin,
    /// As it was written.
    pub texts: Texts,
}

/// Where a configuration came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// The file, or the directory.
    File,
    /// An earlier generation.
    Rollback(u32),
}

/// A rollback that outlives a restart: as long as the file says `refused`, `generation` is in force in its stead.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rollback {
    /// The text that is not in force.
    pub refused: Texts,
    /// The generation that is.
    pub generation: u32,
}

/// Generations that are kept.
#[derive(Clone, Debug)]
pub struct History {
    keep: Keep,
}

impl Keep {
    /// Its history.
    #[must_use]
    pub fn history(&self) -> History {
        History { keep: self.clone() }
    }
}

impl History {
    /// Generations, the oldest first.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn generations(&self) -> Result<Vec<u32>, KeepError> {
        let path = self.keep.path().join(DIR);
        let failed = |source| KeepError { what: "read", path: path.clone(), source };
        let mut generations = Vec::new();
        match fs::read_dir(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(generations),
            Err(e) => return Err(failed(e)),
            Ok(entries) => {
                for entry in entries {
                    let name = entry.map_err(failed)?.file_name();
                    let number = name.to_str().and_then(|n| n.strip_suffix(".json")?.parse::<u32>().ok());
                    generations.extend(number);
                }
            }
        }
        generations.sort_unstable();
        Ok(generations)
    }

    /// One of them.
    ///
    /// # Errors
    /// When its file cannot be read or understood.
    pub fn get(&self, generation: u32) -> Result<Option<Entry>, KeepError> {
        self.keep.read(&name(generation))
    }

    /// Keeps a configuration, and gives up the oldest where there are too many.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn put(&self, entry: &Entry) -> Result<(), KeepError> {
        self.keep.write(&name(entry.generation), entry)?;
        let generations = self.generations()?;
        let size = |generation: u32| {
            fs::metadata(self.keep.path().join(name(generation))).map_or(0, |metadata| metadata.len())
        };
        let mut bytes = 0;
        for (newer, &generation) in generations.iter().rev().enumerate() {
            bytes += size(generation);
            if newer >= MOST || newer >= 2 && bytes > MOST_BYTES {
                self.keep.remove(&name(generation))?;
            }
        }
        Ok(())
    }

    /// The rollback that is in force.
    ///
    /// # Errors
    /// When its file cannot be read or understood.
    pub fn rollback(&self) -> Result<Option<Rollback>, KeepError> {
        self.keep.read(ROLLBACK)
    }

    /// Keeps a rollback, or ends it.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn set_rollback(&self, rollback: Option<&Rollback>) -> Result<(), KeepError> {
        match rollback {
            Some(rollback) => self.keep.write(ROLLBACK, rollback),
            None => self.keep.remove(ROLLBACK),
        }
    }
}

fn name(generation: u32) -> String {
    format!("{DIR}/{generation:010}.json")
}
