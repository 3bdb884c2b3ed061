//! One packet through one TC program.

use std::io;
use std::os::fd::BorrowedFd;

use super::sys::test_run_skb;

/// What a TC program may add to a packet here.
const GROWTH: usize = 256;

/// What a TC program wants done with the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TcAction {
    /// Go on as if it were not there.
    Next,
    /// Away with it.
    Drop,
    /// To where `bpf_redirect` said; a test run sends nothing.
    Redirect,
    /// Anything else.
    Other(i32),
}

/// Runs `program` once on `packet`, in a socket buffer with `mark`. Returns its verdict and the whole packet afterwards.
///
/// # Errors
/// When the kernel refuses; never because of what the program decides.
pub fn run_skb(program: BorrowedFd<'_>, packet: &[u8], mark: u32) -> io::Result<(TcAction, Vec<u8>)> {
    let mut output = vec![0; packet.len() + GROWTH];
    let (verdict, length) = test_run_skb(program, packet, &mut output, mark)?;
    output.truncate(usize::try_from(length).unwrap_or(usize::MAX));
    let verdict = match verdict.cast_signed() {
        -1 => TcAction::Next,
        2 => TcAction::Drop,
        7 => TcAction::Redirect,
        other => TcAction::Other(other),
    };
    Ok((verdict, output))
}
