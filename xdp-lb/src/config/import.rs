//! A service that something else than a file describes, its policy in the file's words. Called by `kube`.
//!
//! The same readers and rules judge it, so an annotation may say what a file may, and a mistake gets the same
//! sentence; only the place has another name.

use std::rc::Rc;

use super::backends::{BackendsDraft, Lists};
use super::draft::{Claim, EncapDraft, Kind, Written};
use super::finding::{ConfigError, ConfigWarning, Findings, Placed, Spot};
use super::path::Path;
use super::reader::Item;
use super::tree::{self, Node};
use super::{affinity, bgp, check, finish, service, zones};
use crate::bgp::settings::When;
use crate::model::{Affinity, Backend, Encap, EncapKind, Inherited, Removal, Service};

/// One service as another source tells of it.
#[derive(Clone, Debug, Default)]
pub struct Import {
    /// Everything but the backends: keys of a file's service.
    pub words: Vec<Word>,
    /// The backends.
    pub backends: Vec<Member>,
}

/// The value of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Word {
    /// Path of the key below the service, one or two levels: `["drain", "max"]`.
    pub key: &'static [&'static str],
    /// Where it was said, for whoever must mend it.
    pub origin: String,
    /// The value.
    pub value: Said,
}

/// A value, said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// As it would stand behind the key in a file: YAML.
    Yaml(String),
    /// One value, whatever it looks like.
    Text(String),
    /// A list of such values.
    List(Vec<String>),
}

/// A backend and where it comes from.
#[derive(Clone, Debug)]
pub struct Member {
    /// The backend.
    pub backend: Backend,
    /// For whoever must mend it.
    pub origin: String,
    /// The backend's server id, and where it was said.
    pub server_id: Option<(String, String)>,
}

/// A service that can be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Imported {
    /// The service.
    pub service: Service,
    /// When its addresses want to be announced.
    pub when: When,
    /// What in it is seldom meant.
    pub warnings: Vec<Complaint>,
}

/// What is wrong, or seldom meant.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Complaint {
    /// Where: a [`Word::origin`] or [`Member::origin`], and the key inside it.
    pub origin: String,
    /// What.
    pub message: String,
}

/// Reads and judges one service. A backend that leaves its list is dead: its source says so long before.
///
/// # Errors
/// Everything that is wrong with it, at least one.
pub fn import(import: &Import, inherited: &Inherited) -> Result<Imported, Vec<Complaint>> {
    let findings = Findings::default();
    let service = read(import, inherited, &findings);
    let origins = Origins(&import.words);
    let (errors, warnings) = findings.finish();
    let errors: Vec<Complaint> = errors
        .into_iter()
        .map(|ConfigError { path, message, .. }| origins.complaint(&path, message))
        .collect();
    let warnings =
        warnings.into_iter().map(|ConfigWarning { path, message, .. }| origins.complaint(&path, message));
    match service {
        Some((service, when)) if errors.is_empty() => {
            Ok(Imported { service, when, warnings: warnings.collect() })
        }
        _ if errors.is_empty() => {
            let message = "cannot be used, and xdp-lb cannot say why; please report this".to_owned();
            Err(vec![Complaint { origin: String::new(), message }])
        }
        _ => Err(errors),
    }
}

fn read(import: &Import, inherited: &Inherited, findings: &Findings) -> Option<(Service, When)> {
    let node = tree(&import.words, findings);
    let root = Item::root(&node, findings);
    let size = Placed { value: inherited.table_size, spot: Spot::default() };
    let mut draft = service::read(&root, &mut Lists::default(), &encap(&inherited.encap), Some(&size))?;
    let affinity = draft.affinity.as_ref().map(|affinity| affinity.value).unwrap_or_default();
    let mut backends: Vec<Placed<Backend>> =
        import.backends.iter().map(|member| place(member, affinity, findings)).collect();
    backends.sort_by_key(|backend| backend.value.address);
    draft.claims = backends.iter().map(|backend| claim(backend, affinity)).collect();
    draft.backends = Some(BackendsDraft::new(Spot::default().key("backends", tree::FIRST), backends));
    check::table_holds_backends(&draft, findings);
    check::tunnel_sources(&draft, findings);
    check::somebody_takes_flows(&draft, findings);
    affinity::check(&draft, findings);
    zones::check(&draft, inherited.zone.as_deref(), findings);
    bgp::enough_backends(&draft, findings);
    let when = draft.advertise.when;
    let service = finish::service(draft)?;
    Some((Service { removal: Removal::Down, ..service }, when))
}

fn place(member: &Member, affinity: Affinity, findings: &Findings) -> Placed<Backend> {
    let spot = |path: &str| Spot { pos: tree::FIRST, path: Path::of(path) };
    let mut value = member.backend.clone();
    if let Some((text, origin)) = &member.server_id {
        let read = match affinity {
            Affinity::QuicCid => affinity::hex(text),
            Affinity::IceUfrag => affinity::ufrag(text),
            _ => Err("has no meaning without `affinity: quic-cid` or `ice-ufrag`; remove it or set that"
                .to_owned()),
        };
        match read {
            Ok(id) => value.server_id = Some(id),
            Err(message) => findings.error(&spot(origin), message),
        }
    }
    Placed { value, spot: spot(&member.origin) }
}

fn claim(backend: &Placed<Backend>, affinity: Affinity) -> Claim {
    let Placed { value, spot } = backend;
    let placed = |range: &_| Placed { value: Clone::clone(range), spot: spot.clone() };
    Claim {
        address: Placed { value: value.address, spot: spot.clone() },
        slice: (!value.slice.is_empty()).then(|| value.slice.iter().map(placed).collect()),
        server_id: value.server_id.map(|id| Placed { value: id, spot: spot.clone() }),
        is_missing: affinity == Affinity::DestPort && value.slice.is_empty()
            || affinity.has_server_ids() && value.server_id.is_none(),
    }
}

/// The file's tunnel, as if each service said it.
fn encap(encap: &Encap) -> EncapDraft {
    fn written<T>(value: Option<T>) -> Written<T> {
        value.map_or(Written::Absent, Written::Value)
    }
    let (kind, gue_port, gue_variant) = match encap.kind {
        EncapKind::Ipip => (Kind::Ipip, Written::Absent, Written::Absent),
        EncapKind::Gue { port, variant } => (Kind::Gue, Written::Value(port), Written::Value(variant)),
    };
    EncapDraft {
        kind: Written::Value(kind),
        gue_port,
        gue_variant,
        source_v4: written(encap.source_v4),
        source_v6: written(encap.source_v6),
        dscp: Written::Value(encap.dscp),
        mtu: Written::Value(encap.mtu),
    }
}

/// The words as the tree that a file would give, with an empty list of backends.
fn tree(words: &[Word], findings: &Findings) -> Rc<Node> {
    type Entries = Vec<(String, Rc<Node>)>;
    let mut top: Entries = vec![("backends".to_owned(), Node::list(Vec::new()))];
    let mut below: Vec<(&str, Entries)> = Vec::new();
    for Word { key, value, .. } in words {
        let node = match value {
            Said::Text(text) => Node::scalar(text.clone()),
            Said::List(items) => Node::list(items.iter().cloned().map(Node::scalar).collect()),
            Said::Yaml(text) => {
                let own = Findings::default();
                let node = tree::build(0, text, &own);
                for ConfigError { message, .. } in own.finish().0 {
                    findings.error(&Spot { pos: tree::FIRST, path: Path::of(&key.join(".")) }, message);
                }
                let Some(node) = node else { continue };
                node
            }
        };
        match **key {
            [key] => top.push((key.to_owned(), node)),
            [section, key] => {
                let entry = (key.to_owned(), node);
                match below.iter_mut().find(|(name, _)| *name == section) {
                    Some((_, entries)) => entries.push(entry),
                    None => below.push((section, vec![entry])),
                }
            }
            _ => debug_assert!(false, "a key has one level or two"),
        }
    }
    let sections = below.into_iter().map(|(name, entries)| (name.to_owned(), Node::mapping(entries)));
    top.extend(sections);
    Node::mapping(top)
}

/// From a path in a file to where the value was really said.
struct Origins<'a>(&'a [Word]);

impl Origins<'_> {
    fn complaint(&self, path: &str, message: String) -> Complaint {
        let rest_of = |word: &Word| {
            let rest = path.strip_prefix(&word.key.join("."))?;
            (rest.is_empty() || rest.starts_with(['.', '['])).then(|| format!("{}{rest}", word.origin))
        };
        let origin = self.0.iter().find_map(rest_of).unwrap_or_else(|| path.to_owned());
        Complaint { origin, message }
    }
}
