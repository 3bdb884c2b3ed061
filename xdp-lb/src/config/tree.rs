//! YAML text into a tree whose every node knows its line and column.
//!
//! One parser makes both structure and positions, so they cannot disagree. Scalars stay text: the reader knows
//! which type it wants at a path, and so neither `zone: no` nor a MAC address is ever taken for something else.
//! Called by [`super::parse`] alone. Anchors and aliases work (two services with one list of backends); tags,
//! merge keys and several documents do not.

use std::collections::HashMap;
use std::rc::Rc;

use saphyr_parser::{Event, Marker, Parser, ScalarStyle};

use super::finding::{Findings, Pos, Spot, quoted};
use super::path::Path;

/// Nesting beyond this is no configuration.
const MAX_DEPTH: usize = 32;
/// Nodes after every alias has been followed: a bound on the work a small file can ask for. Each alias in a chain of
/// them counts all that it holds, so this bounds a chain, and with it the recursion of `Drop`, to 3500 levels. Ten thousand services over
/// lists of a hundred backends with their weights are 4 million.
const MAX_NODES: u64 = 6_000_000;

/// One value of the file.
#[derive(Debug)]
pub(super) struct Node {
    pub pos: Pos,
    pub kind: Kind,
    /// Nodes in this subtree, aliases followed.
    pub size: u64,
}

/// What a value is.
#[derive(Debug)]
pub(super) enum Kind {
    /// A word, number or quoted text; `plain` when written without quotes.
    Scalar { text: String, plain: bool },
    /// `[a, b]` or lines of `- a`.
    List(Vec<Rc<Node>>),
    /// `{a: b}` or lines of `a: b`; keys are unique.
    Mapping(Vec<Entry>),
}

/// One key of a mapping.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub key: String,
    pub key_pos: Pos,
    pub value: Rc<Node>,
}

impl Node {
    /// A single value that nobody wrote into a file.
    pub fn scalar(text: String) -> Rc<Self> {
        Rc::new(Self { pos: FIRST, kind: Kind::Scalar { text, plain: false }, size: 1 })
    }

    /// A list that nobody wrote into a file.
    pub fn list(items: Vec<Rc<Self>>) -> Rc<Self> {
        Rc::new(Self { pos: FIRST, kind: Kind::List(items), size: 1 })
    }

    /// A mapping that nobody wrote into a file; keys must be unique.
    pub fn mapping(entries: impl IntoIterator<Item = (String, Rc<Self>)>) -> Rc<Self> {
        let entry = |(key, value)| Entry { key, key_pos: FIRST, value };
        Rc::new(Self { pos: FIRST, kind: Kind::Mapping(entries.into_iter().map(entry).collect()), size: 1 })
    }

    /// Whether nothing was written: `key:` or an explicit null.
    pub fn is_null(&self) -> bool {
        matches!(&self.kind, Kind::Scalar { text, plain: true } if matches!(text.as_str(), "" | "~" | "null"))
    }

    /// What this is, for a message.
    pub fn describe(&self) -> String {
        match &self.kind {
            _ if self.is_null() => "empty".to_owned(),
            Kind::Scalar { text, .. } => quoted(text),
            Kind::List(_) => "a list".to_owned(),
            Kind::Mapping(_) => "a mapping".to_owned(),
        }
    }
}

/// Builds the tree. `None` after a mistake that leaves no tree; milder ones are recorded and passed over.
pub(super) fn build(file: u16, text: &str, findings: &Findings) -> Option<Rc<Node>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let pos = |marker| pos(file, marker);
    let mut builder = Builder { findings, open: Vec::new(), anchors: HashMap::new(), root: None };
    for step in Parser::new_from_str(text) {
        let (event, span) = match step {
            Ok(step) => step,
            Err(error) => {
                let spot = Spot { pos: pos(*error.marker()), path: Path::default() };
                findings.error(&spot, syntax_message(text, spot.pos, error.info()));
                return None;
            }
        };
        builder.event(event, pos(span.start))?;
    }
    if builder.root.is_none() {
        let first = Pos { file, line: 1, column: 1 };
        findings
            .error(&Spot { pos: first, path: Path::default() }, "the file is empty; start with `version: 1`");
    }
    builder.root
}

/// Where a text begins, and the place of what stands in none.
pub(super) const FIRST: Pos = Pos { file: 0, line: 1, column: 1 };

/// The scanner counts lines from 1 and columns from 0.
fn pos(file: u16, marker: Marker) -> Pos {
    let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    Pos { file, line: number(marker.line().max(1)), column: number(marker.col().saturating_add(1)) }
}

/// A tab in the indentation is the commonest mistake and the one the scanner words worst.
fn syntax_message(text: &str, at: Pos, info: &str) -> String {
    let near = (at.line as usize).saturating_sub(2);
    let indented_by_tab = |line: &str| line[..line.len() - line.trim_start().len()].contains('\t');
    if text.lines().skip(near).take(2).any(indented_by_tab) {
        return format!("not YAML: {info}; indent with spaces, never with tabs");
    }
    format!("not YAML: {info}")
}

/// A collection whose end has not been seen.
struct Open {
    pos: Pos,
    anchor: usize,
    items: Items,
    size: u64,
}

enum Items {
    List(Vec<Rc<Node>>),
    Mapping { entries: Vec<Entry>, key: Option<(String, Pos)> },
}

struct Builder<'a> {
    findings: &'a Findings,
    open: Vec<Open>,
    anchors: HashMap<usize, Rc<Node>>,
    root: Option<Rc<Node>>,
}

impl Builder<'_> {
    /// Takes one event; `None` ends the build.
    fn event(&mut self, event: Event<'_>, pos: Pos) -> Option<()> {
        match event {
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => Some(()),
            Event::DocumentStart(_) if self.root.is_some() => {
                self.fatal(pos, "a second document starts here; one file holds one configuration")
            }
            Event::DocumentStart(_) => Some(()),
            Event::Alias(id) => self.alias(id, pos),
            Event::Scalar(text, style, anchor, tag) => {
                self.refuse_tag(tag.is_some(), pos);
                let plain = style == ScalarStyle::Plain;
                if self.expects_key() {
                    return self.key(&text, plain, pos);
                }
                let kind = Kind::Scalar { text: text.into_owned(), plain };
                self.add(Rc::new(Node { pos, kind, size: 1 }), anchor, pos)
            }
            Event::SequenceStart(anchor, tag) => {
                self.start(Items::List(Vec::new()), anchor, tag.is_some(), pos)
            }
            Event::MappingStart(anchor, tag) => {
                self.start(Items::Mapping { entries: Vec::new(), key: None }, anchor, tag.is_some(), pos)
            }
            Event::SequenceEnd | Event::MappingEnd => self.end(),
        }
    }

    fn start(&mut self, items: Items, anchor: usize, tagged: bool, pos: Pos) -> Option<()> {
        self.refuse_tag(tagged, pos);
        if self.expects_key() {
            return self
                .fatal(pos, "a key must be a word; a value with braces or brackets in it needs quotes");
        }
        if self.open.len() >= MAX_DEPTH {
            return self.fatal(pos, "nested too deeply for a configuration");
        }
        self.open.push(Open { pos, anchor, items, size: 1 });
        Some(())
    }

    fn end(&mut self) -> Option<()> {
        let Open { pos, anchor, items, size } = self.open.pop()?;
        let kind = match items {
            Items::List(items) => Kind::List(items),
            Items::Mapping { entries, .. } => Kind::Mapping(entries),
        };
        self.add(Rc::new(Node { pos, kind, size }), anchor, pos)
    }

    fn alias(&mut self, id: usize, pos: Pos) -> Option<()> {
        if self.expects_key() {
            return self.fatal(pos, "an alias cannot be a key; write the key out");
        }
        let Some(node) = self.anchors.get(&id).cloned() else {
            return self.fatal(pos, "this alias stands inside its own anchor");
        };
        self.add(node, 0, pos)
    }

    /// Puts a finished value where it belongs.
    fn add(&mut self, node: Rc<Node>, anchor: usize, pos: Pos) -> Option<()> {
        if anchor != 0 {
            self.anchors.insert(anchor, Rc::clone(&node));
        }
        let Some(parent) = self.open.last_mut() else {
            self.root = Some(node);
            return Some(());
        };
        parent.size = parent.size.saturating_add(node.size);
        if parent.size > MAX_NODES {
            return self.fatal(pos, "the aliases unfold to more than a configuration can hold");
        }
        match &mut parent.items {
            Items::List(items) => items.push(node),
            Items::Mapping { entries, key } => {
                let (key, key_pos) = key.take()?;
                // The first of two equal keys counts; the second was reported when it was read.
                if !entries.iter().any(|entry| entry.key == key) {
                    entries.push(Entry { key, key_pos, value: node });
                }
            }
        }
        Some(())
    }

    fn key(&mut self, text: &str, plain: bool, pos: Pos) -> Option<()> {
        let Some(Open { items: Items::Mapping { entries, .. }, .. }) = self.open.last() else {
            return None;
        };
        if let Some(first) = entries.iter().find(|entry| entry.key == text) {
            let message = format!("written twice, first on line {}; remove one", first.key_pos.line);
            self.findings.error(&self.path().key(text.to_owned(), pos), message);
        } else if plain && text == "<<" {
            let message = "merge keys are not supported; write the keys out";
            self.findings.error(&self.path().key(text.to_owned(), pos), message);
        }
        if let Some(Open { items: Items::Mapping { key, .. }, .. }) = self.open.last_mut() {
            *key = Some((text.to_owned(), pos));
        }
        Some(())
    }

    fn expects_key(&self) -> bool {
        matches!(self.open.last(), Some(Open { items: Items::Mapping { key: None, .. }, .. }))
    }

    fn refuse_tag(&self, tagged: bool, pos: Pos) {
        if tagged {
            self.findings
                .error(&Spot { pos, ..self.path() }, "YAML tags are not supported; remove the `!` word");
        }
    }

    fn fatal(&self, pos: Pos, message: &str) -> Option<()> {
        self.findings.error(&Spot { pos, ..self.path() }, message);
        None
    }

    /// Path of the value that is being read.
    fn path(&self) -> Spot {
        self.open.iter().fold(Spot::default(), |spot, open| match &open.items {
            Items::List(items) => spot.item(items.len(), open.pos),
            Items::Mapping { key: Some((key, pos)), .. } => spot.key(key.clone(), *pos),
            Items::Mapping { key: None, .. } => spot,
        })
    }
}
