//! What the kernel knows of a program's run time: `bpf_prog_info` by descriptor, of which aya shows the rest.

use std::io;
use std::os::fd::{AsRawFd as _, BorrowedFd};

/// Leading part of `struct bpf_prog_info`, up to the two counters.
#[repr(C)]
#[derive(Clone, Copy)]
struct ProgInfo {
    before: [u8; 192],
    run_time_ns: u64,
    run_cnt: u64,
}

#[repr(C)]
struct GetInfo {
    fd: u32,
    len: u32,
    info: u64,
}

const BPF_OBJ_GET_INFO_BY_FD: libc::c_int = 15;

/// Nanoseconds and runs counted while `bpf_stats` was on.
///
/// # Errors
/// The kernel's.
pub(super) fn run_time(program: BorrowedFd<'_>) -> io::Result<(u64, u64)> {
    let mut info = ProgInfo { before: [0; 192], run_time_ns: 0, run_cnt: 0 };
    let mut get = GetInfo {
        fd: program.as_raw_fd() as u32,
        len: size_of::<ProgInfo>() as u32,
        info: &raw mut info as u64,
    };
    // SAFETY: the kernel writes at most `len` bytes to `info`, which outlives the call; its pointers are all zero.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, BPF_OBJ_GET_INFO_BY_FD, &raw mut get, size_of::<GetInfo>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok((info.run_time_ns, info.run_cnt)) }
}
