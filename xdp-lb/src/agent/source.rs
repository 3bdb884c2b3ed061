//! Where the configuration comes from: a file, read whole and checked whole.

use std::fmt;
use std::path::{Path, PathBuf};

use crate::{
    config::{self, Checked, ConfigError},
    model::Desired,
};

/// A file that is no configuration, with every mistake in it.
#[derive(Debug)]
pub struct Rejected {
    /// The file.
    pub file: PathBuf,
    /// All of its errors.
    pub errors: Vec<ConfigError>,
}

impl fmt::Display for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for error in &self.errors {
            let file = self.file.display();
            let colon = if error.path.is_empty() { "" } else { ": " };
            writeln!(f, "{file}:{}:{}: {}{colon}{}", error.line, error.column, error.path, error.message)?;
        }
        write!(f, "{} has {} error(s); nothing was changed", self.file.display(), self.errors.len())
    }
}

impl std::error::Error for Rejected {}

/// Reads and checks a configuration file; warnings go to the log.
///
/// # Errors
/// [`Rejected`] for a bad configuration, else why the file cannot be read.
pub fn read(file: &Path) -> anyhow::Result<Desired> {
    use anyhow::Context as _;
    let text = std::fs::read_to_string(file)
        .with_context(|| format!("read the configuration {}", file.display()))?;
    let Checked { desired, warnings } =
        config::parse(&text).map_err(|errors| Rejected { file: file.to_owned(), errors })?;
    for warning in warnings {
        tracing::warn!(line = warning.line, path = %warning.path, "{}", warning.message);
    }
    Ok(desired)
}
