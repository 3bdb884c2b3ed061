//! Random packets for a configuration: of its services' flows, about them, beside them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use xdp_lb_tests::model::{Affinity, Decap, File, Service};
use xdp_lb_tests::packet::{binding_request, quic_long, quic_short, stun};

use super::craft::{Ip, frame};
use super::dice::Dice;
use super::files::{VIPS, client, vip};

/// Sizes of payloads around what tunnels hold.
const LARGE: [usize; 12] = [520, 536, 548, 1150, 1200, 1252, 1260, 1272, 1400, 1452, 1472, 1600];

/// A flow that comes again.
#[derive(Clone, Copy, Debug)]
pub struct Flow {
    pub tcp: bool,
    pub source: IpAddr,
    pub source_port: u16,
    pub destination: IpAddr,
    pub port: u16,
}

/// A stream of frames.
pub struct Packets<'a> {
    file: &'a File,
    flows: Vec<Flow>,
    /// The last frame, for splices.
    last: Vec<u8>,
}

impl<'a> Packets<'a> {
    /// Of so many flows for this file.
    pub fn new(dice: &mut Dice, file: &'a File, flows: usize) -> Self {
        let flows = (0..flows).map(|_| flow(dice, file)).collect();
        Self { file, flows, last: vec![0; 14] }
    }

    /// The next frame: as it should be, or spoilt.
    pub fn next(&mut self, dice: &mut Dice) -> Vec<u8> {
        let good = self.good(dice);
        let frame =
            if dice.percent(30) { super::mutate::spoil(dice, &good, &self.last) } else { good.clone() };
        self.last = good;
        frame
    }

    fn good(&self, dice: &mut Dice) -> Vec<u8> {
        let flow = dice.pick(&self.flows);
        let tunnels = self.file.decap.is_some();
        match dice.below(if tunnels { 120 } else { 103 }) {
            0..55 => whole(dice, self.file, &flow),
            55..72 => fragment(dice, self.file, &flow),
            72..84 => error(dice, self.file, &flow),
            84..89 => echo(dice, self.file, &flow),
            89..92 => other_icmp(dice, &flow),
            92..95 => other_protocol(dice, &flow),
            95..97 => {
                let flow = elsewhere(dice, flow);
                whole(dice, self.file, &flow)
            }
            97..99 => complaint(dice, self.file, &flow),
            99..102 => tunnel(dice, self.file, &flow),
            102 => no_ip(dice),
            _ => tunnel(dice, self.file, &flow),
        }
    }
}

fn flow(dice: &mut Dice, file: &File) -> Flow {
    let Some(service) = (!file.services.is_empty() && !dice.percent(6)).then(|| dice.one(&file.services))
    else {
        return nobodys(dice);
    };
    let destination = dice.pick(&service.vips);
    let port = match &service.ports {
        Some(ports) => {
            let range = dice.one(ports);
            dice.within((*range.start()).into()..=(*range.end()).into()) as u16
        }
        None => dice.short(),
    };
    let source = client(dice, destination.is_ipv4());
    Flow { tcp: service.tcp, source, source_port: dice.short(), destination, port }
}

/// To a VIP perhaps, but to no service mostly.
fn nobodys(dice: &mut Dice) -> Flow {
    let v4 = dice.percent(50);
    let n = dice.pick(&[dice.clone().within(1..=VIPS.into()) as u16, 40, 41, 99]);
    let port = dice.pick(&[0, 1, 80, 6080, 65535]);
    Flow {
        tcp: dice.percent(50),
        source: client(dice, v4),
        source_port: dice.short(),
        destination: vip(v4, n),
        port,
    }
}

/// The same to no VIP.
fn elsewhere(dice: &mut Dice, flow: Flow) -> Flow {
    let destination = if flow.destination.is_ipv4() { node(dice, true) } else { node(dice, false) };
    Flow { destination, ..flow }
}

/// An address of this node, or of a neighbour.
fn node(dice: &mut Dice, v4: bool) -> IpAddr {
    if v4 {
        Ipv4Addr::new(172, 16, 7, dice.pick(&[0, 9, 77])).into()
    } else if dice.percent(5) {
        Ipv4Addr::new(203, 0, 113, 1).to_ipv6_mapped().into()
    } else {
        Ipv6Addr::new(0xfd00, 0x7864, 0x7000, 0, 0, 0, 7, dice.pick(&[0, 9, 77])).into()
    }
}

/// An IP header with what headers may have.
fn ip(dice: &mut Dice, source: IpAddr, destination: IpAddr) -> Ip {
    let mut ip = Ip::new(source, destination);
    if dice.percent(50) {
        (ip.tos, ip.ttl, ip.label) = (dice.byte(), dice.pick(&[1, 2, 64, 255]), dice.next() as u32);
    }
    ip.id = dice.short();
    if dice.percent(60) {
        ip.flags = 0x4000;
    }
    if dice.percent(10) {
        let fours = dice.within(1..=10);
        ip.options = dice
            .pick(&[vec![1; 4], vec![7; 4], vec![0; 4]].map(|four| [four[0], four[1], four[2], four[3]]))
            .repeat(fours);
    }
    if dice.percent(10) {
        ip.extensions = (0..dice.within(1..=7)).map(|_| extension(dice)).collect();
    }
    ip
}

fn extension(dice: &mut Dice) -> (u8, Vec<u8>) {
    let number = dice.pick(&[0, 43, 60, 60, 51, 44]);
    let words = dice.pick(&[0u8, 0, 0, 1, 2, 5]);
    let bytes = match number {
        44 => return (44, [&[0, 0, dice.pick(&[0, 0, 6])][..], &dice.bytes(4)].concat()),
        51 => (usize::from(words) + 2) * 4,
        _ => (usize::from(words) + 1) * 8,
    };
    (number, [vec![words], vec![0; bytes - 2]].concat())
}

/// The frame of a packet: tags and padding now and then.
fn framed(dice: &mut Dice, packet: &[u8]) -> Vec<u8> {
    let count = if dice.percent(10) { dice.pick(&[1, 1, 2, 2, 2, 3]) } else { 0 };
    let mut tag = || {
        let [p0, p1] = dice.pick(&[0x8100u16, 0x88a8, 0x9100, 0x8100]).to_be_bytes();
        [p0, p1, dice.byte(), dice.byte()]
    };
    let tags: Vec<[u8; 4]> = (0..count).map(|_| tag()).collect();
    let padding = if dice.percent(15) { dice.within(1..=40) } else { 0 };
    let trailer = if dice.percent(50) { dice.bytes(padding) } else { vec![0; padding] };
    frame(&tags, packet, &trailer)
}

fn payload(dice: &mut Dice) -> Vec<u8> {
    let length = match dice.below(10) {
        0..7 => dice.below(64),
        7 => dice.below(300),
        _ => dice.pick(&LARGE) + dice.below(40),
    };
    let byte = dice.byte();
    if dice.percent(50) { dice.bytes(length) } else { vec![byte; length] }
}

/// TCP or UDP of a flow.
fn transport(dice: &mut Dice, file: &File, flow: &Flow, ip: &Ip) -> (u8, Vec<u8>) {
    if flow.tcp {
        let flags = dice.pick(&[
            0x02, 0x02, 0x10, 0x10, 0x18, 0x18, 0x18, 0x11, 0x04, 0x14, 0x12, 0xc2, 0x03, 0x00, 0xff,
        ]);
        let payload = if dice.percent(40) { Vec::new() } else { payload(dice) };
        let options = if dice.percent(20) { vec![1; 4 * dice.within(1..=10)] } else { Vec::new() };
        return (6, ip.tcp(flow.source_port, flow.port, flags, &options, &payload));
    }
    let service =
        file.services.iter().find(|s| !s.tcp && s.vips.contains(&flow.destination) && takes(s, flow.port));
    let payload = match service.map(|service| (&service.affinity, service)) {
        Some((Affinity::QuicCid { .. }, service)) if dice.percent(85) => quic(dice, service),
        Some((Affinity::IceUfrag, service)) if dice.percent(85) => ice(dice, service),
        _ => payload(dice),
    };
    let mut message = ip.udp(flow.source_port, flow.port, &payload);
    match dice.below(20) {
        0 => message[6..8].fill(0),
        1 => message[6..8].copy_from_slice(&dice.short().to_be_bytes()),
        2 => message.extend([0; 5]),
        _ => {}
    }
    (17, message)
}

fn takes(service: &Service, port: u16) -> bool {
    service.ports.as_ref().is_none_or(|ports| ports.iter().any(|range| range.contains(&port)))
}

fn whole(dice: &mut Dice, file: &File, flow: &Flow) -> Vec<u8> {
    let ip = ip(dice, flow.source, flow.destination);
    let (protocol, message) = transport(dice, file, flow, &ip);
    framed(dice, &ip.packet(protocol, &message))
}

/// A QUIC packet: a server's connection id mostly, else one that a client made up.
fn quic(dice: &mut Dice, service: &Service) -> Vec<u8> {
    let Affinity::QuicCid { config_ids, nonce, .. } = &service.affinity else { return Vec::new() };
    let mut id = match service.backends.is_empty() {
        false => dice.one(&service.backends).server_id.clone(),
        true => vec![1, 2, 3],
    };
    if dice.percent(10) {
        let at = dice.below(id.len());
        id[at] ^= 0x40;
    }
    let config = match config_ids[..] {
        [] => dice.below(7) as u8,
        [..] => dice.pick(config_ids),
    };
    let config = if dice.percent(10) { dice.below(8) as u8 } else { config };
    let more = usize::from(*nonce) + dice.pick(&[0, 0, 0, 1, 2]);
    let length = id.len() + more;
    let said = if dice.percent(80) { length } else { dice.below(32) };
    let cid = [vec![config << 5 | (said & 0x1f) as u8], id, dice.bytes(more)].concat();
    match dice.below(10) {
        0..5 => quic_short(&cid),
        5..8 => quic_long(&cid),
        8 => {
            let length = dice.below(20);
            quic_long(&dice.bytes(length))
        }
        _ => {
            let mut packet = quic_long(&cid);
            packet[1..5].fill(0);
            packet
        }
    }
}

/// What comes on a port of ICE sessions: a check, or what follows it.
fn ice(dice: &mut Dice, service: &Service) -> Vec<u8> {
    let mut id = match service.backends.is_empty() {
        false => dice.one(&service.backends).server_id.clone(),
        true => b"nobody".to_vec(),
    };
    if dice.percent(10) {
        id.pop();
    }
    let mut name = id;
    name.extend(vec![b'x'; dice.below(9)]);
    if dice.percent(93) {
        name.push(b':');
    }
    let length = dice.below(30);
    name.extend(vec![b'y'; if dice.percent(5) { 600 } else { length }]);
    let username = (6u16, &name[..]);
    let other = (0x8022u16, &b"software"[..]);
    match dice.below(12) {
        0..5 => binding_request(&String::from_utf8_lossy(&name)),
        5 => stun(1, &[other, username]),
        6 => stun(1, &[vec![other; dice.within(7..=11)], vec![username]].concat()),
        7 => stun(1, &[(dice.pick(&[0x0008, 0x001c, 0x8028]), &[0; 20][..]), username]),
        8 => stun(dice.pick(&[0x0101, 0x0111, 0x0003, 0x0011]), &[username]),
        9 => stun(1, &[]),
        _ => dice.pick(&[[0x80u8; 40], [0x16; 40], [0x40; 40], [0; 40]]).to_vec(),
    }
}

/// One of a datagram's fragments: few datagrams, so that their fragments meet.
fn fragment(dice: &mut Dice, file: &File, flow: &Flow) -> Vec<u8> {
    // Of few clients.
    let source = match flow.source {
        IpAddr::V4(v4) => Ipv4Addr::from(u32::from(v4) & !0x2e).into(),
        IpAddr::V6(v6) => Ipv6Addr::from(u128::from(v6) & !0x2e).into(),
    };
    let flow = Flow { source, ..*flow };
    let mut ip = ip(dice, source, flow.destination);
    let id = dice.below(6) as u16;
    let offset =
        if dice.percent(45) { 0 } else { dice.pick(&[8usize, 16, 24, 80, 1480, 8184, 65504, 65520, 65528]) };
    let more = dice.percent(if offset == 0 { 95 } else { 50 });
    let (protocol, mut message) = transport(dice, file, &flow, &ip);
    let protocol = if dice.percent(4) { dice.pick(&[1, 58, 50, 60, 59]) } else { protocol };
    // In eights, mostly; sometimes too little.
    if dice.percent(90) {
        message.resize(message.len().next_multiple_of(8), 0);
    }
    if dice.percent(10) {
        message.truncate(dice.pick(&[0, 4, 7, 8, 12, 15, 16, 20, 24]));
    }
    if source.is_ipv4() {
        ip.id = id;
        ip.flags = (offset / 8) as u16 | if more { 0x2000 } else { 0 } | ip.flags & 0x4000;
    } else {
        let [f0, f1] = (offset as u16 | u16::from(more)).to_be_bytes();
        let [i0, i1] = id.to_be_bytes();
        ip.extensions.retain(|(number, _)| *number != 44 || dice.percent(20));
        ip.extensions.truncate(3);
        let at = dice.below(ip.extensions.len() + 1);
        ip.extensions.insert(at, (44, vec![0, f0, f1, 0xfe, 0xed, i0, i1]));
    }
    framed(dice, &ip.packet(protocol, &message))
}

/// What routers say.
fn error_kind(dice: &mut Dice, v4: bool) -> (u8, u8) {
    if v4 {
        dice.pick(&[(3, 4), (3, 4), (3, 1), (3, 3), (11, 0), (11, 1), (12, 0), (4, 0), (5, 1)])
    } else {
        dice.pick(&[(2, 0), (2, 0), (1, 0), (1, 4), (3, 0), (3, 1), (4, 1), (100, 0), (129, 0)])
    }
}

/// A router's address.
fn router(dice: &mut Dice, v4: bool) -> IpAddr {
    if v4 {
        Ipv4Addr::new(192, 0, 2, dice.byte()).into()
    } else {
        Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 1).into()
    }
}

/// Cuts what a router quotes, down to RFC 792's eight bytes and below.
fn quoted(dice: &mut Dice, mut packet: Vec<u8>, header: usize) -> Vec<u8> {
    match dice.below(4) {
        0 => packet.truncate(header + 8),
        1 => packet.truncate(dice.within(header.saturating_sub(4)..=header + 40)),
        _ => packet.truncate(548),
    }
    packet
}

/// An ICMP error about an answer of a flow.
fn error(dice: &mut Dice, file: &File, flow: &Flow) -> Vec<u8> {
    let v4 = flow.destination.is_ipv4();
    let from = if dice.percent(5) { vip(v4, 99) } else { flow.destination };
    let mut back = ip(dice, from, flow.source);
    if dice.percent(10) && v4 {
        back.flags = dice.pick(&[0x2000, 0x0001, 0x2001]);
    }
    let turned = Flow {
        source_port: flow.port,
        port: flow.source_port,
        source: from,
        destination: flow.source,
        ..*flow
    };
    let (protocol, message) = transport(dice, file, &turned, &back);
    let protocol = if dice.percent(4) { 47 } else { protocol };
    let packet = back.packet(protocol, &message);
    let header = packet.len() - message.len();
    let quote = quoted(dice, packet, header);
    let (kind, code) = error_kind(dice, v4);
    let router = router(dice, v4);
    let outer = ip(dice, router, flow.destination);
    let [m0, m1] = dice.pick(&[0u16, 576, 1280, 1400, 1500]).to_be_bytes();
    let message = outer.icmp(kind, code, [0, 0, m0, m1], &quote);
    framed(dice, &outer.packet(outer.icmp_protocol(), &message))
}

fn echo(dice: &mut Dice, file: &File, flow: &Flow) -> Vec<u8> {
    let _ = file;
    let ip = ip(dice, flow.source, flow.destination);
    let kind = if flow.destination.is_ipv4() { 8 } else { 128 };
    let code = dice.pick(&[0, 0, 0, 0, 1]);
    let body = if dice.percent(10) { vec![0; 8] } else { payload(dice) };
    let message = ip.icmp(kind, code, [0, 1, 0, dice.byte()], &body);
    framed(dice, &ip.packet(ip.icmp_protocol(), &message))
}

fn other_icmp(dice: &mut Dice, flow: &Flow) -> Vec<u8> {
    let ip = ip(dice, flow.source, flow.destination);
    let kind = if flow.destination.is_ipv4() {
        dice.pick(&[0, 9, 13, 4])
    } else {
        dice.pick(&[129, 133, 134, 135, 136, 137, 138, 143])
    };
    let length = dice.below(30);
    let message = ip.icmp(kind, 0, [0; 4], &dice.bytes(length));
    // Sometimes the other family's ICMP.
    let protocol = if dice.percent(15) { 59 - ip.icmp_protocol() } else { ip.icmp_protocol() };
    framed(dice, &ip.packet(protocol, &message))
}

fn other_protocol(dice: &mut Dice, flow: &Flow) -> Vec<u8> {
    let ip = ip(dice, flow.source, flow.destination);
    let length = dice.below(60);
    let protocol = dice.pick(&[2, 47, 50, 59, 89, 132, 4, 41]);
    let packet = ip.packet(protocol, &dice.bytes(length));
    framed(dice, &packet)
}

/// "Fragmentation needed" or "packet too big" about a tunnel of ours, or about what may be one.
fn complaint(dice: &mut Dice, file: &File, flow: &Flow) -> Vec<u8> {
    let v4 = dice.percent(50);
    let ours = node(dice, v4);
    let there = if v4 {
        Ipv4Addr::new(10, 1, 0, 10).into()
    } else {
        Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 10).into()
    };
    let tunnel = Ip { flags: 0x4000, ..Ip::new(ours, there) };
    let inner = Ip::new(
        flow.source,
        if dice.percent(80) { flow.destination } else { vip(flow.source.is_ipv4(), 99) },
    );
    let (protocol, message) = transport(dice, file, flow, &inner);
    let inner = inner.packet(protocol, &message);
    let (protocol, body) = encapsulated(dice, &tunnel, &inner, 6080);
    let packet = tunnel.packet(protocol, &body);
    let header = packet.len() - body.len();
    let quote = quoted(dice, packet, header);
    let (kind, code) = if dice.percent(70) { if v4 { (3, 4) } else { (2, 0) } } else { error_kind(dice, v4) };
    let router = router(dice, v4);
    let outer = ip(dice, router, ours);
    let message = outer.icmp(kind, code, [0, 0, 5, 0x78], &quote);
    framed(dice, &outer.packet(outer.icmp_protocol(), &message))
}

/// A tunnel's protocol and what it carries.
fn encapsulated(dice: &mut Dice, outer: &Ip, inner: &[u8], port: u16) -> (u8, Vec<u8>) {
    let protocol = if inner[0] >> 4 == 4 { 4 } else { 41 };
    if dice.percent(50) {
        return (if dice.percent(4) { 45 - protocol } else { protocol }, inner.to_vec());
    }
    let fields = if dice.percent(15) { dice.below(4) } else { 0 };
    let header = match dice.below(10) {
        0..4 => Vec::new(),
        4..8 => [vec![fields as u8, protocol, 0, 0], vec![0; 4 * fields]].concat(),
        8 => vec![
            dice.pick(&[0, 0x20, 0x40, 0x80, 0x50, 0xc0]),
            dice.pick(&[protocol, 45 - protocol, 6]),
            0,
            dice.pick(&[0, 1]),
        ],
        _ => dice.bytes(4),
    };
    let port = if dice.percent(95) { port } else { 6081 };
    let mut udp = outer.udp(50_000 | dice.short() & 0xff, port, &[&header, inner].concat());
    match dice.below(12) {
        0 => udp[4..6].copy_from_slice(&dice.pick(&[0u16, 7, 8, 20, 40, 65535]).to_be_bytes()),
        1 => udp[6..8].fill(0),
        _ => {}
    }
    (17, udp)
}

/// A tunnel to this node.
fn tunnel(dice: &mut Dice, file: &File, flow: &Flow) -> Vec<u8> {
    let v4 = dice.percent(50);
    let source = match &file.decap {
        Some(Decap { allow, .. }) if dice.percent(80) => {
            let of_family: Vec<_> = allow.iter().filter(|prefix| prefix.address.is_ipv4() == v4).collect();
            if of_family.is_empty() { client(dice, v4) } else { dice.one(&of_family).address }
        }
        _ => client(dice, v4),
    };
    let there = node(dice, v4);
    let outer = ip(dice, source, there);
    let to = match &file.decap {
        Some(decap) if dice.percent(85) => {
            let vips: Vec<IpAddr> = decap.vips.iter().copied().collect();
            dice.pick(&vips)
        }
        _ => flow.destination,
    };
    let from = client(dice, to.is_ipv4());
    let flow = Flow { source: from, destination: to, ..*flow };
    let mut inner = ip(dice, from, to);
    if dice.percent(10) {
        inner.flags = dice.pick(&[0x2000, 0x0010, 0x8000]);
    }
    if dice.percent(3) {
        inner.ttl = 0;
    }
    let (protocol, message) = transport(dice, file, &flow, &inner);
    let inner = inner.packet(protocol, &message);
    let port = file.decap.as_ref().map_or(6080, |decap| decap.gue_port);
    let (protocol, body) = encapsulated(dice, &outer, &inner, port);
    framed(dice, &outer.packet(protocol, &body))
}

fn no_ip(dice: &mut Dice) -> Vec<u8> {
    let length = dice.within(14..=80);
    let mut frame = dice.bytes(length);
    if dice.percent(40) {
        frame[12..14].copy_from_slice(&dice.pick(&[0x0806u16, 0x0800, 0x86dd, 0x8100]).to_be_bytes());
    }
    frame
}
