//! `cargo xtask setup`: brings what the machine lacks. Every other subcommand starts here.
//!
//!     requirements (table) -> detect (this machine) -> plan (commands) -> print, run, detect again
//!
//! A second run finds everything and does nothing.

mod detect;
mod distro;
mod plan;
mod requirements;

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, bail};

pub use self::distro::Distro;
pub use self::requirements::{DEBIAN_KEYS, Need};

use self::detect::{Facts, State};
use self::plan::{Missing, apt_update, plan};
use self::requirements::{REQUIREMENTS, Requirement};
use crate::command::{Cmd, is_root, which};

/// The slowest step builds bpf-linker: two minutes on two cores.
const STEP_LIMIT: Duration = Duration::from_secs(1800);

/// What may be done about missing things.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Install them.
    Install,
    /// Only list them.
    List,
}

/// `cargo xtask setup`: with a line for each thing that is there.
///
/// # Errors
/// Something is missing and could not (or was not to) be installed.
pub fn run(mode: Mode) -> Result<()> {
    ensure(Need::Run, mode, true)
}

/// `cargo xtask setup --no-install --os NAME`: what a fresh machine of that distribution would need to run and test.
///
/// # Errors
/// Always, unless the table is empty: a fresh machine lacks everything.
pub fn list_for(distro: Distro) -> Result<()> {
    println!("a fresh {distro} machine with rustup lacks:");
    let mut facts = Facts::fresh();
    facts
        .items
        .retain(|(item, _)| REQUIREMENTS.iter().any(|row| row.item == *item && Need::Run.covers(row.need)));
    list(&plan(distro, &facts))
}

/// Set-up before another subcommand: silent when nothing is missing.
///
/// # Errors
/// Something is missing and could not (or was not to) be installed.
pub fn before(need: Need, mode: Mode) -> Result<()> {
    ensure(need, mode, false)
}

fn ensure(need: Need, mode: Mode, verbose: bool) -> Result<()> {
    let rows: Vec<&Requirement> = REQUIREMENTS.iter().filter(|row| need.covers(row.need)).collect();
    let distro = Distro::here();
    let facts = Facts::of(&rows);
    if verbose {
        show(&rows, &facts);
    }
    let missing = plan(distro, &facts);
    if missing.is_empty() {
        if verbose {
            println!("everything is here");
        }
        return Ok(());
    }
    if mode == Mode::List {
        return list(&missing);
    }
    install(missing)?;
    let left = plan(distro, &Facts::of(&rows));
    if left.is_empty() {
        println!("everything is here now");
        return Ok(());
    }
    println!("installed, and still not right:");
    list(&left)
}

fn show(rows: &[&Requirement], facts: &Facts) {
    for (item, state) in &facts.items {
        let name = rows.iter().find(|row| row.item == *item).map_or("", |row| row.name);
        match state {
            State::Present(what) => println!("  ok       {name}: {what}"),
            State::Missing(why) => println!("  missing  {name}: {why}"),
        }
    }
}

/// Prints each missing thing with the commands that bring it.
fn list(missing: &[Missing]) -> Result<()> {
    let as_root = is_root();
    for row in missing {
        println!("missing: {} ({}); found: {}", row.name, row.why, row.found);
        for (i, way) in row.ways.iter().enumerate() {
            if i > 0 {
                println!("    or, if that fails:");
            }
            for cmd in way {
                println!("    {}", cmd.line(as_root));
            }
        }
        if row.ways.is_empty() {
            println!("    {}", row.by_hand);
        }
    }
    bail!("{} missing; `cargo xtask setup` installs what it can", count(missing.len()))
}

fn count(n: usize) -> String {
    if n == 1 { "1 thing is".to_owned() } else { format!("{n} things are") }
}

fn install(missing: Vec<Missing>) -> Result<()> {
    if !is_root()
        && which("sudo").is_none()
        && missing.iter().any(|row| row.ways.iter().flatten().any(|c| c.root))
    {
        list(&missing)?;
    }
    if !Path::new("/var/lib/apt/lists").read_dir().is_ok_and(|mut dir| dir.any(is_package_list))
        && which("apt-get").is_some()
    {
        println!("apt has no package lists yet");
        apt_update().run(STEP_LIMIT)?;
    }
    let mut failed = Vec::new();
    for row in missing {
        println!("{}: {}", row.name, row.why);
        let done = row.ways.iter().any(|way| match run_way(way) {
            Ok(()) => true,
            Err(error) => {
                println!("  failed: {error:#}");
                false
            }
        });
        if !done {
            println!("  by hand: {}", row.by_hand);
            failed.push(row.name);
        }
    }
    if failed.is_empty() { Ok(()) } else { bail!("could not install {}", failed.join(", ")) }
}

fn is_package_list(entry: std::io::Result<std::fs::DirEntry>) -> bool {
    entry.is_ok_and(|entry| entry.file_name().to_string_lossy().contains("_Packages"))
}

fn run_way(way: &[Cmd]) -> Result<()> {
    for cmd in way {
        let Err(error) = cmd.run(STEP_LIMIT) else { continue };
        if cmd.argv.first().is_none_or(|program| program != "apt-get") {
            return Err(error);
        }
        // Old lists name files that the archive no longer has.
        println!("  failed: {error:#}; once more with new package lists");
        apt_update().run(STEP_LIMIT)?;
        cmd.run(STEP_LIMIT)?;
    }
    Ok(())
}
