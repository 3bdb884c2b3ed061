//! Rules of affinities and source ranges, each broken alone.

use super::{edge, errors, good, only};
use crate::model::{Affinity, CidFormat, ServerIdBytes};

const V: &str = "203.0.113.1";

/// A service with these backends, each in braces after its address.
fn rtc(protocol: &str, ports: &str, more: &str, backends: &[&str]) -> String {
    let backends: Vec<String> = backends
        .iter()
        .enumerate()
        .map(|(n, more)| format!("{{ address: 10.0.0.{}{more} }}", n + 1))
        .collect();
    let backends = backends.join(", ");
    edge(&format!(
        "  - {{ name: rtc, vip: {V}, protocol: {protocol}, ports: {ports}, {more}, backends: [{backends}] }}\n"
    ))
}

fn slices(backends: &[&str]) -> String {
    let backends: Vec<String> = backends.iter().map(|ports| format!(", ports: {ports}")).collect();
    rtc("udp", "\"20000-20999\"", "affinity: dest-port", &backends.iter().map(|b| &**b).collect::<Vec<_>>())
}

#[test]
fn slices_are_apart_and_inside() {
    let checked = good(&slices(&["\"20000-20499\"", "[\"20500-20997\", 20998, 20999]"]));
    assert_eq!(checked.warnings, []);
    let service = &checked.desired.services[0];
    assert_eq!(service.affinity, Affinity::DestPort);
    assert_eq!(service.backends[1].slice, [20500..=20997, 20998..=20998, 20999..=20999]);

    let two = "services[0].backends[1].ports";
    only(
        &slices(&["\"20000-20501\"", "\"20500-20999\""]),
        two,
        "overlaps services[0].backends[0].ports of 10.0.0.1: both own 20500-20501",
    );
    only(&slices(&["\"20000-20999\"", "20500"]), two, "both own 20500");
    only(&slices(&["\"20000-20499\"", "\"20500-21001\""]), two, "21000 is none of the service's ports");
    only(
        &slices(&["\"20000-20499\"", "[\"20500-20599\", \"20590-20999\"]"]),
        &format!("{two}[1]"),
        "overlaps",
    );
    only(&slices(&["\"20000-20999\"", "{}"]), two, "must be a single value");
    let unowned = good(&slices(&["\"20000-20499\"", "\"20500-20797\""])).warnings;
    assert_eq!((unowned.len(), &*unowned[0].path), (1, "services[0].ports"));
    assert!(unowned[0].message.contains("no backend owns 20798"), "{unowned:?}");
}

/// An even port and the next are RTP and its RTCP.
#[test]
fn a_pair_is_not_split() {
    let (one, two) = ("services[0].backends[0].ports", "services[0].backends[1].ports");
    only(
        &slices(&["\"20000-20500\"", "\"20501-20999\""]),
        two,
        "splits the RTP/RTCP pair 20500, 20501: 20500 is services[0].backends[0].ports of 10.0.0.1",
    );
    only(&slices(&["\"20001-20999\""]), one, "nobody owns 20000");
    only(&slices(&["\"20000-20998\""]), one, "nobody owns 20999");
    // One backend's, in two pieces.
    good(&slices(&["[\"20000-20500\", 20501]", "\"20502-20999\""]));
    // The service has no such port.
    good(&rtc("udp", "\"20001-20010\"", "affinity: dest-port", &[", ports: \"20001-20010\""]));
    // TCP has no pairs.
    good(&rtc(
        "tcp",
        "\"20000-20999\"",
        "affinity: dest-port",
        &[", ports: \"20000-20500\"", ", ports: \"20501-20999\""],
    ));
}

#[test]
fn ids_are_unique_and_equally_long() {
    let quic =
        |more: &str, backends: &[&str]| rtc("udp", "443", &format!("affinity: quic-cid{more}"), backends);
    let checked = good(&quic("", &[", server_id: \"0a01\"", ", server_id: 0B02"]));
    let service = &checked.desired.services[0];
    assert_eq!(service.backends[0].server_id, ServerIdBytes::new(&[0x0a, 1]));
    assert_eq!(service.backends[1].server_id, ServerIdBytes::new(&[0x0b, 2]));
    assert_eq!(service.cid, CidFormat::default());
    let two = "services[0].backends[1].server_id";
    only(&quic("", &[", server_id: \"01\"", ", server_id: \"01\""]), two, "is the id of 10.0.0.1 too");
    only(&quic("", &[", server_id: \"01\"", ", server_id: \"0102\""]), two, "the same length");
    let one = "services[0].backends[0].server_id";
    for wrong in ["\"0\"", "xy", "\"\"", "\"010203040506070809\"", "\"0x01\"", "+1"] {
        only(&quic("", &[&format!(", server_id: {wrong}")]), one, "pairs of hexadecimal digits");
    }
    only(&quic("", &[""]), "services[0].backends[0].address", "needs `server_id");
    let format =
        quic(", quic_cid: { config_ids: [0, 5], nonce: 6, length_encoded: true }", &[", server_id: \"01\""]);
    let cid = CidFormat { config_ids: 0b10_0001, nonce: 6, length_encoded: true };
    assert_eq!(good(&format).desired.services[0].cid, cid);
    only(
        &quic(", quic_cid: { nonce: 14 }", &[", server_id: \"010203040506\""]),
        one,
        "make connection ids of 21",
    );
    only(
        &quic(", quic_cid: { config_ids: 7 }", &[", server_id: \"01\""]),
        "services[0].quic_cid.config_ids",
        "0..=6",
    );
    only(
        &rtc("udp", "443", "quic_cid: { nonce: 4 }", &[""]),
        "services[0].quic_cid",
        "without `affinity: quic-cid`",
    );
    only(
        &rtc("tcp", "443", "affinity: quic-cid", &[", server_id: \"01\""]),
        "services[0].affinity",
        "protocol: udp",
    );
}

#[test]
fn ufrags_begin_with_text() {
    let ice = |more: &str, id: &str| {
        rtc("udp", "3478", &format!("affinity: ice-ufrag{more}"), &[&format!(", server_id: {id}")])
    };
    assert_eq!(good(&ice("", "a+/9")).desired.services[0].backends[0].server_id, ServerIdBytes::new(b"a+/9"));
    for wrong in ["\"a:b\"", "\"ninechars\"", "\"\"", "\"a b\""] {
        only(&ice("", wrong), "services[0].backends[0].server_id", "first 1 to 8 characters");
    }
    only(&ice(", flow_timeout: 44s", "a"), "services[0].flow_timeout", "must be 45s or more");
    good(&ice(", flow_timeout: 45s", "a"));
}

#[test]
fn keys_of_other_affinities() {
    only(
        &rtc("udp", "1", "affinity: client-ip", &[", ports: 1"]),
        "services[0].backends[0].ports",
        "dest-port",
    );
    only(
        &rtc("udp", "1", "affinity: dest-port", &[", ports: 1, server_id: a"]),
        "services[0].backends[0].server_id",
        "quic-cid",
    );
    // Nothing follows from an affinity that cannot be read.
    only(
        &rtc("udp", "1", "affinity: dest-prt", &[", ports: 1, server_id: a0"]),
        "services[0].affinity",
        "must be",
    );
}

#[test]
fn prefixes_once() {
    let guarded = |ranges: &str| rtc("udp", "1", &format!("source_ranges: {ranges}"), &[""]);
    let fine = good(&guarded("{ allow: [10.0.0.0/8, \"2001:db8::/32\"], deny: [10.1.0.0/16] }"));
    let ranges = &fine.desired.services[0].source_ranges;
    assert_eq!((ranges.allow.len(), ranges.deny.len()), (2, 1));
    good(&guarded("{}"));
    only(
        &guarded("{ allow: [10.0.0.0/8, 10.0.0.0/8] }"),
        "services[0].source_ranges.allow[1]",
        "first as services[0].source_ranges.allow[0]",
    );
    only(
        &guarded("{ allow: [10.0.0.0/8], deny: [10.1.0.0/16, 10.0.0.0/8] }"),
        "services[0].source_ranges.deny[1]",
        "first as services[0].source_ranges.allow[0]",
    );
    assert!(errors(&guarded("{ allow: [10.0.0.1/8] }"))[0].path.ends_with("allow[0]"));
    let small = guarded("{ deny: [10.0.0.0/8, 11.0.0.0/8] }") + "limits: { source_ranges: 1 }\n";
    only(&small, "limits.source_ranges", "2 source prefixes");
}

/// Thousands of services on a few addresses, every claim of its own; and the one that is not is found.
#[test]
fn thousands_of_services() {
    let mut text = edge("");
    for n in 0..4000u32 {
        let (vip, port) = (1 + n / 1000, 1000 + 10 * (n % 1000));
        let ports = if n % 2 == 0 { format!("\"{port}-{}\"", port + 9) } else { port.to_string() };
        text += &format!(
            "  - {{ name: s{n}, vip: 203.0.113.{vip}, protocol: udp, ports: {ports}, backends: [] }}\n"
        );
    }
    assert_eq!(good(&text).desired.services.len(), 4000);
    let clash = "  - { name: late, vip: 203.0.113.3, protocol: udp, ports: \"5015-5025\", backends: [] }\n";
    only(
        &(text.clone() + clash),
        "services[4000].ports",
        "overlaps services[2402].ports (service \"s2402\")",
    );
    // An exact port inside a range, and all of an address under both, are no overlap.
    let inside = "  - { name: in, vip: 203.0.113.3, protocol: udp, ports: 5021, backends: [] }\n  - { name: all, vip: 203.0.113.3, protocol: udp, ports: all, backends: [] }\n";
    good(&(text + inside));
}
