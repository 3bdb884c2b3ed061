//! What exists on this machine that bears a lab's name: the list that `janitor` clears and `leaks` checks.

use std::fs;
use std::path::{Path, PathBuf};

use super::bpffs::BPFFS;
use super::id::{LabId, PROCESS_MARK};
use super::namespace::NETNS_DIR;

/// One thing that a lab made.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Remain {
    /// A process carrying the lab's mark: its pid and name.
    Process(u32, String),
    /// A namespace's mount point.
    Namespace(PathBuf),
    /// A directory on the BPF file system.
    Pins(PathBuf),
    /// A directory of files.
    Files(PathBuf),
}

/// All that exists of labs for which `of` says yes, processes first (the order in which to remove them).
#[must_use]
pub fn list(of: impl Fn(LabId) -> bool) -> Vec<Remain> {
    let mut found = processes(&of);
    for (directory, kind) in [
        (Path::new(NETNS_DIR), Remain::Namespace as fn(PathBuf) -> Remain),
        (Path::new(BPFFS), Remain::Pins),
        (&std::env::temp_dir(), Remain::Files),
    ] {
        let entries = fs::read_dir(directory).into_iter().flatten().flatten();
        found.extend(
            entries
                .filter(|e| e.file_name().to_str().and_then(LabId::parse).is_some_and(&of))
                .map(|e| kind(e.path())),
        );
    }
    found.sort();
    found
}

/// Processes whose environment carries the mark of such a lab. Their children inherit it.
fn processes(of: impl Fn(LabId) -> bool) -> Vec<Remain> {
    let marked = |pid: u32| -> Option<Remain> {
        let proc = Path::new("/proc").join(pid.to_string());
        let environment = fs::read(proc.join("environ")).ok()?;
        let mark = environment.split(|b| *b == 0).find_map(|variable| {
            std::str::from_utf8(variable).ok()?.strip_prefix(PROCESS_MARK)?.strip_prefix('=')
        })?;
        let name = fs::read_to_string(proc.join("comm")).unwrap_or_default();
        // A process that starts a lab of its own carries the mark of the lab around it, never of one inside.
        LabId::parse(mark).filter(|id| of(*id)).map(|_| Remain::Process(pid, name.trim().into()))
    };
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| *pid != std::process::id())
        .filter_map(marked)
        .collect()
}
