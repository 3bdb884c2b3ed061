//! `xdp-lb crds`: the definitions of our custom resources, for `kubectl apply -f -`.

use std::process::ExitCode;

use anyhow::Context as _;

use super::output;
use crate::kube::crd;

/// Arguments of `crds`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// This one alone: `vippools`
    #[arg(value_name = "PLURAL")]
    plural: Option<String>,
}

/// Prints them.
pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let texts = crd::texts().context("write YAML")?;
    let wanted = |plural: &str| args.plural.as_deref().is_none_or(|only| only == plural);
    if !texts.iter().any(|(plural, _)| wanted(plural)) {
        let known: Vec<&str> = texts.iter().map(|(plural, _)| plural.as_str()).collect();
        super::bad_usage("crds", format!("there are {}", known.join(", ")));
    }
    let texts: Vec<&str> =
        texts.iter().filter(|(plural, _)| wanted(plural)).map(|(_, text)| text.as_str()).collect();
    output::to_stdout(&texts.join("---\n"))?;
    Ok(ExitCode::SUCCESS)
}
