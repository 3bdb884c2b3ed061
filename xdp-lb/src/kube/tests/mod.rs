//! The mapping, from JSON as an API server sends it.

mod meaning;
mod mistakes;
mod objects;
mod order;
mod shares;
