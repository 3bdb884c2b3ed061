//! What is too rare and too large for the packet path: IPv4 packets without DF that do not fit their tunnel.
//!
//! ```text
//!   XDP -> perf buffer of the CPU -> cutter: fragments -> the tunnel's header for each -> AF_PACKET -> wire
//!           full or nobody reads: cut_unavailable
//! ```
//!
//! Cutting is pure; the task that reads and sends belongs to the agent.

#[cfg(feature = "agent")]
mod cutter;
pub mod fragment;
pub mod wrap;

#[cfg(feature = "agent")]
pub use self::cutter::{Cutter, CutterError};
