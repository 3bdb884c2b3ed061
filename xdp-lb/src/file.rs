//! A configuration, one file or a directory of them: read, checked, and its findings in the form that editors and
//! terminals make clickable. Every command that takes a configuration calls [`read`]; the agent's intake does when
//! something changes.

pub(crate) mod environment;
mod secret;
pub mod stamp;

use std::{
    fmt,
    io::{self, Read as _},
    path::Path,
};

use anyhow::{Context as _, bail, ensure};
use serde::{Deserialize, Serialize};

pub use self::secret::secret;
pub use self::stamp::Stamp;
use crate::config::{self, Checked, ConfigError, ConfigWarning, Document};

/// The name that stands for standard input.
pub(crate) const STDIN: &str = "-";
/// Larger files are no configuration: ten thousand services with ten backends each need a tenth of it.
const LONGEST: u64 = 256 << 20;
/// How often a configuration is read that changes meanwhile.
const TRIES: usize = 5;

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

/// The texts of a configuration, read and not yet judged.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Texts {
    /// Name of the file or the directory.
    pub name: String,
    kind: Kind,
}

/// One file, or those of a directory by name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    One(String),
    Several(Vec<(String, String)>),
}

impl Texts {
    /// One text under a name.
    #[must_use]
    pub fn one(name: &str, text: &str) -> Self {
        Self { name: name.to_owned(), kind: Kind::One(text.to_owned()) }
    }

    /// Every file with its text.
    pub fn files(&self) -> impl Iterator<Item = (&str, &str)> {
        let (one, several) = match &self.kind {
            Kind::One(text) => (Some((&*self.name, &**text)), &[][..]),
            Kind::Several(texts) => (None, &texts[..]),
        };
        one.into_iter().chain(several.iter().map(|(name, text)| (&**name, &**text)))
    }

    /// Checks them.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn check(&self) -> Result<Checked, Refused> {
        self.check_with(&[])
    }

    /// Checks them together with resources.
    ///
    /// # Errors
    /// [`Refused`].
    pub fn check_with(&self, documents: &[Document]) -> Result<Checked, Refused> {
        let refused = |errors| Refused { file: self.name.clone(), errors };
        if !documents.is_empty() {
            let files: Vec<_> = self.files().map(|(name, text)| (name.to_owned(), text.to_owned())).collect();
            let documents = environment::expand_all(documents, |name| std::env::var(name).ok());
            return documents.and_then(|all| config::parse_with(&files, &all)).map_err(refused);
        }
        let checked = match &self.kind {
            Kind::One(text) => config::parse(text),
            Kind::Several(texts) => config::parse_all(texts),
        };
        checked.map_err(refused)
    }
}

/// Reads and checks a configuration: a file, a directory of files, or `-` for standard input.
///
/// # Errors
/// [`Refused`] for one that cannot be used; else it could not be read.
pub fn read(path: &Path) -> anyhow::Result<Checked> {
    Ok(texts(path)?.check()?)
}

/// Checks the text of the file `name`.
///
/// # Errors
/// [`Refused`].
pub fn check(name: &str, text: &str) -> Result<Checked, Refused> {
    Texts::one(name, text).check()
}

/// Reads a configuration: a file, the files of a directory by name, or `-` for standard input.
///
/// # Errors
/// What cannot be read, or that it was never twice the same.
pub fn texts(path: &Path) -> anyhow::Result<Texts> {
    if path.as_os_str() == STDIN {
        let text = utf8("standard input", to_end(io::stdin().lock()))?;
        return Ok(Texts { name: "<stdin>".to_owned(), kind: Kind::One(text) });
    }
    let name = path.display().to_string();
    // Half of an old and half of a new directory is neither.
    for _ in 0..TRIES {
        let before = Stamp::of(path).with_context(|| format!("cannot read the configuration {name}"))?;
        let kind = contents(path, &name, &before)?;
        if Stamp::of(path).is_ok_and(|after| after == before) {
            return Ok(Texts { name, kind });
        }
    }
    bail!("the configuration {name} keeps changing while it is read")
}

fn contents(path: &Path, name: &str, stamp: &Stamp) -> anyhow::Result<Kind> {
    let open = |path: &Path| utf8(&path.display().to_string(), std::fs::File::open(path).and_then(to_end));
    if !stamp.is_directory() {
        return open(path).map(Kind::One);
    }
    let texts: Vec<_> = stamp
        .files()
        .map(|file| Ok((file.display().to_string(), open(file)?)))
        .collect::<anyhow::Result<_>>()?;
    ensure!(!texts.is_empty(), "there is no file *.yaml or *.yml in the directory {name}");
    Ok(Kind::Several(texts))
}

fn utf8(name: &str, bytes: io::Result<Vec<u8>>) -> anyhow::Result<String> {
    let bytes = bytes.with_context(|| format!("cannot read the configuration {name}"))?;
    let text = String::from_utf8(bytes).with_context(|| format!("{name} is not UTF-8 text"))?;
    let refused = |errors| Refused { file: name.to_owned(), errors };
    Ok(environment::expand(&text, |name| std::env::var(name).ok()).map_err(refused)?)
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
    /// File where there are several, line, column, path and message.
    fn parts(&self) -> (Option<&str>, u32, u32, &str, &str);
}

impl Finding for ConfigError {
    fn parts(&self) -> (Option<&str>, u32, u32, &str, &str) {
        (self.file.as_deref(), self.line, self.column, &self.path, &self.message)
    }
}

impl Finding for ConfigWarning {
    fn parts(&self) -> (Option<&str>, u32, u32, &str, &str) {
        (self.file.as_deref(), self.line, self.column, &self.path, &self.message)
    }
}

/// `FILE:LINE:COLUMN: path: message`, a form that editors and terminals jump from; `kind` comes before the path.
pub(crate) fn line(file: &str, kind: &str, finding: &impl Finding) -> String {
    let (own, line, column, path, message) = finding.parts();
    let file = own.unwrap_or(file);
    let colon = if path.is_empty() { "" } else { ": " };
    if line == 0 {
        return format!("{file}: {kind}{path}{colon}{message}");
    }
    format!("{file}:{line}:{column}: {kind}{path}{colon}{message}")
}

/// `1 error`, `2 errors`.
pub(crate) fn counted(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}
