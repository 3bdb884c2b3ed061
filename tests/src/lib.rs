//! What the integration tests stand on: a packet builder, a test-run harness, a lab of network namespaces, the show,
//! what runs on other kernels, and what holds whatever the bytes, for the fuzzer and for everyone.

pub mod bench;
pub mod demo;
pub mod invariants;
pub mod lab;
pub mod model;
pub mod packet;
pub mod prog;
pub mod vm;
