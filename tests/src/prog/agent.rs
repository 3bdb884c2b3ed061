//! The agent's reconcile task on the maps of a [`Pinned`], by a clock of the test's own: configurations follow
//! each other while the program runs.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, anyhow};
use xdp_lb::{
    agent::{Outcome, Reconciler, Run},
    config,
    dataplane::{Access, KernelMaps},
    model::Desired,
    nexthop::{NextHop, Resolution},
    plan::Plan,
    state::Maps as _,
    survey::Survey,
};

use super::Pinned;

/// The way that the fixtures' static next hop resolves to: out of `lo`.
const ROUTER: [u8; 6] = [0x00, 0x00, 0x5e, 0x00, 0x01, 0x01];

/// Reads a configuration.
///
/// # Errors
/// What is wrong with it.
pub fn desired(yaml: &str) -> Result<Desired> {
    config::parse(yaml).map(|checked| checked.desired).map_err(|errors| anyhow!("{errors:#?}"))
}

/// The one writer of a [`Pinned`]'s maps. Dropping it is a crash: all that is left is in the maps.
pub struct Agent {
    reconciler: Reconciler<KernelMaps>,
    ways: BTreeMap<IpAddr, Resolution>,
    now: u64,
    uptime: Duration,
    generation: u32,
}

impl Agent {
    /// An agent that starts now and takes over what the maps hold, its flow table first.
    ///
    /// # Errors
    /// When the maps cannot be opened or the flow table not be read.
    pub fn start(pinned: &Pinned, desired: &Desired) -> Result<Self> {
        let reconciler = Reconciler::new(KernelMaps::open(pinned.root(), Access::Write)?);
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        let generation = reconciler.generation();
        let mut agent = Self { reconciler, ways: BTreeMap::new(), now, uptime: Duration::ZERO, generation };
        agent.survey(desired)?;
        Ok(agent)
    }

    /// What the agent takes for the way to `address` from the next [`Agent::apply`] on.
    pub fn route(&mut self, address: IpAddr, way: Resolution) {
        self.ways.insert(address, way);
    }

    /// Lets the agent's clocks run on; the flow table's own does not.
    pub fn pass(&mut self, time: Duration) {
        self.now += time.as_secs();
        self.uptime += time;
    }

    /// Carries a configuration out.
    ///
    /// # Errors
    /// What failed.
    pub fn apply(&mut self, desired: &Desired) -> Result<Outcome> {
        self.generation += 1;
        let pods = desired.own_pods();
        let resolve = |address| resolve(&self.ways, &pods, address);
        let run = run(desired, &resolve, self.now, self.uptime, self.generation);
        self.reconciler.reconcile(&run).context("reconcile")
    }

    /// Carries a configuration out and waits until the tracking windows that it opens are over.
    ///
    /// # Errors
    /// What failed.
    pub fn settle(&mut self, desired: &Desired) -> Result<()> {
        self.apply(desired)?;
        self.pass(desired.flow_table.track_window);
        self.apply(desired).map(drop)
    }

    /// What carrying a configuration out would write now.
    ///
    /// # Errors
    /// That there is no plan.
    pub fn plan(&self, desired: &Desired) -> Result<Plan> {
        let pods = desired.own_pods();
        let resolve = |address| resolve(&self.ways, &pods, address);
        let run = run(desired, &resolve, self.now, self.uptime, self.generation + 1);
        Ok(self.reconciler.plan(&self.reconciler.maps().observe(), &run)?)
    }

    /// Reads the flow table and tidies it.
    ///
    /// # Errors
    /// That it cannot be read.
    pub fn survey(&mut self, desired: &Desired) -> Result<Survey> {
        self.reconciler.survey(desired, &xdp_lb::peers::Apart::default(), self.uptime).context("survey")
    }

    /// The generation that the next configuration follows.
    #[must_use]
    pub fn generation(&self) -> u32 {
        self.reconciler.generation()
    }
}

fn run<'a>(
    desired: &'a Desired,
    resolve: &'a dyn Fn(IpAddr) -> Resolution,
    now: u64,
    uptime: Duration,
    generation: u32,
) -> Run<'a> {
    Run { desired, resolve, now, uptime, allow_moves: false, generation, only: None }
}

fn resolve(ways: &BTreeMap<IpAddr, Resolution>, pods: &BTreeSet<IpAddr>, address: IpAddr) -> Resolution {
    if pods.contains(&address) {
        return Resolution::Pod;
    }
    ways.get(&address).cloned().unwrap_or_else(|| {
        Resolution::Resolved(NextHop {
            ifindex: 1,
            interface: "lo".to_owned(),
            source_mac: [0; 6],
            destination_mac: ROUTER,
            mtu: 65_535,
            below: None,
            path_mtu: None,
        })
    })
}
