//! Explains by a configuration alone: the plan from empty maps is carried out in memory, then asked.

use std::collections::BTreeMap;
use std::net::IpAddr;

use xdp_lb_common::control::Control;

use super::{Explanation, Facts, Query, explain};
use crate::{
    memory::MemoryMaps,
    model::{Desired, NextHopSource},
    nexthop::{NextHop, Resolution},
    plan::{self, Census, Inputs, Memo, PlanError},
    pools,
    state::{Capacity, Maps as _, Observed, WriteError},
    status::NOT_LOOKED_UP,
};

/// Sets of the flow table in memory: nothing is remembered, so a large one would only cost its size.
const FLOW_SETS: u32 = 16;

/// What a balancer that starts with a configuration would have in its maps, before it remembers anything.
#[derive(Debug)]
pub struct Rehearsal {
    maps: MemoryMaps,
    observed: Observed,
    facts: Facts,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum RehearsalError {
    /// The configuration does not fit its own limits.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The planner wrote outside the maps that it planned for: a bug.
    #[error("{0}; please report this")]
    Write(#[from] WriteError),
}

impl Rehearsal {
    /// Fills maps of the given sizes. `control` brings the seed and the masks. Next hops are configured MACs, else
    /// [`crate::status::Path::NotLookedUp`].
    ///
    /// # Errors
    /// [`RehearsalError`].
    pub fn new(desired: &Desired, capacity: Capacity, control: Control) -> Result<Self, RehearsalError> {
        let next_hop = next_hop(desired);
        let interfaces = BTreeMap::from([(next_hop.ifindex, next_hop.interface.clone())]);
        let pods = desired.own_pods();
        let resolve = |address: IpAddr| {
            if pods.contains(&address) { Resolution::Pod } else { Resolution::Resolved(next_hop.clone()) }
        };
        let mut maps = MemoryMaps::new(Capacity { flow_sets: FLOW_SETS, ..capacity }, control);
        let desired = pools::apply(desired.clone());
        let plan = plan::plan(&Inputs {
            desired: &desired,
            observed: &maps.observe(),
            resolve: &resolve,
            census: &Census::default(),
            windows: &BTreeMap::new(),
            memo: &Memo::default(),
            now: 0,
            allow_moves: false,
            generation: 1,
            only: None,
        })?;
        for op in &plan.ops {
            maps.apply(op)?;
        }
        let mut observed = maps.observe();
        // The set that is named is the one of the table that the configuration asks for.
        observed.control.flow_set_mask = control.flow_set_mask;
        Ok(Self { maps, observed, facts: Facts { interfaces, ..Facts::default() } })
    }

    /// Explains one packet.
    #[must_use]
    pub fn explain(&self, query: &Query) -> Explanation {
        explain(&self.maps.cpu(0), &self.observed, &self.facts, query)
    }
}

/// The way out: the first configured MAC, as the agent chooses, or a stand-in that says that nobody looked.
fn next_hop(desired: &Desired) -> NextHop {
    let configured =
        (NOT_LOOKED_UP + 1..).zip(&desired.interfaces).find_map(|(ifindex, i)| match i.next_hop {
            NextHopSource::Mac(mac) => Some((ifindex, i.name.clone(), mac)),
            NextHopSource::Auto => None,
        });
    let (ifindex, interface, destination_mac) = configured.unwrap_or((NOT_LOOKED_UP, String::new(), [0; 6]));
    // Nobody looked at the interface either: the tunnel takes what IP can say, or what the file does.
    NextHop {
        ifindex,
        below: None,
        interface,
        source_mac: [0; 6],
        destination_mac,
        mtu: u16::MAX.into(),
        path_mtu: None,
    }
}
