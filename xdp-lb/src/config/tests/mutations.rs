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
    ("encap.kind", "  kind: _", "ipip", &["gue", "gre", "[ipip]"]),
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
    ("encap.mtu", "  mtu: _", "auto", &["1500", "x"]),
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
    ("limits.backend_stats", "  backend_stats: _", "100", NUMBER),
    ("", "metrics:", "", &[]),
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
    ("services[0].fragments", "    fragments: _", "drop", &["forward", "x"]),
    ("services[0].tracking", "    tracking: _", "sampled", WORD),
    ("services[0].flow_timeout", "    flow_timeout: _", "2h10m", SPAN),
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
    ("", "    health_check:", "", &[]),
    ("services[0].health_check.kind", "      kind: _", "none", &["tcp", "x", ""]),
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
    ("decap.accept[0]", "    - _", "ipip", &["gue", "x"]),
    ("decap.mss", "  mss: _", "off", &["auto", "1400"]),
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
    for part in
        ["65261", "Native", "Json", "Debug", "Pass", "Sampled", "7800s", "Shed", "5420.5s", "Set(46)", "6554"]
    {
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
