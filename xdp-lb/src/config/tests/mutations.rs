//! A file with one leaf a line: whatever leaves are broken, exactly those are reported, each with path and line.

use proptest::prelude::*;

use super::{errors, good};

/// Path, line with `_` for the value, a good value, bad ones. Rows without a path only give structure.
type Row = (&'static str, &'static str, &'static str, &'static [&'static str]);

const NUMBER: &[&str] = &["-1", "+1", "1.5", "many", "99999999999999999999", "1_0", "[1]", "{ a: 1 }", ""];
const WORD: &[&str] = &["nonsense", "Auto", "[auto]", "~"];
const SPAN: &[&str] = &["5", "5d", "5m5m", "5s5m", "-5m", "999h", "0s", "5 m", "h", ""];

const ROWS: &[Row] = &[
    ("version", "version: _", "1", &["2", "1.0", "one", ""]),
    ("", "node:", "", &[]),
    ("node.name", "  name: _", "edge-1", &["two words", "\"\"", "[a]", "\"a\\n\""]),
    ("node.zone", "  zone: _", "z1", &["two words", "{ a: b }", "null"]),
    ("", "interfaces:", "", &[]),
    ("interfaces[0].name", "  - name: _", "eth0", &["a-name-too-long-", "..", "a/b", "a b", "[eth0]"]),
    ("interfaces[0].mode", "    mode: _", "native", WORD),
    ("interfaces[0].next_hop", "    next_hop: _", "auto", &["nonsense", "00:00:5e:00:01:01", "[auto]"]),
    ("", "  - name: eth1", "", &[]),
    ("", "    next_hop:", "", &[]),
    (
        "interfaces[1].next_hop.mac",
        "      mac: _",
        "00:00:5e:00:01:01",
        &[
            "00:00:5e:00:01",
            "01:00:5e:00:01:01",
            "00:00:5e:00:01:01:02",
            "0:0:5e:0:1:1",
            "00:00:00:00:00:00",
            "x",
        ],
    ),
    ("", "encap:", "", &[]),
    ("encap.kind", "  kind: _", "gue", &["gre", "GUE", "[ipip]"]),
    ("", "  gue:", "", &[]),
    ("encap.gue.port", "    port: _", "6081", &["0", "65536", "x"]),
    ("encap.gue.variant", "    variant: _", "1", &["2", "-1", "one", ""]),
    (
        "encap.source_v4",
        "  source_v4: _",
        "172.16.0.0/16",
        &[
            "172.16.0.1/16",
            "172.0.0.0/7",
            "172.16.0.0",
            "172.16.0.0/33",
            "\"fd00::/64\"",
            "127.0.0.0/8",
            "0.0.0.0/8",
            "x",
        ],
    ),
    (
        "encap.source_v6",
        "  source_v6: _",
        "\"fd00::/64\"",
        &["\"fd00::1/64\"", "\"fd00::/129\"", "10.0.0.0/8", "\"ff00::/8\"", "\"fe80::/64\"", "fd00::/+8"],
    ),
    ("encap.dscp", "  dscp: _", "copy", &["64", "-1", "keep"]),
    ("encap.mtu", "  mtu: _", "auto", &["575", "65536", "x"]),
    ("", "maglev:", "", &[]),
    ("maglev.table_size", "  table_size: _", "4093", &["4096", "2", "131101", "x", "-7"]),
    ("maglev.seed", "  seed: _", "0xfeed", NUMBER),
    ("", "flow_table:", "", &[]),
    ("flow_table.entries", "  entries: _", "1024", &["512", "1000", "0", "536870912", "x"]),
    ("flow_table.track_window", "  track_window: _", "5s", SPAN),
    ("", "limits:", "", &[]),
    ("limits.services", "  services: _", "16383", &["0", "16384", "x"]),
    ("limits.vips", "  vips: _", "100", &["0", "x"]),
    ("limits.backends", "  backends: _", "100", &["0", "x"]),
    ("limits.ring_slots", "  ring_slots: _", "100000", &["0", "x"]),
    ("limits.port_pages", "  port_pages: _", "100", &["0", "x"]),
    ("limits.server_ids", "  server_ids: _", "100", &["0", "x"]),
    ("limits.source_ranges", "  source_ranges: _", "100", &["0", "x"]),
    ("limits.fragments", "  fragments: _", "1024", &["512", "1000", "x"]),
    ("limits.backend_stats", "  backend_stats: _", "100", NUMBER),
    ("", "kubernetes:", "", &[]),
    ("kubernetes.enabled", "  enabled: _", "true", &["yes", "1"]),
    ("kubernetes.kubeconfig", "  kubeconfig: _", "/etc/kubeconfig", &["kubeconfig", "/etc/"]),
    (
        "kubernetes.load_balancer_class",
        "  load_balancer_class: _",
        "example.com/lb",
        &["a/b/c", "/b", "a b", "-a"],
    ),
    ("kubernetes.classless", "  classless: _", "true", &["yes", "1"]),
    ("kubernetes.delivery", "  delivery: _", "pod", &["pods", "vip"]),
    ("kubernetes.hints", "  hints: _", "true", &["auto"]),
    ("kubernetes.edge_nodes", "  edge_nodes: _", "role in (a, b)", &["\"\"", "a;b", "[a]"]),
    ("", "peers:", "", &[]),
    ("peers.listen", "  listen: _", "10.0.0.11:9411", &["9411", "10.0.0.11", "10.0.0.11:0", "x:1", "[a]"]),
    ("peers.key_file", "  key_file: _", "/etc/key", &["key", "/etc/"]),
    ("", "  nodes:", "", &[]),
    ("peers.nodes[0]", "    - _", "10.0.0.12", &["x", "10.0.0.12:0", "0.0.0.0", "10.0.0.0/24", "node2"]),
    ("", "metrics:", "", &[]),
    ("metrics.listen", "  listen: _", "127.0.0.1:9410", &["9410", "127.0.0.1", "127.0.0.1:0", "x:1", "[a]"]),
    ("metrics.per_backend", "  per_backend: _", "100", NUMBER),
    ("", "log:", "", &[]),
    ("log.format", "  format: _", "json", WORD),
    ("log.level", "  level: _", "debug", WORD),
    ("", "vips:", "", &[]),
    (
        "vips[0].address",
        "  - address: _",
        "203.0.113.10",
        &["localhost", "0.0.0.0", "203.0.113.10:80", "[a]"],
    ),
    ("vips[0].unmatched", "    unmatched: _", "pass", WORD),
    ("vips[0].advertise", "    advertise: _", "any", WORD),
    ("", "    bgp:", "", &[]),
    ("vips[0].bgp.med", "      med: _", "77", NUMBER),
    ("vips[0].bgp.prepend", "      prepend: _", "5", &["21", "x"]),
    ("", "      communities:", "", &[]),
    ("vips[0].bgp.communities[0]", "        - _", "no-export", &["64500", "no-way", "[1:2]"]),
    ("", "services:", "", &[]),
    ("services[0].name", "  - name: _", "sip", &["two words", "\"\"", "[a]"]),
    ("", "    vip:", "", &[]),
    (
        "services[0].vip[0]",
        "      - _",
        "203.0.113.10",
        &["x", "224.0.0.1", "203.0.113.10/32", "[203.0.113.10]"],
    ),
    ("services[0].vip[1]", "      - _", "2001:db8::10", &["x", "ff02::1", "2001:db8::10::1", "::1"]),
    ("services[0].protocol", "    protocol: _", "udp", &["UDP", "sctp", "[udp]", ""]),
    ("", "    ports:", "", &[]),
    ("services[0].ports[0]", "      - _", "5060", &["0", "65536", "-1", "x", "all", "1-", "[1]"]),
    ("services[0].ports[1]", "      - _", "20000-24999", &["24999-20000", "0-5", "5-70000", "1-2-3", "1..2"]),
    ("services[0].affinity", "    affinity: _", "client-ip", &["ice", "source", "[client-ip]"]),
    ("services[0].fragments", "    fragments: _", "drop", WORD),
    ("services[0].tracking", "    tracking: _", "sampled", WORD),
    ("services[0].flow_timeout", "    flow_timeout: _", "2h10m", SPAN),
    ("services[0].slow_start", "    slow_start: _", "60s", SPAN),
    ("services[0].new_flow_limit", "    new_flow_limit: _", "5", NUMBER),
    ("services[0].table_size", "    table_size: _", "65537", &["65536", "2", "131101", "x"]),
    ("", "    source_ranges:", "", &[]),
    ("", "      allow:", "", &[]),
    (
        "services[0].source_ranges.allow[0]",
        "        - _",
        "10.0.0.0/8",
        &["10.0.0.1/8", "10.0.0.0", "10.0.0.0/33", "x", "[10.0.0.0/8]"],
    ),
    ("", "      deny:", "", &[]),
    (
        "services[0].source_ranges.deny[0]",
        "        - _",
        "\"2001:db8::/32\"",
        &["\"2001:db8::1/32\"", "all", "\"2001:db8::/129\""],
    ),
    ("", "    drain:", "", &[]),
    ("services[0].drain.mode", "      mode: _", "shed", WORD),
    ("services[0].drain.max", "      max: _", "1h30m20s500ms", SPAN),
    ("", "    encap:", "", &[]),
    ("services[0].encap.dscp", "      dscp: _", "46", &["64", "x"]),
    ("", "    advertise:", "", &[]),
    ("", "      when:", "", &[]),
    ("services[0].advertise.when.min_healthy", "        min_healthy: _", "2", &["0", "4096", "x", "[1]"]),
    ("", "    health_check:", "", &[]),
    ("services[0].health_check.kind", "      kind: _", "https", &["ping", "HTTP", "[tcp]", ""]),
    ("services[0].health_check.interval", "      interval: _", "1m", SPAN),
    ("services[0].health_check.timeout", "      timeout: _", "250ms", SPAN),
    ("services[0].health_check.rise", "      rise: _", "4", NUMBER),
    ("services[0].health_check.fall", "      fall: _", "1", NUMBER),
    ("services[0].health_check.via", "      via: _", "direct", WORD),
    ("services[0].health_check.port", "      port: _", "8443", NUMBER),
    ("services[0].health_check.path", "      path: _", "/healthz", &["healthz", "\"/a b\"", "[/]", ""]),
    ("services[0].health_check.host", "      host: _", "sip.example", &["two words", "{ a: b }"]),
    ("services[0].health_check.expect", "      expect: _", "200-204", &["[200]", "{ a: b }", "~"]),
    ("services[0].on_all_down", "    on_all_down: _", "drop", WORD),
    ("", "    backends:", "", &[]),
    (
        "services[0].backends[0].address",
        "      - address: _",
        "10.0.0.1",
        &["x", "0.0.0.0", "10.0.0.256", "10.00.0.1"],
    ),
    ("services[0].backends[0].weight", "        weight: _", "1000", NUMBER),
    ("services[0].backends[0].zone", "        zone: _", "z", &["two words", ""]),
    ("services[0].backends[0].state", "        state: _", "drain", WORD),
    (
        "services[0].backends[0].share",
        "        share: _",
        "10%",
        &["101%", "1.5", "10", "-1%", "x", "\"%\"", "1e1%", "inf", "NaN", "0.1.1", ".5"],
    ),
    ("services[0].backends[1].address", "      - address: _", "fd01::1", &["x", "\"::\"", "fe80::1%eth0"]),
    ("", "decap:", "", &[]),
    ("", "  interfaces:", "", &[]),
    ("decap.interfaces[0].name", "    - name: _", "eth2", &["a:b", "[a]"]),
    ("decap.interfaces[0].mode", "      mode: _", "generic", WORD),
    ("", "  accept:", "", &[]),
    ("decap.accept[0]", "    - _", "ipip", &["gre", "x"]),
    ("decap.gue_port", "  gue_port: _", "6081", &["0", "65536", "x"]),
    ("decap.mss", "  mss: _", "off", &["on", "1400"]),
    ("", "  allow_sources:", "", &[]),
    (
        "decap.allow_sources[0]",
        "    - _",
        "172.16.0.0/16",
        &["172.16.0.0", "172.16.0.0/15/1", "172.17.0.0/15", "x/8"],
    ),
    ("decap.allow_sources[1]", "    - _", "fd00::/64", &["fd00::", "fd00::/200", "fd00::1/127"]),
    ("", "  vips:", "", &[]),
    ("decap.vips[0]", "    - _", "203.0.113.77", &["x", "127.0.0.1"]),
    ("decap.vip_on_lo", "  vip_on_lo: _", "false", &["yes", "1", "[true]"]),
    ("", "bgp:", "", &[]),
    (
        "bgp.local_as",
        "  local_as: _",
        "4200000001",
        &["0", "23456", "65535", "4294967295", "65000.1", "x", "[1]"],
    ),
    ("bgp.router_id", "  router_id: _", "10.0.0.11", &["0.0.0.0", "\"::1\"", "11", "x"]),
    ("bgp.graceful_restart", "  graceful_restart: _", "true", &["yes", "1"]),
    ("bgp.restart_time", "  restart_time: _", "40s", &["0s", "4096s", "1500ms", "5", "x"]),
    ("bgp.withdraw_grace", "  withdraw_grace: _", "6s", &["11m", "5", "x"]),
    ("bgp.drain_time", "  drain_time: _", "7s", &["25h", "5", "x"]),
    ("bgp.on_stop", "  on_stop: _", "keep", WORD),
    ("bgp.med", "  med: _", "9", NUMBER),
    ("bgp.local_pref", "  local_pref: _", "9", NUMBER),
    ("bgp.prepend", "  prepend: _", "1", &["21", "-1", "x"]),
    ("bgp.status_file", "  status_file: _", "/run/x.json", &["x.json", "/run/", "\"\"", "[a]"]),
    ("", "  communities:", "", &[]),
    ("bgp.communities[0]", "    - _", "64500:100", &["64500", "65536:1", "1:65536", "a:b", "1:2:3", "[a]"]),
    ("", "  large_communities:", "", &[]),
    ("bgp.large_communities[0]", "    - _", "1:2:4294967295", &["1:2", "1:2:4294967296", "1:2:3:4", "x"]),
    ("", "  drain:", "", &[]),
    ("bgp.drain.prepend", "    prepend: _", "4", &["21", "x"]),
    ("bgp.drain.med", "    med: _", "keep", &["-1", "x"]),
    ("bgp.drain.graceful_shutdown", "    graceful_shutdown: _", "false", &["no", "0"]),
    ("", "  aggregates:", "", &[]),
    (
        "bgp.aggregates[0].prefix",
        "    - prefix: _",
        "203.0.113.0/24",
        &["203.0.113.1/24", "203.0.113.0", "x"],
    ),
    ("bgp.aggregates[0].advertise", "      advertise: _", "all", WORD),
    ("bgp.aggregates[0].host_routes", "      host_routes: _", "true", &["yes", "x"]),
    ("", "  peers:", "", &[]),
    (
        "bgp.peers[0].address",
        "    - address: _",
        "10.0.0.1",
        &["0.0.0.0", "router", "\"fe80::1\"", "10.0.0.1:179"],
    ),
    ("bgp.peers[0].remote_as", "      remote_as: _", "65001", &["0", "external", "x"]),
    ("bgp.peers[0].port", "      port: _", "1179", &["0", "65536", "x"]),
    ("bgp.peers[0].password_file", "      password_file: _", "/etc/key", &["key", "/etc/"]),
    ("bgp.peers[0].hold_time", "      hold_time: _", "12s", &["2s", "1s", "65536s", "3500ms", "9", "x"]),
    ("bgp.peers[0].send_hold_time", "      send_hold_time: _", "20s", &["0s", "25h", "x"]),
    ("bgp.peers[0].multihop", "      multihop: _", "4", &["0", "256", "x"]),
    ("bgp.peers[0].gtsm", "      gtsm: _", "true", &["255", "x"]),
    ("bgp.peers[0].source", "      source: _", "10.0.0.11", &["lo", "127.0.0.1"]),
    ("bgp.peers[0].interface", "      interface: _", "eth0", &["a/b", "a-name-too-long-"]),
    ("bgp.peers[0].next_hop_v4", "      next_hop_v4: _", "10.0.0.12", &["fd00::1", "x"]),
    ("bgp.peers[0].next_hop_v6", "      next_hop_v6: _", "fd00::12", &["10.0.0.1", "x"]),
    ("bgp.peers[0].med", "      med: _", "50", NUMBER),
    ("bgp.peers[0].max_received", "      max_received: _", "1000", &["10000001", "-1", "x"]),
    ("", "      families:", "", &[]),
    ("bgp.peers[0].families[0]", "        - _", "ipv4", &["inet", "[ipv4]"]),
    ("", "      bfd:", "", &[]),
    ("bgp.peers[0].bfd.interval", "        interval: _", "100ms", &["9ms", "2m", "5", "x"]),
    ("bgp.peers[0].bfd.multiplier", "        multiplier: _", "5", &["0", "256", "x"]),
];

/// The file with the given bad values, and what must be reported.
fn broken(choice: impl Fn(usize, &Row) -> Option<&'static str>) -> (String, Vec<(u32, String)>) {
    let (mut text, mut expected) = (String::new(), Vec::new());
    for (i, row) in ROWS.iter().enumerate() {
        let wrong = choice(i, row);
        text += &row.1.replacen(" _", &format!(" {}", wrong.unwrap_or(row.2)), 1);
        text.push('\n');
        if wrong.is_some() {
            expected.push((u32::try_from(i).unwrap() + 1, row.0.to_owned()));
        }
    }
    (text, expected)
}

fn check(choice: impl Fn(usize, &Row) -> Option<&'static str>) {
    let (text, expected) = broken(choice);
    if expected.is_empty() {
        good(&text);
        return;
    }
    let errors = errors(&text);
    let found: Vec<_> = errors.iter().map(|e| (e.line, e.path.clone())).collect();
    assert_eq!(found, expected, "{errors:#?}\n{text}");
}

#[test]
fn the_unbroken_file_is_good_and_nothing_in_it_is_ignored() {
    let desired = good(&broken(|_, _| None).0).desired;
    let shown = format!("{desired:?}");
    for part in [
        "65261",
        "Native",
        "Json",
        "Debug",
        "Pass",
        "Sampled",
        "7800s",
        "Shed",
        "5420.5s",
        "Set(46)",
        "6554",
        "sip.example",
    ] {
        assert!(shown.contains(part), "{part} in {shown}");
    }
}

#[test]
fn each_bad_leaf_is_one_error_at_its_line() {
    for (i, row) in ROWS.iter().enumerate() {
        for &wrong in row.3 {
            check(|j, _| (i == j).then_some(wrong));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(50))]

    #[test]
    fn several_bad_leaves_are_as_many_errors(seed in proptest::collection::vec(0usize..60, ROWS.len())) {
        check(|i, row| row.3.get(seed[i]).copied());
    }
}
