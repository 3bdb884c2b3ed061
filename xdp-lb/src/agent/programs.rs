//! The programs in the kernel as the daemon has them: loaded, attached where the configuration says, with what goes along.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result};
use tokio::sync::watch;
use tracing::{info, warn};
use xdp_lb_common::{
    mss,
    parse::{IPV4_LEN, IPV6_LEN},
};

use super::{
    daemon::{Role, RunOptions},
    interfaces::{carriers, carrying},
    offloads,
    state::Agent,
};
use crate::{
    dataplane::{
        BpffsRoot, Loaded, Program, Setup, Shape,
        attach::{attach, attached, detach},
        load,
    },
    model::{Decap, Desired, Interface, LogLevel, Mss},
    netlink::{
        Requests,
        addresses::{HostVips as _, LoopbackVips},
        links,
    },
    nexthop::{Links, Snapshot, below},
    observe::Elements as _,
    slow::Cutter,
};

/// Loads the program and the maps, or takes over those that are there.
pub(super) async fn open(root: &BpffsRoot, desired: &Desired, role: Role) -> Result<Loaded> {
    let machine = load::machine()?;
    let (shape, program) = match role {
        Role::Balancer => {
            let (shape, decap) =
                (Shape::balancer(&desired.limits, &desired.flow_table, machine), desired.decap.is_some());
            (if decap { shape.with_pods(&desired.limits) } else { shape }, Program::Balancer { decap })
        }
        Role::Decap => (Shape::decap_only(&desired.limits, machine), Program::Decap),
    };
    let trace = desired.log.level == LogLevel::Trace;
    let frags = wants_frags(&interfaces(desired, role)).await;
    if frags {
        info!("an MTU is too large for packets in one page: the program takes them in several (xdp.frags)");
    }
    Ok(Loaded::open_or_create(root, &Setup { shape, seed: desired.seed, program, trace, frags })?)
}

/// Whether packets come in several buffers by one of the interfaces. Drivers may be slower that way, so only then.
async fn wants_frags(wanted: &[Interface]) -> bool {
    // Who cannot ask finds out when attaching.
    let links = match Requests::open() {
        Ok(requests) => links::links(&requests).await.unwrap_or_default(),
        Err(_) => return false,
    };
    let large =
        |name: &String| links.by_name(name).is_some_and(|link| crate::offloads::needs_frags(link.mtu));
    load::knows_frags() && carrying(wanted.iter().map(|i| &i.name), &links).iter().any(large)
}

/// Starts the task that cuts what does not fit. Without it everything else still works.
pub(super) fn cutter(root: &BpffsRoot, role: Role, shutdown: &watch::Sender<bool>) -> Option<Cutter> {
    if role == Role::Decap {
        return None;
    }
    Cutter::start(root, &shutdown.subscribe())
        .inspect_err(|e| warn!("{e}; packets that would have to be cut are dropped as cut_unavailable"))
        .ok()
}

/// Attaches to the interfaces that the file names, leaves those it no longer names, and returns the names.
pub(super) fn attach_all(
    loaded: &mut Loaded,
    options: &RunOptions,
    desired: &Desired,
    snapshot: &Snapshot,
) -> Result<Vec<String>> {
    let root = loaded.root().clone();
    let before: BTreeSet<String> = attached(&root)?.into_iter().map(|a| a.interface).collect();
    let links = &snapshot.links;
    let wanted = carriers(&interfaces(desired, options.role), links)?;
    let is_wanted = |name: &String| wanted.iter().any(|(wanted, _)| wanted == name);
    // One that is above: the kernel allows no program on both.
    for above in
        before.iter().filter(|name| !is_wanted(name) && below::carriers(name, links) != Ok(vec![name]))
    {
        detach(&root, above)?;
        info!(interface = %above, "detached: what is below it runs the program");
    }
    for (name, mode) in &wanted {
        let done = attach(&root, loaded.program()?, name, *mode, options.replace)?;
        if !(done.updated && before.contains(name)) {
            info!(interface = %name, mode = %done.mode, "attached");
        }
        offloads::tell(name, done.mode, links);
    }
    for gone in before.iter().filter(|name| !is_wanted(name)) {
        if detach(&root, gone)? {
            info!(interface = %gone, "detached");
        }
    }
    Ok(wanted.into_iter().map(|(name, _)| name).collect())
}

/// The interfaces that are to run the program and are there, with their indices: one that comes back, or another member
/// of a bond, is to run it too.
pub(super) fn existing(desired: &Desired, role: Role, links: &Links) -> Vec<(String, u32)> {
    let wanted = interfaces(desired, role);
    let names = carrying(wanted.iter().map(|i| &i.name), links);
    names
        .into_iter()
        .filter_map(|name| links.by_name(&name).map(|l| l.index).map(|index| (name, index)))
        .collect()
}

/// Interfaces of this role that the configuration names.
pub(super) fn interfaces(desired: &Desired, role: Role) -> Vec<Interface> {
    let decap = desired.decap.iter().flat_map(|d| &d.interfaces);
    match role {
        Role::Balancer => {
            let own = desired.interfaces.iter();
            let mut all: Vec<Interface> = own.cloned().collect();
            all.extend(decap.filter(|d| !desired.interfaces.iter().any(|i| i.name == d.name)).cloned());
            all
        }
        Role::Decap => decap.cloned().collect(),
    }
}

/// Lowers the largest segment that servers on this node offer to what the tunnels to it hold, where the file says so.
pub(super) fn offer_mss(loaded: &mut Loaded, agent: &Agent, role: Role, snapshot: &Snapshot) -> Result<()> {
    let Some(decap) = agent.desired.decap.as_ref().filter(|decap| decap.mss == Mss::Auto) else {
        return Ok(loaded.lower_mss_on(&[])?);
    };
    let names: Vec<String> = interfaces(&agent.desired, role).into_iter().map(|i| i.name).collect();
    let mtu = names.iter().filter_map(|name| snapshot.links.by_name(name)).map(|link| link.mtu).min();
    let limits = mss_of(mtu.unwrap_or(u16::MAX.into()), decap);
    agent.maps().set_mss(limits).context("write the MSS to map control")?;
    loaded.lower_mss_on(&names)?;
    info!(v4 = limits.v4, v6 = limits.v6, "servers offer this MSS at most");
    Ok(())
}

/// Has pods' answers made the VIP's where they leave, while there is something to translate.
pub(super) fn translate(loaded: &mut Loaded, role: Role, desired: &Desired) -> Result<()> {
    let is_wanted = desired.decap.as_ref().is_some_and(|decap| !decap.translate.is_empty());
    translate_if(is_wanted, loaded, role, desired)
}

/// The same at the start. Pods that the agent before knew of from a cluster are answered for until that is known.
pub(super) fn translate_first(loaded: &mut Loaded, role: Role, agent: &Agent) -> Result<()> {
    if agent.is_held && !agent.maps().pod_ports().is_empty() {
        return translate_if(true, loaded, role, &agent.desired);
    }
    translate(loaded, role, &agent.desired)
}

fn translate_if(is_wanted: bool, loaded: &mut Loaded, role: Role, desired: &Desired) -> Result<()> {
    let names = if is_wanted { interfaces(desired, role) } else { Vec::new() };
    let names: Vec<String> = names.into_iter().map(|interface| interface.name).collect();
    Ok(loaded.translate_on(&names)?)
}

/// The largest segments that come in a tunnel over a link of `mtu` bytes. Which header the tunnels have, the balancers
/// decide; those that may send to us tell which it can be.
fn mss_of(mtu: u32, decap: &Decap) -> mss::Limits {
    let outer =
        if decap.allow_sources.iter().any(|(source, _)| source.is_ipv6()) { IPV6_LEN } else { IPV4_LEN };
    let inner = u16::try_from(mtu).unwrap_or(u16::MAX).saturating_sub(outer as u16);
    mss::Limits::of(inner)
}

/// Puts the VIPs of the backend side on `lo`, where the file asks for it.
pub(super) async fn hold_vips(desired: &Desired) -> Result<Option<LoopbackVips>> {
    let Some(decap) = desired.decap.as_ref().filter(|d| d.vip_on_lo) else { return Ok(None) };
    let mut vips = LoopbackVips::open()?;
    let quiet: Vec<String> =
        decap.interfaces.iter().chain(&desired.interfaces).map(|i| i.name.clone()).collect();
    let put =
        vips.hold(&decap.on_lo.iter().copied().collect(), &quiet).await.context("put the VIPs on lo")?;
    info!(?put, "VIPs on lo");
    Ok(Some(vips))
}
