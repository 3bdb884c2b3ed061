//! Real frames through native XDP: what one core forwards, with the driver's work around the program.
//!
//! ```text
//!   bench_live on g0: XDP_TX  ---veth--->  b0: xdp_lb, XDP_TX  ---veth--->  g0: bench_drop
//! ```
//!
//! Live frames (`BPF_F_TEST_XDP_LIVE_FRAMES`) leave g0 in batches of 64 on the CPU that asks; veth's receive side runs on
//! the same CPU. The pages of frames that come back are used again, so the generator writes every header anew; the
//! balancer's own counter says how many it forwarded. Where other processes keep the receive side from its CPU, veth's
//! ring of 256 overflows: such frames are lost before the balancer and shown beside the rate, which does not count them.

use std::os::fd::AsFd as _;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use aya::sys::{Stats, enable_stats};
use serde::{Deserialize, Serialize};
use xdp_lb::dataplane::{Program, object};

use super::harness::Generator;
use super::rows::{Row, Subject};
use super::tables::Tables;
use crate::lab::id::LabId;
use crate::lab::namespace::{Lifetime, Namespace};
use crate::lab::netlink::VethEnd;
use crate::prog::{self, Ctx};

/// What one core did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Live {
    /// Row whose packet and tables were used.
    pub name: String,
    /// Frames a second that the balancer forwarded, sending and receiving driver included: median of the rounds.
    pub frames_a_second: f64,
    /// Part of the frames that veth's ring lost.
    pub lost: f64,
    /// The program's own mean run time in nanoseconds by the kernel's `bpf_stats`, which adds its clock to it.
    pub program_ns: f64,
}

/// Sends `frames` of each balancer row in `rows`, `rounds` times.
///
/// # Errors
/// Says what failed, or that a frame was not forwarded.
pub fn live(rows: &[Row], frames: u32, rounds: usize) -> Result<Vec<Live>> {
    rows.iter()
        .filter_map(|row| match row.subject {
            Subject::Balancer(state) => Some((row, state)),
            _ => None,
        })
        .map(|(row, state)| {
            one(row, state, frames, rounds).with_context(|| format!("live frames of row \"{}\"", row.name))
        })
        .collect()
}

fn one(row: &Row, state: super::State, frames: u32, rounds: usize) -> Result<Live> {
    let ns = Namespace::create(LabId::next(), "bench", Lifetime::Dropped)?;
    let end =
        |name: &str, last| VethEnd { name: name.into(), mac: [2, 0, 0, 0, 0, last], mtu: 1600, queues: 1 };
    let net = ns.netlink();
    net.add_veth(&end("g0", 1), &end("b0", 2), ns.fd())?;
    let (generator_if, balancer_if) = (net.index("g0")?, net.index("b0")?);
    let mut tables =
        Tables::load_for(object::BALANCER, Program::Balancer { decap: false }, state, balancer_if)?;
    let mut generator = Generator::load(row)?;
    net.attach_xdp("b0", tables.program()?.as_fd())?;
    net.attach_xdp("g0", generator.drop()?.as_fd())?;
    net.set_up("g0", true)?;
    net.set_up("b0", true)?;

    let ctx = Ctx { ingress_ifindex: generator_if, ..Ctx::default() };
    let (mut lost, mut sent) = (0, 0);
    let mut send = |frames: u32| -> Result<f64> {
        let before = tables.tally()?.forwarded.packets;
        let begun = Instant::now();
        let program = generator.live()?.as_fd();
        ns.enter(|| prog::run_live(program, &row.packet, &ctx, frames))??;
        let elapsed = begun.elapsed().as_secs_f64();
        let forwarded = tables.tally()?.forwarded.packets - before;
        ensure!(forwarded > 0, "{forwarded} of {frames} frames were forwarded");
        lost += u64::from(frames) - forwarded;
        sent += u64::from(frames);
        Ok(forwarded as f64 / elapsed)
    };
    send(frames / 10)?;
    let mut rates = (0..rounds.max(1)).map(|_| send(frames)).collect::<Result<Vec<_>>>()?;
    rates.sort_by(f64::total_cmp);
    let counting = enable_stats(Stats::RunTime).context("enable bpf_stats")?;
    send(frames)?;
    drop(counting);
    let info = tables.program()?.as_fd();
    let (nanoseconds, runs) = super::stats::run_time(info)?;
    net.detach_xdp("b0")?;
    net.detach_xdp("g0")?;
    Ok(Live {
        name: row.name.clone().into_owned(),
        frames_a_second: rates[rates.len() / 2],
        lost: lost as f64 / f64::from(u32::try_from(sent).unwrap_or(u32::MAX)),
        program_ns: nanoseconds as f64 / runs.max(1) as f64,
    })
}
