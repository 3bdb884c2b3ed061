//! cargo-deny over `deny.toml`: licences, sources, bans; advisories where their database can be had.

use std::process::Stdio;

use anyhow::{Context as _, Result, bail};

use super::Outcome;
use crate::build::cargo_command;
use crate::command::which;

/// Asks cargo-deny, if it is installed.
///
/// It takes minutes to build, so neither set-up nor CI brings it, and its absence fails nothing, `REQUIRE_ALL`
/// or not: what it looks at changes with Cargo.lock alone, and whoever changes that has it.
pub fn check() -> Result<Outcome> {
    if which("cargo-deny").is_none() {
        return Ok(Outcome::Skipped(
            "cargo-deny is not installed (also with REQUIRE_ALL=1: CI cannot afford to build it); \
             `cargo install cargo-deny --locked` brings it"
                .to_owned(),
        ));
    }
    let all = deny(&["bans", "licenses", "sources"])?;
    if !all.ok {
        bail!("cargo deny check bans licenses sources:\n{}", all.said);
    }
    let advisories = deny(&["advisories"])?;
    if advisories.ok {
        return Ok(Outcome::Clean(String::new()));
    }
    if unreachable_database(&advisories.said) {
        return Ok(Outcome::Warned(
            "bans, licences and sources are fine; the advisory database cannot be reached".to_owned(),
        ));
    }
    bail!("cargo deny check advisories:\n{}", advisories.said)
}

struct Answer {
    ok: bool,
    said: String,
}

fn deny(checks: &[&str]) -> Result<Answer> {
    let fixed = ["deny", "--locked", "--all-features", "--color", "never", "check"];
    let mut command = cargo_command(fixed.iter().chain(checks));
    let output = command.stdin(Stdio::null()).output().context("start cargo deny")?;
    Ok(Answer { ok: output.status.success(), said: String::from_utf8_lossy(&output.stderr).into_owned() })
}

fn unreachable_database(said: &str) -> bool {
    said.contains("failed to fetch advisory database") || said.contains("failed to open advisory database")
}

#[cfg(test)]
mod tests {
    use super::unreachable_database;

    #[test]
    fn a_missing_database_is_no_advisory() {
        assert!(unreachable_database("[ERROR] failed to fetch advisory database https://example.org"));
        assert!(!unreachable_database("error[vulnerability]: something is wrong with time"));
    }
}
