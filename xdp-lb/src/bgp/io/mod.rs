//! The speaker on this machine: a thread of its own, so that neither keepalives nor BFD wait for the agent's work.
//!
//! ```text
//!   agent --Speaker: facts, configure, leave--> engine --wishes--> peer task (one a router) --> TCP
//!                                                 |  ^---status-------'      ^
//!                                                 v                          | down
//!                                            status file                   bfd task --> UDP
//! ```

mod dial;
mod engine;
mod file;
mod peer;
mod secrets;
mod speaker;

pub use file::read as read_status;
pub use secrets::{Known, Secrets};
pub use speaker::{Leave, Speaker};

use std::time::Duration;

use tokio::time::Instant;

/// The clock of one speaker.
#[derive(Clone, Copy, Debug)]
struct Clock(Instant);

impl Clock {
    fn now(self) -> Duration {
        self.0.elapsed()
    }

    fn at(self, moment: Duration) -> Instant {
        self.0 + moment
    }
}
