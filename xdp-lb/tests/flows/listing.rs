//! What is remembered, listed and forgotten.

use std::collections::BTreeMap;

use xdp_lb::flows::{Filter, Listing, Unknown, find, list};
use xdp_lb::model::{AdminState, Protocol};
use xdp_lb::state::Maps;

use crate::common::wanted::{address, service};
use crate::lens::Broken;
use crate::model::{CAPACITY, Sim};

fn listed(sim: &Sim, filter: &Filter, most: usize) -> Result<Listing, Unknown> {
    let maps = &sim.agent.maps;
    list(&maps.observe(), maps.flow_sets(), sim.agent.tick(), filter, most)
}

fn of(service: &str) -> Filter {
    Filter { service: Some(service.into()), backend: None }
}

#[test]
fn flows_are_listed_by_service_and_backend_and_forgotten() {
    let services = vec![service("web", Protocol::Tcp, 1..=4), service("sip", Protocol::Udp, 1..=4)];
    let mut sim = Sim::with(CAPACITY, services, Broken::Nothing);
    (0..200).for_each(|_| _ = sim.open(2));
    sim.set(1, AdminState::Drain);
    sim.run();
    (0..100).for_each(|_| _ = sim.open(2));
    let mut at = BTreeMap::new();
    sim.conns.iter().for_each(|c| *at.entry(c.at).or_insert(0u64) += 1);

    let all = listed(&sim, &Filter::default(), 10).unwrap();
    assert_eq!((all.total, all.flows.len()), (300, 10));
    let counted: BTreeMap<_, u64> = all.counts.iter().map(|c| (c.backend, c.flows)).collect();
    assert_eq!(counted, at, "nobody of web is remembered");
    let drained = all.counts.iter().find(|c| c.backend == Some(address(1))).unwrap();
    assert_eq!(drained.away, drained.flows, "its slots send new flows elsewhere");
    assert!(all.counts.iter().filter(|c| c.backend != Some(address(1))).all(|c| c.away == 0));

    // One by one they are the connections.
    let one_by_one = listed(&sim, &of("sip"), usize::MAX).unwrap().flows;
    let mask = u64::from(CAPACITY.flow_sets - 1) << 32 | ((1 << xdp_lb_common::hash::TAG_BITS) - 1);
    let mut expected: Vec<_> = sim.conns.iter().map(|c| (c.at, c.hash.0 & mask)).collect();
    expected.sort();
    assert_eq!(one_by_one.iter().map(|f| (f.backend, f.flow)).collect::<Vec<_>>(), expected);
    assert!(one_by_one.iter().all(|f| f.left.as_secs() >= 290 && !f.is_closing));

    let filter = Filter { service: Some("sip".into()), backend: Some(address(1)) };
    let maps = &sim.agent.maps;
    let held = find(&maps.observe(), maps.flow_sets(), sim.agent.tick(), &filter).unwrap();
    assert_eq!(held.len() as u64, at[&Some(address(1))]);
    assert!(held.iter().all(|h| maps.sweep(h.set, h.way, h.entry)));
    assert_eq!(listed(&sim, &Filter::default(), 0).unwrap().total, 300 - held.len() as u64);
    // Their next packets go where their slots say.
    (0..sim.conns.len()).for_each(|conn| sim.data(conn));
    assert_eq!(sim.misdirected.len(), held.len());
    assert!(sim.conns.iter().all(|c| c.at != Some(address(1))));
}

#[test]
fn what_cannot_be_is_said() {
    let services = vec![service("web", Protocol::Tcp, 1..=2), service("sip", Protocol::Udp, 2..=3)];
    let sim = Sim::with(CAPACITY, services, Broken::Nothing);
    assert_eq!(listed(&sim, &of("gone"), 0), Err(Unknown::Service("gone".into())));
    let at =
        |service: Option<&str>, n| Filter { service: service.map(Into::into), backend: Some(address(n)) };
    assert_eq!(listed(&sim, &at(None, 9), 0), Err(Unknown::Backend(address(9))));
    assert_eq!(listed(&sim, &at(Some("web"), 3), 0), Err(Unknown::Backend(address(3))));
    assert_eq!(listed(&sim, &at(None, 3), 0), Ok(Listing::default()));
}
