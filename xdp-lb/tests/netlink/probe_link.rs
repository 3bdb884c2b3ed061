//! The addresses that health checks are asked from, and the veth pair to where they are asked.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::os::fd::AsFd as _;

use xdp_lb::dataplane::netns::Netns;
use xdp_lb::netlink::Requests;
use xdp_lb::netlink::addresses::{HostVips as _, LoopbackVips};
use xdp_lb::netlink::probe_link::{INSIDE, OUTSIDE, Sources, build, remove, sources};

use crate::namespaces::{in_namespaces, ip, run};

fn is(v4: Option<&str>, v6: Option<&str>) -> Sources {
    Sources { v4: v4.map(|a| a.parse().unwrap()), v6: v6.map(|a| a.parse().unwrap()) }
}

#[test]
fn questions_come_from_addresses_that_answers_will_find() {
    in_namespaces(async |_peer| {
        let node = Requests::open().unwrap();
        let vips: BTreeSet<IpAddr> = ["203.0.113.10", "2001:db8::10"].map(|a| a.parse().unwrap()).into();
        let ask = async |interfaces: &[&str]| {
            let interfaces: Vec<String> = interfaces.iter().map(|name| (*name).to_owned()).collect();
            sources(&node, &interfaces, &vips).await.unwrap()
        };
        // Link-local addresses and those of ::1's kind lead nowhere.
        assert_eq!(ask(&["e0"]).await, Sources::default());
        // A fabric without numbers has the node's address on lo, where VIPs may be, too: ours and others'.
        LoopbackVips::open().unwrap().hold(&["203.0.113.11".parse().unwrap()].into(), &[]).await.unwrap();
        ip("address add 203.0.113.10/32 dev lo");
        ip("address add 2001:db8::10/128 dev lo");
        ip("address add 10.9.9.9/32 dev lo");
        ip("address add fd00::9/128 dev lo");
        assert_eq!(ask(&["e0"]).await, is(Some("10.9.9.9"), Some("fd00::9")));
        // The interfaces of the file go first, in their order; of one, the address that was there first.
        ip("address add 10.0.1.2/24 dev e1");
        ip("address add 10.0.0.3/24 dev e0");
        ip("address add 10.0.0.2/24 dev e0");
        ip("address add fd00:1::2/64 dev e1 preferred_lft 0");
        ip("address add fd00:1::3/64 dev e1");
        assert_eq!(ask(&["e0"]).await, is(Some("10.0.0.3"), Some("fd00::9")));
        assert_eq!(ask(&["e1", "e0"]).await, is(Some("10.0.1.2"), Some("fd00:1::3")));
    });
}

#[test]
fn the_pair_replaces_one_of_before_and_goes_with_its_namespace() {
    in_namespaces(async |_peer| {
        let node = Requests::open().unwrap();
        ip(&format!("link add {OUTSIDE} type veth peer name stale"));
        let inside = Netns::create("test-probe").unwrap();
        let runtime = tokio::runtime::Handle::current();
        let open = move || {
            let _entered = runtime.enter();
            Requests::open()
        };
        let requests = inside.run(open).await.unwrap().unwrap();
        let from = is(Some("10.0.0.3"), Some("fd00::9"));
        build(&node, &requests, inside.as_fd(), &from).await.unwrap();
        assert!(!run("ip", "link show").contains("stale"));
        let shown =
            inside.run(|| run("ip", "address show") + &run("ip", "route show") + &run("ip", "-6 route show"));
        let shown = shown.await.unwrap();
        for part in [
            "10.0.0.3/32",
            "fd00::9/128",
            "NOARP",
            "mtu 1280",
            &format!("default dev {INSIDE} proto static scope link src 10.0.0.3"),
        ] {
            assert!(shown.contains(part), "{part} in {shown}");
        }
        // Nothing outside bears the node's addresses twice.
        assert!(!run("ip", &format!("address show dev {OUTSIDE}")).contains("10.0.0.3"));
        drop(requests);
        drop(inside);
        // The kernel takes namespaces away in its own time, which `remove` does not mind.
        remove(&node).await.unwrap();
        remove(&node).await.unwrap();
        assert!(!run("ip", "link show").contains(OUTSIDE));
    });
}
