//! The invariants of `xdp-lb-tests`, without the rest of that crate: no BPF objects, no kernel, no tokio.

#[path = "../src/invariants/mod.rs"]
pub mod invariants;
#[path = "../src/packet/mod.rs"]
pub mod packet;
