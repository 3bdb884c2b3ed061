//! A file over 700 lines usually holds two ideas. Only a warning: generated tables and golden rows may be long.

use std::path::Path;

use anyhow::{Context as _, Result};

use super::Outcome;
use super::source::files;

const LINES: usize = 700;

/// Counts lines.
pub fn check(root: &Path) -> Result<Outcome> {
    let mut long = Vec::new();
    for file in files(root)? {
        let text =
            std::fs::read_to_string(root.join(&file)).with_context(|| format!("read {}", file.display()))?;
        let lines = text.lines().count();
        if lines > LINES {
            long.push(format!("{} has {lines} lines", file.display()));
        }
    }
    Ok(if long.is_empty() { Outcome::Clean(String::new()) } else { Outcome::Warned(long.join(", ")) })
}
