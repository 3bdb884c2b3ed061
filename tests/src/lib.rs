//! Helpers below the integration tests: the network-namespace lab.

pub mod lab;
