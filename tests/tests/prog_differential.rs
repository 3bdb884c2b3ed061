//! The kernel's data plane against the model (`xdp_lb_tests::model`): random configurations, random and spoilt packets,
//! in sequences that share flow table, fragment table, limits and rings in every state. Verdict, whole packet, every counter and
//! all that is remembered must be as foretold.
//!
//! A part is one loaded program with its configurations, and all of it follows from its seed. A difference prints the seed, the
//! configuration, the packet as it came and shortened, and what is different. To see it again:
//!
//! ```text
//!  XDP_LB_DIFFERENTIAL_SEED=N cargo test -p xdp-lb-tests --test prog_differential
//! ```
//!
//! `XDP_LB_DIFFERENTIAL_PACKETS=N` sends so many packets instead of 200 000, in as many parts as that takes.
//!
//! Not foretold: which packets `tracking: sampled` takes (one in sixteen by time and flow: either is right). Not sent: packets
//! without headroom for a header (golden rows have them); packets that are to be cut find no agent.

mod differential;

use differential::{Part, RUN};
use xdp_lb_tests::prog::available;

/// Packets of the normal run.
const PACKETS: usize = 200_000;

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable)
        .ok()
        .map(|value| value.parse().unwrap_or_else(|e| panic!("{variable}={value}: {e}")))
}

#[test]
fn the_kernel_does_what_the_model_says() {
    let Ok(()) = available() else { return };
    xdp_lb_tests::bench::pin(0).expect("stay on one CPU");
    let seen = match number("XDP_LB_DIFFERENTIAL_SEED") {
        Some(seed) => {
            Part::new(seed).run();
            return;
        }
        None => {
            let wanted = number("XDP_LB_DIFFERENTIAL_PACKETS").map_or(PACKETS, |packets| packets as usize);
            RUN.all(wanted)
        }
    };
    seen.nothing_is_missing();
}
