//! What one service's health check asks, how often, and how many answers decide.
//!
//! `config` builds it; the probers and the state machine read it.

use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

/// `services[].health_check`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// What is asked.
    pub kind: Kind,
    /// Port that is asked; by default the service's first.
    pub port: u16,
    /// From one question to the next.
    pub interval: Duration,
    /// How long an answer may take; at most `interval`, so that questions never overlap.
    pub timeout: Duration,
    /// Good answers in a row that make a backend up.
    pub rise: u32,
    /// Bad answers in a row that make it down.
    pub fall: u32,
    /// Which way the question takes.
    pub via: Via,
}

/// What is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A TCP connection is accepted.
    Tcp,
    /// `GET` over HTTP/1.1.
    Http(HttpCheck),
    /// The same over TLS; the certificate is not judged.
    Https(HttpCheck),
    /// A datagram is answered.
    Udp(UdpCheck),
    /// A STUN Binding request (RFC 8489) is answered.
    Stun,
    /// A SIP OPTIONS request (RFC 3261, 11) is answered.
    SipOptions {
        /// Host of the request URI; the address that is asked without one.
        host: Option<String>,
        /// Status codes that are good.
        expect: Statuses,
    },
}

impl Kind {
    /// Whether it is asked over TCP, of a service over TCP or UDP.
    #[must_use]
    pub fn is_over_tcp(&self, service: bool) -> bool {
        match self {
            Self::Tcp | Self::Http(_) | Self::Https(_) => true,
            Self::Udp(_) => false,
            Self::Stun | Self::SipOptions { .. } => service,
        }
    }

    /// The word in the configuration.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Http(_) => "http",
            Self::Https(_) => "https",
            Self::Udp(_) => "udp",
            Self::Stun => "stun",
            Self::SipOptions { .. } => "sip-options",
        }
    }
}

/// An HTTP request and what it expects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpCheck {
    /// Path, with a leading slash.
    pub path: String,
    /// `Host`, and the server's name in TLS; the address that is asked without one.
    pub host: Option<String>,
    /// Status codes that are good.
    pub expect: Statuses,
}

/// A datagram and what its answer must begin with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UdpCheck {
    /// What is sent, at most 1200 bytes.
    pub payload: Vec<u8>,
    /// Bytes that the answer holds somewhere; any answer is good without.
    pub expect: Option<Vec<u8>>,
}

/// Status codes, first and last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statuses(pub RangeInclusive<u16>);

impl Statuses {
    /// Whether `status` is one of them.
    #[must_use]
    pub fn has(&self, status: u16) -> bool {
        self.0.contains(&status)
    }
}

impl fmt::Display for Statuses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (first, last) = (self.0.start(), self.0.end());
        if first == last { write!(f, "{first}") } else { write!(f, "{first}-{last}") }
    }
}

/// Which way a question takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Via {
    /// Through the tunnel to the VIP, as clients' packets go: a missing VIP or decap is down.
    #[default]
    Tunnel,
    /// To the backend's own address.
    Direct,
}

/// What becomes of a service while nobody is up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnAllDown {
    /// Health is ignored: better a backend that may be dead than a drop.
    #[default]
    Keep,
    /// The service drops its packets.
    Drop,
}
