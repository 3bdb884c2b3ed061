//! VLAN tags: every way of a packet again behind one and two of them, and they stay where they were.

use xdp_lb_common::reason::PassReason::{NotIp, VlanDepth};

use xdp_lb_tests::prog::Counted;

use super::net::{CLIENT, VIP, VIP_PASS, frame, to};
use super::{Output, Row, decap, discovery, echo, extensions, fragments, gue, services, tunnels};

const ONE: [u8; 4] = [0x81, 0x00, 0xa0, 0x07];
const OLD: [u8; 4] = [0x91, 0x00, 0x00, 0x08];
const TWO: [u8; 8] = [0x88, 0xa8, 0x0f, 0xff, 0x81, 0x00, 0x60, 0x09];

/// The row behind tags.
fn tag(row: Row, what: &str, tags: &[u8]) -> Row {
    retag(row, what, tags, tags)
}

/// The row behind tags, of which others come out.
fn retag(row: Row, what: &str, tags: &[u8], out: &[u8]) -> Row {
    let tagged = |frame: &[u8], tags: &[u8]| [&frame[..12], tags, &frame[12..]].concat();
    let output = match row.output {
        Output::Same => Output::Same,
        Output::Whole(frame) => Output::Whole(tagged(&frame, out)),
        Output::Labelled(frame) => Output::Labelled(tagged(&frame, out)),
        Output::Gue { expected, checksum } => Output::Gue { expected: tagged(&expected, out), checksum },
    };
    Row { name: format!("{what}: {}", row.name), input: tagged(&row.input, tags), output, ..row }
}

/// What goes to backends behind a VLAN device with this tag, or behind none for an empty one, whatever it comes with.
pub fn next_hops(out: &[u8]) -> Vec<Row> {
    let groups = [
        tunnels::families(),
        tunnels::padding(),
        extensions::ipv4(),
        extensions::ipv6(),
        fragments::by_client(),
        gue::sent_rows(),
    ];
    let sent = groups.into_iter().flatten().filter(|row| matches!(row.counted[..], [Counted::Forwarded(_)]));
    let mut rows = Vec::new();
    for (n, row) in sent.enumerate() {
        for (what, tags) in [("none", &[][..]), ("one", &ONE), ("two", &TWO)] {
            rows.push(retag(row.clone(), &format!("{n} {what}"), tags, out));
        }
    }
    // What does not go to a backend goes back where it came from.
    rows.extend(echo::rows().into_iter().map(|row| tag(row, "one", &ONE)));
    rows
}

fn tagged(rows: &[Row]) -> Vec<Row> {
    let kinds = [("one", &ONE[..]), ("old", &OLD), ("two", &TWO)];
    kinds.iter().flat_map(|(what, tags)| rows.iter().map(|row| tag(row.clone(), what, tags))).collect()
}

/// The balancer's.
pub fn balanced() -> Vec<Row> {
    let groups = [
        tunnels::families(),
        tunnels::padding(),
        echo::rows(),
        discovery::neighbours(),
        services::unserved(),
        extensions::ipv4(),
        extensions::ipv6(),
        fragments::by_client(),
        fragments::hostile(),
        gue::sent_rows(),
    ];
    let named = |(n, rows): (usize, Vec<Row>)| {
        rows.into_iter().map(move |row| Row { name: format!("{n} {}", row.name), ..row })
    };
    tagged(&groups.into_iter().enumerate().flat_map(named).collect::<Vec<_>>())
}

/// The backend side's.
pub fn taken_off() -> Vec<Row> {
    tagged(&[decap::taken_off(), decap::refused(), decap::malformed(), decap::congestion()].concat())
}

/// The backend side's, of GUE.
pub fn gue_taken_off() -> Vec<Row> {
    tagged(&[gue::taken_off(), gue::others()].concat())
}

/// What is not looked at behind tags.
pub fn passes() -> Vec<Row> {
    let three = frame().service_vlan(1).vlan(2).vlan(3).ipv4(CLIENT, VIP).udp(1, 5060);
    vec![
        Row::passes("three tags", three.build(), VlanDepth),
        Row::passes("a tag at the end", frame().vlan(7).at(14), NotIp),
        Row::passes("a tag and nothing", frame().vlan(7).at(16), NotIp),
        Row::passes("arp behind a tag", frame().vlan(7).ethertype(0x0806).payload(&[0; 28]).build(), NotIp),
        tag(
            Row::passes(
                "unmatched: pass",
                to(VIP_PASS).udp(1, 22).build(),
                xdp_lb_common::reason::PassReason::Unmatched,
            ),
            "two",
            &TWO,
        ),
    ]
}
