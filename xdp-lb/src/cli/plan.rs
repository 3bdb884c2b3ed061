//! `xdp-lb plan`: what a configuration would change on the balancer that runs here. Reads the pinned maps and writes
//! nothing.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;

use super::{
    FAILED, Node, REFUSED,
    output::{Output, to_stderr},
    status::Agent,
    table::{Align, Table},
};
use crate::{
    agent::{Foreseen, foresee},
    dataplane::KernelMaps,
    file,
    forecast::{Forecast, ForecastError, Question, Service, SlowStart, forecast},
    state::Maps as _,
};

/// Arguments of `plan`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Configuration file, or directory of files (*.yaml, *.yml); `-` is standard input
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Exit code 3 when a live service would move more than this part of its slots
    #[arg(long, value_name = "PERCENT", value_parser = percent)]
    max_moved: Option<f64>,
    #[command(flatten)]
    output: Output,
}

fn percent(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix('%').unwrap_or(text).parse().ok();
    number.filter(|n| (0.0..=100.0).contains(n)).ok_or_else(|| "must be 0% to 100%, as in 5%".to_owned())
}

/// Tells.
pub(super) fn run(args: &Args, node: &Node) -> anyhow::Result<ExitCode> {
    let texts = file::texts(&args.file)?;
    let checked = texts.check()?;
    let maps = KernelMaps::open_read_only(&node.bpffs)
        .context("compare with the running balancer; `xdp-lb check` needs none")?;
    let drains = Agent::of(node).drains(node);
    let tick = maps.tick().context("read the flow table's clock")?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
    let observed = maps.observe();
    let (desired, cluster_not_asked) = match super::runtime()?.block_on(foresee(&texts, checked))? {
        Foreseen::Known(desired) => (desired, None),
        Foreseen::FileAlone { desired, why } => (desired, Some(why)),
    };
    let (desired, drains, observed, without_cluster) =
        (&desired, &drains, &observed, cluster_not_asked.is_some());
    let question = Question { desired, without_cluster, drains, observed, tick, now };
    let answer = match forecast(&question, maps.flow_sets().map(|(_, set)| set)) {
        Ok(answer) => Forecast { cluster_not_asked, ..answer },
        Err(e @ ForecastError::Plan(_)) => {
            to_stderr(format_args!("{}: cannot be carried out: {e}", args.file.display()));
            return Ok(ExitCode::from(REFUSED));
        }
        Err(e) => {
            to_stderr(format_args!("error: {e}"));
            return Ok(ExitCode::from(FAILED));
        }
    };
    args.output.print(&answer, text)?;
    Ok(gate(&answer, args.max_moved))
}

fn gate(answer: &Forecast, max_moved: Option<f64>) -> ExitCode {
    if let Some(why) = answer.cluster_not_asked.as_ref().filter(|_| max_moved.is_some()) {
        to_stderr(format_args!("what moves cannot be said without the cluster: {why}"));
        return ExitCode::from(FAILED);
    }
    match max_moved.filter(|max| answer.most_moved_percent > *max) {
        None => ExitCode::SUCCESS,
        Some(max) => {
            let moved = answer.most_moved_percent;
            to_stderr(format_args!("a service would move {moved}% of its slots, which is more than {max}%"));
            ExitCode::from(REFUSED)
        }
    }
}

fn text(answer: &Forecast) -> String {
    use Align::{Left, Right};
    let mut table = Table::new([
        ("SERVICE", Left),
        ("", Left),
        ("SLOTS MOVED", Right),
        ("FLOWS", Right),
        ("MOVED (COUNTED)", Right),
        ("OTHERS MOVED (SAMPLED)", Right),
        ("BACKENDS", Left),
    ]);
    for s in &answer.services {
        table.row([
            s.name.clone(),
            s.change.to_owned(),
            format!("{:.2}%", s.slots_moved_percent),
            s.flows.to_string(),
            s.flows_moved.to_string(),
            others(s),
            backends(s),
        ]);
    }
    let mut text = table.render();
    for s in &answer.services {
        if let Some(key) = s.moves_everything {
            text +=
                &format!("! {}: another {key} moves everything; `run` does not do that by itself\n", s.name);
        }
    }
    for s in &answer.services {
        for one in &s.slow_start {
            text += &slow_start(s, one);
        }
    }
    let Forecast { services, unchanged, flows, flows_moved, .. } = answer;
    if let Some(why) = &answer.cluster_not_asked {
        text += &format!(
            "! the cluster was not asked: {why}; nothing is said of what it asks for, {} services of the maps among it\n",
            answer.left_out
        );
    }
    text += &format!(
        "{} services change, {unchanged} do not; {flows_moved} of {flows} remembered flows would move\n",
        services.len()
    );
    text
}

/// The estimate and how far off it may be.
fn others(service: &Service) -> String {
    let percent = format!("{:.2}%", service.others_moved_percent);
    match service.others_sampled {
        0 => percent,
        _ => format!("{percent} +-{:.2}", service.others_margin_percent),
    }
}

fn slow_start(service: &Service, one: &SlowStart) -> String {
    let SlowStart { address, share_percent, full_in, is_under_way } = one;
    let goes_on = if *is_under_way { ", as it does already" } else { "" };
    let at_once = service.slots_moved_at_once_percent;
    format!(
        "slow_start: {} opens {address} step by step{goes_on}: {share_percent:.1}% of its gate at once, all of it in {full_in}s; \
         slots moved at once {at_once:.2}%\n",
        service.name
    )
}

fn backends(service: &Service) -> String {
    let all: Vec<String> = service
        .backends
        .iter()
        .map(|one| match (one.from, one.to) {
            (None, Some(to)) => format!("+{} ({to})", one.address),
            (Some(_), None) => format!("-{}", one.address),
            (from, to) => format!("{} {} -> {}", one.address, from.unwrap_or("-"), to.unwrap_or("-")),
        })
        .collect();
    all.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gate_lets_as_much_through_as_it_says() {
        let answer = |most_moved_percent| Forecast { most_moved_percent, ..Forecast::default() };
        for (moved, max, passes) in
            [(5.0, Some(5.0), true), (5.01, Some(5.0), false), (100.0, None, true), (0.0, Some(0.0), true)]
        {
            assert_eq!(gate(&answer(moved), max) == ExitCode::SUCCESS, passes, "{moved} {max:?}");
        }
        let unknown = Forecast { cluster_not_asked: Some("away".into()), ..answer(0.0) };
        assert!(
            gate(&unknown, None) == ExitCode::SUCCESS && gate(&unknown, Some(100.0)) != ExitCode::SUCCESS
        );
        assert_eq!((percent("5%"), percent("2.5")), (Ok(5.0), Ok(2.5)));
        assert!(percent("101%").is_err() && percent("five").is_err() && percent("NaN").is_err());
    }
}
