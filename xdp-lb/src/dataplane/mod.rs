//! The kernel side of the agent: programs, maps, attachment.

pub mod object;
