//! The API server: who we are there, and what is followed.

mod client;
mod feed;
mod follow;
#[cfg(test)]
mod tests;

pub use self::client::{Unreachable, client};
pub use self::feed::{Feed, Pace};
