//! Every way a next hop can come, change and go.

use std::collections::BTreeSet;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use xdp_lb::netlink::links::links;
use xdp_lb::netlink::{NextHops, Requests, Resolver, Timing, settle};
use xdp_lb::nexthop::{Mac, NextHop, Resolution, Snapshot, UnresolvedReason};

use crate::namespaces::{Peer, in_namespaces, ip, run, sysctl};

const E: [Mac; 2] = [[2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]];
const P: [Mac; 2] = [[2, 0, 0, 0, 1, 1], [2, 0, 0, 0, 1, 2]];

/// No audit: what these tests see, notifications told. Probes come quickly.
const TIMING: Timing = Timing {
    coalesce: Duration::from_millis(20),
    probe: Duration::from_millis(300),
    audit: Duration::from_secs(3600),
    reopen: Duration::from_millis(100),
};

const LIMIT: Duration = Duration::from_secs(15);

/// A running resolver.
struct Running {
    resolver: Resolver,
    changes: watch::Receiver<Arc<Snapshot>>,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Running {
    async fn start(addresses: &[&str]) -> Self {
        Self::start_with(addresses, TIMING).await
    }

    async fn start_with(addresses: &[&str], timing: Timing) -> Self {
        let (stop, stopped) = watch::channel(false);
        let (resolver, task) = Resolver::start(set(addresses), timing, stopped).await.unwrap();
        Self { changes: resolver.changes(), resolver, stop, task }
    }

    /// Waits until `address` resolves to what `wanted` accepts.
    async fn until(&mut self, address: &str, wanted: impl Fn(&Resolution) -> bool) -> Resolution {
        let key: IpAddr = address.parse().unwrap();
        let wait = self.changes.wait_for(|s| s.resolve(key).is_some_and(&wanted));
        if let Ok(snapshot) = timeout(LIMIT, wait).await {
            return snapshot.unwrap().resolve(key).unwrap().clone();
        }
        panic!("{address} stays {:?}; {}", self.resolver.resolve(key), run("ip", "neigh show"));
    }

    async fn until_hop(&mut self, address: &str, hop: &Resolution) {
        self.until(address, |r| r == hop).await;
    }

    async fn until_reason(&mut self, address: &str, wanted: impl Fn(&UnresolvedReason) -> bool) {
        self.until(address, |r| matches!(r, Resolution::Unresolved(reason) if wanted(reason))).await;
    }

    async fn stop(self) {
        self.stop.send(true).unwrap();
        timeout(Duration::from_secs(2), self.task).await.expect("stops when told").unwrap();
    }
}

fn set(addresses: &[&str]) -> BTreeSet<IpAddr> {
    addresses.iter().map(|address| address.parse().unwrap()).collect()
}

/// The next hop out of `e<wire>` with this destination.
async fn hop(wire: usize, source_mac: Mac, destination_mac: Mac) -> Resolution {
    let interface = format!("e{wire}");
    let links = links(&Requests::open().unwrap()).await.unwrap();
    let ifindex = links.by_name(&interface).unwrap().index;
    Resolution::Resolved(NextHop {
        ifindex,
        interface,
        source_mac,
        destination_mac,
        mtu: 1500,
        below: None,
        path_mtu: None,
    })
}

/// 10.0.W.0/24 and fd00:W::/64 on wire W; .1 is the edge, .2 the peer.
fn number(peer: &Peer) {
    for wire in 0..2 {
        ip(&format!("address add 10.0.{wire}.1/24 dev e{wire}"));
        ip(&format!("address add fd00:{wire}::1/64 dev e{wire} nodad"));
        peer.ip(&format!("address add 10.0.{wire}.2/24 dev p{wire}"));
        peer.ip(&format!("address add fd00:{wire}::2/64 dev p{wire} nodad"));
    }
}

#[test]
fn both_families_on_the_link_and_behind_gateways() {
    in_namespaces(async |peer| {
        number(&peer);
        ip("route add 10.9.0.0/16 via 10.0.1.2");
        ip("route add fd09::/16 via fd00:1::2");
        ip("route add 10.8.0.0/16 via inet6 fd00:1::2 dev e1");
        ip("route add blackhole 10.7.0.0/16");
        ip("route add unreachable 10.6.0.0/16");
        ip("route add prohibit 10.5.0.0/16");
        ip("-6 route add blackhole fd07::/16");
        ip("-6 route add unreachable fd06::/16");
        ip("-6 route add prohibit fd05::/16");
        let on_link = ["10.0.0.2", "fd00:0::2"];
        let behind = ["10.9.1.1", "fd09::1", "10.8.1.1"];
        let local = ["10.0.0.1", "fd00:1::1", "127.0.0.1", "::1"];
        let refused = [
            ("10.7.0.1", UnresolvedReason::Blackhole),
            ("10.6.0.1", UnresolvedReason::Unreachable),
            ("10.5.0.1", UnresolvedReason::Prohibited),
            ("fd07::1", UnresolvedReason::Blackhole),
            ("fd06::1", UnresolvedReason::Unreachable),
            ("fd05::1", UnresolvedReason::Prohibited),
            ("198.51.100.1", UnresolvedReason::NoRoute),
            ("2001:db8::1", UnresolvedReason::NoRoute),
            ("10.0.0.255", UnresolvedReason::NotUnicast),
        ];
        let mut all = [&on_link[..], &behind, &local].concat();
        all.extend(refused.iter().map(|(address, _)| *address));
        let running = Running::start(&all).await;
        let (snapshot, settled) = settle(&running.resolver, &set(&all), LIMIT).await;
        assert!(settled, "{snapshot:#?}");
        let got = |address: &str| snapshot.resolve(address.parse().unwrap()).unwrap().clone();
        for address in on_link {
            assert_eq!(got(address), hop(0, E[0], P[0]).await, "{address}");
        }
        for address in behind {
            assert_eq!(got(address), hop(1, E[1], P[1]).await, "{address}");
        }
        for address in local {
            assert_eq!(got(address), Resolution::Local, "{address}");
        }
        for (address, reason) in refused {
            assert_eq!(got(address), Resolution::Unresolved(reason), "{address}");
        }
        let router = [0, 0, 0x5e, 0, 1, 1];
        let backend = "198.51.100.1".parse().unwrap();
        assert_eq!(snapshot.resolve_through(backend, "e1", router), hop(1, E[1], router).await);
        let e0 = snapshot.links.by_name("e0").unwrap();
        assert_eq!((e0.kind.as_deref(), e0.mtu, e0.usable()), (Some("veth"), 1500, true));
        assert_eq!(snapshot.links.by_name("lo").unwrap().mac, Some([0; 6]), "loopback frames carry zeros");
        running.stop().await;
    });
}

#[test]
fn a_neighbour_that_appears_later_is_found() {
    in_namespaces(async |peer| {
        number(&peer);
        let mut running = Running::start(&["10.0.0.7", "fd00:0::7"]).await;
        for late in ["10.0.0.7", "fd00:0::7"] {
            running.until_reason(late, |r| matches!(r, UnresolvedReason::NeighbourFailed { .. })).await;
        }
        peer.ip("address add 10.0.0.7/24 dev p0");
        peer.ip("address add fd00:0::7/64 dev p0 nodad");
        for late in ["10.0.0.7", "fd00:0::7"] {
            running.until_hop(late, &hop(0, E[0], P[0]).await).await;
        }
        running.stop().await;
    });
}

#[test]
fn a_failed_neighbour_does_not_flap_while_it_is_asked_again() {
    in_namespaces(async |peer| {
        number(&peer);
        // The kernel does not tell that it asks again; reading the table shows it.
        let timing = Timing { audit: Duration::from_millis(100), ..TIMING };
        let mut running = Running::start_with(&["10.0.0.7"], timing).await;
        running.until_reason("10.0.0.7", |r| matches!(r, UnresolvedReason::NeighbourFailed { .. })).await;
        running.changes.mark_unchanged();
        let quiet = timeout(Duration::from_secs(4), running.changes.changed()).await;
        assert!(quiet.is_err(), "{:?}", running.changes.borrow());
        running.stop().await;
    });
}

#[test]
fn a_peer_that_goes_silent_is_noticed_without_traffic() {
    in_namespaces(async |peer| {
        number(&peer);
        for family in ["ipv4", "ipv6"] {
            sysctl(&format!("{family}/neigh/e0/delay_first_probe_time"), "1");
        }
        let both = ["10.0.0.2", "fd00:0::2"];
        let mut running = Running::start(&both).await;
        for address in both {
            running.until_hop(address, &hop(0, E[0], P[0]).await).await;
        }
        peer.ip("address del 10.0.0.2/24 dev p0");
        peer.ip("address del fd00:0::2/64 dev p0");
        // Stale is where an entry that no packet uses ends, and where the kernel alone leaves it.
        for address in both {
            ip(&format!("neigh change {address} lladdr 02:00:00:00:01:01 dev e0 nud stale"));
        }
        for address in both {
            running.until_reason(address, |r| matches!(r, UnresolvedReason::NeighbourFailed { .. })).await;
        }
        running.stop().await;
    });
}

/// XDP's packets never confirm a neighbour: without our care it would stay stale until the kernel throws it away.
#[test]
fn a_neighbour_that_no_packet_confirms_is_kept_alive() {
    in_namespaces(async |peer| {
        number(&peer);
        for family in ["ipv4", "ipv6"] {
            sysctl(&format!("{family}/neigh/e0/delay_first_probe_time"), "1");
        }
        let both = ["10.0.0.2", "fd00:0::2"];
        let mut running = Running::start(&both).await;
        for address in both {
            running.until_hop(address, &hop(0, E[0], P[0]).await).await;
            ip(&format!("neigh change {address} lladdr 02:00:00:00:01:01 dev e0 nud stale"));
        }
        running.changes.mark_unchanged();
        let reachable = |address| run("ip", &format!("neigh show {address} dev e0")).contains("REACHABLE");
        let asked = async {
            while !both.into_iter().all(reachable) {
                tokio::time::sleep(TIMING.coalesce).await;
            }
        };
        timeout(LIMIT, asked).await.unwrap_or_else(|_| panic!("{}", run("ip", "neigh show")));
        assert!(!running.changes.has_changed().unwrap(), "the next hop stood all the while");
        running.stop().await;
    });
}

#[test]
fn the_macs_of_both_ends_are_followed() {
    in_namespaces(async |peer| {
        number(&peer);
        let both = ["10.0.0.2", "fd00:0::2"];
        let mut running = Running::start(&both).await;
        for address in both {
            running.until_hop(address, &hop(0, E[0], P[0]).await).await;
        }
        let other: Mac = [2, 0, 0, 0, 1, 0x99];
        peer.ip("link set p0 address 02:00:00:00:01:99");
        // The new owner of the address says so by asking for us, as a router that took over would.
        peer.run(|| {
            for (from, to) in [("10.0.0.2:0", "10.0.0.1:9"), ("[fd00:0::2]:0", "[fd00:0::1]:9")] {
                UdpSocket::bind(from).unwrap().send_to(b"hello", to).unwrap();
            }
        });
        for address in both {
            running.until_hop(address, &hop(0, E[0], other).await).await;
        }
        let own: Mac = [2, 0, 0, 0, 0, 0x99];
        ip("link set e0 address 02:00:00:00:00:99");
        for address in both {
            running.until_hop(address, &hop(0, own, other).await).await;
        }
        running.stop().await;
    });
}

#[test]
fn links_and_carriers_go_down_and_up() {
    in_namespaces(async |peer| {
        number(&peer);
        ip("route add 10.9.0.0/16 via 10.0.0.2");
        let all = ["10.0.0.2", "10.9.0.1", "fd00:0::2"];
        let mut running = Running::start(&all).await;
        let up = hop(0, E[0], P[0]).await;
        for address in all {
            running.until_hop(address, &up).await;
        }
        peer.ip("link set p0 down");
        running
            .until_reason(
                "10.9.0.1",
                |r| matches!(r, UnresolvedReason::LinkDown { interface } if interface == "e0"),
            )
            .await;
        peer.ip("link set p0 up");
        running.until_hop("10.9.0.1", &up).await;
        // Down by the operator takes the routes away, without telling each.
        ip("link set e0 down");
        for address in all {
            running.until_reason(address, |r| *r == UnresolvedReason::NoRoute).await;
        }
        ip("link set e0 up");
        running.until_hop("10.0.0.2", &up).await;
        ip("route add 10.9.0.0/16 via 10.0.0.2");
        running.until_hop("10.9.0.1", &up).await;
        ip("link del e0");
        running.until_reason("10.9.0.1", |r| *r == UnresolvedReason::NoRoute).await;
        running.stop().await;
    });
}

#[test]
fn routes_move_come_and_go() {
    in_namespaces(async |peer| {
        number(&peer);
        ip("route add 10.9.0.0/16 via 10.0.0.2");
        ip("route add default via 10.0.0.2");
        ip("-6 route add default via fd00:0::2");
        let all = ["10.9.0.1", "198.51.100.1", "2001:db8::1"];
        let mut running = Running::start(&all).await;
        for address in all {
            running.until_hop(address, &hop(0, E[0], P[0]).await).await;
        }
        ip("route replace 10.9.0.0/16 via 10.0.1.2");
        running.until_hop("10.9.0.1", &hop(1, E[1], P[1]).await).await;
        // More specific wins, and its end is noticed.
        ip("route add 10.9.0.1/32 via 10.0.0.2");
        running.until_hop("10.9.0.1", &hop(0, E[0], P[0]).await).await;
        ip("route del 10.9.0.1/32");
        running.until_hop("10.9.0.1", &hop(1, E[1], P[1]).await).await;
        ip("route del default");
        ip("-6 route del default");
        for address in &all[1..] {
            running.until_reason(address, |r| *r == UnresolvedReason::NoRoute).await;
        }
        // A rule moves a destination without any route changing.
        ip("route add 203.0.113.0/24 via 10.0.0.2 table 77");
        running.resolver.follow(set(&["203.0.113.1"]));
        running.until_reason("203.0.113.1", |r| *r == UnresolvedReason::NoRoute).await;
        ip("rule add to 203.0.113.0/24 table 77");
        running.until_hop("203.0.113.1", &hop(0, E[0], P[0]).await).await;
        assert_eq!(running.changes.borrow().resolutions.len(), 1, "only what is followed");
        // The backend becomes this node itself, and ceases to be.
        ip("address add 203.0.113.1/32 dev lo");
        running.until("203.0.113.1", |r| *r == Resolution::Local).await;
        ip("address del 203.0.113.1/32 dev lo");
        running.until_hop("203.0.113.1", &hop(0, E[0], P[0]).await).await;
        running.stop().await;
    });
}

#[test]
fn each_destination_of_a_multipath_route_keeps_one_way() {
    in_namespaces(async |peer| {
        number(&peer);
        ip("route add 10.9.0.0/16 nexthop via 10.0.0.2 nexthop via 10.0.1.2");
        let addresses: BTreeSet<IpAddr> = (0..64).map(|i| IpAddr::V4(Ipv4Addr::new(10, 9, 0, i))).collect();
        let (_stop, stopped) = watch::channel(false);
        let (resolver, _task) = Resolver::start(addresses.clone(), TIMING, stopped).await.unwrap();
        let (first, settled) = settle(&resolver, &addresses, LIMIT).await;
        assert!(settled);
        let ways: BTreeSet<_> = first.resolutions.values().map(|r| r.next_hop().unwrap()).collect();
        assert_eq!(ways.len(), 2, "backends spread over both uplinks");
        // Another resolver, the same answers.
        let (_stop, stopped) = watch::channel(false);
        let (again, _task) = Resolver::start(addresses.clone(), TIMING, stopped).await.unwrap();
        let (second, _) = settle(&again, &addresses, LIMIT).await;
        assert_eq!(first.resolutions, second.resolutions);
    });
}

/// Every way that a way can die, for both families and for routes by nexthop objects: who used it moves, nobody else,
/// and returns.
#[test]
fn a_multipath_route_loses_a_way_and_gets_it_back() {
    in_namespaces(async |peer| {
        number(&peer);
        for family in ["ipv4", "ipv6"] {
            for wire in 0..2 {
                sysctl(&format!("{family}/neigh/e{wire}/delay_first_probe_time"), "1");
            }
        }
        ip("route add 10.9.0.0/16 nexthop via 10.0.0.2 nexthop via 10.0.1.2");
        ip("route add fd09::/16 nexthop via fd00:0::2 nexthop via fd00:1::2");
        ip("nexthop add id 1 via 10.0.0.2 dev e0");
        ip("nexthop add id 2 via 10.0.1.2 dev e1");
        ip("nexthop add id 3 group 1/2");
        ip("route add 10.8.0.0/16 nhid 3");
        let backends: BTreeSet<IpAddr> = (0..16u16)
            .flat_map(|i| {
                let v6 = Ipv6Addr::new(0xfd09, 0, 0, 0, 0, 0, 0, i);
                let v4 = |net| IpAddr::V4(Ipv4Addr::new(10, net, 0, i as u8));
                [v4(9), v4(8), IpAddr::V6(v6)]
            })
            .collect();
        let (stop, stopped) = watch::channel(false);
        let (resolver, task) = Resolver::start(backends.clone(), TIMING, stopped).await.unwrap();
        let mut changes = resolver.changes();
        let mut until = async |what: &str, wanted: &dyn Fn(&Snapshot) -> bool| {
            let Ok(snapshot) = timeout(LIMIT, changes.wait_for(|s| wanted(s))).await else {
                panic!("{what}; {}{}", run("ip", "neigh show"), run("ip", "route show"));
            };
            snapshot.unwrap().resolutions.clone()
        };
        let on = |s: &Snapshot, wire: &str| {
            let on = |b| s.resolve(b).and_then(Resolution::next_hop).is_some_and(|hop| hop.interface == wire);
            backends.iter().filter(|b| on(**b)).count()
        };
        let both =
            |s: &Snapshot| on(s, "e0") + on(s, "e1") == backends.len() && on(s, "e0") > 0 && on(s, "e1") > 0;
        let first = until("both wires are used", &both).await;
        for family in [4, 6] {
            let of = |wire: &str| {
                let of = |(b, r): &(&IpAddr, &Resolution)| {
                    b.is_ipv6() == (family == 6) && r.next_hop().unwrap().interface == wire
                };
                first.iter().filter(of).count()
            };
            assert!(of("e0") > 0 && of("e1") > 0, "IPv{family} uses both wires");
        }

        // A router falls silent; its wire is still there.
        peer.ip("address del 10.0.1.2/24 dev p1");
        peer.ip("address del fd00:1::2/64 dev p1");
        for gateway in ["10.0.1.2", "fd00:1::2"] {
            ip(&format!("neigh change {gateway} lladdr 02:00:00:00:01:02 dev e1 nud stale"));
        }
        until("all leave by e0", &|s| on(s, "e0") == backends.len()).await;
        peer.ip("address add 10.0.1.2/24 dev p1");
        peer.ip("address add fd00:1::2/64 dev p1 nodad");
        until("as it was", &|s| s.resolutions == first).await;

        // The wire goes.
        peer.ip("link set p0 down");
        until("all leave by e1", &|s| on(s, "e1") == backends.len()).await;
        peer.ip("link set p0 up");
        peer.ip("address add fd00:0::2/64 dev p0 nodad");
        // The kernel throws nexthop objects of a dead wire away; a routing daemon makes them anew.
        ip("nexthop add id 1 via 10.0.0.2 dev e0");
        ip("nexthop replace id 3 group 1/2");
        until("as it was, again", &|s| s.resolutions == first).await;
        stop.send(true).unwrap();
        task.await.unwrap();
    });
}

#[test]
fn a_thousand_backends_behind_one_gateway_resolve_quickly() {
    in_namespaces(async |peer| {
        number(&peer);
        ip("route add 10.9.0.0/16 via 10.0.0.2");
        let addresses: BTreeSet<IpAddr> =
            (0..1000u32).map(|i| IpAddr::V4(Ipv4Addr::from_bits(0x0a09_0000 + i))).collect();
        let (_stop, stopped) = watch::channel(false);
        let started = Instant::now();
        let (resolver, _task) = Resolver::start(addresses.clone(), TIMING, stopped).await.unwrap();
        let (snapshot, settled) = settle(&resolver, &addresses, LIMIT).await;
        let took = started.elapsed();
        assert!(settled);
        let one = hop(0, E[0], P[0]).await;
        assert!(snapshot.resolutions.values().all(|r| *r == one));
        assert_eq!(run("ip", "neigh show dev e0").lines().filter(|l| l.starts_with("10.")).count(), 1);

        let moved = Instant::now();
        ip("route replace 10.9.0.0/16 via 10.0.1.2");
        let other = hop(1, E[1], P[1]).await;
        let mut changes = resolver.changes();
        let all_moved = changes.wait_for(|s| s.resolutions.values().all(|r| *r == other));
        timeout(LIMIT, all_moved).await.expect("all move").unwrap();
        println!("1000 backends: resolved in {took:?}, moved in {:?}", moved.elapsed());
        assert!(took < Duration::from_secs(2) && moved.elapsed() < Duration::from_secs(2));
    });
}

#[test]
fn notifications_lost_in_a_storm_are_made_up_for() {
    in_namespaces(async |peer| {
        number(&peer);
        ip("route add 10.9.0.0/16 via 10.0.0.2");
        let mut running = Running::start(&["10.9.0.1", "10.0.1.2"]).await;
        running.until_hop("10.9.0.1", &hop(0, E[0], P[0]).await).await;
        // This thread is also the resolver's, so nobody reads the socket meanwhile: it overflows, and the
        // news that matters, the last, is lost. One prefix only, or the number of them would mean "all".
        let mut batch = "route add 11.0.0.1/32 via 10.0.0.2\nroute del 11.0.0.1/32\n".repeat(10_000);
        batch.push_str("route replace 10.9.0.0/16 via 10.0.1.2\n");
        let mut child = Command::new("ip").args(["-batch", "-"]).stdin(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(batch.as_bytes()).unwrap();
        assert!(child.wait().unwrap().success());
        assert!(lost_notifications() > 0, "the socket did not overflow: this proves nothing");
        running.until_hop("10.9.0.1", &hop(1, E[1], P[1]).await).await;
        running.stop().await;
    });
}

#[test]
fn a_permanent_neighbour_is_used_and_left_alone() {
    in_namespaces(async |peer| {
        number(&peer);
        ip("neigh add 10.0.0.9 lladdr 02:00:00:00:09:09 dev e0 nud permanent");
        let mut running = Running::start(&["10.0.0.9"]).await;
        running.until_hop("10.0.0.9", &hop(0, E[0], [2, 0, 0, 0, 9, 9]).await).await;
        tokio::time::sleep(TIMING.probe * 4).await;
        assert!(run("ip", "neigh show 10.0.0.9").contains("PERMANENT"));
        running.stop().await;
    });
}

#[test]
fn the_task_ends_when_the_resolver_is_dropped() {
    in_namespaces(async |_peer| {
        let running = Running::start(&["127.0.0.1"]).await;
        drop((running.resolver, running.changes));
        timeout(Duration::from_secs(2), running.task).await.expect("ends").unwrap();
        drop(running.stop);
    });
}

/// Messages that netlink sockets of this namespace have lost.
fn lost_notifications() -> u64 {
    let sockets = std::fs::read_to_string("/proc/thread-self/net/netlink").unwrap();
    let drops = sockets.lines().skip(1).map(|line| line.split_whitespace().nth(8).unwrap());
    drops.map(|drops| drops.parse::<u64>().unwrap()).sum()
}
