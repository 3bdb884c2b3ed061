//! The shipped examples load without errors or surprising warnings, and mean what they say.

use std::time::Duration;

use super::good;
use crate::model::{
    AdminState, Affinity, Desired, Dscp, EncapKind, Fragments, GueVariant, NextHopSource, Ports, Protocol,
    ServerIdBytes, Share, Tracking, Unmatched,
};

/// Every file of `examples/`.
pub(super) const ALL: &[(&str, &str)] = &[
    ("minimal", include_str!("../../../../examples/minimal.yaml")),
    ("lab", include_str!("../../../../examples/lab.yaml")),
    ("decap", include_str!("../../../../examples/decap.yaml")),
    ("rtc", include_str!("../../../../examples/rtc.yaml")),
    ("gue", include_str!("../../../../examples/gue.yaml")),
    ("edge-and-backend", include_str!("../../../../examples/edge-and-backend.yaml")),
    ("bgp", include_str!("../../../../examples/bgp.yaml")),
];

fn desired(name: &str) -> Desired {
    let (_, text) = ALL.iter().find(|(n, _)| *n == name).unwrap();
    good(text).desired
}

#[test]
fn all_load() {
    for (name, text) in ALL {
        let warnings = good(text).warnings;
        // Minimal is minimal: its seed is the public default.
        assert_eq!(warnings.len(), usize::from(*name == "minimal"), "{name}: {warnings:?}");
    }
}

#[test]
fn minimal_has_the_documented_defaults() {
    let desired = desired("minimal");
    assert_eq!(desired.flow_table.entries, 1 << 20);
    assert_eq!(desired.flow_table.track_window, Duration::from_secs(5));
    assert_eq!((desired.seed, desired.interfaces[0].next_hop), (0, NextHopSource::Auto));
    assert_eq!(desired.vips.len(), 1);
    assert_eq!(desired.vips[0].unmatched, Unmatched::Drop);
    let web = &desired.services[0];
    assert_eq!(web.ports, Ports::Ranges(vec![80..=80, 443..=443]));
    assert_eq!((web.tracking, web.affinity), (Tracking::Off, Affinity::FiveTuple));
    assert_eq!(web.flow_timeout, Duration::from_secs(2 * 3600 + 300));
    assert_eq!((web.new_flow_limit, web.table_size.get()), (100_000, 65537));
    assert_eq!(web.drain.max, Duration::from_secs(5 * 3600));
    assert_eq!((web.encap.source_v4, web.encap.dscp), (Some(([172, 16, 0, 0], 16)), Dscp::Copy));
    let backend = &web.backends[0];
    assert_eq!((backend.weight, backend.state, backend.share), (100, AdminState::Active, Share::FULL));
}

#[test]
fn lab_has_every_pair_of_families_and_protocols() {
    let desired = desired("lab");
    for (v4_vip, v4_backend) in [(true, true), (true, false), (false, true), (false, false)] {
        let pair = |s: &&crate::model::Service| {
            s.vips.iter().any(|vip| vip.is_ipv4() == v4_vip)
                && s.backends.iter().any(|b| b.address.is_ipv4() == v4_backend)
        };
        assert!(desired.services.iter().any(|s| pair(&s)), "{v4_vip} {v4_backend}");
    }
    assert!(desired.services.iter().any(|s| s.protocol == Protocol::Udp && s.tracking == Tracking::Exact));
}

#[test]
fn rtc_has_every_affinity_shares_backends_by_anchor_and_opens_the_canary_a_tenth() {
    let desired = desired("rtc");
    let [sip, tls, trunk, media, webrtc, quic] = &desired.services[..] else { panic!("{desired:#?}") };
    assert!([tls, trunk].iter().all(|s| s.backends == sip.backends && s.affinity == Affinity::ClientIp));
    assert!(desired.services.iter().all(|s| s.vips.len() == 2));
    assert_eq!(sip.backends[2].share, Share::from_fraction(0.1));
    assert_eq!((trunk.source_ranges.allow.len(), trunk.source_ranges.deny.len()), (2, 1));
    assert_eq!(media.ports, Ports::Ranges(vec![20000..=29999]));
    assert_eq!((media.affinity, &media.backends[1].slice[..]), (Affinity::DestPort, &[25000..=29999][..]));
    assert_eq!(webrtc.affinity, Affinity::IceUfrag);
    assert_eq!(webrtc.backends[0].server_id, ServerIdBytes::new(b"sfu1"));
    assert_eq!((quic.affinity, quic.cid.config_ids, quic.cid.nonce), (Affinity::QuicCid, 1, 5));
    assert_eq!(quic.backends[1].server_id, ServerIdBytes::new(&[0x0a, 2]));
}

#[test]
fn gue_is_sent_and_taken_and_fragments_go_by_client_or_not_at_all() {
    let desired = desired("gue");
    let kind = EncapKind::Gue { port: 6080, variant: GueVariant::Bare };
    assert!(desired.services.iter().all(|s| s.encap.kind == kind));
    assert_eq!(desired.services[1].fragments, Fragments::Drop);
    assert_eq!(crate::fragments::stateless(&desired).count(), 1);
    assert_eq!(desired.decap.map(|decap| (decap.ipip, decap.gue)), Some((true, Some(6080))));
}

#[test]
fn a_file_may_have_one_role_or_both() {
    let (edge, backend, both) = (desired("lab"), desired("decap"), desired("edge-and-backend"));
    assert!(edge.decap.is_none() && !edge.services.is_empty());
    assert!(backend.services.is_empty() && backend.interfaces.is_empty() && backend.vips.is_empty());
    assert_eq!(backend.decap.unwrap().interfaces[0].name, "eth0");
    assert!(both.decap.unwrap().interfaces.is_empty() && both.interfaces.len() == 1);
}
