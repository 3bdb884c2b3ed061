//! Attachment and pins by the product's own dataplane code: native, outliving their maker, gone when told.

use std::fs;
use std::os::fd::AsFd as _;

use anyhow::{Context as _, Result, anyhow, ensure};
use xdp_lb::config;
use xdp_lb::dataplane::{BpffsRoot, Loaded, Mode, Program, Setup, Shape, attach, load};
use xdp_lb::model::AttachMode;

use crate::lab::id::LabId;
use crate::lab::netlink::VethEnd;
use crate::lab::{EdgeFile, Lifetime, Namespace};

/// The interface.
const WIRE: &str = "v0";

pub fn check() -> Result<()> {
    let ns = Namespace::create(LabId::next(), "pins", Lifetime::Dropped)?;
    let end = |name: &str, last| VethEnd {
        name: name.to_owned(),
        mac: [0x02, 0x78, 0x64, 9, 9, last],
        mtu: 1500,
        queues: 2,
    };
    ns.netlink().add_veth(&end(WIRE, 1), &end("p0", 2), ns.fd().as_fd())?;
    let root = BpffsRoot::new(format!("/sys/fs/bpf/xlb-pins-{}", std::process::id()));
    ns.enter(|| life(&root))??;
    ensure!(!ns.netlink().has_xdp(WIRE)?, "{WIRE} still runs a program");
    ensure!(!root.path().exists(), "{root} is still there");
    Ok(())
}

/// Attach, leave, come back, detach, remove.
fn life(root: &BpffsRoot) -> Result<()> {
    let desired = config::parse(&EdgeFile::new(1).text(1)).map_err(|errors| anyhow!("{errors:#?}"))?.desired;
    let shape = Shape::balancer(&desired.limits, &desired.flow_table, load::machine()?);
    let setup = Setup {
        shape,
        seed: desired.seed,
        program: Program::Balancer { decap: false },
        trace: false,
        frags: false,
    };
    let first = {
        let mut loaded = Loaded::open_or_create(root, &setup)?;
        ensure!(!loaded.took_over(), "{root} was there before");
        attach::attach(root, loaded.program()?, WIRE, AttachMode::Native, false)?
    };
    ensure!(first.mode == Mode::Native && !first.updated, "attached as {first:?}");
    ensure!(attach::attached(root)? == [first.clone()], "the link did not outlive its maker");

    let mut loaded = Loaded::open_or_create(root, &setup)?;
    ensure!(loaded.took_over(), "the maps did not outlive their maker");
    let second = attach::attach(root, loaded.program()?, WIRE, AttachMode::Native, false)?;
    ensure!(second.updated && second.program != first.program, "updated as {second:?}");
    drop(loaded);

    ensure!(attach::detach_all(root)? == [WIRE], "detach found another interface");
    ensure!(attach::attached(root)?.is_empty(), "still attached");
    load::remove(root)?;
    let left: Vec<_> = fs::read_dir("/sys/fs/bpf").context("list /sys/fs/bpf")?.flatten().collect();
    let ours = |name: &str| root.path().ends_with(name);
    ensure!(!left.iter().any(|e| e.file_name().to_str().is_some_and(ours)), "pins are left: {left:?}");
    Ok(())
}
