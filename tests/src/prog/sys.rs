//! `bpf(2)`, command `BPF_PROG_TEST_RUN`: the only unsafe code of the harness.
//!
//! The layouts are those of `union bpf_attr` and `struct xdp_md` in the kernel's `include/uapi/linux/bpf.h`.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

const BPF_PROG_TEST_RUN: libc::c_int = 10;

/// `struct xdp_md`: in a test run `data` and `data_end` are offsets from the start of the data buffer.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct XdpMd {
    pub data: u32,
    pub data_end: u32,
    pub data_meta: u32,
    pub ingress_ifindex: u32,
    pub rx_queue_index: u32,
    pub egress_ifindex: u32,
}

const _: () = assert!(size_of::<XdpMd>() == 24);

/// The `test` member of `union bpf_attr`.
#[repr(C)]
#[derive(Default)]
struct TestRunAttr {
    prog_fd: u32,
    retval: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    ctx_size_in: u32,
    ctx_size_out: u32,
    ctx_in: u64,
    ctx_out: u64,
    flags: u32,
    cpu: u32,
    batch_size: u32,
    // The compiler would leave these four bytes as padding, and the kernel wants every byte set.
    reserved: u32,
}

const _: () = assert!(size_of::<TestRunAttr>() == 80);

/// What the kernel filled in.
pub(super) struct Answer {
    pub retval: u32,
    /// Mean of one iteration.
    pub duration_ns: u32,
    /// Bytes of the data buffer that are valid.
    pub data_length: u32,
    pub context: XdpMd,
}

/// Runs `program` `repeat` times on `data_in` and lets the kernel write what became of it to `data_out`.
///
/// The kernel refuses with `ENOSPC` rather than write more than `data_out` holds, and before 5.15 with `EINVAL` when it
/// gets a context.
pub(super) fn test_run(
    program: BorrowedFd<'_>,
    data_in: &[u8],
    data_out: &mut [u8],
    context: Option<XdpMd>,
    repeat: u32,
) -> io::Result<Answer> {
    let length = |buffer: &[u8]| u32::try_from(buffer.len()).map_err(|_| io::ErrorKind::InvalidInput);
    let context_in = context.unwrap_or_default();
    let mut context_out = XdpMd::default();
    let mut attr = TestRunAttr {
        prog_fd: u32::try_from(program.as_raw_fd()).map_err(|_| io::ErrorKind::InvalidInput)?,
        data_size_in: length(data_in)?,
        data_size_out: length(data_out)?,
        data_in: data_in.as_ptr() as u64,
        data_out: data_out.as_mut_ptr() as u64,
        repeat,
        ..TestRunAttr::default()
    };
    if context.is_some() {
        let size = 24;
        (attr.ctx_size_in, attr.ctx_size_out) = (size, size);
        (attr.ctx_in, attr.ctx_out) = (&raw const context_in as u64, &raw mut context_out as u64);
    }
    // SAFETY: `attr` has the layout of the `test` member and its full size is passed. Every pointer in it is to a
    // buffer of at least the size beside it that lives beyond the call: the kernel reads `data_in` and `context_in`
    // and writes at most `data_size_out` and `ctx_size_out` bytes to the two others, which nothing else refers to.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_TEST_RUN, &raw mut attr, size_of::<TestRunAttr>()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(Answer {
        retval: attr.retval,
        duration_ns: attr.duration,
        data_length: attr.data_size_out,
        context: context_out,
    })
}

/// Sends `frames` copies of `data_in` as real frames: what `program` says becomes of them is done, on the interface that
/// `context` names. Returns mean nanoseconds of a frame.
pub(super) fn live_frames(
    program: BorrowedFd<'_>,
    data_in: &[u8],
    context: XdpMd,
    frames: u32,
    batch: u32,
) -> io::Result<u32> {
    const LIVE_FRAMES: u32 = 1 << 1;
    let mut attr = TestRunAttr {
        prog_fd: u32::try_from(program.as_raw_fd()).map_err(|_| io::ErrorKind::InvalidInput)?,
        data_size_in: u32::try_from(data_in.len()).map_err(|_| io::ErrorKind::InvalidInput)?,
        data_in: data_in.as_ptr() as u64,
        repeat: frames,
        ctx_size_in: 24,
        ctx_in: &raw const context as u64,
        flags: LIVE_FRAMES,
        batch_size: batch,
        ..TestRunAttr::default()
    };
    // SAFETY: as in `test_run`; nothing is written but `attr`.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_TEST_RUN, &raw mut attr, size_of::<TestRunAttr>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(attr.duration) }
}

/// The part of `struct __sk_buff` that a caller may set; the rest of its 192 bytes are zero.
#[repr(C)]
#[derive(Clone, Copy)]
struct SkBuff {
    len: u32,
    pkt_type: u32,
    mark: u32,
    rest: [u32; 45],
}

const _: () = assert!(size_of::<SkBuff>() == 192);

/// Runs a TC program once on `data_in`, on a socket buffer with `mark`; returns what it returned and the length of what
/// became of the packet in `data_out`.
pub(super) fn test_run_skb(
    program: BorrowedFd<'_>,
    data_in: &[u8],
    data_out: &mut [u8],
    mark: u32,
) -> io::Result<(u32, u32)> {
    let length = |buffer: &[u8]| u32::try_from(buffer.len()).map_err(|_| io::ErrorKind::InvalidInput);
    let context = SkBuff { len: 0, pkt_type: 0, mark, rest: [0; 45] };
    let mut attr = TestRunAttr {
        prog_fd: u32::try_from(program.as_raw_fd()).map_err(|_| io::ErrorKind::InvalidInput)?,
        data_size_in: length(data_in)?,
        data_size_out: length(data_out)?,
        data_in: data_in.as_ptr() as u64,
        data_out: data_out.as_mut_ptr() as u64,
        ctx_size_in: 192,
        ctx_in: &raw const context as u64,
        ..TestRunAttr::default()
    };
    // SAFETY: as in `test_run`; the kernel reads 192 bytes of `context` and writes no context back.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_TEST_RUN, &raw mut attr, size_of::<TestRunAttr>()) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok((attr.retval, attr.data_size_out))
}

/// Loads an XDP program from its instructions, for the harness's own tests.
#[cfg(test)]
pub(super) fn load_xdp(instructions: &[u64]) -> io::Result<std::os::fd::OwnedFd> {
    use std::os::fd::{FromRawFd, OwnedFd};

    const BPF_PROG_LOAD: libc::c_int = 5;
    const BPF_PROG_TYPE_XDP: u32 = 6;

    /// The first members of the `BPF_PROG_LOAD` part of `union bpf_attr`; the kernel takes the rest as zero.
    #[repr(C)]
    struct LoadAttr {
        prog_type: u32,
        instruction_count: u32,
        instructions: u64,
        license: u64,
    }

    let mut attr = LoadAttr {
        prog_type: BPF_PROG_TYPE_XDP,
        instruction_count: u32::try_from(instructions.len()).map_err(|_| io::ErrorKind::InvalidInput)?,
        instructions: instructions.as_ptr() as u64,
        license: c"GPL".as_ptr() as u64,
    };
    // SAFETY: `attr` is a prefix of the load attributes of the size passed, without padding; instructions and licence
    // live beyond the call and are only read.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_LOAD, &raw mut attr, size_of::<LoadAttr>()) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    let fd = libc::c_int::try_from(fd).map_err(|_| io::ErrorKind::InvalidData)?;
    // SAFETY: the kernel has just made this descriptor for us, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
