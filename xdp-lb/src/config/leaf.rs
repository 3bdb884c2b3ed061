//! Single values from their text: numbers, durations, addresses, prefixes, ports. Pure functions from a scalar to
//! a value or to the sentence that says what it must be. Handed to [`super::reader::Item::leaf`].

use std::fmt::Display;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use super::finding::quoted;
use super::reader::{Leaf, must_be};
use crate::model::{Dscp, Mtu, Share, TableSize};

/// A whole number in `range`, decimal or `0x...`.
pub(super) fn number<T>(range: RangeInclusive<T>) -> impl Fn(&str) -> Leaf<T>
where
    T: TryFrom<u64> + PartialOrd + Display,
{
    move |text| {
        let value = whole(text).and_then(|n| T::try_from(n).ok()).filter(|n| range.contains(n));
        value.map_or_else(|| must_be(&format!("{}..={}", range.start(), range.end()), text), Ok)
    }
}

/// Digits alone: the standard parser would take a leading `+`.
fn whole(text: &str) -> Option<u64> {
    if let Some(hex) = text.strip_prefix("0x") {
        return hex.bytes().all(|b| b.is_ascii_hexdigit()).then(|| u64::from_str_radix(hex, 16).ok())?;
    }
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok())?
}

/// `flow_table.entries`: a power of two, at least a thousand flows and at most 2 GiB.
pub(super) fn table_entries(text: &str) -> Leaf<u32> {
    const RANGE: RangeInclusive<u32> = 1 << 10..=1 << 28;
    match number(RANGE)(text) {
        Ok(n) if n.is_power_of_two() => Ok(n),
        Ok(n) => Err(format!("must be a power of two, is {n}; the next is {}", n.next_power_of_two())),
        Err(_) => must_be("a power of two, 1024..=268435456", text),
    }
}

/// A prime number of slots.
pub(super) fn table_size(text: &str) -> Leaf<TableSize> {
    const RANGE: RangeInclusive<u32> = 3..=131_071;
    let n = number(RANGE)(text).or_else(|_| must_be("a prime number, 3..=131071", text))?;
    TableSize::new(n).ok_or_else(|| {
        let prime = |n: &u32| TableSize::new(*n).is_some();
        // Both exist: the bounds are primes themselves.
        let below = (*RANGE.start()..n).rev().find(prime).unwrap_or(*RANGE.start());
        let above = (n..=*RANGE.end()).find(prime).unwrap_or(*RANGE.end());
        format!("must be a prime number, is {n}; the nearest are {below} and {above}")
    })
}

/// `250ms`, `30s`, `5m`, `2h5m`, inside `range`.
pub(super) fn duration(range: RangeInclusive<Duration>) -> impl Fn(&str) -> Leaf<Duration> {
    move |text| {
        let what = || format!("a duration {}..={}", show(*range.start()), show(*range.end()));
        if text != "0" && whole(text).is_some() {
            return must_be(&format!("{} with its unit, as in {text}s", what()), text);
        }
        match parse_duration(text) {
            Some(value) if range.contains(&value) => Ok(value),
            Some(_) => must_be(&what(), text),
            None => must_be(&format!("{}, as in 250ms, 30s, 5m or 2h5m", what()), text),
        }
    }
}

/// Units from large to small, each at most once.
pub(super) fn parse_duration(text: &str) -> Option<Duration> {
    let (mut rest, mut total, mut smallest) = (text, 0u64, u64::MAX);
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let number: u64 = rest.get(..digits)?.parse().ok()?;
        rest = &rest[digits..];
        let letters = rest.bytes().take_while(u8::is_ascii_alphabetic).count();
        let millis = match &rest[..letters] {
            "h" => 3_600_000,
            "m" => 60_000,
            "s" => 1000,
            "ms" => 1,
            _ => return None,
        };
        if millis >= smallest {
            return None;
        }
        smallest = millis;
        total = total.checked_add(number.checked_mul(millis)?)?;
        rest = &rest[letters..];
    }
    (smallest < u64::MAX).then(|| Duration::from_millis(total))
}

/// As it would be written in a file.
pub(super) fn show(duration: Duration) -> String {
    let millis = duration.as_millis();
    let parts = [
        (millis / 3_600_000, "h"),
        (millis / 60_000 % 60, "m"),
        (millis / 1000 % 60, "s"),
        (millis % 1000, "ms"),
    ];
    let text: String = parts.iter().filter(|(n, _)| *n > 0).map(|(n, unit)| format!("{n}{unit}")).collect();
    if text.is_empty() { "0s".to_owned() } else { text }
}

/// One word of `words`; a word of `later` is known but belongs to later work.
pub(super) fn choice<T: Copy>(
    words: &'static [(&'static str, T)],
    later: &'static [&'static str],
) -> impl Fn(&str) -> Leaf<T> {
    move |text| {
        if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
            return Ok(*value);
        }
        let names = alternatives(words.iter().map(|(word, _)| *word));
        if later.contains(&text) {
            return Err(format!("`{text}` is not supported yet; use {names}"));
        }
        must_be(&names, text)
    }
}

/// `a`, `a or b`, `a, b or c`.
fn alternatives(words: impl DoubleEndedIterator<Item = &'static str>) -> String {
    let mut words = words.rev();
    let last = words.next().unwrap_or_default();
    let others: Vec<_> = words.rev().collect();
    if others.is_empty() { last.to_owned() } else { format!("{} or {last}", others.join(", ")) }
}

/// `true` or `false`.
pub(super) fn boolean(text: &str) -> Leaf<bool> {
    choice(&[("true", true), ("false", false)], &[])(text)
}

/// A name shown to people: 1 to 63 bytes, no blanks, no control characters.
pub(super) fn label(text: &str) -> Leaf<String> {
    let fine = (1..=63).contains(&text.len()) && !text.chars().any(|c| c.is_whitespace() || c.is_control());
    if fine { Ok(text.to_owned()) } else { must_be("1 to 63 bytes without blanks", text) }
}

/// A name the kernel takes for an interface.
pub(super) fn interface_name(text: &str) -> Leaf<String> {
    let fine = (1..=15).contains(&text.len())
        && text != "."
        && text != ".."
        && !text.chars().any(|c| c.is_whitespace() || c.is_control() || matches!(c, '/' | ':'));
    if fine { Ok(text.to_owned()) } else { must_be("an interface name of 1 to 15 bytes, as in eth0", text) }
}

/// A unicast MAC address, `00:00:5e:00:01:01`.
pub(super) fn mac(text: &str) -> Leaf<[u8; 6]> {
    let mut mac = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut mac {
        let part = parts.next().filter(|p| p.len() == 2 && p.bytes().all(|b| b.is_ascii_hexdigit()));
        match part.and_then(|p| u8::from_str_radix(p, 16).ok()) {
            Some(value) => *byte = value,
            None => return must_be("a MAC address, as in \"00:00:5e:00:01:01\"", text),
        }
    }
    if parts.next().is_some() {
        return must_be("a MAC address of six bytes", text);
    }
    if mac[0] & 1 == 1 || mac == [0; 6] {
        return must_be("the MAC address of one station", text);
    }
    Ok(mac)
}

/// Where something listens: `127.0.0.1:9410`, `"[::1]:9410"`, port 0 excluded.
pub(super) fn listener(text: &str) -> Leaf<SocketAddr> {
    match text.parse::<SocketAddr>() {
        Ok(address) if address.port() != 0 => Ok(address),
        _ => must_be("an address of this node and a port, as in 127.0.0.1:9410 or [::1]:9410", text),
    }
}

pub(super) fn absolute_path(text: &str) -> Leaf<PathBuf> {
    let fine = text.starts_with('/') && !text.ends_with('/') && !text.contains('\0');
    if fine { Ok(text.into()) } else { must_be("the absolute path of a file", text) }
}

/// An address that a VIP or a backend can have.
pub(super) fn host_address(text: &str) -> Leaf<IpAddr> {
    let Ok(address) = text.parse::<IpAddr>() else {
        let hint = if text.contains('/') { " without a prefix length" } else { "" };
        return must_be(&format!("an IPv4 or IPv6 address{hint}"), text);
    };
    match special(address) {
        Some(kind) => Err(format!("must be a routable unicast address, {address} is {kind}")),
        None => Ok(address),
    }
}

/// What an address is that nobody can have.
pub(super) fn special(address: IpAddr) -> Option<&'static str> {
    match address {
        IpAddr::V4(a) => special_v4(a),
        IpAddr::V6(a) => special_v6(a),
    }
}

fn special_v4(a: Ipv4Addr) -> Option<&'static str> {
    match a.octets()[0] {
        0 => Some("unspecified (0.0.0.0/8)"),
        127 => Some("loopback"),
        169 if a.is_link_local() => Some("link-local"),
        224..=239 => Some("multicast"),
        255 if a.is_broadcast() => Some("broadcast"),
        _ => None,
    }
}

fn special_v6(a: Ipv6Addr) -> Option<&'static str> {
    match a {
        _ if a.is_unspecified() => Some("unspecified"),
        _ if a.is_loopback() => Some("loopback"),
        _ if a.is_multicast() => Some("multicast"),
        _ if a.is_unicast_link_local() => Some("link-local"),
        _ if a.to_ipv4_mapped().is_some() => Some("an IPv4 address in disguise; write it as IPv4"),
        _ => None,
    }
}

/// A network address and prefix length without host bits.
pub(super) fn prefix(text: &str) -> Leaf<(IpAddr, u8)> {
    let Some((address, length)) = text.split_once('/') else {
        let whole = match text.parse::<IpAddr>() {
            Ok(IpAddr::V4(a)) => format!("; for one address write {a}/32"),
            Ok(IpAddr::V6(a)) => format!("; for one address write {a}/128"),
            Err(_) => String::new(),
        };
        return Err(format!("must be a prefix, as in 172.16.0.0/16, is {}{whole}", quoted(text)));
    };
    let Ok(address) = address.parse::<IpAddr>() else {
        return must_be("a prefix, as in 172.16.0.0/16 or fd00:7864:7000::/64", text);
    };
    let longest = if address.is_ipv4() { 32 } else { 128 };
    let Ok(length) = number(0..=longest)(length) else {
        return must_be(&format!("a prefix of length 0..={longest}"), text);
    };
    let network = masked(address, length);
    if network != address {
        return Err(format!(
            "must have no bits set after the prefix, is {address}/{length}; did you mean {network}/{length}?"
        ));
    }
    Ok((address, length))
}

fn masked(address: IpAddr, length: u8) -> IpAddr {
    let host_bits = |width: u32| width - u32::from(length);
    match address {
        IpAddr::V4(a) => {
            Ipv4Addr::from_bits(a.to_bits() & u32::MAX.checked_shl(host_bits(32)).unwrap_or(0)).into()
        }
        IpAddr::V6(a) => {
            Ipv6Addr::from_bits(a.to_bits() & u128::MAX.checked_shl(host_bits(128)).unwrap_or(0)).into()
        }
    }
}

/// `encap.source_v4`.
pub(super) fn source_v4(text: &str) -> Leaf<([u8; 4], u8)> {
    match prefix(text)? {
        (IpAddr::V6(_), _) => must_be("an IPv4 prefix", text),
        (IpAddr::V4(_), 0..8) => must_be("an IPv4 prefix of length 8..=32", text),
        (IpAddr::V4(a), length) => match special_v4(a) {
            Some(kind) => Err(format!("must hold unicast addresses, {a}/{length} is {kind}")),
            None => Ok((a.octets(), length)),
        },
    }
}

/// `encap.source_v6`.
pub(super) fn source_v6(text: &str) -> Leaf<([u8; 16], u8)> {
    match prefix(text)? {
        (IpAddr::V4(_), _) => must_be("an IPv6 prefix", text),
        (IpAddr::V6(a), length) if a.is_multicast() || a.is_loopback() || a.is_unicast_link_local() => {
            Err(format!("must hold routable unicast addresses, is {a}/{length}"))
        }
        (IpAddr::V6(a), length) => Ok((a.octets(), length)),
    }
}

/// `copy` or a code point.
pub(super) fn dscp(text: &str) -> Leaf<Dscp> {
    if text == "copy" {
        return Ok(Dscp::Copy);
    }
    number(0..=63)(text).map(Dscp::Set).or_else(|_| must_be("copy or 0..=63", text))
}

/// `auto` or a number of bytes that every IPv4 host takes, and more.
pub(super) fn mtu(text: &str) -> Leaf<Mtu> {
    if text == "auto" {
        return Ok(Mtu::Auto);
    }
    number(576..=u16::MAX)(text).map(Mtu::Fixed).or_else(|_| must_be("auto or 576..=65535", text))
}

/// `10%`, `0.5%` or a part of one, `0.1`.
pub(super) fn share(text: &str) -> Leaf<Share> {
    let (number, whole) = text.strip_suffix('%').map_or((text, 1.0), |number| (number.trim_end(), 100.0));
    let plain = number.starts_with(|c: char| c.is_ascii_digit())
        && number.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    let value = number.parse::<f64>().ok().filter(|v| plain && (0.0..=whole).contains(v));
    value.map_or_else(
        || must_be("0%..=100% or a part of one, as in 10% or 0.1", text),
        |v| Ok(Share::from_fraction(v / whole)),
    )
}

/// One port or `first-last`. A range of one port is that port.
pub(super) fn port_range(text: &str) -> Leaf<RangeInclusive<u16>> {
    const WHAT: &str = "a port 1..=65535, a range as in \"20000-24999\", or all";
    let port = |text: &str| number(1..=u16::MAX)(text.trim());
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (Ok(first), Ok(last)) = (port(first), port(last)) else {
        return must_be(WHAT, text);
    };
    if first > last {
        return Err(format!("must run upwards, is {}; write \"{last}-{first}\"", quoted(text)));
    }
    Ok(first..=last)
}
