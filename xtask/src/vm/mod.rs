//! `cargo xtask vm-test`: the product on other kernels, each in a virtual machine that holds nothing else.
//!
//! ```text
//!  version -> archive -> kernel (downloaded once) --.
//!  guest (static programs, built) -------------------+-> image (modinfo, cpio) -> machine -> report
//! ```
//!
//! What runs inside is `tests/src/vm/`. Needs qemu, and root only for `--here`; nothing is installed but by set-up.

mod archive;
mod cpio;
mod guest;
mod image;
mod kernel;
mod machine;
mod modinfo;
mod report;
mod version;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

pub use self::machine::PROGRAM as EMULATOR;
pub use self::version::Wanted;

use self::guest::Guest;
use self::kernel::Store;
use self::machine::{Accelerator, How, Machine};
use self::report::{Report, Verdict};
use crate::build;
use crate::run::become_program;
use crate::workspace;

/// An emulated machine needs half a minute on two idle processors, and several on busy ones.
const LIMIT: Duration = Duration::from_secs(900);

/// What `cargo xtask vm-test` is told.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Arguments {
    /// Series like 6.1, or `newest`; 5.10, 6.1, 6.12 and newest when left out
    #[arg(value_name = "KERNEL")]
    pub kernels: Vec<Wanted>,
    /// Only report verified instruction counts of this machine's own kernel; needs no emulator
    #[arg(long, conflicts_with_all = ["kernels", "update", "verify_only"])]
    pub here: bool,
    /// Only have the programs verified, nothing attached and nothing sent
    #[arg(long)]
    pub verify_only: bool,
    /// Ask the archive for newer kernels, even where one is there
    #[arg(long)]
    pub update: bool,
}

/// Runs every machine and says what it proves.
///
/// # Errors
/// A kernel failed, or could not be tested; the two are told apart.
pub fn run(arguments: &Arguments) -> Result<()> {
    if arguments.here {
        build::run(false)?;
        return become_program("xdp-lb-vm", false, vec!["verify".to_owned()]);
    }
    let wanted = if arguments.kernels.is_empty() { Wanted::promised() } else { arguments.kernels.clone() };
    let folder = workspace::root().join("target/vm");
    // Built first: a kernel half that does not compile must not wait for downloads.
    let guest = Guest::build()?;
    let mut store = Store::new(folder.clone(), arguments.update);
    let accelerator = Accelerator::here();
    println!(
        "{} virtual machines, {}",
        wanted.len(),
        match accelerator {
            Accelerator::Kvm => "by KVM",
            Accelerator::Tcg => "emulated: times are no measure of speed",
        }
    );
    let (mut failed, mut broken) = (Vec::new(), Vec::new());
    for wanted in &wanted {
        let how = How { accelerator, limit: LIMIT, verify_only: arguments.verify_only };
        let verdict = match one(wanted, &mut store, &guest, &folder, how) {
            Ok(report) => report.verdict,
            Err(error) => {
                println!("BROKEN  {wanted}\n          not tested: {error:#}");
                Verdict::Broken(String::new())
            }
        };
        match verdict {
            Verdict::Passed => {}
            Verdict::Failed(_) => failed.push(wanted.to_string()),
            Verdict::Broken(_) => broken.push(wanted.to_string()),
        }
    }
    let told = |what: &str, all: &[String]| (!all.is_empty()).then(|| format!("{what}: {}", all.join(", ")));
    let told: Vec<String> =
        [told("failed", &failed), told("could not be tested", &broken)].into_iter().flatten().collect();
    if told.is_empty() {
        println!("{} kernels, none failed", wanted.len());
        return Ok(());
    }
    bail!("of {} kernels {}", wanted.len(), told.join("; "))
}

/// One kernel from archive to report, printed.
fn one(wanted: &Wanted, store: &mut Store, guest: &Guest, folder: &Path, how: How) -> Result<Report> {
    let kernel = store.get(wanted)?;
    let machine = Machine::new(&folder.join("machines"), &kernel)?;
    let image = image::build(guest, &kernel)?;
    fs::write(&machine.image, image).with_context(|| format!("write {}", machine.image.display()))?;
    let begun = Instant::now();
    let ended = machine.run(&kernel, how)?;
    let took = begun.elapsed();
    drop(fs::remove_file(&machine.image));
    let console =
        fs::read(&machine.console).with_context(|| format!("read {}", machine.console.display()))?;
    let report = report::read(&String::from_utf8_lossy(&console), ended);
    println!("{}", report.lines(&kernel.release, took));
    if report.verdict != Verdict::Passed {
        println!("          console: {}", machine.console.display());
    }
    Ok(report)
}
