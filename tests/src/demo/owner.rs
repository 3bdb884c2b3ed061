//! The backend that a flow belongs to by the file alone: whose the requests were that failed.
//!
//! Asked of the product's own `explain`, on tables in memory: an edge node's tables are those of the end of the show.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use anyhow::{Context, Result, anyhow};
use xdp_lb::config;
use xdp_lb::dataplane::{Machine, Shape};
use xdp_lb::explain::{Facts, Query, explain};
use xdp_lb::memory::MemoryMaps;
use xdp_lb::model::Protocol;
use xdp_lb::nexthop::{NextHop, Resolution};
use xdp_lb::plan::{self, Census, Inputs, Memo};
use xdp_lb::state::{Capacity, Maps as _, Observed};
use xdp_lb_common::parse::Segment;

use crate::lab::plan::Role;
use crate::lab::traffic::Failure;

/// Only timeouts depend on it, and nothing is remembered here.
const ANY: Machine = Machine { hz: 250, cpus: 1 };
/// Sets of a flow table that stays empty.
const FLOW_SETS: u32 = 16;

/// The tables that a balancer makes of a file.
#[derive(Debug)]
pub struct Owners {
    maps: MemoryMaps,
    observed: Observed,
}

impl Owners {
    /// Plans the file `text` from nothing.
    ///
    /// # Errors
    /// When it is no configuration, or does not fit.
    pub fn of_file(text: &str) -> Result<Self> {
        let read = config::parse(text).map_err(|errors| anyhow!("read the edge nodes' file: {errors:?}"))?;
        let desired = read.desired;
        let shape = Shape::balancer(&desired.limits, &desired.flow_table, ANY);
        let control = shape.control(desired.seed);
        let mut maps = MemoryMaps::new(Capacity { flow_sets: FLOW_SETS, ..shape.capacity }, control);
        let anywhere = NextHop {
            ifindex: 1,
            interface: String::new(),
            source_mac: [0; 6],
            destination_mac: [0; 6],
            mtu: 1600,
            below: None,
            path_mtu: None,
        };
        let plan = plan::plan(&Inputs {
            desired: &desired,
            observed: &maps.observe(),
            resolve: &|_: IpAddr| Resolution::Resolved(anywhere.clone()),
            census: &Census::default(),
            windows: &BTreeMap::new(),
            memo: &Memo::default(),
            now: 0,
            allow_moves: false,
            generation: 1,
            only: None,
        })?;
        plan.ops.iter().try_for_each(|op| maps.apply(op).map(drop)).context("plan in memory")?;
        let observed = maps.observe();
        Ok(Self { maps, observed })
    }

    /// The backend that gets a new TCP connection from `source` to `target`.
    #[must_use]
    pub fn of_connection(&self, source: SocketAddr, target: SocketAddr) -> Option<IpAddr> {
        let query = Query::new(Protocol::Tcp, source, target)?.with_segment(Segment::Syn);
        explain(&self.maps.cpu(0), &self.observed, &Facts::default(), &query).backend
    }

    /// The same of a failed request of `client`, as the name of one of the backends 1 to `backends`.
    #[must_use]
    pub fn of_failure(&self, client: Role, backends: u8, failure: &Failure) -> Option<String> {
        let source = SocketAddr::new(client.address().like(failure.target.ip()), failure.port);
        let address = self.of_connection(source, failure.target)?;
        let role = (1..=backends).map(Role::Backend).find(|r| r.address().both().contains(&address))?;
        Some(role.name())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::demo::file::EXAMPLE;
    use crate::lab::files::{WEB, at};

    #[test]
    fn every_flow_has_an_owner_and_the_owners_share_them() {
        let owners = Owners::of_file(EXAMPLE).unwrap();
        for target in at(WEB) {
            let source = |port| SocketAddr::new(Role::Client(1).address().like(target.ip()), port);
            let found: BTreeSet<_> =
                (1024..1124).map(|port| owners.of_connection(source(port), target).unwrap()).collect();
            assert_eq!(found.len(), 3, "{target}: {found:?}");
        }
    }
}
