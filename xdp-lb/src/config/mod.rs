//! From a file's text to the desired state, or to everything that is wrong with it.
//!
//! `check`, `run`, `plan`, `decap`, `load` and `explain --config` call [`parse`]; nothing else reads YAML.
//!
//! ```text
//! text --tree--> nodes with lines --reader, leaf--> draft --check--> findings
//!                                    by the table in keys    `--finish--> Desired
//! ```
//!
//! Reading goes on after every mistake: what is wrong becomes `None` in the draft, and later rules skip it, so one
//! mistake is one error. What is no file (a Kubernetes object) comes in by [`import`] and is put beside the file's by
//! [`beside`]. The module is pure: it opens no file and asks no clock.

pub mod accept;
mod affinity;
mod backends;
pub mod beside;
mod bgp;
mod capacity;
mod check;
mod decap;
mod document;
mod draft;
mod finding;
mod finish;
mod health;
pub mod import;
mod join;
mod keys;
mod kubernetes;
mod leaf;
mod limits;
mod overlap;
mod path;
mod peers;
mod reader;
mod sections;
mod service;
#[cfg(test)]
mod tests;
mod tree;
pub mod values;
mod zones;

pub use document::{Document, Kind};
pub use finding::{ConfigError, ConfigWarning};

use std::rc::Rc;
use std::time::Duration;

use crate::model::Desired;
use finding::{Findings, Source, Spot};
use reader::Item;
use tree::Node;

/// A configuration that can be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked {
    /// What it asks for.
    pub desired: Desired,
    /// What in it is seldom meant, in the order of the text.
    pub warnings: Vec<ConfigWarning>,
}

/// Reads and checks a configuration. The errors are all of them, in the order of the text; there is at least one.
///
/// Text that is no YAML at all has its first mistake alone: nothing can be read behind it.
pub fn parse(text: &str) -> Result<Checked, Vec<ConfigError>> {
    let findings = Findings::default();
    read(tree::build(0, text, &findings), findings)
}

/// The same of a configuration in several texts with names, in order: lists of the top level are joined, every other
/// key of the top level may stand in one text alone.
pub fn parse_all(texts: &[(String, String)]) -> Result<Checked, Vec<ConfigError>> {
    parse_with(texts, &[])
}

/// The same with resources beside the texts.
pub fn parse_with(texts: &[(String, String)], documents: &[Document]) -> Result<Checked, Vec<ConfigError>> {
    let files = texts.iter().map(|(name, _)| Source { name: name.clone(), paths: None });
    let resources = documents.iter().map(Document::source);
    let findings = Findings::of(files.chain(resources).collect());
    let all = texts.iter().map(|(_, text)| text).chain(documents.iter().map(|document| &document.text));
    let mut roots: Vec<_> = (0..).zip(all).filter_map(|(n, text)| tree::build(n, text, &findings)).collect();
    let root = if roots.len() == texts.len() + documents.len() {
        let others = roots.split_off(texts.len());
        join::join(roots, documents.iter().map(|document| document.kind).zip(others).collect(), &findings)
    } else {
        None
    };
    read(root, findings)
}

/// A duration as files write it, `30s` or `2h5m`.
#[must_use]
pub fn duration(text: &str) -> Option<Duration> {
    leaf::parse_duration(text)
}

/// The keys of a section of the file, by its path: `bgp.peers[]`.
#[cfg(all(test, feature = "kubernetes"))]
pub(crate) fn keys_of(path: &str) -> Vec<&'static str> {
    let section = keys::ALL.iter().find(|section| section.path == path);
    section.map(|section| section.keys.iter().map(|key| key.name).collect()).unwrap_or_default()
}

fn read(root: Option<Rc<Node>>, findings: Findings) -> Result<Checked, Vec<ConfigError>> {
    let draft = root.as_ref().and_then(|node| sections::read(&Item::root(node, &findings)));
    if let Some(draft) = &draft {
        check::check(draft, &findings);
    }
    let desired = draft.and_then(finish::desired);
    if desired.is_none() && !findings.failed() {
        // A reader dropped a part without saying so. Refusing is the safe side of that.
        findings.error(&Spot::default(), "cannot be used, and xdp-lb cannot say why; please report this");
    }
    let (errors, warnings) = findings.finish();
    match desired {
        Some(desired) if errors.is_empty() => Ok(Checked { desired, warnings }),
        _ => Err(errors),
    }
}
