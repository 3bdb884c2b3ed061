//! Integration tests that run in the guest as they are: the same binaries, built static.

use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use super::report::{Line, say};

/// The group tests load the program for each group, which takes a minute in an emulator: one test has all rows. And
/// thousands of runs, which take minutes on 5.10, say nothing about a kernel.
const SELECTION: [&str; 4] =
    ["--include-ignored", "--skip=group::", "--skip=every_outer_checksum", "--skip=source_and_label"];

/// Whole packets through the kernel: `tests/tests/prog_golden.rs`.
pub fn golden() -> Result<()> {
    run("golden", "/tests/prog_golden", &SELECTION)
}

/// Runs a test binary; what it skips is said, what fails is the error.
fn run(name: &str, path: &str, selection: &[&str]) -> Result<()> {
    let mut command = Command::new(path);
    command
        .args(["--test-threads=2", "--color=never"])
        .args(selection)
        .stdin(Stdio::null())
        .env_remove("RUST_BACKTRACE");
    let output = command.output().with_context(|| format!("start {path}"))?;
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    for why in stderr.lines().chain(stdout.lines()).filter_map(|line| line.strip_prefix("SKIP ")) {
        say(&Line::Skipped { name, why: why.to_owned() });
    }
    if !output.status.success() {
        bail!("{path}: {}\n{}{stderr}", output.status, failures(&stdout));
    }
    Ok(())
}

/// libtest's own report, from where it tells what failed.
fn failures(stdout: &str) -> &str {
    stdout.find("\nfailures:\n").map_or(stdout, |at| &stdout[at..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_failures_are_told() {
        assert_eq!(failures("test a ... ok\n\nfailures:\n\n---- b\n"), "\nfailures:\n\n---- b\n");
        assert_eq!(
            failures("thread main has overflowed its stack\n"),
            "thread main has overflowed its stack\n"
        );
    }
}
