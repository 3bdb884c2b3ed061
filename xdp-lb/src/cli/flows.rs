//! `xdp-lb flows`: what the flow table remembers, from the pinned maps; forgetting is the agent's.

use std::net::IpAddr;
use std::process::ExitCode;

use anyhow::Context as _;

use super::{
    Node,
    output::Output,
    table::{self, Align, Table},
};
use crate::{
    admin::api::{Flow, FlowCount, Flows, Forgotten},
    dataplane::KernelMaps,
    flows::{self, Filter},
    state::Maps as _,
};

/// Arguments of `flows`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Only flows at this backend
    #[arg(long, value_name = "ADDR")]
    backend: Option<IpAddr>,
    /// Only flows of this service
    #[arg(long, value_name = "NAME")]
    service: Option<String>,
    /// Show flows one by one, not only how many there are
    #[arg(long)]
    list: bool,
    /// With `--list`: so many at most
    #[arg(long, value_name = "N", default_value_t = 100, requires = "list")]
    limit: usize,
    /// Have the agent forget these flows: their next packets go where their slots say
    #[arg(long, conflicts_with = "list")]
    remove: bool,
    #[command(flatten)]
    output: Output,
}

/// Shows flows, or has them forgotten.
pub(super) fn run(args: &Args, node: &Node) -> anyhow::Result<ExitCode> {
    let filter = Filter { service: args.service.clone(), backend: args.backend };
    if args.remove {
        if filter == Filter::default() {
            super::bad_usage("flows", "--remove wants --backend or --service".to_owned());
        }
        let asked = node.client();
        let forgotten =
            super::runtime()?.block_on(asked.forget(filter.service.as_deref(), filter.backend))?;
        args.output.print(&forgotten, |Forgotten { flows }| format!("{flows} flows forgotten\n"))?;
        return Ok(ExitCode::SUCCESS);
    }
    let maps = KernelMaps::open_read_only(&node.bpffs)?;
    let tick = maps.tick().context("read the flow table's clock")?;
    let most = if args.list { args.limit } else { 0 };
    let listing = flows::list(&maps.observe(), maps.flow_sets(), tick, &filter, most)?;
    args.output
        .print(&Flows::from(listing), |flows| if args.list { one_by_one(flows) } else { counts(flows) })?;
    Ok(ExitCode::SUCCESS)
}

fn backend(address: Option<IpAddr>) -> String {
    address.map_or_else(|| "(gone)".to_owned(), |address| address.to_string())
}

fn counts(flows: &Flows) -> String {
    use Align::{Left, Right};
    let mut table = Table::new([
        ("SERVICE", Left),
        ("BACKEND", Left),
        ("FLOWS", Right),
        ("NOT BY THE SLOT", Right),
        ("CLOSING", Right),
    ]);
    for FlowCount { service, backend: at, flows, away, closing } in &flows.counts {
        table.row([service.clone(), backend(*at), flows.to_string(), away.to_string(), closing.to_string()]);
    }
    format!("{}{} flows\n", table.render(), flows.total)
}

fn one_by_one(flows: &Flows) -> String {
    use Align::{Left, Right};
    let mut table = Table::new([
        ("SERVICE", Left),
        ("BACKEND", Left),
        ("FLOW", Left),
        ("SLOT", Right),
        ("FORGOTTEN IN", Right),
        ("", Left),
    ]);
    for Flow { service, backend: at, flow, slot, by_slot, closing, expires_in } in &flows.flows {
        let notes = [(!by_slot).then_some("not by the slot"), closing.then_some("closing")];
        table.row([
            service.clone(),
            backend(*at),
            flow.clone(),
            slot.to_string(),
            table::duration(*expires_in),
            notes.into_iter().flatten().collect::<Vec<_>>().join(", "),
        ]);
    }
    let more = flows.total.saturating_sub(flows.flows.len() as u64);
    let more = if more > 0 { format!(", {more} of them not shown (--limit)") } else { String::new() };
    format!("{}{} flows{more}\n", table.render(), flows.total)
}
