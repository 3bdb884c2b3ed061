//! `log.level: trace`: which backend got my packet, and why was this one dropped, from the log alone.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, ensure};
use xdp_lb_tests::lab::files::{self, VIP};
use xdp_lb_tests::lab::product::Daemon;
use xdp_lb_tests::lab::{EdgeFile, Lab, Leaks, Mode, Node, Options, plan, skip};

const BOUND: Duration = Duration::from_secs(20);

#[test]
fn every_packet_says_what_became_of_it() -> Result<()> {
    if !skip::can_run(skip::LAB) {
        return Ok(());
    }
    let before = Leaks::note()?;
    let lab = Lab::start(&Options { backends: 1, ..Options::default() })?;
    let id = lab.id();
    {
        let _servers = files::serve(lab.backends())?;
        let mut decap = Node::start(&lab, lab.backend(1), Daemon::Decap, &files::decap_file(Mode::Native))?;
        let text = EdgeFile::new(1).text(1).replace("level: info", "level: trace");
        ensure!(text.contains("level: trace"));
        let mut edge = Node::start(&lab, lab.edge(1), Daemon::Run, &text)?;
        decap.product.wait_ready()?;
        edge.product.wait_ready()?;
        let client = lab.client(1);
        let [backend, _] = lab.backend(1).role.address().both();
        for vip in plan::vip(VIP).both() {
            let send = |port: u16, payload: &'static [u8]| {
                client.ns.enter(move || {
                    let any: SocketAddr =
                        if vip.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }.parse().expect("an address");
                    // Enough flows that some come to this edge node.
                    for _ in 0..40 {
                        let socket = std::net::UdpSocket::bind(any).expect("bind");
                        socket.send_to(payload, (vip, port)).expect("send");
                    }
                })
            };
            let mark = edge.product.process().mark();
            send(files::MEDIA, b"to a backend")?;
            let seen = |line: &str| {
                line.contains("reason=\"forwarded\"") && line.contains(&format!("{backend} <- "))
            };
            edge.product.process().wait_line_that(mark, "the forwarded packet", BOUND, seen)?;
            send(9, b"to nobody")?;
            let seen = |line: &str| {
                line.contains("verdict=\"drop\"")
                    && line.contains("reason=\"no_service\"")
                    && line.contains(&format!("{vip} <- "))
            };
            edge.product.process().wait_line_that(mark, "the dropped packet", BOUND, seen)?;
        }
    }
    drop(lab);
    before.check(id)
}
