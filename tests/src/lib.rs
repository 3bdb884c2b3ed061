//! What the integration tests stand on: a packet builder, a test-run harness, a lab of network namespaces, the show,
//! and what runs on other kernels.

pub mod bench;
pub mod demo;
pub mod lab;
pub mod packet;
pub mod prog;
pub mod vm;
