//! xdp-lb: the agent and the command line.
//!
//! Without the feature `agent` this is the pure half: no aya, no tokio, no files, no clock.

pub mod gates;
pub mod maglev;
pub mod model;
pub mod scan;
pub mod slots;
