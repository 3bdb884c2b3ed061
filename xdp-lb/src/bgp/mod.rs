//! The VIPs by BGP: announced when they work, withdrawn when they do not.
//!
//! A speaker that only talks: it dials its routers and never listens, it tells them VIPs and ignores what they tell.
//!
//! ```text
//!   facts: health, faults --decide--> verdicts --presence--> standing of each VIP --rib--> wishes
//!                                      all | any      drain_time                 aggregates   |
//!   +-----------------------------------------------------------------------------------------+
//!   '--> session (one a router): state machine, routes told --io--> TCP, MD5, TTL      bfd --> session
//! ```
//!
//! | file | decides |
//! |---|---|
//! | `settings` | what the configuration may ask for |
//! | `decide` | whether a VIP should be announced, and why |
//! | `presence` | what its route is meanwhile: announced, unattractive, absent |
//! | `rib` | which prefixes with which attributes to which router |
//! | `wire`, `session` | messages and state machine; alone in naming the BGP crates |
//! | `status` | what people and metrics are told |
//! | `io` | sockets, timers, tasks: the only part that touches the machine |

pub mod decide;
#[cfg(feature = "agent")]
pub mod io;
pub mod presence;
pub mod rib;
pub mod session;
pub mod settings;
pub mod status;
#[cfg(test)]
mod testing;
mod wire;
