//! The product's own programs under test run: a configuration loaded as `xdp-lb load` does it, into a directory
//! of this test's own, and removed again.

use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context as _, Result, anyhow};
use aya::programs::{ProgramFd, ProgramInfo};
use xdp_lb::{
    agent, config,
    dataplane::{BpffsRoot, KernelMaps, load},
};
use xdp_lb_common::stats::Traffic;

use super::{Subject, Tally};

/// A loaded program with its maps. Dropping it removes the pins.
pub struct Pinned {
    root: BpffsRoot,
    program: ProgramFd,
    maps: KernelMaps,
}

impl Pinned {
    /// Loads `yaml` below a directory of its own on the BPF file system.
    ///
    /// # Errors
    /// What failed; nothing is left behind.
    pub fn load(yaml: &str) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = PathBuf::from(format!("/sys/fs/bpf/xlb-prog-{}-{number}", std::process::id()));
        let root = BpffsRoot::new(path);
        Self::load_at(root.clone(), yaml).inspect_err(|_| drop(load::remove(&root)))
    }

    fn load_at(root: BpffsRoot, yaml: &str) -> Result<Self> {
        let checked = config::parse(yaml).map_err(|errors| anyhow!("{errors:#?}"))?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(agent::load(checked.desired, &root))?;
        let program = ProgramInfo::from_pin(root.program()).context("open the pinned program")?.fd()?;
        let maps = KernelMaps::open_read_only(&root)?;
        Ok(Self { root, program, maps })
    }

    /// The maps, to look at.
    #[must_use]
    pub fn maps(&self) -> &KernelMaps {
        &self.maps
    }

    /// Where it is pinned.
    #[must_use]
    pub fn root(&self) -> &BpffsRoot {
        &self.root
    }
}

impl Subject for Pinned {
    fn program(&self) -> BorrowedFd<'_> {
        self.program.as_fd()
    }

    fn tally(&self) -> Tally {
        let mut forwarded = Traffic::default();
        let ids = u16::try_from(self.maps.capacity().services).unwrap_or(u16::MAX);
        for id in 0..ids {
            let traffic = self.maps.service_traffic(id).expect("read svc_stats");
            forwarded.packets += traffic.packets;
            forwarded.bytes += traffic.bytes;
        }
        Tally { counters: self.maps.counters().expect("read counters"), forwarded }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        drop(load::remove(&self.root));
    }
}
