//! Tests of the whole module, through [`super::parse`].

mod examples;

use super::{Checked, ConfigError, parse};

/// A file that must be fine.
fn good(text: &str) -> Checked {
    parse(text).unwrap_or_else(|errors| panic!("{errors:#?}\n{text}"))
}

/// The errors of a file that must have some, as people see them.
fn bad(text: &str) -> Vec<String> {
    errors(text).iter().map(ConfigError::to_string).collect()
}

fn errors(text: &str) -> Vec<ConfigError> {
    parse(text).err().unwrap_or_default()
}
