//! What the integration tests stand on: a packet builder, a test-run harness, a lab of network namespaces and the show.

pub mod bench;
pub mod demo;
pub mod lab;
pub mod packet;
pub mod prog;
