//! `xdp-lb doctor`: what this host does to packets of the balancer, and what to do about it.

use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use super::output::Output;
use super::{Node, REFUSED, status};
use crate::doctor::{self, Agent, Finding, Verdict};
use crate::file;

/// Addresses for documentation: no route names them, so they go where most clients are.
const ANYBODY: [&str; 2] = ["192.0.2.1", "2001:db8::1"];

/// Arguments of `doctor`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Exit code 3 if something is wrong. Nothing is changed, and no packet is sent.")]
pub struct Args {
    /// The configuration that should be in force here: are its interfaces there?
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// A client whose answers must find their way; several may be named. Without it: where the default routes lead
    #[arg(long, value_name = "ADDRESS")]
    client: Vec<IpAddr>,
    /// What is as it should be, too
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    output: Output,
}

/// Looks and tells.
pub(super) fn run(args: &Args, node: &Node) -> anyhow::Result<ExitCode> {
    let wanted = args.config.as_deref().map(file::read).transpose()?.map(|checked| {
        let desired = checked.desired;
        let decap = desired.decap.iter().flat_map(|decap| &decap.interfaces);
        desired.interfaces.iter().chain(decap).map(|interface| interface.name.clone()).collect()
    });
    let (status, agent) = match status::of(node)? {
        Some((status, status::Agent::Running(_))) => (Some(status), Agent::Answers),
        // Who takes tunnels off alone has no socket.
        Some((status, status::Agent::Silent { why })) => {
            let agent = if status.services.is_empty() { Agent::Unasked } else { Agent::Silent(why) };
            (Some(status), agent)
        }
        None => (None, Agent::Unasked),
    };
    let anybody = || ANYBODY.iter().filter_map(|text| text.parse().ok()).collect();
    let clients: Vec<IpAddr> = if args.client.is_empty() { anybody() } else { args.client.clone() };
    let host = super::wait_for(doctor::look::host(&node.bpffs, status, agent, wanted, &clients))?;
    let mut findings = doctor::examine(&host);
    let is_wrong = findings.iter().any(|finding| finding.verdict == Verdict::Wrong);
    if args.output.is_table() && !args.all {
        findings.retain(|finding| finding.verdict != Verdict::Fine);
    }
    args.output.print(&findings, |findings| table(findings))?;
    Ok(if is_wrong { ExitCode::from(REFUSED) } else { ExitCode::SUCCESS })
}

/// A line for each, and one for what to do.
fn table(findings: &[Finding]) -> String {
    if findings.is_empty() {
        return "nothing is wrong; --all shows what was looked at\n".to_owned();
    }
    let width = findings.iter().map(|finding| finding.subject.len()).max().unwrap_or(0);
    let line = |Finding { verdict, subject, says, cure }: &Finding| {
        let mut text = format!("{:5}  {subject:width$}  {says}\n", verdict.word());
        if !cure.is_empty() {
            text += &format!("{:5}  {:width$}    -> {cure}\n", "", "");
        }
        text
    };
    findings.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cure_stands_below_what_it_is_for() {
        let finding = |verdict, subject, cure: &str| Finding {
            verdict,
            subject,
            says: "so it is".to_owned(),
            cure: cure.to_owned(),
        };
        let shown =
            table(&[finding(Verdict::Wrong, "rp_filter", "do this"), finding(Verdict::Note, "MTU", "")]);
        let wanted =
            "WRONG  rp_filter  so it is\n                    -> do this\nnote   MTU        so it is\n";
        assert_eq!(shown, wanted);
    }
}
