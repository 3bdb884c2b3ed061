//! One virtual machine: the emulator's command line, its console in a file, its end within a time.

use std::ffi::OsString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result};

use super::kernel::Kernel;
use super::report::Ended;
use crate::command::search_path;

/// The emulator.
pub const PROGRAM: &str = "qemu-system-x86_64";
/// Memory in MiB: the default tables twice, and the file system.
const MEMORY: &str = "2048";

/// A machine of two processors, a console and a way out.
const FIXED: &str = "-M q35 -smp 2 -nodefaults -no-user-config -display none -no-reboot -serial stdio \
                     -device isa-debug-exit,iobase=0xf4,iosize=4";
/// What timeout ends with when it ended the program, and when it had to do so twice. The emulator's own are odd.
const TIMED_OUT: i32 = 124;
const KILLED: i32 = 137;

/// What runs the guest's instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accelerator {
    /// The processor itself.
    Kvm,
    /// An interpreter, ten times slower and everywhere.
    Tcg,
}

impl Accelerator {
    /// `/dev/kvm` alone says little: a paravirtual hypervisor offers one that boots no stock kernel.
    #[must_use]
    pub fn here() -> Self {
        let processor = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let open = || File::options().read(true).write(true).open("/dev/kvm").is_ok();
        if can_virtualize(&processor) && open() { Self::Kvm } else { Self::Tcg }
    }

    fn arguments(self) -> [&'static str; 4] {
        match self {
            Self::Kvm => ["-accel", "kvm", "-cpu", "host"],
            Self::Tcg => ["-accel", "tcg,thread=multi", "-cpu", "max"],
        }
    }
}

fn can_virtualize(processor: &str) -> bool {
    let flags = processor.lines().filter(|line| line.starts_with("flags"));
    flags.flat_map(str::split_whitespace).any(|flag| ["vmx", "svm"].contains(&flag))
}

/// How a machine runs.
#[derive(Clone, Copy, Debug)]
pub struct How {
    /// By what.
    pub accelerator: Accelerator,
    /// For how long at most.
    pub limit: Duration,
    /// Whether the guest only has the programs verified.
    pub verify_only: bool,
}

/// A machine's files, named after it.
#[derive(Clone, Debug)]
pub struct Machine {
    /// The file system in memory.
    pub image: PathBuf,
    /// What it said.
    pub console: PathBuf,
}

impl Machine {
    /// Files below `folder`.
    ///
    /// # Errors
    /// The folder cannot be made.
    pub fn new(folder: &Path, kernel: &Kernel) -> Result<Self> {
        fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
        let file = |suffix| folder.join(format!("{}.{suffix}", kernel.release));
        Ok(Self { image: file("cpio"), console: file("log") })
    }

    /// Boots it and waits for its end; the console is in [`Machine::console`].
    ///
    /// # Errors
    /// The emulator cannot be started.
    pub fn run(&self, kernel: &Kernel, how: How) -> Result<Ended> {
        let console =
            File::create(&self.console).with_context(|| format!("write {}", self.console.display()))?;
        // It outlives us, should we be killed, and takes the emulator along.
        let mut command = Command::new("timeout");
        command.args(["--foreground", "--kill-after=10"]).arg(how.limit.as_secs().to_string()).arg(PROGRAM);
        command.args(arguments(kernel, &self.image, how)).env("PATH", search_path());
        command.stdin(Stdio::null()).stderr(console.try_clone()?).stdout(console);
        let status = command.status().context("start timeout")?;
        Ok(match status.code() {
            Some(TIMED_OUT | KILLED) => Ended::Late(how.limit),
            code => Ended::Code(code),
        })
    }
}

fn arguments(kernel: &Kernel, image: &Path, how: How) -> Vec<OsString> {
    let mut words: Vec<OsString> = how.accelerator.arguments().into_iter().map(Into::into).collect();
    words.extend(FIXED.split_whitespace().map(Into::into));
    words.extend(["-m".into(), MEMORY.into(), "-kernel".into(), (&kernel.image).into()]);
    words.extend(["-initrd".into(), image.into(), "-append".into(), command_line(how).into()]);
    words
}

/// A panic reboots at once, which the emulator makes an end. What the kernel does not know becomes a variable of
/// process 1: `tests/src/vm/mod.rs` reads it.
fn command_line(how: How) -> String {
    let only = if how.verify_only { " xlb_only=verify" } else { "" };
    format!("console=ttyS0 panic=-1 quiet{only}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kvm_wants_a_processor_that_virtualizes() {
        assert!(can_virtualize("model name\t: vmx\nflags\t\t: fpu vmx sse\n"));
        assert!(can_virtualize("flags\t\t: fpu svm\n"));
        assert!(!can_virtualize("model name\t: vmx\nflags\t\t: fpu hypervisor\nvmx flags\t: ept\n"));
        assert!(!can_virtualize(""));
    }

    #[test]
    fn the_guest_is_told_what_to_leave_out() {
        let kernel = Kernel::for_tests("6.1.0-56");
        let line = |verify_only| {
            let how = How { accelerator: Accelerator::Tcg, limit: Duration::ZERO, verify_only };
            let words = arguments(&kernel, Path::new("/x.cpio"), how);
            words.iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
        };
        assert!(
            line(false).ends_with(" -initrd /x.cpio -append console=ttyS0 panic=-1 quiet"),
            "{}",
            line(false)
        );
        assert!(line(true).ends_with(" quiet xlb_only=verify"), "{}", line(true));
        assert!(
            line(true).contains(" isa-debug-exit,iobase=0xf4,iosize=4 -m 2048 -kernel "),
            "{}",
            line(true)
        );
    }
}
