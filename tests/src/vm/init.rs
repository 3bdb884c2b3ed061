//! Process 1 of the guest: makes the machine usable, lets the checks run, and ends the machine with their result.

use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};

use super::report::MARK;
use super::sys;
use crate::lab::netlink::Netlink;

/// Names of the modules to load, one a line, those that others need first. Written by `xtask/src/vm/image.rs`.
const MODULES: &str = "/modules/order";
/// What the emulator ends with when the checks never began: neither good nor a failed test.
const BROKEN: u8 = 2;
/// (what, where, kind).
const MOUNTS: [(&str, &str, &str); 6] = [
    ("proc", "/proc", "proc"),
    ("sysfs", "/sys", "sysfs"),
    ("devtmpfs", "/dev", "devtmpfs"),
    ("tmpfs", "/run", "tmpfs"),
    ("tmpfs", "/tmp", "tmpfs"),
    ("bpf", "/sys/fs/bpf", "bpf"),
];

/// Does not come back: the machine ends.
pub fn run() -> ! {
    let code = match guest() {
        Ok(code) => code,
        Err(error) => {
            println!("{MARK} broken: {error:#}");
            BROKEN
        }
    };
    println!("{MARK} end {code}");
    // Without it the last lines stay in the machine.
    drop(sys::drain_console());
    sys::end_machine(code)
}

/// Everything between the kernel's start of us and the last line: the exit code of the checks.
fn guest() -> Result<u8> {
    for (what, target, kind) in MOUNTS {
        fs::create_dir_all(target).with_context(|| format!("make {target}"))?;
        sys::mount(what, target, kind).with_context(|| format!("mount {kind} on {target}"))?;
    }
    load_modules()?;
    Netlink::open()?.set_up("lo", true)?;
    // A process of its own, so that its death is a failure that can be told, not a panic of the kernel.
    let status = Command::new("/proc/self/exe")
        .arg("check")
        .env("PATH", "/bin")
        .env("HOME", "/tmp")
        .env("RUST_BACKTRACE", "1")
        .env("XDP_LB_BIN", "/bin/xdp-lb")
        .status()
        .context("start the checks")?;
    if let Some(signal) = status.signal() {
        println!("{MARK} failed check: ended by signal {signal}");
    }
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1))
}

fn load_modules() -> Result<()> {
    let order = fs::read_to_string(MODULES).with_context(|| format!("read {MODULES}"))?;
    for name in order.lines() {
        let path = Path::new(MODULES).with_file_name(name);
        sys::load_module(&path).with_context(|| format!("load {}", path.display()))?;
    }
    Ok(())
}
