//! What is wrong with a file and where: [`ConfigError`], [`ConfigWarning`], and the sink that every reader and
//! check of this module writes them to, so that one run reports all of them.

use std::cell::RefCell;
use std::fmt;

use serde::Serialize;

/// A place in the text; line and column count from 1, columns in characters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Pos {
    /// Which of the texts, from 0.
    pub file: u16,
    pub line: u32,
    pub column: u32,
}

/// A place in the text together with its path in the configuration.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Spot {
    pub pos: Pos,
    pub path: String,
}

impl Spot {
    /// The spot of `key` below this one, if its value stands at `pos`.
    pub fn key(&self, key: &str, pos: Pos) -> Self {
        let plain =
            !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
        let key = if plain { key.to_owned() } else { quoted(key) };
        let path = if self.path.is_empty() { key } else { format!("{}.{key}", self.path) };
        Self { pos, path }
    }

    /// The spot of the item `index` below this one.
    pub fn item(&self, index: usize, pos: Pos) -> Self {
        Self { pos, path: format!("{}[{index}]", self.path) }
    }
}

/// A value and where it was written (or, for a default, what it would have been written under).
#[derive(Clone, Debug)]
pub(super) struct Placed<T> {
    pub value: T,
    pub spot: Spot,
}

/// A mistake: the file cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, thiserror::Error)]
pub struct ConfigError {
    /// The text's name, where the configuration has several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// Line, from 1.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
    /// The key, as `services[2].backends[0].weight`; empty for the whole file.
    pub path: String,
    /// What is wrong and what to do.
    pub message: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        show(f, self.file.as_deref(), (self.line, self.column), &self.path, &self.message)
    }
}

/// Something allowed that is seldom meant.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct ConfigWarning {
    /// The text's name, where the configuration has several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// Line, from 1.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
    /// The key; empty for the whole file.
    pub path: String,
    /// What follows from it.
    pub message: String,
}

impl fmt::Display for ConfigWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        show(f, self.file.as_deref(), (self.line, self.column), &self.path, &self.message)
    }
}

fn show(
    f: &mut fmt::Formatter<'_>,
    file: Option<&str>,
    (line, column): (u32, u32),
    path: &str,
    message: &str,
) -> fmt::Result {
    if let Some(file) = file {
        write!(f, "{file}, ")?;
    }
    write!(f, "line {line}, column {column}: ")?;
    if !path.is_empty() {
        write!(f, "{path}: ")?;
    }
    f.write_str(message)
}

/// Collects findings; shared by reference, so a reader may hold it while its children do.
#[derive(Debug, Default)]
pub(super) struct Findings {
    /// Names of the texts; without them there is one.
    files: Vec<String>,
    errors: RefCell<Vec<(Pos, ConfigError)>>,
    warnings: RefCell<Vec<(Pos, ConfigWarning)>>,
}

impl Findings {
    /// About several texts with these names.
    pub fn of(files: Vec<String>) -> Self {
        Self { files, ..Self::default() }
    }

    /// Records a mistake.
    pub fn error(&self, spot: &Spot, message: impl Into<String>) {
        let (Pos { line, column, .. }, path, file) = (spot.pos, spot.path.clone(), self.file(spot));
        let error = ConfigError { file, line, column, path, message: message.into() };
        self.errors.borrow_mut().push((spot.pos, error));
    }

    /// Records a warning.
    pub fn warn(&self, spot: &Spot, message: impl Into<String>) {
        let (Pos { line, column, .. }, path, file) = (spot.pos, spot.path.clone(), self.file(spot));
        let warning = ConfigWarning { file, line, column, path, message: message.into() };
        self.warnings.borrow_mut().push((spot.pos, warning));
    }

    /// How a message at `here` names `other`: by its path, and by file and line where that is another file.
    pub fn cite(&self, here: &Spot, other: &Spot) -> String {
        match self.file(other) {
            Some(file) if here.pos.file != other.pos.file => {
                format!("{} in {file}, line {}", other.path, other.pos.line)
            }
            _ => other.path.clone(),
        }
    }

    fn file(&self, spot: &Spot) -> Option<String> {
        self.files.get(usize::from(spot.pos.file)).cloned()
    }

    /// Mistakes and warnings so far.
    pub fn count(&self) -> usize {
        self.errors.borrow().len() + self.warnings.borrow().len()
    }

    /// Whether any mistake was recorded.
    pub fn failed(&self) -> bool {
        !self.errors.borrow().is_empty()
    }

    /// All mistakes and all warnings, each in the order of the text.
    pub fn finish(self) -> (Vec<ConfigError>, Vec<ConfigWarning>) {
        let (mut errors, mut warnings) = (self.errors.into_inner(), self.warnings.into_inner());
        errors.sort();
        warnings.sort();
        let plain = |errors: Vec<(Pos, _)>| errors.into_iter().map(|(_, error)| error).collect();
        (plain(errors), warnings.into_iter().map(|(_, warning)| warning).collect())
    }
}

/// `text` in quotes, shortened: a message must stay readable whatever the file holds.
pub(super) fn quoted(text: &str) -> String {
    const SHOWN: usize = 60;
    if text.chars().count() <= SHOWN {
        return format!("{text:?}");
    }
    format!("{:?}...", text.chars().take(SHOWN).collect::<String>())
}
