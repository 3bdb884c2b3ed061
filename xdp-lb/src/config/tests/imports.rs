//! Services that no file describes: the same rules under other names of places, and one bad service costs only itself.

use std::net::IpAddr;
use std::ops::RangeInclusive;

use super::super::beside::beside;
use super::super::import::{Complaint, Import, Imported, Member, Said, Word, import};
use super::super::parse;
use crate::bgp::settings::When;
use crate::model::{
    AdminState, Affinity, Backend, Desired, DrainMode, Dscp, Ports, Removal, Share, Unmatched,
};

const FILE: &str = "
version: 1
interfaces: [{ name: eth0 }]
encap: { source_v4: 172.16.0.0/16, dscp: 10 }
maglev: { table_size: 251, seed: 1 }
vips: [{ address: 203.0.113.20, unmatched: pass }]
limits: { services: 3, backends: 8, vips: 3 }
bgp: { local_as: 65000, router_id: 10.0.0.1, peers: [{ address: 10.0.0.9, remote_as: 65001 }] }
services:
  - { name: file, vip: 203.0.113.10, protocol: tcp, ports: 80, backends: [{ address: 10.0.0.1 }], advertise: { when: always } }
";

fn file() -> Desired {
    parse(FILE).unwrap().desired
}

fn word(key: &'static [&'static str], origin: &str, value: Said) -> Word {
    Word { key, origin: origin.to_owned(), value }
}

fn text(key: &'static [&'static str], value: &str) -> Word {
    word(key, &format!("the {}", key.join(" ")), Said::Text(value.to_owned()))
}

fn yaml(key: &'static [&'static str], value: &str) -> Word {
    word(key, &format!("the {}", key.join(" ")), Said::Yaml(value.to_owned()))
}

fn member(address: &str) -> Member {
    let backend = Backend {
        address: address.parse().unwrap(),
        weight: 100,
        zone: None,
        state: AdminState::Active,
        share: Share::FULL,
        slice: Vec::new(),
        server_id: None,
        backup: false,
    };
    Member { backend, origin: format!("node of {address}"), server_id: None }
}

fn service(name: &str, vip: &str, port: &str, more: Vec<Word>, backends: &[&str]) -> Import {
    let mut words = vec![
        text(&["name"], name),
        text(&["vip"], vip),
        text(&["protocol"], "tcp"),
        word(&["ports"], "spec.ports", Said::List(vec![port.to_owned()])),
    ];
    words.extend(more);
    Import { words, backends: backends.iter().map(|address| member(address)).collect() }
}

fn good(import: &Import) -> Imported {
    super::super::import::import(import, &file().inherited).unwrap_or_else(|e| panic!("{e:#?}"))
}

fn bad(more: Vec<Word>, backends: &[&str]) -> Vec<(String, String)> {
    let complaints =
        import(&service("a", "203.0.113.20", "443", more, backends), &file().inherited).unwrap_err();
    complaints.into_iter().map(|Complaint { origin, message }| (origin, message)).collect()
}

#[test]
fn everything_a_file_may_say() {
    let more = vec![
        yaml(&["drain", "mode"], "shed"),
        yaml(&["drain", "max"], "10m"),
        yaml(&["affinity"], "client-ip"),
        yaml(&["health_check"], "{ kind: http, path: /healthz, interval: 5s }"),
        yaml(&["advertise", "when"], "{ min_healthy: 2 }"),
        yaml(&["table_size"], "1021"),
        word(
            &["source_ranges", "allow"],
            "spec.loadBalancerSourceRanges",
            Said::List(vec!["10.0.0.0/8".into()]),
        ),
        yaml(&["source_ranges", "deny"], "[10.9.0.0/16]"),
    ];
    let imported = good(&service("a", "203.0.113.20", "443", more, &["10.1.0.2", "10.1.0.1"]));
    let service = imported.service;
    assert_eq!(service.ports, Ports::Ranges(vec![443..=443]));
    assert_eq!((service.drain.mode, service.drain.max.as_secs()), (DrainMode::Shed, 600));
    assert_eq!(service.affinity, Affinity::ClientIp);
    assert_eq!(service.health.unwrap().interval.as_secs(), 5);
    assert_eq!((imported.when, service.table_size.get()), (When::MinHealthy(2), 1021));
    assert_eq!(service.source_ranges.allow, [("10.0.0.0".parse().unwrap(), 8)]);
    assert_eq!(service.source_ranges.deny, [("10.9.0.0".parse().unwrap(), 16)]);
    let addresses: Vec<String> = service.backends.iter().map(|b| b.address.to_string()).collect();
    assert_eq!(addresses, ["10.1.0.1", "10.1.0.2"]);
    assert_eq!(service.removal, Removal::Down);
    assert_eq!(imported.warnings, []);
}

#[test]
fn what_it_does_not_say_is_the_files() {
    let imported = good(&service("a", "203.0.113.20", "443", vec![], &["10.1.0.1"]));
    let file = file();
    assert_eq!(imported.service.encap, file.services[0].encap);
    assert_eq!(imported.service.encap.dscp, Dscp::Set(10));
    assert_eq!(imported.service.table_size.get(), 251);
    let own = good(&service("a", "203.0.113.20", "443", vec![yaml(&["encap", "dscp"], "46")], &["10.1.0.1"]));
    assert_eq!(own.service.encap.dscp, Dscp::Set(46));
    assert_eq!(own.service.encap.source_v4, file.services[0].encap.source_v4);
}

/// Every mistake in one go, each where it was made.
#[test]
fn mistakes_have_the_places_of_their_source() {
    let more = vec![
        yaml(&["drain", "max"], "soon"),
        yaml(&["health_check"], "{ kind: http, pathh: / }"),
        yaml(&["affinity"], "[client-ip"),
        word(&["source_ranges", "allow"], "spec.ranges", Said::List(vec!["10.0.0.0/8".into(), "x".into()])),
    ];
    let mut origins: Vec<String> = bad(more, &["10.1.0.1"]).into_iter().map(|(origin, _)| origin).collect();
    origins.sort();
    assert_eq!(origins, ["spec.ranges[1]", "the affinity", "the drain max", "the health_check.pathh"]);
    let [(origin, message)] = &bad(vec![], &["fd00::1"])[..] else { panic!() };
    assert_eq!(origin, "node of fd00::1");
    assert!(message.contains("needs an IPv6 outer source"), "{message}");
}

#[test]
fn what_backends_own_is_judged_too() {
    let slices = |ranges: [RangeInclusive<u16>; 2]| {
        let mut import = service(
            "a",
            "203.0.113.20",
            "1000-1999",
            vec![yaml(&["affinity"], "dest-port")],
            &["10.1.0.1", "10.1.0.2"],
        );
        for (member, range) in import.backends.iter_mut().zip(ranges) {
            member.backend.slice = vec![range];
        }
        super::super::import::import(&import, &file().inherited)
    };
    assert!(slices([1000..=1499, 1500..=1999]).is_ok());
    let errors = slices([1000..=1599, 1500..=1999]).unwrap_err();
    assert!(errors[0].message.contains("both own 1500-1599"), "{errors:?}");
    assert!(bad(vec![yaml(&["affinity"], "dest-port")], &["10.1.0.1"])[0].1.contains("needs `ports"));
}

#[test]
fn a_service_without_backends_is_one_with_a_warning() {
    let imported = good(&service("a", "203.0.113.20", "443", vec![], &[]));
    assert!(imported.service.backends.is_empty());
    assert!(imported.warnings[0].message.contains("drops its packets"));
}

#[test]
fn services_stand_beside_the_files() {
    let own = good(&service("a", "203.0.113.20", "443", vec![], &["10.1.0.1"]));
    let joined = beside(&file(), [&own]);
    assert!(joined.refused.is_empty());
    let desired = joined.desired;
    assert_eq!(desired.services, [file().services[0].clone(), own.service]);
    let vips: Vec<(String, Unmatched)> =
        desired.vips.iter().map(|vip| (vip.address.to_string(), vip.unmatched)).collect();
    assert_eq!(vips, [("203.0.113.10".into(), Unmatched::Drop), ("203.0.113.20".into(), Unmatched::Pass)]);
    let bgp: Vec<_> = desired.bgp.unwrap().vips.into_iter().map(|vip| vip.services).collect();
    assert_eq!(bgp, [vec![("file".to_owned(), When::Always)], vec![("a".to_owned(), When::AnyHealthy)]]);
    assert_eq!(beside(&file(), []).desired, file());
}

/// Who comes first stays; the next is judged as if the refused one were not there.
#[test]
fn a_clash_costs_the_later_one_alone() {
    let services = [
        good(&service("a", "203.0.113.10", "80", vec![], &["10.1.0.1"])),
        good(&service("b", "203.0.113.20", "443", vec![], &["10.1.0.1"])),
        good(&service("c", "203.0.113.20", "440-450", vec![], &["10.1.0.1"])),
        good(&service("d", "203.0.113.20", "450-460", vec![], &["10.1.0.1"])),
        good(&service("b", "203.0.113.30", "443", vec![], &["10.1.0.1"])),
    ];
    let joined = beside(&file(), &services);
    let names: Vec<&str> = joined.desired.services.iter().map(|s| s.name.as_str()).collect();
    assert_eq!(names, ["file", "b", "c"]);
    assert_eq!(joined.refused[&0], "service \"file\" has TCP port 80 of 203.0.113.10 already");
    assert_eq!(joined.refused[&3], "service \"c\" has TCP port 450 of 203.0.113.20 already");
    assert!(joined.refused[&4].contains("name of another"), "{}", joined.refused[&4]);
}

#[test]
fn no_tunnel_comes_back_to_the_balancer() {
    let services = [
        good(&service("a", "203.0.113.20", "443", vec![], &["203.0.113.10"])),
        good(&service("b", "10.0.0.1", "443", vec![], &["10.1.0.1"])),
        good(&service("c", "203.0.113.30", "443", vec![], &["203.0.113.30"])),
    ];
    let joined = beside(&file(), &services);
    assert_eq!(joined.refused.len(), 3, "{:?}", joined.refused);
    assert!(joined.refused.values().all(|why| why.contains("for ever")));
}

#[test]
fn what_does_not_fit_is_left_out_and_the_rest_stays() {
    let backends: Vec<String> = (1..=8).map(|n| format!("10.1.0.{n}")).collect();
    let backends: Vec<&str> = backends.iter().map(String::as_str).collect();
    let services = [
        good(&service("large", "203.0.113.20", "443", vec![], &backends)),
        good(&service("b", "203.0.113.20", "443", vec![], &backends[..3])),
        good(&service("c", "203.0.113.30", "443", vec![], &backends[..4])),
        good(&service("d", "203.0.113.30", "444", vec![], &[])),
    ];
    let joined = beside(&file(), &services);
    assert!(joined.refused[&0].contains("8 of `limits.backends`, 7 are left"), "{}", joined.refused[&0]);
    assert!(joined.refused[&3].contains("`limits.services`"), "{}", joined.refused[&3]);
    assert_eq!(joined.refused.len(), 2);
    let many = good(&service("m", "203.0.113.40", "1", vec![], &[]));
    let vips: Vec<Imported> = (1..4u8)
        .map(|n| {
            let mut one = many.clone();
            one.service.vips = vec![IpAddr::from([203, 0, 113, 40 + n])];
            one.service.name = format!("m{n}");
            one
        })
        .collect();
    let joined =
        beside(&Desired { limits: crate::model::Limits { services: 9, ..file().limits }, ..file() }, &vips);
    assert!(joined.refused[&2].contains("`limits.vips`"), "{:?}", joined.refused);
}
