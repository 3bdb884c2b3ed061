//! What the integration tests stand on: a packet builder, a test-run harness and a lab of network namespaces.

pub mod bench;
pub mod lab;
pub mod packet;
pub mod prog;
