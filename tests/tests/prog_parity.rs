//! Parity: what `explain` says of a packet just before it comes is what the kernel then does with it: verdict, backend
//! and the whole outer header, byte for byte. And what it says of a configuration alone is what a clean slot does.
//!
//! Random packets of random flows, the same ones every time; through a drain, a death, their end, and a new backend,
//! with flows that the kernel remembers and flows that it has never seen.

mod flows;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use flows::{Flow, Sent};
use xdp_lb::dataplane::KernelTables;
use xdp_lb::explain::{Explanation, Facts, Outcome, Query, Rehearsal, explain};
use xdp_lb::model::Desired;
use xdp_lb::state::Maps as _;
use xdp_lb::status::Word as _;
use xdp_lb_common::affinity::Named;
use xdp_lb_common::hash::mix;
use xdp_lb_common::parse::Segment;
use xdp_lb_common::reason::Reason as _;
use xdp_lb_common::select::Why;
use xdp_lb_common::server_id::ServerId;
use xdp_lb_tests::packet::{binding_request, quic_long, quic_short, stun};
use xdp_lb_tests::prog::{Agent, Ctx, Pinned, Subject as _, XdpAction, available, desired, run};

const SEED: u64 = 20_260_101;
/// Flows that come again and again; there are about half as many places in the flow table.
const FLOWS: usize = 6000;
/// Packets in every stage.
const PACKETS: usize = 3000;

/// The configuration of one stage: what stands between braces after the address of three backends.
fn file(eleven: &str, twelve: &str, thirteen: &str) -> String {
    format!(
        r#"
version: 1
node: {{ name: parity }}
interfaces: [{{ name: lo, mode: generic, next_hop: {{ mac: "00:00:5e:00:01:01" }} }}]
encap: {{ kind: ipip, source_v4: 172.16.0.0/16, source_v6: "fd00:7864:7000::/64" }}
maglev: {{ table_size: 251, seed: 20240229 }}
flow_table: {{ entries: 1024, track_window: 5s }}
limits: {{ services: 64, vips: 64, backends: 256, ring_slots: 8192, port_pages: 512, backend_stats: 64 }}
vips: [{{ address: 203.0.113.30, unmatched: pass }}]
services:
  - {{ name: web, vip: [203.0.113.10, "2001:db8::10"], protocol: tcp, ports: [80, 443],
      backends: [{{ address: 10.1.2.11{eleven} }}, {{ address: 10.1.2.12{twelve} }}, {{ address: 10.1.2.13{thirteen} }},
                 {{ address: 10.1.2.14, share: 40% }}, {{ address: 10.1.2.15, weight: 300 }}] }}
  - {{ name: rtmp, vip: [203.0.113.20, "2001:db8::20"], protocol: tcp, ports: all, tracking: exact,
      backends: [{{ address: "fd00:1:2::11"{eleven} }}, {{ address: "fd00:1:2::12"{twelve} }}, {{ address: "fd00:1:2::13"{thirteen} }}] }}
  - {{ name: sip, vip: [203.0.113.10, "2001:db8::10"], protocol: udp, ports: 5060, affinity: client-ip, tracking: exact,
      encap: {{ dscp: 46 }},
      backends: [{{ address: 10.1.2.11{eleven} }}, {{ address: "fd00:1:2::12"{twelve} }}, {{ address: 10.1.2.13{thirteen} }}] }}
  - {{ name: media, vip: [203.0.113.10, "2001:db8::20"], protocol: udp, ports: "20000-24999", tracking: sampled,
      backends: [{{ address: "fd00:1:2::11"{eleven} }}, {{ address: 10.1.2.12{twelve} }}, {{ address: "fd00:1:2::13"{thirteen} }}] }}
  - {{ name: dns, vip: [203.0.113.30, "2001:db8::30"], protocol: udp, ports: 53, tracking: off,
      backends: [{{ address: 10.1.2.11{eleven} }}, {{ address: 10.1.2.12{twelve} }}, {{ address: "fd00:1:2::13"{thirteen} }},
                 {{ address: 10.1.2.16, state: drain }}, {{ address: 10.1.2.17, state: down }}] }}
  - {{ name: rtp, vip: [203.0.113.50, "2001:db8::50"], protocol: udp, ports: "30000-31099", affinity: dest-port,
      backends: [{{ address: 10.1.2.11, ports: "30000-30299"{eleven} }}, {{ address: 10.1.2.12, ports: "30300-30699"{twelve} }},
                 {{ address: "fd00:1:2::13", ports: "30700-30999"{thirteen} }}] }}
  - {{ name: quic, vip: [203.0.113.50, "2001:db8::50"], protocol: udp, ports: 443, affinity: quic-cid,
      backends: [{{ address: 10.1.2.11, server_id: "0001"{eleven} }}, {{ address: 10.1.2.12, server_id: "0002"{twelve} }},
                 {{ address: "fd00:1:2::13", server_id: "0003"{thirteen} }}] }}
  - {{ name: webrtc, vip: [203.0.113.50, "2001:db8::50"], protocol: udp, ports: 3479, affinity: ice-ufrag,
      source_ranges: {{ deny: [198.51.1.0/24], allow: [198.51.0.0/16, "2001:db8::/32"] }},
      backends: [{{ address: 10.1.2.11, server_id: a1{eleven} }}, {{ address: 10.1.2.12, server_id: a2{twelve} }},
                 {{ address: "fd00:1:2::13", server_id: a3{thirteen} }}] }}
  - {{ name: turn, vip: [203.0.113.40, "2001:db8::40"], protocol: udp, ports: 3478, tracking: sampled, encap: {{ kind: gue }},
      backends: [{{ address: 10.1.2.11{eleven} }}, {{ address: "fd00:1:2::12"{twelve} }}, {{ address: 10.1.2.13{thirteen} }}] }}
  - {{ name: turns, vip: [203.0.113.40, "2001:db8::40"], protocol: tcp, ports: 3478, encap: {{ kind: gue, gue: {{ port: 99, variant: 1 }} }},
      backends: [{{ address: 10.1.2.11{eleven} }}, {{ address: "fd00:1:2::12"{twelve} }}, {{ address: 10.1.2.13{thirteen} }}] }}
  - {{ name: nobody, vip: 203.0.113.30, protocol: tcp, ports: 80, backends: [] }}
"#
    )
}

/// Where packets go: VIP, TCP or not, first port and how many.
const TARGETS: [(&str, bool, u16, u16); 26] = [
    ("203.0.113.50", false, 30_000, 1100),
    ("2001:db8::50", false, 30_000, 1100),
    ("203.0.113.50", false, 443, 1),
    ("2001:db8::50", false, 443, 1),
    ("203.0.113.50", false, 3479, 1),
    ("2001:db8::50", false, 3479, 1),
    ("203.0.113.10", true, 80, 1),
    ("203.0.113.10", true, 443, 1),
    ("2001:db8::10", true, 443, 1),
    ("203.0.113.20", true, 1, 65_534),
    ("2001:db8::20", true, 1, 65_534),
    ("203.0.113.10", false, 5060, 1),
    ("2001:db8::10", false, 5060, 1),
    ("203.0.113.10", false, 20_000, 5000),
    ("2001:db8::20", false, 20_000, 5000),
    ("203.0.113.30", false, 53, 1),
    ("2001:db8::30", false, 53, 1),
    ("203.0.113.40", false, 3478, 1),
    ("2001:db8::40", false, 3478, 1),
    ("203.0.113.40", true, 3478, 1),
    ("2001:db8::40", true, 3478, 1),
    // Nobody serves these, mostly.
    ("203.0.113.30", true, 80, 1),
    ("203.0.113.30", false, 1, 1000),
    ("203.0.113.10", true, 1, 1000),
    ("203.0.113.10", false, 24_990, 20),
    ("203.0.113.60", true, 443, 1),
];

fn flow(dice: &mut Dice) -> Flow {
    let (vip, tcp, first, ports) = dice.one_of(&TARGETS);
    let destination: IpAddr = vip.parse().unwrap();
    let client = dice.below(600) as u16;
    let source = if destination.is_ipv4() {
        [198, 51, (client >> 8) as u8, client as u8].into()
    } else {
        [0x2001, 0xdb8, 0xcafe, 0, 0, 0, 0, client].into()
    };
    let port = first + dice.below(ports.into()) as u16;
    Flow {
        tcp,
        source: SocketAddr::new(source, 1024 + dice.below(64_512) as u16),
        destination: SocketAddr::new(destination, port),
    }
}

fn segment(flow: &Flow, dice: &mut Dice) -> Segment {
    if flow.tcp {
        let rarely = if dice.below(4) == 0 { Segment::Closing } else { Segment::Data };
        dice.one_of(&[Segment::Syn, Segment::Data, Segment::Data, Segment::Ack, rarely])
    } else {
        Segment::Datagram
    }
}

/// A datagram of this flow with a payload, and what that says of a backend.
fn datagram(flow: &Flow, payload: &[u8], named: Named) -> Sent {
    let mut sent = flow.packet(Segment::Datagram, 0, 0);
    // Behind an empty payload the frame ends: only lengths change. The checksum is the backend's to judge.
    sent.frame.extend(payload);
    let l3 = 14;
    let len = (sent.frame.len() - l3) as u16;
    let l4 = if flow.destination.is_ipv4() {
        sent.frame[l3 + 2..l3 + 4].copy_from_slice(&len.to_be_bytes());
        l3 + 20
    } else {
        sent.frame[l3 + 4..l3 + 6].copy_from_slice(&(len - 40).to_be_bytes());
        l3 + 40
    };
    let udp = (sent.frame.len() - l4) as u16;
    sent.frame[l4 + 4..l4 + 6].copy_from_slice(&udp.to_be_bytes());
    sent.query = Query { len, named, ..sent.query };
    sent
}

/// A packet of a connection to one of four servers, of whom three are there, or the first of one.
fn quic(flow: &Flow, dice: &mut Dice) -> Sent {
    let id = [0, 1 + dice.below(4) as u8];
    let named = Named::Server(ServerId::new(&id).unwrap());
    let cid = [&[0x07][..], &id, &[9; 5]].concat();
    match dice.below(4) {
        0 => datagram(flow, &quic_long(&[0xe7; 8]), Named::Nobody),
        1 => datagram(flow, &quic_long(&cid), named),
        _ => datagram(flow, &quic_short(&cid), named),
    }
}

/// A check by ICE for one of four servers, of whom three are there, or what follows it.
fn ice(flow: &Flow, dice: &mut Dice) -> Sent {
    let id = [b'a', b'1' + dice.below(4) as u8];
    let ufrag = String::from_utf8_lossy(&id).into_owned() + "xyz:client";
    match dice.below(3) {
        0 => datagram(flow, &binding_request(&ufrag), Named::Server(ServerId::new(&id).unwrap())),
        1 => datagram(flow, &[0x80; 50], Named::Nothing),
        _ => datagram(flow, &stun(0x0101, &[]), Named::Nothing),
    }
}

/// The kernel and both explainers, side by side.
struct Side {
    pinned: Pinned,
    agent: Agent,
    /// What was compared, so that nothing is compared by chance only.
    seen: BTreeMap<String, usize>,
}

impl Side {
    /// Sends packets, each explained first. `flows` are known to have been sent before, or not.
    fn compare(&mut self, stage: &str, wanted: &Desired, flows: &[Flow], dice: &mut Dice) {
        let observed = self.pinned.maps().observe();
        let rehearsal = Rehearsal::new(wanted, observed.capacity, observed.control).unwrap();
        let facts = Facts::default();
        let maps = self.pinned.maps();
        let mut tick = maps.tick().unwrap();
        let mut tables = KernelTables::new(maps).unwrap();
        let mut seen = std::mem::take(&mut self.seen);
        let mut see = |what: &str| *seen.entry(what.to_owned()).or_default() += 1;
        for number in 0..PACKETS {
            let flow = flows[dice.below(flows.len())];
            let (length, tos) = (dice.below(200), dice.below(256) as u8);
            let sent = match flow.destination.port() {
                443 if !flow.tcp => quic(&flow, dice),
                3479 => ice(&flow, dice),
                _ => flow.packet(segment(&flow, dice), length, tos),
            };
            let at = format!("{stage}, packet {number} (seed {SEED}): {:?}", sent.query);

            // The view reads rings, members and flows live, but for the clock.
            let now = maps.tick().unwrap();
            if now != tick {
                (tick, tables) = (now, KernelTables::new(maps).unwrap());
            }
            let said = explain(&tables, &observed, &facts, &sent.query);
            let outcome = run(self.pinned.program(), &sent.frame, &Ctx::default()).unwrap();
            if let Err(why) = same(&said, &outcome.verdict, &outcome.packet, &sent.frame) {
                // An entry may expire between question and packet.
                assert!(maps.tick().unwrap() != tick, "{at}: {why}\nexplained: {said:#?}");
                continue;
            }

            let rehearsed = rehearsal.explain(&sent.query);
            match (&said.slot, &rehearsed.slot) {
                (Some(kernel), Some(file)) => {
                    assert_eq!(
                        (kernel.number, kernel.now),
                        (file.number, file.now),
                        "{at}: by the file alone"
                    );
                    // What a flow of ICE remembers, no file knows.
                    let by_flow = said.choice.as_ref().is_some_and(|choice| choice.why == Why::Remembered);
                    if !kernel.dirty && !by_flow {
                        assert_eq!(said.backend, rehearsed.backend, "{at}: a clean slot, by the file alone");
                        assert_eq!(said.tunnel, rehearsed.tunnel, "{at}: a clean slot, by the file alone");
                        see("clean, rehearsed");
                    }
                }
                (None, None) => assert_eq!(said.outcome, rehearsed.outcome, "{at}: by the file alone"),
                _ => panic!("{at}: a slot for one of\n{said:#?}\n{rehearsed:#?}"),
            }

            match (&said.choice, &said.service) {
                (Some(choice), Some(service)) => {
                    let family = |v4| if v4 { '4' } else { '6' };
                    let inner = family(flow.destination.is_ipv4());
                    let outer = family(said.backend.is_some_and(|b| b.is_ipv4()));
                    see(&format!("{inner} in {outer}"));
                    see(&format!("{} {}", service.name, choice.why.word()));
                    see(&format!("{} {}", said.segment.word(), choice.why.word()));
                }
                _ => see(said.outcome.reason().unwrap_or("forwarded")),
            }
            let events = said.flow.iter().flat_map(|flow| &flow.events);
            events.for_each(|event| see(event.name()));
        }
        self.seen = seen;
    }
}

/// Whether the kernel did as explained.
fn same(said: &Explanation, verdict: &XdpAction, packet: &[u8], frame: &[u8]) -> Result<(), String> {
    let expected = match said.outcome {
        Outcome::Forward => XdpAction::Tx,
        Outcome::Drop(_) => XdpAction::Drop,
        Outcome::Pass(_) => XdpAction::Pass,
    };
    if *verdict != expected {
        return Err(format!("the kernel says {verdict:?}"));
    }
    let header: &[u8] = said.tunnel.as_ref().map_or(&frame[..14], |tunnel| &tunnel.header);
    let mut header = header.to_vec();
    if said.tunnel.as_ref().is_some_and(|tunnel| tunnel.ports.is_some() && tunnel.destination.is_ipv6()) {
        // What explain cannot know. Golden rows verify it.
        if let (Some(said), Some(written)) = (header.get_mut(60..62), packet.get(60..62)) {
            said.copy_from_slice(written);
        }
    }
    let inner = packet.strip_prefix(&header[..]).ok_or_else(|| format!("the kernel wrote {packet:02x?}"))?;
    let to = said.tunnel.as_ref().map(|tunnel| tunnel.destination);
    if to.is_some() && to != said.backend {
        return Err(format!("a tunnel to {to:?}"));
    }
    if inner == &frame[14..] { Ok(()) } else { Err("the inner packet was changed".to_owned()) }
}

#[test]
fn the_kernel_does_what_explain_says() {
    let Ok(()) = available() else { return };
    let first = file("", "", "");
    let wanted = desired(&first).unwrap();
    let pinned = Pinned::load(&first).unwrap_or_else(|e| panic!("{e:#}"));
    let agent = Agent::start(&pinned, &wanted).unwrap();
    let mut side = Side { pinned, agent, seen: BTreeMap::new() };
    let mut dice = Dice(SEED);
    let flows: Vec<Flow> = (0..FLOWS).map(|_| flow(&mut dice)).collect();
    // Half of them are unknown to a flow table that has seen the first stages.
    let known = &flows[..FLOWS / 2];

    side.compare("all up", &wanted, known, &mut dice);
    let stages = [
        ("one drains, one is down", file(", state: drain", ", state: down", "")),
        ("both are back", file("", "", "")),
        ("another goes down, a canary comes", file(", share: 50%", "", ", state: down")),
    ];
    for (stage, text) in &stages {
        let wanted = desired(text).unwrap();
        side.agent.settle(&wanted).unwrap();
        assert!(
            side.agent.plan(&wanted).unwrap().ops.len() <= 1,
            "{stage}: nothing but the generation is left"
        );
        side.compare(stage, &wanted, known, &mut dice);
        side.compare(stage, &wanted, &flows, &mut dice);
    }

    let expected = [
        ("4 in 4", 500),
        ("4 in 6", 500),
        ("6 in 4", 500),
        ("6 in 6", 500),
        ("web slot", 100),
        ("rtmp slot", 100),
        ("sip slot", 100),
        ("media slot", 100),
        ("dns slot", 100),
        ("turn slot", 100),
        ("turns slot", 100),
        ("web before", 20),
        ("web now", 5),
        ("rtmp remembered", 50),
        ("sip remembered", 20),
        ("media now", 20),
        ("dns now", 20),
        ("syn now", 20),
        ("data before", 20),
        ("ack before", 20),
        ("closing before", 5),
        ("closing remembered", 5),
        ("stale", 5),
        ("hit", 500),
        ("miss", 500),
        ("set_full", 50),
        ("no_service", 50),
        ("unmatched", 50),
        ("not_a_vip", 50),
        ("empty_service", 5),
        ("rtp slice", 100),
        ("quic server-id", 100),
        ("quic slot", 20),
        ("webrtc server-id", 50),
        ("webrtc remembered", 20),
        ("webrtc slot", 50),
        ("no_slice", 10),
        ("slice_down", 5),
        ("source_denied", 20),
        ("cid_known", 100),
        ("cid_unknown", 50),
        ("ice_unknown", 20),
        ("ice_conflict", 5),
        ("clean, rehearsed", 2000),
    ];
    let missing: Vec<_> =
        expected.iter().filter(|(what, least)| side.seen.get(*what).copied().unwrap_or(0) < *least).collect();
    assert!(missing.is_empty(), "hardly compared: {missing:?} of {:#?}", side.seen);
}

/// SplitMix64: a failure is reproduced by its seed.
struct Dice(u64);

impl Dice {
    /// The next word.
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// A number below `end`.
    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    /// One of several.
    fn one_of<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }
}
