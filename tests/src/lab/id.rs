//! Names of everything a lab makes, so that leftovers can be told apart from what is somebody else's.
//!
//! A lab is `xlb-<pid>-<seq>`: the process that made it and a number counted by that process. Its namespaces are
//! `xlb-<pid>-<seq>-<role>`, its BPF file system root is `xlb-test-<pid>-<seq>`, its scratch directory bears the
//! lab's own name, and its processes carry [`PROCESS_MARK`] in their environment. Used by all of the lab;
//! `janitor` reads the names back.

use std::fmt;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};

/// Environment variable of every process started in a lab's namespace; its value is the namespace's name.
pub const PROCESS_MARK: &str = "XLB_LAB_NETNS";

/// Identity of one lab.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LabId {
    pid: u32,
    seq: u32,
}

impl LabId {
    /// The next free one of this process.
    #[must_use]
    pub fn next() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        Self { pid: std::process::id(), seq: NEXT.fetch_add(1, Ordering::Relaxed) }
    }

    /// Reads it back from the name of a namespace, a scratch directory or a BPF file system root.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        let rest = name.strip_prefix("xlb-test-").or_else(|| name.strip_prefix("xlb-"))?;
        let mut parts = rest.splitn(3, '-');
        let mut number = || parts.next()?.parse().ok();
        Some(Self { pid: number()?, seq: number()? })
    }

    /// Name of the namespace that plays `role`.
    #[must_use]
    pub fn namespace(self, role: &str) -> String {
        format!("{self}-{role}")
    }

    /// Name of the directory below the BPF file system.
    #[must_use]
    pub fn bpffs_dir(self) -> String {
        format!("xlb-test-{}-{}", self.pid, self.seq)
    }

    /// Whether the process that made the lab still runs.
    #[must_use]
    pub fn owner_alive(self) -> bool {
        Path::new("/proc").join(self.pid.to_string()).exists()
    }
}

impl fmt::Display for LabId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "xlb-{}-{}", self.pid, self.seq)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back() {
        let id = LabId::next();
        assert_eq!(LabId::parse(&id.namespace("edge1")), Some(id));
        assert_eq!(LabId::parse(&id.namespace("a-b-c")), Some(id));
        assert_eq!(LabId::parse(&id.bpffs_dir()), Some(id));
        assert_eq!(LabId::parse(&id.to_string()), Some(id));
        assert!(id.owner_alive());
    }

    #[test]
    fn other_peoples_names_are_not_ours() {
        for name in ["", "xlb", "xlb-", "xlb-1", "xlb-x-1-edge", "cni-1-2-3", "xlb--1-2"] {
            assert_eq!(LabId::parse(name), None, "{name}");
        }
    }
}
