//! The path of a key, `services[2].backends[0].weight`: told with what is wrong there, and hardly ever is something.
//!
//! A path is its last step and the path above it, which all that is below shares; only a finding puts it into words.

use std::borrow::Cow;
use std::fmt;
use std::rc::Rc;

use super::finding::quoted;

/// A path. The empty one is the whole file.
#[derive(Clone, Default)]
pub(super) struct Path(Option<Rc<Step>>);

struct Step {
    above: Path,
    name: Name,
}

#[derive(PartialEq, Eq)]
enum Name {
    Key(Cow<'static, str>),
    Item(usize),
    /// In words already.
    Words(Box<str>),
}

impl Path {
    /// One that is known in words.
    pub fn of(words: &str) -> Self {
        if words.is_empty() { Self::default() } else { Self::default().below(Name::Words(words.into())) }
    }

    /// Of a key below this one.
    pub fn key(&self, key: impl Into<Cow<'static, str>>) -> Self {
        self.below(Name::Key(key.into()))
    }

    /// Of an item below this one, counted from 0.
    pub fn item(&self, index: usize) -> Self {
        self.below(Name::Item(index))
    }

    fn below(&self, name: Name) -> Self {
        Self(Some(Rc::new(Step { above: self.clone(), name })))
    }

    /// The same place below `new`, if this is `old` or below it.
    pub fn moved(&self, old: &Self, new: &Self) -> Option<Self> {
        if self == old {
            return Some(new.clone());
        }
        let step = self.0.as_ref()?;
        let name = match &step.name {
            Name::Key(key) => Name::Key(key.clone()),
            Name::Item(index) => Name::Item(*index),
            Name::Words(_) => return None,
        };
        Some(step.above.moved(old, new)?.below(name))
    }
}

impl PartialEq for Path {
    fn eq(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (None, None) => true,
            (Some(a), Some(b)) => Rc::ptr_eq(a, b) || (a.name == b.name && a.above == b.above),
            _ => false,
        }
    }
}

impl Eq for Path {}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(step) = &self.0 else { return Ok(()) };
        fmt::Display::fmt(&step.above, f)?;
        match &step.name {
            Name::Item(index) => write!(f, "[{index}]"),
            Name::Words(words) => f.write_str(words),
            Name::Key(key) => {
                if step.above.0.is_some() {
                    f.write_str(".")?;
                }
                let is_plain = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
                if !key.is_empty() && key.bytes().all(is_plain) {
                    f.write_str(key)
                } else {
                    f.write_str(&quoted(key))
                }
            }
        }
    }
}

impl fmt::Debug for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
