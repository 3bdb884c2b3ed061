//! Every row of the bench measures what it says. What it costs is no test's business.

use xdp_lb::dataplane::object;
use xdp_lb_tests::bench::{Bench, Row, rows};
use xdp_lb_tests::prog::available;

const PACKETS: u32 = 2_000;

#[test]
fn every_packet_of_every_row_takes_the_rows_way() {
    let Ok(()) = available() else { return };
    for row in rows() {
        let mut bench = Bench::load(Row { warm_up: 0, ..row }, object::BALANCER).unwrap();
        bench.prove(PACKETS).unwrap_or_else(|error| panic!("{error:#}"));
    }
}

#[test]
fn a_row_that_says_something_else_is_caught() {
    let Ok(()) = available() else { return };
    let row = |name: &str| rows().into_iter().find(|row| row.name == name).unwrap();
    let longer = row("tcp").packet.len() + 1;
    for (what, wrong) in [
        ("growth", Row { growth: 0, ..row("tcp") }),
        ("a packet that is not restored", Row { packet: vec![0; longer], ..row("tcp") }),
        ("bytes that are not restored", Row { restore_outer: false, ..row("decap") }),
        ("what is counted", Row { counted: row("not a vip").counted, ..row("tcp") }),
        ("verdict", Row { verdict: row("not a vip").verdict, ..row("tcp") }),
    ] {
        assert!(
            Bench::load(wrong, object::BALANCER).unwrap().prove(PACKETS).is_err(),
            "nothing notices {what}"
        );
    }
}
