//! Two CPUs at once, and the agent beside them: plain stores to the same sets, no lock, no lost call.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;

use xdp_lb::model::Protocol;
use xdp_lb::state::{Maps, SlotChange};
use xdp_lb_common::flow::FlowEntry;
use xdp_lb_common::hash::{FlowHash, TAG_MASK, mix};
use xdp_lb_common::parse::Segment;
use xdp_lb_common::ring::Slot;
use xdp_lb_common::select::{Flow, choose};
use xdp_lb_common::service::ServiceConfig;

use crate::common::agent::{Agent, TICK_SHIFT};
use crate::common::wanted::{desired, service};
use crate::lens::{Broken, Lens};
use crate::model::CAPACITY;

const FLOWS: u64 = 1000;
const ROUNDS: u64 = 150;

fn flow(n: u64) -> FlowHash {
    FlowHash(mix(n ^ 0xc_0de << 40))
}

struct Node {
    agent: Agent,
    config: ServiceConfig,
    wrong: AtomicU64,
}

impl Node {
    fn new() -> Self {
        let mut agent = Agent::new(CAPACITY);
        agent.run(&desired(vec![service("sip", Protocol::Udp, 1..=5)]));
        let config = *agent.maps.observe().services[&1].config();
        Self { agent, config, wrong: AtomicU64::new(0) }
    }

    /// The slots' backends as they are.
    fn ring(&self) -> Vec<u16> {
        self.agent.maps.observe().ring(1).unwrap().slots.now.iter().map(|&s| Slot(s).backend()).collect()
    }

    /// One CPU: all flows, again and again, while the clock goes on; each must go where `home` says.
    fn work(&self, broken: Broken, start: u64, home: &[u16]) {
        for round in 0..ROUNDS {
            let jiffies = self.agent.jiffies() + (round << TICK_SHIFT) / 8;
            let lens = Lens { cpu: self.agent.maps.cpu(jiffies), broken };
            for n in 0..FLOWS {
                let hash = flow((n + start) % FLOWS);
                let packet = Flow { service: 1, config: &self.config, hash, segment: Segment::Datagram };
                let backend = choose(&lens, &packet).unwrap().backend;
                if backend != home[hash.slot(self.config.table_size) as usize] {
                    self.wrong.fetch_add(1, Relaxed);
                }
            }
        }
    }

    /// Every flow on both CPUs at the same time; `agent` runs beside them.
    fn both(&self, broken: Broken, home: &[u16], agent: impl FnOnce() + Send) {
        thread::scope(|scope| {
            scope.spawn(|| self.work(broken, 0, home));
            scope.spawn(|| self.work(broken, 1, home));
            scope.spawn(agent);
        });
    }

    /// Every slot gets another backend, one store each, as a planned change does it.
    fn retarget(&self, home: &[u16]) {
        for (slot, &older) in (0u32..).zip(home) {
            let now = Slot::dirty((older + 1) % 5).0;
            let change = SlotChange { slot, before: Some(older), now };
            self.agent.maps.set_slots(self.config.slot_base, &[change]).unwrap();
            thread::yield_now();
        }
    }
}

fn story(broken: Broken) -> Node {
    let node = Node::new();
    let home = node.ring();
    // Everybody is born on both CPUs at once, on clean slots: no store may be anybody else's.
    node.both(broken, &home, || {});
    // All slots change under way, while expiry is refreshed from both sides.
    node.both(broken, &home, || node.retarget(&home));
    node
}

#[test]
fn two_cpus_and_the_agent() {
    let node = story(Broken::Nothing);
    assert_eq!(node.wrong.load(Relaxed), 0, "flows moved");
    let known: BTreeSet<(u32, u64)> =
        (0..FLOWS).map(|n| (flow(n).set(CAPACITY.flow_sets - 1), flow(n).0 & TAG_MASK)).collect();
    let mut seen = BTreeSet::new();
    for (set, content) in node.agent.maps.flow_sets() {
        for entry in content.entries.into_iter().filter(|&e| e != 0).map(FlowEntry) {
            assert!(known.contains(&(set, entry.tag())), "nobody stored {entry:x?} in set {set}");
            assert_eq!(entry.service(), 1, "{entry:x?}");
            let home = node.agent.maps.observe().ring(1).unwrap().slots.before
                [xdp_lb_common::hash::slot_of_tag(entry.tag(), node.config.table_size) as usize];
            assert_eq!(entry.backend(), home, "{entry:x?}");
            seen.insert((set, entry.tag()));
        }
    }
    assert_eq!(seen, known, "somebody was forgotten");
}

#[test]
fn without_memory_the_change_is_felt() {
    assert!(story(Broken::Memory).wrong.load(Relaxed) > 0);
}

/// New flows on dirty slots while the slots change: whoever was stored twice still has one backend from then on.
#[test]
fn born_in_a_race() {
    let node = Node::new();
    let home = node.ring();
    node.retarget(&home);
    let anybody = node.ring();
    node.both(Broken::Nothing, &anybody, || {
        for turn in 0..40u16 {
            for (slot, &older) in (0u32..).zip(&home) {
                let change = SlotChange { slot, before: None, now: Slot::dirty((older + turn) % 5).0 };
                node.agent.maps.set_slots(node.config.slot_base, &[change]).unwrap();
            }
            thread::yield_now();
        }
    });
    // The clock goes on; entries that nobody finds expire. Nobody moves for that.
    let first = settled(&node, 0);
    for tick in 1..200 {
        assert_eq!(settled(&node, tick * 8), first, "after {tick} times eight ticks");
    }
}

/// Where each flow is, one CPU asking.
fn settled(node: &Node, ticks: u64) -> Vec<u16> {
    let jiffies = node.agent.jiffies() + (ROUNDS << TICK_SHIFT) / 8 + (ticks << TICK_SHIFT);
    let lens = Lens { cpu: node.agent.maps.cpu(jiffies), broken: Broken::Nothing };
    let at = |n| {
        let packet = Flow { service: 1, config: &node.config, hash: flow(n), segment: Segment::Datagram };
        choose(&lens, &packet).unwrap().backend
    };
    (0..FLOWS).map(at).collect()
}
