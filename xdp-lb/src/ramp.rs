//! Slow start: the gate of a backend that has come back opens step by step, so that caches fill and connections are
//! made before it carries its part.
//!
//! ```text
//!   share
//!   full |                 ____----        twenty steps at most, none shorter than a second
//!        |         ____----
//!     0  |____----_____________________
//!         back              slow_start
//! ```
//!
//! Pure, and without a memory: when a backend came back is what the maps say (`since` of its entry), so a ramp goes
//! on where it was when the agent starts anew. A share that grows moves slots to this backend alone ([`crate::gates`]).

use std::net::IpAddr;
use std::time::Duration;

use xdp_lb_common::backend::{BACKEND_ALIVE, BACKEND_DRAINING, Backend as Member};

use crate::{
    model::{AdminState, Backend, Desired, Service, share_lists},
    plan,
    state::Observed,
    template::map_address,
};

/// Most steps of a ramp.
const STEPS: u64 = 20;

/// A backend that opens slowly.
#[derive(Clone, Debug, PartialEq)]
pub struct Opening {
    /// Its service.
    pub service: String,
    /// Backend.
    pub backend: IpAddr,
    /// Its share for now, as a part of 1.
    pub share: f64,
    /// Seconds for which it has been taking new flows; 0: it begins now.
    pub age: u64,
    /// Seconds until its share is what the file says.
    pub full_in: u64,
}

/// Who opens slowly, and when to look again.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Ramps {
    /// Backends whose shares were lowered.
    pub openings: Vec<Opening>,
    /// When the next step is due, in seconds since 1970; `None` without openings.
    pub next: Option<u64>,
}

/// Lowers the shares of backends that have come back not long ago.
///
/// `now` is in seconds since 1970. New is who is younger than `slow_start` and than another backend of the service: somebody
/// must carry the load.
pub fn apply(desired: &mut Desired, observed: &Observed, now: u64) -> Ramps {
    let mut ramps = Ramps::default();
    for service in desired.services.iter_mut().filter(|service| service.slow_start > Duration::ZERO) {
        ramp(service, observed, now, &mut ramps);
    }
    if ramps.next.is_some() {
        // Those that changed alike are one list again.
        share_lists(&mut desired.services);
    }
    ramps
}

/// True when some service starts its backends slowly: the maps need not be looked at otherwise.
#[must_use]
pub fn is_wanted(desired: &Desired) -> bool {
    desired.services.iter().any(|service| service.slow_start > Duration::ZERO)
}

fn ramp(service: &mut Service, observed: &Observed, now: u64, ramps: &mut Ramps) {
    let id = observed.services.iter().find(|(_, s)| plan::name(s) == service.name).map(|(&id, _)| id);
    let members = id.and_then(|id| observed.ring(id)).map(|ring| &ring.members);
    let member = |backend: &Backend| {
        members.and_then(|members| members.values().find(|m| m.address == map_address(backend.address)))
    };
    let span = service.slow_start.as_secs().max(1);
    let takers =
        service.backends.iter().enumerate().filter(|(_, b)| b.state == AdminState::Active && b.weight > 0);
    let ages: Vec<(usize, u64)> = takers.map(|(n, backend)| (n, age(member(backend), now))).collect();
    // Where all are new, the oldest is the measure: shares grow, and never fall when one of them is done.
    let full = ages.iter().map(|&(_, age)| age).max().unwrap_or(0).min(span);
    let steps = STEPS.min(span);
    let new: Vec<_> = ages.into_iter().filter(|&(_, age)| age < full).collect();
    for (n, age) in new {
        let part = (age * steps / full + 1) as f64 / (steps + 1) as f64;
        // Services share lists that nobody changes.
        let backend = &mut service.backends[n];
        backend.share = backend.share.part(part);
        ramps.openings.push(Opening {
            service: service.name.clone(),
            backend: backend.address,
            share: backend.share.fraction(),
            age,
            // Whoever is older gets older as fast, until the span is over.
            full_in: span - age,
        });
        let next = now + span.div_ceil(steps);
        ramps.next = Some(ramps.next.map_or(next, |before| before.min(next)));
    }
}

/// Seconds for which a backend has been taking new flows.
fn age(member: Option<&Member>, now: u64) -> u64 {
    let takes = |member: &&Member| member.state & (BACKEND_ALIVE | BACKEND_DRAINING) == BACKEND_ALIVE;
    member.filter(takes).map_or(0, |member| now.saturating_sub(member.since))
}

#[cfg(test)]
mod tests {
    use super::*;
    use xdp_lb_common::control::Control;

    use crate::config;
    use crate::memory::MemoryMaps;
    use crate::model::Share;
    use crate::nexthop::{NextHop, Resolution};
    use crate::plan::{Census, Inputs, Memo, plan};
    use crate::state::{Capacity, Maps as _};

    const SPAN: u64 = 60;

    fn desired() -> Desired {
        let text = "
version: 1
interfaces: [{ name: eth0 }]
encap: { source_v4: 172.16.0.0/16 }
maglev: { table_size: 4093, seed: 7 }
services:
  - name: web
    vip: 203.0.113.10
    protocol: tcp
    ports: 443
    slow_start: 60s
    backends: [{ address: 10.0.0.1 }, { address: 10.0.0.2 }, { address: 10.0.0.3, share: 50% }]
";
        config::parse(text).unwrap_or_else(|e| panic!("{e:?}")).desired
    }

    fn way(_: IpAddr) -> Resolution {
        Resolution::Resolved(NextHop {
            ifindex: 2,
            interface: "eth0".into(),
            source_mac: [2, 0, 0, 0, 0, 1],
            destination_mac: [2, 0, 0, 0, 0, 2],
            mtu: 65_535,
            below: None,
            path_mtu: None,
        })
    }

    /// Maps that an agent keeps.
    struct Node {
        maps: MemoryMaps,
        now: u64,
    }

    impl Node {
        fn new() -> Self {
            let capacity = Capacity {
                services: 16,
                vip_slots: 16,
                port_pages: 16,
                backends: 128,
                ring_slots: 16_384,
                flow_sets: 64,
                backend_stats: 128,
                tx_ports: 16,
                server_ids: 64,
                source_ranges: 64,
            };
            let control = Control { seed: 7, tick_shift: 10, second_shift: 8, hz: 250, ..Control::default() };
            Self { maps: MemoryMaps::new(capacity, control), now: 1_000_000 }
        }

        /// Reconciles; shares in 1/1000 of the backends as they were planned, and how long until the next step.
        fn run(&mut self, mut desired: Desired) -> (Vec<u32>, Option<u64>) {
            let next = apply(&mut desired, &self.maps.observe(), self.now).next;
            let planned = plan(&Inputs {
                desired: &desired,
                observed: &self.maps.observe(),
                resolve: &way,
                census: &Census::default(),
                windows: &std::collections::BTreeMap::new(),
                now: self.now,
                allow_moves: true,
                generation: 1,
                only: None,
                memo: &Memo::default(),
            })
            .expect("a plan");
            planned.ops.iter().for_each(|op| self.maps.apply(op).expect("applied"));
            let shares = &desired.services[0].backends;
            let shares = shares.iter().map(|b| b.share.get() * 1000 / Share::FULL.get());
            (shares.collect(), next.map(|next| next - self.now))
        }
    }

    fn with(n: usize, state: AdminState) -> Desired {
        let mut desired = desired();
        desired.services[0].backends[n].state = state;
        desired
    }

    #[test]
    fn who_comes_back_opens_step_by_step_and_nobody_else_changes() {
        let mut node = Node::new();
        assert_eq!(node.run(desired()), (vec![1000, 1000, 500], None), "all are new");
        node.now += 10;
        assert_eq!(node.run(desired()), (vec![1000, 1000, 500], None));
        node.now += SPAN;
        assert_eq!(node.run(with(0, AdminState::Down)).0, vec![1000, 1000, 500]);
        node.now += 1000;
        assert_eq!(node.run(desired()), (vec![47, 1000, 500], Some(3)));
        let mut last = 47;
        for _ in 0..19 {
            node.now += 3;
            let (shares, next) = node.run(desired());
            let share = shares[0];
            assert_eq!((&shares[1..], next), (&[1000, 500][..], Some(3)));
            assert!(share > last && share < 1000, "{last} then {share}");
            last = share;
        }
        node.now += 3;
        assert_eq!(node.run(desired()), (vec![1000, 1000, 500], None));
    }

    #[test]
    fn undrained_is_back_and_a_gate_keeps_its_part() {
        let mut node = Node::new();
        node.run(desired());
        node.now += 2 * SPAN;
        node.run(with(2, AdminState::Drain));
        node.now += 2 * SPAN;
        assert_eq!(node.run(desired()).0, vec![1000, 1000, 23]);
        node.now += SPAN / 2;
        assert_eq!(node.run(desired()).0, vec![1000, 1000, 261], "half of its half");
    }

    #[test]
    fn shares_never_fall_when_the_oldest_of_the_new_is_done() {
        let mut node = Node::new();
        let mut two = desired();
        two.services[0].backends.retain(|b| b.address.to_string() != "10.0.0.3");
        assert_eq!(node.run(two), (vec![1000, 1000], None));
        node.now += 20;
        let run = |node: &mut Node| node.run(desired()).0[2];
        let mut last = run(&mut node);
        assert!(last < 100);
        for _ in 0..90 {
            node.now += 1;
            let share = run(&mut node);
            assert!(share >= last, "{last} then {share}");
            last = share;
        }
        assert_eq!(last, 500);
    }
}
