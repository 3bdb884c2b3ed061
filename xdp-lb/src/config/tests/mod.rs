//! Tests of the whole module, through [`super::parse`].

mod affinities;
mod aliases;
mod bgp;
mod documented;
mod examples;
mod imports;
mod joined;
mod mutations;
mod random;
mod rules;
mod syntax;

use super::{Checked, ConfigError, parse};

/// A file that must be fine.
fn good(text: &str) -> Checked {
    parse(text).unwrap_or_else(|errors| panic!("{errors:#?}\n{text}"))
}

/// The errors of a file that must have some.
fn errors(text: &str) -> Vec<ConfigError> {
    parse(text).expect_err("a mistake went unnoticed")
}

/// The errors of a file, as people see them.
fn bad(text: &str) -> Vec<String> {
    errors(text).iter().map(ConfigError::to_string).collect()
}

/// Errors as `(line, path)`.
fn places(text: &str) -> Vec<(u32, String)> {
    errors(text).into_iter().map(|error| (error.line, error.path)).collect()
}

/// Whether exactly one error stands at `path`, and its message holds `words`.
#[track_caller]
fn only(text: &str, path: &str, words: &str) {
    let errors = errors(text);
    assert_eq!(errors.len(), 1, "{errors:#?}");
    assert_eq!(errors[0].path, path, "{errors:#?}");
    assert!(errors[0].message.contains(words), "{errors:#?}");
}

/// A balancer's file with these services.
fn edge(services: &str) -> String {
    format!(
        "version: 1\ninterfaces: [{{ name: eth0 }}]\nmaglev: {{ seed: 7 }}\n\
         encap: {{ source_v4: 172.16.0.0/16, source_v6: \"fd00::/64\" }}\nservices:\n{services}"
    )
}

/// One service in flow style; `more` begins with a comma or is empty.
fn service(name: &str, vip: &str, protocol: &str, ports: &str, more: &str) -> String {
    format!(
        "  - {{ name: {name}, vip: {vip}, protocol: {protocol}, ports: {ports}, \
         backends: [{{ address: 10.0.0.1 }}]{more} }}\n"
    )
}
