//! `cargo xtask bench`: what a packet costs, above a constant-header encapsulation measured in the same run.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use xdp_lb::dataplane::object;
use xdp_lb_tests::bench::{Bench, Effort, json, measure, missed, pin, rows, table};

/// Measures the packet path on this machine. Needs root.
#[derive(Parser)]
struct Options {
    /// Also write the result to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Exit with 3 when the target is missed.
    #[arg(long)]
    check: bool,
    /// Packets of one measurement.
    #[arg(long, default_value_t = Effort::default().batch)]
    batch: u32,
    /// Measurements of each row.
    #[arg(long, default_value_t = Effort::default().rounds)]
    rounds: usize,
    /// CPU to measure on.
    #[arg(long, default_value_t = 0)]
    cpu: usize,
    /// Measure the balancer in this object file too, in the same rounds: another build of the kernel half.
    #[arg(long, value_name = "OBJECT")]
    against: Option<PathBuf>,
    /// Only rows whose name contains one of these, besides the floor and the limit.
    #[arg(value_name = "ROW")]
    only: Vec<String>,
}

/// Packets with which each row proves that it measures what it says.
const PROOF: u32 = 10_000;

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("xdp-lb-bench: {error:#}");
            ExitCode::from(1)
        }
    }
}

fn run(options: &Options) -> Result<ExitCode> {
    ensure!(options.batch > 0 && options.rounds > 0, "--batch and --rounds must be at least 1");
    pin(options.cpu).with_context(|| format!("pin to CPU {}", options.cpu))?;
    let wanted = |name: &str| {
        ["floor", "limit"].contains(&name)
            || options.only.is_empty()
            || options.only.iter().any(|part| name.contains(part.as_str()))
    };
    let other = options
        .against
        .as_ref()
        .map(|path| fs::read(path).with_context(|| format!("read {}", path.display())));
    let other = other.transpose()?;
    let (mut benches, mut names) = (Vec::new(), Vec::new());
    for row in rows().into_iter().filter(|row| wanted(row.name)) {
        if let (true, Some(object)) = (row.has_balancer(), &other) {
            names.push(format!("{} (against)", row.name));
            benches.push(Bench::load(row.clone(), object)?);
        }
        names.push(row.name.to_owned());
        benches.push(Bench::load(row, object::BALANCER)?);
    }
    for bench in &mut benches {
        bench.prove(PROOF)?;
    }
    let effort = Effort { batch: options.batch, rounds: options.rounds };
    let measured = measure(&benches, effort)?;
    let results: Vec<_> = names.into_iter().zip(measured).collect();
    print!("{}", table(&results));
    if let Some(path) = &options.json {
        fs::write(path, format!("{:#}\n", json(&results, effort)))
            .with_context(|| format!("write {}", path.display()))?;
    }
    let missed = missed(&results);
    if !options.check || missed.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    for line in missed {
        eprintln!("target missed: {line}");
    }
    Ok(ExitCode::from(3))
}
