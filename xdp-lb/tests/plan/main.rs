//! The planner's promises: consistent maps after every single write, convergence after a crash, waits and
//! drains, errors that leave everything as it was.

#[path = "../common/mod.rs"]
mod common;

mod aside;
mod crash;
mod drains;
mod forecast;
mod health;
mod invariants;
mod lifecycle;
mod limits;
mod meaning;
mod memo;
mod random;
mod sharing;
