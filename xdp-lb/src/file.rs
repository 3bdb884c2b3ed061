//! A configuration file: read, checked, and its findings in the form that editors and terminals make clickable.
//! Every command that takes a configuration calls [`read`], and so does the agent when it is told to reload.

use std::{
    fmt,
    io::{self, Read as _},
    path::Path,
};

use anyhow::Context as _;

use crate::config::{self, Checked, ConfigError, ConfigWarning};

/// The name that stands for standard input.
const STDIN: &str = "-";
/// Larger files are no configuration: ten thousand services with ten backends each need a tenth of it.
const LONGEST: u64 = 256 << 20;

/// A configuration that cannot be used. `Display` is all errors, a line each, and a summary; the exit code is 3.
#[derive(Debug, thiserror::Error)]
pub struct Refused {
    /// Name of the file.
    pub file: String,
    /// What is wrong, in the order of the text; never empty.
    pub errors: Vec<ConfigError>,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for error in &self.errors {
            writeln!(f, "{}", line(&self.file, "", error))?;
        }
        write!(f, "{}: {}; nothing was changed", self.file, counted(self.errors.len(), "error"))
    }
}

/// Reads and checks a configuration; `-` is standard input.
///
/// # Errors
/// [`Refused`] for one that cannot be used; else the file could not be read.
pub fn read(path: &Path) -> anyhow::Result<Checked> {
    let (name, text) = text(path)?;
    Ok(check(&name, &text)?)
}

/// Checks the text of the file `name`.
///
/// # Errors
/// [`Refused`].
pub fn check(name: &str, text: &str) -> Result<Checked, Refused> {
    config::parse(text).map_err(|errors| Refused { file: name.to_owned(), errors })
}

/// Name and text of a file; `-` is standard input.
pub(crate) fn text(path: &Path) -> anyhow::Result<(String, String)> {
    let (name, bytes) = if path.as_os_str() == STDIN {
        let bytes = to_end(io::stdin().lock()).context("cannot read standard input")?;
        ("<stdin>".to_owned(), bytes)
    } else {
        let name = path.display().to_string();
        let bytes = std::fs::File::open(path)
            .and_then(to_end)
            .with_context(|| format!("cannot read the configuration {name}"))?;
        (name, bytes)
    };
    let text = String::from_utf8(bytes).with_context(|| format!("{name} is not UTF-8 text"))?;
    Ok((name, text))
}

fn to_end(from: impl io::Read) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if from.take(LONGEST).read_to_end(&mut bytes)? as u64 == LONGEST {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "more than 256 MiB is no configuration"));
    }
    Ok(bytes)
}

/// What errors and warnings have in common.
pub(crate) trait Finding {
    /// Line, column, path and message.
    fn parts(&self) -> (u32, u32, &str, &str);
}

impl Finding for ConfigError {
    fn parts(&self) -> (u32, u32, &str, &str) {
        (self.line, self.column, &self.path, &self.message)
    }
}

impl Finding for ConfigWarning {
    fn parts(&self) -> (u32, u32, &str, &str) {
        (self.line, self.column, &self.path, &self.message)
    }
}

/// `FILE:LINE:COLUMN: path: message`, a form that editors and terminals jump from; `kind` comes before the path.
pub(crate) fn line(file: &str, kind: &str, finding: &impl Finding) -> String {
    let (line, column, path, message) = finding.parts();
    let colon = if path.is_empty() { "" } else { ": " };
    format!("{file}:{line}:{column}: {kind}{path}{colon}{message}")
}

/// `1 error`, `2 errors`.
pub(crate) fn counted(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}
