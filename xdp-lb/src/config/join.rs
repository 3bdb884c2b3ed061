//! Several files, and resources beside them, into one tree. Called by [`super::parse_with`].
//!
//! ```text
//!   10-node.yaml      version: 1, interfaces, services: [a]       version, interfaces, encap,
//!   20-sip.yaml       version: 1, services: [b, c]           -->  services: [a, b, c],
//!   EdgeConfig edge   encap, bgp                                  bgp: ..., peers: [r]
//!   BgpPeer r         one of bgp.peers
//! ```
//!
//! Lists are joined in this order. Everything else may stand in one place alone: two halves of a `bgp` would each look whole to
//! whoever reads one of them. Its peers are the exception, for each is a whole.

use std::rc::Rc;

use super::document::{self, SHARED};
use super::finding::{Findings, Spot};
use super::path::Path;
use super::tree::{Entry, Kind, Node};

/// One tree of all of them; `None` when there is no file or one's top level is no mapping.
pub(super) fn join(
    files: Vec<Rc<Node>>,
    documents: Vec<(document::Kind, Rc<Node>)>,
    findings: &Findings,
) -> Option<Rc<Node>> {
    let [first, rest @ ..] = &files[..] else {
        findings.error(&Spot::default(), "there is no file; start one with `version: 1`");
        return None;
    };
    if rest.is_empty() && documents.is_empty() {
        return Some(Rc::clone(first));
    }
    let mut joined: Vec<Entry> = Vec::new();
    let sections = documents.iter().filter(|(kind, _)| *kind == document::Kind::Sections);
    for root in files.iter().chain(sections.map(|(_, root)| root)) {
        for entry in mapping(root, findings)? {
            let at = Spot::default().key(entry.key.clone(), entry.key_pos);
            if findings.is_resource(&at) && !SHARED.contains(&&*entry.key) {
                findings.error(&at, "belongs into the files of the nodes");
                continue;
            }
            let Some(before) = joined.iter_mut().find(|other| other.key == entry.key) else {
                joined.push(entry.clone());
                continue;
            };
            add(before, entry, findings);
        }
    }
    for (_, root) in documents.iter().filter(|(kind, _)| *kind == document::Kind::Peer) {
        add_peer(&mut joined, root, findings);
    }
    versions(&files, &joined, findings);
    let size = files.iter().chain(documents.iter().map(|(_, root)| root)).map(|root| root.size).sum();
    Some(Rc::new(Node { pos: first.pos, kind: Kind::Mapping(joined), size }))
}

fn mapping<'a>(root: &'a Node, findings: &Findings) -> Option<&'a [Entry]> {
    if let Kind::Mapping(entries) = &root.kind {
        return Some(entries);
    }
    let spot = Spot { pos: root.pos, path: Path::default() };
    findings.error(&spot, format!("must be a mapping (`version: 1`), is {}", root.describe()));
    None
}

/// A key that is there already.
fn add(before: &mut Entry, entry: &Entry, findings: &Findings) {
    match (&before.value.kind, &entry.value.kind) {
        (Kind::List(..), Kind::List(..)) => before.value = longer(&before.value, &entry.value),
        _ if entry.key == "version" => {}
        _ => {
            let spot = |entry: &Entry| Spot::default().key(entry.key.clone(), entry.key_pos);
            let here = spot(entry);
            let first = findings.cite(&here, &spot(before));
            let message = if findings.is_resource(&here) {
                format!("stands elsewhere, too ({first}); one place alone may have it")
            } else {
                format!("stands in another file, too ({first}); one file alone may have it")
            };
            findings.error(&here, message);
        }
    }
}

/// Two lists, one behind the other.
fn longer(first: &Node, more: &Node) -> Rc<Node> {
    let items = [first, more].into_iter().flat_map(|node| match &node.kind {
        Kind::List(items) => items.as_slice(),
        _ => &[],
    });
    let kind = Kind::List(items.map(Rc::clone).collect());
    Rc::new(Node { pos: first.pos, kind, size: first.size + more.size })
}

/// One more router. Who we are must be said elsewhere.
fn add_peer(joined: &mut [Entry], root: &Node, findings: &Findings) {
    let Some(peers) = value(root, "bgp").and_then(|bgp| value(bgp, "peers")) else { return };
    let Some(bgp) = joined.iter_mut().find(|entry| entry.key == "bgp") else {
        let spot = Spot { pos: root.pos, path: Path::of("bgp.peers[0]") };
        findings.error(
            &spot,
            "needs a `bgp` that says who this node is (`local_as`, `router_id`): in its file, or in an EdgeConfig",
        );
        return;
    };
    // What is no mapping, or no list, the reader tells.
    let Kind::Mapping(entries) = &bgp.value.kind else { return };
    let mut entries = entries.clone();
    match entries.iter_mut().find(|entry| entry.key == "peers") {
        Some(entry) if matches!(entry.value.kind, Kind::List(_)) => entry.value = longer(&entry.value, peers),
        Some(_) => return,
        None => {
            entries.push(Entry { key: "peers".to_owned(), key_pos: bgp.key_pos, value: Rc::clone(peers) })
        }
    }
    let size = bgp.value.size + peers.size;
    bgp.value = Rc::new(Node { pos: bgp.value.pos, kind: Kind::Mapping(entries), size });
}

fn value<'a>(node: &'a Node, key: &str) -> Option<&'a Rc<Node>> {
    let Kind::Mapping(entries) = &node.kind else { return None };
    entries.iter().find(|entry| entry.key == key).map(|entry| &entry.value)
}

/// Every file says which format it has. The reader judges the one that is in the joined tree, or misses it.
fn versions(files: &[Rc<Node>], joined: &[Entry], findings: &Findings) {
    let Some(read) = joined.iter().find(|entry| entry.key == "version") else { return };
    for root in files {
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
