//! A Service, folded for the controller: what it wants, what its status says, and what is wrong with it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use super::Settings;
use super::judge::Judge;
use crate::kube::ipam::{Family, Wish};
use crate::kube::names::{Key, OURS};
use crate::kube::note::Note;
use crate::kube::policy;
use crate::model::Protocol;

/// Conditions of ours on a Service.
pub const ADDRESSES: &str = "xdp-lb.io/Addresses";
/// Whether an edge node can do what the Service says.
pub const POLICY: &str = "xdp-lb.io/Policy";

/// Whether edge nodes announce its addresses.
pub const ANNOUNCED: &str = "xdp-lb.io/Announced";
/// Whether edge nodes have anything to say against it.
pub const BALANCED: &str = "xdp-lb.io/Balanced";
/// All of them.
const CONDITIONS: [&str; 4] = [ADDRESSES, POLICY, ANNOUNCED, BALANCED];

/// What we keep of a Service.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Asking {
    pub uid: String,
    /// The version that a write is for.
    pub version: String,
    pub generation: Option<i64>,
    /// `None`: not ours any more, and its status still says what we wrote.
    pub wish: Option<Wish>,
    /// What in the wish cannot be read.
    pub mistakes: Vec<String>,
    /// What an edge node will say of its policy.
    pub notes: Vec<Note>,
    /// `status.loadBalancer.ingress`, as far as it is addresses.
    pub has: Vec<IpAddr>,
    /// It has nothing else, and says that these are VIPs.
    pub is_plain: bool,
    /// Conditions of ours, by type.
    pub conditions: BTreeMap<String, Condition>,
}

impl Asking {
    /// `None`: nothing of ours.
    pub fn of(service: &core::Service, settings: &Settings, judge: &Judge) -> Option<Self> {
        let meta = &service.metadata;
        let spec = service.spec.as_ref()?;
        let status = service.status.as_ref();
        let conditions: BTreeMap<String, Condition> = status
            .into_iter()
            .flat_map(|status| status.conditions.iter().flatten())
            .filter(|condition| CONDITIONS.contains(&condition.type_.as_str()))
            .map(|condition| (condition.type_.clone(), condition.clone()))
            .collect();
        let class = spec.load_balancer_class.as_deref();
        let is_class = class.map_or(settings.cluster.classless, |class| class == settings.cluster.class);
        let is_ours = is_class && spec.type_.as_deref() == Some("LoadBalancer");
        if meta.deletion_timestamp.is_some() || !is_ours && conditions.is_empty() {
            return None;
        }
        let balancer = status.and_then(|status| status.load_balancer.as_ref());
        let ingress: Vec<_> = balancer.into_iter().flat_map(|b| b.ingress.iter().flatten()).collect();
        let has: Vec<IpAddr> =
            ingress.iter().filter_map(|ingress| ingress.ip.as_ref()?.parse().ok()).collect();
        let is_plain = has.len() == ingress.len()
            && ingress
                .iter()
                .all(|i| i.ip_mode.as_deref() == Some("VIP") && i.hostname.is_none() && i.ports.is_none());
        let mut mistakes = Vec::new();
        Some(Self {
            uid: meta.uid.clone().unwrap_or_default(),
            version: meta.resource_version.clone().unwrap_or_default(),
            generation: meta.generation,
            wish: is_ours.then(|| wish(service, spec, has.clone(), &mut mistakes)),
            mistakes,
            notes: if is_ours { judge.notes(service, &settings.cluster) } else { Vec::new() },
            has,
            is_plain,
            conditions,
        })
    }
}

fn wish(
    service: &core::Service,
    spec: &core::ServiceSpec,
    has: Vec<IpAddr>,
    mistakes: &mut Vec<String>,
) -> Wish {
    let meta = &service.metadata;
    let annotation = |name: &str| {
        let text = meta.annotations.as_ref()?.get(&format!("{OURS}{name}"))?.trim();
        (!text.is_empty()).then_some(text)
    };
    // Deprecated, and what people know.
    let old = spec.load_balancer_ip.as_deref().filter(|text| !text.is_empty());
    let (origin, asked) = match (annotation("addresses"), old) {
        (Some(text), _) => (format!("{OURS}addresses"), text),
        (None, Some(text)) => ("spec.loadBalancerIP".to_owned(), text),
        (None, None) => (String::new(), ""),
    };
    let mut addresses = Vec::new();
    for text in asked.split(',').map(str::trim).filter(|text| !text.is_empty()) {
        match text.parse() {
            Ok(address) => addresses.push(address),
            Err(_) => mistakes.push(format!("{origin}: must be addresses with commas between, has {text:?}")),
        }
    }
    let sharing = annotation("sharing-key").map(str::to_owned);
    let families = families(spec);
    let is_optional = spec.ip_family_policy.as_deref() == Some("PreferDualStack");
    Wish {
        key: Key::of(meta),
        created: meta.creation_timestamp.as_ref().map_or(0, |time| time.0.as_second()),
        labels: meta.labels.clone().unwrap_or_default(),
        namespace_labels: BTreeMap::new(),
        optional: if is_optional { families.iter().skip(1).copied().collect() } else { BTreeSet::new() },
        families: families.into_iter().collect(),
        addresses,
        pool: annotation("pool").map(str::to_owned),
        // Who has an address alone need not tell its ports.
        ports: if sharing.is_some() { ports(service, spec) } else { BTreeSet::new() },
        sharing,
        has,
    }
}

/// The Service's families, its first one first. The API server names them; where it does not, it has IPv4 alone.
fn families(spec: &core::ServiceSpec) -> Vec<Family> {
    let named = |name: &String| match name.as_str() {
        "IPv4" => Some(Family::V4),
        "IPv6" => Some(Family::V6),
        _ => None,
    };
    let families: Vec<Family> = spec.ip_families.iter().flatten().filter_map(named).collect();
    if families.is_empty() { vec![Family::V4] } else { families }
}

/// Every port that it takes of its address, ranges of the annotation `ports` too.
fn ports(service: &core::Service, spec: &core::ServiceSpec) -> BTreeSet<(Protocol, u16)> {
    let policy = policy::policy(service).unwrap_or_default();
    let mut all = BTreeSet::new();
    for port in spec.ports.iter().flatten() {
        let protocol = match port.protocol.as_deref() {
            None | Some("TCP") => Protocol::Tcp,
            Some("UDP") => Protocol::Udp,
            Some(_) => continue,
        };
        let own = policy.ports.get(port.name.as_deref().unwrap_or_default());
        match own {
            Some(ranges) => {
                let ranges = ranges.iter().filter_map(|text| crate::config::values::ports(text).ok());
                all.extend(ranges.flatten().map(|port| (protocol, port)));
            }
            None => all.extend(u16::try_from(port.port).ok().map(|port| (protocol, port))),
        }
    }
    all
}
