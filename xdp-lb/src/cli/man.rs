//! `xdp-lb man`, for packagers: one page with every command, in roff.

use std::process::ExitCode;

use anyhow::Context as _;
use clap::CommandFactory as _;

/// Prints the page.
pub fn run() -> anyhow::Result<ExitCode> {
    let mut cli = super::Cli::command();
    cli.build();
    let mut page = Vec::new();
    clap_mangen::Man::new(cli.clone()).render(&mut page).context("render the man page")?;
    for command in cli.get_subcommands().filter(|c| !c.is_hide_set() && c.get_name() != "help") {
        let man = clap_mangen::Man::new(command.clone());
        let context = || format!("render the man page of {}", command.get_name());
        man.render_description_section(&mut page).with_context(context)?;
        man.render_options_section(&mut page).with_context(context)?;
    }
    super::output::to_stdout(&String::from_utf8_lossy(&page))?;
    Ok(ExitCode::SUCCESS)
}
