//! A BGP session against any router: no panic, what it says is always whole messages, and it always comes again.
//!
//! Input: steps, each a kind, a length and so many bytes. The bytes of a step are what the router sends, or, of the kinds
//! that need a number, the first of them is the number.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use xdp_lb::bgp::rib::Wish;
use xdp_lb::bgp::session::{Order, Session, State};
use xdp_lb::bgp::settings::{Overrides, Prefix};

const FILE: &str = "version: 1
interfaces: [{ name: eth0 }]
encap: { source_v4: 172.16.0.0/16 }
services: [{ name: a, vip: 203.0.113.10, protocol: udp, ports: 5060, backends: [{ address: 10.0.1.1 }] }]
bgp: { local_as: 4200000001, router_id: 10.0.0.2, peers: [{ address: 10.0.0.1, remote_as: 65001, max_received: 50 }] }
";

pub fn check(data: &[u8]) {
    let checked = xdp_lb::config::parse(FILE).expect("the file is good");
    let bgp = Arc::new(checked.desired.bgp.expect("it has the section"));
    let peer = bgp.peers[0].clone();
    let mut session = Session::new(Arc::clone(&bgp), peer.clone(), true, Duration::ZERO);
    let (mut now, mut generation, mut rest) = (Duration::ZERO, 0, data);
    while let [kind, length, tail @ ..] = rest {
        let (bytes, after) = tail.split_at(tail.len().min(usize::from(*length)));
        rest = after;
        let number = bytes.first().copied().unwrap_or(1);
        match kind % 8 {
            0 | 1 => session.received(bytes, now),
            2 => {
                now += Duration::from_millis(u64::from(number) * 100);
                session.tick(now);
            }
            3 => session.connected("10.0.0.2".parse().expect("an address"), now),
            4 => session.closed("the fuzzer", now),
            5 => session.bfd_down("the fuzzer", now),
            6 => session.written(usize::from(number), now),
            _ => {
                generation += 1;
                let wish = |host: &u8| Wish {
                    prefix: Prefix::host(IpAddr::from([203, 0, 113, *host])),
                    draining: host % 2 == 1,
                    attributes: Overrides::default(),
                    reason: String::new(),
                };
                let wishes = Arc::new(bytes.iter().map(wish).collect());
                session.wish(Arc::clone(&bgp), peer.clone(), wishes, generation);
            }
        }
        let up = session.state() == State::Established;
        assert!(up || session.wake().is_some(), "nothing will ever happen again: {session:?}");
        assert!(session.heard() <= 50, "{} prefixes", session.heard());
        if session.orders().contains(&Order::Close) {
            session.farewell();
        }
    }
    if session.state() == State::Established {
        // All that was written before has gone; what is left begins inside a message only if `written` cut one.
        session.written(usize::MAX, now);
        session.wish(Arc::clone(&bgp), peer, Arc::new(Vec::new()), generation + 1);
        whole(session.outgoing());
    }
}

fn whole(mut bytes: &[u8]) {
    while !bytes.is_empty() {
        let length = bytes.get(16..18).map_or(0, |l| usize::from(u16::from_be_bytes([l[0], l[1]])));
        assert!((19..=4096).contains(&length) && bytes[..16] == [0xff; 16], "no message: {bytes:02x?}");
        bytes = bytes.get(length..).expect("a whole message");
    }
}
