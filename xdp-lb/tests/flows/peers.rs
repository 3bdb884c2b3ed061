//! Exception sync: an edge node is lost during a drain, and its clients go on through another that never saw them.

use std::time::Duration;

use xdp_lb::drains::{Drains, Written};
use xdp_lb::model::{AdminState, Protocol};
use xdp_lb::peers::exceptions::{Refusal, dirty, find, place, possible, way};
use xdp_lb::peers::message::Hashing;
use xdp_lb::peers::{Apart, Exception, Flows, Heard};
use xdp_lb::state::Maps;
use xdp_lb_common::parse::Segment;

use crate::common::wanted::{address, service};
use crate::lens::Broken;
use crate::model::{CAPACITY, Sim};

const SERVICES: [u16; 2] = [1, 2];

fn node() -> Sim {
    let services = vec![service("web", Protocol::Tcp, 1..=6), service("sip", Protocol::Udp, 1..=6)];
    Sim::with(CAPACITY, services, Broken::Nothing)
}

fn open(sim: &mut Sim, many: usize) {
    SERVICES.iter().for_each(|&service| (0..many).for_each(|_| _ = sim.open(service)));
}

fn drain(sim: &mut Sim, n: u8) {
    sim.set(n, AdminState::Drain);
    sim.run();
    // The window ends, and slots change.
    sim.pass(6);
    sim.run();
}

/// What `from` would tell, through a message and out of it again.
fn exceptions(from: &Sim, apart: &Apart) -> Vec<Exception> {
    let (maps, file) = (&from.agent.maps, &from.file);
    let all = find(&maps.observe(), &file.services, apart, maps.flow_sets(), from.agent.tick());
    let hashing = |name: &str| {
        let service = file.services.iter().find(|s| s.name == name)?;
        Some(Hashing::of(file.seed, service, CAPACITY.flow_sets))
    };
    Flows::pack(&all, hashing).iter().flat_map(Flows::unpack).collect()
}

/// What a node does with what it is told.
fn learn(to: &mut Sim, told: &[Exception]) -> Vec<Refusal> {
    let (tick, observed) = (to.agent.tick(), to.agent.maps.observe());
    let placed: Vec<_> = told.iter().map(|e| place(&observed, e, tick)).collect();
    let placements: Vec<_> = placed.iter().filter_map(|p| p.ok()).collect();
    dirty(&observed, &placements).iter().for_each(|op| to.agent.step(op, &observed).unwrap());
    let maps = &to.agent.maps;
    let one = |placed: Result<_, Refusal>| {
        let placement: xdp_lb::peers::exceptions::Placement = placed?;
        let (_, set) = maps.flow_sets().nth(placement.set as usize).expect("in the table");
        maps.remember(placement.set, way(&set, placement.entry, tick)?, placement.entry.0);
        Ok(())
    };
    placed.into_iter().filter_map(|placed| one(placed).err()).collect()
}

/// Clients of `lost` whose next packet reaches another backend by way of `other`.
fn broken(lost: &Sim, other: &mut Sim) -> usize {
    let segment = |service| if service == 1 { Segment::Data } else { Segment::Datagram };
    let moved = |c: &&crate::model::Conn| other.send(c.hash, c.service, segment(c.service)) != c.at;
    lost.conns.iter().filter(moved).count()
}

#[test]
fn a_node_lost_during_a_drain_breaks_nothing_when_its_exceptions_were_told() {
    let mut lost = node();
    let mut others = [node(), node()];
    assert!(!possible(&lost.agent.maps.observe()), "steady state");
    open(&mut lost, 300);
    assert_eq!(exceptions(&lost, &Apart::default()), []);
    drain(&mut lost, 1);
    others.iter_mut().for_each(|other| drain(other, 1));
    open(&mut lost, 300);
    assert!(possible(&lost.agent.maps.observe()));

    let told = exceptions(&lost, &Apart::default());
    assert!(told.len() < lost.conns.len() / 4, "{} of {} are exceptions", told.len(), lost.conns.len());
    let [alone, told_to] = &mut others;
    assert_eq!(learn(told_to, &told), []);
    assert_eq!(learn(told_to, &told), vec![Refusal::Known; told.len()], "once is enough");
    let (without, with) = (broken(&lost, alone), broken(&lost, told_to));
    eprintln!("{without} of {} moved without, {with} with {} told", lost.conns.len(), told.len());
    assert!(without > 50, "the test shows nothing: {without}");
    assert_eq!(with, 0);
}

#[test]
fn what_means_nothing_here_is_refused() {
    let mut lost = node();
    let mut other = node();
    open(&mut lost, 300);
    drain(&mut lost, 1);
    let told = exceptions(&lost, &Apart::default());
    assert!(!told.is_empty());
    let change = |change: &dyn Fn(&mut Exception)| {
        let mut changed = told[..1].to_vec();
        changed.iter_mut().for_each(change);
        changed
    };
    assert_eq!(learn(&mut other, &change(&|e| e.service = "gone".into())), [Refusal::Service]);
    let nobody = std::net::Ipv4Addr::LOCALHOST.into();
    assert_eq!(learn(&mut other, &change(&|e| e.backend = nobody)), [Refusal::Backend]);
    other.set(1, AdminState::Down);
    other.run();
    assert_eq!(learn(&mut other, &told[..1]), [Refusal::Backend], "down here");
}

/// Two nodes of which one drains by command, and what either knows of it.
struct Pair {
    drains: Sim,
    other: Sim,
    apart: [Apart; 2],
}

impl Pair {
    /// Clients of both nodes from before the drain and from after it.
    fn new() -> Self {
        let (mut drains, mut other) = (node(), node());
        // Other clients than the first node's.
        open(&mut other, 1);
        other.conns.clear();
        other.random(1 << 20);
        (0..5000).for_each(|_| _ = other.random(2));
        [&mut drains, &mut other].into_iter().for_each(|sim| open(sim, 300));
        drain(&mut drains, 1);
        other.pass(6);
        [&mut drains, &mut other].into_iter().for_each(|sim| open(sim, 300));
        let written = Written { backend: address(1), service: None, mode: None, max: None, since: 1 };
        let own: Drains = [written].into_iter().collect();
        let mut heard = Heard::default();
        let here = heard.apart(&own, &drains.file, 1);
        heard.hear("drains", own, Duration::ZERO);
        let there = heard.apart(&Drains::default(), &other.file, 1);
        Self { drains, other, apart: [here, there] }
    }

    /// Each tells the other.
    fn tell(&mut self) {
        let [here, there] = &self.apart;
        let told = [exceptions(&self.drains, here), exceptions(&self.other, there)];
        assert!(told.iter().all(|told| !told.is_empty()));
        let refused = [learn(&mut self.other, &told[0]), learn(&mut self.drains, &told[1])];
        assert!(refused.iter().flatten().all(|&r| r == Refusal::Known), "{refused:?}");
    }
}

#[test]
fn a_drain_by_command_on_one_node_breaks_nothing_whichever_is_lost() {
    let mut alone = Pair::new();
    let without = [broken(&alone.drains, &mut alone.other), broken(&alone.other, &mut alone.drains)];
    assert!(without.iter().all(|&n| n > 50), "the test shows nothing: {without:?}");
    for lost in 0..2 {
        let mut pair = Pair::new();
        pair.tell();
        let with = match lost {
            0 => broken(&pair.drains, &mut pair.other),
            _ => broken(&pair.other, &mut pair.drains),
        };
        assert_eq!(with, 0, "node {lost} is lost; without: {without:?}");
        assert_eq!(pair.drains.misdirected, Vec::<String>::new());
        assert_eq!(pair.other.misdirected, Vec::<String>::new());
    }
}

#[test]
fn connections_of_the_other_node_find_their_backend_though_nobody_told_of_them() {
    // Longer than a connection is remembered: of the slot that drains here, `before` alone knows where they are.
    let lost = |hold: bool| {
        let Pair { apart: [here, _], .. } = Pair::new();
        let (mut drains, mut other) = (node(), node());
        (0..60).for_each(|_| _ = other.open(1));
        drain(&mut drains, 1);
        for _ in 0..4 {
            drains.pass(2500);
            let mut found = drains.agent.look();
            if hold {
                found.hold(&drains.agent.maps.observe(), |service| here.is_in(service));
            }
            for clean in &found.clean {
                drains.agent.maps.clean(clean.index, clean.expected);
            }
        }
        broken(&other, &mut drains)
    };
    assert_eq!(lost(true), 0);
    assert!(lost(false) > 0, "the test shows nothing");
}
