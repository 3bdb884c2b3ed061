//! What a packet costs: nanoseconds on this machine, in one harness, beside the floor and the limit.
//!
//! ```text
//!  rows (what comes in) --> tables (what the balancer knows)
//!                      \        |
//!                       bench: wrapper -> balancer        one kernel object each, tail-called
//!                          |         \
//!                        prove      measure --> report (table, JSON, target)
//! ```
//!
//! The floor is the harness with a program that passes, the limit one that puts a constant tunnel header in
//! front of the packet and looks at nothing. A row is read as nanoseconds above the limit. How the packet
//! is restored before every iteration is written in `xdp-lb-ebpf/src/bench.rs`.

#[expect(unsafe_code, reason = "pinning a thread takes a pointer")]
mod cpu;
mod harness;
mod measure;
mod report;
mod rows;
mod tables;

pub use cpu::pin;
pub use harness::Bench;
pub use measure::{Effort, Measured, measure};
pub use report::{Target, json, missed, table};
pub use rows::{Row, Subject, rows};
pub use tables::{State, Tables};
