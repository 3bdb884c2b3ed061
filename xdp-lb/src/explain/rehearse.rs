//! Explains by a configuration alone: the plan from empty maps is carried out in memory, then asked.

use std::collections::BTreeMap;
use std::net::IpAddr;

use xdp_lb_common::control::Control;

use super::{Explanation, Facts, NOT_LOOKED_UP, Query, explain};
use crate::{
    memory::MemoryMaps,
    model::{Desired, NextHopSource},
    nexthop::{NextHop, Resolution},
    plan::{self, Census, Inputs, PlanError},
    state::{Capacity, Maps as _, WriteError},
};

/// Sets of the flow table in memory: nothing is remembered, so a large one would only cost its size.
const FLOW_SETS: u32 = 16;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum RehearseError {
    /// The configuration does not fit its own limits.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The planner wrote outside the maps that it planned for: a bug.
    #[error("{0}; please report this")]
    Write(#[from] WriteError),
}

/// What a balancer that starts with this configuration does with a packet, before it remembers anything. Next hops
/// are configured MACs, else [`NOT_LOOKED_UP`]; `control` brings the seed and the masks of the maps that it would make.
///
/// # Errors
/// [`RehearseError`].
pub fn rehearse(
    desired: &Desired,
    capacity: Capacity,
    control: Control,
    query: &Query,
) -> Result<Explanation, RehearseError> {
    let next_hop = next_hop(desired);
    let facts = Facts {
        interfaces: BTreeMap::from([(next_hop.ifindex, next_hop.interface.clone())]),
        ..Facts::default()
    };
    let mut maps = MemoryMaps::new(Capacity { flow_sets: FLOW_SETS, ..capacity }, control);
    let empty = maps.observe();
    let resolve = |_: IpAddr| Resolution::Resolved(next_hop.clone());
    let plan = plan::plan(&Inputs {
        desired,
        observed: &empty,
        resolve: &resolve,
        census: &Census::default(),
        windows: &BTreeMap::new(),
        now: 0,
        allow_moves: false,
        generation: 1,
    })?;
    for op in &plan.ops {
        maps.apply(op)?;
    }
    let mut observed = maps.observe();
    observed.control.flow_set_mask = control.flow_set_mask;
    Ok(explain(&maps.cpu(0), &observed, &facts, query))
}

/// The way out: the first configured MAC, or a stand-in that says that nobody looked.
fn next_hop(desired: &Desired) -> NextHop {
    let configured =
        (NOT_LOOKED_UP + 1..).zip(&desired.interfaces).find_map(|(ifindex, i)| match i.next_hop {
            NextHopSource::Mac(mac) => Some((ifindex, i.name.clone(), mac)),
            NextHopSource::Auto => None,
        });
    let (ifindex, interface, destination_mac) = configured.unwrap_or((NOT_LOOKED_UP, String::new(), [0; 6]));
    NextHop { ifindex, interface, source_mac: [0; 6], destination_mac }
}
