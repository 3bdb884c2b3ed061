//! The kernel half, as `build.rs` made it.

/// The object with `xdp_lb` and `xdp_decap`.
pub static BALANCER: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/xdp-lb-bpf"));
/// The object with the bench's wrapper programs.
pub static BENCH: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/xdp-lb-bench"));
/// The object with the TC programs of health checks.
pub static PROBE: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/xdp-lb-probe"));
