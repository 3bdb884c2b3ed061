//! Golden packets through `BPF_PROG_TEST_RUN`: every group of rows against the program that its fixture loads.

mod golden;

use std::collections::BTreeSet;

use golden::affinities::CONFIG as AFFINITIES;
use golden::fixture::{BALANCER, BOTH, DECAP, DECAP_GUE, NARROW, OWN_PODS, PODS, SPREAD, load};
use golden::net::{BACKEND, BACKEND_V6, VIP, VIP_OVER_V6, to, to_v6};
use golden::{
    Row, affinities, check, decap, discovery, echo, errors, extensions, flow_label, fragments, gue, lying,
    passes, pods, services, too_big, truncated, tunnels, vlan,
};
use xdp_lb::nexthop::{Below, NextHop, Resolution, Tags};
use xdp_lb_common::reason::{DropReason, FlowEvent, PassReason, Reason};
use xdp_lb_tests::prog::{Agent, Counted, Ctx, Pinned, Subject, XdpAction, available, desired, run};

/// One test a group, so that a failure names it.
macro_rules! groups {
    ($($test:ident: $config:ident, $rows:path;)*) => {
        mod group {
            use super::*;
            $(
                #[test]
                fn $test() {
                    let Ok(()) = available() else { return };
                    check(load($config).as_ref(), &$rows());
                }
            )*
        }

        /// The same rows with one load of each program, for machines on which loading takes seconds.
        #[test]
        #[ignore = "what the group tests do; `cargo xtask vm-test` runs it instead"]
        fn every_group() {
            let Ok(()) = available() else { return };
            for config in BTreeSet::from([$($config),*]) {
                let subject = load(config);
                $( if $config == config { check(subject.as_ref(), &$rows()); } )*
            }
        }

        /// All groups.
        fn all_rows() -> Vec<Row> {
            [$($rows()),*].concat()
        }
    };
}

groups! {
    families: BALANCER, tunnels::families;
    transports: BALANCER, tunnels::transports;
    headers: BALANCER, tunnels::headers;
    dscp: BALANCER, tunnels::dscp;
    padding: BALANCER, tunnels::padding;
    headroom: BALANCER, tunnels::headroom;
    echo_requests: BALANCER, echo::rows;
    neighbour_discovery: BALANCER, discovery::neighbours;
    unhandled_icmp: BALANCER, discovery::unhandled;
    errors_about_flows: BALANCER, errors::about_flows;
    errors_refused: BALANCER, errors::refused;
    errors_about_tunnels: BALANCER, errors::about_tunnels;
    too_big_fits: NARROW, too_big::fits;
    too_big_told: NARROW, too_big::told;
    too_big_untold: NARROW, too_big::untold;
    too_big_headroom: NARROW, too_big::headroom;
    not_ip: BALANCER, passes::not_ip;
    not_a_vip: BALANCER, passes::not_a_vip;
    unserved_ports: BALANCER, services::unserved;
    unmatched_pass: BALANCER, services::unmatched;
    served_ports: BALANCER, services::ports;
    empty_services: BALANCER, services::empty;
    fragments_v4: BALANCER, fragments::ipv4;
    fragments_v6: BALANCER, fragments::ipv6;
    fragments_by_client: BALANCER, fragments::by_client;
    fragments_refused: BALANCER, fragments::refused;
    fragments_hostile: BALANCER, fragments::hostile;
    gue_sent: BALANCER, gue::sent_rows;
    vlan_balanced: BALANCER, vlan::balanced;
    vlan_passes: BALANCER, vlan::passes;
    options_v4: BALANCER, extensions::ipv4;
    extensions_v6: BALANCER, extensions::ipv6;
    lying_ipv4: BALANCER, lying::ipv4;
    lying_ipv6: BALANCER, lying::ipv6;
    lying_extensions: BALANCER, lying::extensions;
    lying_transport: BALANCER, lying::transport;
    truncated_frames: BALANCER, truncated::frames;
    truncated_packets: BALANCER, truncated::packets;
    truncated_others: BALANCER, truncated::others;
    decap_taken_off: DECAP, decap::taken_off;
    decap_refused: DECAP, decap::refused;
    decap_malformed: DECAP, decap::malformed;
    decap_for_others: DECAP, decap::for_others;
    decap_no_tunnel: DECAP, decap::no_tunnel;
    decap_truncated: DECAP, decap::truncated;
    decap_congestion: DECAP, decap::congestion;
    decap_gue: DECAP_GUE, gue::taken_off;
    decap_gue_others: DECAP_GUE, gue::others;
    vlan_taken_off: DECAP, vlan::taken_off;
    vlan_gue_taken_off: DECAP_GUE, vlan::gue_taken_off;
    both_jobs: BOTH, decap::both;
    pods_translated: PODS, pods::translated;
    pods_errors: PODS, pods::errors;
    pods_refused: PODS, pods::refused;
    pods_of_this_node: OWN_PODS, pods::own;
    port_slices: AFFINITIES, affinities::slices;
    connection_ids: AFFINITIES, affinities::connection_ids;
    ufrags: AFFINITIES, affinities::ufrags;
    source_ranges: AFFINITIES, affinities::sources;
    fragments_inside: AFFINITIES, affinities::fragments;
}

/// Reasons that no row can bring about, and where they are tested instead.
const ELSEWHERE: &[Counted] = &[
    // Need time or a death: `prog_fragments`.
    Counted::Drop(DropReason::FragmentLate),
    Counted::Drop(DropReason::FragmentOrphan),
    // Tables that no configuration alone brings about: `prog_flows`.
    Counted::Drop(DropReason::NextHopUnresolved),
    Counted::Drop(DropReason::TableInconsistent),
    // Counted where packets leave: `lab_pods`. A table that is full is `translate`'s own test's.
    Counted::Pass(PassReason::FromPod),
    Counted::Drop(DropReason::PodFlowsFull),
    // Need an agent that reads, and a thousand packets: `prog_too_big`.
    Counted::Pass(PassReason::HandedToCutter),
    Counted::Drop(DropReason::TooBigUnanswered),
];

/// A new reason needs a new row.
#[test]
fn every_reason_has_a_row() {
    let rowed: BTreeSet<Counted> = all_rows().into_iter().flat_map(|row| row.counted).collect();
    let drops = DropReason::ALL.iter().map(|reason| Counted::Drop(*reason));
    let passes = PassReason::ALL.iter().map(|reason| Counted::Pass(*reason));
    let missing: Vec<String> = drops
        .chain(passes)
        .filter(|reason| rowed.contains(reason) == ELSEWHERE.contains(reason))
        .map(|reason| reason.to_string())
        .collect();
    assert!(missing.is_empty(), "without a row, or with one and listed as without: {missing:?}");
}

/// A service with `tracking: exact` looks up every packet: the first is remembered, the second found.
#[test]
fn exact_tracking_remembers_a_flow() {
    let Ok(()) = available() else { return };
    let row = |name: &str, events: &[FlowEvent]| {
        let mut row: Row = tunnels::over_v4(name, to(VIP).udp(40000, 7000).payload(b"x").build(), 0, 0);
        row.counted.extend(events.iter().map(|event| Counted::Flow(*event)));
        row
    };
    let rows = [
        row("first packet", &[FlowEvent::Miss, FlowEvent::Remembered]),
        row("second packet", &[FlowEvent::Hit]),
        row("third packet", &[FlowEvent::Hit]),
    ];
    check(load(BALANCER).as_ref(), &rows);
}

fn sent(subject: &dyn Subject, frame: &[u8]) -> Vec<u8> {
    let outcome = run(subject.program(), frame, &Ctx::default()).unwrap();
    assert_eq!(outcome.verdict, XdpAction::Tx);
    outcome.packet
}

/// Outer source and flow label are a flow's: the same for all its packets, spread over flows, inside the prefix.
#[test]
fn source_and_label_follow_the_flow() {
    let Ok(()) = available() else { return };
    let subject = load(SPREAD);
    let (mut sources, mut sources_v6, mut labels) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for port in 40000..40256 {
        let short = sent(subject.as_ref(), &to(VIP).udp(port, 5060).build());
        let long = sent(subject.as_ref(), &to(VIP).tos(4).id(9).udp(port, 5060).payload(&[7; 99]).build());
        assert_eq!(short[26..28], [172, 16], "outside 172.16.0.0/16");
        assert_eq!(short[26..30], long[26..30], "port {port}: two sources for one flow");
        sources.insert(short[26..30].to_vec());

        let short = sent(subject.as_ref(), &to(VIP_OVER_V6).udp(port, 5060).build());
        let long = sent(subject.as_ref(), &to(VIP_OVER_V6).ttl(3).udp(port, 5060).payload(&[7; 99]).build());
        assert_eq!(short[22..30], [0xfd, 0, 0x78, 0x64, 0x70, 0, 0, 0], "outside fd00:7864:7000::/64");
        assert_eq!(short[22..38], long[22..38], "port {port}: two sources for one flow");
        assert_eq!(flow_label(&short), flow_label(&long), "port {port}: two labels for one flow");
        sources_v6.insert(short[22..38].to_vec());
        labels.insert(flow_label(&short));
    }
    // 256 draws from 65536 meet about half a time; ten meetings are no accident.
    assert!(sources.len() > 245, "{} sources for 256 flows", sources.len());
    assert!(sources_v6.len() > 250, "{} IPv6 sources for 256 flows", sources_v6.len());
    assert!(labels.len() > 250, "{} flow labels for 256 flows", labels.len());
}

/// The outer IPv4 checksum is right whatever the flow puts into the source.
#[test]
fn every_outer_checksum_is_right() {
    let Ok(()) = available() else { return };
    let subject = load(SPREAD);
    for port in 1..2000 {
        for frame in [to(VIP).udp(port, 5060).build(), to_v6("2001:db8::10").udp(port, 5060).build()] {
            let outer = sent(subject.as_ref(), &frame);
            assert_eq!(xdp_lb_tests::packet::internet_checksum(&[&outer[14..34]]), 0, "port {port}");
        }
    }
}

/// Backends behind VLAN devices, and behind an interface where the file names a VLAN device: the next hop's tag goes out,
/// not the packet's own.
#[test]
fn next_hops_have_the_tag_of_their_vlan() {
    let Ok(()) = available() else { return };
    let pinned = Pinned::load(BALANCER).unwrap();
    let desired = desired(BALANCER).unwrap();
    let mut agent = Agent::start(&pinned, &desired).unwrap();
    for (tags, out) in [
        (Tags::One([0x81, 0x00, 0x0f, 0xfe]), &[0x81, 0x00, 0x0f, 0xfe][..]),
        (Tags::One([0x88, 0xa8, 0x00, 0x64]), &[0x88, 0xa8, 0x00, 0x64]),
        (Tags::None, &[]),
    ] {
        for backend in [BACKEND, BACKEND_V6] {
            let hop = NextHop {
                ifindex: 77,
                below: Some(Below { ifindex: 1, tags }),
                interface: "lo.100".to_owned(),
                source_mac: [0; 6],
                destination_mac: [0x00, 0x00, 0x5e, 0x00, 0x01, 0x01],
                mtu: 65_535,
                path_mtu: None,
            };
            agent.route(backend.parse().unwrap(), Resolution::Resolved(hop));
        }
        agent.apply(&desired).unwrap();
        check(&pinned, &vlan::next_hops(out));
    }
}
