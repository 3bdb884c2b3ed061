//! ICMP errors read, and "packet too big" answers built: both from any frame.
//!
//! Input: a frame.

use xdp_lb_common::icmp::{self, NoFlow};
use xdp_lb_common::parse::{self, Ip, Version};
use xdp_lb_common::toobig::{self, TooBig};

use super::parser::read;
use crate::packet::internet_checksum;

pub fn check(frame: &[u8]) {
    let Some((_, Some(ip))) = read(frame) else { return };
    if ip.fragment.is_none() {
        quoted(frame, &ip);
    }
    answer(frame, &ip);
}

fn quoted(frame: &[u8], ip: &Ip) {
    let quote = match icmp::quote(frame, ip) {
        Ok(quote) => quote,
        Err(why) => {
            assert_ne!(why, NoFlow::QuotedProtocol);
            assert_eq!(icmp::flow(frame, ip), Err(why));
            return;
        }
    };
    assert_eq!(quote.end, ip.end);
    assert!(quote.addresses.l3 == ip.l4 + icmp::ICMP_LEN && quote.addresses.l3 + 20 <= quote.l4, "{quote:?}");
    assert_eq!(quote.addresses.source, ip.addresses.destination);
    assert_eq!(quote.addresses.version, ip.addresses.version);
    if quote.addresses.version == Version::V4 {
        let at = quote.addresses.l3 + 6;
        assert_eq!(
            u16::from_be_bytes([frame[at], frame[at + 1]]) & 0x1fff,
            0,
            "a later fragment has no ports"
        );
    }
    let tunnel = quote.tunnel(frame);
    if let Some(inner) = tunnel.and_then(|tunnel| tunnel.inner) {
        assert!(quote.l4 <= inner.l3 && inner.l3 + 20 <= quote.end);
        assert_eq!(parse::addresses(frame, inner.l3, inner.version), Some(inner));
    }
    match icmp::flow(frame, ip) {
        Ok((complaint, flow)) => {
            assert_eq!(complaint, quote.complaint);
            assert!(flow.protocol == parse::TCP || flow.protocol == parse::UDP);
            assert!(quote.l4 + 8 <= ip.end);
            let [v0, v1, c0, c1] = frame[quote.l4..quote.l4 + 4] else { unreachable!("four bytes") };
            let (vip, client) = (u16::from_be_bytes([v0, v1]), u16::from_be_bytes([c0, c1]));
            assert_eq!((flow.pair, flow.destination()), (parse::Ports::pair_of(client, vip), vip));
            assert_eq!(flow.addresses.destination, ip.addresses.destination);
            assert_eq!(flow.addresses.source, quote.addresses.destination);
        }
        Err(NoFlow::QuotedProtocol) => assert!(quote.protocol != parse::TCP && quote.protocol != parse::UDP),
        Err(why) => assert_eq!((why, quote.l4 + 8 > ip.end), (NoFlow::Truncated, true)),
    }
}

fn answer(frame: &[u8], ip: &Ip) {
    let (l3, version) = (ip.addresses.l3, ip.addresses.version);
    let quoted = toobig::quote_len(version, ip.len());
    let sum = toobig::quote_sum(frame, l3, quoted).expect("the packet is inside the frame");
    let packet = &frame[l3..l3 + quoted];
    let too_big = TooBig { mtu: 1280, quoted: u16::try_from(quoted).expect("at most 1232"), sum };
    let whole = match version {
        Version::V4 => {
            let mut out = [0xaa; toobig::V4_HEADER];
            toobig::write_v4(&mut out, packet.first_chunk().expect("an IPv4 header"), &too_big);
            assert_eq!(internet_checksum(&[&out[..20]]), 0);
            assert_eq!(internet_checksum(&[&out[20..], packet]), 0);
            [&out[..], packet].concat()
        }
        Version::V6 => {
            let mut out = [0xaa; toobig::V6_HEADER];
            toobig::write_v6(&mut out, packet.first_chunk().expect("an IPv6 header"), &too_big);
            let length = u32::try_from(8 + quoted).expect("at most 1240").to_be_bytes();
            let pseudo = [&out[8..40], &length, &[0, 0, 0, parse::ICMPV6]].concat();
            assert_eq!(internet_checksum(&[&pseudo, &out[40..], packet]), 0);
            [&out[..], packet].concat()
        }
    };
    let reply = [&frame[..l3], &whole].concat();
    let Some((addresses, Some(back))) = read(&reply) else { panic!("our own answer does not parse") };
    assert_eq!(addresses.source, ip.addresses.destination);
    assert_eq!(addresses.destination, ip.addresses.source);
    assert!(back.end == reply.len() && whole.len() <= if version == Version::V4 { 576 } else { 1280 });
    assert!(!toobig::deserves(back.protocol, &back.addresses), "an error about our error");
}
