use std::collections::BTreeSet;

use super::*;
use crate::config;

/// Two services with backends 1 to 3, one with 1 alone; backend 3 of `web` drains by the file, 2 is down.
const FILE: &str = "version: 1
interfaces: [{ name: eth0 }]
encap: { source_v4: 172.16.0.0/16 }
maglev: { seed: 1 }
services:
  - { name: web, vip: 203.0.113.10, protocol: tcp, ports: 80, drain: { max: 1h },
      backends: [{ address: 10.0.0.1 }, { address: 10.0.0.2, state: down }, { address: 10.0.0.3, state: drain }] }
  - { name: sip, vip: 203.0.113.10, protocol: udp, ports: 5060, drain: { mode: shed, max: 2h },
      backends: [{ address: 10.0.0.1 }, { address: 10.0.0.2 }, { address: 10.0.0.3 }] }
  - { name: solo, vip: 203.0.113.10, protocol: udp, ports: 53, backends: [{ address: 10.0.0.1 }] }
";

fn file() -> Desired {
    config::parse(FILE).unwrap().desired
}

fn backend(n: u8) -> IpAddr {
    [10, 0, 0, n].into()
}

fn in_all(n: u8) -> Target {
    Target { backend: backend(n), service: None }
}

fn in_one(n: u8, service: &str) -> Target {
    Target { backend: backend(n), service: Some(service.into()) }
}

fn policy(mode: DrainMode, hours: u64) -> DrainPolicy {
    DrainPolicy { mode, max: Duration::from_secs(hours * 3600) }
}

fn state(drains: &Drains, service: &str, n: u8) -> AdminState {
    let desired = drains.apply(&file());
    let service = desired.services.iter().find(|s| s.name == service).unwrap();
    service.backends.iter().find(|b| b.address == backend(n)).unwrap().state
}

#[test]
fn a_drain_takes_from_the_service_what_it_does_not_say() {
    let mut drains = Drains::default();
    assert_eq!(drains.apply(&file()), file());
    drains.drain(in_all(1), Terms::default(), &file()).unwrap();
    assert_eq!(state(&drains, "web", 1), AdminState::Drain);
    assert_eq!(state(&drains, "sip", 1), AdminState::Drain);
    let own = Terms { mode: Some(DrainMode::Stick), max: Some(Duration::from_secs(7 * 3600)), since: 9 };
    drains.drain(in_one(1, "sip"), own, &file()).unwrap();
    assert_eq!(state(&drains, "sip", 1), AdminState::DrainBy(policy(DrainMode::Stick, 7)), "the nearer one");
    assert_eq!(state(&drains, "web", 1), AdminState::Drain);
    assert_eq!(state(&drains, "sip", 2), AdminState::Active, "nobody else");
}

#[test]
fn what_the_file_calls_down_stays_down() {
    let mut drains = Drains::default();
    drains.drain(in_all(2), Terms::default(), &file()).unwrap();
    assert_eq!(state(&drains, "web", 2), AdminState::Down);
    assert_eq!(state(&drains, "sip", 2), AdminState::Drain);
}

#[test]
fn said_again_it_has_begun_when_it_was_said_first() {
    let mut drains = Drains::default();
    drains.drain(in_all(1), Terms { since: 5, ..Terms::default() }, &file()).unwrap();
    let max = Some(Duration::from_secs(60));
    drains.drain(in_all(1), Terms { since: 50, max, ..Terms::default() }, &file()).unwrap();
    assert_eq!(drains.of("web", backend(1)), Some(&Terms { since: 5, max, mode: None }));
}

#[test]
fn what_cannot_be_is_refused_by_name() {
    let mut drains = Drains::default();
    let mut drain = |target| drains.drain(target, Terms::default(), &file()).map_err(|e| e.to_string());
    assert_eq!(drain(in_all(9)).unwrap_err(), "no service has the backend 10.0.0.9");
    assert_eq!(drain(in_one(2, "solo")).unwrap_err(), "service solo has no backend 10.0.0.2");
    assert_eq!(drain(in_one(1, "no")).unwrap_err(), "there is no service no");
    assert!(drains.is_empty());
    drains.drain(in_all(1), Terms::default(), &file()).unwrap();
    let mut undrain = |target: Target| drains.undrain(&target, &file());
    assert_eq!(undrain(in_one(1, "web")), Err(Refused::InAll(backend(1))));
    assert_eq!(undrain(in_all(3)), Err(Refused::ByFile(backend(3))));
    assert_eq!(undrain(in_one(3, "sip")), Err(Refused::NotDrained(backend(3))));
    assert_eq!(undrain(in_all(2)), Err(Refused::NotDrained(backend(2))));
    assert_eq!(undrain(in_all(1)), Ok(()));
    assert!(drains.is_empty());
}

#[test]
fn undrain_takes_one_service_or_all() {
    let all = |drains: &mut Drains| {
        for target in [in_one(1, "web"), in_one(1, "sip"), in_one(2, "sip")] {
            drains.drain(target, Terms::default(), &file()).unwrap();
        }
    };
    let left = |drains: &Drains| drains.iter().map(|(t, _)| t.clone()).collect::<BTreeSet<_>>();
    let mut drains = Drains::default();
    all(&mut drains);
    drains.undrain(&in_one(1, "web"), &file()).unwrap();
    assert_eq!(left(&drains), [in_one(1, "sip"), in_one(2, "sip")].into());
    all(&mut drains);
    drains.undrain(&in_all(1), &file()).unwrap();
    assert_eq!(left(&drains), [in_one(2, "sip")].into());
}

#[test]
fn it_is_read_as_it_was_written() {
    let mut drains = Drains::default();
    let own = Terms { mode: Some(DrainMode::Shed), max: Some(Duration::from_secs(1)), since: 9 };
    drains.drain(in_one(1, "sip"), own, &file()).unwrap();
    drains.drain(in_all(2), Terms::default(), &file()).unwrap();
    let written: Vec<Written> = (&drains).into();
    assert_eq!(written.into_iter().collect::<Drains>(), drains);
}
