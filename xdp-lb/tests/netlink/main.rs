//! The resolver and the VIPs on `lo` against a real kernel, in namespaces of their own.
#![cfg(feature = "agent")]

mod addresses;
mod namespaces;
mod probe_link;
mod resolver;
