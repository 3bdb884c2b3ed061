//! What holds whatever the bytes: one function for each fuzz target, which panics when it does not.
//!
//! The fuzzer (`tests/fuzz`, `cargo xtask fuzz`) and the replay of its seeds (`tests/tests/fuzz_corpus.rs`) call the same
//! functions. `tests/fuzz` takes this folder and `packet` in by path, so neither may need more than `std`, the pure half
//! of `xdp-lb` and `xdp-lb-common`.

mod bfd;
mod bgp;
mod config;
mod decap;
mod ice;
mod icmp;
mod parser;
mod quic;

/// Panics when an invariant does not hold for these bytes.
pub type Check = fn(&[u8]);

/// Name and function of every target, in alphabetical order.
pub const TARGETS: [(&str, Check); 8] = [
    ("bfd", bfd::check),
    ("bgp", bgp::check),
    ("config", config::check),
    ("decap", decap::check),
    ("ice", ice::check),
    ("icmp", icmp::check),
    ("parser", parser::check),
    ("quic", quic::check),
];

/// Runs one target.
///
/// # Panics
/// When an invariant does not hold, or there is no such target.
pub fn check(target: &str, data: &[u8]) {
    match TARGETS.iter().find(|(name, _)| *name == target) {
        Some((_, check)) => check(data),
        None => panic!("no target {target}"),
    }
}
