//! VIPs on `lo`: ours come and go, others stay, and nobody answers ARP or ND for them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, UdpSocket};
use std::time::{Duration, Instant};

use xdp_lb::netlink::addresses::{AddressError, HostVips, LoopbackVips, Put};

use crate::namespaces::{Peer, in_namespaces, ip, run};

const VIPS: [&str; 2] = ["203.0.113.10", "2001:db8::10"];

fn set(addresses: &[&str]) -> BTreeSet<IpAddr> {
    addresses.iter().map(|address| address.parse().unwrap()).collect()
}

fn puts(expected: &[(&str, Put)]) -> BTreeMap<IpAddr, Put> {
    expected.iter().map(|(address, put)| (address.parse().unwrap(), *put)).collect()
}

fn on_lo(address: &str) -> bool {
    run("ip", "address show dev lo").contains(&format!(" {address}/"))
}

/// `arp_ignore` and `arp_announce` of an interface.
fn arp(interface: &str) -> [String; 2] {
    ["arp_ignore", "arp_announce"].map(|name| {
        let path = format!("/proc/sys/net/ipv4/conf/{interface}/{name}");
        std::fs::read_to_string(path).unwrap().trim().into()
    })
}

#[test]
fn exactly_ours_come_and_go_even_after_a_crash() {
    in_namespaces(async |_peer| {
        ip("address add 203.0.113.99/32 dev lo");
        let foreign = "203.0.113.99";
        let mut vips = LoopbackVips::open().unwrap();
        let all = set(&[VIPS[0], VIPS[1], foreign]);
        let quiet = ["e0".to_owned()];
        let held = vips.hold(&all, &quiet).await.unwrap();
        assert_eq!(held, puts(&[(VIPS[0], Put::Added), (VIPS[1], Put::Added), (foreign, Put::Foreign)]));
        assert!(run("ip", "-6 address show dev lo").contains("nodad"), "no duplicate address detection");
        assert_eq!((arp("e0"), arp("e1")), (["3", "2"].map(String::from), ["0", "0"].map(String::from)));
        let again = vips.hold(&all, &quiet).await.unwrap();
        assert_eq!(again, puts(&[(VIPS[0], Put::Ours), (VIPS[1], Put::Ours), (foreign, Put::Foreign)]));

        // Another process finds them, drops one that the configuration no longer has, then leaves.
        drop(vips);
        let mut vips = LoopbackVips::open().unwrap();
        let held = vips.hold(&set(&[VIPS[1], foreign]), &quiet).await.unwrap();
        assert_eq!(held, puts(&[(VIPS[1], Put::Ours), (foreign, Put::Foreign)]));
        assert!(!on_lo(VIPS[0]) && on_lo(VIPS[1]));
        assert_eq!(vips.release().await.unwrap(), set(&[VIPS[1]]));
        assert!(!on_lo(VIPS[1]) && on_lo(foreign) && on_lo("127.0.0.1"));
        assert!(vips.release().await.unwrap().is_empty());
    });
}

#[test]
fn arp_sysctls_go_back_and_others_choices_stay() {
    in_namespaces(async |_peer| {
        std::fs::write("/proc/sys/net/ipv4/conf/e1/arp_ignore", "1").unwrap();
        let mut vips = LoopbackVips::open().unwrap();
        vips.hold(&set(&VIPS), &["e0".to_owned(), "e1".to_owned()]).await.unwrap();
        assert_eq!((arp("e0"), arp("e1")), (["3", "2"].map(String::from), ["1", "2"].map(String::from)));
        vips.release().await.unwrap();
        assert_eq!((arp("e0"), arp("e1")), (["0", "0"].map(String::from), ["1", "0"].map(String::from)));
    });
}

#[test]
fn a_loopback_that_is_down_is_an_error() {
    in_namespaces(async |_peer| {
        ip("link set lo down");
        let error = LoopbackVips::open().unwrap().hold(&set(&VIPS), &[]).await.unwrap_err();
        assert!(matches!(error, AddressError::Loopback), "{error}");
    });
}

/// What the peer's neighbour table says of `address` once it has asked for it.
fn peer_finds(peer: &Peer, address: &'static str) -> bool {
    peer.run(move || {
        let target: IpAddr = address.parse().unwrap();
        let from = if target.is_ipv4() { "10.0.0.2:0" } else { "[fd00::2]:0" };
        UdpSocket::bind(from).unwrap().send_to(b"who has", (target, 9)).unwrap();
        let deadline = Instant::now() + Duration::from_secs(15);
        loop {
            let table = run("ip", &format!("neigh show {address}"));
            if table.contains("lladdr") || table.contains("FAILED") {
                return table.contains("lladdr");
            }
            assert!(Instant::now() < deadline, "no verdict for {address}: {table}");
            std::thread::sleep(Duration::from_millis(50));
        }
    })
}

#[test]
fn routed_vips_answer_and_nobody_claims_them_on_the_link() {
    in_namespaces(async |peer| {
        ip("address add 10.0.0.1/24 dev e0");
        ip("-6 address add fd00::1/64 dev e0 nodad");
        peer.ip("address add 10.0.0.2/24 dev p0");
        peer.ip("-6 address add fd00::2/64 dev p0 nodad");
        let mut vips = LoopbackVips::open().unwrap();
        vips.hold(&set(&VIPS), &["e0".to_owned()]).await.unwrap();

        // As if the VIPs were on the peer's segment: ARP and ND must stay silent.
        peer.ip("route add 203.0.113.10/32 dev p0");
        peer.ip("-6 route add 2001:db8::10/128 dev p0");
        for vip in VIPS {
            assert!(!peer_finds(&peer, vip), "{vip} was claimed on the link");
        }

        // Routed, they are there, and the answer bears their address.
        peer.ip("route replace 203.0.113.10/32 via 10.0.0.1");
        peer.ip("-6 route del 2001:db8::10/128 dev p0");
        peer.ip("-6 route add 2001:db8::10/128 via fd00::1");
        for (vip, from) in [(VIPS[0], "10.0.0.2:0"), (VIPS[1], "[fd00::2]:0")] {
            let vip: IpAddr = vip.parse().unwrap();
            let server = UdpSocket::bind((vip, 7777)).unwrap();
            server.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            let client = peer.run(move || {
                let client = UdpSocket::bind(from).unwrap();
                client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
                client.send_to(b"ping", (vip, 7777)).unwrap();
                client
            });
            let (_, asker) = server.recv_from(&mut [0; 16]).unwrap();
            // Make the reply ask for the peer first: the question must not bear the VIP as its sender.
            run("ip", "neigh flush dev e0");
            server.send_to(b"pong", asker).unwrap();
            let (_, answerer) = client.recv_from(&mut [0; 16]).unwrap();
            assert_eq!(answerer.ip(), vip);
        }
        let table = peer.run(|| run("ip", "neigh show nud reachable nud stale nud delay nud probe"));
        assert!(!VIPS.iter().any(|vip| table.contains(vip)), "a VIP was announced: {table}");

        // Not a source for this node's own connections.
        for (to, own) in [("10.0.0.2:9", "10.0.0.1"), ("[fd00::2]:9", "fd00::1")] {
            let socket = UdpSocket::bind(if own.contains(':') { "[::]:0" } else { "0.0.0.0:0" }).unwrap();
            socket.connect(to).unwrap();
            assert_eq!(socket.local_addr().unwrap().ip(), own.parse::<IpAddr>().unwrap());
        }
        vips.release().await.unwrap();
    });
}
