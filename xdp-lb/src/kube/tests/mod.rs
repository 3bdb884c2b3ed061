//! The mapping, from JSON as an API server sends it.

mod ends;
mod meaning;
mod mistakes;
pub(in crate::kube) mod objects;
mod order;
mod own_pods;
mod pods;
mod shares;
