//! One network namespace: made by us, visible to `ip netns`, gone when dropped.
//!
//! `topology` makes one per host. It is bind-mounted under `/run/netns/<name>`, so people can look around with
//! `ip netns exec NAME ...` while it lives (which hides `/sys/fs/bpf`; `nsenter --net=/run/netns/NAME` does not).

use std::fs::{self, File};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use super::id::{LabId, PROCESS_MARK};
use super::netlink::Netlink;
use super::process::{Process, Registry};
use super::sys;
use super::worker::{Stop, Worker};

/// Where `ip netns` looks for namespaces.
pub const NETNS_DIR: &str = "/run/netns";

/// Settings that every namespace of the lab starts with: addresses usable at once, no traffic that nobody asked
/// for, nothing inherited from the host (new namespaces copy its IPv4 settings).
const QUIET: &[(&str, &str)] = &[
    ("net/ipv4/ip_forward", "0"),
    ("net/ipv4/conf/all/rp_filter", "0"),
    ("net/ipv4/conf/default/rp_filter", "0"),
    ("net/ipv4/conf/all/accept_redirects", "0"),
    ("net/ipv4/conf/all/send_redirects", "0"),
    ("net/ipv4/conf/default/send_redirects", "0"),
    ("net/ipv6/conf/all/accept_dad", "0"),
    ("net/ipv6/conf/default/accept_dad", "0"),
    ("net/ipv6/conf/default/dad_transmits", "0"),
    ("net/ipv6/conf/all/accept_ra", "0"),
    ("net/ipv6/conf/default/accept_ra", "0"),
    ("net/ipv6/conf/default/autoconf", "0"),
    ("net/ipv6/conf/default/router_solicitations", "0"),
    ("net/ipv6/conf/all/accept_redirects", "0"),
    ("net/ipv6/conf/all/keep_addr_on_down", "1"),
    ("net/ipv6/conf/default/keep_addr_on_down", "1"),
];

/// Whether what the lab made outlives it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Lifetime {
    /// Everything goes when its owner is dropped, and processes when ours ends.
    #[default]
    Dropped,
    /// Everything stays for people to look at; the next lab's janitor takes it away once this process has ended.
    Kept,
}

/// A network namespace.
#[derive(Debug)]
pub struct Namespace {
    name: String,
    path: PathBuf,
    fd: OwnedFd,
    netlink: Netlink,
    processes: Registry,
    stop: Stop,
    lifetime: Lifetime,
}

impl Namespace {
    /// Makes the namespace that plays `role` in the lab `id`, with `lo` up and quiet settings.
    ///
    /// # Errors
    /// Without root, or when the kernel has no network namespaces.
    pub fn create(id: LabId, role: &str, lifetime: Lifetime) -> Result<Self> {
        let name = id.namespace(role);
        let path = Path::new(NETNS_DIR).join(&name);
        fs::create_dir_all(NETNS_DIR).with_context(|| format!("make {NETNS_DIR}"))?;
        File::create_new(&path).with_context(|| format!("make the mount point {}", path.display()))?;
        match Self::fill(&path) {
            Ok((fd, netlink)) => {
                let namespace = Self {
                    name,
                    path,
                    fd,
                    netlink,
                    processes: Registry::default(),
                    stop: Stop::default(),
                    lifetime,
                };
                for (key, value) in QUIET {
                    namespace.sysctl(key, value)?;
                }
                namespace.netlink.set_up("lo", true)?;
                Ok(namespace)
            }
            Err(error) => {
                remove(&path);
                Err(error.context(format!("make network namespace {name}")))
            }
        }
    }

    /// Mounts a new namespace on `path` and opens it.
    fn fill(path: &Path) -> Result<(OwnedFd, Netlink)> {
        // A thread of its own, because the thread that unshares ends up inside.
        let netlink = std::thread::scope(|scope| {
            let inside = scope.spawn(|| -> Result<Netlink> {
                sys::unshare_net().context("unshare(CLONE_NEWNET)")?;
                sys::pin_own_netns(path).context("bind-mount it")?;
                Netlink::open().context("open rtnetlink")
            });
            inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })?;
        let fd = File::open(path).context("open it")?.into();
        Ok((fd, netlink))
    }

    /// Name under `/run/netns`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The rtnetlink of this namespace; blocking, so not for async code.
    #[must_use]
    pub fn netlink(&self) -> &Netlink {
        &self.netlink
    }

    /// Descriptor of the namespace.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Runs `inside` on a new thread in the namespace and returns what it returned; a panic goes on here. Sockets
    /// it makes stay in the namespace wherever they are used later.
    ///
    /// # Errors
    /// When the namespace cannot be entered.
    pub fn enter<T: Send>(&self, inside: impl FnOnce() -> T + Send) -> Result<T> {
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                sys::setns_net(self.fd.as_fd()).with_context(|| format!("enter {}", self.name))?;
                Ok(inside())
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Writes a setting of this namespace: `sysctl("net/ipv4/ip_forward", "1")`. Slashes, because interface names
    /// may hold dots.
    ///
    /// # Errors
    /// When there is no such setting or the value is refused.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        let path = Path::new("/proc/sys").join(key);
        self.enter(|| fs::write(&path, value))?
            .with_context(|| format!("write {value} to {} in {}", path.display(), self.name))
    }

    /// Switches an offload of an interface.
    ///
    /// # Errors
    /// When there is no such interface or switch.
    pub fn set_offload(&self, interface: &str, offload: sys::Offload, on: bool) -> Result<()> {
        self.enter(|| sys::set_offload(interface, offload, on))?
            .with_context(|| format!("switch {offload:?} of {interface} in {}", self.name))
    }

    /// Starts a process in the namespace; `title` is what errors and logs call it. It is killed, with whatever it
    /// has started, when the [`Process`] or the namespace is dropped, or we die.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn spawn(&self, title: &str, mut command: Command) -> Result<Process> {
        let fd = self.fd.try_clone().context("duplicate a namespace descriptor")?;
        sys::prepare_child(&mut command, fd, self.lifetime == Lifetime::Dropped);
        command.env(PROCESS_MARK, &self.name);
        Process::start(format!("{title} in {}", self.name), command, &self.processes, self.lifetime)
    }

    /// Runs an async task on a thread of its own in the namespace until it ends or is told to stop.
    ///
    /// # Errors
    /// When the namespace cannot be entered.
    pub fn work<F>(&self, title: &str, task: impl FnOnce(Stop) -> F + Send + 'static) -> Result<Worker>
    where
        F: Future<Output = Result<()>>,
    {
        let fd = self.fd.try_clone().context("duplicate a namespace descriptor")?;
        Worker::start(format!("{title} in {}", self.name), fd, &self.stop, task)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        self.stop.now();
        if self.lifetime == Lifetime::Dropped {
            self.processes.kill_all();
            remove(&self.path);
        }
    }
}

/// Unmounts a namespace and removes its mount point. The kernel frees it, and the veth ends in it, once its last
/// process and socket are gone.
pub(super) fn remove(path: &Path) {
    // Both may fail because somebody was faster, which is as good.
    drop(sys::unmount(path));
    if let Err(error) = fs::remove_file(path)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        eprintln!("lab: cannot remove {}: {error}", path.display());
    }
}
