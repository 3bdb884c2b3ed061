//! `xdp-lb rollback`: back to an earlier configuration, and which there are.

use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context as _;

use super::{
    Node, drain,
    output::{Output, to_stderr, to_stdout},
    table::{self, Align, Table},
};
use crate::admin::api::Generation;

/// Arguments of `rollback`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Back to this generation; without it: to the configuration before the one in force
    #[arg(value_name = "GENERATION")]
    generation: Option<u32>,
    /// Only list the generations that are kept
    #[arg(long, conflicts_with = "generation")]
    list: bool,
    /// Only print the configuration of the generation
    #[arg(long, requires = "generation")]
    show: bool,
    #[command(flatten)]
    output: Output,
}

/// Goes back.
pub(super) fn run(args: &Args, node: &Node) -> anyhow::Result<ExitCode> {
    super::runtime()?.block_on(async {
        let client = node.client();
        if args.list {
            args.output.print(&client.generations().await?, |all| list(all))?;
            return Ok(ExitCode::SUCCESS);
        }
        if let (true, Some(generation)) = (args.show, args.generation) {
            let shown = client.generation(generation).await?;
            if args.output.is_table() {
                to_stdout(&texts(&shown)).context("print the configuration")?;
            } else {
                args.output.print(&shown, texts)?;
            }
            return Ok(ExitCode::SUCCESS);
        }
        let answer = client.rollback(args.generation).await?;
        drain::warn(&answer.warnings);
        args.output.print(&answer, |answer| format!("generation {} is in force\n", answer.generation))?;
        to_stderr(format_args!(
            "the configuration file is as it was, and counts again when it changes or by SIGHUP"
        ));
        Ok(ExitCode::SUCCESS)
    })
}

fn texts(generation: &Generation) -> String {
    let several = generation.files.len() > 1;
    let one = |file: &crate::admin::api::File| {
        let head = if several { format!("# {}\n", file.name) } else { String::new() };
        head + file.text.as_deref().unwrap_or_default()
    };
    generation.files.iter().map(one).collect()
}

fn list(generations: &[Generation]) -> String {
    use Align::{Left, Right};
    let mut table = Table::new([("GENERATION", Right), ("APPLIED", Right), ("FILES", Left), ("", Left)]);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    for one in generations {
        let note = match (one.current, one.rollback_of) {
            (true, Some(of)) => format!("in force, rollback of {of}"),
            (true, None) => "in force".to_owned(),
            (false, Some(of)) => format!("rollback of {of}"),
            (false, None) => String::new(),
        };
        let files: Vec<&str> = one.files.iter().map(|file| &*file.name).collect();
        table.row([
            one.generation.to_string(),
            format!("{} ago", table::duration(now.saturating_sub(one.applied))),
            files.join(" "),
            note,
        ]);
    }
    table.render()
}
