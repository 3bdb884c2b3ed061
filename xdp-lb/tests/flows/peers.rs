//! Exception sync: an edge node is lost during a drain, and its clients go on through another that never saw them.

use xdp_lb::model::{AdminState, Protocol};
use xdp_lb::peers::exceptions::{Refusal, find, place, possible, way};
use xdp_lb::peers::message::Hashing;
use xdp_lb::peers::{Exception, Flows};
use xdp_lb::state::Maps;
use xdp_lb_common::parse::Segment;

use crate::common::wanted::service;
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
fn exceptions(from: &Sim) -> Vec<Exception> {
    let (maps, file) = (&from.agent.maps, &from.file);
    let all = find(&maps.observe(), &file.services, maps.flow_sets(), from.agent.tick());
    let hashing = |name: &str| {
        let service = file.services.iter().find(|s| s.name == name)?;
        Some(Hashing::of(file.seed, service, CAPACITY.flow_sets))
    };
    Flows::pack(&all, hashing).iter().flat_map(Flows::unpack).collect()
}

/// What a node does with what it is told.
fn learn(to: &Sim, told: &[Exception]) -> Vec<Refusal> {
    let (maps, tick) = (&to.agent.maps, to.agent.tick());
    let observed = maps.observe();
    let one = |exception: &Exception| {
        let placement = place(&observed, exception, tick)?;
        let (_, set) = maps.flow_sets().nth(placement.set as usize).expect("in the table");
        maps.remember(placement.set, way(&set, placement.entry, tick)?, placement.entry.0);
        Ok(())
    };
    told.iter().filter_map(|e| one(e).err()).collect()
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
    assert_eq!(exceptions(&lost), []);
    drain(&mut lost, 1);
    others.iter_mut().for_each(|other| drain(other, 1));
    open(&mut lost, 300);
    assert!(possible(&lost.agent.maps.observe()));

    let told = exceptions(&lost);
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
    let told = exceptions(&lost);
    assert!(!told.is_empty());
    let change = |change: &dyn Fn(&mut Exception)| {
        let mut changed = told[..1].to_vec();
        changed.iter_mut().for_each(change);
        changed
    };
    assert_eq!(learn(&other, &change(&|e| e.service = "gone".into())), [Refusal::Service]);
    let nobody = std::net::Ipv4Addr::LOCALHOST.into();
    assert_eq!(learn(&other, &change(&|e| e.backend = nobody)), [Refusal::Backend]);
    other.set(1, AdminState::Down);
    other.run();
    assert_eq!(learn(&other, &told[..1]), [Refusal::Backend], "down here");
}
