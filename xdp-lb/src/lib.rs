//! xdp-lb: the agent and the command line.
//!
//! Without the feature `agent` this is the pure half: no aya, no tokio, no files, no clock.

pub mod model;
#[cfg(feature = "agent")]
pub mod netlink;
pub mod nexthop;
