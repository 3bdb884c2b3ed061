//! The agent's reconcile task without threads: observes, plans, applies, surveys, by a clock of the test's own.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use xdp_lb::memory::{Cpu, MemoryMaps};
use xdp_lb::model::Desired;
use xdp_lb::nexthop::{NextHop, Resolution};
use xdp_lb::plan::{self, Census, Inputs, Memo, Plan, PlanError};
use xdp_lb::state::{Capacity, MapOp, Maps, Observed, WriteError};
use xdp_lb::survey::{Survey, survey};
use xdp_lb::times::Times;
use xdp_lb_common::control::Control;
use xdp_lb_common::flow::TICKS;

const HZ: u64 = 250;
/// Ticks of 4.096 s.
pub const TICK_SHIFT: u32 = 10;
/// Jiffies are long past 0 when the agent starts.
const BOOTED: Duration = Duration::from_secs(1_000_000);

/// An agent and its maps.
#[derive(Clone)]
pub struct Agent {
    pub maps: MemoryMaps,
    pub now: Duration,
    pub allow_moves: bool,
    /// What the last scan found.
    pub census: Census,
    /// Open tracking windows, seconds since 1970 by service id.
    pub windows: BTreeMap<u16, u64>,
    /// What earlier plans computed, of clones too: it must not matter.
    pub memo: Arc<Memo>,
    times: Times,
    /// What the last plan was made from.
    last: Arc<Mutex<Option<Observed>>>,
    started: Duration,
}

impl Agent {
    pub fn new(capacity: Capacity) -> Self {
        let control =
            Control { seed: 7, tick_shift: TICK_SHIFT, second_shift: 8, hz: HZ as u32, ..Control::default() };
        Self {
            maps: MemoryMaps::new(capacity, control),
            now: BOOTED,
            allow_moves: false,
            census: Census::default(),
            windows: BTreeMap::new(),
            memo: Arc::default(),
            times: Times::default(),
            last: Arc::default(),
            started: BOOTED,
        }
    }

    pub fn jiffies(&self) -> u64 {
        self.now.as_millis() as u64 * HZ / 1000
    }

    /// The flow table's clock.
    pub fn tick(&self) -> u16 {
        (self.jiffies() >> TICK_SHIFT) as u16 & (TICKS - 1)
    }

    pub fn cpu(&self) -> Cpu<'_> {
        self.maps.cpu(self.jiffies())
    }

    /// Dies and comes again with nothing but the maps; it looks at the flow table before anything else.
    pub fn restart(&mut self) {
        self.windows.clear();
        self.times = Times::default();
        self.started = self.now;
        self.survey();
    }

    pub fn plan(&self, desired: &Desired) -> Result<Plan, PlanError> {
        self.plan_only(desired, None)
    }

    /// The plan for some services, or for all.
    pub fn plan_only(&self, desired: &Desired, only: Option<&BTreeSet<String>>) -> Result<Plan, PlanError> {
        let last = self.last.lock().unwrap().take();
        let fresh = self.maps.observe();
        let again = last.map_or(fresh.clone(), |last| self.maps.observe_again(&last, None));
        let plan = self.plan_with(desired, only, &again, &self.memo);
        let other = self.plan_with(desired, only, &fresh, &Memo::default());
        *self.last.lock().unwrap() = Some(again);
        assert_eq!(plan, other, "what is kept changed a plan");
        plan
    }

    fn plan_with(
        &self,
        desired: &Desired,
        only: Option<&BTreeSet<String>>,
        observed: &Observed,
        memo: &Memo,
    ) -> Result<Plan, PlanError> {
        plan::plan(&Inputs {
            desired,
            observed,
            resolve: &resolve,
            census: &self.census,
            windows: &self.windows,
            now: self.now.as_secs(),
            allow_moves: self.allow_moves,
            generation: 1,
            only,
            memo,
        })
    }

    /// Carries a plan out, and remembers what the next one needs to know.
    pub fn carry_out(&mut self, plan: &Plan) -> Result<(), WriteError> {
        let observed = self.maps.observe();
        self.census.quarantine(plan, &observed);
        for op in &plan.ops {
            self.step(op, &observed)?;
        }
        self.windows.extend(&plan.windows_opened);
        Ok(())
    }

    /// One operation of a plan that was made when `observed` was there.
    pub fn step(&mut self, op: &MapOp, observed: &Observed) -> Result<(), WriteError> {
        self.times.note(op, observed, self.now);
        self.maps.apply(op)
    }

    /// Plans and carries out.
    pub fn run(&mut self, desired: &Desired) -> Plan {
        let plan = self.plan(desired).unwrap();
        self.carry_out(&plan).unwrap();
        plan
    }

    /// Looks at the whole flow table, sweeps it and cleans slots.
    pub fn survey(&mut self) -> Survey {
        let found = self.look();
        for sweep in &found.sweeps {
            self.maps.sweep(sweep.set, sweep.way, sweep.old);
        }
        for clean in &found.clean {
            self.maps.clean(clean.index, clean.expected);
        }
        self.census = found.census.clone();
        found
    }

    /// Looks at the whole flow table.
    pub fn look(&self) -> Survey {
        let observed = self.maps.observe();
        let ttl = |service: u16| u64::from(observed.services[&service].config().flow_ttl);
        survey(
            &observed,
            self.maps.flow_sets(),
            self.tick(),
            self.now,
            &|base, slot| self.times.changed(base, slot).unwrap_or(self.started),
            &|service| Duration::from_millis((ttl(service) << TICK_SHIFT) * 1000 / HZ),
        )
    }
}

/// Every backend is on the same segment, behind one of two interfaces.
fn resolve(address: IpAddr) -> Resolution {
    let last = match address {
        IpAddr::V4(a) => a.octets()[3],
        IpAddr::V6(a) => a.octets()[15],
    };
    Resolution::Resolved(NextHop {
        ifindex: 2 + u32::from(last % 2),
        interface: "eth0".to_owned(),
        source_mac: [2, 0, 0, 0, 0, 1],
        destination_mac: [2, 0, 0, 0, 1, last],
        mtu: 65_535,
        below: None,
        path_mtu: None,
    })
}
