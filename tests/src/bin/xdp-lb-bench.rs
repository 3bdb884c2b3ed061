//! `cargo xtask bench`: what a packet costs, above a constant-header encapsulation measured in the same run.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};
use clap::Parser;
use xdp_lb::dataplane::object;
use xdp_lb_tests::bench::{
    Bench, Effort, Line, Report, Row, control, figures, foreign, latency, live, machine, measure, pin, rows,
    svg,
};

/// Measures the packet path on this machine. Needs root.
#[derive(Parser)]
struct Options {
    /// Also write the result to this file, to show or to compare with later.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Also draw the result into this file.
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Compare with a result that --json saved.
    #[arg(long, value_name = "FILE")]
    against: Option<PathBuf>,
    /// Exit with 3 when a target is missed.
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
    #[arg(long, value_name = "FILE")]
    object: Option<PathBuf>,
    /// Measure any XDP program in the same rounds, by its pin.
    #[arg(long, value_name = "PIN", requires = "packets")]
    pinned: Option<PathBuf>,
    /// The packets for it: a pcap file, a row for each.
    #[arg(long, value_name = "FILE", requires = "pinned")]
    packets: Option<PathBuf>,
    /// Send real frames over a veth pair instead: frames a second on one core; and ask for answers in a lab: how long each
    /// takes, with and without the balancer.
    #[arg(long)]
    live: bool,
    /// Measure the control plane instead: tables, filling, a change among ten thousand services, memory.
    #[arg(long, conflicts_with = "live")]
    control: bool,
    /// Only rows whose name contains one of these, besides the floor and the limit.
    #[arg(value_name = "ROW")]
    only: Vec<String>,
}

/// Packets with which each row proves that it measures what it says.
const PROOF: u32 = 10_000;
/// Live frames of a measurement.
const FRAMES: u32 = 1_000_000;
/// Requests of each kind, without and with the balancer.
const REQUESTS: u32 = 10_000;

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
    if options.control {
        return show_control(options);
    }
    let earlier = options.against.as_ref().map(read_report).transpose()?;
    pin(options.cpu).with_context(|| format!("pin to CPU {}", options.cpu))?;
    let wanted = |row: &Row| {
        ["floor", "limit"].contains(&&*row.name)
            || options.only.is_empty()
            || options.only.iter().any(|part| row.name.contains(part.as_str()))
    };
    let rows: Vec<Row> = rows().into_iter().filter(wanted).collect();
    if options.live {
        return show_live(&rows, options.rounds);
    }
    let report = measured(options, rows)?;
    print!("{}", report.table());
    if let Some(earlier) = &earlier {
        print!("\n{}", report.compare(earlier));
    }
    if let Some(path) = &options.json {
        fs::write(path, format!("{}\n", serde_json::to_string_pretty(&report)?))
            .with_context(|| format!("write {}", path.display()))?;
    }
    if let Some(path) = &options.svg {
        fs::write(path, svg(&report)).with_context(|| format!("write {}", path.display()))?;
    }
    let missed = report.missed();
    if !options.check || missed.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    for line in missed {
        eprintln!("target missed: {line}");
    }
    Ok(ExitCode::from(3))
}

fn measured(options: &Options, rows: Vec<Row>) -> Result<Report> {
    let other = options
        .object
        .as_ref()
        .map(|path| fs::read(path).with_context(|| format!("read {}", path.display())));
    let other = other.transpose()?;
    let (mut benches, mut names) = (Vec::new(), Vec::new());
    for row in rows {
        if let (true, Some(object)) = (row.has_balancer(), &other) {
            names.push(format!("{} (other)", row.name));
            benches.push(Bench::load(row.clone(), object)?);
        }
        names.push(row.name.clone().into_owned());
        benches.push(Bench::load(row, object::BALANCER)?);
    }
    if let (Some(pinned), Some(packets)) = (&options.pinned, &options.packets) {
        for row in foreign(pinned, packets)? {
            names.push(row.name.clone().into_owned());
            benches.push(Bench::load(row, object::BALANCER)?);
        }
    }
    for bench in &mut benches {
        bench.prove(PROOF)?;
    }
    let effort = Effort { batch: options.batch, rounds: options.rounds };
    let measured = measure(&mut benches, effort)?;
    let rows = names.into_iter().zip(measured).map(|(name, measured)| Line { name, measured }).collect();
    Ok(Report { effort, machine: machine(), rows })
}

fn show_live(rows: &[Row], rounds: usize) -> Result<ExitCode> {
    println!(
        "{:<34} {:>18} {:>8} {:>12}",
        "one core, native XDP on veth", "million frames/s", "lost", "program ns"
    );
    for row in live(rows, FRAMES, rounds.min(5))? {
        let (rate, lost) = (row.frames_a_second / 1e6, row.lost * 100.0);
        println!("{:<34} {rate:>18.2} {lost:>7.1}% {:>12.0}", row.name, row.program_ns);
    }
    println!("\n{:<54} {:>8} {:>8} {:>8} {:>8}", "a request, microseconds", "p50", "p90", "p99", "p99.9");
    for row in latency(REQUESTS)? {
        let [half, ninety, hundredth, thousandth] = row.percentiles;
        println!("{:<54} {half:>8.0} {ninety:>8.0} {hundredth:>8.0} {thousandth:>8.0}", row.name);
    }
    Ok(ExitCode::SUCCESS)
}

fn show_control(options: &Options) -> Result<ExitCode> {
    let found = control(options.rounds)?;
    print!("{}", figures(&found));
    if let Some(path) = &options.json {
        fs::write(path, format!("{}\n", serde_json::to_string_pretty(&found)?))
            .with_context(|| format!("write {}", path.display()))?;
    }
    let missed = found.iter().filter(|figure| figure.target.is_some_and(|most| figure.value > most));
    let missed: Vec<_> = missed.inspect(|figure| eprintln!("target missed: {}", figure.name)).collect();
    Ok(if options.check && !missed.is_empty() { ExitCode::from(3) } else { ExitCode::SUCCESS })
}

fn read_report(path: &PathBuf) -> Result<Report> {
    let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    serde_json::from_str(&text).with_context(|| format!("{} is no saved run", path.display()))
}
