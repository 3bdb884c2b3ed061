//! The only unsafe code of the guest. Each function is a system call or two with the result turned into an
//! [`io::Result`]; `init`, `verify` and `traffic` call them.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::net::UdpSocket;
use std::os::fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::path::Path;

/// Where the emulator's isa-debug-exit device listens.
#[cfg(target_arch = "x86_64")]
const EXIT_PORT: u16 = 0xf4;
const BPF_PROG_LOAD: libc::c_int = 5;
/// `BPF_LOG_STATS` of the kernel's `include/linux/bpf_verifier.h`: the summary alone.
const LOG_STATS: u32 = 4;
/// Room for the summary.
const LOG_BYTES: usize = 4096;

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Mounts a file system that needs no options.
///
/// # Errors
/// `ENODEV` when the kernel has none of that kind.
pub fn mount(source: &str, target: &str, kind: &str) -> io::Result<()> {
    let [source, target, kind] = [CString::new(source)?, CString::new(target)?, CString::new(kind)?];
    // SAFETY: all strings are NUL-terminated and live through the call; data may be null.
    check(unsafe { libc::mount(source.as_ptr(), target.as_ptr(), kind.as_ptr(), 0, std::ptr::null()) })
}

/// Loads a kernel module; one that is loaded already is no error.
///
/// # Errors
/// `ENOENT` when it needs symbols that nobody has.
pub fn load_module(path: &Path) -> io::Result<()> {
    let file = File::open(path)?;
    // SAFETY: an open descriptor, a terminated string and an integer.
    let result = unsafe { libc::syscall(libc::SYS_finit_module, file.as_raw_fd(), c"".as_ptr(), 0) };
    match check(result as libc::c_int) {
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(()),
        result => result,
    }
}

/// Waits until the console has sent all that was written to it.
///
/// # Errors
/// `ENOTTY` when it is no terminal.
pub fn drain_console() -> io::Result<()> {
    // SAFETY: takes an integer.
    check(unsafe { libc::tcdrain(libc::STDOUT_FILENO) })
}

/// Ends the emulator with the exit code `2 * code + 1`, or the machine by the kernel where there is no emulator.
pub fn end_machine(code: u8) -> ! {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: ioperm takes integers; once it has succeeded, this process may write the one port, which touches no
    // memory.
    unsafe {
        if libc::ioperm(EXIT_PORT.into(), 1, 1) == 0 {
            std::arch::asm!("out dx, al", in("dx") EXIT_PORT, in("al") code, options(nomem, nostack));
        }
    }
    // SAFETY: takes an integer. Process 1 in a machine of its own is the only caller.
    unsafe { libc::reboot(libc::RB_POWER_OFF) };
    std::process::exit(code.into())
}

/// A socket that receives whole IPv4 packets of one protocol, header first, in the calling thread's namespace.
/// [`UdpSocket`] is what std has for "a socket that receives one packet at a time".
///
/// # Errors
/// `EPERM` without `CAP_NET_RAW`.
pub fn raw_socket(protocol: libc::c_int) -> io::Result<UdpSocket> {
    // SAFETY: takes integers only.
    let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, protocol) };
    check(fd)?;
    // SAFETY: the call succeeded, so `fd` is a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) }.into())
}

/// The leading members of the `BPF_PROG_LOAD` part of `union bpf_attr`.
#[repr(C)]
struct ProgLoad {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
    name: [u8; 16],
    ifindex: u32,
    expected_attach_type: u32,
    btf: u32,
    function_size: u32,
    functions: u64,
    function_count: u32,
    /// Zero: no lines. Also what the compiler would pad.
    line_size: u32,
}

const _: () = assert!(size_of::<ProgLoad>() == 96);

/// Which function of which type begins where: a verifier looks at global functions by themselves.
#[derive(Clone, Copy, Debug)]
pub struct Functions<'a> {
    /// The types.
    pub btf: BorrowedFd<'a>,
    /// Records as the kernel takes them.
    pub records: &'a [u8],
    /// Bytes of a record.
    pub size: usize,
}

/// Opens loaded types by their id.
///
/// # Errors
/// `ENOENT` when they are gone.
pub fn btf_by_id(id: u32) -> io::Result<OwnedFd> {
    const BPF_BTF_GET_FD_BY_ID: libc::c_int = 19;
    let attr = [id, 0, 0];
    // SAFETY: the attributes of this command are three integers, which are only read.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, BPF_BTF_GET_FD_BY_ID, attr.as_ptr(), size_of_val(&attr)) };
    let fd = libc::c_int::try_from(fd).map_err(io::Error::other)?;
    check(fd)?;
    // SAFETY: the call succeeded, so `fd` is a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// What a program is to the kernel, by the numbers of `enum bpf_prog_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Kind {
    /// Of a traffic control classifier.
    SchedCls = 3,
    /// XDP.
    Xdp = 6,
}

/// Loads a program and returns what the verifier says of its own work; the program is gone again.
///
/// `instructions` holds eight bytes for each, `flags` are the kernel's `prog_flags`.
///
/// # Errors
/// What the kernel says.
pub fn verify(
    kind: Kind,
    instructions: &[u8],
    license: &CStr,
    flags: u32,
    functions: Option<Functions<'_>>,
) -> io::Result<String> {
    let mut log = vec![0_u8; LOG_BYTES];
    let length = |bytes: usize| u32::try_from(bytes).map_err(|_| io::ErrorKind::InvalidInput);
    let mut attr = ProgLoad {
        kind: kind as u32,
        count: length(instructions.len() / 8)?,
        instructions: instructions.as_ptr() as u64,
        license: license.as_ptr() as u64,
        log_level: LOG_STATS,
        log_size: length(log.len())?,
        log: log.as_mut_ptr() as u64,
        kernel_version: 0,
        flags,
        name: *b"xlb_verify\0\0\0\0\0\0",
        ifindex: 0,
        expected_attach_type: 0,
        btf: 0,
        function_size: 0,
        functions: 0,
        function_count: 0,
        line_size: 0,
    };
    if let Some(Functions { btf, records, size }) = functions {
        attr.btf = btf.as_raw_fd().cast_unsigned();
        attr.function_size = length(size)?;
        attr.functions = records.as_ptr() as u64;
        attr.function_count = length(records.len().checked_div(size).unwrap_or(0))?;
    }
    // SAFETY: `attr` has the layout of the load attributes, and its size is passed. Instructions, licence,
    // functions and log live through the call, are as long as said, and only the log is written to.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_LOAD, &raw mut attr, size_of::<ProgLoad>()) };
    let fd = libc::c_int::try_from(fd).map_err(io::Error::other)?;
    let log = CStr::from_bytes_until_nul(&log).map(CStr::to_string_lossy).unwrap_or_default().into_owned();
    if let Err(error) = check(fd) {
        return Err(io::Error::new(error.kind(), format!("{error}; {log}")));
    }
    // SAFETY: the call succeeded, so `fd` is a new descriptor that nobody else owns.
    drop(unsafe { OwnedFd::from_raw_fd(fd) });
    Ok(log)
}
