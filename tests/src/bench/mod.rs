//! What a packet costs: nanoseconds on this machine, in one harness, beside the floor and the limit.
//!
//! ```text
//!  rows (what comes in) --> tables (what the balancer knows)
//!                      \        |
//!                       bench: wrapper -> balancer        one kernel object each, tail-called
//!                          |         \
//!                        prove      measure --> report (table, JSON, targets, saved runs), chart
//!
//!  foreign: rows for any pinned XDP program       live: real frames over a veth pair
//!  latency: requests with and without it
//!  control: the agent's work, from tables to ten thousand services
//! ```
//!
//! The floor is the harness with a program that passes, the limit one that puts a constant tunnel header in
//! front of the packet and looks at nothing. A row is read as nanoseconds above the limit. How the packet
//! is restored before every iteration is written in `xdp-lb-ebpf/src/bench.rs`.

mod chart;
mod control;
#[expect(unsafe_code, reason = "pinning a thread takes a pointer")]
mod cpu;
mod entries;
mod foreign;
mod harness;
mod latency;
mod live;
mod measure;
mod report;
mod rows;
mod state;
#[expect(unsafe_code, reason = "the bpf system call takes pointers")]
mod stats;
mod tables;

pub use chart::svg;
pub use control::{Figure, control, figures};
pub use cpu::pin;
pub use foreign::foreign;
pub use harness::Bench;
pub use latency::{Latency, latency};
pub use live::{Live, live};
pub use measure::{Effort, Measured, measure};
pub use report::{Line, Report, Target, machine};
pub use rows::{Row, Subject, rows};
pub use state::{Ports, State, Tunnel, Zone};
pub use tables::Tables;
