//! Whether this process may load and run BPF programs; a test that cannot run says so.

use std::fs;
use std::io::Write;

const CAP_NET_ADMIN: u32 = 12;
const CAP_SYS_ADMIN: u32 = 21;
const CAP_BPF: u32 = 39;

/// The test is to return: it cannot run here, and that has been said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Skipped;

/// Ok where BPF programs can be loaded and run. Where they cannot, says on stderr why the test is skipped.
///
/// # Errors
/// [`Skipped`], for `let Ok(()) = available() else { return };`.
///
/// # Panics
/// Instead, when `REQUIRE_ALL=1` turns skips into failures.
#[track_caller]
pub fn available() -> Result<(), Skipped> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    if may_use_bpf(effective(&status)) {
        return Ok(());
    }
    let thread = std::thread::current();
    let test = thread.name().unwrap_or("a test");
    let need = "loading XDP programs needs root, or CAP_BPF and CAP_NET_ADMIN";
    let why = format!("SKIP {test}: {need}: run `sudo -E cargo xtask test prog`");
    assert!(
        std::env::var_os("REQUIRE_ALL").is_none_or(|value| value != "1"),
        "{why}; REQUIRE_ALL=1 forbids skips"
    );
    // `eprintln!` would be captured, and nobody sees the output of a test that passes.
    let _ = writeln!(std::io::stderr(), "{why}");
    Err(Skipped)
}

fn may_use_bpf(capabilities: u64) -> bool {
    let has = |capability: u32| capabilities >> capability & 1 == 1;
    has(CAP_SYS_ADMIN) && has(CAP_NET_ADMIN) || has(CAP_BPF) && has(CAP_NET_ADMIN)
}

/// The effective capabilities in the text of `/proc/self/status`; none when it does not say.
fn effective(status: &str) -> u64 {
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_are_read_from_status() {
        assert!(may_use_bpf(effective("Name:\tcargo\nCapEff:\t000001ffffffffff\nCapBnd:\t0\n")), "root");
        assert!(!may_use_bpf(effective("CapEff:\t0000000000000000\n")), "a user");
        assert!(!may_use_bpf(effective("CapEff:\t0000008000000000\n")), "CAP_BPF alone cannot load XDP");
        assert!(may_use_bpf(effective("CapEff:\t0000008000001000\n")), "CAP_BPF and CAP_NET_ADMIN");
        assert!(!may_use_bpf(effective("")), "no word is no");
    }
}
