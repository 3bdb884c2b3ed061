//! What the harness asks of a loaded program.

use std::os::fd::BorrowedFd;

use super::Tally;

/// A program with its maps filled: the loader's side of a test.
pub trait Subject {
    /// The XDP program.
    fn program(&self) -> BorrowedFd<'_>;

    /// Everything that it has counted so far, summed over CPUs and services.
    fn tally(&self) -> Tally;
}
