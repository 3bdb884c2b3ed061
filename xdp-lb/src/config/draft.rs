//! A file that has been read but not judged: the model's parts with their places, `None` where a mistake stands.
//!
//! Made by [`super::sections`], judged by [`super::check`], turned into the desired state by [`super::finish`].

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::backends::BackendsDraft;
use super::bgp::{AdvertiseDraft, BgpDraft, PolicyDraft};
use super::finding::{Placed, Spot};
use crate::health::{Check, OnAllDown};
use crate::model::{
    Admin, Affinity, CidFormat, DrainPolicy, Dscp, FlowTable, Fragments, GueVariant, Interface, Kubernetes,
    Limits, Log, Metrics, Mss, Mtu, Node, Peers, Protocol, ServerIdBytes, TableSize, Tracking, Vip,
    ZonePolicy,
};

/// The whole file.
#[derive(Debug)]
pub(super) struct Draft {
    pub spot: Spot,
    pub node: Node,
    /// `None`: the key is absent.
    pub interfaces: Option<PlacedList<Interface>>,
    pub seed: Option<Placed<u64>>,
    pub flow_table: Option<FlowTable>,
    pub limits: Option<LimitsDraft>,
    /// The file's tunnels; a service's own are in its draft.
    pub encap: EncapDraft,
    pub table_size: Option<Placed<TableSize>>,
    pub log: Log,
    pub admin: Admin,
    /// The `vips` section, also those no service uses.
    pub policies: Vec<Placed<Vip>>,
    /// `None`: the key is absent.
    pub services: Option<Listed<ServiceDraft>>,
    pub decap: Option<DecapDraft>,
    pub bgp: Option<BgpDraft>,
    /// What the `vips` section says about announcements.
    pub announcements: BTreeMap<IpAddr, PolicyDraft>,
    pub peers: Option<Peers>,
    pub kubernetes: Option<Kubernetes>,
}

/// A list with the place of the list.
#[derive(Debug)]
pub(super) struct Listed<T> {
    pub spot: Spot,
    pub items: Vec<T>,
}

/// A list whose items know their places, too.
pub(super) type PlacedList<T> = Listed<Placed<T>>;

/// The sizes, and where each is or would be written.
#[derive(Debug)]
pub(super) struct LimitsDraft {
    pub value: Limits,
    /// By key of the section.
    pub spots: HashMap<&'static str, Spot>,
    /// Read together with them.
    pub metrics: Metrics,
}

/// One service.
#[derive(Debug)]
pub(super) struct ServiceDraft {
    pub name: Option<Placed<String>>,
    /// Valid and unique ones.
    pub vips: Vec<Placed<IpAddr>>,
    pub protocol: Option<Protocol>,
    pub ports: Option<PortsDraft>,
    pub affinity: Option<Placed<Affinity>>,
    pub cid: Option<CidFormat>,
    pub source_ranges: SourcesDraft,
    pub fragments: Fragments,
    pub tracking: Option<Tracking>,
    pub flow_timeout: Option<Placed<Duration>>,
    pub new_flow_limit: u32,
    pub slow_start: Duration,
    pub table_size: Option<Placed<TableSize>>,
    pub drain: DrainPolicy,
    pub encap: EncapDraft,
    /// The outer `None`: a mistake; the inner: no check.
    pub health: Option<Option<Check>>,
    pub on_all_down: OnAllDown,
    pub zone_policy: Option<Placed<ZonePolicy>>,
    /// `None` if the list itself is missing or no list.
    pub backends: Option<BackendsDraft>,
    /// What backends claim of the packets, by address; perhaps none where the affinity lets them claim nothing.
    pub claims: Vec<Claim>,
    pub advertise: AdvertiseDraft,
}

/// What a backend claims for itself.
#[derive(Debug)]
pub(super) struct Claim {
    pub address: Placed<IpAddr>,
    /// Valid, disjoint, sorted; `None` if absent or wrong.
    pub slice: Option<Vec<Placed<RangeInclusive<u16>>>>,
    /// `None` if absent or wrong.
    pub server_id: Option<Placed<ServerIdBytes>>,
    /// Neither key that the affinity wants is written.
    pub is_missing: bool,
}

/// Prefixes with their places.
#[derive(Debug, Default)]
pub(super) struct SourcesDraft {
    pub allow: Vec<Placed<(IpAddr, u8)>>,
    pub deny: Vec<Placed<(IpAddr, u8)>>,
}

/// Ports with the places that claim them.
#[derive(Debug)]
pub(super) enum PortsDraft {
    All(Spot),
    /// Valid, disjoint, sorted.
    Ranges(Vec<Placed<RangeInclusive<u16>>>),
}

/// An encap section, or the merger of a service's with the file's.
#[derive(Clone, Debug, Default)]
pub(super) struct EncapDraft {
    pub kind: Written<Kind>,
    pub gue_port: Written<u16>,
    pub gue_variant: Written<GueVariant>,
    pub source_v4: Written<([u8; 4], u8)>,
    pub source_v6: Written<([u8; 16], u8)>,
    pub dscp: Written<Dscp>,
    pub mtu: Written<Mtu>,
}

impl EncapDraft {
    /// This, with what it does not say from `other`.
    pub fn or(self, other: &Self) -> Self {
        Self {
            kind: self.kind.or(other.kind),
            gue_port: self.gue_port.or(other.gue_port),
            gue_variant: self.gue_variant.or(other.gue_variant),
            source_v4: self.source_v4.or(other.source_v4),
            source_v6: self.source_v6.or(other.source_v6),
            dscp: self.dscp.or(other.dscp),
            mtu: self.mtu.or(other.mtu),
        }
    }
}

/// Port of GUE where the file does not say (IANA).
pub(super) const GUE_PORT: u16 = 6080;

/// `encap.kind`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Kind {
    #[default]
    Ipip,
    Gue,
}

/// A key that may be absent, wrong or there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Written<T> {
    #[default]
    Absent,
    Wrong,
    Value(T),
}

impl<T> Written<T> {
    /// This, or `other` when absent.
    pub fn or(self, other: Self) -> Self {
        if matches!(self, Self::Absent) { other } else { self }
    }

    /// The value, if there.
    pub fn value(self) -> Option<T> {
        if let Self::Value(value) = self { Some(value) } else { None }
    }
}

/// The decap section.
#[derive(Debug)]
pub(super) struct DecapDraft {
    pub spot: Spot,
    /// `None`: the key is absent.
    pub interfaces: Option<PlacedList<Interface>>,
    pub ipip: bool,
    /// The port, where it is accepted.
    pub gue: Option<u16>,
    pub allow_sources: Vec<Placed<(IpAddr, u8)>>,
    pub vips: Vec<Placed<IpAddr>>,
    pub vip_on_lo: bool,
    pub mss: Mss,
    pub translate: Vec<TranslateDraft>,
}

/// A port of a VIP at pods of this node.
#[derive(Debug)]
pub(super) struct TranslateDraft {
    pub vip: Placed<IpAddr>,
    pub protocol: Protocol,
    pub port: u16,
    pub target: u16,
    pub pods: Vec<Placed<IpAddr>>,
}
