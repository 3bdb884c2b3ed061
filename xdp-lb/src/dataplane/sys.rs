//! System calls that aya and std do not offer, each as one safe function: grace periods, the kernel's clock,
//! what is mounted, and a few commands of `bpf(2)`. Called by the rest of `dataplane`.

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
    sync::Once,
    time::Duration,
};

use bytemuck::{Pod, Zeroable};

use super::btf::MapTypes;

const BPF_MAP_CREATE: u32 = 0;
const BPF_MAP_DELETE_ELEM: u32 = 3;
const BPF_PROG_LOAD: u32 = 5;
const BPF_OBJ_PIN: u32 = 6;
const BPF_OBJ_GET: u32 = 7;
const BPF_PROG_TEST_RUN: u32 = 10;
const BPF_OBJ_GET_INFO_BY_FD: u32 = 15;
const BPF_BTF_LOAD: u32 = 18;
const BPF_LINK_GET_FD_BY_ID: u32 = 30;
const BPF_LINK_GET_NEXT_ID: u32 = 31;
const BPF_LINK_DETACH: u32 = 34;
const BPF_MAP_TYPE_ARRAY: u32 = 2;
const BPF_PROG_TYPE_SOCKET_FILTER: u32 = 1;
const BPF_LINK_TYPE_XDP: u32 = 6;
/// `BPF_F_MMAPABLE`.
const MMAPABLE: u32 = 1 << 10;
/// `bpf_jiffies64`.
const JIFFIES64: i32 = 118;
/// `BPF_FS_MAGIC`.
const BPFFS: i64 = 0xcafe_4a11;

/// Waits until every packet that was under way has left the program.
///
/// XDP programs run inside RCU read sections, and `MEMBARRIER_CMD_GLOBAL` is `synchronize_rcu()`. It does
/// nothing on a machine with one CPU: there a running agent means that no program is half-way (a real-time
/// kernel with one CPU is the exception). It is refused where `nohz_full` CPUs never leave user space; a packet takes
/// microseconds, so 50 ms do instead.
pub fn grace_period() {
    const MEMBARRIER_CMD_GLOBAL: libc::c_int = 1;
    // SAFETY: takes two integers, touches no memory.
    let refused = unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0) } != 0;
    if refused {
        static ONCE: Once = Once::new();
        let error = io::Error::last_os_error();
        ONCE.call_once(
            || tracing::warn!(%error, "membarrier refused (nohz_full?): each grace period is 50 ms"),
        );
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// The kernel's jiffies a second.
///
/// The coarse clocks advance once a jiffy, and the kernel says so: their resolution is exactly
/// `10^9 / HZ` nanoseconds, rounded.
///
/// # Errors
/// None on Linux; what `clock_getres` says.
pub fn hz() -> io::Result<u32> {
    let mut resolution = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: writes one timespec, ours.
    if unsafe { libc::clock_getres(libc::CLOCK_MONOTONIC_COARSE, &raw mut resolution) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let nanos = u64::try_from(resolution.tv_nsec).unwrap_or(0);
    (resolution.tv_sec == 0 && nanos > 0)
        .then(|| u32::try_from((1_000_000_000 + nanos / 2) / nanos).ok())
        .flatten()
        .ok_or_else(|| io::Error::other(format!("a coarse clock of {nanos} ns")))
}

/// Lifts the limit on locked memory, which kernels before 5.11 charge maps to. The limit in bytes that stays, if one does:
/// what it means is for the module `locked` to say.
pub fn lift_memlock() -> Option<u64> {
    let unlimited = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: reads one rlimit, ours.
    if unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &raw const unlimited) } == 0 {
        return None;
    }
    let mut limit = unlimited;
    // SAFETY: writes one rlimit, ours.
    unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &raw mut limit) };
    (limit.rlim_cur != libc::RLIM_INFINITY).then_some(limit.rlim_cur)
}

/// Lifts the limit on open files to what is allowed: every health check under way has a socket. Failure shows when
/// one is refused.
pub fn lift_nofile() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: writes one rlimit, ours.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } == 0 {
        limit.rlim_cur = limit.rlim_max;
        // SAFETY: reads one rlimit, ours.
        unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) };
    }
}

/// True when `path`, which must exist, is on a BPF file system.
///
/// # Errors
/// What `statfs` says.
pub fn is_bpffs(path: &Path) -> io::Result<bool> {
    let path = c_path(path)?;
    let mut found = std::mem::MaybeUninit::<libc::statfs>::zeroed();
    // SAFETY: a terminated path, and room for one statfs.
    if unsafe { libc::statfs(path.as_ptr(), found.as_mut_ptr()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call succeeded; all-zero would be valid as well.
    #[expect(clippy::unnecessary_cast, reason = "another width on other machines")]
    Ok(unsafe { found.assume_init() }.f_type as i64 == BPFFS)
}

/// The index of the interface `name` in the thread's namespace; `None` when there is none.
#[must_use]
pub fn ifindex(name: &str) -> Option<u32> {
    let name = CString::new(name).ok()?;
    // SAFETY: a terminated string.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    (index != 0).then_some(index)
}

/// What the kernel says of an XDP link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct XdpLinkInfo {
    /// The program's id.
    pub program: u32,
    /// The interface; 0 once that is gone.
    pub ifindex: u32,
}

/// Of a link that is pinned at `path`.
///
/// # Errors
/// What `bpf(2)` says; `InvalidData` for something that is no XDP link.
pub fn pinned_link(path: &Path) -> io::Result<XdpLinkInfo> {
    link_info(&pinned(path)?)?.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no XDP link"))
}

/// Detaches a link that is pinned at `path`; the pin stays. Without this, removing the pin would take the program
/// away at some later time: the kernel lets go of a pin's object after a grace period.
///
/// # Errors
/// What `bpf(2)` says.
pub fn detach_pinned_link(path: &Path) -> io::Result<()> {
    detach_link(&pinned(path)?)
}

/// Detaches the one link that holds `program` on `ifindex`.
///
/// # Errors
/// `NotFound` without such a link, and with more than one: equal indices in several namespaces.
pub fn detach_link_of(program: u32, ifindex: u32) -> io::Result<()> {
    let wanted = XdpLinkInfo { program, ifindex };
    let mut found = None;
    let mut id = 0;
    loop {
        let mut next = NextId { start: id, next: 0, flags: 0 };
        // SAFETY: no pointers.
        match unsafe { bpf(BPF_LINK_GET_NEXT_ID, &mut next) } {
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => break,
            result => result?,
        };
        id = next.next;
        let mut get = NextId { start: id, next: 0, flags: 0 };
        // SAFETY: no pointers.
        let Ok(link) = (unsafe { bpf_fd(BPF_LINK_GET_FD_BY_ID, &mut get) }) else { continue };
        if link_info(&link)? == Some(wanted) && found.replace(link).is_some() {
            return Err(io::Error::new(
                io::ErrorKind::NotFound,
                "the same program is on several such interfaces",
            ));
        }
    }
    detach_link(&found.ok_or(io::ErrorKind::NotFound)?)
}

/// Makes a memory-mapped array of `len` values.
///
/// # Errors
/// What `bpf(2)` says.
pub fn create_mapped_array(name: &str, value_size: u32, len: u32) -> io::Result<OwnedFd> {
    let mut create = MapCreate {
        kind: BPF_MAP_TYPE_ARRAY,
        key_size: 4,
        value_size,
        max_entries: len,
        flags: MMAPABLE,
        ..Zeroable::zeroed()
    };
    // Fifteen bytes and a terminating zero.
    for (to, from) in create.name.iter_mut().zip(name.bytes().take(15)) {
        *to = from;
    }
    // SAFETY: no pointers.
    unsafe { bpf_fd(BPF_MAP_CREATE, &mut create) }
}

/// Number of elements that a map can hold.
///
/// # Errors
/// What `bpf(2)` says.
pub fn map_len(map: &OwnedFd) -> io::Result<u32> {
    let mut info: MapInfo = Zeroable::zeroed();
    let mut get = GetInfo {
        fd: map.as_raw_fd() as u32,
        len: size_of::<MapInfo>() as u32,
        info: (&raw mut info).addr() as u64,
    };
    // SAFETY: the kernel writes at most `len` bytes to `info`, which outlives the call.
    unsafe { bpf(BPF_OBJ_GET_INFO_BY_FD, &mut get) }?;
    Ok(info.max_entries)
}

/// Opens what is pinned at `path`.
///
/// # Errors
/// What `bpf(2)` says.
pub fn pinned(path: &Path) -> io::Result<OwnedFd> {
    let path = c_path(path)?;
    let mut get = ObjGet { path: path.as_ptr().addr() as u64, ..Zeroable::zeroed() };
    // SAFETY: `path` is a terminated string that outlives the call.
    unsafe { bpf_fd(BPF_OBJ_GET, &mut get) }
}

fn detach_link(link: &OwnedFd) -> io::Result<()> {
    let mut detach = Fd { fd: link.as_raw_fd() as u32 };
    // SAFETY: no pointers.
    unsafe { bpf(BPF_LINK_DETACH, &mut detach) }.map(drop)
}

/// Makes an array map with one value of `value_size` bytes, and tells the kernel its types.
///
/// # Errors
/// What `bpf(2)` says: `E2BIG` for a value of more than 4 MiB on kernels before 6.7.
pub fn create_array(name: &str, value_size: u32, flags: u32, types: &MapTypes) -> io::Result<OwnedFd> {
    let mut load = BtfLoad {
        blob: types.blob.as_ptr().addr() as u64,
        size: types.blob.len() as u32,
        ..Zeroable::zeroed()
    };
    // SAFETY: the blob outlives the call and is as long as said.
    let btf = unsafe { bpf_fd(BPF_BTF_LOAD, &mut load) }?;
    let mut create = MapCreate {
        kind: BPF_MAP_TYPE_ARRAY,
        key_size: 4,
        value_size,
        max_entries: 1,
        flags,
        btf: btf.as_raw_fd() as u32,
        btf_key: types.key,
        btf_value: types.value,
        ..Zeroable::zeroed()
    };
    for (to, from) in create.name.iter_mut().take(15).zip(name.bytes()) {
        *to = from;
    }
    // SAFETY: no pointers.
    unsafe { bpf_fd(BPF_MAP_CREATE, &mut create) }
}

/// Pins an object at `path`.
///
/// # Errors
/// What `bpf(2)` says.
pub fn pin(object: &OwnedFd, path: &Path) -> io::Result<()> {
    let path = c_path(path)?;
    let mut pin =
        ObjGet { path: path.as_ptr().addr() as u64, fd: object.as_raw_fd() as u32, ..Zeroable::zeroed() };
    // SAFETY: `path` is a terminated string that outlives the call.
    unsafe { bpf(BPF_OBJ_PIN, &mut pin) }.map(drop)
}

/// Deletes an element of a map with 4-byte keys; one that is not there is no error.
///
/// # Errors
/// What `bpf(2)` says.
pub fn delete_element(map: BorrowedFd<'_>, key: u32) -> io::Result<()> {
    let mut delete =
        Element { map: map.as_raw_fd() as u32, key: (&raw const key).addr() as u64, ..Zeroable::zeroed() };
    // SAFETY: the key is 4 bytes as the map's and outlives the call.
    match unsafe { bpf(BPF_MAP_DELETE_ELEM, &mut delete) } {
        Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(()),
        result => result.map(drop),
    }
}

/// Reads the kernel's jiffies, which no file shows: a program of two instructions, run by a test run.
#[derive(Debug)]
pub struct Jiffies(OwnedFd);

impl Jiffies {
    /// Loads the program.
    ///
    /// # Errors
    /// What `bpf(2)` says.
    pub fn load() -> io::Result<Self> {
        const CALL: u8 = 0x85;
        const EXIT: u8 = 0x95;
        let code = [
            Instruction { code: CALL, immediate: JIFFIES64, ..Zeroable::zeroed() },
            Instruction { code: EXIT, ..Zeroable::zeroed() },
        ];
        let license = c"Dual MIT/GPL";
        let mut load = ProgLoad {
            kind: BPF_PROG_TYPE_SOCKET_FILTER,
            instructions: code.len() as u32,
            code: code.as_ptr().addr() as u64,
            license: license.as_ptr().addr() as u64,
            ..Zeroable::zeroed()
        };
        // SAFETY: code and license outlive the call and are as long as said.
        unsafe { bpf_fd(BPF_PROG_LOAD, &mut load) }.map(Self)
    }

    /// The low 32 bits of the jiffies. The flow table's tick is bits `shift..shift + 11`, and the shift is
    /// at most 13 (HZ 1024): nothing above bit 31 matters.
    ///
    /// # Errors
    /// What `bpf(2)` says.
    pub fn now(&self) -> io::Result<u32> {
        // The kernel wants at least an Ethernet header.
        let packet = [0u8; 14];
        let mut run = TestRun {
            program: self.0.as_raw_fd() as u32,
            data_size_in: packet.len() as u32,
            data_in: packet.as_ptr().addr() as u64,
            ..Zeroable::zeroed()
        };
        // SAFETY: the packet outlives the call and is as long as said; nothing is written but `run`.
        unsafe { bpf(BPF_PROG_TEST_RUN, &mut run) }?;
        Ok(run.retval)
    }
}

/// Of any link; `None` when it is no XDP link.
fn link_info(link: &OwnedFd) -> io::Result<Option<XdpLinkInfo>> {
    let mut info: LinkInfo = Zeroable::zeroed();
    let mut get = GetInfo {
        fd: link.as_raw_fd() as u32,
        len: size_of::<LinkInfo>() as u32,
        info: (&raw mut info).addr() as u64,
    };
    // SAFETY: the kernel writes at most `len` bytes to `info`, which outlives the call.
    unsafe { bpf(BPF_OBJ_GET_INFO_BY_FD, &mut get) }?;
    let is_xdp = info.kind == BPF_LINK_TYPE_XDP;
    Ok(is_xdp.then_some(XdpLinkInfo { program: info.program, ifindex: info.ifindex }))
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, e))
}

/// `bpf(2)`. Kernels take shorter attributes than they know and fill up with zeros.
///
/// # Safety
/// Pointers in `attributes` must be what the command expects, and live.
unsafe fn bpf<A: Pod>(command: u32, attributes: &mut A) -> io::Result<RawFd> {
    let attributes: *mut A = attributes;
    // SAFETY: `attributes` is as long as said; the rest is the caller's promise.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, attributes.expose_provenance(), size_of::<A>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result as RawFd) }
}

/// `bpf(2)` for commands that return a descriptor.
///
/// # Safety
/// As [`bpf`], and the command must return a descriptor.
unsafe fn bpf_fd<A: Pod>(command: u32, attributes: &mut A) -> io::Result<OwnedFd> {
    // SAFETY: the caller's promise; a descriptor returned is ours.
    unsafe { bpf(command, attributes).map(|fd| OwnedFd::from_raw_fd(fd)) }
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct ObjGet {
    path: u64,
    fd: u32,
    flags: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct BtfLoad {
    blob: u64,
    log: u64,
    size: u32,
    log_size: u32,
    log_level: u32,
    reserved: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct MapCreate {
    kind: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    flags: u32,
    inner_map: u32,
    numa_node: u32,
    name: [u8; 16],
    ifindex: u32,
    btf: u32,
    btf_key: u32,
    btf_value: u32,
}

/// The head of `bpf_map_info`.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct MapInfo {
    kind: u32,
    id: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    flags: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct NextId {
    start: u32,
    next: u32,
    flags: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Fd {
    fd: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Element {
    map: u32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct GetInfo {
    fd: u32,
    len: u32,
    info: u64,
}

/// The head of `bpf_link_info`, with the XDP member of its union.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct LinkInfo {
    kind: u32,
    id: u32,
    program: u32,
    pad: u32,
    ifindex: u32,
    rest: [u32; 3],
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct Instruction {
    code: u8,
    registers: u8,
    offset: i16,
    immediate: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct ProgLoad {
    kind: u32,
    instructions: u32,
    code: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
struct TestRun {
    program: u32,
    retval: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
}
