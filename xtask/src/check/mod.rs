//! `cargo xtask check`: what a reviewer should not have to look for. Every step runs, each says one line.
//!
//! | step | asks |
//! |---|---|
//! | format, lints, documentation | rustfmt, clippy and rustdoc without a warning |
//! | kernel half | clippy (or cargo check, where the BPF toolchain has no clippy) for `bpfel-unknown-none` |
//! | purity | `xdp-lb` without `agent` builds, and depends on neither aya nor tokio |
//! | unsafe | only in the modules listed in [`unsafety`] |
//! | licences | cargo-deny, where it is installed |

mod licences;
mod purity;
mod size;
mod source;
mod unsafety;

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, bail};

use crate::build::cargo_command;
use crate::command::which;
use crate::toolchain;
use crate::workspace;

/// How a step ended when it did not fail.
pub enum Outcome {
    /// As it should be; a note for people, or nothing.
    Clean(String),
    /// Worth a look, no failure.
    Warned(String),
    /// It could not be asked: why.
    Skipped(String),
}

type Step = (&'static str, fn(&Path) -> Result<Outcome>);

const STEPS: [Step; 9] = [
    ("format", |_| quiet(cargo_command(["fmt", "--all", "--check"]))),
    ("lints", |_| {
        quiet(cargo_command(["clippy", "--locked", "--all-targets", "--quiet", "--", "-D", "warnings"]))
    }),
    ("lints of the kernel half", kernel_half),
    ("documentation", |_| {
        let mut doc = cargo_command(["doc", "--locked", "--no-deps", "--quiet"]);
        doc.env("RUSTDOCFLAGS", "-D warnings");
        quiet(doc)
    }),
    ("purity: build", |_| {
        quiet(cargo_command([
            "check",
            "--locked",
            "--quiet",
            "-p",
            "xdp-lb",
            "--lib",
            "--no-default-features",
        ]))
    }),
    ("purity: dependencies", |_| purity::dependencies()),
    ("unsafe only where listed", unsafety::check),
    ("file sizes", size::check),
    ("licences and advisories", |_| licences::check()),
];

/// Runs all steps.
///
/// # Errors
/// One failed.
pub fn run() -> Result<()> {
    let root = workspace::root();
    let mut failed = Vec::new();
    for (name, step) in STEPS {
        let begun = Instant::now();
        let outcome = step(&root);
        let seconds = begun.elapsed().as_secs_f32();
        match outcome {
            Ok(Outcome::Clean(note)) => line("ok", name, seconds, &note),
            Ok(Outcome::Warned(note)) => line("warning", name, seconds, &note),
            Ok(Outcome::Skipped(note)) => line("skipped", name, seconds, &note),
            Err(error) => {
                line("FAILED", name, seconds, &format!("{error:#}"));
                failed.push(name);
            }
        }
    }
    if !failed.is_empty() {
        bail!("{} of {} checks failed: {}", failed.len(), STEPS.len(), failed.join(", "));
    }
    println!("{} checks, none failed", STEPS.len());
    Ok(())
}

fn line(verdict: &str, name: &str, seconds: f32, note: &str) {
    let separator = if note.is_empty() { "" } else { ": " };
    println!("{verdict:<8} {name} ({seconds:.1} s){separator}{note}");
}

/// Runs a cargo command whose output matters only when it fails; then cargo has already shown it.
fn quiet(mut command: Command) -> Result<Outcome> {
    let status = command.stdin(Stdio::null()).status().context("start cargo")?;
    if !status.success() {
        let words: Vec<_> = command.get_args().map(|a| a.to_string_lossy().into_owned()).collect();
        bail!("cargo {} ({status})", words.join(" "));
    }
    Ok(Outcome::Clean(String::new()))
}

/// The kernel half with the toolchain that builds it. Debian's has no clippy: there, the compiler's own warnings count.
fn kernel_half(root: &Path) -> Result<Outcome> {
    let linker = which("bpf-linker").and_then(|path| std::fs::read(path).ok());
    let found = match toolchain::find(linker.and_then(|binary| toolchain::llvm_of_linker(&binary))) {
        Ok(found) => found,
        Err(_) => bail!("no toolchain for BPF: see `cargo xtask setup`"),
    };
    let clippy = found.has_clippy();
    let mut command = found.command("cargo");
    command.current_dir(root).arg(if clippy { "clippy" } else { "check" });
    command.args([
        "--locked",
        "--quiet",
        "-p",
        "xdp-lb-ebpf",
        "--target",
        "bpfel-unknown-none",
        "-Z",
        "build-std=core",
    ]);
    // Its own folder: another compiler's, and cargo would wait for nothing.
    command.arg("--target-dir").arg(root.join("target/check-bpf"));
    if clippy {
        command.args(["--", "-D", "warnings"]);
    } else {
        command.env("RUSTFLAGS", "-D warnings");
    }
    quiet(command)?;
    let how = if clippy { "clippy" } else { "cargo check, it has no clippy" };
    Ok(Outcome::Clean(format!("{how}, by {} ({})", found.at.name, found.rustc.release)))
}
