//! The reconciler over maps in memory, which fail when told to.

use std::cell::Cell;

use xdp_lb_common::control::Control;
use xdp_lb_common::flow::{FlowEntry, FlowKey, TICKS};
use xdp_lb_common::hash::FlowHash;
use xdp_lb_common::parse::{Segment, UDP};
use xdp_lb_common::reason::FlowEvent;
use xdp_lb_common::ring::Slot;
use xdp_lb_common::service::TRACK_WINDOW;

use super::*;
use crate::config;
use crate::forecast::moves::Reason;
use crate::memory::{MemoryMaps, Packet};
use crate::nexthop::NextHop;
use crate::state::{Capacity, SlotChange};

/// Maps in memory with a clock that stands until it is set.
pub(in crate::agent) struct Twin {
    pub(in crate::agent) maps: MemoryMaps,
    tick: Cell<u16>,
    graces: Cell<u32>,
    broken: BTreeSet<&'static str>,
}

impl Twin {
    pub(in crate::agent) fn over(maps: MemoryMaps) -> Self {
        Self { maps, tick: Cell::new(100), graces: Cell::new(0), broken: BTreeSet::new() }
    }

    /// Makes `clock`, `sweep` and `slot` fail, or work.
    pub(in crate::agent) fn break_all(&mut self, what: &[&'static str]) {
        self.broken = what.iter().copied().collect();
    }

    /// Leaves an entry of nobody in the flow table, and a slot dirty that nobody needs so.
    pub(in crate::agent) fn litter(&mut self) {
        let entry = FlowEntry::new(FlowKey::new(9, FlowHash(1)), 0, 200, false);
        self.maps.remember(1, 1, entry.0);
        let observed = self.maps.observe();
        let (place, ring) = observed.rings.iter().next().expect("a ring");
        let now = ring.slots.now[0];
        let change = SlotChange { slot: 0, before: Some(Slot(now).backend()), now: Slot::dirty(now).0 };
        self.maps.set_slots(place.slot_base, &[change]).expect("there");
    }

    fn works(&self, what: &str) -> io::Result<()> {
        if self.broken.contains(what) { Err(io::ErrorKind::OutOfMemory.into()) } else { Ok(()) }
    }
}

impl Maps for Twin {
    fn observe(&self) -> Observed {
        self.maps.observe()
    }
    fn observe_again(&self, last: &Observed, written: Option<&[MapOp]>) -> Observed {
        let again = self.maps.observe_again(last, written);
        // What is shared with the last look is what a new one would find.
        let anew = self.maps.observe();
        assert_eq!((&again.vips, &again.pages, &again.rings), (&anew.vips, &anew.pages, &anew.rings));
        again
    }
    fn apply(&mut self, op: &MapOp) -> Result<(), WriteError> {
        self.maps.apply(op)
    }
}

impl FlowTable for Twin {
    fn tick(&self) -> io::Result<u16> {
        self.works("clock")?;
        Ok(self.tick.get())
    }
    fn sets(&self) -> impl Iterator<Item = (u32, FlowSet)> {
        self.maps.flow_sets()
    }
    fn sweep(&self, set: u32, way: usize, old: u64) -> io::Result<bool> {
        self.works("sweep")?;
        Ok(self.maps.sweep(set, way, old))
    }
    fn clean_slot(&self, slot: u32, expected: u16) -> io::Result<()> {
        assert!(self.graces.get() > 0, "packets may still be under way");
        self.works("slot")?;
        self.maps.clean(slot, expected);
        Ok(())
    }
    fn remember(&self, placement: Placement, tick: u16) -> io::Result<Result<(), Refusal>> {
        let (_, set) = self.maps.flow_sets().nth(placement.set as usize).expect("in the table");
        Ok(exceptions::way(&set, placement.entry, tick)
            .map(|way| self.maps.remember(placement.set, way, placement.entry.0)))
    }
    fn grace(&self) {
        self.graces.set(self.graces.get() + 1);
    }
}

pub(in crate::agent) fn maps() -> MemoryMaps {
    let capacity = Capacity {
        services: 16,
        vip_slots: 16,
        port_pages: 64,
        backends: 128,
        ring_slots: 2048,
        flow_sets: 64,
        backend_stats: 128,
        tx_ports: 16,
        server_ids: 64,
        source_ranges: 256,
    };
    MemoryMaps::new(
        capacity,
        Control { seed: 7, tick_shift: 10, second_shift: 8, hz: 250, ..Control::default() },
    )
}

fn agent(maps: MemoryMaps) -> Reconciler<Twin> {
    Reconciler::new(Twin::over(maps))
}

/// Two services; the second is UDP without tracking, so that its planned changes wait.
pub(in crate::agent) fn file(backends: &str, more: &str) -> Desired {
    let text = format!(
        r#"
version: 1
interfaces: [{{ name: eth0 }}]
encap: {{ source_v4: 172.16.0.0/16 }}
maglev: {{ table_size: 31, seed: 7 }}
flow_table: {{ track_window: 5s }}
services:
  - {{ name: web, vip: 203.0.113.10, protocol: tcp, ports: 443, backends: [{backends}] }}
  - {{ name: dns, vip: 203.0.113.10, protocol: udp, ports: 53, tracking: off, backends: [{backends}] }}
{more}"#
    );
    config::parse(&text).unwrap_or_else(|e| panic!("{e:?}")).desired
}

pub(in crate::agent) const TWO: &str = "{ address: 10.0.0.1 }, { address: 10.0.0.2 }";
pub(in crate::agent) const DRAINED: &str =
    "{ address: 10.0.0.1, state: drain }, { address: 10.0.0.2 }, { address: 10.0.0.3 }";
const DEAD: &str = "{ address: 10.0.0.1, state: down }, { address: 10.0.0.2 }";
pub(in crate::agent) const THIRD: &str =
    "  - { name: sip, vip: 203.0.113.11, protocol: udp, ports: 5060, backends: [{ address: 10.0.0.4 }] }\n";

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

fn at(desired: &Desired, now: u64, generation: u32) -> Run<'_> {
    Run {
        desired,
        resolve: &way,
        now,
        uptime: Duration::from_secs(now),
        allow_moves: false,
        generation,
        only: None,
    }
}

/// What observers see, without what lies where nothing points.
fn seen(agent: &Reconciler<Twin>) -> String {
    let o = agent.maps().observe();
    format!("{:?} {:?} {:?} {:?}", o.vips, o.services, o.rings, o.tx_ports)
}

#[test]
fn every_write_may_fail_in_turn() {
    let (first, second) = (file(TWO, ""), file(DRAINED, THIRD));
    for (start, wanted) in [(None, &first), (Some(&first), &second), (Some(&second), &first)] {
        let prepared = || {
            let mut agent = agent(maps());
            if let Some(start) = start {
                agent.reconcile(&at(start, 100, 1)).unwrap();
            }
            agent.maps.maps.take_ops();
            agent
        };
        let mut healthy = prepared();
        let writes = healthy.reconcile(&at(wanted, 200, 2)).unwrap().writes;
        let ops = healthy.maps.maps.take_ops();
        assert!(writes > 2 && writes == ops.len(), "{writes} writes");
        for (n, op) in ops.iter().enumerate() {
            let mut agent = prepared();
            agent.maps.maps.fail_at(n as u64, io::ErrorKind::OutOfMemory);
            let error = agent.reconcile(&at(wanted, 200, 2)).unwrap_err();
            let (map, key) = op.target();
            assert!(
                error.to_string().starts_with(&format!("write {map}[{key}]: ")),
                "write {n}, {op:?}: {error}"
            );
            assert_eq!(agent.maps.maps.ops(), &ops[..n], "nothing is written behind a failure");
            let generation = agent.generation();
            agent.reconcile(&at(wanted, 200, generation)).unwrap();
            assert_eq!(
                agent.maps().observe().control.generation,
                2,
                "write {n}: the next run goes on with it"
            );
            let again = agent.reconcile(&at(wanted, 200, generation)).unwrap();
            assert_eq!(again.writes, 0, "write {n}: the third run has nothing to do");
            // Windows that open twice wait longer; everything that does not wait is as without the failure.
            if wanted.services.len() == 2 && start.is_none() {
                assert_eq!(seen(&agent), seen(&healthy), "write {n}");
            }
        }
    }
}

/// However often it is tried, a map that is gone is named, the generation is not the new one's, and when the map is back
/// everything is as if it had never been away.
#[test]
fn a_map_that_is_gone_is_named_until_it_is_back() {
    let (first, second) = (file(TWO, ""), file(DRAINED, THIRD));
    let prepared = || {
        let mut agent = agent(maps());
        agent.reconcile(&at(&first, 100, 1)).unwrap();
        agent.maps.maps.take_ops();
        agent
    };
    let mut healthy = prepared();
    healthy.reconcile(&at(&second, 200, 2)).unwrap();
    let written: BTreeSet<&'static str> = healthy.maps.maps.ops().iter().map(|op| op.target().0).collect();
    assert!(written.len() > 3, "{written:?}");
    for map in written {
        let mut agent = prepared();
        agent.maps.maps.lose(Some(map));
        for _ in 0..3 {
            let error = agent.reconcile(&at(&second, 200, 2)).unwrap_err();
            assert!(error.to_string().starts_with(&format!("write {map}[")), "{error}");
            assert_eq!(agent.maps().observe().control.generation, 1, "{map}");
        }
        agent.maps.maps.lose(None);
        agent.reconcile(&at(&second, 200, 2)).unwrap();
        assert_eq!(agent.maps().observe().control.generation, 2, "{map}");
        assert_eq!(agent.reconcile(&at(&second, 200, 2)).unwrap().writes, 0, "{map}");
    }
}

/// Remembered flows that a death moves, whichever writes fail on the way, and though packets come in between.
#[test]
fn what_moves_is_counted_once_however_often_writes_fail() {
    let sip = |state: &str| {
        let text = format!(
            "  - {{ name: sip, vip: 203.0.113.11, protocol: udp, ports: 5060, \
             backends: [{{ address: 10.0.0.4{state} }}, {{ address: 10.0.0.5 }}] }}\n"
        );
        file(TWO, &text)
    };
    let (alive, dead) = (sip(""), sip(", state: down"));
    let send = |agent: &Reconciler<Twin>| {
        for client in 1000..1100 {
            let packet = Packet {
                source: ([198, 51, 100, 7].into(), client),
                destination: ([203, 0, 113, 11].into(), 5060),
                protocol: UDP,
                segment: Segment::Datagram,
                named: Default::default(),
            };
            _ = agent.maps.maps.cpu(100 << 10).send(&packet);
        }
    };
    let prepared = || {
        let mut agent = agent(maps());
        agent.reconcile(&at(&alive, 100, 1)).unwrap();
        send(&agent);
        agent.maps.maps.take_ops();
        agent
    };
    let mut healthy = prepared();
    let moved = healthy.reconcile(&at(&dead, 200, 2)).unwrap().moved;
    let [Moved { backend, reason, flows }] = &moved[..] else { panic!("{moved:?}") };
    assert_eq!((*backend, *reason), (Some([10, 0, 0, 4].into()), Reason::Down));
    assert!(*flows > 20 && *flows < 80, "{flows}");
    send(&healthy);
    assert_eq!(healthy.maps.maps.events(FlowEvent::Stale), *flows, "each by its next packet");
    let writes = healthy.maps.maps.take_ops().len();
    assert!(writes > 2);
    for n in 0..writes {
        let mut agent = prepared();
        for n in [n as u64, 0] {
            agent.maps.maps.fail_at(n, io::ErrorKind::OutOfMemory);
            agent.reconcile(&at(&dead, 200, 2)).unwrap_err();
            send(&agent);
        }
        assert_eq!(agent.reconcile(&at(&dead, 200, 2)).unwrap().moved, moved, "write {n}");
        assert_eq!(agent.reconcile(&at(&dead, 200, 2)).unwrap().moved, [], "write {n}");
    }
}

#[test]
fn another_agent_finishes_what_one_left() {
    let (first, second) = (file(TWO, ""), file(DRAINED, THIRD));
    for n in 0..200 {
        let mut dying = agent(maps());
        dying.reconcile(&at(&first, 100, 1)).unwrap();
        dying.maps.maps.fail_at(n, io::ErrorKind::Other);
        if dying.reconcile(&at(&second, 200, 2)).is_ok() {
            assert!(n > 10, "a plan of {n} writes");
            return;
        }
        let mut next = agent(dying.maps.maps.clone());
        next.survey(&second, &Apart::default(), Duration::ZERO).unwrap();
        next.reconcile(&at(&second, 201, 2)).unwrap();
        next.reconcile(&at(&second, 206, 2)).unwrap();
        assert_eq!(next.reconcile(&at(&second, 207, 2)).unwrap().writes, 0, "dead at write {n}");
        assert!(!window(&next, "dns"), "dead at write {n}");
    }
    panic!("no plan has 200 writes");
}

fn id(agent: &Reconciler<Twin>, name: &str) -> u16 {
    let observed = agent.maps().observe();
    observed.services.iter().find(|(_, s)| plan::name(s) == name).map(|(&id, _)| id).unwrap()
}

fn window(agent: &Reconciler<Twin>, name: &str) -> bool {
    agent.maps().observe().services[&id(agent, name)].config().flags & TRACK_WINDOW != 0
}

fn dirty(agent: &Reconciler<Twin>, name: &str) -> usize {
    let observed = agent.maps().observe();
    let slots = &observed.ring(id(agent, name)).unwrap().slots;
    slots.now.iter().filter(|now| Slot(**now).is_dirty()).count()
}

#[test]
fn a_window_opens_waits_and_closes() {
    let (first, second) = (file(TWO, ""), file(DRAINED, ""));
    let mut agent = agent(maps());
    agent.reconcile(&at(&first, 100, 1)).unwrap();
    let opened = agent.reconcile(&at(&second, 200, 2)).unwrap();
    assert!(window(&agent, "dns") && !window(&agent, "web"), "TCP needs none");
    assert_eq!((dirty(&agent, "dns"), opened.wake), (0, Some(205)));
    assert_eq!(dirty(&agent, "web"), 0, "one ring for both: what changes, changes for both");
    let early = agent.reconcile(&at(&second, 204, 2)).unwrap();
    assert_eq!((early.writes, early.wake), (0, Some(205)), "never extended");
    let over = agent.reconcile(&at(&second, 205, 2)).unwrap();
    assert!(over.writes > 0 && !window(&agent, "dns") && dirty(&agent, "dns") > 0);
    assert!(agent.windows.is_empty(), "{:?}", agent.windows);
}

/// While the window is still open in the maps, a failed write does not make it start again.
#[test]
fn a_failure_at_the_end_of_a_window_does_not_extend_it() {
    let (first, second) = (file(TWO, ""), file(DRAINED, ""));
    let mut failures = 0;
    for n in 0.. {
        let mut agent = agent(maps());
        agent.reconcile(&at(&first, 100, 1)).unwrap();
        agent.reconcile(&at(&second, 200, 2)).unwrap();
        agent.maps.maps.fail_at(n, io::ErrorKind::Other);
        if agent.reconcile(&at(&second, 205, 2)).is_ok() {
            break;
        }
        if window(&agent, "dns") {
            failures += 1;
            agent.reconcile(&at(&second, 205, 2)).unwrap();
            assert!(!window(&agent, "dns") && dirty(&agent, "dns") > 0, "write {n} opened another window");
        }
    }
    assert!(failures > 0, "no write failed in an open window");
}

#[test]
fn a_death_waits_for_no_window() {
    let (first, second) = (file(TWO, ""), file(DEAD, ""));
    let mut agent = agent(maps());
    agent.reconcile(&at(&first, 100, 1)).unwrap();
    agent.reconcile(&at(&second, 200, 2)).unwrap();
    assert!(!window(&agent, "dns") && dirty(&agent, "dns") > 0);
}

#[test]
fn a_survey_cleans_slots_that_nobody_needs_dirty() {
    let (first, second) = (file(TWO, ""), file(DEAD, ""));
    let mut agent = agent(maps());
    agent.reconcile(&at(&first, 100, 1)).unwrap();
    agent.reconcile(&at(&second, 200, 1)).unwrap();
    let before = dirty(&agent, "web");
    assert!(before > 0);
    agent.survey(&second, &Apart::default(), Duration::from_secs(200)).unwrap();
    assert_eq!(dirty(&agent, "web"), before, "packets of before the change may be under way");
    agent.survey(&second, &Apart::default(), Duration::from_secs(202)).unwrap();
    assert_eq!(dirty(&agent, "web"), 0, "the older backend is dead and nobody is remembered");
}

#[test]
fn a_slot_waits_for_flow_timeout_while_its_older_backend_lives() {
    let (first, second) = (file(TWO, ""), file(DRAINED, ""));
    let mut agent = agent(maps());
    agent.reconcile(&at(&first, 100, 1)).unwrap();
    agent.reconcile(&at(&second, 200, 1)).unwrap();
    let web = dirty(&agent, "web");
    let timeout = second.services.iter().find(|s| s.name == "web").unwrap().flow_timeout.as_secs();
    agent.survey(&second, &Apart::default(), Duration::from_secs(200 + timeout)).unwrap();
    assert_eq!(dirty(&agent, "web"), web);
    agent.survey(&second, &Apart::default(), Duration::from_secs(201 + timeout)).unwrap();
    assert_eq!(dirty(&agent, "web"), 0);
}

#[test]
fn a_survey_sweeps_and_its_census_guards_the_next_plan() {
    let (first, second) = (file(TWO, THIRD), file(TWO, ""));
    let mut agent = agent(maps());
    agent.reconcile(&at(&first, 100, 1)).unwrap();
    let (web, sip) = (id(&agent, "web"), id(&agent, "sip"));
    let entry = |service, expiry| FlowEntry::new(FlowKey::new(service, FlowHash(3)), 1, expiry, false).0;
    agent.maps.maps.remember(3, 0, entry(web, 200));
    agent.maps.maps.remember(3, 1, entry(sip, 200));
    agent.maps.maps.remember(3, 2, entry(web, 100 + TICKS - 80));
    agent.reconcile(&at(&second, 200, 2)).unwrap();
    // Its id is not free until a survey has seen that nothing names it.
    assert!(agent.census.services.contains(&sip), "{:?}", agent.census);
    let found = agent.survey(&second, &Apart::default(), Duration::from_secs(210)).unwrap();
    assert_eq!(found.orphaned, 1);
    assert!(
        agent.census.services.contains(&sip),
        "seen by this survey, swept by it, free after the next one"
    );
    let left: Vec<u64> =
        agent.maps.maps.flow_sets().flat_map(|(_, set)| set.entries).filter(|e| *e != 0).collect();
    assert_eq!(left, [entry(web, 200)]);
    agent.survey(&second, &Apart::default(), Duration::from_secs(220)).unwrap();
    assert!(agent.census.services.is_empty());
    agent.reconcile(&at(&first, 230, 3)).unwrap();
    assert_eq!(id(&agent, "sip"), sip, "free again");
}

/// A connection that began at a backend after the last survey is not in the census, and keeps its backend all the
/// same when that is taken out of the file.
#[test]
fn a_backend_is_not_forgotten_before_a_survey_has_counted_its_flows() {
    let without = "{ address: 10.0.0.1, state: drain }, { address: 10.0.0.2 }";
    let (first, second, third) = (file(TWO, ""), file(DRAINED, ""), file(without, ""));
    let mut agent = agent(maps());
    agent.reconcile(&at(&first, 100, 1)).unwrap();
    agent.reconcile(&at(&second, 200, 2)).unwrap();
    agent.reconcile(&at(&second, 205, 2)).unwrap();
    agent.survey(&second, &Apart::default(), Duration::from_secs(210)).unwrap();
    let web = id(&agent, "web");
    let young = |agent: &Reconciler<Twin>| {
        let observed = agent.maps().observe();
        let members = &observed.ring(web).unwrap().members;
        members
            .iter()
            .find(|(_, m)| crate::template::from_map(m.address) == IpAddr::from([10, 0, 0, 3]))
            .map(|m| *m.0)
    };
    let local = young(&agent).unwrap();
    // In a slot that the drained backend had before.
    let ring = agent.maps().observe().ring(web).unwrap().clone();
    let slot = ring.slots.now.iter().position(|&now| now == Slot::dirty(local).0).unwrap() as u64;
    let hash = FlowHash((slot * 2 + 1) * (1 << xdp_lb_common::hash::TAG_BITS) / 62);
    assert_eq!(u64::from(hash.slot(31)), slot);
    agent.maps.maps.remember(0, 0, FlowEntry::new(FlowKey::new(web, hash), local, 1000, false).0);
    for now in [220, 225, 226] {
        agent.reconcile(&at(&third, now, 3)).unwrap();
        assert!(young(&agent).is_some(), "forgotten at {now}");
    }
    agent.survey(&third, &Apart::default(), Duration::from_secs(230)).unwrap();
    agent.reconcile(&at(&third, 230, 3)).unwrap();
    assert!(young(&agent).is_some(), "forgotten with a live flow");
    agent.maps.tick.set(1001);
    for now in [7900, 7910] {
        agent.survey(&third, &Apart::default(), Duration::from_secs(now)).unwrap();
        agent.reconcile(&at(&third, now, 3)).unwrap();
    }
    assert!(young(&agent).is_none(), "nobody is left");
}

#[test]
fn a_configuration_that_does_not_fit_changes_nothing() {
    let first = file(TWO, "");
    let mut agent = agent(maps());
    agent.reconcile(&at(&first, 100, 1)).unwrap();
    let before = seen(&agent);
    let mut larger = first.clone();
    larger.services[0].table_size = crate::model::TableSize::new(251).unwrap();
    let error = agent.reconcile(&at(&larger, 200, 2)).unwrap_err();
    assert!(matches!(error, ReconcileError::Plan(PlanError::MovesEverything { .. })), "{error}");
    assert_eq!((seen(&agent), agent.generation()), (before, 1));
}

#[test]
fn a_restarted_agent_goes_on_with_the_generation() {
    let first = file(TWO, "");
    let mut agent = agent(maps());
    agent.reconcile(&at(&first, 100, 9)).unwrap();
    let next = tests::agent(agent.maps.maps.clone());
    assert_eq!(next.generation(), 9);
    assert_eq!(next.plan(&next.maps().observe(), &at(&first, 300, 9)).unwrap().ops, []);
}
