//! The daemon: `xdp-lb run`, `xdp-lb decap`, and `xdp-lb load` which fills the maps and leaves.
//!
//! ```text
//!  SIGHUP, intake -> Desired ---+
//!  cluster -> services --------+
//!  netlink -> next hops -------+-> reconcile (the one writer of the maps) -> kernel -> endpoint: metrics
//!  health -> who answers ------+
//!  admin: drain, rollback -----+
//!  clock -> survey, deadlines -+                                   |
//!                                         announce: facts -> bgp <'
//! ```
//!
//! Programs and maps are pinned: what forwards goes on when this process ends, is killed or replaced, and
//! the next one takes over what it finds.

mod announce;
mod backoff;
#[cfg_attr(not(feature = "kubernetes"), path = "no_cluster.rs")]
mod cluster;
mod commands;
mod daemon;
mod endpoint;
#[cfg_attr(not(feature = "kubernetes"), path = "no_follower.rs")]
mod follower;
mod foresee;
mod health;
mod interfaces;
pub mod log;
mod offloads;
mod packets;
mod past;
mod peers;
mod programs;
mod reconcile;
mod reload;
mod resources;
mod room;
mod state;

pub use self::daemon::{Ended, OnExit, Role, RunOptions, load, run};
pub use self::foresee::{Foreseen, foresee};
pub use self::reconcile::{FlowTable, Outcome, ReconcileError, Reconciler, Run, SurveyError};
