//! The only unsafe code of the lab: the system calls that no safe crate of ours offers.
//!
//! Called by `namespace` (unshare, setns, mounts), `process` (fork hooks, signals), `link` (ethtool),
//! `xdp` (loading a two-instruction program) and `bpffs`. Each function is one system call with its result
//! turned into an [`io::Result`]; what the calls are for is decided by the callers.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

/// `BPF_FS_MAGIC` of linux/magic.h.
const BPF_FS_MAGIC: libc::c_long = 0xcafe_4a11;
/// `SIOCETHTOOL` of linux/sockios.h.
const SIOCETHTOOL: libc::c_ulong = 0x8946;
/// `BPF_PROG_LOAD` of linux/bpf.h.
const BPF_PROG_LOAD: libc::c_long = 5;
/// `BPF_PROG_TYPE_XDP` of linux/bpf.h.
const BPF_F_XDP_HAS_FRAGS: u32 = 1 << 5;
const BPF_PROG_TYPE_XDP: u32 = 6;

/// Turns the "-1 and errno" of libc into a result.
fn check(ret: libc::c_int) -> io::Result<()> {
    if ret < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn c_path(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

/// Whether the effective user is root.
#[must_use]
pub fn is_root() -> bool {
    // SAFETY: geteuid takes nothing, touches no memory of ours and cannot fail.
    unsafe { libc::geteuid() == 0 }
}

/// Gives the calling thread a new, empty network namespace.
///
/// # Errors
/// `EPERM` without `CAP_SYS_ADMIN`.
pub fn unshare_net() -> io::Result<()> {
    // SAFETY: unshare takes flags only; CLONE_NEWNET changes this thread's namespace and no memory.
    check(unsafe { libc::unshare(libc::CLONE_NEWNET) })
}

/// Moves the calling thread into a network namespace. The mount namespace stays, so `/sys/fs/bpf` does too.
///
/// # Errors
/// `EINVAL` when `fd` is no network namespace, `EPERM` without `CAP_SYS_ADMIN`.
pub fn setns_net(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: the descriptor is open for as long as it is borrowed; setns touches no memory of ours.
    check(unsafe { libc::setns(fd.as_raw_fd(), libc::CLONE_NEWNET) })
}

/// Bind-mounts the calling thread's network namespace on an existing file, which keeps it alive.
///
/// # Errors
/// Whatever mount(2) says.
pub fn pin_own_netns(target: &Path) -> io::Result<()> {
    let target = c_path(target)?;
    // SAFETY: both paths are NUL-terminated and live through the call; type and data may be null for MS_BIND.
    check(unsafe {
        libc::mount(
            c"/proc/thread-self/ns/net".as_ptr(),
            target.as_ptr(),
            std::ptr::null(),
            libc::MS_BIND,
            std::ptr::null(),
        )
    })
}

/// Takes away what is mounted on `target`, even when somebody still uses it.
///
/// # Errors
/// `EINVAL` when nothing is mounted there, `ENOENT` when the path does not exist.
pub fn unmount(target: &Path) -> io::Result<()> {
    let target = c_path(target)?;
    // SAFETY: the path is NUL-terminated and lives through the call.
    check(unsafe { libc::umount2(target.as_ptr(), libc::MNT_DETACH) })
}

/// Mounts a BPF file system on an existing directory.
///
/// # Errors
/// `ENODEV` when the kernel has none, `EPERM` without `CAP_SYS_ADMIN`.
pub fn mount_bpffs(target: &Path) -> io::Result<()> {
    let target = c_path(target)?;
    let flags = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
    // SAFETY: all strings are NUL-terminated and live through the call; data may be null.
    check(unsafe { libc::mount(c"bpf".as_ptr(), target.as_ptr(), c"bpf".as_ptr(), flags, std::ptr::null()) })
}

/// Whether `path` lies on a BPF file system.
///
/// # Errors
/// `ENOENT` when there is no such path.
pub fn is_bpffs(path: &Path) -> io::Result<bool> {
    let path = c_path(path)?;
    let mut stat = std::mem::MaybeUninit::<libc::statfs>::zeroed();
    // SAFETY: the path is NUL-terminated; `stat` is a writable statfs and all its bit patterns are valid.
    let stat = unsafe {
        check(libc::statfs(path.as_ptr(), stat.as_mut_ptr()))?;
        stat.assume_init()
    };
    Ok(stat.f_type == BPF_FS_MAGIC)
}

/// Sends a signal to one process.
///
/// # Errors
/// `ESRCH` when it is gone.
pub fn kill(pid: u32, signal: i32) -> io::Result<()> {
    signal_target(i64::from(pid), signal)
}

/// Sends a signal to a process group that [`prepare_child`] made.
///
/// # Errors
/// `ESRCH` when it is empty.
pub fn kill_group(leader: u32, signal: i32) -> io::Result<()> {
    signal_target(-i64::from(leader), signal)
}

fn signal_target(target: i64, signal: i32) -> io::Result<()> {
    let target = libc::pid_t::try_from(target).map_err(|_| io::Error::from_raw_os_error(libc::ESRCH))?;
    if matches!(target, -1..=1) {
        // 0 is our own group, -1 everybody, 1 is init: never what a lab means.
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    // SAFETY: kill takes two integers and touches no memory.
    check(unsafe { libc::kill(target, signal) })
}

/// Makes `command` start inside the namespace `netns`, as leader of a process group of its own, and, if
/// `die_with_us`, get SIGKILL when the thread that spawns it ends (so spawn from one that lives as long as we do).
pub fn prepare_child(command: &mut Command, netns: OwnedFd, die_with_us: bool) {
    let parent = std::process::id();
    let hook = move || -> io::Result<()> {
        // SAFETY: setns, setpgid, prctl and getppid are async-signal-safe system calls on integers; the descriptor
        // is owned by this closure and is closed by exec only.
        unsafe {
            check(libc::setns(netns.as_raw_fd(), libc::CLONE_NEWNET))?;
            check(libc::setpgid(0, 0))?;
            if die_with_us {
                check(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL))?;
                // The parent may have died before the line above.
                if u32::try_from(libc::getppid()) != Ok(parent) {
                    return Err(io::Error::from_raw_os_error(libc::ESRCH));
                }
            }
        }
        Ok(())
    };
    // SAFETY: the hook makes only async-signal-safe system calls and allocates nothing (an io::Error made from an
    // errno holds no heap memory), so it may run between fork and exec of a process with threads.
    unsafe { command.pre_exec(hook) };
}

/// A socket for ICMP or ICMPv6 echo, in the calling thread's namespace. It speaks in datagrams that begin with the ICMP
/// header, which is all that a [`UdpSocket`](std::net::UdpSocket) needs to know.
///
/// # Errors
/// `EACCES` when `net.ipv4.ping_group_range` does not hold our group.
pub fn ping_socket(v6: bool) -> io::Result<std::net::UdpSocket> {
    let (family, protocol) =
        if v6 { (libc::AF_INET6, libc::IPPROTO_ICMPV6) } else { (libc::AF_INET, libc::IPPROTO_ICMP) };
    // SAFETY: socket takes integers only.
    let fd = unsafe { libc::socket(family, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, protocol) };
    check(fd)?;
    // SAFETY: the call succeeded, so `fd` is a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) }.into())
}

/// Sets a socket's receive buffer in bytes, beyond what the host allows ordinary users.
///
/// # Errors
/// `EPERM` without `CAP_NET_ADMIN`.
pub fn force_receive_buffer(socket: BorrowedFd<'_>, bytes: libc::c_int) -> io::Result<()> {
    let length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the descriptor is open while borrowed; the option takes an int, which `bytes` is and which is only read.
    check(unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVBUFFORCE,
            (&raw const bytes).cast(),
            length,
        )
    })
}

/// One switch of an interface, as ethtool's single-value commands name them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Offload {
    /// The device fills in checksums; off makes the stack do it, as a packet seen by XDP must have them.
    TxChecksum = 0x17,
    /// Scatter-gather, without which the stack sends linear packets.
    ScatterGather = 0x19,
    /// The device cuts TCP segments.
    Tso = 0x1f,
    /// The stack cuts segments late.
    Gso = 0x24,
    /// The stack joins segments it receives.
    Gro = 0x2c,
    /// Everything that `ETHTOOL_SFLAGS` switches, and only off: VLAN tags are then in the packets, not beside them.
    Flags = 0x26,
}

/// `struct ethtool_value`.
#[repr(C)]
struct EthtoolValue {
    cmd: u32,
    data: u32,
}

/// Switches `offload` of `interface` in the calling thread's namespace.
///
/// # Errors
/// `ENODEV` when there is no such interface, `EOPNOTSUPP` when it has no such switch.
pub fn set_offload(interface: &str, offload: Offload, on: bool) -> io::Result<()> {
    let socket = std::net::UdpSocket::bind((std::net::Ipv4Addr::UNSPECIFIED, 0))?;
    let name = interface.as_bytes();
    if name.len() >= libc::IFNAMSIZ {
        return Err(io::Error::from_raw_os_error(libc::ENODEV));
    }
    let mut value = EthtoolValue { cmd: offload as u32, data: u32::from(on) };
    // SAFETY: ifreq is plain old data: all zeroes is a valid value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name) {
        *to = from.cast_signed();
    }
    request.ifr_ifru.ifru_data = (&raw mut value).cast();
    // SAFETY: `request` holds a NUL-terminated name (shorter than IFNAMSIZ, zeroed before) and a pointer to an
    // `ethtool_value`, which is what these commands read and write; both outlive the call.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL as _, &raw mut request) })
}

/// The part of `union bpf_attr` that BPF_PROG_LOAD needs.
#[repr(C)]
struct ProgLoad {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
}

/// Loads the XDP program `return action;`.
///
/// # Errors
/// `EPERM` without `CAP_BPF`, `ENOSYS` on a kernel without BPF.
pub fn load_xdp_return(action: u32) -> io::Result<OwnedFd> {
    load_return(action, 0)
}

/// The same for frames in several buffers.
///
/// # Errors
/// `EINVAL` on a kernel before 5.18.
pub fn load_xdp_frags_return(action: u32) -> io::Result<OwnedFd> {
    load_return(action, BPF_F_XDP_HAS_FRAGS)
}

fn load_return(action: u32, prog_flags: u32) -> io::Result<OwnedFd> {
    // struct bpf_insn: code, dst | src << 4, off (2 bytes), imm (4 bytes).
    let [a, b, c, d] = action.to_ne_bytes();
    let insns: [[u8; 8]; 2] = [
        [0xb7, 0, 0, 0, a, b, c, d], // r0 = action
        [0x95, 0, 0, 0, 0, 0, 0, 0], // exit
    ];
    let mut attr = ProgLoad {
        prog_type: BPF_PROG_TYPE_XDP,
        insn_cnt: 2,
        insns: insns.as_ptr().expose_provenance() as u64,
        license: c"Dual MIT/GPL".as_ptr().expose_provenance() as u64,
        log_level: 0,
        log_size: 0,
        log_buf: 0,
        kern_version: 0,
        prog_flags,
        prog_name: *b"xlb_lab_return\0\0",
    };
    // SAFETY: `attr` is the leading part of bpf_attr for this command and its size is passed; the pointers in it
    // (instructions, licence) live through the call and the kernel only reads them.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_LOAD, &raw mut attr, size_of::<ProgLoad>()) };
    let fd = libc::c_int::try_from(fd).map_err(io::Error::other)?;
    check(fd)?;
    // SAFETY: the call succeeded, so `fd` is a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
