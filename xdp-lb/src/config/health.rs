//! Reads `services[].health_check`. Called by [`super::service`].
//!
//! Every key is read whatever the kind, so that a mistake in one is reported even where it does not belong.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::draft::PortsDraft;
use super::finding::quoted;
use super::keys;
use super::leaf;
use super::reader::{Item, Leaf, Mapping, must_be};
use crate::health::{Check, HttpCheck, Kind, OnAllDown, Statuses, UdpCheck, Via};
use crate::model::Protocol;

const INTERVALS: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(3600);
const TIMEOUTS: RangeInclusive<Duration> = Duration::from_millis(10)..=Duration::from_secs(60);
const INTERVAL: Duration = Duration::from_secs(2);
const TIMEOUT: Duration = Duration::from_secs(1);
/// More would not fit a tunnel's packet everywhere.
const LONGEST_PAYLOAD: usize = 1200;

/// The words for what is asked.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Word {
    None,
    Tcp,
    Http,
    Https,
    Udp,
    Stun,
    SipOptions,
}

/// Reads `on_all_down`, which means something where backends are `checked`.
pub(super) fn on_all_down(keys: &Mapping<'_>, checked: bool) -> OnAllDown {
    const FATES: &[(&str, OnAllDown)] = &[("keep", OnAllDown::Keep), ("drop", OnAllDown::Drop)];
    if let Some(item) = keys.get("on_all_down").filter(|_| !checked) {
        item.findings.warn(&item.spot, "has no effect without a `health_check`");
    }
    keys.leaf("on_all_down", OnAllDown::Keep, leaf::choice(FATES, &[])).unwrap_or_default()
}

/// Reads the check of a service. The outer `None` is a mistake, the inner one no check.
pub(super) fn read(
    service: &Mapping<'_>,
    protocol: Option<Protocol>,
    ports: Option<&PortsDraft>,
) -> Option<Option<Check>> {
    const KINDS: &[(&str, Word)] = &[
        ("none", Word::None),
        ("tcp", Word::Tcp),
        ("http", Word::Http),
        ("https", Word::Https),
        ("udp", Word::Udp),
        ("stun", Word::Stun),
        ("sip-options", Word::SipOptions),
    ];
    const WAYS: &[(&str, Via)] = &[("tunnel", Via::Tunnel), ("direct", Via::Direct)];

    let Some(item) = service.get("health_check") else { return Some(None) };
    let keys = item.mapping(&keys::HEALTH_CHECK)?;
    let word = keys.required("kind", "tcp").and_then(|item| item.leaf(leaf::choice(KINDS, &[])));
    let interval = keys.leaf("interval", INTERVAL, leaf::duration(INTERVALS));
    let timeout = timeout(&keys, interval);
    let rise = keys.leaf("rise", 2, leaf::number(1..=100));
    let fall = keys.leaf("fall", 3, leaf::number(1..=100));
    let via = keys.leaf("via", Via::Tunnel, leaf::choice(WAYS, &[]));
    let own_port = keys.get("port").map(|item| item.leaf(leaf::number(1..=u16::MAX)));
    let path = keys.leaf("path", "/".to_owned(), path);
    let host = keys.get("host").map(|item| item.leaf(leaf::label));
    let payload = keys.get("payload").map(|item| (item.leaf(bytes), item));
    let expect = keys.get("expect");
    let expect = Expect { item: expect.as_ref(), text: expect.as_ref().map(|item| item.leaf(text)) };

    let word = word?;
    belongs(&keys, word);
    if word == Word::None {
        return Some(None);
    }
    let host = lift(host);
    let kind = match word {
        Word::None => return Some(None),
        Word::Tcp => Some(Kind::Tcp),
        Word::Stun => Some(Kind::Stun),
        Word::Http | Word::Https => {
            let expect = expect.statuses(Statuses(200..=399));
            let of = if word == Word::Http { Kind::Http } else { Kind::Https };
            path.zip(host).zip(expect).map(|((path, host), expect)| of(HttpCheck { path, host, expect }))
        }
        Word::SipOptions => {
            let expect = expect.statuses(Statuses(200..=299));
            host.zip(expect).map(|(host, expect)| Kind::SipOptions { host, expect })
        }
        Word::Udp => {
            if payload.is_none() {
                let message = "missing; a datagram without a question gets no answer: add `payload: ping`";
                keys.findings.error(&keys.under("payload"), message);
            }
            let payload = payload.and_then(|(payload, _)| payload);
            payload.zip(expect.bytes()).map(|(payload, expect)| Kind::Udp(UdpCheck { payload, expect }))
        }
    };
    let port = match own_port {
        Some(port) => port,
        None => first_port(&keys, word, protocol, ports),
    };
    let (interval, timeout) = (interval?, timeout?);
    Some(Some(Check { kind: kind?, port: port?, interval, timeout, rise: rise?, fall: fall?, via: via? }))
}

/// At most the interval, so that questions do not overlap; by default the shorter of one second and the interval.
fn timeout(keys: &Mapping<'_>, interval: Option<Duration>) -> Option<Duration> {
    let default = interval.map_or(TIMEOUT, |interval| TIMEOUT.min(interval));
    let timeout = keys.placed("timeout", default, leaf::duration(TIMEOUTS))?;
    if let Some(interval) = interval.filter(|interval| timeout.value > *interval) {
        let message = format!(
            "must not be longer than the interval of {}, is {}; the next question would come before the answer",
            leaf::show(interval),
            leaf::show(timeout.value)
        );
        keys.findings.error(&timeout.spot, message);
        return None;
    }
    Some(timeout.value)
}

/// The service's first port, where that is one for this kind of question.
fn first_port(
    keys: &Mapping<'_>,
    word: Word,
    protocol: Option<Protocol>,
    ports: Option<&PortsDraft>,
) -> Option<u16> {
    let (protocol, ports) = (protocol?, ports?);
    let asks = match word {
        Word::Tcp | Word::Http | Word::Https => Some(Protocol::Tcp),
        Word::Udp => Some(Protocol::Udp),
        Word::None | Word::Stun | Word::SipOptions => None,
    };
    let missing = |why: &str| {
        keys.findings.error(&keys.under("port"), format!("missing; {why}: add `port: 8080`"));
        None
    };
    if asks.is_some_and(|asks| asks != protocol) {
        return missing("the service's ports are of another protocol than the question");
    }
    match ports {
        PortsDraft::All(_) => missing("a service of all ports does not say which to ask"),
        PortsDraft::Ranges(ranges) => ranges.first().map(|range| *range.value.start()),
    }
}

/// Reports keys that another kind has.
fn belongs(keys: &Mapping<'_>, word: Word) {
    use Word::{Http, Https, SipOptions, Udp};
    let of: [(&str, &[Word], &str); 4] = [
        ("path", &[Http, Https], "http and https"),
        ("host", &[Http, Https, SipOptions], "http, https and sip-options"),
        ("payload", &[Udp], "udp"),
        ("expect", &[Http, Https, SipOptions, Udp], "http, https, sip-options and udp"),
    ];
    for (key, words, names) in of {
        if let Some(item) = keys.get(key).filter(|_| !words.contains(&word)) {
            item.fail(format!("is for {names}; remove it"));
        }
    }
}

/// A key whose meaning depends on the kind.
struct Expect<'a> {
    item: Option<&'a Item<'a>>,
    /// The outer `None`: absent; the inner: a mistake.
    text: Option<Option<String>>,
}

impl Expect<'_> {
    fn statuses(&self, default: Statuses) -> Option<Statuses> {
        match &self.text {
            None => Some(default),
            Some(text) => text.as_ref().and(self.item)?.leaf(statuses),
        }
    }

    fn bytes(&self) -> Option<Option<Vec<u8>>> {
        match &self.text {
            None => Some(None),
            Some(text) => text.as_ref().and(self.item)?.leaf(bytes).map(Some),
        }
    }
}

/// Absent is fine, wrong is not.
fn lift<T>(written: Option<Option<T>>) -> Option<Option<T>> {
    match written {
        None => Some(None),
        Some(value) => value.map(Some),
    }
}

fn text(text: &str) -> Leaf<String> {
    if text.is_empty() { must_be("something", text) } else { Ok(text.to_owned()) }
}

fn path(text: &str) -> Leaf<String> {
    let fine = text.starts_with('/') && text.bytes().all(|b| b.is_ascii_graphic()) && text.len() <= 1024;
    if fine { Ok(text.to_owned()) } else { must_be("a path, as in /healthz", text) }
}

/// A status code or a range of them.
fn statuses(text: &str) -> Leaf<Statuses> {
    let status = |text: &str| leaf::number(100..=699u16)(text.trim());
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    match (status(first), status(last)) {
        (Ok(first), Ok(last)) if first <= last => Ok(Statuses(first..=last)),
        _ => must_be("a status code or a range, as in 200 or \"200-399\"", text),
    }
}

/// Text as it stands, or bytes as `0x...`.
fn bytes(text: &str) -> Leaf<Vec<u8>> {
    let bytes = match text.strip_prefix("0x") {
        Some(hex) => hex_bytes(hex)
            .ok_or_else(|| format!("must be pairs of hexadecimal digits after 0x, is {}", quoted(text)))?,
        None => text.as_bytes().to_vec(),
    };
    if (1..=LONGEST_PAYLOAD).contains(&bytes.len()) {
        return Ok(bytes);
    }
    Err(format!("must be 1..={LONGEST_PAYLOAD} bytes, is {}", bytes.len()))
}

fn hex_bytes(hex: &str) -> Option<Vec<u8>> {
    let digits = hex.as_bytes();
    let pair = |pair: &[u8]| {
        let pair = std::str::from_utf8(pair).ok().filter(|p| p.bytes().all(|b| b.is_ascii_hexdigit()))?;
        u8::from_str_radix(pair, 16).ok()
    };
    if digits.len().is_multiple_of(2) { digits.chunks(2).map(pair).collect() } else { None }
}
