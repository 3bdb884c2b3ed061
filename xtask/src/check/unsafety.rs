//! `unsafe` may stand only in the modules listed here: each has a reason to touch raw memory or the kernel.

use std::path::Path;

use anyhow::{Context as _, Result, bail};

use super::Outcome;
use super::source::{code_only, files};

/// Files, and folders ending in `/`, that may hold `unsafe`, with the reason.
const ALLOWED: [(&str, &str); 17] = [
    ("xdp-lb-common/src/pod.rs", "unsafe impl Pod of the shared types"),
    ("xdp-lb-ebpf/src/main.rs", "#[unsafe(..)] names that the loader looks for"),
    ("xdp-lb-ebpf/src/inside.rs", "#[unsafe(..)] names of functions that the verifier walks by themselves"),
    ("xdp-lb-ebpf/src/bench.rs", "#[unsafe(..)] names that the loader looks for"),
    ("xdp-lb-ebpf/src/packet.rs", "packet memory and adjust_head"),
    ("xdp-lb-ebpf/src/mss.rs", "the TC context of a packet that leaves"),
    ("xdp-lb-ebpf/src/trace.rs", "#[unsafe(..)] a function by name"),
    ("xdp-lb-ebpf/src/probe.rs", "packet memory and map values of the TC programs"),
    ("xdp-lb-ebpf/src/maps.rs", "values behind map pointers"),
    ("xdp-lb/src/dataplane/", "bpf(2) and mapped memory"),
    ("xdp-lb/src/heap.rs", "mallopt"),
    ("xdp-lb/src/socket.rs", "setsockopt, recvmsg and setpriority"),
    ("tests/src/bench/cpu.rs", "sched_setaffinity"),
    ("tests/src/bench/stats.rs", "a program\'s run time by bpf(2)"),
    ("tests/src/lab/sys.rs", "namespaces, mounts, ioctls and bpf(2)"),
    ("tests/src/prog/sys.rs", "BPF_PROG_TEST_RUN"),
    ("tests/src/vm/sys.rs", "mounts, modules, the emulator's exit, BPF_PROG_LOAD with a log"),
];

/// Scans the workspace.
pub fn check(root: &Path) -> Result<Outcome> {
    let mut found = Vec::new();
    for file in files(root)? {
        let name = file.to_string_lossy().into_owned();
        if allowed(&name) {
            continue;
        }
        let text = std::fs::read_to_string(root.join(&file)).with_context(|| format!("read {name}"))?;
        found.extend(lines_with_unsafe(&text).into_iter().map(|line| format!("{name}:{line}")));
    }
    if !found.is_empty() {
        bail!(
            "{}; move it to a module that xtask/src/check/unsafety.rs lists, or list this one with its reason",
            found.join(", ")
        );
    }
    Ok(Outcome::Clean(String::new()))
}

fn allowed(name: &str) -> bool {
    ALLOWED
        .iter()
        .any(|(place, _)| if place.ends_with('/') { name.starts_with(place) } else { name == *place })
}

/// Numbers of the lines where `unsafe` is code.
fn lines_with_unsafe(text: &str) -> Vec<usize> {
    let word =
        |line: &str| line.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').any(|w| w == "unsafe");
    code_only(text).lines().enumerate().filter(|(_, line)| word(line)).map(|(i, _)| i + 1).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unsafe_code_is_found_and_talk_of_it_is_not() {
        let text = "// unsafe\nfn f() {\n    unsafe { g() }\n}\n#[unsafe(no_mangle)]\nconst X: &str = \"unsafe\";\nlint!(unsafe_op_in_unsafe_fn);\n";
        assert_eq!(lines_with_unsafe(text), [3, 5]);
    }

    #[test]
    fn folders_and_files_are_told_apart() {
        assert!(allowed("xdp-lb/src/dataplane/bpf.rs"));
        assert!(allowed("xdp-lb-common/src/pod.rs"));
        assert!(!allowed("xdp-lb/src/dataplane.rs"));
        assert!(!allowed("xdp-lb-common/src/pod.rs.bak.rs"));
    }

    #[test]
    fn this_workspace_keeps_to_the_list() {
        let outcome = check(&crate::workspace::root());
        assert!(outcome.is_ok(), "{:#}", outcome.err().unwrap());
    }
}
