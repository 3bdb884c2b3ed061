//! `cargo xtask fuzz [TARGET] [--for 60s]`: libFuzzer over the targets of `tests/fuzz`, one after the other.
//!
//! It begins with the committed seeds in `tests/fuzz/corpus`, keeps what it finds in `target/fuzz-corpus`, and leaves an
//! input that breaks an invariant in `tests/fuzz/artifacts`. Nothing in the targets is `unsafe`, so there is no sanitizer
//! to wait for, and any toolchain that builds for BPF will do.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::build::succeed;
use crate::command::which;
use crate::{toolchain, workspace};

/// Runs one target, or all, each for `length`.
///
/// # Errors
/// There is no such target, cargo-fuzz is missing, or an invariant does not hold.
pub fn run(target: Option<&str>, length: Duration) -> Result<()> {
    let root = workspace::root();
    let all = targets(&root)?;
    let chosen: Vec<&String> = all.iter().filter(|name| target.is_none_or(|t| t == *name)).collect();
    if chosen.is_empty() {
        bail!("no fuzz target {}; there are {}", target.unwrap_or_default(), all.join(", "));
    }
    if which("cargo-fuzz").is_none() {
        bail!("cargo-fuzz is not installed: `cargo install cargo-fuzz --locked` brings it");
    }
    let Ok(found) = toolchain::find(None) else { bail!("no toolchain for it: see `cargo xtask setup`") };
    let mut failed = Vec::new();
    for name in chosen {
        fs::create_dir_all(root.join(kept(name))).with_context(|| format!("create {}", kept(name)))?;
        let mut command = found.command("cargo");
        command.current_dir(&root).env("PATH", path_for(&found)).args(arguments(name, length));
        println!("== {name}, {} s", length.as_secs());
        if let Err(error) = succeed(&mut command) {
            eprintln!("{error:#}");
            failed.push(name.as_str());
        }
    }
    if !failed.is_empty() {
        bail!("{}: see above, and tests/fuzz/artifacts", failed.join(", "));
    }
    Ok(())
}

/// The toolchain's own programs first, then where cargo finds cargo-fuzz.
fn path_for(found: &toolchain::Toolchain) -> std::ffi::OsString {
    let own = std::iter::once(found.at.sysroot.join("bin"));
    let rest = crate::command::search_path();
    std::env::join_paths(own.chain(std::env::split_paths(&rest))).unwrap_or(rest)
}

/// Where new inputs go.
fn kept(target: &str) -> String {
    format!("target/fuzz-corpus/{target}")
}

/// Arguments of cargo.
fn arguments(target: &str, length: Duration) -> Vec<String> {
    let seeds = format!("tests/fuzz/corpus/{target}");
    let time = format!("-max_total_time={}", length.as_secs());
    ["fuzz", "run", "--fuzz-dir", "tests/fuzz", "--target-dir", "target/fuzz", "--sanitizer", "none"]
        .into_iter()
        .chain([target, &kept(target), &seeds, "--", &time, "-max_len=4096", "-timeout=10"])
        .map(str::to_owned)
        .collect()
}

/// Names of the targets, sorted.
fn targets(root: &Path) -> Result<Vec<String>> {
    let folder = root.join("tests/fuzz/fuzz_targets");
    let mut names = Vec::new();
    for entry in folder.read_dir().with_context(|| format!("read {}", folder.display()))? {
        let path = entry?.path();
        if let (true, Some(stem)) = (path.extension().is_some_and(|e| e == "rs"), path.file_stem()) {
            names.push(stem.to_string_lossy().into_owned());
        }
    }
    names.sort();
    Ok(names)
}

/// A number with a unit: `60s`, `5m`, `2h`.
///
/// # Errors
/// It is something else, or nothing.
pub fn length(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match &text[digits.len()..] {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        _ => return Err("write a number and a unit: 60s, 5m, 2h".into()),
    };
    match digits.parse::<u64>() {
        // libFuzzer takes 0 for "without end".
        Ok(number) if number > 0 => Ok(Duration::from_secs(number.saturating_mul(unit))),
        _ => Err(format!("{digits:?} is no number above 0")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_have_units() {
        assert_eq!(length("60s"), Ok(Duration::from_secs(60)));
        assert_eq!(length("2h"), Ok(Duration::from_secs(7200)));
        for bad in ["60", "", "s", "0s", "-1s", "1.5m", "5d"] {
            assert!(length(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn new_inputs_go_where_git_does_not_look() {
        let line = arguments("ice", Duration::from_secs(5)).join(" ");
        assert!(
            line.contains(" ice target/fuzz-corpus/ice tests/fuzz/corpus/ice -- -max_total_time=5 "),
            "{line}"
        );
    }

    #[test]
    fn this_workspace_has_targets() {
        let targets = targets(&workspace::root()).unwrap();
        assert!(targets.contains(&"ice".to_owned()) && targets.len() >= 6, "{targets:?}");
    }
}
