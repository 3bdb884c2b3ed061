//! The frame parser: what it finds lies inside the frame, and neither padding nor a cut makes it find something else.
//!
//! Input: a frame.

use xdp_lb_common::parse::{self, Addresses, Ethernet, Ip, Transport, Version};

/// Addresses and IP header of a frame, as the packet path reads them.
pub fn read(frame: &[u8]) -> Option<(Addresses, Option<Ip>)> {
    let version = match parse::ethernet(frame) {
        Ethernet::Ipv4 => Version::V4,
        Ethernet::Ipv6 => Version::V6,
        Ethernet::Tagged | Ethernet::Other => return None,
    };
    let addresses = parse::addresses(frame, parse::ETHERNET_LEN, version)?;
    Some((addresses, parse::ip(frame, addresses).ok()))
}

pub fn check(frame: &[u8]) {
    shortcut(frame);
    let Some((addresses, ip)) = read(frame) else { return };
    assert_eq!(addresses.l3, parse::ETHERNET_LEN);
    let raw = |range| frame.get(range).expect("addresses inside the frame");
    match addresses.version {
        Version::V4 => {
            assert_eq!(addresses.source, parse::v4_words(raw(26..30).try_into().expect("4 bytes")));
            assert_eq!(addresses.destination, parse::v4_words(raw(30..34).try_into().expect("4 bytes")));
        }
        Version::V6 => {
            assert_eq!(addresses.source, parse::words(raw(22..38).try_into().expect("16 bytes")));
            assert_eq!(addresses.destination, parse::words(raw(38..54).try_into().expect("16 bytes")));
        }
    }
    let Some(ip) = ip else { return };
    let least = if addresses.version == Version::V4 { parse::IPV4_LEN } else { parse::IPV6_LEN };
    assert!(addresses.l3 + least <= ip.l4 && ip.l4 <= ip.end && ip.end <= frame.len(), "{ip:?}");
    assert_eq!(ip.addresses, addresses);
    assert_eq!(ip.len(), ip.end - addresses.l3);

    // Ethernet padding means nothing, and a packet that is cut is not a packet.
    let exact = &frame[..ip.end];
    assert_eq!(read(exact), Some((addresses, Some(ip))));
    if let Some((_, cut)) = read(&frame[..ip.end - 1]) {
        assert_eq!(cut, None);
    }
    if ip.fragment.is_some() {
        return;
    }
    let transport = parse::transport(frame, &ip);
    assert_eq!(parse::transport(exact, &ip), transport);
    if let Ok(Transport::Ports(ports)) = transport {
        assert!(ip.protocol == parse::TCP || ip.protocol == parse::UDP);
        let header = if ip.protocol == parse::TCP { 20 } else { 8 };
        assert!(ip.l4 + header <= ip.end);
        assert_eq!(ports.pair.to_le_bytes(), exact[ip.l4..ip.l4 + 4]);
        assert_eq!(ports.destination().to_be_bytes(), exact[ip.l4 + 2..ip.l4 + 4]);
    }
}

/// The plain packets' own way says what the long one says.
fn shortcut(frame: &[u8]) {
    let plain = match parse::ethernet(frame) {
        Ethernet::Ipv4 => parse::plain_v4(frame),
        Ethernet::Ipv6 => parse::plain_v6(frame),
        Ethernet::Tagged | Ethernet::Other => return,
    };
    let Some(plain) = plain else { return };
    let Some((_, Some(ip))) = read(frame) else { panic!("{plain:?}, which the parser refuses") };
    assert_eq!((plain.ip, Ok(Transport::Ports(plain.ports))), (ip, parse::transport(frame, &ip)));
}
