//! Equal services share a ring; they part and join again, and nobody else is written to.

use std::time::Duration;

use xdp_lb::model::{AdminState, Desired, Protocol, Service, TableSize, Tracking};
use xdp_lb::plan::Plan;
use xdp_lb::state::{MapOp, Maps, Observed, Place, Ring};
use xdp_lb_common::flow::{FlowEntry, FlowKey};
use xdp_lb_common::hash::FlowHash;
use xdp_lb_common::ring::Slot;
use xdp_lb_common::service::TRACK_WINDOW;

use crate::common::agent::Agent;
use crate::common::wanted::{address, backend, desired, service, vip};
use crate::crash::CAPACITY;

const WEB: u16 = 1;
const API: u16 = 2;
const DNS: u16 = 3;

/// Three services with the same backends.
struct Zone {
    agent: Agent,
    file: Vec<Service>,
}

impl Zone {
    fn new() -> Self {
        let named =
            |name: &str, protocol, n| Service { vips: vec![vip(n)], ..service(name, protocol, 1..=4) };
        let mut zone = Self {
            agent: Agent::new(CAPACITY),
            file: vec![
                named("web", Protocol::Tcp, 0),
                named("api", Protocol::Tcp, 1),
                named("dns", Protocol::Udp, 2),
            ],
        };
        zone.run();
        zone
    }

    fn desired(&self) -> Desired {
        desired(self.file.clone())
    }

    fn run(&mut self) -> Plan {
        self.agent.run(&self.desired())
    }

    fn pass(&mut self, seconds: u64) {
        self.agent.now += Duration::from_secs(seconds);
    }

    fn service(&mut self, id: u16) -> &mut Service {
        &mut self.file[usize::from(id) - 1]
    }

    fn set(&mut self, id: u16, n: u8, state: AdminState) {
        let mut backends = self.service(id).backends.iter_mut();
        backends.find(|b| b.address == address(n)).unwrap().state = state;
    }

    fn observed(&self) -> Observed {
        self.agent.maps.observe()
    }

    fn place(&self, id: u16) -> Place {
        Place::of(self.observed().services[&id].config())
    }

    fn ring(&self, id: u16) -> Ring {
        self.observed().ring(id).unwrap().clone()
    }

    fn rings(&self) -> usize {
        self.observed().rings.len()
    }

    /// Every slot by addresses, and whether it is dirty.
    fn answers(&self, id: u16) -> Vec<(Option<[u8; 16]>, bool)> {
        let ring = self.ring(id);
        let slot =
            |&now: &u16| (ring.members.get(&Slot(now).backend()).map(|m| m.address), Slot(now).is_dirty());
        ring.slots.now.iter().map(slot).collect()
    }
}

/// Services and rings that a plan changes under traffic.
fn touched(plan: &Plan) -> (Vec<u16>, Vec<u32>) {
    let services = plan.ops.iter().filter_map(|op| match op {
        MapOp::SetService { id, .. } => Some(*id),
        _ => None,
    });
    let rings = plan.ops.iter().filter_map(|op| match op {
        MapOp::SetSlots { base, .. } => Some(*base),
        _ => None,
    });
    (services.collect(), rings.collect())
}

#[test]
fn equal_services_share_slots_and_members_and_nothing_else() {
    let zone = Zone::new();
    let o = zone.observed();
    assert_eq!(zone.ring(WEB).services, [WEB, API, DNS]);
    let configs: Vec<_> = o.services.values().map(|s| *s.config()).collect();
    assert!(configs.iter().all(|c| Place::of(c) == zone.place(WEB)));
    assert_eq!(configs.iter().map(|c| c.id).collect::<Vec<_>>(), [WEB, API, DNS]);
    assert_ne!(configs[0].flow_ttl, configs[2].flow_ttl);
    let mut counters: Vec<u32> = configs.iter().map(|c| c.stats_base).collect();
    counters.dedup();
    assert_eq!(counters.len(), 3, "each counts for itself");
    let built = zone.agent.maps.ops().iter().filter(|op| matches!(op, MapOp::PutRing { .. })).count();
    assert_eq!(built, 1);
}

#[test]
fn what_decides_slots_members_or_headers_keeps_services_apart() {
    type Row = (&'static str, fn(&mut Service));
    let rows: [Row; 6] = [
        ("weight", |s| s.backends[0].weight = 50),
        ("state", |s| s.backends[0].state = AdminState::Drain),
        ("share", |s| s.backends[0].share = xdp_lb::model::Share::from_fraction(0.5)),
        ("table_size", |s| s.table_size = TableSize::new(13).unwrap()),
        ("encap", |s| s.encap.dscp = xdp_lb::model::Dscp::Set(46)),
        ("drain", |s| s.drain.max = Duration::from_secs(60)),
    ];
    for (what, change) in rows {
        let mut zone = Zone::new();
        zone.agent = Agent::new(CAPACITY);
        change(&mut zone.file[1]);
        zone.run();
        assert_eq!(zone.rings(), 2, "{what}");
        assert_eq!(zone.place(WEB), zone.place(DNS));
    }
}

#[test]
fn one_of_them_parts_and_the_others_are_not_touched() {
    for id in [WEB, API, DNS] {
        let mut zone = Zone::new();
        let (before, place) = (zone.ring(id), zone.place(id));
        zone.set(id, 1, AdminState::Drain);
        let plan = zone.run();
        let other = if id == WEB { API } else { WEB };
        assert_eq!((zone.place(other), zone.rings()), (place, 2));
        assert_eq!(touched(&plan), (vec![id], vec![zone.place(id).slot_base]), "{plan:#?}");
        assert!(zone.answers(other).iter().all(|(_, dirty)| !dirty));
        assert!(zone.answers(id).iter().any(|(_, dirty)| *dirty));
        let after = zone.ring(id);
        let locals = |ring: &Ring| ring.members.iter().map(|(l, m)| (*l, m.address)).collect::<Vec<_>>();
        assert_eq!(locals(&before), locals(&after), "entries name the same backends");
        assert_eq!(zone.observed().services[&id].config().id, id);
        assert!(zone.run().is_empty());
    }
}

/// The one whose file did not change keeps the ring, whoever came first.
#[test]
fn of_two_the_one_that_stays_as_it_is_keeps_the_ring() {
    for id in [WEB, API] {
        let mut zone = Zone::new();
        zone.file.truncate(2);
        zone.run();
        zone.set(id, 2, AdminState::Down);
        let plan = zone.run();
        assert_eq!(touched(&plan).0, [id], "{plan:#?}");
    }
}

#[test]
fn a_part_keeps_what_is_dirty_and_since_when() {
    let mut zone = Zone::new();
    zone.pass(1000);
    for id in [WEB, API, DNS] {
        zone.set(id, 3, AdminState::Drain);
    }
    zone.run();
    let before = zone.ring(API);
    zone.pass(5000);
    zone.service(API).backends.push(backend(9));
    zone.service(API).backends.last_mut().unwrap().weight = 0;
    zone.run();
    assert_eq!(zone.rings(), 2);
    let after = zone.ring(API);
    assert_eq!(after.slots, before.slots);
    // 7500 s after the change, not after the copy.
    zone.pass(2400);
    zone.agent.survey();
    assert!(zone.answers(API).iter().any(|(_, dirty)| *dirty));
    zone.pass(200);
    zone.agent.survey();
    assert!(zone.answers(API).iter().all(|(_, dirty)| !dirty));
}

#[test]
fn equal_again_they_join_once_nothing_is_under_way() {
    let mut zone = Zone::new();
    zone.set(API, 1, AdminState::Drain);
    zone.run();
    // A connection of the time between.
    let (slot, now) = {
        let ring = zone.ring(API);
        let slot = ring.slots.now.iter().position(|&now| Slot(now).is_dirty()).unwrap();
        (slot as u64, Slot(ring.slots.now[slot]).backend())
    };
    let hash = FlowHash((slot * 2 + 1) * (1 << xdp_lb_common::hash::TAG_BITS) / 62);
    let entry = FlowEntry::new(FlowKey::new(API, hash), now, zone.agent.tick() + 500, false);
    zone.agent.maps.remember(0, 0, entry.0);
    zone.set(API, 1, AdminState::Active);
    zone.run();
    assert_eq!(zone.rings(), 2, "dirty slots ask for flows that the other ring would not ask for");
    zone.agent.survey();
    assert!(zone.run().is_empty(), "one slot is still dirty");
    zone.agent.maps.clear_flows();
    zone.agent.survey();
    let plan = zone.run();
    assert_eq!(touched(&plan).0.len(), 1, "{plan:#?}");
    assert_eq!((zone.rings(), zone.ring(WEB).services), (1, vec![WEB, API, DNS]));
    assert!(zone.run().is_empty());
}

/// Equal in what new flows get, but connections of before the change go elsewhere in one of them.
#[test]
fn a_dirty_ring_is_not_joined_from_a_clean_one() {
    let mut zone = Zone::new();
    let close = |zone: &mut Zone, id| {
        let mut backends = zone.service(id).backends.iter_mut();
        backends.find(|b| b.address == address(3)).unwrap().share = xdp_lb::model::Share::NONE;
    };
    close(&mut zone, API);
    zone.run();
    zone.pass(8000);
    zone.agent.survey();
    zone.run();
    for id in [WEB, DNS] {
        close(&mut zone, id);
    }
    zone.run();
    assert!(zone.run().is_empty());
    assert_eq!(zone.rings(), 2);
    zone.pass(8000);
    zone.agent.survey();
    zone.run();
    assert_eq!(zone.rings(), 1);
}

/// The same change by and by to all of them: one ring in the end, before anything is clean.
#[test]
fn those_that_go_the_same_way_meet() {
    let mut zone = Zone::new();
    for id in [WEB, API, DNS] {
        let service = zone.service(id);
        service.backends.push(backend(9));
        service.backends.retain(|b| b.address != address(2));
        service.backends.sort_by_key(|b| b.address);
        zone.run();
        zone.run();
    }
    assert_eq!(zone.rings(), 1);
    assert!(zone.answers(WEB).iter().any(|(_, dirty)| *dirty));
}

#[test]
fn a_drain_that_ends_at_another_time_is_another_drain() {
    let mut zone = Zone::new();
    for id in [WEB, API, DNS] {
        zone.set(id, 1, AdminState::Drain);
        zone.run();
        zone.run();
        zone.pass(60);
    }
    assert_eq!(zone.rings(), 3);
}

#[test]
fn rings_whose_indexes_mean_others_stay_apart() {
    let mut zone = Zone::new();
    zone.agent = Agent::new(CAPACITY);
    zone.service(API).backends.remove(0);
    zone.run();
    assert_eq!(zone.rings(), 2);
    zone.file[1].backends = zone.file[0].backends.clone();
    zone.run();
    for _ in 0..3 {
        zone.pass(8000);
        zone.agent.survey();
        zone.run();
    }
    assert_eq!((zone.answers(WEB), zone.rings()), (zone.answers(API), 2));
}

#[test]
fn who_is_new_joins_even_a_dirty_ring_and_the_last_leaves_free_space() {
    let mut zone = Zone::new();
    for id in [WEB, API, DNS] {
        zone.set(id, 1, AdminState::Drain);
    }
    zone.run();
    let new = Service { name: "new".into(), vips: vec![vip(3)], ..zone.file[0].clone() };
    zone.file.push(new);
    let plan = zone.run();
    assert_eq!((zone.rings(), zone.ring(WEB).services), (1, vec![1, 2, 3, 4]));
    assert_eq!(touched(&plan), (vec![], vec![]), "{plan:#?}");
    let place = zone.place(WEB);
    zone.file.clear();
    zone.run();
    assert_eq!(zone.rings(), 0);
    zone.file.push(service("next", Protocol::Tcp, 5..=8));
    zone.run();
    let next = zone.observed();
    assert_eq!(next.rings.keys().copied().collect::<Vec<_>>(), [place]);
}

#[test]
fn a_window_of_one_is_waited_for_by_all() {
    let mut zone = Zone::new();
    zone.service(DNS).tracking = Tracking::Off;
    zone.run();
    assert_eq!(zone.rings(), 1, "tracking is the service's own");
    for id in [WEB, API, DNS] {
        zone.set(id, 1, AdminState::Drain);
    }
    let now = zone.agent.now.as_secs();
    let plan = zone.run();
    assert_eq!((plan.wake, plan.services["web"].slots_waiting > 0), (Some(now + 5), true));
    let windows = |zone: &Zone| {
        let o = zone.observed();
        o.services
            .iter()
            .filter(|(_, s)| s.config().flags & TRACK_WINDOW != 0)
            .map(|(id, _)| *id)
            .collect::<Vec<_>>()
    };
    assert_eq!(windows(&zone), [DNS], "TCP needs none");
    // A service that comes meanwhile is tracked from its first flow, and nobody waits longer for it.
    zone.pass(3);
    let late = Service { name: "late".into(), vips: vec![vip(3)], ..zone.file[2].clone() };
    zone.file.push(late);
    assert_eq!(zone.run().wake, Some(now + 5));
    assert_eq!(windows(&zone), [DNS, 4]);
    assert_eq!(zone.run().wake, Some(now + 5));
    zone.pass(2);
    zone.run();
    assert_eq!((windows(&zone), zone.rings()), (vec![], 1));
    assert!(zone.answers(WEB).iter().any(|(_, dirty)| *dirty));
}

/// A slot is clean when nobody of any service needs it dirty, and a member is forgotten when nobody of any has it.
#[test]
fn slots_and_members_wait_for_the_flows_of_every_service() {
    for id in [WEB, API, DNS] {
        let mut zone = Zone::new();
        let local = |zone: &Zone| {
            let at = xdp_lb::template::map_address(address(1));
            zone.ring(WEB).members.iter().find(|(_, m)| m.address == at).map(|(local, _)| *local)
        };
        let leaver = local(&zone).unwrap();
        for service in &mut zone.file {
            service.backends.retain(|b| b.address != address(1));
        }
        zone.run();
        let slot = zone.answers(WEB).iter().position(|(_, dirty)| *dirty).unwrap() as u64;
        let hash = FlowHash((slot * 2 + 1) * (1 << xdp_lb_common::hash::TAG_BITS) / 62);
        let expiry = |zone: &Zone| zone.agent.tick() + 5;
        for _ in 0..3 {
            zone.pass(7600);
            let entry = FlowEntry::new(FlowKey::new(id, hash), leaver, expiry(&zone), false);
            zone.agent.maps.remember(0, 0, entry.0);
            zone.agent.survey();
            zone.run();
            assert!(zone.answers(WEB)[slot as usize].1, "a flow of {id} is remembered elsewhere");
            assert_eq!(local(&zone), Some(leaver));
        }
        zone.agent.maps.clear_flows();
        zone.agent.survey();
        zone.run();
        zone.agent.survey();
        zone.run();
        assert!(zone.answers(WEB).iter().all(|(_, dirty)| !dirty));
        assert_eq!(local(&zone), None);
    }
}

/// UDP flows are forgotten after minutes, TCP connections after hours: the slot waits for the longest.
#[test]
fn a_slot_waits_for_the_longest_timeout() {
    let mut zone = Zone::new();
    for id in [WEB, API, DNS] {
        zone.set(id, 1, AdminState::Drain);
    }
    zone.run();
    zone.pass(1000);
    zone.agent.survey();
    assert!(zone.answers(DNS).iter().any(|(_, dirty)| *dirty));
    zone.pass(7000);
    zone.agent.survey();
    assert!(zone.answers(DNS).iter().all(|(_, dirty)| !dirty));
}
