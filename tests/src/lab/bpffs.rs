//! The lab's own place on the BPF file system, so that two labs never share a pin.
//!
//! `topology` makes one per lab; `product` passes a directory below it to the binary with `--bpffs`.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::id::LabId;
use super::namespace::Lifetime;
use super::sys;

/// Where the kernel's own documentation mounts it.
pub const BPFFS: &str = "/sys/fs/bpf";
/// Held while deciding whether to mount, or two labs could mount twice.
const MOUNT_LOCK: &str = "/run/xlb-lab.lock";

/// A directory on the BPF file system that goes, with all pins below it, when dropped.
#[derive(Debug)]
pub struct BpfRoot {
    path: PathBuf,
    lifetime: Lifetime,
}

impl BpfRoot {
    /// Makes the root of lab `id`, and mounts the file system if nobody has (it then stays mounted).
    ///
    /// # Errors
    /// Without root, or when the kernel has no BPF file system.
    pub fn create(id: LabId, lifetime: Lifetime) -> Result<Self> {
        mount_if_missing()?;
        let path = Path::new(BPFFS).join(id.bpffs_dir());
        fs::create_dir(&path).with_context(|| format!("make {}", path.display()))?;
        Ok(Self { path, lifetime })
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The place of one host, for `--bpffs`; the binary makes it.
    #[must_use]
    pub fn of(&self, role: &str) -> PathBuf {
        self.path.join(role)
    }
}

impl Drop for BpfRoot {
    fn drop(&mut self) {
        if self.lifetime == Lifetime::Dropped {
            remove(&self.path);
        }
    }
}

/// Removes a directory of pins.
pub(super) fn remove(path: &Path) {
    if let Err(error) = fs::remove_dir_all(path)
        && error.kind() != ErrorKind::NotFound
    {
        eprintln!("lab: cannot remove {}: {error}", path.display());
    }
}

/// Makes sure that [`BPFFS`] is a BPF file system.
///
/// # Errors
/// Without root, or when the kernel has none.
pub fn mount_if_missing() -> Result<()> {
    let at = Path::new(BPFFS);
    let lock = fs::File::create(MOUNT_LOCK).with_context(|| format!("open {MOUNT_LOCK}"))?;
    lock.lock().with_context(|| format!("lock {MOUNT_LOCK}"))?;
    if !sys::is_bpffs(at).with_context(|| format!("look at {BPFFS}"))? {
        sys::mount_bpffs(at).with_context(|| format!("mount the BPF file system on {BPFFS}"))?;
    }
    Ok(())
}
