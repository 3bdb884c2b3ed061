//! Rules over several keys, each broken alone.

use super::{bad, edge, errors, good, only, places, service};

#[test]
fn a_file_has_a_role_and_says_where() {
    only("version: 1\n", "", "nothing to do");
    only("version: 1\nservices: []\n", "interfaces", "missing");
    only("interfaces: [{ name: eth0 }]\nservices: []\n", "version", "missing");
    only(&edge(" []\n").replace("version: 1", "version: 2"), "version", "must be 1");
    let decap = "version: 1\ndecap: { interfaces: [{ name: eth0 }], allow_sources: [10.0.0.0/8], vips: 203.0.113.1 }\n";
    good(decap);
    only(&decap.replace("interfaces: [{ name: eth0 }], ", ""), "decap.interfaces", "missing");
    only(&format!("{decap}interfaces: [{{ name: eth0 }}]\n"), "interfaces", "decap.interfaces");
    only(&decap.replace("[10.0.0.0/8]", "[]"), "decap.allow_sources", "let nobody in");
    only(&decap.replace("allow_sources: [10.0.0.0/8], ", ""), "decap.allow_sources", "missing");
    only(&decap.replace("vips: 203.0.113.1", "vips: []"), "decap.vips", "at least one");
    only(
        &decap.replace("name: eth0", "name: eth0, next_hop: auto"),
        "decap.interfaces[0].next_hop",
        "unknown",
    );
    only(&decap.replace("{ name: eth0 }", ""), "decap.interfaces", "at least one");
}

#[test]
fn interfaces_once_and_in_one_mode() {
    let twice = edge(" []\n").replace("{ name: eth0 }", "{ name: eth0 }, { name: eth1 }, { name: eth0 }");
    only(&twice, "interfaces[2].name", "first as interfaces[0].name");
    let both = |mode: &str| {
        let decap =
            "decap: { allow_sources: [10.0.0.0/8], vips: [203.0.113.1], interfaces: [{ name: eth0, mode: ";
        edge(&format!(" []\n{decap}{mode} }}] }}\n"))
    };
    good(&both("auto"));
    only(&both("native"), "decap.interfaces[0].name", "another mode");
}

#[test]
fn overlapping_services_name_both() {
    let two = |a: (&str, &str, &str), b: (&str, &str, &str)| {
        edge(&(service("a", a.0, a.1, a.2, "") + &service("b", b.0, b.1, b.2, "")))
    };
    let v = "203.0.113.1";
    for (first, second) in [
        (("203.0.113.1", "tcp", "80"), ("203.0.113.1", "udp", "80")),
        ((v, "tcp", "80"), (v, "tcp", "81")),
        ((v, "tcp", "80"), ("203.0.113.2", "tcp", "80")),
        ((v, "tcp", "80"), (v, "tcp", "\"1-1000\"")),
        ((v, "tcp", "\"1-65535\""), (v, "tcp", "all")),
        ((v, "tcp", "80"), (v, "tcp", "all")),
        ((v, "tcp", "\"10-20\""), (v, "tcp", "\"21-30\"")),
    ] {
        good(&two(first, second));
    }
    only(
        &two((v, "tcp", "80"), (v, "tcp", "80")),
        "services[1].ports",
        "overlaps services[0].ports (service \"a\")",
    );
    only(&two((v, "tcp", "80"), (v, "tcp", "\"80-80\"")), "services[1].ports", "TCP port 80 of 203.0.113.1");
    only(&two((v, "udp", "all"), (v, "udp", "all")), "services[1].ports", "UDP all ports");
    let lists = two((v, "tcp", "[1, \"10-20\"]"), ("[203.0.113.9, 203.0.113.1]", "tcp", "[2, \"15-30\", 3]"));
    only(
        &lists,
        "services[1].ports[1]",
        "overlaps services[0].ports[1] (service \"a\"): both want TCP port 15-20",
    );
    // Two addresses in common are still one mistake; a wide range overlaps what lies behind its next neighbour.
    let pair = "[203.0.113.1, 203.0.113.2]";
    only(&two((pair, "tcp", "80"), (pair, "tcp", "80")), "services[1].ports", "203.0.113.1");
    let three = edge(
        &(service("a", v, "tcp", "\"1-100\"", "")
            + &service("b", v, "tcp", "\"10-20\"", "")
            + &service("c", v, "tcp", "\"90-200\"", "")),
    );
    assert_eq!(
        places(&three),
        [(7, "services[1].ports".to_owned()), (8, "services[2].ports".to_owned())],
        "{:?}",
        bad(&three)
    );
}

#[test]
fn ports_of_one_service() {
    let ports = |ports: &str| edge(&service("a", "203.0.113.1", "tcp", ports, ""));
    only(&ports("0"), "services[0].ports", "1..=65535");
    only(&ports("65536"), "services[0].ports", "1..=65535");
    only(&ports("\"20-10\""), "services[0].ports", "write \"10-20\"");
    only(&ports("[]"), "services[0].ports", "at least one");
    only(&ports("[80, 80]"), "services[0].ports[1]", "80 overlaps 80");
    only(&ports("[80, all]"), "services[0].ports[1]", "must be a port");
    only(&ports("[5060, \"5000-6000\"]"), "services[0].ports[1]", "5000-6000 overlaps 5060");
    good(&ports("\"1-65535\""));
    good(&ports("[\"all\"]").replace("[\"all\"]", "\"all\""));
}

#[test]
fn names_and_addresses_once() {
    let v = "203.0.113.1";
    let text = edge(&(service("a", v, "tcp", "80", "") + &service("a", v, "tcp", "81", "")));
    only(&text, "services[1].name", "services[0].name");
    only(&edge(&service("a", &format!("[{v}, {v}]"), "tcp", "80", "")), "services[0].vip[1]", "listed twice");
    let twice =
        edge(&service("a", v, "tcp", "80", "").replace("[{ address", "[{ address: 10.0.0.1 }, { address"));
    only(&twice, "services[0].backends[1].address", "services[0].backends[0].address");
    only(
        &edge(&format!(" []\nvips: [{{ address: {v} }}, {{ address: {v} }}]\n")),
        "vips[1].address",
        "listed twice",
    );
}

#[test]
fn addresses_that_cannot_work() {
    for address in ["0.0.0.0", "0.1.2.3", "127.0.0.1", "169.254.1.1", "224.0.0.5", "255.255.255.255"]
        .into_iter()
        .chain(["\"::\"", "\"::1\"", "\"fe80::1\"", "\"ff02::1\"", "\"::ffff:10.0.0.1\""])
    {
        only(
            &edge(&service("a", address, "tcp", "80", "")),
            "services[0].vip",
            "must be a routable unicast address",
        );
        let backend = service("a", "203.0.113.1", "tcp", "80", "").replace("10.0.0.1", address);
        only(&edge(&backend), "services[0].backends[0].address", "must be a routable unicast address");
    }
    only(&edge(&service("a", "10.0.0.0/8", "tcp", "80", "")), "services[0].vip", "without a prefix length");
    only(&edge(&service("a", "10.0.0.300", "tcp", "80", "")), "services[0].vip", "an IPv4 or IPv6 address");
}

#[test]
fn a_vip_is_no_backend() {
    let two = service("a", "203.0.113.1", "tcp", "80", "") + &service("b", "10.0.0.1", "udp", "80", "");
    let errors = bad(&edge(&two));
    assert_eq!(errors.len(), 2, "{errors:?}");
    assert!(errors[0].contains("services[0].backends[0].address: 10.0.0.1 is also a VIP (services[1].vip)"));
    let decap = format!(
        "{}decap: {{ allow_sources: [10.0.0.0/8], vips: [10.0.0.1] }}\n",
        edge(&service("a", "203.0.113.1", "tcp", "80", ""))
    );
    only(&decap, "services[0].backends[0].address", "decap.vips[0]");
}

#[test]
fn tables_are_prime_and_large_enough() {
    let sized = |n: u32| edge(&service("a", "203.0.113.1", "tcp", "80", &format!(", table_size: {n}")));
    for n in [3, 5, 4093, 65537, 131_071] {
        good(&sized(n));
    }
    only(&sized(65536), "services[0].table_size", "the nearest are 65521 and 65537");
    only(&sized(4), "services[0].table_size", "the nearest are 3 and 5");
    only(&sized(2), "services[0].table_size", "3..=131071");
    only(&sized(131_072), "services[0].table_size", "3..=131071");
    only(&edge(" []\n").replace("seed: 7", "seed: 7, table_size: 9"), "maglev.table_size", "7 and 11");
    let two = sized(3).replace("[{ address", "[{ address: 10.0.0.2 }, { address");
    only(&two, "services[0].backends", "at least 4 slots");
    let many = |n: usize| {
        let backends: Vec<_> =
            (0..n).map(|i| format!("{{ address: 10.1.{}.{} }}", i / 250, i % 250 + 1)).collect();
        edge(
            &service("a", "203.0.113.1", "tcp", "80", "")
                .replace("{ address: 10.0.0.1 }", &backends.join(", ")),
        )
    };
    good(&many(4095));
    only(&many(4096), "services[0].backends", "at most 4095");
}

#[test]
fn each_family_of_backends_needs_its_source() {
    let text = edge(
        "  - { name: a, vip: 203.0.113.1, protocol: tcp, ports: 80, backends: [{ address: \"2001:db8::1\" }, { address: 10.0.0.1 }, { address: 10.0.0.2 }] }\n",
    );
    good(&text);
    let no_v4 = text.replace("source_v4: 172.16.0.0/16, ", "");
    only(
        &no_v4,
        "services[0].backends[1].address",
        "the tunnel to 10.0.0.1 (and 1 more) needs an IPv4 outer source",
    );
    let no_v6 = text.replace(", source_v6: \"fd00::/64\"", "");
    only(&no_v6, "services[0].backends[0].address", "source_v6");
    good(&no_v6.replace("ports: 80", "ports: 80, encap: { source_v6: \"fd01::/64\" }"));
    // A source that is wrong is one mistake, not two.
    only(&text.replace("172.16.0.0/16", "172.16.0.1/16"), "encap.source_v4", "did you mean 172.16.0.0/16?");
    assert_eq!(errors(&text.replace("{ source_v4: 172.16.0.0/16, source_v6: \"fd00::/64\" }", "7")).len(), 1);
}

#[test]
fn a_service_overrides_only_what_it_writes() {
    let text =
        edge(&service("a", "203.0.113.1", "tcp", "80", ", encap: { dscp: 46, source_v6: \"fd01::/48\" }"));
    let encap = good(&text).desired.services[0].encap;
    assert_eq!(encap.source_v4, Some(([172, 16, 0, 0], 16)));
    assert_eq!(encap.source_v6.map(|(_, length)| length), Some(48));
    assert_eq!(encap.dscp, crate::model::Dscp::Set(46));
    // And what it does not write comes from the file: tunnel and table alike.
    let text = edge(&service("a", "203.0.113.1", "tcp", "80", ", encap: { source_v6: \"fd01::/48\" }"));
    let text = text
        .replace("encap: { source_v4", "encap: { dscp: 10, source_v4")
        .replace("seed: 7", "table_size: 4093");
    let service = &good(&text).desired.services[0];
    assert_eq!((service.encap.dscp, service.table_size.get()), (crate::model::Dscp::Set(10), 4093));
}

#[test]
fn limits_are_compared_with_the_need() {
    let a = service("a", "203.0.113.1", "tcp", "80", "");
    let b = service("b", "203.0.113.2", "tcp", "80", "");
    let limited = |limits: &str, services: &str| format!("{}limits:\n  {limits}\n", edge(services));
    good(&limited("services: 2", &format!("{a}{b}")));
    only(&limited("services: 1", &format!("{a}{b}")), "limits.services", "the file has 2 services");
    assert_eq!(places(&limited("services: 1", &format!("{a}{b}"))), [(9, "limits.services".to_owned())]);
    only(&limited("vips: 1", &format!("{a}{b}")), "limits.vips", "2 VIPs");
    // Equal services share a ring, unequal ones do not.
    good(&limited("ring_slots: 65537\n  backends: 1", &format!("{a}{b}")));
    let other = b.replace("10.0.0.1", "10.0.0.2");
    only(&limited("ring_slots: 65537", &format!("{a}{other}")), "limits.ring_slots", "131074");
    only(&limited("backends: 1", &format!("{a}{other}")), "limits.backends", "2 backends");
    for more in ["share: 50%", "weight: 7", "state: drain"] {
        let other = b.replace("10.0.0.1", &format!("10.0.0.1, {more}"));
        only(&limited("backends: 1", &format!("{a}{other}")), "limits.backends", "2 backends");
    }
    let other = b.replace("ports: 80", "ports: 80, encap: { dscp: 1 }");
    only(&limited("backends: 1", &format!("{a}{other}")), "limits.backends", "2 backends");
    only(&limited("services: 16384", &a), "limits.services", "1..=16383");
}

#[test]
fn metrics_feed_the_limit_of_series() {
    let text = |tail: &str| edge(&format!(" []\n{tail}"));
    assert_eq!(good(&text("metrics: { per_backend: 5 }\n")).desired.limits.backend_stats, 5);
    assert_eq!(
        good(&text("metrics: { per_backend: 5 }\nlimits: { services: 9 }\n")).desired.limits.backend_stats,
        5
    );
    good(&text("metrics: { per_backend: 5 }\nlimits: { backend_stats: 5 }\n"));
    only(
        &text("metrics: { per_backend: 5 }\nlimits: { backend_stats: 6 }\n"),
        "limits.backend_stats",
        "metrics.per_backend is 5",
    );
}

#[test]
fn the_endpoint_of_metrics_has_an_address_and_a_port() {
    let text = |listen: &str| edge(&format!(" []\nmetrics: {{ listen: {listen} }}\n"));
    assert_eq!(good(&edge(" []\n")).desired.metrics.listen, None);
    for listen in ["127.0.0.1:9410", "[::1]:9410"] {
        let found = good(&text(&format!("\"{listen}\""))).desired.metrics.listen;
        assert_eq!(found, Some(listen.parse().unwrap()));
    }
    for wrong in ["127.0.0.1", "9410", "\":9410\"", "localhost:9410", "127.0.0.1:0", "\"::1:9410\""] {
        only(&text(wrong), "metrics.listen", "an address of this node and a port");
    }
}

#[test]
fn peers_are_the_others_by_address_or_by_address_and_port() {
    let text = |nodes: &str| {
        let peers = format!("{{ listen: \"10.0.0.11:9411\", key_file: /etc/key, nodes: [{nodes}] }}");
        edge(&format!(" []\npeers: {peers}\n"))
    };
    let peers = good(&text("10.0.0.12, 10.0.0.11, \"[fd00::13]:9412\"")).desired.peers.unwrap();
    assert_eq!(peers.listen, "10.0.0.11:9411".parse().unwrap());
    let others = ["10.0.0.12:9411", "[fd00::13]:9412"].map(|node| node.parse().unwrap());
    assert_eq!(peers.nodes, others, "a node does not tell itself");
    only(&text("10.0.0.12, \"10.0.0.12:9411\""), "peers.nodes[1]", "listed twice, first as peers.nodes[0]");
}

#[test]
fn commands_are_taken_at_an_absolute_path() {
    let text = |admin: &str| edge(&format!(" []\nadmin: {{ {admin} }}\n"));
    let admin = |text: &str| good(text).desired.admin;
    assert_eq!(admin(&edge(" []\n")).socket.to_str(), Some("/run/xdp-lb/admin.sock"));
    let named = admin(&text("socket: /run/a.sock, group: netops"));
    assert_eq!((named.socket.to_str(), named.group.as_deref()), (Some("/run/a.sock"), Some("netops")));
    only(&text("socket: run/a.sock"), "admin.socket", "absolute path");
    only(&text("group: \"net ops\""), "admin.group", "without blanks");
}

#[test]
fn a_cluster_is_a_reason_to_balance() {
    let with = |head: &str, more: &str| {
        format!("version: 1\nmaglev: {{ seed: 1 }}\n{head}kubernetes: {{ {more} }}\n")
    };
    let checked =
        good(&with("interfaces: [{ name: eth0 }]\nvips: [{ address: 203.0.113.1, unmatched: pass }]\n", ""));
    assert_eq!(checked.warnings, [], "a VIP may be the cluster's");
    let kubernetes = checked.desired.kubernetes.unwrap();
    assert_eq!((kubernetes.class.as_str(), kubernetes.kubeconfig), ("xdp-lb.io/edge", None));
    only(&with("", ""), "interfaces", "missing");
    let off = good(&edge(" []\nkubernetes: { enabled: false }\n"));
    assert_eq!(off.desired.kubernetes, None);
}

#[test]
fn a_cluster_names_vips_and_sources_of_a_backend_side() {
    let file = |decap: &str, more: &str| format!("version: 1\ndecap: {{ {decap} }}\n{more}");
    let checked = good(&file("interfaces: [{ name: eth0 }]", "kubernetes: {}\n"));
    let decap = checked.desired.decap.clone().unwrap();
    assert_eq!((decap.vips, decap.allow_sources, checked.warnings), (vec![], vec![], vec![]));
    assert!(!checked.desired.balances(), "it is no edge node");
    assert_eq!(checked.desired.kubernetes.unwrap().edge_nodes, "xdp-lb.io/edge=true");
    only(&file("mss: off", "kubernetes: {}\n"), "decap.interfaces", "missing");
    let empty = file("interfaces: [{ name: eth0 }], allow_sources: []", "kubernetes: {}\n");
    only(&empty, "decap.allow_sources", "let nobody in");
    let both = good(&file("", "kubernetes: {}\ninterfaces: [{ name: eth0 }]\nmaglev: { seed: 1 }\n"));
    assert!(both.desired.balances(), "edge node and backend");
    let off = file("interfaces: [{ name: eth0 }], vips: 203.0.113.1", "kubernetes: { enabled: false }\n");
    only(&off, "decap.allow_sources", "missing");
}

#[test]
fn a_zone_policy_needs_zones_and_says_what_it_costs() {
    let text = |node: &str, policy: &str, zones: [&str; 2]| {
        let [a, b] =
            zones.map(|zone| if zone.is_empty() { String::new() } else { format!(", zone: {zone}") });
        let list = format!("[{{ address: 10.1.2.11{a} }}, {{ address: 10.1.2.12{b}, backup: true }}]");
        let service = format!(
            "name: a, vip: 203.0.113.1, protocol: udp, ports: 80, zone_policy: {policy}, backends: {list}"
        );
        edge(&format!("\n  - {{ {service} }}\nnode: {{ name: e{node} }}\n"))
    };
    let at = "services[0].zone_policy";
    let local = "{ prefer: local }";
    only(&text("", local, ["a", "b"]), at, "add `zone` to `node`");
    let warned =
        |zones| good(&text(", zone: a", local, zones)).warnings.iter().filter(|w| w.path == at).count();
    assert_eq!([warned(["a", "b"]), warned(["a", "a"]), warned(["b", ""])], [1, 0, 1]);
    let read = good(&text(", zone: a", local, ["a", "a"])).desired.services[0].clone();
    assert_eq!(read.zone_policy.unwrap().spill_below, crate::model::Share::from_fraction(0.5));
    assert_eq!([read.backends[0].backup, read.backends[1].backup], [false, true]);
    only(&text(", zone: a", "{ prefer: remote }", ["a", "b"]), &format!("{at}.prefer"), "local");
    only(
        &text(", zone: a", "{ prefer: local, spill_below: 0% }", ["a", "b"]),
        &format!("{at}.spill_below"),
        "more than 0%",
    );
}

#[test]
fn a_check_says_what_it_needs_and_nothing_else() {
    let checked = |protocol: &str, ports: &str, check: &str| {
        edge(&service("a", "203.0.113.1", protocol, ports, &format!(", health_check: {{ {check} }}")))
    };
    let udp = |check: &str| checked("udp", "5060", check);
    let wrong = |text: &str, key: &str, words: &str| {
        only(text, &format!("services[0].health_check.{key}"), words);
    };
    assert_eq!(good(&udp("kind: none")).desired.services[0].health, None);
    let check = good(&udp("kind: sip-options, interval: 500ms")).desired.services[0].health.clone().unwrap();
    assert_eq!((check.port, check.rise, check.fall), (5060, 2, 3));
    assert_eq!(check.timeout.as_millis(), 500, "never longer than the interval");
    good(&checked("tcp", "[443, 80]", "kind: tcp"));
    good(&udp("kind: udp, payload: \"0x00ff\", expect: pong"));
    good(&udp("kind: http, port: 8080, path: /up, host: h, expect: 200"));
    wrong(&udp("interval: 2s"), "kind", "missing");
    wrong(&udp("kind: stun, timeout: 3s"), "timeout", "not be longer than the interval of 2s");
    wrong(&udp("kind: udp"), "payload", "missing");
    wrong(&udp("kind: udp, payload: \"0x0\""), "payload", "pairs of hexadecimal");
    wrong(&udp("kind: tcp"), "port", "another protocol");
    wrong(&checked("tcp", "80", "kind: udp, payload: x"), "port", "another protocol");
    wrong(&checked("tcp", "all", "kind: tcp"), "port", "all ports");
    wrong(&udp("kind: stun, path: /x"), "path", "is for http and https");
    wrong(&udp("kind: stun, host: h"), "host", "is for http, https and sip-options");
    wrong(&udp("kind: stun, payload: x"), "payload", "is for udp");
    wrong(&udp("kind: none, expect: x"), "expect", "is for http");
    wrong(&udp("kind: sip-options, expect: \"299-200\""), "expect", "a status code or a range");
    wrong(&udp(&format!("kind: udp, payload: {}", "x".repeat(1201))), "payload", "is 1201");
    wrong(&udp("kind: stun, rises: 2"), "rises", "did you mean `rise`");
    let kept = edge(&service("a", "203.0.113.1", "udp", "80", ", on_all_down: keep"));
    assert_eq!(good(&kept).warnings[0].path, "services[0].on_all_down");
    // All at once.
    assert_eq!(bad(&udp("kind: http, port: 0, path: x, rise: 0, via: air")).len(), 4);
}

/// Keys of GUE are overridden one by one, as all of `encap`; the backend side takes what it accepts.
#[test]
fn gue_in_the_file_in_a_service_and_on_the_backend_side() {
    use crate::model::{EncapKind, GueVariant};
    let kind = |file: &str, own: &str| {
        let text = edge(&service("a", "203.0.113.1", "udp", "80", own));
        good(&text.replacen("encap: {", &format!("encap: {{ {file}"), 1)).desired.services[0].encap.kind
    };
    let gue = |port, variant| EncapKind::Gue { port, variant };
    assert_eq!(kind("", ""), EncapKind::Ipip);
    assert_eq!(kind("gue: { port: 5 }, ", ""), EncapKind::Ipip);
    assert_eq!(kind("kind: gue, ", ""), gue(6080, GueVariant::Header));
    assert_eq!(kind("gue: { port: 5, variant: 1 }, ", ", encap: { kind: gue }"), gue(5, GueVariant::Bare));
    let own = ", encap: { gue: { variant: 0 } }";
    assert_eq!(kind("kind: gue, gue: { port: 5, variant: 1 }, ", own), gue(5, GueVariant::Header));
    assert_eq!(kind("kind: gue, ", ", encap: { kind: ipip }"), EncapKind::Ipip);

    let accepts = |keys: &str| {
        let decap = format!(
            "version: 1\ndecap: {{ interfaces: [{{ name: eth0 }}], allow_sources: [10.0.0.0/8], {keys}vips: 203.0.113.1 }}\n"
        );
        let decap = good(&decap).desired.decap.unwrap();
        (decap.ipip, decap.gue)
    };
    assert_eq!(accepts(""), (true, None));
    assert_eq!(accepts("gue_port: 7, "), (true, None));
    assert_eq!(accepts("accept: [ipip, gue], "), (true, Some(6080)));
    assert_eq!(accepts("accept: gue, gue_port: 7, "), (false, Some(7)));
}

#[test]
fn warnings_for_what_is_seldom_meant() {
    let paths = |text: &str| good(text).warnings.into_iter().map(|w| w.path).collect::<Vec<_>>();
    let plain = service("a", "203.0.113.1", "tcp", "80", "");
    assert_eq!(paths(&edge(&plain)), [""; 0]);
    assert_eq!(paths(&edge(&plain).replace("seed: 7", "seed: 0")), ["maglev.seed"]);
    assert_eq!(paths(&edge(&plain).replace("maglev: { seed: 7 }\n", "")), ["maglev.seed"]);
    assert_eq!(paths(&edge(" []\n")), ["services"]);
    assert_eq!(paths(&edge(&plain.replace("[{ address: 10.0.0.1 }]", "[]"))), ["services[0].backends"]);
    for closed in ["state: drain", "state: down", "weight: 0", "share: 0%"] {
        let text = edge(&plain.replace("10.0.0.1", &format!("10.0.0.1, {closed}")));
        assert_eq!(paths(&text), ["services[0].backends"], "{closed}");
    }
    assert_eq!(paths(&format!("{}vips: [{{ address: 203.0.113.9 }}]\n", edge(&plain))), ["vips[0].address"]);
    assert_eq!(paths(&edge(&plain).replace("172.16.0.0/16", "172.16.0.0/25")), ["encap.source_v4"]);
    assert_eq!(paths(&edge(&plain).replace("172.16.0.0/16", "172.16.0.0/24")), [""; 0]);
    let open = "version: 1\ndecap: { interfaces: [{ name: eth0 }], allow_sources: [0.0.0.0/0], vips: 203.0.113.1 }\n";
    assert_eq!(paths(open), ["decap.allow_sources[0]"]);
    let text = format!(
        "{}limits: {{ port_pages: 1, backend_stats: 1 }}\n",
        edge(&(plain + &service("b", "203.0.113.2", "tcp", "80", "")))
    );
    assert_eq!(
        paths(&text),
        ["limits.backend_stats", "limits.port_pages"]
            .map(str::to_owned)
            .into_iter()
            .rev()
            .collect::<Vec<_>>()
    );
}

#[test]
fn vips_are_listed_once_with_their_policy() {
    let text = format!(
        "{}vips: [{{ address: 203.0.113.2, unmatched: pass }}, {{ address: 203.0.113.9 }}]\n",
        edge(
            &(service("a", "[203.0.113.2, 203.0.113.1]", "tcp", "80", "")
                + &service("b", "203.0.113.1", "tcp", "81", ""))
        )
    );
    let vips: Vec<_> =
        good(&text).desired.vips.iter().map(|v| (v.address.to_string(), v.unmatched)).collect();
    use crate::model::Unmatched::{Drop, Pass};
    assert_eq!(vips, [("203.0.113.1".to_owned(), Drop), ("203.0.113.2".to_owned(), Pass)]);
}

#[test]
fn pods_are_told_once_and_of_one_family() {
    let decap = |entries: &str| {
        format!(
            "version: 1\ndecap: {{ interfaces: [{{ name: eth0 }}], allow_sources: [10.0.0.0/8], translate: [{entries}] }}\n"
        )
    };
    let entry =
        "{ vip: 203.0.113.1, protocol: tcp, port: 80, target_port: 8080, pods: [10.244.1.7, 10.244.1.8] }";
    let found = good(&decap(entry)).desired.decap.unwrap();
    assert!(found.vips.is_empty());
    let seen: Vec<_> = found.translate.iter().map(|p| (p.port, p.target, p.pod.to_string())).collect();
    assert_eq!(seen, [(80, 8080, "10.244.1.7".into()), (80, 8080, "10.244.1.8".into())]);
    let same = good(&decap(&entry.replace("target_port: 8080, ", ""))).desired.decap.unwrap();
    assert!(same.translate.iter().all(|port| port.target == 80), "without a target it is the port");

    assert!(good(&decap("")).desired.decap.unwrap().translate.is_empty(), "a node without pods");
    let again = entry.replace("10.244.1.7, ", "");
    only(&decap(&format!("{entry}, {again}")), "decap.translate[1].pods[0]", "twice");
    only(&decap(&entry.replace("10.244.1.8", "\"fd00::8\"")), "decap.translate[0].pods[1]", "family");
    only(&decap(&entry.replace("10.244.1.8", "203.0.113.1")), "decap.translate[0].pods[1]", "also a VIP");
    only(&decap(&entry.replace("port: 80,", "port: 0,")), "decap.translate[0].port", "1");
    only(&decap(&entry.replace("protocol: tcp, ", "")), "decap.translate[0].protocol", "missing");
    only(&decap(&entry.replace("tcp", "sctp")), "decap.translate[0].protocol", "tcp");
    only(
        &decap(&entry.replace(", pods: [10.244.1.7, 10.244.1.8]", "")),
        "decap.translate[0].pods",
        "missing",
    );
    only(&decap(&entry.replace("vip: 203.0.113.1, ", "")), "decap.translate[0].vip", "missing");
    let misspelt = entry.replace("target_port", "targetport");
    only(&decap(&misspelt), "decap.translate[0].targetport", "did you mean `target_port`");
    let few = format!("{}limits: {{ pod_ports: 1 }}\n", decap(entry));
    only(&few, "limits.pod_ports", "2 ports of VIPs at pods");
}
