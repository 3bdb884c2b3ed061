//! The text of made-up samples, line by line, and the reasons of readiness.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use xdp_lb_common::reason::{DropReason, FlowEvent, PassReason, Reason};
use xdp_lb_common::stats::Traffic;

use super::families::{ALL, PREFIX};
use super::*;
use crate::bgp::status::{BfdStatus, PeerStatus, Status};
use crate::health::{BUCKETS, HealthSnapshot, Key, State, TargetHealth};

const PAGE: &str = include_str!("../../../docs/metrics.md");

fn member(n: u8, up: bool, flows: Option<u32>) -> Member {
    let traffic = Traffic { packets: n.into(), bytes: 100 * u64::from(n) };
    Member { address: [10, 0, 0, n].into(), up, traffic, flows }
}

fn peer(address: &str, state: &str, bfd: Option<&str>) -> PeerStatus {
    PeerStatus {
        address: address.parse().unwrap(),
        remote_as: 65_001,
        state: state.into(),
        since: None,
        established: 1,
        last_down: None,
        last_down_reason: None,
        failing: None,
        local_address: None,
        hold_time: None,
        extended_next_hop: false,
        routes: Vec::new(),
        untold: BTreeMap::new(),
        prefixes_received: 7,
        updates_received: 0,
        updates_sent: 0,
        refreshes: 0,
        bfd: bfd.map(|state| BfdStatus { state: state.into(), ups: 1, downs: 0, detection_time_ms: 300 }),
    }
}

/// A sample in which every family has a row.
fn full() -> Sample {
    let flows = Flows { live: 7, members: BTreeMap::new() };
    let mut counters = Counters::default();
    counters.drops.no_service = 3;
    counters.passes.not_a_vip = u64::MAX;
    (counters.flows.hit, counters.flows.miss, counters.flows.stale, counters.flows.set_full) =
        (11, 12, 13, 14);
    let answers =
        Answers { good: 3, bad: 2, took: [1, 0, 0, 0, 0, 0, 0, 1, 1], took_sum: Duration::from_millis(6500) };
    Sample {
        condition: Condition {
            started: true,
            interfaces: vec!["eth0".into()],
            applied: 1_700_000_000,
            cleared: 5,
            forgotten: 14,
            moved: [31, 32, 33, 34],
            flows: Some(Arc::new(flows)),
            peers: Some(Counts { sent: 21, received: 22, refused: 23 }),
            ..Condition::default()
        },
        generation: 4,
        interfaces: vec![("eth0".into(), "native".into())],
        counters,
        flow_entries: 1024,
        services: vec![
            Service {
                name: "web".into(),
                traffic: Traffic { packets: 3, bytes: 300 },
                dirty_slots: 9,
                members: vec![member(1, true, Some(6)), member(2, false, Some(0))],
                omitted: 0,
            },
            Service { name: "a\\b\"c".into(), omitted: 2, ..Service::default() },
        ],
        checks: [("tcp", answers)].into(),
        bgp: Some(Status {
            peers: vec![peer("10.0.0.254", "Established", Some("Up")), peer("fd00::1", "Active", None)],
            ..Status::default()
        }),
    }
}

#[track_caller]
fn has(text: &str, line: &str) {
    assert!(text.lines().any(|l| l == line), "{line}\nis not in\n{text}");
}

#[test]
fn figures_stand_behind_their_names() {
    let text = text(full());
    for line in [
        r#"xdp_lb_packets_total{service="web"} 3"#,
        r#"xdp_lb_bytes_total{service="web"} 300"#,
        r#"xdp_lb_backend_packets_total{service="web",backend="10.0.0.2"} 2"#,
        r#"xdp_lb_backend_bytes_total{service="web",backend="10.0.0.2"} 200"#,
        r#"xdp_lb_backend_up{service="web",backend="10.0.0.1"} 1"#,
        r#"xdp_lb_backend_up{service="web",backend="10.0.0.2"} 0"#,
        r#"xdp_lb_backend_flows{service="web",backend="10.0.0.1"} 6"#,
        r#"xdp_lb_dirty_slots{service="web"} 9"#,
        r#"xdp_lb_drops_total{reason="no_service"} 3"#,
        r#"xdp_lb_passes_total{reason="not_a_vip"} 18446744073709551615"#,
        "xdp_lb_flow_table_entries 7",
        "xdp_lb_flow_table_capacity 1024",
        "xdp_lb_flow_table_hits_total 11",
        "xdp_lb_flow_table_misses_total 12",
        "xdp_lb_flow_table_expired_total 5",
        r#"xdp_lb_flows_moved_total{reason="down"} 31"#,
        r#"xdp_lb_flows_moved_total{reason="shed"} 32"#,
        r#"xdp_lb_flows_moved_total{reason="max"} 33"#,
        r#"xdp_lb_flows_moved_total{reason="configuration"} 34"#,
        "xdp_lb_flow_table_stale_total 13",
        r#"xdp_lb_flows_moved_total{reason="forgotten"} 14"#,
        r#"xdp_lb_peer_sync_flows_total{result="sent"} 21"#,
        r#"xdp_lb_peer_sync_flows_total{result="received"} 22"#,
        r#"xdp_lb_peer_sync_flows_total{result="refused"} 23"#,
        r#"xdp_lb_flow_table_unremembered_total{reason="set_full"} 14"#,
        r#"xdp_lb_flow_table_unremembered_total{reason="over_limit"} 0"#,
        "xdp_lb_backends_without_series 2",
        "xdp_lb_config_generation 4",
        "xdp_lb_config_last_apply_timestamp_seconds 1700000000",
        "xdp_lb_config_last_apply_success 1",
        r#"xdp_lb_xdp_mode{interface="eth0",mode="native"} 1"#,
        concat!(r#"xdp_lb_build_info{version=""#, env!("CARGO_PKG_VERSION"), r#""} 1"#),
        r#"xdp_lb_bgp_session_up{peer="10.0.0.254"} 1"#,
        r#"xdp_lb_bgp_session_up{peer="fd00::1"} 0"#,
        r#"xdp_lb_bfd_session_up{peer="10.0.0.254"} 1"#,
        r#"xdp_lb_bgp_routes_advertised{peer="10.0.0.254"} 0"#,
        r#"xdp_lb_bgp_prefixes_received{peer="10.0.0.254"} 7"#,
        r#"xdp_lb_health_checks_total{kind="tcp",result="good"} 3"#,
        r#"xdp_lb_health_checks_total{kind="tcp",result="bad"} 2"#,
        r#"xdp_lb_health_check_duration_seconds_bucket{kind="tcp",le="0.001"} 1"#,
        r#"xdp_lb_health_check_duration_seconds_bucket{kind="tcp",le="5"} 2"#,
        r#"xdp_lb_health_check_duration_seconds_bucket{kind="tcp",le="+Inf"} 3"#,
        r#"xdp_lb_health_check_duration_seconds_sum{kind="tcp"} 6.5"#,
        r#"xdp_lb_health_check_duration_seconds_count{kind="tcp"} 3"#,
    ] {
        has(&text, line);
    }
    assert!(!text.contains(r#"bfd_session_up{peer="fd00::1"}"#), "without BFD there is nothing to tell");
}

#[test]
fn names_in_labels_are_escaped() {
    has(&text(full()), r#"xdp_lb_packets_total{service="a\\b\"c"} 0"#);
}

#[test]
fn every_reason_has_a_series_though_nothing_happened() {
    let text = text(Sample::default());
    for reason in DropReason::ALL {
        has(&text, &format!("xdp_lb_drops_total{{reason=\"{}\"}} 0", reason.name()));
    }
    for reason in PassReason::ALL {
        has(&text, &format!("xdp_lb_passes_total{{reason=\"{}\"}} 0", reason.name()));
    }
    // A reason that is added must get a name of its own here.
    assert_eq!(FlowEvent::ALL.len(), 10);
}

#[test]
fn what_is_not_known_is_left_out() {
    let text = text(Sample::default());
    for name in [
        "flow_table_entries",
        "backend_flows",
        "bgp_session_up",
        "peer_sync_flows_total",
        "health_check_duration_seconds_count",
    ] {
        assert!(!text.lines().any(|line| line.starts_with(&format!("{PREFIX}_{name}"))), "{name}");
    }
    has(&text, "xdp_lb_config_last_apply_success 0");
}

/// Name, type and HELP of every family in a text, in order; every sample follows its own family's lines.
fn served(text: &str) -> Vec<(String, String, String)> {
    let mut families: Vec<(String, String, String)> = Vec::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').unwrap();
            families.push((name.into(), String::new(), help.into()));
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            let last = families.last_mut().unwrap();
            assert_eq!(last.0, name, "TYPE follows HELP");
            last.1 = kind.into();
        } else {
            let name = line.split(['{', ' ']).next().unwrap();
            let family = families.last().unwrap();
            let suffix = name.strip_prefix(&*family.0).unwrap_or_else(|| panic!("{line} in {}", family.0));
            let suffixes: &[&str] =
                if family.1 == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
            assert!(suffixes.contains(&suffix), "{line}");
        }
    }
    families
}

#[test]
fn the_page_lists_what_is_served_and_nothing_else() {
    let names = PAGE.split("## Names").nth(1).unwrap().split("\n## ").next().unwrap();
    let rows = names.lines().filter_map(|line| line.strip_prefix("| `xdp_lb_"));
    let told: Vec<(String, String, String)> = rows
        .map(|row| {
            let cells: Vec<&str> = row.split(" | ").collect();
            let [name, kind, _, help] = cells[..] else { panic!("{row}") };
            let name = format!("{PREFIX}_{}", name.trim_end_matches('`'));
            (name, kind.to_owned(), help.trim_end_matches(" |").to_owned())
        })
        .collect();
    assert_eq!(told, served(&text(full())));
    let unique: BTreeSet<_> = told.iter().map(|row| &row.0).collect();
    assert_eq!(unique.len(), told.len());
    for family in ALL {
        let labels: Vec<String> =
            family.labels.split(", ").filter(|l| !l.is_empty()).map(|l| format!("`{l}`")).collect();
        let row = format!("| `{PREFIX}_{}` | {} | {} | ", family.name, family.kind.word(), labels.join(", "));
        assert!(names.contains(&row), "{row}");
    }
}

#[test]
fn labels_are_those_of_the_list() {
    let text = text(full());
    for family in ALL.iter().filter(|family| family.kind != families::Kind::Histogram) {
        let line = text.lines().find(|l| {
            l.strip_prefix(&format!("{PREFIX}_{}", family.name)).is_some_and(|l| l.starts_with(['{', ' ']))
        });
        let line = line.unwrap_or_else(|| panic!("no sample of {}", family.name));
        let labels = line.split_once('{').map_or("", |(_, l)| l.rsplit_once('}').unwrap().0);
        let found: Vec<&str> =
            labels.split("\",").filter(|l| !l.is_empty()).map(|l| l.split('=').next().unwrap()).collect();
        assert_eq!(found.join(", "), family.labels, "{line}");
    }
}

#[test]
fn readiness_gives_every_reason() {
    let attached = vec![("eth0".to_owned(), "native".to_owned())];
    let good = Condition {
        beat: Duration::from_secs(100),
        started: true,
        interfaces: vec!["eth0".into()],
        applied: 1,
        ..Condition::default()
    };
    let now = Duration::from_secs(129);
    assert_eq!(ready(&good, &attached, now), Ok(()));
    assert_eq!(ready(&Condition { refused: Some("no".into()), ..good.clone() }, &attached, now), Ok(()));
    let says = |condition: &Condition, now: u64| {
        let reasons = ready(condition, &attached, Duration::from_secs(now)).unwrap_err();
        reasons.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(says(&good, 130), ["the agent's loop has not turned for 30 s"]);
    assert!(alive(&good, now).is_ok() && alive(&good, Duration::from_secs(130)).is_err());
    let bad = Condition {
        started: false,
        leaving: true,
        interfaces: vec!["eth0".into(), "eth1".into(), "eth2".into()],
        failure: Some("write map rings[7]: ENOMEM".into()),
        ..good
    };
    let expected = [
        "starting: the tables are being filled",
        "leaving: the agent was told to end",
        "the program is not attached to eth1, eth2",
        "the maps are not as wanted: write map rings[7]: ENOMEM",
    ];
    assert_eq!(says(&bad, 100), expected);
}

#[test]
fn answers_of_backends_that_went_are_kept() {
    let target = |kind, good, bad| TargetHealth {
        state: State::Up,
        since: Duration::ZERO,
        kind,
        reason: None,
        unable: None,
        streak: 0,
        needed: 0,
        good,
        bad,
        took: {
            let mut took = [0; BUCKETS.len() + 1];
            took[2] = good;
            took
        },
        took_sum: Duration::from_millis(good),
    };
    let key = |n: u8| Key { service: "web".into(), backend: [10, 0, 0, n].into() };
    let snapshot = |targets: &[(u8, &'static str, u64, u64)]| HealthSnapshot {
        targets: targets.iter().map(|&(n, kind, good, bad)| (key(n), target(kind, good, bad))).collect(),
        ..HealthSnapshot::default()
    };
    let mut tally = Tally::default();
    let mut fold = |targets: &[_]| {
        let checks = tally.fold(&snapshot(targets));
        let of = |kind| checks.get(kind).map(|a: &Answers| (a.good, a.bad, a.took[2])).unwrap_or_default();
        (of("tcp"), of("udp"))
    };
    assert_eq!(fold(&[(1, "tcp", 5, 1), (2, "tcp", 7, 0)]), ((12, 1, 12), (0, 0, 0)));
    assert_eq!(fold(&[(1, "tcp", 6, 1)]), ((13, 1, 13), (0, 0, 0)), "one is gone");
    assert_eq!(fold(&[(1, "tcp", 6, 2), (2, "tcp", 1, 0)]), ((14, 2, 14), (0, 0, 0)), "it is back, from 0");
    assert_eq!(fold(&[(1, "udp", 2, 0), (2, "tcp", 2, 0)]), ((15, 2, 15), (2, 0, 2)), "another check");
}
