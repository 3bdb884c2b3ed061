//! Several files into one tree. Called by [`super::parse_all`].
//!
//! ```text
//!   10-node.yaml   version: 1, interfaces, encap, services: [a]       version, interfaces, encap,
//!   20-sip.yaml    version: 1, services: [b, c]                 -->   services: [a, b, c]
//! ```
//!
//! Lists are joined in the order of the files. Everything else may stand in one file alone: two halves of a `bgp` would
//! each look whole to whoever reads one of them.

use std::rc::Rc;

use super::finding::{Findings, Spot};
use super::tree::{Entry, Kind, Node};

/// One tree of all of them; `None` when there is none or a file's top level is no mapping.
pub(super) fn join(roots: Vec<Rc<Node>>, findings: &Findings) -> Option<Rc<Node>> {
    let [first, rest @ ..] = &roots[..] else {
        findings.error(&Spot::default(), "there is no file; start one with `version: 1`");
        return None;
    };
    if rest.is_empty() {
        return Some(Rc::clone(first));
    }
    let mut joined: Vec<Entry> = Vec::new();
    for root in &roots {
        for entry in mapping(root, findings)? {
            let Some(before) = joined.iter_mut().find(|other| other.key == entry.key) else {
                joined.push(Entry { value: Rc::clone(&entry.value), key: entry.key.clone(), ..*entry });
                continue;
            };
            add(before, entry, findings);
        }
    }
    versions(&roots, &joined, findings);
    let size = roots.iter().map(|root| root.size).sum();
    Some(Rc::new(Node { pos: first.pos, kind: Kind::Mapping(joined), size }))
}

fn mapping<'a>(root: &'a Node, findings: &Findings) -> Option<&'a [Entry]> {
    if let Kind::Mapping(entries) = &root.kind {
        return Some(entries);
    }
    let spot = Spot { pos: root.pos, path: String::new() };
    findings.error(&spot, format!("must be a mapping (`version: 1`), is {}", root.describe()));
    None
}

/// A key that an earlier file has, too.
fn add(before: &mut Entry, entry: &Entry, findings: &Findings) {
    match (&before.value.kind, &entry.value.kind) {
        (Kind::List(first), Kind::List(more)) => {
            let kind = Kind::List(first.iter().chain(more).map(Rc::clone).collect());
            let size = before.value.size + entry.value.size;
            before.value = Rc::new(Node { pos: before.value.pos, kind, size });
        }
        _ if entry.key == "version" => {}
        _ => {
            let spot = |entry: &Entry| Spot::default().key(&entry.key, entry.key_pos);
            let here = spot(entry);
            let first = findings.cite(&here, &spot(before));
            findings
                .error(&here, format!("stands in another file, too ({first}); one file alone may have it"));
        }
    }
}

/// Every file says which format it has. The reader judges the one that is in the joined tree, or misses it.
fn versions(roots: &[Rc<Node>], joined: &[Entry], findings: &Findings) {
    let Some(read) = joined.iter().find(|entry| entry.key == "version") else { return };
    for root in roots {
        let Kind::Mapping(entries) = &root.kind else { continue };
        let spot = |pos| Spot::default().key("version", pos);
        match entries.iter().find(|entry| entry.key == "version") {
            None => findings.error(&spot(root.pos), "missing; add `version: 1`"),
            Some(own) if Rc::ptr_eq(&own.value, &read.value) => {}
            Some(own) => match &own.value.kind {
                Kind::Scalar { text, .. } if text == "1" => {}
                _ => {
                    let message =
                        format!("must be 1, the only version there is, is {}", own.value.describe());
                    findings.error(&spot(own.value.pos), message);
                }
            },
        }
    }
}
