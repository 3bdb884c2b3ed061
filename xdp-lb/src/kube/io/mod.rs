//! The API server: who we are there, and what is followed.

mod client;
mod edge_node;
mod ends;
mod feed;
mod follow;
mod keys;
mod leader;
mod resources;
mod services;
mod standing;
mod steer;
#[cfg(test)]
mod tests;
mod write;

pub use self::client::{Unreachable, client};
pub use self::edge_node::{Sources, Teller};
pub use self::feed::{Feed, Pace};
pub use self::keys::Keys;
pub use self::leader::{Candidate, Lead};
pub use self::standing::Standing;
pub use self::steer::steer;
