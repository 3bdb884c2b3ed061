//! `xdp-lb status`: reads the pinned maps and shows what [`crate::status`] makes of them.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    process::ExitCode,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::Context as _;
use clap::ValueEnum;
use serde::Serialize;

use super::{
    Node, interfaces,
    output::{Output, to_stderr},
    table::{self, Align, Table},
};
use crate::{
    admin::{
        api::{AgentStatus, PeerDrain},
        client::ClientError,
    },
    dataplane::{BpffsRoot, KernelMaps, Mode, attach, ethtool, health_map},
    drains::{Drains, Written},
    keep::Keep,
    model::DrainMode,
    nexthop::Links,
    state::{Maps as _, Observed},
    status::{
        self, Count, Interface, Listener, Member, Path, PodPort, Readings, Rings, Service, Status, Word as _,
    },
    template::from_map,
};

/// Arguments of `status`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// One part alone
    #[arg(value_name = "PART")]
    part: Option<Part>,
    /// With `bgp`: where the agent writes it (`bgp.status_file` of its configuration)
    #[arg(long, value_name = "FILE", default_value = "/run/xdp-lb/bgp.json")]
    bgp_file: PathBuf,
    #[command(flatten)]
    output: Output,
}

/// Parts of the status.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Part {
    /// Where services listen and what they forwarded
    Services,
    /// State and share of every backend
    Backends,
    /// Interfaces that run the program
    Interfaces,
    /// Ports of VIPs that lead to pods of this node
    Pods,
    /// BGP and BFD sessions, what routers are told and why: from the running agent
    Bgp,
}

/// A backend with the name of its service, for `status backends -o json`.
#[derive(Serialize)]
struct ServiceMember<'a> {
    service: &'a str,
    #[serde(flatten)]
    member: &'a Member,
}

/// Everything, for `status` without a part.
#[derive(Serialize)]
struct Whole<'a> {
    agent: &'a Agent,
    #[serde(flatten)]
    status: &'a Status,
}

/// The agent of this node, which is seldom away: what forwards does so without it.
#[derive(Serialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub(super) enum Agent {
    /// It answers.
    Running(AgentStatus),
    /// It does not.
    Silent {
        /// Why.
        why: String,
    },
}

/// Longer than an agent needs that carries out a plan of thousands of services.
const PATIENCE: Duration = Duration::from_secs(5);

impl Agent {
    pub(super) fn of(node: &Node) -> Self {
        let client = node.client();
        let asked = super::runtime().map(|runtime| {
            runtime.block_on(async {
                tokio::time::timeout(PATIENCE, client.agent()).await.unwrap_or(Err(ClientError::Late))
            })
        });
        match asked {
            Ok(Ok(status)) => Self::Running(status),
            Ok(Err(e)) => Self::Silent { why: e.to_string() },
            Err(e) => Self::Silent { why: e.to_string() },
        }
    }

    /// What it says, or what it has left for the next one.
    pub(super) fn drains(&self, node: &Node) -> Drains {
        match self {
            Self::Running(status) => {
                let written = |d: &crate::admin::api::Drain| Written {
                    backend: d.backend,
                    service: d.service.clone(),
                    mode: d.mode.map(|mode| DrainMode::from(mode).into()),
                    max: d.max,
                    since: d.since,
                };
                status.drains.iter().map(written).collect()
            }
            Self::Silent { .. } => Keep::at(&node.state).drains().unwrap_or_default(),
        }
    }

    fn lines(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::Silent { why } => vec![("agent", why.clone())],
            Self::Running(status) => {
                let mut lines =
                    vec![("agent", format!("running, pid {}, version {}", status.pid, status.version))];
                let told = [
                    (
                        "DEGRADED",
                        status.degraded.as_ref().map(|why| format!("the maps are not as wanted: {why}")),
                    ),
                    (
                        "REFUSED",
                        status.refused.as_ref().map(|why| format!("the latest configuration: {why}")),
                    ),
                    (
                        "ROLLED BACK",
                        status
                            .rolled_back_to
                            .map(|n| format!("to generation {n}; the file is not in force until it changes")),
                    ),
                ];
                lines.extend(told.into_iter().filter_map(|(what, told)| Some((what, told?))));
                if !status.resources.is_empty() {
                    lines.push(("resources", status.resources.join(", ")));
                }
                lines.extend(status.peer_drains.iter().map(|drain| ("peer drains", peer_drain(drain))));
                lines
            }
        }
    }
}

/// `10.1.2.11 in all services, by command on edge-2; not here`.
fn peer_drain(drain: &PeerDrain) -> String {
    let service = drain.service.as_ref().map_or("in all services".to_owned(), |s| format!("in {s}"));
    format!("{} {service}, by command on {}; not here", drain.backend, drain.node)
}

/// Shows the status.
pub(super) fn run(args: &Args, node: &Node) -> anyhow::Result<ExitCode> {
    if matches!(args.part, Some(Part::Bgp)) {
        let status = crate::bgp::io::read_status(&args.bgp_file)?;
        args.output.print(&status, super::bgp::table)?;
        return Ok(ExitCode::SUCCESS);
    }
    let (status, agent) = look(node)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
    let output = args.output;
    match args.part {
        None => output.print(&Whole { agent: &agent, status: &status }, |w| overview(w, now))?,
        Some(Part::Services) => output.print(&status.services, |s| services(s))?,
        Some(Part::Pods) => output.print(&status.pods, |p| pods(p))?,
        Some(Part::Interfaces) => output.print(&status.interfaces, |i| interfaces_table(i))?,
        Some(Part::Backends | Part::Bgp) => {
            let members = |s| Service::members(s);
            let all: Vec<_> = status.services.iter().flat_map(members).collect();
            output.print(&all, |_| backends(&status.services, now))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// What the maps and the agent say; `None` where nothing is pinned.
pub(super) fn of(node: &Node) -> anyhow::Result<Option<(Status, Agent)>> {
    if node.bpffs.maps().exists() { look(node).map(Some) } else { Ok(None) }
}

fn look(node: &Node) -> anyhow::Result<(Status, Agent)> {
    let maps = KernelMaps::open_read_only(&node.bpffs)?;
    let observed = maps.observe();
    let agent = Agent::of(node);
    let readings = Readings { drains: agent.drains(node), ..read(&maps, &observed, &node.bpffs)? };
    Ok((Status::new(&observed, &readings), agent))
}

impl Service {
    fn members(&self) -> impl Iterator<Item = ServiceMember<'_>> {
        self.backends.iter().map(|member| ServiceMember { service: &self.name, member })
    }
}

/// What the maps do not say about themselves.
fn read(maps: &KernelMaps, observed: &Observed, root: &BpffsRoot) -> anyhow::Result<Readings> {
    let links = interfaces::links();
    let mut readings = Readings {
        counters: maps.counters().context("read map counters")?,
        interfaces: attached(root, &links)?,
        names: interfaces::names(&links),
        ..Readings::default()
    };
    for (&id, service) in &observed.services {
        let traffic = maps.service_traffic(id).with_context(|| format!("read map svc_stats[{id}]"))?;
        readings.services.insert(id, traffic);
        let base = service.config().stats_base;
        for &local in observed.ring(id).into_iter().flat_map(|ring| ring.members.keys()) {
            let index = base.saturating_add(u32::from(local));
            let traffic =
                maps.backend_traffic(index).with_context(|| format!("read map backend_stats[{index}]"))?;
            readings.members.extend(traffic.map(|traffic| ((id, local), traffic)));
        }
    }
    readings.health = health(observed, root);
    match maps.tick() {
        Ok(tick) => readings.flows = Some(status::flows(maps.flow_sets().map(|(_, set)| set), tick)),
        Err(error) => {
            to_stderr(format_args!("warning: flows are not counted: read the kernel's clock: {error}"))
        }
    }
    Ok(readings)
}

/// Health in words, where an agent has left some.
fn health(observed: &Observed, root: &BpffsRoot) -> BTreeMap<(u16, u16), status::Health> {
    let said = health_map::read(root).unwrap_or_else(|error| {
        to_stderr(format_args!("warning: health is not shown: read {}: {error}", root.health().display()));
        BTreeMap::new()
    });
    let mut health = BTreeMap::new();
    for &id in observed.services.keys() {
        for (&local, member) in observed.ring(id).into_iter().flat_map(|ring| &ring.members) {
            if let Some((words, since)) = said.get(&(id, from_map(member.address))).cloned() {
                health.insert((id, local), status::Health { words, since });
            }
        }
    }
    health
}

fn attached(root: &BpffsRoot, links: &Links) -> anyhow::Result<Vec<Interface>> {
    let attached = attach::attached(root).context("list the links")?;
    let gone =
        |name: String| Interface { name, ifindex: 0, mode: "gone".into(), program: 0, findings: vec![] };
    let mut all: BTreeMap<String, Interface> = attach::pinned(root)
        .context("list the links")?
        .into_iter()
        .map(|name| (name.clone(), gone(name)))
        .collect();
    all.extend(attached.into_iter().map(|a| {
        let findings = ethtool::findings(&a.interface, a.mode != Mode::Generic, links).unwrap_or_default();
        let findings = findings.iter().map(ToString::to_string).collect();
        let (name, ifindex, program) = (a.interface, a.ifindex, a.program);
        (name.clone(), Interface { name, ifindex, mode: a.mode.to_string(), program, findings })
    }));
    Ok(all.into_values().collect())
}

fn overview(whole: &Whole<'_>, now: u64) -> String {
    let status = whole.status;
    let flow_table = &status.flow_table;
    let live = flow_table.live.map_or_else(|| "?".to_owned(), |live| live.to_string());
    let mut lines = whole.agent.lines();
    lines.push(("generation", status.generation.to_string()));
    lines.push(("rings", rings(&status.rings)));
    lines.push(("flow table", format!("{live} live flows in {} entries", flow_table.entries)));
    let mut text = table::fields(&lines);
    let sections = [
        interfaces_table(&status.interfaces),
        services(&status.services),
        backends(&status.services, now),
        pods(&status.pods),
        counts("DROPPED", &status.drops),
        counts("PASSED", &status.passes),
    ];
    for section in sections.iter().filter(|section| !section.is_empty()) {
        text.push('\n');
        text += section;
    }
    text
}

/// `100 with 6553700 slots, 0 dirty; 9900 services share theirs`.
fn rings(rings: &Rings) -> String {
    let Rings { total, sharing, slots, dirty_slots } = rings;
    format!("{total} with {slots} slots, {dirty_slots} dirty; {sharing} services share theirs")
}

fn interfaces_table(interfaces: &[Interface]) -> String {
    let mut table =
        Table::new([("INTERFACE", Align::Left), ("MODE", Align::Left), ("PROGRAM", Align::Right)]);
    for i in interfaces {
        table.row([i.name.clone(), i.mode.clone(), i.program.to_string()]);
    }
    let findings = interfaces.iter().flat_map(|i| &i.findings);
    table.render() + &findings.map(|finding| format!("! {finding}\n")).collect::<String>()
}

fn services(services: &[Service]) -> String {
    use Align::{Left, Right};
    let mut table = Table::new([
        ("SERVICE", Left),
        ("PROTOCOL", Left),
        ("BACKENDS", Right),
        ("SLOTS", Right),
        ("DIRTY", Right),
        ("FLOWS", Right),
        ("PACKETS", Right),
        ("BYTES", Right),
        ("TRACKING", Left),
        ("LISTENS ON", Left),
    ]);
    for s in services {
        let window = if s.tracking_window { " (window)" } else { "" };
        table.row([
            s.name.clone(),
            s.protocol.word().to_owned(),
            s.backends.len().to_string(),
            s.slots.to_string(),
            s.dirty_slots.to_string(),
            number(s.flows),
            s.packets.to_string(),
            table::bytes(s.bytes),
            format!("{}{window}", s.tracking.word()),
            s.listeners.iter().map(listener).collect::<Vec<_>>().join(" "),
        ]);
    }
    table.render()
}

fn backends(services: &[Service], now: u64) -> String {
    use Align::{Left, Right};
    let mut table = Table::new([
        ("SERVICE", Left),
        ("BACKEND", Left),
        ("STATE", Left),
        ("FOR", Right),
        ("SLOTS", Right),
        ("SHARE", Right),
        ("FLOWS", Right),
        ("PACKETS", Right),
        ("BYTES", Right),
        ("NEXT HOP", Left),
        ("HEALTH", Left),
    ]);
    for (service, m) in services.iter().flat_map(|s| s.backends.iter().map(move |m| (s, m))) {
        table.row([
            service.name.clone(),
            m.address.to_string(),
            format!("{}{}", m.state.word(), if m.drained_by_command { " (command)" } else { "" }),
            table::duration(now.saturating_sub(m.since)),
            m.slots.to_string(),
            format!("{:.2}%", m.slots_percent),
            number(m.flows),
            number(m.packets),
            m.bytes.map_or_else(|| "-".to_owned(), table::bytes),
            path(&m.path),
            m.health.as_ref().map_or_else(|| "-".to_owned(), |health| health.words.clone()),
        ]);
    }
    table.render()
}

fn pods(pods: &[PodPort]) -> String {
    use Align::{Left, Right};
    let mut table = Table::new([
        ("POD", Left),
        ("VIP", Left),
        ("PROTOCOL", Left),
        ("PORT", Right),
        ("TARGET PORT", Right),
    ]);
    for p in pods {
        table.row([
            p.pod.to_string(),
            p.vip.to_string(),
            p.protocol.word().to_owned(),
            p.port.to_string(),
            p.target_port.to_string(),
        ]);
    }
    table.render()
}

fn counts(title: &'static str, counts: &[Count]) -> String {
    let mut table = Table::new([(title, Align::Left), ("PACKETS", Align::Right), ("WHY", Align::Left)]);
    for count in counts {
        table.row([count.reason.to_owned(), count.packets.to_string(), count.sentence.to_owned()]);
    }
    table.render()
}

/// `203.0.113.10:5060,20000-24999`.
fn listener(listener: &Listener) -> String {
    let ports = listener.ports.join(",");
    if listener.vip.is_ipv6() {
        format!("[{}]:{ports}", listener.vip)
    } else {
        format!("{}:{ports}", listener.vip)
    }
}

/// How packets get to a backend, for people.
pub fn path(path: &Path) -> String {
    match path {
        Path::Tunnel { interface, ifindex, next_hop, vlan } => {
            let interface = interface.clone().unwrap_or_else(|| format!("interface {ifindex}"));
            let vlan = match vlan {
                None => String::new(),
                Some(0) => ", untagged".to_owned(),
                Some(id) => format!(", VLAN {id}"),
            };
            format!("{} on {interface}{vlan}", status::mac_text(next_hop))
        }
        Path::NotLookedUp => "not looked up without a balancer".to_owned(),
        Path::Local => "this node".to_owned(),
        Path::Pod => "a pod of this node".to_owned(),
        Path::Unresolved => "unresolved".to_owned(),
    }
}

fn number(n: Option<impl ToString>) -> String {
    n.map_or_else(|| "-".to_owned(), |n| n.to_string())
}
