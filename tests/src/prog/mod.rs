//! Runs an XDP program on one packet inside the kernel (`BPF_PROG_TEST_RUN`), without any traffic.
//!
//! ```text
//!  packet, Ctx --run--> verdict, whole packet afterwards, ns      (run.rs, over the one system call in sys.rs)
//!  Tally before, after --assert_counted--> exactly these counters moved      (tally.rs)
//! ```
//!
//! A test begins with `let Ok(()) = prog::available() else { return };`: without privileges it says why it does nothing.

mod agent;
mod memory;
mod pinned;
mod privilege;
mod run;
mod skb;
mod subject;
#[expect(unsafe_code, reason = "the bpf system call takes pointers")]
mod sys;
mod tally;

pub use agent::{Agent, desired};
pub use memory::Memory;
pub use pinned::Pinned;
pub use privilege::{Skipped, available};
pub use run::{Ctx, Failure, MAX_PACKET, MIN_PACKET, Outcome, XdpAction, run, run_live, run_repeated, takes};
pub use skb::{TcAction, run_skb};
pub use subject::Subject;
pub use tally::{Counted, Tally, assert_counted, counted, sum};
