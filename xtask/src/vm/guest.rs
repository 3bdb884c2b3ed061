//! Builds what runs in the guest: the product and the tests as static programs, so that the machine needs no
//! user space of its own.

use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context as _, Result, bail, ensure};

use crate::build::cargo_command;

/// With an explicit target the flags below are not for build scripts and procedural macros, which cannot be static.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// The programs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guest {
    /// Process 1, and the checks.
    pub init: PathBuf,
    /// The product.
    pub product: PathBuf,
    /// Integration tests that run there as they are: name and file.
    pub tests: Vec<(&'static str, PathBuf)>,
}

/// Those tests; `tests/src/vm/binaries.rs` starts them.
const TESTS: [&str; 1] = ["prog_golden"];

impl Guest {
    /// Builds them; what has not changed costs a second.
    ///
    /// # Errors
    /// cargo fails.
    pub fn build() -> Result<Self> {
        ensure!(cfg!(target_arch = "x86_64"), "the virtual machines are x86-64, and so must be this one");
        let packages = ["-p", "xdp-lb", "-p", "xdp-lb-tests"];
        let bins = ["--bin", "xdp-lb", "--bin", "xdp-lb-vm"];
        let tests = TESTS.iter().flat_map(|name| ["--test", name]);
        let how = ["--profile", "guest", "--target", TARGET, "--message-format=json-render-diagnostics"];
        let arguments = ["build", "--locked"].into_iter().chain(packages).chain(bins).chain(tests).chain(how);
        let mut command = cargo_command(arguments);
        command.env_remove("CARGO_ENCODED_RUSTFLAGS").env("RUSTFLAGS", "-C target-feature=+crt-static");
        let output = command.stdin(Stdio::null()).stderr(Stdio::inherit()).output().context("start cargo")?;
        if !output.status.success() {
            bail!("building for the virtual machines failed ({})", output.status);
        }
        let messages = String::from_utf8_lossy(&output.stdout);
        let find = |name: &str| executable(&messages, name).with_context(|| format!("cargo built no {name}"));
        let tests = TESTS.iter().map(|name| Ok((*name, find(name)?))).collect::<Result<_>>()?;
        Ok(Self { init: find("xdp-lb-vm")?, product: find("xdp-lb")?, tests })
    }
}

/// The executable of the target `name` in cargo's messages, a JSON object on each line.
fn executable(messages: &str, name: &str) -> Option<PathBuf> {
    let target = format!("\"name\":\"{name}\"");
    let of_target = |line: &&str| line.contains("\"reason\":\"compiler-artifact\"") && line.contains(&target);
    messages.lines().filter(of_target).find_map(|line| {
        // `null` for libraries. A path with quotes or backslashes would be escaped; ours has none.
        let path = line.split("\"executable\":\"").nth(1)?.split('"').next()?;
        Some(PathBuf::from(path))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn executables_are_found_by_target() {
        let messages = r#"{"reason":"compiler-artifact","target":{"kind":["lib"],"name":"xdp-lb"},"executable":null}
{"reason":"compiler-artifact","target":{"kind":["bin"],"name":"xdp-lb"},"executable":"/t/guest/xdp-lb","fresh":true}
{"reason":"compiler-artifact","target":{"kind":["test"],"name":"prog_golden"},"executable":"/t/guest/deps/prog_golden-1"}
{"reason":"build-finished","success":true}"#;
        assert_eq!(executable(messages, "xdp-lb"), Some("/t/guest/xdp-lb".into()));
        assert_eq!(executable(messages, "prog_golden"), Some("/t/guest/deps/prog_golden-1".into()));
        assert_eq!(executable(messages, "xdp-lb-vm"), None);
    }
}
