//! The pure half of `xdp-lb` must not reach the machine through a dependency.

use std::process::Stdio;

use anyhow::{Context as _, Result, bail};

use super::Outcome;
use crate::build::cargo_command;

/// Crates that touch the kernel, the network or the clock.
const IMPURE: [&str; 7] = ["aya", "aya-log", "libc", "mio", "rtnetlink", "socket2", "tokio"];

/// Asks cargo for the dependencies without the feature `agent`.
pub fn dependencies() -> Result<Outcome> {
    let arguments = [
        "tree",
        "--locked",
        "-p",
        "xdp-lb",
        "--no-default-features",
        "-e",
        "normal",
        "--prefix",
        "none",
        "--format",
        "{p}",
    ];
    let output = cargo_command(arguments).stdin(Stdio::null()).output().context("start cargo tree")?;
    if !output.status.success() {
        bail!("cargo tree failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    let tree = String::from_utf8_lossy(&output.stdout);
    let found = impure(&tree);
    if !found.is_empty() {
        bail!("xdp-lb without `agent` depends on {}", found.join(", "));
    }
    Ok(Outcome::Clean(String::new()))
}

fn impure(tree: &str) -> Vec<&str> {
    let names = tree.lines().filter_map(|line| line.split_whitespace().next());
    let mut found: Vec<&str> = names.filter(|name| IMPURE.contains(name)).collect();
    found.sort_unstable();
    found.dedup();
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn impure_crates_are_found_by_whole_name() {
        assert_eq!(
            impure("xdp-lb v0.1.0 (/w)\nserde v1.0.2\ntokio v1.4.0\naya v0.14.0\ntokio v1.4.0 (*)\n"),
            ["aya", "tokio"]
        );
        assert!(impure("xdp-lb v0.1.0\naya-ebpf-bindings v0.1.0\n").is_empty());
    }
}
