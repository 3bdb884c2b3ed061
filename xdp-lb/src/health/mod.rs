//! Health: who answers, and what follows from it for the balancer.
//!
//! ```text
//!   Desired -> targets -> Board: when to ask -> probe -> Answer -> Machine: rise, fall, damping -> HealthSnapshot
//!                                                                                                     |
//!                       Desired of the planner  <-  verdict: on_all_down  <---------------------------+
//! ```
//!
//! The upper half is pure: time and seeds are parameters. `probe`, `runner` and `service` (feature `agent`) are the
//! sockets, the one scheduler, and what the daemon holds in its hands.

mod board;
mod check;
mod machine;
mod reason;
mod schedule;
mod snapshot;
#[cfg(test)]
mod tests;
mod verdict;
mod ways;

pub use self::board::{Board, Due, Key, Target};
pub use self::check::{Check, HttpCheck, Kind, OnAllDown, Statuses, UdpCheck, Via};
pub use self::machine::{Change, Machine, State};
pub use self::reason::{Answer, Failure, Suspect, TlsFault, Unable};
pub use self::schedule::Schedule;
pub use self::snapshot::{BUCKETS, HealthSnapshot, TargetHealth};
pub use self::verdict::{apply, taken_over, with_leaving, without_leaving};
pub use self::ways::{Way, Ways};

#[cfg(feature = "agent")]
pub mod probe;
#[cfg(feature = "agent")]
pub mod runner;
