//! Walks the tree by schema: opens mappings against [`super::keys`], hands out items with their paths, and turns
//! every misfit into an error without stopping. Used by [`super::sections`] and [`super::service`].

use super::finding::{Findings, Placed, Spot, quoted};
use super::keys::{Section, Support};
use super::path::Path;
use super::tree::{Entry, Kind, Node};

/// What a leaf parser returns: the value, or what is wrong with the text.
pub(super) type Leaf<T> = Result<T, String>;

/// A value at a path.
#[derive(Clone, Debug)]
pub(super) struct Item<'a> {
    node: &'a Node,
    pub spot: Spot,
    pub findings: &'a Findings,
}

/// A mapping whose keys have been checked.
#[derive(Debug)]
pub(super) struct Mapping<'a> {
    section: &'static Section,
    entries: &'a [Entry],
    pub spot: Spot,
    pub findings: &'a Findings,
}

impl<'a> Item<'a> {
    /// The whole file.
    pub fn root(node: &'a Node, findings: &'a Findings) -> Self {
        Self { node, spot: Spot { pos: node.pos, path: Path::default() }, findings }
    }

    /// The node itself: aliases of one anchor are one.
    pub fn node(&self) -> *const Node {
        self.node
    }

    /// Records a mistake here.
    pub fn fail(&self, message: impl Into<String>) {
        self.findings.error(&self.spot, message);
    }

    /// Opens a mapping: reports what is no mapping, every unknown key and every key of later work.
    pub fn mapping(&self, section: &'static Section) -> Option<Mapping<'a>> {
        let Kind::Mapping(entries) = &self.node.kind else {
            let first = section.keys.first().map_or("key", |key| key.name);
            self.fail(format!("must be a mapping (`{first}: ...`), is {}", self.node.describe()));
            return None;
        };
        for entry in entries.iter().filter(|entry| entry.key != "<<") {
            let spot = || self.spot.key(entry.key.clone(), entry.key_pos);
            match section.find(&entry.key).map(|key| key.support) {
                Some(Support::Now) => {}
                Some(Support::Later) => self.findings.error(&spot(), "not supported yet; remove it"),
                None => self.findings.error(&spot(), format!("unknown key; {}", section.suggest(&entry.key))),
            }
        }
        Some(Mapping { section, entries, spot: self.spot.clone(), findings: self.findings })
    }

    /// The text of a single value.
    pub fn text(&self) -> Option<&'a str> {
        if let Kind::Scalar { text, .. } = &self.node.kind { Some(text) } else { None }
    }

    /// Whether the value is a mapping.
    pub fn is_mapping(&self) -> bool {
        matches!(self.node.kind, Kind::Mapping(_))
    }

    /// The items of a list.
    pub fn list(&self) -> Option<Vec<Item<'a>>> {
        let Kind::List(items) = &self.node.kind else {
            self.fail(format!("must be a list (`[...]` or lines of `- ...`), is {}", self.node.describe()));
            return None;
        };
        Some(self.items(items))
    }

    /// Whether the value is `[]`.
    pub fn list_is_empty(&self) -> bool {
        matches!(&self.node.kind, Kind::List(items) if items.is_empty())
    }

    /// The items of a list, or this one item; an empty list is an error.
    pub fn one_or_more(&self) -> Vec<Item<'a>> {
        match &self.node.kind {
            Kind::List(items) if items.is_empty() => {
                self.fail("must name at least one, is an empty list");
                Vec::new()
            }
            Kind::List(items) => self.items(items),
            _ => vec![self.clone()],
        }
    }

    fn items(&self, items: &'a [std::rc::Rc<Node>]) -> Vec<Item<'a>> {
        // A list joined from several files counts anew in each.
        let (mut file, mut next) = (None, 0);
        let item = |node: &'a std::rc::Rc<Node>| {
            next = if file.replace(node.pos.file) == Some(node.pos.file) { next + 1 } else { 0 };
            Item { node, spot: self.spot.item(next, node.pos), findings: self.findings }
        };
        items.iter().map(item).collect()
    }

    /// A single value.
    pub fn leaf<T>(&self, parse: impl Fn(&str) -> Leaf<T>) -> Option<T> {
        match &self.node.kind {
            _ if self.node.is_null() => self.fail("has no value; write one or remove the key"),
            Kind::Scalar { text, .. } => match parse(text) {
                Ok(value) => return Some(value),
                Err(message) => self.fail(message),
            },
            Kind::List(_) => self.fail("must be a single value, is a list"),
            Kind::Mapping(_) => {
                self.fail("must be a single value, is a mapping; a value with `: ` in it needs quotes")
            }
        }
        None
    }

    /// A single value with its place.
    pub fn placed<T>(&self, parse: impl Fn(&str) -> Leaf<T>) -> Option<Placed<T>> {
        self.leaf(parse).map(|value| Placed { value, spot: self.spot.clone() })
    }
}

impl<'a> Mapping<'a> {
    /// The value of a key, if written.
    pub fn get(&self, key: &'static str) -> Option<Item<'a>> {
        debug_assert!(
            self.section.find(key).is_some(),
            "{key} is missing from the table of {}",
            self.section.path
        );
        let entry = self.entries.iter().find(|entry| entry.key == key)?;
        let pos = if entry.value.is_null() { entry.key_pos } else { entry.value.pos };
        Some(Item { node: &entry.value, spot: self.spot.key(key, pos), findings: self.findings })
    }

    /// The mapping under a key, as if empty when the key is not written; `None` after a mistake.
    pub fn section(&self, key: &'static str, section: &'static Section) -> Option<Mapping<'a>> {
        match self.get(key) {
            Some(item) => item.mapping(section),
            None => Some(Mapping { section, entries: &[], spot: self.under(key), findings: self.findings }),
        }
    }

    /// The value of a key that must be there; `example` completes "add `key: ...`".
    pub fn required(&self, key: &'static str, example: &str) -> Option<Item<'a>> {
        let item = self.get(key);
        if item.is_none() {
            self.findings.error(&self.under(key), format!("missing; add `{key}: {example}`"));
        }
        item
    }

    /// A single value or its default; `None` after a mistake.
    pub fn leaf<T>(&self, key: &'static str, default: T, parse: impl Fn(&str) -> Leaf<T>) -> Option<T> {
        match self.get(key) {
            Some(item) => item.leaf(parse),
            None => Some(default),
        }
    }

    /// A single value or its default, with its place; `None` after a mistake.
    pub fn placed<T>(
        &self,
        key: &'static str,
        default: T,
        parse: impl Fn(&str) -> Leaf<T>,
    ) -> Option<Placed<T>> {
        match self.get(key) {
            Some(item) => item.placed(parse),
            None => Some(Placed { value: default, spot: self.under(key) }),
        }
    }

    /// Where a key that is not written would be.
    pub fn under(&self, key: &'static str) -> Spot {
        self.spot.key(key, self.spot.pos)
    }
}

/// `must be {what}, is "{text}"`.
pub(super) fn must_be<T>(what: &str, text: &str) -> Leaf<T> {
    let shown = if text.bytes().all(|b| b.is_ascii_digit()) && (1..=20).contains(&text.len()) {
        text.to_owned()
    } else {
        quoted(text)
    };
    Err(format!("must be {what}, is {shown}"))
}
