//! Values as words: the same in the configuration, in `status` and in `explain`.

use serde::Serializer;
use xdp_lb_common::service::{
    CLIENT_IP, DEST_PORT, ICE_UFRAG, LOOKS_INSIDE, QUIC_CID, ServiceConfig, TRACK_EXACT, TRACK_SAMPLED,
};

use super::MemberState;
use crate::{
    model::{Affinity, Protocol, Tracking},
    nexthop::Mac,
};

/// Values that have a word of their own in the configuration or in `status`.
pub trait Word {
    /// The word.
    fn word(&self) -> &'static str;
}

impl Word for MemberState {
    fn word(&self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Draining => "draining",
            Self::Drained => "drained",
            Self::Down => "down",
        }
    }
}

impl Word for Protocol {
    fn word(&self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

impl Word for Affinity {
    fn word(&self) -> &'static str {
        match self {
            Self::FiveTuple => "five-tuple",
            Self::ClientIp => "client-ip",
            Self::DestPort => "dest-port",
            Self::QuicCid => "quic-cid",
            Self::IceUfrag => "ice-ufrag",
        }
    }
}

impl Word for Tracking {
    fn word(&self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::Sampled => "sampled",
            Self::Off => "off",
        }
    }
}

/// Affinity of a service in the maps.
#[must_use]
pub fn affinity(config: &ServiceConfig) -> Affinity {
    match config.flags & (CLIENT_IP | LOOKS_INSIDE) {
        0 => Affinity::FiveTuple,
        DEST_PORT => Affinity::DestPort,
        QUIC_CID => Affinity::QuicCid,
        ICE_UFRAG => Affinity::IceUfrag,
        _ => Affinity::ClientIp,
    }
}

/// Its tracking, a window left aside.
#[must_use]
pub fn tracking(config: &ServiceConfig) -> Tracking {
    match config.flags & (TRACK_EXACT | TRACK_SAMPLED) {
        0 => Tracking::Off,
        TRACK_SAMPLED => Tracking::Sampled,
        _ => Tracking::Exact,
    }
}

/// `00:00:5e:00:01:01`.
#[must_use]
pub fn mac_text(mac: &Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

pub(crate) fn mac<S: Serializer>(mac: &Mac, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&mac_text(mac))
}

pub(crate) fn word<S: Serializer>(value: &impl Word, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(value.word())
}
