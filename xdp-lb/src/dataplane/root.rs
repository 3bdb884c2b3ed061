//! Where the pins are: names below one directory of a BPF file system.
//!
//! bpffs refuses names with dots, and an interface may have one (`eth0.100`) but never a colon.

use std::path::{Path, PathBuf};

/// The directory of the pins, usually `/sys/fs/bpf/xdp-lb`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BpffsRoot(PathBuf);

impl Default for BpffsRoot {
    fn default() -> Self {
        Self::new("/sys/fs/bpf/xdp-lb")
    }
}

impl BpffsRoot {
    /// A root at `path`; nothing is made.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// The directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The directory of the maps. It appears complete or not at all.
    #[must_use]
    pub fn maps(&self) -> PathBuf {
        self.0.join("maps")
    }

    /// Where maps are gathered before they become [`Self::maps`].
    #[must_use]
    pub fn new_maps(&self) -> PathBuf {
        self.0.join("new_maps")
    }

    /// The maps of before, until no program reads them any more.
    #[must_use]
    pub fn old_maps(&self) -> PathBuf {
        self.0.join("old_maps")
    }

    /// A map.
    #[must_use]
    pub fn map(&self, name: &str) -> PathBuf {
        self.maps().join(name)
    }

    /// The program that links run.
    #[must_use]
    pub fn program(&self) -> PathBuf {
        self.0.join("prog")
    }

    /// The next program until it takes the name of [`Self::program`].
    #[must_use]
    pub fn new_program(&self) -> PathBuf {
        self.0.join("new_prog")
    }

    /// Health in words: [`super::health_map`].
    #[must_use]
    pub fn health(&self) -> PathBuf {
        self.0.join("health")
    }

    /// The directory of the links.
    #[must_use]
    pub fn links(&self) -> PathBuf {
        self.0.join("links")
    }

    /// The directory of the links that see what leaves.
    #[must_use]
    pub fn egress(&self) -> PathBuf {
        self.0.join("egress")
    }

    /// An interface's link that sees what leaves by it.
    #[must_use]
    pub fn egress_link(&self, interface: &str) -> PathBuf {
        self.egress().join(interface.replace('.', ":"))
    }

    /// An interface's link.
    #[must_use]
    pub fn link(&self, interface: &str) -> PathBuf {
        self.links().join(interface.replace('.', ":"))
    }

    /// The interface of a link's file name.
    #[must_use]
    pub fn interface_of(file: &str) -> String {
        file.replace(':', ".")
    }
}

impl std::fmt::Display for BpffsRoot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.display().fmt(f)
    }
}
