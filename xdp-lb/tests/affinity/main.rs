//! Affinities that the packet decides, over the agent's own plans and the packet path's own functions: whose port, whose
//! connection id, whose session.

#[path = "../common/mod.rs"]
mod common;

mod ice;
mod quic;
mod slices;
mod stand;
