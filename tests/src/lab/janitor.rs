//! Removes what labs left behind whose process is dead: killed by a time limit, or told to keep everything.
//!
//! Every lab calls it once per process before it makes anything. It touches only what bears a lab's name
//! (`id`) of a process that no longer runs.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use super::remains::{self, Remain};
use super::wait::wait_until;
use super::{bpffs, namespace, sys};

/// How long killed processes may take to go.
const GONE_BOUND: Duration = Duration::from_secs(5);

/// Clears the remains of dead labs and returns what they were.
pub fn sweep() -> Vec<Remain> {
    let dead = remains::list(|id| !id.owner_alive());
    let mut killed = BTreeSet::new();
    for remain in &dead {
        match remain {
            Remain::Process(pid, _) => {
                // The mark in its environment says that a dead lab started it; gone in between is as good.
                drop(sys::kill(*pid, libc::SIGKILL));
                killed.insert(*pid);
            }
            Remain::Namespace(path) => namespace::remove(path),
            Remain::Pins(path) => bpffs::remove(path),
            Remain::Files(path) => drop(fs::remove_dir_all(path)),
        }
    }
    let left = || remains::list(|id| !id.owner_alive());
    let all_gone = || !left().iter().any(|r| matches!(r, Remain::Process(pid, _) if killed.contains(pid)));
    if let Err(error) = wait_until("killed processes of dead labs to go", GONE_BOUND, all_gone) {
        eprintln!("lab: {error}");
    }
    dead
}
