//! `xdp-lb check FILE`: everything that is wrong with a configuration, and what a good one costs.
//!
//! For people, findings go to stderr as `FILE:LINE:COLUMN: path: message`, and what a good file costs to stdout. For
//! programs everything is in [`Report`] on stdout. With errors the exit code is 3.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::PathBuf,
    process::ExitCode,
};

use serde::Serialize;

use super::{
    REFUSED,
    output::{Output, to_stderr, to_stdout},
    table,
};
use crate::{
    config::{ConfigError, ConfigWarning},
    dataplane::{Machine, Shape, load, shape::MapSpec},
    file::{self, counted},
    fragments,
    model::{Desired, Service},
    plan::specs,
    status::Word as _,
};

/// Arguments of `check`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Configuration file or directory of files; `-` is standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    output: Output,
}

/// The outcome: `ok` is false exactly when there are errors, and `costs` is there exactly when there are none.
#[derive(Debug, Serialize)]
struct Report {
    /// The file's name; `<stdin>` for standard input.
    file: String,
    /// Whether it can be used.
    ok: bool,
    /// Errors in the order of the text.
    errors: Vec<ConfigError>,
    /// Warnings in the order of the text.
    warnings: Vec<ConfigWarning>,
    /// What it asks for.
    costs: Option<Costs>,
}

/// What a configuration asks for.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Costs {
    /// Services.
    services: usize,
    /// Addresses: balanced, taken out of tunnels, or both.
    vips: usize,
    /// Pairs of service and backend.
    backends: usize,
    /// Rings: services that are equal in backends, table size, encap and drain share one.
    rings: usize,
    /// Backends summed over rings.
    ring_backends: usize,
    /// Maglev slots summed over rings.
    ring_slots: u64,
    /// Flows that fit in the flow table.
    flow_entries: u32,
    /// Addresses and protocols whose fragments go by the client's address: in any order, on any edge node.
    stateless_fragments: Vec<String>,
    /// First fragments that fit in the table that keeps all others together.
    fragment_entries: u32,
    /// Kernel memory of all maps, most of it decided by `limits` and `flow_table`.
    memory_bytes: u64,
    /// CPUs of this machine that counters are kept for.
    cpus: u32,
}

/// Checks and reports.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let texts = file::texts(&args.file)?;
    let file = texts.name.clone();
    let report = match texts.check() {
        Ok(checked) => {
            let costs = Some(Costs::of(&checked.desired));
            Report { file, ok: true, errors: Vec::new(), warnings: checked.warnings, costs }
        }
        Err(refused) => Report { file, ok: false, errors: refused.errors, warnings: Vec::new(), costs: None },
    };
    if args.output.is_table() {
        report.findings().for_each(|line| to_stderr(format_args!("{line}")));
        let summary = report.summary();
        if report.ok { to_stdout(&summary)? } else { to_stderr(format_args!("{summary}")) }
    } else {
        args.output.print(&report, Report::summary)?;
    }
    Ok(if report.ok { ExitCode::SUCCESS } else { ExitCode::from(REFUSED) })
}

impl Report {
    fn findings(&self) -> impl Iterator<Item = String> {
        let errors = self.errors.iter().map(|e| file::line(&self.file, "", e));
        errors.chain(self.warnings.iter().map(|w| file::line(&self.file, "warning: ", w)))
    }

    fn summary(&self) -> String {
        let (errors, warnings) =
            (counted(self.errors.len(), "error"), counted(self.warnings.len(), "warning"));
        let Some(costs) = &self.costs else { return format!("{}: {errors}", self.file) };
        let Costs {
            services,
            vips,
            backends,
            rings,
            ring_backends,
            ring_slots,
            flow_entries,
            memory_bytes,
            cpus,
            ..
        } = costs;
        let sizes = [
            ("services", services.to_string()),
            ("VIPs", vips.to_string()),
            ("backends", format!("{backends}, summed over services")),
            ("rings", format!("{rings}, with {ring_backends} backends and {ring_slots} slots")),
            ("flow table", format!("{flow_entries} entries")),
            ("fragments", costs.fragments()),
            (
                "memory",
                format!(
                    "{} in the kernel with {}",
                    table::bytes(*memory_bytes),
                    counted(*cpus as usize, "CPU")
                ),
            ),
        ];
        format!("{}: ok, {warnings}\n{}", self.file, table::fields(&sizes))
    }
}

impl Costs {
    fn fragments(&self) -> String {
        let entries = self.fragment_entries;
        match &self.stateless_fragments[..] {
            [] => format!("after their first one, {entries} entries"),
            some => {
                format!("by client for {}; else after their first one, {entries} entries", some.join(", "))
            }
        }
    }

    fn of(desired: &Desired) -> Self {
        let decap = desired.decap.iter().flat_map(|d| &d.vips);
        let vips: BTreeSet<IpAddr> = desired.vips.iter().map(|v| v.address).chain(decap.copied()).collect();
        let rings: BTreeMap<usize, &Service> = specs(&desired.services)
            .into_iter()
            .zip(&desired.services)
            .filter(|(_, service)| !service.backends.is_empty())
            .collect();
        // A machine that does not say still gets its answer: memory depends on the CPUs alone.
        let machine = load::machine().unwrap_or(Machine { hz: 250, cpus: 1 });
        let shape = if !desired.balances() && desired.decap.is_some() {
            Shape::decap_only(&desired.limits, machine)
        } else {
            Shape::balancer(&desired.limits, &desired.flow_table, machine)
        };
        Self {
            services: desired.services.len(),
            vips: vips.len(),
            backends: desired.services.iter().map(|s| s.backends.len()).sum(),
            rings: rings.len(),
            ring_backends: rings.values().map(|s| s.backends.len()).sum(),
            ring_slots: rings.values().map(|s| u64::from(s.table_size.get())).sum(),
            flow_entries: desired.flow_table.entries,
            stateless_fragments: fragments::stateless(desired)
                .map(|(vip, protocol)| format!("{vip} {}", protocol.word()))
                .collect(),
            fragment_entries: desired.limits.fragments,
            memory_bytes: shape.maps().iter().map(MapSpec::bytes).sum(),
            cpus: machine.cpus,
        }
    }
}
