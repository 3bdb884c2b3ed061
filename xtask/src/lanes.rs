//! Commands that run beside each other. What each says goes to a file, and is shown whole when it has ended.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use anyhow::{Context as _, Result};

/// Runs all of `commands`, in this order, `lanes` at a time: how many failed. Each writes `NAME.log` in `folder`; a file and
/// no pipe, so that nobody waits for a process that outlived the command and has its output still open.
///
/// # Errors
/// A file cannot be written or read, or a command cannot be started. Those under way end first.
pub fn run(commands: Vec<(String, Command)>, lanes: usize, folder: &Path) -> Result<usize> {
    fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
    let waiting = Mutex::new(VecDeque::from(commands));
    let next = || waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
    let lane = || -> Result<usize> {
        let mut failed = 0;
        while let Some((name, mut command)) = next() {
            failed += usize::from(!one(&name, &mut command, folder)?);
        }
        Ok(failed)
    };
    thread::scope(|scope| {
        let lanes: Vec<_> = (0..lanes.max(1)).map(|_| scope.spawn(lane)).collect();
        let ended =
            lanes.into_iter().map(|lane| lane.join().unwrap_or_else(|p| std::panic::resume_unwind(p)));
        // Every one is waited for before any is judged.
        ended.collect::<Vec<_>>().into_iter().sum()
    })
}

/// Runs one and shows it; whether it succeeded.
fn one(name: &str, command: &mut Command, folder: &Path) -> Result<bool> {
    let path = folder.join(format!("{name}.log"));
    let log = File::create(&path).with_context(|| format!("make {}", path.display()))?;
    let both = log.try_clone().with_context(|| format!("open {}", path.display()))?;
    let begun = Instant::now();
    let status = command.stdin(Stdio::null()).stdout(log).stderr(both).status();
    let status = status.with_context(|| format!("start {}", command.get_program().display()))?;
    let said = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
    // In one piece, whatever the other lanes do.
    let mut out = io::stdout().lock();
    let _ = writeln!(out, "\n== {name}: {} s, {status}", begun.elapsed().as_secs());
    let _ = out.write_all(&said);
    let _ = out.flush();
    Ok(status.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(name: &str, script: &str) -> (String, Command) {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        (name.to_owned(), command)
    }

    /// A folder of this test's own, taken away with it.
    struct Folder(std::path::PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            Self(std::env::temp_dir().join(format!("xtask-lanes-{name}-{}", std::process::id())))
        }

        fn said(&self, name: &str) -> String {
            fs::read_to_string(self.0.join(format!("{name}.log"))).unwrap()
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn all_run_and_those_that_failed_are_counted() {
        let folder = Folder::new("all");
        let commands = vec![
            shell("a", "echo out; echo err >&2"),
            shell("b", "exit 3"),
            shell("c", "echo c"),
            shell("d", "false"),
        ];
        assert_eq!(run(commands, 2, &folder.0).unwrap(), 2);
        assert_eq!((folder.said("a").as_str(), folder.said("c").as_str()), ("out\nerr\n", "c\n"));
    }

    /// Each waits for the other: one after the other they would wait until the bound.
    #[test]
    fn two_lanes_run_at_the_same_time() {
        let folder = Folder::new("two");
        fs::create_dir_all(&folder.0).unwrap();
        let meet = |own: &str, other: &str| {
            let at = folder.0.display();
            let script = format!(
                "touch {at}/{own}; for i in $(seq 1000); do [ -e {at}/{other} ] && exit 0; sleep 0.01; done; exit 1"
            );
            shell(own, &script)
        };
        assert_eq!(run(vec![meet("x", "y"), meet("y", "x")], 2, &folder.0).unwrap(), 0);
    }

    #[test]
    fn what_cannot_start_is_an_error() {
        let folder = Folder::new("none");
        let command = Command::new("/nonexistent");
        assert!(run(vec![("x".to_owned(), command)], 1, &folder.0).is_err());
    }
}
