//! `xdp-lb drain`, `xdp-lb undrain`: asks the agent of this node, and waits until nobody is left.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::bail;
use clap::ValueEnum;

use super::{
    Node, REFUSED,
    output::{Output, to_stderr},
    table::{self, Align, Table},
};
use crate::admin::{
    api::{self, Drain, DrainRequest, Left},
    client::{Client, ClientError},
};

/// How often is looked while waiting.
const LOOK: Duration = Duration::from_secs(1);
/// How long an agent may be away while waiting: it is being upgraded.
const AWAY: Duration = Duration::from_secs(60);

/// Arguments of `drain`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Address of the backend
    #[arg(value_name = "BACKEND")]
    backend: Option<IpAddr>,
    /// Only in this service
    #[arg(long, value_name = "NAME", requires = "backend")]
    service: Option<String>,
    /// What becomes of known flows, instead of what the service's `drain.mode` says
    #[arg(long, value_name = "MODE", requires = "backend")]
    mode: Option<Mode>,
    /// How long known flows may stay, instead of the service's `drain.max`
    #[arg(long, value_name = "DURATION", requires = "backend", value_parser = duration)]
    max: Option<Duration>,
    /// Return when no flow is left or the time is up; exit code 3 when flows were left
    #[arg(long, requires = "backend")]
    wait: bool,
    #[command(flatten)]
    output: Output,
}

/// Arguments of `undrain`.
#[derive(Debug, clap::Args)]
pub struct UndrainArgs {
    /// Address of the backend
    #[arg(value_name = "BACKEND")]
    backend: IpAddr,
    /// Only the drain of this service
    #[arg(long, value_name = "NAME")]
    service: Option<String>,
}

/// `--mode`.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Mode {
    /// They stay
    Stick,
    /// They move at once
    Shed,
}

fn duration(text: &str) -> Result<Duration, String> {
    let fine = crate::config::duration(text).filter(|d| (1..=720 * 3600).contains(&d.as_secs()));
    fine.ok_or_else(|| "must be a duration from 1s to 720h, as in 30m or 5h".to_owned())
}

/// Drains.
pub(super) fn run(args: &Args, node: &Node) -> anyhow::Result<ExitCode> {
    super::runtime()?.block_on(async {
        let client = node.client();
        let Some(backend) = args.backend else {
            args.output.print(&client.drains().await?, |drains| drains_table(drains))?;
            return Ok(ExitCode::SUCCESS);
        };
        let mode = args.mode.map(|mode| match mode {
            Mode::Stick => api::Mode::Stick,
            Mode::Shed => api::Mode::Shed,
        });
        let (service, max) = (args.service.clone(), args.max.map(|max| max.as_secs()));
        let answer = client.drain(&DrainRequest { backend, service, mode, max }).await?;
        warn(&answer.warnings);
        if args.wait {
            return wait(&client, backend, args).await;
        }
        let drains = mine(client.drains().await?, backend, args.service.as_deref());
        args.output.print(&drains, |drains| drains_table(drains))?;
        Ok(ExitCode::SUCCESS)
    })
}

/// Takes a drain back.
pub(super) fn undrain(args: &UndrainArgs, node: &Node) -> anyhow::Result<ExitCode> {
    super::runtime()?.block_on(async {
        let answer = node.client().undrain(args.backend, args.service.as_deref()).await?;
        warn(&answer.warnings);
        Ok(ExitCode::SUCCESS)
    })
}

pub(super) fn warn(warnings: &[String]) {
    for warning in warnings {
        to_stderr(format_args!("warning: {warning}"));
    }
}

/// The drains that this command is about.
fn mine(mut drains: Vec<Drain>, backend: IpAddr, service: Option<&str>) -> Vec<Drain> {
    drains.retain(|drain| {
        drain.backend == backend && (service.is_none() || drain.service.as_deref() == service)
    });
    drains
}

/// Waits until nobody is left in any of the services, or their time is up.
async fn wait(client: &Client, backend: IpAddr, args: &Args) -> anyhow::Result<ExitCode> {
    let (mut watch, mut said, mut seen) = (Watch::default(), String::new(), Instant::now());
    loop {
        match client.drains().await {
            Ok(drains) => {
                seen = Instant::now();
                let drains = mine(drains, backend, args.service.as_deref());
                let left: Vec<Left> = drains.iter().flat_map(|drain| drain.left.clone()).collect();
                if drains.is_empty() {
                    bail!("{backend} no longer drains by command: somebody has undrained it");
                }
                let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
                if watch.look(&left, now) {
                    args.output.print(&drains, |drains| drains_table(drains))?;
                    return Ok(watch.end());
                }
                let line = words(&left, now);
                if args.output.is_table() && line != said {
                    to_stderr(format_args!("{line}"));
                    said = line;
                }
            }
            // An agent that is being upgraded comes again, and knows of the drain.
            Err(ClientError::NoAgent(_) | ClientError::Broken(_)) if seen.elapsed() < AWAY => {}
            Err(e) => return Err(e.into()),
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// What was left when it was last looked, by service: when the time is up, that is what was cut off.
#[derive(Debug, Default)]
struct Watch(BTreeMap<String, u64>);

impl Watch {
    /// True when there is nothing left to wait for.
    fn look(&mut self, left: &[Left], now: u64) -> bool {
        for one in left {
            match &*one.state {
                "draining" => _ = self.0.insert(one.service.clone(), one.flows),
                // Its time is up: what was left a moment ago has been cut off.
                "drained" if now >= one.until => {}
                // Shed or dead: they were to move at once.
                _ => _ = self.0.remove(&one.service),
            }
        }
        left.iter().all(|one| one.done)
    }

    fn end(&self) -> ExitCode {
        let flows: u64 = self.0.values().sum();
        if flows == 0 {
            return ExitCode::SUCCESS;
        }
        to_stderr(format_args!("the time is up; flows that were left: {flows}"));
        ExitCode::from(REFUSED)
    }
}

fn words(left: &[Left], now: u64) -> String {
    let flows: u64 = left.iter().map(|one| one.flows).sum();
    let silent: u32 = left.iter().map(|one| one.silent_slots).sum();
    let mut line = format!("{flows} flows left");
    if silent > 0 {
        line += &format!("; silent connections may be left in {silent} slots");
    }
    if left.iter().any(|one| one.waiting) {
        line += "; waiting for a tracking window";
    }
    match left.iter().filter(|one| !one.done).map(|one| one.until).max() {
        Some(until) if until > now => {
            line + &format!("; time is up in {}", table::duration((until - now) / 60 * 60 + 60))
        }
        _ => line,
    }
}

/// Who drains, and what is left.
pub(super) fn drains_table(drains: &[Drain]) -> String {
    use Align::{Left as L, Right as R};
    let mut table = Table::new([
        ("BACKEND", L),
        ("DRAINS IN", L),
        ("SERVICE", L),
        ("STATE", L),
        ("MODE", L),
        ("FLOWS", R),
        ("SILENT SLOTS", R),
        ("TIME LEFT", R),
    ]);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    for drain in drains {
        let scope = drain.service.clone().unwrap_or_else(|| "all services".to_owned());
        let mode = match drain.mode {
            Some(api::Mode::Stick) => "stick",
            Some(api::Mode::Shed) => "shed",
            None => "as the service says",
        };
        if drain.left.is_empty() {
            let nowhere = ["not in the configuration", "-", mode, "-", "-", "-"].map(str::to_owned);
            table.row([drain.backend.to_string(), scope.clone()].into_iter().chain(nowhere));
        }
        for left in &drain.left {
            table.row([
                drain.backend.to_string(),
                scope.clone(),
                left.service.clone(),
                format!("{}{}", left.state, if left.waiting { " (window)" } else { "" }),
                mode.to_owned(),
                left.flows.to_string(),
                left.silent_slots.to_string(),
                if left.done { "-".into() } else { table::duration(left.until.saturating_sub(now)) },
            ]);
        }
    }
    table.render()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn left(state: &str, flows: u64, until: u64) -> Left {
        let done = state != "draining" || flows == 0;
        let (service, state) = ("sip".to_owned(), state.to_owned());
        Left { service, state, flows, silent_slots: 0, waiting: false, until, done }
    }

    fn ends(looks: &[(Left, u64)]) -> Option<bool> {
        let mut watch = Watch::default();
        for (one, now) in looks {
            if watch.look(std::slice::from_ref(one), *now) {
                return Some(watch.end() == ExitCode::SUCCESS);
            }
        }
        None
    }

    #[test]
    fn flows_that_are_left_when_the_time_is_up_are_a_no() {
        assert_eq!(ends(&[(left("draining", 3, 100), 1), (left("draining", 1, 100), 99)]), None);
        assert_eq!(ends(&[(left("draining", 3, 100), 1), (left("draining", 0, 100), 50)]), Some(true));
        assert_eq!(ends(&[(left("draining", 3, 100), 99), (left("drained", 0, 100), 100)]), Some(false));
        assert_eq!(ends(&[(left("drained", 3, 100), 1)]), Some(true), "shed");
        assert_eq!(ends(&[(left("draining", 3, 100), 1), (left("down", 0, 100), 2)]), Some(true), "it died");
    }
}
