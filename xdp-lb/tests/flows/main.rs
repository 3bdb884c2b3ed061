//! The flow table against a model in ordinary Rust: the promises G1 to G4 of DESIGN under random lives and in
//! the cases that are known to be hard, and each again with a mechanism broken on purpose, to see it fail.

#[path = "../common/mod.rs"]
mod common;

mod cpus;
mod flood;
mod lens;
mod life;
mod listing;
mod model;
mod peers;
mod sharing;
mod stories;
