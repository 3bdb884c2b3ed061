//! Commands that xtask runs: how they are shown, how they become root, how long they may take.
//!
//! Set-up plans are made of [`Cmd`]s, so that a plan can be printed, tested and run.

use std::env;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

/// One command as data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cmd {
    /// Program and arguments.
    pub argv: Vec<String>,
    /// Variables set for it.
    pub env: Vec<(String, String)>,
    /// Whether it changes the system, not only the user's files.
    pub root: bool,
    /// Whether its failure is no reason to stop.
    pub may_fail: bool,
}

impl Cmd {
    /// A command run as the user.
    pub fn user<S: Into<String>>(argv: impl IntoIterator<Item = S>) -> Self {
        Self {
            argv: argv.into_iter().map(Into::into).collect(),
            env: Vec::new(),
            root: false,
            may_fail: false,
        }
    }

    /// A command run as root.
    pub fn root<S: Into<String>>(argv: impl IntoIterator<Item = S>) -> Self {
        Self { root: true, ..Self::user(argv) }
    }

    /// The same with a variable set.
    #[must_use]
    pub fn with_env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The same, but its failure does not count.
    #[must_use]
    pub fn tolerated(mut self) -> Self {
        self.may_fail = true;
        self
    }

    /// The line a person would type.
    #[must_use]
    pub fn line(&self, as_root: bool) -> String {
        let mut line = String::new();
        if self.root && !as_root {
            line.push_str("sudo ");
        }
        for (name, value) in &self.env {
            let _ = write!(line, "{name}={} ", quoted(value));
        }
        line.push_str(&self.argv.iter().map(|a| quoted(a)).collect::<Vec<_>>().join(" "));
        line
    }

    /// Prints and runs it, at most for `limit`.
    ///
    /// # Errors
    /// It cannot be started, fails, or takes longer.
    pub fn run(&self, limit: Duration) -> Result<()> {
        let as_root = is_root();
        println!("  $ {}", self.line(as_root));
        let mut argv: Vec<OsString> = Vec::new();
        if self.root && !as_root {
            argv.push("sudo".into());
            // sudo clears the environment; `env` sets it on the other side.
            argv.push("env".into());
            argv.extend(self.env.iter().map(|(n, v)| format!("{n}={v}").into()));
        }
        let (program, arguments) = self.argv.split_first().context("an empty command")?;
        argv.push(if program == "cargo" { cargo() } else { program.into() });
        argv.extend(arguments.iter().map(Into::into));
        let mut command = Command::new(&argv[0]);
        command.args(&argv[1..]).stdin(Stdio::null()).env("PATH", search_path());
        command.envs(self.env.iter().map(|(n, v)| (n, v)));
        let outcome = finish(command, limit).with_context(|| self.line(as_root));
        if self.may_fail { Ok(()) } else { outcome }
    }
}

/// Runs a command to its end, at most for `limit`.
///
/// # Errors
/// It cannot be started, fails, or takes longer (then it is killed).
pub fn finish(mut command: Command, limit: Duration) -> Result<()> {
    let mut child = command.spawn().with_context(|| format!("start {}", command.get_program().display()))?;
    let deadline = Instant::now() + limit;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if Instant::now() > deadline {
            child.kill()?;
            child.wait()?;
            bail!("stopped after {} s", limit.as_secs());
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    if !status.success() {
        bail!("{status}");
    }
    Ok(())
}

/// The cargo that runs us, or the one on the path.
#[must_use]
pub fn cargo() -> OsString {
    env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

/// `PATH` with what a plain user's may lack: cargo's own binaries and `sbin`, where Debian keeps nginx and bpftool.
#[must_use]
pub fn search_path() -> OsString {
    let mut folders: Vec<PathBuf> = env::split_paths(&env::var_os("PATH").unwrap_or_default()).collect();
    let cargo_home = env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| env::var_os("HOME").map(|home| Path::new(&home).join(".cargo")));
    let extra = cargo_home.map(|home| home.join("bin")).into_iter();
    for folder in extra.chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from)) {
        if !folders.contains(&folder) {
            folders.push(folder);
        }
    }
    env::join_paths(folders).unwrap_or_default()
}

/// The first file of that name on [`search_path`].
#[must_use]
pub fn which(program: &str) -> Option<PathBuf> {
    env::split_paths(&search_path()).map(|folder| folder.join(program)).find(|file| file.is_file())
}

/// Whether the effective user is root.
#[must_use]
pub fn is_root() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let uids = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    uids.and_then(|ids| ids.split_whitespace().nth(1)) == Some("0")
}

fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_can_be_pasted_into_a_shell() {
        let install =
            Cmd::root(["apt-get", "install", "-y", "curl"]).with_env("DEBIAN_FRONTEND", "noninteractive");
        assert_eq!(install.line(true), "DEBIAN_FRONTEND=noninteractive apt-get install -y curl");
        assert_eq!(install.line(false), "sudo DEBIAN_FRONTEND=noninteractive apt-get install -y curl");
        assert_eq!(Cmd::user(["cargo", "--version", "^0.13"]).line(false), "cargo --version '^0.13'");
        assert_eq!(Cmd::user(["sh", "-c", "echo 'a'"]).line(true), r"sh -c 'echo '\''a'\'''");
    }

    #[test]
    fn a_command_is_ended_at_its_limit() {
        let mut sleep = Command::new("sleep");
        sleep.arg("60");
        let begun = Instant::now();
        assert!(finish(sleep, Duration::from_millis(50)).is_err());
        assert!(begun.elapsed() < Duration::from_secs(20));
        assert!(Cmd::user(["false"]).run(Duration::from_secs(20)).is_err());
        assert!(Cmd::user(["false"]).tolerated().run(Duration::from_secs(20)).is_ok());
    }
}
