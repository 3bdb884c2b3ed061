//! One packet through one XDP program.

use std::fmt::{self, Display};
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::sync::OnceLock;

use super::sys::{XdpMd, live_frames, test_run};
use crate::lab::sys::load_xdp_return;
use crate::lab::topology::XDP_PASS;

/// Shortest packet that the kernel runs a program on: an Ethernet header.
pub const MIN_PACKET: usize = 14;
/// Longest packet that fits the kernel's one page beside headroom and skb_shared_info, on every kernel.
pub const MAX_PACKET: usize = 3400;
/// What a program may add to a packet: the kernel's headroom.
const GROWTH: usize = 256;

/// What the program says of the packet, apart from its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ctx {
    /// Interface that the packet comes in by; it must exist in this network namespace. 1 is `lo`.
    pub ingress_ifindex: u32,
    /// Its receive queue; it must exist.
    pub rx_queue: u32,
    /// Metadata in front of the packet: a multiple of 4, at most 216 bytes. It takes away headroom: with more than 196
    /// bytes an IPv4 header no longer fits in front of the packet.
    pub data_meta: Vec<u8>,
}

impl Default for Ctx {
    fn default() -> Self {
        Self { ingress_ifindex: 1, rx_queue: 0, data_meta: Vec::new() }
    }
}

/// What an XDP program wants done with the packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XdpAction {
    /// The program gave up.
    Aborted,
    /// Away with it.
    Drop,
    /// To the kernel's stack.
    Pass,
    /// Out of the interface that it came in by.
    Tx,
    /// To where `bpf_redirect` said; a test run sends nothing.
    Redirect,
}

/// What became of the packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The verdict of the last run.
    pub verdict: XdpAction,
    /// The whole packet afterwards, metadata excluded.
    pub packet: Vec<u8>,
    /// Mean nanoseconds of a run; rough when there is only one.
    pub duration_ns: u32,
}

/// Why there is no outcome.
#[derive(Debug)]
pub enum Failure {
    /// The kernel cannot run a program on a packet of this length.
    Length(usize),
    /// The kernel refused.
    Refused {
        /// Its error.
        error: io::Error,
        /// What was asked for.
        ctx: Ctx,
        /// How long the packet was.
        length: usize,
    },
    /// The program returned what is no XDP action.
    NoAction(u32),
    /// The kernel's answer contradicts itself.
    Answer {
        /// Valid bytes of the buffer.
        data_length: u32,
        /// Offset of the packet in them.
        data: u32,
    },
}

impl Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Length(length) => write!(
                f,
                "a test run takes packets of {MIN_PACKET} to {MAX_PACKET} bytes, not {length}: cut the row elsewhere"
            ),
            Self::Refused { error, ctx, length } => {
                write!(f, "BPF_PROG_TEST_RUN on {length} bytes with {ctx:?}: {error}")?;
                match error.raw_os_error() {
                    Some(libc::ENODEV) => f.write_str("; that interface is not in this network namespace"),
                    Some(libc::EINVAL) => {
                        f.write_str("; is the receive queue there, the metadata in fours, the program XDP?")
                    }
                    Some(libc::EPERM) => f.write_str("; run as root"),
                    _ => Ok(()),
                }
            }
            Self::NoAction(value) => write!(f, "the program returned {value}, which is no XDP action"),
            Self::Answer { data_length, data } => {
                write!(f, "the kernel says {data_length} bytes with the packet at {data}")
            }
        }
    }
}

impl std::error::Error for Failure {}

/// Runs `program` once on `packet`.
///
/// # Errors
/// [`Failure`]; never because of what the program decides.
pub fn run(program: BorrowedFd<'_>, packet: &[u8], ctx: &Ctx) -> Result<Outcome, Failure> {
    run_repeated(program, packet, ctx, 1)
}

/// Runs `program` `repeat` times in one system call.
///
/// The kernel does not restore the packet in between: a program that grows it sees its own output from the second
/// run on. For timing, the program under test must do the restoring.
///
/// # Errors
/// [`Failure`]; never because of what the program decides.
pub fn run_repeated(
    program: BorrowedFd<'_>,
    packet: &[u8],
    ctx: &Ctx,
    repeat: u32,
) -> Result<Outcome, Failure> {
    if !(MIN_PACKET..=MAX_PACKET).contains(&packet.len()) {
        return Err(Failure::Length(packet.len()));
    }
    let input = [&ctx.data_meta, packet].concat();
    let offset = |bytes: usize| u32::try_from(bytes).map_err(|_| Failure::Length(bytes));
    let context = XdpMd {
        data: offset(ctx.data_meta.len())?,
        data_end: offset(input.len())?,
        ingress_ifindex: ctx.ingress_ifindex,
        rx_queue_index: ctx.rx_queue,
        ..XdpMd::default()
    };
    let mut output = vec![0; input.len() + GROWTH];
    // Nothing in the default context is worth a refusal.
    let context = (*ctx != Ctx::default() || takes_context()).then_some(context);
    let answer = test_run(program, &input, &mut output, context, repeat)
        .map_err(|error| Failure::Refused { error, ctx: ctx.clone(), length: packet.len() })?;
    let (data_length, data) = (answer.data_length, answer.context.data);
    let packet = usize::try_from(data)
        .ok()
        .zip(usize::try_from(data_length).ok())
        .and_then(|(start, end)| output.get(start..end))
        .ok_or(Failure::Answer { data_length, data })?;
    Ok(Outcome {
        verdict: XdpAction::try_from(answer.retval)?,
        packet: packet.to_vec(),
        duration_ns: answer.duration_ns,
    })
}

/// Sends `frames` copies of `packet` as real frames through `program`, whose verdicts are carried out on the interface
/// that `ctx` names. The kernel does not restore them: the program must write anew what its receiver changes.
///
/// # Errors
/// The kernel's, which before 5.18 does not know live frames.
pub fn run_live(program: BorrowedFd<'_>, packet: &[u8], ctx: &Ctx, frames: u32) -> Result<u32, Failure> {
    const BATCH: u32 = 64;
    let length = packet.len();
    let data_end = u32::try_from(length).map_err(|_| Failure::Length(length))?;
    let context = XdpMd {
        data_end,
        ingress_ifindex: ctx.ingress_ifindex,
        rx_queue_index: ctx.rx_queue,
        ..XdpMd::default()
    };
    live_frames(program, packet, context, frames, BATCH).map_err(|error| Failure::Refused {
        error,
        ctx: ctx.clone(),
        length,
    })
}

/// Whether a test run on this kernel takes `ctx`: interface, queue and 32 bytes of metadata since 5.15, more since 6.6 or
/// so. It always takes the default. True where no program can be loaded to ask.
#[must_use]
pub fn takes(ctx: &Ctx) -> bool {
    *ctx == Ctx::default() || takes_metadata(ctx.data_meta.len())
}

/// Asks with a program that looks at nothing.
fn takes_metadata(length: usize) -> bool {
    let Ok(program) = load_xdp_return(XDP_PASS) else { return true };
    let mut packet = vec![0; length + MIN_PACKET];
    let context =
        XdpMd { data: length as u32, data_end: packet.len() as u32, ingress_ifindex: 1, ..XdpMd::default() };
    let outcome = test_run(program.as_fd(), &packet.clone(), &mut packet, Some(context), 1);
    !outcome.is_err_and(|error| error.raw_os_error() == Some(libc::EINVAL))
}

/// Whether a test run takes any context, asked once.
fn takes_context() -> bool {
    static ANSWER: OnceLock<bool> = OnceLock::new();
    *ANSWER.get_or_init(|| takes_metadata(0))
}

impl TryFrom<u32> for XdpAction {
    type Error = Failure;

    fn try_from(value: u32) -> Result<Self, Failure> {
        match value {
            0 => Ok(Self::Aborted),
            1 => Ok(Self::Drop),
            2 => Ok(Self::Pass),
            3 => Ok(Self::Tx),
            4 => Ok(Self::Redirect),
            other => Err(Failure::NoAction(other)),
        }
    }
}

/// The harness on programs of a few instructions, whose effect is plain.
#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;
    use crate::packet::{assert_packet_eq, eth};
    use crate::prog::available;
    use crate::prog::sys::load_xdp;

    /// `r[to] = value`.
    const fn set(to: u64, value: i32) -> u64 {
        0xb7 | to << 8 | (value as u32 as u64) << 32
    }

    const EXIT: u64 = 0x95;
    /// `bpf_xdp_adjust_head(r1, r2)`.
    const ADJUST_HEAD: u64 = 0x85 | 44 << 32;
    /// `r0 = *(u32 *)(r1 + 12)`: the ingress interface.
    const INGRESS: u64 = 0x61 | 1 << 12 | 12 << 16;
    /// `r0 = *(u32 *)(r1 + 16)`: the receive queue.
    const RX_QUEUE: u64 = 0x61 | 1 << 12 | 16 << 16;

    fn packet() -> Vec<u8> {
        eth("02:00:00:00:00:01", "02:00:00:00:00:02")
            .ipv4("192.0.2.1", "192.0.2.2")
            .udp(1, 2)
            .payload(b"hello")
            .build()
    }

    fn outcome(instructions: &[u64], packet: &[u8], ctx: &Ctx) -> Result<Outcome, Failure> {
        run(load_xdp(instructions).unwrap().as_fd(), packet, ctx)
    }

    #[test]
    fn every_action_comes_back() {
        let Ok(()) = available() else { return };
        for (value, verdict) in [
            (0, XdpAction::Aborted),
            (1, XdpAction::Drop),
            (2, XdpAction::Pass),
            (3, XdpAction::Tx),
            (4, XdpAction::Redirect),
        ] {
            let outcome = outcome(&[set(0, value), EXIT], &packet(), &Ctx::default()).unwrap();
            assert_eq!(outcome.verdict, verdict);
            assert_packet_eq(&outcome.packet, &packet());
        }
        let failure = outcome(&[set(0, 5), EXIT], &packet(), &Ctx::default()).unwrap_err();
        assert!(matches!(failure, Failure::NoAction(5)), "{failure}");
    }

    #[test]
    fn a_packet_grows_and_shrinks_at_its_head() {
        let Ok(()) = available() else { return };
        let resize = |by| [set(2, by), ADJUST_HEAD, set(0, 3), EXIT];
        let grown = outcome(&resize(-20), &packet(), &Ctx::default()).unwrap();
        assert_eq!(grown.packet.len(), packet().len() + 20);
        assert_packet_eq(&grown.packet[20..], &packet());
        let shrunk = outcome(&resize(14), &packet(), &Ctx::default()).unwrap();
        assert_packet_eq(&shrunk.packet, &packet()[14..]);
    }

    #[test]
    fn metadata_takes_headroom_and_is_no_part_of_the_packet() {
        let Ok(()) = available() else { return };
        // The helper's result is the verdict: 0 when there was room.
        let grow = [set(2, -20), ADJUST_HEAD, EXIT];
        let with = |length| Ctx { data_meta: vec![0x5a; length], ..Ctx::default() };
        let grown = outcome(&grow, &packet(), &with(196)).unwrap();
        assert_packet_eq(&grown.packet[20..], &packet());
        let refused = outcome(&grow, &packet(), &with(200)).unwrap_err();
        assert!(matches!(refused, Failure::NoAction(value) if value == -libc::EINVAL as u32), "{refused}");
        let unchanged = outcome(&[set(0, 2), EXIT], &packet(), &with(200)).unwrap();
        assert_packet_eq(&unchanged.packet, &packet());
    }

    #[test]
    fn the_program_sees_interface_and_queue() {
        let Ok(()) = available() else { return };
        assert_eq!(outcome(&[INGRESS, EXIT], &packet(), &Ctx::default()).unwrap().verdict, XdpAction::Drop);
        assert_eq!(
            outcome(&[RX_QUEUE, EXIT], &packet(), &Ctx::default()).unwrap().verdict,
            XdpAction::Aborted
        );
        let nowhere = Ctx { ingress_ifindex: 0x7fff_fff0, ..Ctx::default() };
        let failure = outcome(&[INGRESS, EXIT], &packet(), &nowhere).unwrap_err();
        assert!(failure.to_string().contains("not in this network namespace"), "{failure}");
        let no_queue = Ctx { rx_queue: 4096, ..Ctx::default() };
        let failure = outcome(&[INGRESS, EXIT], &packet(), &no_queue).unwrap_err();
        assert!(failure.to_string().contains("receive queue"), "{failure}");
    }

    #[test]
    fn every_length_runs_or_says_why_not() {
        let Ok(()) = available() else { return };
        let program = load_xdp(&[set(0, 2), EXIT]).unwrap();
        for length in [MIN_PACKET, 15, 1514, MAX_PACKET] {
            let packet = vec![0x5a; length];
            assert_packet_eq(&run(program.as_fd(), &packet, &Ctx::default()).unwrap().packet, &packet);
        }
        for length in [0, MIN_PACKET - 1, MAX_PACKET + 1] {
            let failure = run(program.as_fd(), &vec![0; length], &Ctx::default()).unwrap_err();
            assert!(matches!(failure, Failure::Length(l) if l == length), "{failure}");
        }
    }
}
