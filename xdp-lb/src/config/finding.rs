//! What is wrong with a file and where: [`ConfigError`], [`ConfigWarning`], and the sink that every reader and
//! check of this module writes them to, so that one run reports all of them.

use std::borrow::Cow;
use std::cell::RefCell;
use std::fmt;

use serde::Serialize;

use super::path::Path;

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
    pub path: Path,
}

impl Spot {
    /// The spot of `key` below this one, if its value stands at `pos`.
    pub fn key(&self, key: impl Into<Cow<'static, str>>, pos: Pos) -> Self {
        Self { pos, path: self.path.key(key) }
    }

    /// The spot of the item `index` below this one.
    pub fn item(&self, index: usize, pos: Pos) -> Self {
        Self { pos, path: self.path.item(index) }
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
    /// The text's name, where the configuration has several; kind and name of a resource.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// Line, from 1; 0 in a resource, which has none.
    pub line: u32,
    /// Column in characters, from 1; 0 in a resource.
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
    /// The text's name, where the configuration has several; kind and name of a resource.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// Line, from 1; 0 in a resource, which has none.
    pub line: u32,
    /// Column in characters, from 1; 0 in a resource.
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
    match file {
        Some(file) if line == 0 => write!(f, "{file}: ")?,
        Some(file) => write!(f, "{file}, line {line}, column {column}: ")?,
        None => write!(f, "line {line}, column {column}: ")?,
    }
    if !path.is_empty() {
        write!(f, "{path}: ")?;
    }
    f.write_str(message)
}

/// Where a text comes from, and how its places are told.
#[derive(Debug)]
pub(super) struct Source {
    pub name: String,
    /// Paths of a resource, as the tree has them and as its writer knows them. `None`: a file, with lines.
    pub paths: Option<&'static [(&'static str, &'static str)]>,
}

impl Source {
    /// The path as its writer knows it.
    fn path(&self, path: &str) -> String {
        for (inside, outside) in self.paths.into_iter().flatten() {
            match path.strip_prefix(inside) {
                Some(rest) if inside.is_empty() && !rest.is_empty() => return format!("{outside}.{rest}"),
                Some(rest) if rest.is_empty() || rest.starts_with(['.', '[']) => {
                    return format!("{outside}{rest}");
                }
                _ => {}
            }
        }
        path.to_owned()
    }
}

/// Collects findings; shared by reference, so a reader may hold it while its children do.
#[derive(Debug, Default)]
pub(super) struct Findings {
    /// The texts; without them there is one, without a name.
    sources: Vec<Source>,
    errors: RefCell<Vec<(Pos, ConfigError)>>,
    warnings: RefCell<Vec<(Pos, ConfigWarning)>>,
}

impl Findings {
    /// About several texts.
    pub fn of(sources: Vec<Source>) -> Self {
        Self { sources, ..Self::default() }
    }

    /// Records a mistake.
    pub fn error(&self, spot: &Spot, message: impl Into<String>) {
        let Told { file, line, column, path } = self.told(spot);
        let error = ConfigError { file, line, column, path, message: message.into() };
        self.errors.borrow_mut().push((spot.pos, error));
    }

    /// Records a warning.
    pub fn warn(&self, spot: &Spot, message: impl Into<String>) {
        let Told { file, line, column, path } = self.told(spot);
        let warning = ConfigWarning { file, line, column, path, message: message.into() };
        self.warnings.borrow_mut().push((spot.pos, warning));
    }

    /// How a message at `here` names `other`: by its path, and by file and line, or by the resource, where that is another.
    pub fn cite(&self, here: &Spot, other: &Spot) -> String {
        match self.told(other) {
            Told { file: Some(file), line, path, .. } if here.pos.file != other.pos.file => match line {
                0 => format!("{file}: {path}"),
                _ => format!("{path} in {file}, line {line}"),
            },
            Told { path, .. } => path,
        }
    }

    /// Whether a spot is in a resource, not in a file.
    pub fn is_resource(&self, spot: &Spot) -> bool {
        self.source(spot).is_some_and(|source| source.paths.is_some())
    }

    fn source(&self, spot: &Spot) -> Option<&Source> {
        self.sources.get(usize::from(spot.pos.file))
    }

    fn told(&self, spot: &Spot) -> Told {
        let Pos { line, column, .. } = spot.pos;
        match self.source(spot) {
            None => Told { file: None, line, column, path: spot.path.to_string() },
            Some(source) => {
                let file = Some(source.name.clone());
                let (line, column) = if source.paths.is_some() { (0, 0) } else { (line, column) };
                Told { file, line, column, path: source.path(&spot.path.to_string()) }
            }
        }
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

/// A place as it is told.
struct Told {
    file: Option<String>,
    line: u32,
    column: u32,
    path: String,
}

/// `text` in quotes, shortened: a message must stay readable whatever the file holds.
pub(super) fn quoted(text: &str) -> String {
    const SHOWN: usize = 60;
    if text.chars().count() <= SHOWN {
        return format!("{text:?}");
    }
    format!("{:?}...", text.chars().take(SHOWN).collect::<String>())
}
