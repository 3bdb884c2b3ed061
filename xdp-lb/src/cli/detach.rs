//! `xdp-lb detach`: forwarding ends, every pin goes, and so do the VIPs that `decap` put on `lo`.

use std::process::ExitCode;

use anyhow::Context as _;

use super::output::to_stdout;
use crate::{
    dataplane::{BpffsRoot, attach, load},
    netlink::addresses::{HostVips as _, LoopbackVips},
};

/// Detaches and unpins. With nothing there it says so and succeeds.
pub fn run(root: &BpffsRoot) -> anyhow::Result<ExitCode> {
    // An agent would attach again with its next reload.
    let claim = load::claim(root).context("detach")?;
    let was_there = claim.is_some();
    // Links first: no packet may meet a program whose maps are half gone.
    let interfaces = attach::detach_all(root).context("detach")?;
    load::remove(root).context("remove the pins")?;
    let vips = super::wait_for(async { anyhow::Ok(LoopbackVips::open()?.release().await?) })
        .context("take the VIPs off lo")?;
    let mut said = String::new();
    for interface in &interfaces {
        said += &format!("detached from {interface}\n");
    }
    for vip in &vips {
        said += &format!("took {vip} off lo\n");
    }
    if was_there {
        said += &format!("removed {root}\n");
    }
    if said.is_empty() {
        said = format!("nothing to do: no balancer under {root}\n");
    }
    to_stdout(&said)?;
    Ok(ExitCode::SUCCESS)
}
