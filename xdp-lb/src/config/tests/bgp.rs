//! Rules of the `bgp` section over several keys, each broken alone.

use std::net::IpAddr;
use std::time::Duration;

use super::{edge, good, only, service};
use crate::bgp::settings::{Bgp, Community, Join, LargeCommunity, When};

/// A file with two services on one VIP, and this section.
fn file(services: [&str; 2], bgp: &str) -> String {
    let v = "203.0.113.10";
    let services = service("sip", v, "udp", "5060", services[0])
        + &service("rtp", v, "udp", "\"20000-20009\"", services[1]);
    format!("{}{bgp}\n", edge(&services))
}

fn plain(bgp: &str) -> String {
    file(["", ""], bgp)
}

fn section(peer: &str) -> String {
    plain(&format!("bgp: {{ local_as: 65010, router_id: 10.0.0.11, peers: [{{ {peer} }}] }}"))
}

fn read(text: &str) -> Bgp {
    good(text).desired.bgp.unwrap()
}

#[track_caller]
fn warned(text: &str, path: &str, words: &str) {
    let warnings = good(text).warnings;
    let found = warnings.iter().any(|w| w.path == path && w.message.contains(words));
    assert!(found, "{warnings:#?}");
}

#[test]
fn the_promised_section_is_read() {
    let text = plain(
        "bgp:
  local_as: 4200000001
  router_id: 10.0.0.11
  graceful_restart: true
  restart_time: 30s
  withdraw_grace: 5s
  drain_time: 0s
  communities: [\"64500:100\"]
  peers:
    - { address: 10.0.0.1, remote_as: 65001, password_file: /etc/xdp-lb/bgp.key, hold_time: 9s, bfd: { interval: 100ms, multiplier: 3 } }
    - { address: \"fd00::1\", remote_as: 4200000001, multihop: 4, local_pref: 200, med: 50, prepend: 0, gtsm: false, source: \"fd00::11\" }",
    );
    let bgp = read(&text);
    assert_eq!((bgp.local_as, bgp.restart_time), (4_200_000_001, Some(Duration::from_secs(30))));
    assert_eq!(bgp.attributes.communities, [Community(64_500 << 16 | 100)]);
    let [first, second] = &bgp.peers[..] else { panic!("{:?}", bgp.peers) };
    assert_eq!(first.bfd.unwrap().interval, Duration::from_millis(100));
    assert_eq!((first.link.ttl(bgp.local_as), first.link.hold_time), (1, 9));
    assert_eq!((second.link.hops, second.attributes.local_pref), (4, Some(200)));
    assert_eq!((second.link.ttl(bgp.local_as), second.link.min_ttl()), (4, None));
}

#[test]
fn every_vip_in_use_knows_its_services() {
    let text = file(
        [", advertise: { when: always }", ", advertise: { when: { min_healthy: 1 } }"],
        "vips: [{ address: 203.0.113.10, advertise: any, bgp: { large_communities: [\"1:2:3\"], med: 5 } }]
bgp: { local_as: 65010, router_id: 10.0.0.11, peers: [{ address: 10.0.0.1, remote_as: 65001 }] }",
    );
    let bgp = read(&text);
    let [vip] = &bgp.vips[..] else { panic!("{:?}", bgp.vips) };
    assert_eq!((vip.address, vip.join), ("203.0.113.10".parse::<IpAddr>().unwrap(), Join::Any));
    assert_eq!(vip.services, [("rtp".to_owned(), When::MinHealthy(1)), ("sip".to_owned(), When::Always)]);
    assert_eq!(vip.attributes.large_communities, [LargeCommunity(1, 2, 3)]);
    assert_eq!(vip.attributes.med, Some(5));
    // Nothing said: all of them, while anybody is healthy.
    let vip = &read(&section("address: 10.0.0.1, remote_as: 65001")).vips[0];
    assert_eq!((vip.join, vip.services[0].1), (Join::All, When::AnyHealthy));
}

#[test]
fn attributes_fit_the_kind_of_session() {
    let peer = |more: &str| section(&format!("address: 10.0.0.1, remote_as: {more}"));
    good(&peer("65010, local_pref: 200, prepend: 0"));
    good(&peer("65001, prepend: 3, med: 1"));
    only(&peer("65001, local_pref: 200"), "bgp.peers[0].local_pref", "iBGP alone");
    only(&peer("65010, prepend: 1"), "bgp.peers[0].prepend", "eBGP alone");
    only(&peer("65001, source: \"fd00::1\""), "bgp.peers[0].source", "another family");
    only(&peer("65001, hold_time: 10m"), "bgp.peers[0].send_hold_time", "longer than hold_time, 600s");
    let bgp = read(&peer("65001, gtsm: true, multihop: 3"));
    assert_eq!((bgp.peers[0].link.ttl(65_010), bgp.peers[0].link.min_ttl()), (255, Some(253)));
}

#[test]
fn peers_and_aggregates_once() {
    let one = "{ address: 10.0.0.1, remote_as: 65001 }";
    let with = |peers: &str, more: &str| {
        plain(&format!("bgp: {{ local_as: 65010, router_id: 10.0.0.11, peers: [{peers}]{more} }}"))
    };
    only(&with("", ""), "bgp.peers", "at least one router");
    only(&with(&format!("{one}, {one}"), ""), "bgp.peers[1].address", "first as bgp.peers[0].address");
    only(&with("{ address: 203.0.113.10, remote_as: 65001 }", ""), "bgp.peers[0].address", "is a VIP");
    let twice = ", aggregates: [{ prefix: 203.0.113.0/24 }, { prefix: 203.0.113.0/24 }]";
    only(&with(one, twice), "bgp.aggregates[1].prefix", "listed twice");
    warned(&with(one, ", aggregates: [{ prefix: 192.0.2.0/24 }]"), "bgp.aggregates[0].prefix", "no VIP");
    only(&with(one, "").replace("local_as: 65010, ", ""), "bgp.local_as", "missing");
}

#[test]
fn what_has_no_effect_is_a_warning() {
    warned(&file([", advertise: { when: always }", ""], ""), "services[0].advertise", "without `bgp`");
    warned(&plain("vips: [{ address: 203.0.113.10, advertise: any }]"), "vips[0].advertise", "without `bgp`");
    let bgp =
        "bgp: { local_as: 65010, router_id: 10.0.0.11, peers: [{ address: 10.0.0.1, remote_as: 65001 }] }";
    let many = file([", advertise: { when: { min_healthy: 2 } }", ""], bgp);
    warned(&many, "services[0].advertise", "never announced");
    let off = bgp.replace("router_id", "graceful_restart: false, restart_time: 3s, router_id");
    warned(&plain(&off), "bgp.restart_time", "no effect");
    assert_eq!(read(&plain(&off)).restart_time, None);
    let decap = format!(
        "version: 1\ndecap: {{ interfaces: [{{ name: eth0 }}], allow_sources: [10.0.0.0/8], vips: 203.0.113.1 }}\n{bgp}\n"
    );
    warned(&decap, "bgp", "nothing to announce");
}
