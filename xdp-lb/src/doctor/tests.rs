//! A host that is well, and one thing after the other that is not.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::{Agent, Finding, Host, Program, Verdict, Way, examine};
use crate::model::{Affinity, Protocol, Tracking};
use crate::nexthop::{Link, Links};
use crate::status::{
    Count, FlowTable, Interface, Member, MemberState, Path, PodPort, Rings, Service, Status, Vip,
};

const VIP: &str = "203.0.113.10";

fn link(index: u32, name: &str) -> Link {
    Link { mtu: 9000, ..Link::card(index, name) }
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn set(addresses: &[&str]) -> BTreeSet<IpAddr> {
    addresses.iter().map(|text| ip(text)).collect()
}

fn by(name: &str) -> Way {
    Way::By(BTreeSet::from([name.to_owned()]))
}

/// A backend's node with the VIP on `lo`, where nothing is wrong.
fn backend() -> Host {
    let interface =
        Interface { name: "eth0".into(), ifindex: 2, mode: "native".into(), program: 7, findings: vec![] };
    let vip = Vip { address: ip(VIP), balanced: false, decapsulated: true, unmatched: None };
    let status = Status {
        generation: 1,
        interfaces: vec![interface],
        vips: vec![vip],
        services: vec![],
        pods: vec![],
        rings: Rings::default(),
        flow_table: FlowTable { entries: 0, live: None, events: vec![] },
        drops: vec![],
        passes: vec![],
    };
    let sysctls = [
        ("net.core.bpf_jit_enable", "1"),
        ("net.ipv4.ip_forward", "1"),
        ("net.ipv6.conf.all.forwarding", "1"),
        ("net.ipv4.conf.all.rp_filter", "1"),
        ("net.ipv4.conf.eth0.rp_filter", "0"),
        ("net.ipv4.conf.all.arp_ignore", "0"),
        ("net.ipv4.conf.eth0.arp_ignore", "3"),
        ("net.ipv4.conf.eth0.arp_announce", "2"),
    ];
    Host {
        release: "6.1.0-31-amd64".into(),
        has_bpffs: true,
        sysctls: sysctls.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
        links: [link(1, "lo"), link(2, "eth0"), link(3, "eth1")].into_iter().collect::<Links>(),
        programs: BTreeMap::from([("eth0".into(), Program { name: "xdp_decap".into(), is_ours: true })]),
        addresses: [("lo".to_owned(), set(&["127.0.0.1", VIP])), ("eth0".to_owned(), set(&["10.0.0.5"]))]
            .into(),
        ways: [(ip("192.0.2.1"), by("eth0")), (ip("2001:db8::1"), Way::None("no route".into()))].into(),
        conntrack: Some((100, 1000)),
        status: Some(status),
        agent: Agent::Unasked,
        wanted: Some(vec!["eth0".into()]),
    }
}

/// What is not fine, with its cure.
fn said(host: &Host) -> Vec<String> {
    let wrong = examine(host).into_iter().filter(|finding| finding.verdict != Verdict::Fine);
    wrong
        .map(|Finding { verdict, subject, says, cure }| {
            format!("{} {subject}: {says} -> {cure}", verdict.word())
        })
        .collect()
}

#[track_caller]
fn one(change: impl FnOnce(&mut Host), words: &[&str]) {
    let mut host = backend();
    change(&mut host);
    let said = said(&host);
    assert!(said.len() == 1 && words.iter().all(|word| said[0].contains(word)), "{words:?}: {said:#?}");
}

fn sysctl(host: &mut Host, name: &str, value: &str) {
    host.sysctls.insert(name.to_owned(), value.to_owned());
}

fn status(host: &mut Host) -> &mut Status {
    host.status.as_mut().unwrap()
}

#[test]
fn a_host_that_is_well() {
    assert_eq!(said(&backend()), [""; 0]);
    let fine = examine(&backend());
    for subject in ["kernel", "interfaces", "rp_filter", "ARP", "MTU", "conntrack"] {
        assert!(fine.iter().any(|finding| finding.subject == subject), "{subject}: {fine:#?}");
    }
    assert_eq!(
        said(&Host { status: None, wanted: None, ..backend() }).len(),
        1,
        "nothing runs here, and that is all"
    );
}

#[test]
fn the_kernel() {
    one(|host| host.release = "5.4.0-150-generic".into(), &["WRONG kernel", "Linux 5.4.0", "5.10"]);
    one(
        |host| sysctl(host, "net.core.bpf_jit_enable", "0"),
        &["WRONG kernel", "interpreted", "bpf_jit_enable=1"],
    );
    one(|host| host.has_bpffs = false, &["WRONG kernel", "mount -t bpf"]);
}

#[test]
fn interfaces() {
    one(
        |host| host.wanted = Some(vec!["eth0".into(), "eth9".into()]),
        &["WRONG interfaces", "no interface eth9"],
    );
    one(|host| host.wanted = Some(vec!["eth1".into()]), &["eth1 does not run the program", "pass us by"]);
    let cilium = |host: &mut Host| {
        host.wanted = Some(vec!["eth1".into()]);
        host.programs.insert("eth1".into(), Program { name: "cil_xdp_entry".into(), is_ours: false });
    };
    one(cilium, &["eth1 runs the XDP program cil_xdp_entry", "loadBalancer.acceleration"]);
    one(
        |host| host.links = [link(1, "lo"), Link { carrier: false, ..link(2, "eth0") }].into_iter().collect(),
        &["WRONG interfaces", "eth0 is down or has no carrier"],
    );
    one(|host| status(host).interfaces[0].mode = "generic".into(), &["note interfaces", "generic mode"]);
    one(
        |host| status(host).interfaces[0].findings.push("eth0 joins: ethtool -K eth0 gro off".into()),
        &["WRONG", "joins"],
    );
    one(
        |host| {
            status(host).interfaces[0].findings.push("whose other end is in another network namespace".into())
        },
        &["note interfaces"],
    );
    // A bond's members run the program for it.
    let bond = |host: &mut Host| {
        host.wanted = Some(vec!["bond0".into()]);
        let bond = Link { kind: Some("bond".into()), ..link(9, "bond0") };
        host.links = [link(1, "lo"), link(2, "eth0"), bond].into_iter().collect();
    };
    let mut host = backend();
    bond(&mut host);
    assert_eq!(said(&host), [""; 0]);
}

#[test]
fn strict_reverse_path_filtering() {
    let strict = |host: &mut Host| sysctl(host, "net.ipv4.conf.eth0.rp_filter", "1");
    let mut host = backend();
    strict(&mut host);
    assert_eq!(said(&host), [""; 0], "strict is fine where the answer leaves by the same interface");
    let asymmetric = |host: &mut Host| {
        strict(host);
        host.ways.insert(ip("192.0.2.1"), by("eth1"));
    };
    one(
        asymmetric,
        &["WRONG rp_filter", "on eth0 is dropped", "192.0.2.1 is by eth1", "net.ipv4.conf.eth0.rp_filter=2"],
    );
    // The kernel takes the greater of both: `all` of 1 makes an interface strict that says 0.
    one(|host| _ = host.ways.insert(ip("192.0.2.1"), by("eth1")), &["WRONG rp_filter"]);
    let mut loose = backend();
    sysctl(&mut loose, "net.ipv4.conf.eth0.rp_filter", "2");
    loose.ways.insert(ip("192.0.2.1"), by("eth1"));
    assert_eq!(said(&loose), [""; 0]);
    let nowhere = |host: &mut Host| {
        sysctl(host, "net.ipv4.conf.all.rp_filter", "0");
        host.ways.insert(ip("192.0.2.1"), Way::None("no route to the address".into()));
    };
    one(nowhere, &["WRONG routes", "answers to clients as 192.0.2.1 cannot leave", "no route"]);
}

#[test]
fn pods_are_forwarded_to() {
    let proxied = |host: &mut Host| {
        host.addresses.insert("lo".into(), set(&["127.0.0.1"]));
        sysctl(host, "net.ipv4.ip_forward", "0");
    };
    one(proxied, &["WRONG forwarding", "IPv4", "net.ipv4.ip_forward=1"]);
    let pod = PodPort {
        vip: ip("2001:db8::10"),
        protocol: Protocol::Tcp,
        port: 80,
        pod: ip("fd00::7"),
        target_port: 8080,
    };
    let six = |host: &mut Host| {
        status(host).pods.push(pod.clone());
        sysctl(host, "net.ipv6.conf.all.forwarding", "0");
    };
    one(six, &["WRONG forwarding", "IPv6", "net.ipv6.conf.all.forwarding=1"]);
    one(
        |host| sysctl(host, "net.ipv4.conf.eth0.arp_ignore", "0"),
        &["WRONG ARP", "eth0 answers ARP", "on lo", "arp_ignore=1"],
    );
    one(|host| sysctl(host, "net.ipv4.conf.eth0.arp_announce", "0"), &["WRONG ARP", "arp_announce=2"]);
    // 3 hides what has scope host, which kube-proxy's addresses have not.
    let ipvs = |host: &mut Host| {
        host.addresses.insert("lo".into(), set(&["127.0.0.1"]));
        host.addresses.insert("kube-ipvs0".into(), set(&[VIP]));
    };
    one(ipvs, &["WRONG ARP", "on kube-ipvs0", "strictARP"]);
}

#[test]
fn what_else_lives_here() {
    let more = |name: &'static str| {
        move |host: &mut Host| {
            host.links = [link(1, "lo"), link(2, "eth0"), link(5, name)].into_iter().collect()
        }
    };
    one(more("tunl0"), &["note tunnels", "tunl0", "decap.interfaces"]);
    one(more("cali0a1b2c3d4e5"), &["note Calico", "externalNodesList"]);
    one(more("cilium_host"), &["note Cilium", "enable-extended-ip-protocols"]);
    one(
        |host| host.links = [link(1, "lo"), Link { mtu: 1500, ..link(2, "eth0") }].into_iter().collect(),
        &["note MTU", "1500 bytes", "1520", "mtu 1540"],
    );
    one(|host| host.conntrack = Some((950, 1000)), &["WRONG conntrack", "950 of 1000"]);
    one(|host| host.conntrack = Some((750, 1000)), &["note conntrack"]);
    let drop = Count { reason: "tunnel_source", packets: 3, sentence: "A tunnel from elsewhere." };
    one(
        |host| status(host).drops.push(drop.clone()),
        &["note drops", "3 packets", "tunnel_source", "allow_sources"],
    );
}

fn service() -> Service {
    let member = Member {
        address: ip("10.0.0.9"),
        state: MemberState::Active,
        drained_by_command: false,
        since: 0,
        health: None,
        slots: 251,
        slots_percent: 100.0,
        path: Path::Local,
        packets: None,
        bytes: None,
        flows: None,
    };
    Service {
        name: "web".into(),
        id: 1,
        protocol: Protocol::Tcp,
        listeners: vec![],
        affinity: Affinity::FiveTuple,
        tracking: Tracking::Off,
        tracking_window: false,
        ring: 0,
        slots: 251,
        dirty_slots: 0,
        empty_slots: 0,
        packets: 0,
        bytes: 0,
        flows: None,
        backends: vec![member],
    }
}

/// Who balances is asked for other things, and for nothing that tunnels' ends need.
#[test]
fn an_edge_node() {
    let edge = |host: &mut Host| {
        let status = status(host);
        status.vips[0] =
            Vip { address: ip(VIP), balanced: true, decapsulated: false, unmatched: Some("drop") };
        status.services = vec![service()];
        host.agent = Agent::Answers;
        host.addresses.remove("lo");
        sysctl(host, "net.ipv4.ip_forward", "0");
        host.ways.insert(ip("192.0.2.1"), by("eth1"));
    };
    let mut host = backend();
    edge(&mut host);
    assert_eq!(said(&host), [""; 0]);
    let silent = |host: &mut Host| {
        edge(host);
        host.agent = Agent::Silent("no socket".into());
    };
    one(silent, &["WRONG agent", "does not answer (no socket)", "nobody follows"]);
    let lost = |host: &mut Host| {
        edge(host);
        status(host).services[0].backends[0].path = Path::Unresolved;
    };
    one(lost, &["WRONG next hops", "1 backends have none", "10.0.0.9"]);
}

/// The page names every subject, and no other.
#[test]
fn the_page_has_what_is_looked_for() {
    let page = include_str!("../../../docs/doctor.md");
    let sources = [include_str!("running.rs"), include_str!("network.rs")].concat();
    let rows = page.lines().filter_map(|line| line.strip_prefix("| ")?.split(" |").next());
    let subjects: BTreeSet<&str> = rows.flat_map(|row| row.split(", ")).filter(|s| *s != "subject").collect();
    assert!(subjects.len() > 10, "{subjects:?}");
    for subject in &subjects {
        assert!(sources.contains(&format!("\"{subject}\"")), "nothing is looked at as {subject}");
    }
    let constants = sources
        .lines()
        .filter_map(|line| line.trim().strip_prefix("const SUBJECT: &str = \"")?.split('"').next());
    for subject in constants {
        assert!(subjects.contains(subject), "{subject} is not on the page");
    }
}
