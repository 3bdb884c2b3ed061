//! The show behind `cargo xtask run`: a lab with traffic in which a backend drains, one dies, and an edge node goes away.
//!
//! ```text
//!  arguments -> show -> stage (lab and product) <- scenario (what happens when)
//!                 |       ^
//!                 |       traffic -> samples -> account (what was lost?) -> exit code
//!                 |                     `-> screen (text) -> terminal
//!                 `- interrupt (Ctrl-C)
//! ```
//!
//! `screen`, `account`, `scenario` and `file` are pure. Every number that is shown was counted by the clients, or
//! by the kernel on the router's interfaces.

pub mod account;
pub mod arguments;
pub mod file;
pub mod interrupt;
pub mod owner;
pub mod scenario;
pub mod screen;
pub mod show;
pub mod stage;
pub mod terminal;
pub mod traffic;
