//! The table of keys against the two things that could drift from it: the documentation and the readers.

use std::collections::BTreeMap;

use super::super::keys::{self, Support};
use super::errors;

const REFERENCE: &str = include_str!("../../../../docs/configuration.md");

/// Rows of the reference: for every path named in a heading, its keys and the row.
fn rows() -> BTreeMap<(String, String), &'static str> {
    let mut rows = BTreeMap::new();
    let mut paths: Vec<String> = Vec::new();
    for line in REFERENCE.lines() {
        if let Some(heading) = line.strip_prefix("## ") {
            let quoted = heading.split('`').skip(1).step_by(2).map(str::to_owned);
            paths = quoted.map(|path| if path == "top level" { String::new() } else { path }).collect();
        } else if let Some((key, row)) = line.strip_prefix("| `").and_then(|row| row.split_once("` |")) {
            for path in &paths {
                assert!(
                    rows.insert((path.clone(), key.to_owned()), row).is_none(),
                    "{path} {key} is described twice"
                );
            }
        }
    }
    rows
}

#[test]
fn every_key_is_in_the_reference_and_the_reference_has_no_other() {
    let mut rows = rows();
    for section in keys::ALL {
        for key in section.keys {
            let row = rows.remove(&(section.path.to_owned(), key.name.to_owned()));
            let row =
                row.unwrap_or_else(|| panic!("`{}` of `{}` is not in the reference", key.name, section.path));
            assert_eq!(
                row.contains("not supported yet"),
                key.support == Support::Later,
                "{} {}",
                section.path,
                key.name
            );
        }
    }
    assert!(rows.is_empty(), "unknown keys in the reference: {rows:?}");
}

/// A value that nothing accepts must be reported under every key, or a reader forgot the key.
#[test]
fn every_key_is_read() {
    for section in keys::ALL {
        for key in section.keys {
            let mut text = format!("{{ {}: [[{{}}]] }}", key.name);
            for part in section.path.split('.').rev().filter(|part| !part.is_empty()) {
                text = match part.strip_suffix("[]") {
                    Some(list) => format!("{{ {list}: [{text}] }}"),
                    None => format!("{{ {part}: {text} }}"),
                };
            }
            let mut path = section.path.replace("[]", "[0]");
            if !path.is_empty() {
                path.push('.');
            }
            path += key.name;
            let errors = errors(&text);
            assert!(errors.iter().any(|e| e.path.starts_with(&path)), "{path}: {errors:#?}");
            assert!(!errors.iter().any(|e| e.message.contains("unknown key")), "{path}: {errors:#?}");
        }
    }
}
