//! What the tests of the plan and of the flow table stand on: a configuration in few words, and an agent
//! without threads that owns maps in memory and a clock.

pub mod agent;
pub mod wanted;
