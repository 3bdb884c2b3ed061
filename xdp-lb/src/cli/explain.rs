//! `xdp-lb explain`: asks [`crate::explain`] about one packet, on the pinned maps or on what a file would make of them.

use std::{net::SocketAddr, path::PathBuf, process::ExitCode};

use anyhow::Context as _;
use clap::ValueEnum;
use xdp_lb_common::{affinity::Named, parse::Segment, server_id::ServerId};

use super::{interfaces, output::Output, status::path, table};
use crate::{
    dataplane::{BpffsRoot, KernelMaps, KernelTables, Machine, Shape},
    explain::{Explanation, Facts, FlowFacts, Outcome, Query, Rehearsal, explain},
    file,
    model::Protocol,
    state::Maps as _,
    status::{Path, Word as _},
};

/// Arguments of `explain`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Protocol of the packet
    #[arg(long, value_name = "PROTOCOL")]
    proto: Proto,
    /// Where it comes from: ADDRESS:PORT, an IPv6 address in brackets
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = socket)]
    src: SocketAddr,
    /// Where it goes: the VIP and the port
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = socket)]
    dst: SocketAddr,
    /// The packet opens a TCP connection; without this it belongs to one that exists
    #[arg(long)]
    syn: bool,
    /// The packet carries this server id in its QUIC connection id (affinity quic-cid): hexadecimal digits
    #[arg(long, value_name = "HEX", conflicts_with = "ufrag", value_parser = hex)]
    server_id: Option<ServerId>,
    /// The packet is a STUN Binding request to a server ufrag that begins so (affinity ice-ufrag)
    #[arg(long, value_name = "TEXT", value_parser = ufrag)]
    ufrag: Option<ServerId>,
    /// Answer by this configuration instead of the running balancer; `-` is standard input
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    output: Output,
}

/// `--proto`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Proto {
    Tcp,
    Udp,
}

/// Only timeouts depend on it, and nothing is remembered where no balancer runs.
const ANY: Machine = Machine { hz: 250, cpus: 1 };

/// Explains.
pub fn run(args: &Args, root: &BpffsRoot) -> anyhow::Result<ExitCode> {
    let query = query(args).unwrap_or_else(|message| super::bad_usage("explain", message));
    let explanation = match &args.config {
        Some(file) => {
            let checked = file::read(file)?;
            let desired = &checked.desired;
            let shape = Shape::balancer(&desired.limits, &desired.flow_table, ANY);
            Rehearsal::new(desired, shape.capacity, shape.control(desired.seed))
                .with_context(|| format!("plan {}", file.display()))?
                .explain(&query)
        }
        None => running(root, &query)?,
    };
    args.output.print(&explanation, |e| text(e, args.config.is_some()))?;
    Ok(ExitCode::SUCCESS)
}

fn query(args: &Args) -> Result<Query, String> {
    let protocol = match args.proto {
        Proto::Tcp => Protocol::Tcp,
        Proto::Udp => Protocol::Udp,
    };
    let query = Query::new(protocol, args.src, args.dst)
        .ok_or("--src and --dst must both be IPv4 or both IPv6, as in one packet")?;
    let query = match args.server_id.or(args.ufrag) {
        Some(_) if protocol == Protocol::Tcp => {
            return Err("--server-id and --ufrag are for --proto udp".into());
        }
        Some(id) => Query { named: Named::Server(id), ..query },
        None => query,
    };
    match (args.syn, protocol) {
        (false, _) => Ok(query),
        (true, Protocol::Tcp) => Ok(query.with_segment(Segment::Syn)),
        (true, Protocol::Udp) => Err("--syn is for --proto tcp: a datagram opens no connection".into()),
    }
}

fn hex(text: &str) -> Result<ServerId, String> {
    let digits = !text.is_empty() && text.len() <= 16 && text.len().is_multiple_of(2);
    let id = u64::from_str_radix(text, 16).ok().filter(|_| digits && !text.starts_with('+'));
    id.map(ServerId).ok_or_else(|| "must be 1 to 8 bytes as pairs of hexadecimal digits, as 0a01".to_owned())
}

/// As long as the service's ids are: the id alone, not the whole ufrag.
fn ufrag(text: &str) -> Result<ServerId, String> {
    ServerId::new(text.as_bytes()).ok_or_else(|| "must be a server_id: 1 to 8 characters".to_owned())
}

fn socket(text: &str) -> Result<SocketAddr, String> {
    text.parse()
        .map_err(|_| "must be an address and a port, as 198.51.100.7:40000 or [2001:db8::7]:40000".to_owned())
}

/// The answer of the pinned maps, whether or not an agent runs.
fn running(root: &BpffsRoot, query: &Query) -> anyhow::Result<Explanation> {
    let maps = KernelMaps::open_read_only(root)
        .context("explain by the running balancer; --config FILE asks a configuration instead")?;
    let tables = KernelTables::new(&maps).context("read the flow table's clock")?;
    let facts = Facts { interfaces: interfaces::names(&interfaces::links()), ..Facts::default() };
    Ok(explain(&tables, &maps.observe(), &facts, query))
}

fn text(e: &Explanation, rehearsed: bool) -> String {
    let mut lines = vec![("packet", packet(e)), ("verdict", verdict(e))];
    if let Some(choice) = &e.choice {
        lines.push(("because", choice.sentence.clone()));
    }
    if let Some(vip) = &e.vip {
        let unmatched = vip.unmatched.map(|word| format!(", unmatched: {word}")).unwrap_or_default();
        lines.push(("VIP", format!("{}{unmatched}", vip.address)));
    }
    if let Some(s) = &e.service {
        let window = if s.tracking_window { ", in a tracking window" } else { "" };
        let (affinity, tracking) = (s.affinity.word(), s.tracking.word());
        lines.push(("service", format!("{} (affinity {affinity}, tracking {tracking}{window})", s.name)));
    }
    if let Some(hash) = e.hash {
        lines.push(("hash", format!("{:#018x}", hash.0)));
    }
    if let Some(slot) = &e.slot {
        let owner = slot.now.map_or_else(|| "nobody's".to_owned(), |a| format!("of {a}"));
        let state = match &slot.before {
            None => "clean".to_owned(),
            Some(before) => {
                let address = before.address.map_or_else(|| "a forgotten backend".into(), |a| a.to_string());
                format!("dirty, before of {address}{}", if before.alive { "" } else { ", which is gone" })
            }
        };
        lines.push(("slot", format!("{} of {}: {owner}, {state}", slot.number, slot.of)));
    }
    if let Some(flow) = &e.flow {
        lines.push(("flow table", if rehearsed { "empty".into() } else { flow_table(flow) }));
    }
    if let (Some(backend), Some(choice)) = (e.backend, &e.choice) {
        lines.push(("backend", format!("{backend}, {}", choice.state.word())));
    }
    if let Some(t) = &e.tunnel {
        let label = t.flow_label.map(|l| format!(", flow label {l:#07x}")).unwrap_or_default();
        let ports = t.ports.map(|[from, to]| format!(", UDP ports {from} to {to}")).unwrap_or_default();
        lines.push(("tunnel", format!("{} from {} to {}{ports}{label}", t.kind, t.source, t.destination)));
    }
    if let Some(way) = &e.path {
        let why = match (way, e.backend, &e.unresolved) {
            (_, _, Some(why)) => format!(": {why}"),
            (Path::Unresolved, Some(to), None) => {
                format!(": see `ip route get {to}` and `ip neighbour` on this node")
            }
            _ => String::new(),
        };
        lines.push(("next hop", path(way) + &why));
    }
    table::fields(&lines)
}

fn packet(e: &Explanation) -> String {
    let segment = match e.segment {
        Segment::Syn => ", opens a connection",
        Segment::Data | Segment::Ack | Segment::Closing => ", of an existing connection",
        Segment::Datagram => "",
    };
    format!("{} from {} to {}{segment}", e.protocol.word(), e.source, e.destination)
}

fn verdict(e: &Explanation) -> String {
    match (e.outcome, e.backend) {
        (Outcome::Forward, Some(backend)) => format!("forward to {backend}"),
        (outcome, _) => {
            let reason = outcome.reason().map(|reason| format!(" ({reason})")).unwrap_or_default();
            format!("{}{reason}: {}", outcome.verdict(), outcome.sentence())
        }
    }
}

fn flow_table(flow: &FlowFacts) -> String {
    let asked = if flow.asked { "asked" } else { "not asked" };
    let Some(entry) = &flow.entry else { return format!("{asked}, the flow is not remembered") };
    let backend = entry.backend.map_or_else(|| "a forgotten backend".to_owned(), |b| b.to_string());
    let closing = if entry.closing { ", closing" } else { "" };
    format!("{asked}, remembers {backend} for {}{closing}", table::duration(entry.expires_in))
}
