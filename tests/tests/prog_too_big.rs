//! What needs more than one packet: the limit of answers, notes about our own tunnels, packets that the agent cuts, and
//! that an ICMP error about a flow goes exactly where the flow's packets go.

#[expect(dead_code, reason = "the golden rows use the rest")]
mod golden;

use golden::fixture::{NARROW, SPREAD};
use golden::net::{
    BACKEND, BACKEND_V6, CLIENT, CLIENT_V6, OWN_MAC, ROUTER_MAC, SOURCE, SOURCE_V6, VIP, VIP_OVER_V6, VIP_V6,
    frame, to, to_v6, tunnel, tunnel_v6,
};
use xdp_lb::dataplane::cuts::CutBuffer;
use xdp_lb::slow::wrap;
use xdp_lb::template::map_address;
use xdp_lb_common::cut::CutRequest;
use xdp_lb_common::path_mtu::PathMtu;
use xdp_lb_common::reason::{DropReason, PassReason};
use xdp_lb_tests::packet::{assert_packet_eq, eth};
use xdp_lb_tests::prog::{Counted, Ctx, Pinned, Subject as _, XdpAction, assert_counted, available, run};

fn load(yaml: &str) -> Pinned {
    Pinned::load(yaml).unwrap_or_else(|e| panic!("{e:#}"))
}

fn outcome(pinned: &Pinned, frame: &[u8]) -> (XdpAction, Vec<u8>) {
    let outcome = run(pinned.program(), frame, &Ctx::default()).unwrap();
    (outcome.verdict, outcome.packet)
}

/// A CPU answers a thousand senders a second, and the others are counted.
#[test]
fn answers_are_limited() {
    let Ok(()) = available() else { return };
    let pinned = load(NARROW);
    let frame = to(VIP).df().udp(40000, 5060).payload(&[7; 1472]).build();
    let before = pinned.tally();
    for _ in 0..20_000 {
        let verdict = outcome(&pinned, &frame).0;
        assert!(matches!(verdict, XdpAction::Tx | XdpAction::Drop), "{verdict:?}");
    }
    let after = pinned.tally();
    let answered = after.counters.passes.too_big_answered - before.counters.passes.too_big_answered;
    let refused = after.counters.drops.too_big_unanswered - before.counters.drops.too_big_unanswered;
    assert_eq!(answered + refused, 20_000);
    // The test takes a second or some, on one CPU or some.
    assert!(answered >= 1000 && refused >= 1000, "{answered} answered, {refused} not");
}

/// What a router says of our tunnels stands in the map, whatever its family, the latest word alone.
#[test]
fn words_about_our_tunnels_are_noted() {
    let Ok(()) = available() else { return };
    let pinned = load(NARROW);
    let inner = to(VIP).udp(40000, 5060).payload(&[7; 100]).build();
    let v4 = |mtu: u16| {
        let tunnel = frame().ipv4(SOURCE, BACKEND).df().inner(&inner[14..]).build();
        let [a, b] = mtu.to_be_bytes();
        frame().ipv4("192.0.2.1", SOURCE).icmp(3, 4).rest([0, 0, a, b]).payload(&tunnel[14..42]).build()
    };
    let v6 = {
        let tunnel = frame().ipv6(SOURCE_V6, BACKEND_V6).inner(&inner[14..]).build();
        let error = frame().ipv6("2001:db8:ffff::1", SOURCE_V6).icmpv6(2, 0).rest([0, 0, 5, 0]);
        error.payload(&tunnel[14..]).build()
    };
    let gue = |backend: &str, inside: &[u8]| {
        let tunnel = frame().ipv4(SOURCE, backend).df().udp(50000, 6080).payload(inside).build();
        frame().ipv4("192.0.2.1", SOURCE).icmp(3, 4).rest([0, 0, 5, 100]).payload(&tunnel[14..]).build()
    };
    let stranger = frame().ipv4(CLIENT, "192.0.2.9").udp(40000, 5060).build();
    let header = [&[0, 4, 0, 0][..], &inner[14..]].concat();
    assert_eq!(pinned.maps().path_mtus().count(), 0);
    let noted = [
        v4(1450),
        v4(1400),
        v6,
        gue("10.9.0.1", &header),
        gue("10.9.0.2", &inner[14..]),
        gue("10.9.0.3", &[]),
    ];
    let others = [gue("10.9.0.4", &[7; 40]), gue("10.9.0.5", &stranger[14..])];
    let told = [
        noted.map(|f| (f, PassReason::TunnelTooBig)).to_vec(),
        others.map(|f| (f, PassReason::NotAVip)).to_vec(),
    ];
    for (frame, reason) in told.concat() {
        let before = pinned.tally();
        assert_eq!(outcome(&pinned, &frame).0, XdpAction::Pass);
        assert_counted(before, pinned.tally(), &[Counted::Pass(reason)]);
    }
    let note = |note: PathMtu| (note.backend, note.port, note.source, note.mtu);
    let mut notes: Vec<_> = pinned.maps().path_mtus().map(note).collect();
    notes.sort_unstable();
    let address = |text: &str| map_address(text.parse().unwrap());
    let mut expected = [
        (address(BACKEND), 0, address(SOURCE), 1400),
        (address(BACKEND_V6), 0, address(SOURCE_V6), 1280),
        (address("10.9.0.1"), 6080, address(SOURCE), 1380),
        (address("10.9.0.2"), 6080, address(SOURCE), 1380),
        (address("10.9.0.3"), 6080, address(SOURCE), 1380),
    ];
    expected.sort_unstable();
    assert_eq!(notes, expected);
}

/// The packets that become of one, with everything around them.
#[test]
fn what_is_handed_over_leaves_in_fragments() {
    let Ok(()) = available() else { return };
    let pinned = load(NARROW);
    let data: Vec<u8> = (0..1472u16).map(|n| (n * 3) as u8).collect();
    let over_v4 = to(VIP).tos(0xb8).udp(40000, 5060).payload(&data);
    let over_v6 = to(VIP_OVER_V6).tos(0xb8).udp(40000, 5060).payload(&data);
    let whole = over_v4.build()[34..].to_vec();

    let mut buffers = CutBuffer::open_all(pinned.root()).unwrap_or_else(|e| panic!("{e}"));
    let before = pinned.tally();
    let mut cut = |frame: &[u8]| {
        assert_eq!(outcome(&pinned, frame).0, XdpAction::Drop);
        let mut frames = Vec::new();
        for buffer in &mut buffers {
            buffer.drain(|event| {
                let template = |index| pinned.maps().backend(index).map(|backend| *backend.template());
                frames.push(wrap::frames(event, template).unwrap());
            });
        }
        assert_eq!(frames.len(), 1, "one event for one packet");
        frames.remove(0)
    };

    // 1480 bytes fit, 1456 of them data in a fragment that is not the last.
    let (ifindex, frames) = cut(&over_v4.clone().trailer(&[9; 11]).build());
    assert_eq!((ifindex, frames.len()), (1, 2));
    let fragment = |vip: &str, offset: u16, more: bool, data: &[u8]| {
        to(vip).tos(0xb8).fragment(offset, more).protocol(17).payload(data).build()[14..].to_vec()
    };
    let ipip = |inner: &[u8]| {
        eth(ROUTER_MAC, OWN_MAC).ipv4(SOURCE, BACKEND).df().id(0).ttl(64).tos(0xb8).inner(inner).build()
    };
    assert_packet_eq(&frames[0], &ipip(&fragment(VIP, 0, true, &whole[..1456])));
    assert_packet_eq(&frames[1], &ipip(&fragment(VIP, 1456, false, &whole[1456..])));

    let (_, frames) = cut(&over_v6.build());
    let whole = over_v6.build()[34..].to_vec();
    let lengths: Vec<usize> = frames.iter().map(Vec::len).collect();
    assert_eq!(lengths, [54 + 20 + 1440, 54 + 20 + 40]);
    for (frame, data) in frames.iter().zip([&whole[..1440], &whole[1440..]]) {
        assert_eq!(&frame[74..], data);
        // Fragments of a packet share a path: source and flow label.
        assert_eq!(frame[..18], frames[0][..18]);
        assert_eq!(frame[22..54], frames[0][22..54]);
    }

    // Tags stay in front.
    let tagged = |frame: &[u8]| {
        [&frame[..12], &[0x88, 0xa8, 0x0f, 0xff, 0x81, 0x00, 0x60, 0x09], &frame[12..]].concat()
    };
    let (_, untagged) = cut(&over_v4.build());
    let (_, frames) = cut(&tagged(&over_v4.build()));
    assert_eq!(frames.len(), untagged.len());
    for (frame, untagged) in frames.iter().zip(&untagged) {
        assert_packet_eq(frame, &tagged(untagged));
    }

    // GUE: 1468 and 1452 bytes fit; UDP has no checksum over fragments.
    let gue = to(VIP).udp(40000, 7300).payload(&data);
    let gue1 = to(VIP_OVER_V6).udp(40000, 7300).payload(&data);
    let whole = [gue.build()[34..].to_vec(), gue1.build()[34..].to_vec()];
    let piece = |vip: &str, offset: u16, more: bool, data: &[u8]| {
        to(vip).fragment(offset, more).protocol(17).payload(data).build()[14..].to_vec()
    };
    let (_, frames) = cut(&gue.build());
    for (frame, inner) in frames
        .iter()
        .zip([piece(VIP, 0, true, &whole[0][..1448]), piece(VIP, 1448, false, &whole[0][1448..])])
    {
        let inside = [&[0, 4, 0, 0], &inner[..]].concat();
        let port = u16::from_be_bytes([frame[34], frame[35]]);
        assert!(port >= 49152, "{port}");
        assert_packet_eq(frame, &tunnel(0).udp(port, 6080).checksum(0).payload(&inside).build());
    }
    assert_eq!(frames.len(), 2);
    let (_, frames) = cut(&gue1.build());
    for (frame, inner) in frames.iter().zip([
        piece(VIP_OVER_V6, 0, true, &whole[1][..1432]),
        piece(VIP_OVER_V6, 1432, false, &whole[1][1432..]),
    ]) {
        let (label, port) =
            ([frame[15] & 0xf, frame[16], frame[17]], u16::from_be_bytes([frame[54], frame[55]]));
        let mut expected = tunnel_v6(0).udp(port, 6080).checksum(0).payload(&inner).build();
        expected[15] |= label[0];
        expected[16..18].copy_from_slice(&label[1..]);
        assert_packet_eq(frame, &expected);
    }
    assert_eq!(frames.len(), 2);
    assert_counted(before, pinned.tally(), &[Counted::Pass(PassReason::HandedToCutter); 6]);

    drop(buffers);
    let before = pinned.tally();
    assert_eq!(outcome(&pinned, &over_v4.build()).0, XdpAction::Drop);
    assert_counted(before, pinned.tally(), &[Counted::Drop(DropReason::CutUnavailable)]);
}

/// Nobody reads: the buffers fill up, and what does not fit is counted.
#[test]
fn a_full_buffer_is_counted() {
    let Ok(()) = available() else { return };
    let pinned = load(NARROW);
    let mut buffers = CutBuffer::open_all(pinned.root()).unwrap_or_else(|e| panic!("{e}"));
    let frame = to(VIP).udp(40000, 5060).payload(&[7; 1472]).build();
    let before = pinned.tally();
    let sent = 400 * buffers.len() as u64;
    for _ in 0..sent {
        assert_eq!(outcome(&pinned, &frame).0, XdpAction::Drop);
    }
    let after = pinned.tally();
    let handed = after.counters.passes.handed_to_cutter - before.counters.passes.handed_to_cutter;
    let refused = after.counters.drops.cut_unavailable - before.counters.drops.cut_unavailable;
    let mut read = 0;
    for buffer in &mut buffers {
        buffer.drain(|event| {
            let head: &[u8; size_of::<CutRequest>()] = event.first_chunk().unwrap();
            let request: CutRequest = bytemuck::pod_read_unaligned(head);
            assert_eq!((request.l3, usize::from(request.len)), (14, frame.len()));
            assert_eq!(&event[head.len()..][..frame.len()], &frame);
            read += 1;
        });
    }
    assert_eq!((handed + refused, handed), (sent, read));
    assert!(handed >= 100 && refused >= 100, "{handed} handed over, {refused} not");
}

/// The outer source is a flow's: an error about the flow that has it went by the flow's own hash.
#[test]
fn an_error_goes_by_the_hash_of_its_flow() {
    let Ok(()) = available() else { return };
    let pinned = load(SPREAD);
    let sent = |frame: &[u8]| {
        let (verdict, packet) = outcome(&pinned, frame);
        assert_eq!(verdict, XdpAction::Tx);
        packet
    };
    for port in 40_000..40_200u16 {
        let flow = sent(&to(VIP).udp(port, 5060).build());
        let quoted = frame().ipv4(VIP, CLIENT).udp(5060, port).build();
        let error = sent(&frame().ipv4("192.0.2.1", VIP).icmp(3, 4).payload(&quoted[14..42]).build());
        assert_eq!(flow[26..34], error[26..34], "port {port}");

        let flow = sent(&to_v6(VIP_V6).udp(port, 5060).build());
        let quoted = frame().ipv6(VIP_V6, CLIENT_V6).udp(5060, port).build();
        let router = frame().ipv6("2001:db8:ffff::1", VIP_V6);
        let error = sent(&router.icmpv6(2, 0).payload(&quoted[14..62]).build());
        assert_eq!(flow[26..34], error[26..34], "port {port}, IPv6");

        let flow = sent(&to(VIP_OVER_V6).udp(port, 5060).build());
        let quoted = frame().ipv4(VIP_OVER_V6, CLIENT).udp(5060, port).build();
        let router = frame().ipv4("192.0.2.1", VIP_OVER_V6);
        let error = sent(&router.icmp(11, 0).payload(&quoted[14..42]).build());
        assert_eq!(flow[22..54], error[22..54], "port {port}, over IPv6");
    }
}
