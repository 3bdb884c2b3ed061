//! What the control plane costs: tables, the first fill, one change among many services, memory.
//!
//! ```text
//!   alone       Maglev tables                                        this thread's time
//!   in process  the agent's reconciler on the kernel's maps          from nothing to all services
//!   the agent   xdp-lb run on a veth in a namespace of its own       start, a changed file, memory
//! ```
//!
//! Services stand on addresses of their own, TCP and UDP by turns; equal sets of backends are written once in the file,
//! with an anchor. The last write of a change is the configuration's generation, which is watched in mapped memory.

use std::fmt::Write as _;
use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use serde::{Deserialize, Serialize};
use xdp_lb::dataplane::shape::MapSpec;
use xdp_lb::dataplane::{BpffsRoot, KernelMaps, Shape, load};
use xdp_lb::maglev::{MaglevTable, Member};
use xdp_lb::model::{FlowTable, Limits, TableSize};

use crate::lab::netlink::VethEnd;
use crate::lab::{Daemon, Lifetime, Namespace, Product, Signal, bpffs::BpfRoot, id::LabId, scratch::Scratch};
use crate::prog::{Agent, Pinned, desired};

/// A figure, with what the project wants of itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Figure {
    /// What it is.
    pub name: String,
    /// How much.
    pub value: f64,
    /// `ms` or `MB`.
    pub unit: String,
    /// The most that it may be.
    pub target: Option<f64>,
}

impl Figure {
    fn ms(name: impl Into<String>, took: Duration, target: Option<f64>) -> Self {
        Self { name: name.into(), value: took.as_secs_f64() * 1e3, unit: "ms".to_owned(), target }
    }

    fn mb(name: impl Into<String>, bytes: u64, target: Option<f64>) -> Self {
        Self { name: name.into(), value: bytes as f64 / 1e6, unit: "MB".to_owned(), target }
    }
}

/// A line for each.
#[must_use]
pub fn figures(figures: &[Figure]) -> String {
    let mut out = format!("{:<66} {:>10} {:>4} {:>8}\n", "control plane", "", "", "at most");
    for Figure { name, value, unit, target } in figures {
        let target = target.map_or_else(String::new, |target| format!("{target}"));
        let _ = writeln!(out, "{name:<66} {value:>10.1} {unit:>4} {target:>8}");
    }
    out
}

/// How many services the largest zone has.
const MANY: u32 = 10_000;
/// Backends of a set.
const SET: u32 = 100;
/// How long a change may take.
const BOUND: Duration = Duration::from_secs(30);

/// Measures everything, what is short `rounds` times.
///
/// # Errors
/// Says what failed.
pub fn control(rounds: usize) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for (backends, target) in [(100, Some(1.0)), (1000, None)] {
        let took = median((0..rounds.max(1)).map(|_| maglev(backends)).collect::<Result<_>>()?);
        figures.push(Figure::ms(format!("Maglev table, {backends} backends, 65537 slots"), took, target));
    }
    for (services, target) in [(1, None), (512, None), (MANY, Some(5000.0))] {
        let took = fill(services).with_context(|| format!("fill {services} services"))?;
        let sets = sets(services);
        let name = format!("{services} services on {sets} rings, from nothing");
        figures.push(Figure::ms(name, took, target));
    }
    for services in [1, MANY] {
        agent(services, rounds, &mut figures).with_context(|| format!("the agent of {services} services"))?;
    }
    let flow_table = FlowTable { entries: 1 << 20, track_window: Duration::ZERO };
    for (what, limits) in [("default limits", Limits::default()), ("10000 services", limits())] {
        let shape = Shape::balancer(&limits, &flow_table, load::machine()?);
        let bytes = shape.maps().iter().map(MapSpec::bytes).sum();
        figures.push(Figure::mb(format!("maps, {what}, a million flow entries"), bytes, None));
    }
    Ok(figures)
}

fn maglev(backends: u32) -> Result<Duration> {
    let member = |n: u32| Member { address: Ipv4Addr::from_bits(0x0a00_0000 + n).into(), weight: 100 };
    let begun = Instant::now();
    let table = MaglevTable::new((1..=backends).map(member), TableSize::DEFAULT, 7)?;
    let took = begun.elapsed();
    ensure!(table.home().len() == 65_537, "{} slots", table.home().len());
    Ok(took)
}

/// From maps without a service to all of them, looked at again.
fn fill(services: u32) -> Result<Duration> {
    // Maps are made for a balancer where there is a service: one that goes with the change.
    let another = zone("lo", 1, None).replace("name: s0, vip: 20.0.0.0", "name: another, vip: 21.0.0.0");
    let pinned = Pinned::load(&another)?;
    let wanted = desired(&zone("lo", services, None))?;
    let mut agent = Agent::start(&pinned, &wanted)?;
    let begun = Instant::now();
    agent.apply(&wanted)?;
    let took = begun.elapsed();
    ensure!(agent.plan(&wanted)?.services.is_empty(), "a second plan has something to do");
    Ok(took)
}

/// `xdp-lb run`: how long until it forwards, what a change of one backend takes, how much memory it has.
fn agent(services: u32, rounds: usize, figures: &mut Vec<Figure>) -> Result<()> {
    let id = LabId::next();
    let ns = Namespace::create(id, "edge", Lifetime::Dropped)?;
    let scratch = Scratch::create(id, Lifetime::Dropped)?;
    let bpffs = BpfRoot::create(id, Lifetime::Dropped)?;
    let end =
        |name: &str, last| VethEnd { name: name.into(), mac: [2, 0, 0, 0, 0, last], mtu: 1600, queues: 1 };
    ns.netlink().add_veth(&end("b0", 1), &end("b1", 2), ns.fd())?;
    for name in ["b0", "b1", "lo"] {
        ns.netlink().set_up(name, true)?;
    }
    let file = scratch.write("edge.yaml", &zone("b0", services, None))?;
    let root = bpffs.of("edge");
    let begun = Instant::now();
    let mut product = Product::start(&ns, Daemon::Run, &file, &root, &[])?;
    figures.push(Figure::ms(format!("start to forwarding, {services} services"), begun.elapsed(), None));

    let maps = KernelMaps::open_read_only(&BpffsRoot::new(&root))?;
    let mut changes = Vec::new();
    // Drained and not by turns: the same text is no change.
    let mut drained = [Some(0), None].into_iter().cycle();
    for how in [Change::Told, Change::Seen] {
        let mut times = Vec::new();
        for drained in drained.by_ref().take(rounds.clamp(1, 5)) {
            times.push(change(&maps, &mut product, &file, &zone("b0", services, drained), how)?);
        }
        changes.push((how, median(times)));
    }
    for (how, took) in changes {
        let (how, target) = match how {
            Change::Told => ("SIGHUP to the last write", Some(20.0)),
            Change::Seen => ("seen to the last write, 200 ms of quiet too", None),
        };
        let name = format!("one backend of {services} services, {how}");
        figures.push(Figure::ms(name, took, target.filter(|_| services == MANY)));
    }
    let (own, peak) = memory(product.process().pid())?;
    let target = (services == MANY).then_some(200.0);
    figures.push(Figure::mb(format!("agent's own memory, {services} services"), own, target));
    figures.push(Figure::mb(
        format!("the same with mapped tables, at most, {services} services"),
        peak,
        None,
    ));
    product.terminate()?;
    load::remove(&BpffsRoot::new(&root)).context("remove the pins")?;
    Ok(())
}

/// How the agent learns of a change.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Change {
    /// By SIGHUP.
    Told,
    /// By the kernel's word about its directory.
    Seen,
}

/// From the new file's being there to the last write.
fn change(
    maps: &KernelMaps,
    product: &mut Product,
    file: &Path,
    text: &str,
    how: Change,
) -> Result<Duration> {
    let before = maps.control().generation;
    let new = file.with_extension("new");
    fs::write(&new, text).with_context(|| format!("write {}", new.display()))?;
    let begun = Instant::now();
    fs::rename(&new, file).with_context(|| format!("rename to {}", file.display()))?;
    if how == Change::Told {
        product.process().signal(Signal::Hup)?;
    }
    while maps.control().generation == before {
        ensure!(begun.elapsed() < BOUND, "nothing was written: {:#?}", product.process().log());
        std::thread::sleep(Duration::from_micros(100));
    }
    let took = begun.elapsed();
    // What the agent does behind the last write, and the directory's own event, are not the next change's.
    std::thread::sleep(Duration::from_secs(1));
    Ok(took)
}

/// Bytes that are a process's own, and the most that it ever had in memory.
fn memory(pid: u32) -> Result<(u64, u64)> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).context("read the agent's status")?;
    let field = |name: &str| -> Result<u64> {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let kilobytes = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        Ok(kilobytes.with_context(|| format!("no {name} in the agent's status"))? * 1024)
    };
    Ok((field("RssAnon:")?, field("VmHWM:")?))
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

/// Different sets of backends among so many services.
fn sets(services: u32) -> u32 {
    services.clamp(1, 100)
}

fn limits() -> Limits {
    Limits {
        services: MANY + 100,
        vips: MANY + 100,
        backends: 16_384,
        ring_slots: 110 * 65_540,
        port_pages: 2 * MANY + 300,
        ..Limits::default()
    }
}

/// A file with so many services; one backend of the first set drains.
fn zone(interface: &str, services: u32, drained: Option<u32>) -> String {
    let Limits { services: most, vips, backends, ring_slots, port_pages, .. } = limits();
    let mut text = format!(
        "version: 1\n\
         interfaces: [{{ name: {interface}, mode: auto, next_hop: {{ mac: \"00:00:5e:00:01:01\" }} }}]\n\
         encap: {{ source_v4: 172.16.0.0/16 }}\n\
         maglev: {{ seed: 7 }}\n\
         limits: {{ services: {most}, vips: {vips}, backends: {backends}, ring_slots: {ring_slots}, \
         port_pages: {port_pages} }}\n\
         log: {{ format: text }}\n\
         services:\n"
    );
    for n in 0..services {
        let (protocol, set) = (if n % 2 == 0 { "tcp" } else { "udp" }, n % sets(services));
        let vip: IpAddr = Ipv4Addr::from_bits(0x1400_0000 + n).into();
        let _ = write!(text, "  - {{ name: s{n}, vip: {vip}, protocol: {protocol}, ports: 443, backends: ");
        if n >= sets(services) {
            let _ = writeln!(text, "*b{set} }}");
            continue;
        }
        let backend = |b: u32| {
            let address = Ipv4Addr::from_bits(0x0a00_0000 + set * 256 + b);
            let drains = set == 0 && drained == Some(b - 1);
            format!("{{ address: {address}{} }}", if drains { ", state: drain" } else { "" })
        };
        let list: Vec<String> = (1..=SET).map(backend).collect();
        let _ = writeln!(text, "&b{set} [{}] }}", list.join(", "));
    }
    text
}
