//! The perf buffers of packets to be cut, the counts of what became of them, and the socket that fragments leave by.
//!
//! The buffers belong to who opened them: when the agent ends, the kernel takes them out of the pinned map, and
//! packets are counted as `cut_unavailable` until the next one opens its own.

use std::{
    io,
    os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
};

use aya::maps::{
    Map, MapData,
    perf::{PerfEvent, PerfEventArray, PerfEventArrayBuffer},
};
use tokio::io::{Interest, unix::AsyncFd};
use xdp_lb_common::{backend::Backend, cut::CutCounts, names};

use super::{errors, kernel_maps::OpenError, mapped::Mapped, root::BpffsRoot};

/// Pages of a CPU's buffer, a power of two: 256 KiB, some 160 packets of a full frame.
const PAGES: usize = 64;

/// One CPU's buffer.
pub struct CutBuffer(PerfEventArrayBuffer<MapData>);

impl CutBuffer {
    /// Opens the buffers of all CPUs that are there, in the pinned map.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open_all(root: &BpffsRoot) -> Result<Vec<Self>, OpenError> {
        let error = |source| OpenError::Map { root: root.clone(), name: names::CUTS, source };
        let data = MapData::from_pin(root.map(names::CUTS)).map_err(|e| error(errors::map(e)))?;
        let mut map =
            PerfEventArray::try_from(Map::PerfEventArray(data)).map_err(|e| error(errors::map(e)))?;
        let cpus = aya::util::online_cpus().map_err(|(_, source)| error(source))?;
        let open = |cpu| map.open(cpu, Some(PAGES)).map(Self).map_err(|e| error(io::Error::other(e)));
        cpus.into_iter().map(open).collect()
    }

    /// Has the runtime say when there is something in it.
    ///
    /// # Errors
    /// What `epoll` says.
    pub fn watch(self) -> io::Result<AsyncFd<Self>> {
        // SAFETY: the descriptor is the buffer's own, always the same, and open for as long as it lives.
        Ok(unsafe { AsyncFd::register_with_interest(self, Interest::READABLE) }?)
    }

    /// Hands everything in the buffer to `each`, in one piece where it lies in two.
    pub fn drain(&mut self, mut each: impl FnMut(&[u8])) {
        let mut joined = Vec::new();
        self.0.for_each(|event| {
            // What did not fit, the packet path counts itself.
            let PerfEvent::Sample { head, tail } = event else { return };
            if tail.is_empty() {
                each(head);
            } else {
                joined.clear();
                joined.extend_from_slice(head);
                joined.extend_from_slice(tail);
                each(&joined);
            }
        });
    }
}

impl std::os::fd::AsRawFd for CutBuffer {
    fn as_raw_fd(&self) -> i32 {
        self.0.as_raw_fd()
    }
}

impl AsFd for CutBuffer {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The tables that the cutter reads and counts in. It shares them with the reconciler, and writes nothing of its.
pub struct CutTables {
    backends: Mapped<Backend>,
    counts: Mapped<CutCounts>,
}

impl CutTables {
    /// Opens them from their pins.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(root: &BpffsRoot) -> Result<Self, OpenError> {
        let (backends, counts) = super::kernel_maps::cut_tables(root)?;
        Ok(Self { backends, counts })
    }

    /// A backend's entry.
    #[must_use]
    pub fn backend(&self, index: u32) -> Option<Backend> {
        self.backends.read(index)
    }

    /// The counts so far.
    #[must_use]
    pub fn counts(&self) -> CutCounts {
        self.counts.read(0).unwrap_or_default()
    }

    /// Replaces the counts.
    ///
    /// # Errors
    /// None while the map is there.
    pub fn set_counts(&self, counts: &CutCounts) -> io::Result<()> {
        self.counts.write(0, counts)
    }
}

/// Sends whole frames.
#[derive(Debug)]
pub struct FrameSocket(OwnedFd);

impl FrameSocket {
    /// Opens one in the calling thread's network namespace. It receives nothing.
    ///
    /// # Errors
    /// Without `CAP_NET_RAW`.
    pub fn open() -> io::Result<Self> {
        // Protocol 0: no packet is delivered to it.
        // SAFETY: no pointers.
        let fd = unsafe {
            libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK, 0)
        };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a descriptor that nobody else has.
        Ok(Self(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Sends `frame`, Ethernet header included, out of an interface.
    ///
    /// # Errors
    /// When the interface is gone or down, or its queue is full.
    pub fn send(&self, ifindex: u32, frame: &[u8]) -> io::Result<()> {
        let address = libc::sockaddr_ll {
            sll_family: libc::AF_PACKET as u16,
            sll_protocol: frame.get(12..14).map_or(0, |t| u16::from_ne_bytes([t[0], t[1]])),
            sll_ifindex: ifindex.cast_signed(),
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: 0,
            sll_addr: [0; 8],
        };
        // SAFETY: reads the frame and one address, both ours.
        let sent = unsafe {
            libc::sendto(
                self.0.as_raw_fd(),
                frame.as_ptr().cast(),
                frame.len(),
                0,
                (&raw const address).cast(),
                size_of_val(&address) as libc::socklen_t,
            )
        };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }
}
