//! Programs, maps and links in a real kernel. Each test has a pin directory and, where it needs interfaces, a network
//! namespace of its own; both are gone when it ends.
#![cfg(feature = "agent")]

mod fill;
mod links;
mod maps;
mod sizes;
mod stand;
mod takeover;
