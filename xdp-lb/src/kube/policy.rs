//! What a Service says beyond addresses and ports, in the words of a file's service.
//!
//! Spec fields and annotations become words that `config::import` reads and judges; what is about single nodes or
//! ports is read here. Whoever asks for a policy gets every mistake in it.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use k8s_openapi::api::core::v1 as core;

use super::Settings;
use super::names::OURS;
use crate::config::import::{Complaint, Said, Word};
use crate::config::values;
use crate::model::{Delivery, Share};

/// The policy of a Service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Policy {
    pub words: Vec<Word>,
    pub delivery: Option<Delivery>,
    /// Ports instead of a Service's port, by its name.
    pub ports: BTreeMap<String, Vec<String>>,
    /// Gates by node.
    pub shares: BTreeMap<String, Share>,
    /// Slices of `affinity: dest-port` by node.
    pub slices: BTreeMap<String, Vec<RangeInclusive<u16>>>,
    /// Server ids of `affinity: quic-cid` and `ice-ufrag` by node, as written: which it is says how they are read.
    pub server_ids: BTreeMap<String, String>,
}

/// Annotations that are a key of a file's service, whose values are written as there.
pub(super) const KEYS: &[(&str, &[&str])] = &[
    ("affinity", &["affinity"]),
    ("fragments", &["fragments"]),
    ("tracking", &["tracking"]),
    ("flow-timeout", &["flow_timeout"]),
    ("new-flow-limit", &["new_flow_limit"]),
    ("table-size", &["table_size"]),
    ("slow-start", &["slow_start"]),
    ("drain-mode", &["drain", "mode"]),
    ("drain-time", &["drain", "max"]),
    ("health-check", &["health_check"]),
    ("on-all-down", &["on_all_down"]),
    ("advertise", &["advertise", "when"]),
    ("dscp", &["encap", "dscp"]),
    ("mtu", &["encap", "mtu"]),
    ("zone-policy", &["zone_policy"]),
];

/// Annotations with a meaning of their own.
pub(super) const OTHERS: &[&str] =
    &["delivery", "deny-source-ranges", "ports", "server-ids", "shares", "slices"];

/// Annotations that the controller reads.
pub(super) const CONTROLLERS: &[&str] = &["addresses", "pool", "sharing-key"];

/// Reads the policy.
///
/// # Errors
/// Every annotation that cannot be read. What can be read may still be wrong: `config::import` judges it.
pub(super) fn policy(service: &core::Service) -> Result<Policy, Vec<Complaint>> {
    let mut policy = Policy::default();
    let mut errors = Vec::new();
    for (name, text) in service.metadata.annotations.iter().flatten() {
        let Some(name) = name.strip_prefix(OURS).filter(|name| !CONTROLLERS.contains(name)) else { continue };
        if let Err(message) = policy.read(name, text.trim()) {
            errors.push(Complaint { origin: format!("{OURS}{name}"), message });
        }
    }
    if let Some(spec) = &service.spec {
        policy.read_spec(spec);
    }
    if errors.is_empty() { Ok(policy) } else { Err(errors) }
}

impl Policy {
    /// Where tunnels end.
    pub fn delivery(&self, settings: &Settings) -> Delivery {
        self.delivery.unwrap_or(settings.delivery)
    }

    fn read(&mut self, name: &str, text: &str) -> Result<(), String> {
        if let Some((_, key)) = KEYS.iter().find(|(key, _)| *key == name) {
            let value = Said::Yaml(text.to_owned());
            self.words.push(Word { key, origin: format!("{OURS}{name}"), value });
            return Ok(());
        }
        match name {
            "delivery" => self.delivery = Some(delivery(text)?),
            "deny-source-ranges" => {
                let list = text.split(',').map(|range| network(range.trim())).collect();
                let origin = format!("{OURS}{name}");
                self.words.push(Word { key: &["source_ranges", "deny"], origin, value: Said::List(list) });
            }
            "ports" => {
                self.ports =
                    by_name(text, |text| ranges(text).map(|ranges| ranges.iter().map(show).collect()))?
            }
            "server-ids" => self.server_ids = by_name(text, server_id)?,
            "shares" => self.shares = by_name(text, values::share)?,
            "slices" => self.slices = by_name(text, ranges)?,
            _ => {
                let known = KEYS.iter().map(|(key, _)| *key).chain(OTHERS.iter().chain(CONTROLLERS).copied());
                let known: Vec<&str> = known.collect();
                return Err(format!("is unknown; known are {}", known.join(", ")));
            }
        }
        Ok(())
    }

    fn read_spec(&mut self, spec: &core::ServiceSpec) {
        let by_client = spec.session_affinity.as_deref() == Some("ClientIP");
        // An annotation says more than the field can.
        if by_client && !self.words.iter().any(|word| word.key == ["affinity"]) {
            let (origin, value) = ("spec.sessionAffinity".to_owned(), Said::Text("client-ip".to_owned()));
            self.words.push(Word { key: &["affinity"], origin, value });
        }
        let allow: Vec<String> =
            spec.load_balancer_source_ranges.iter().flatten().map(|range| network(range.trim())).collect();
        if !allow.is_empty() {
            let origin = "spec.loadBalancerSourceRanges".to_owned();
            self.words.push(Word { key: &["source_ranges", "allow"], origin, value: Said::List(allow) });
        }
    }
}

fn delivery(text: &str) -> Result<Delivery, String> {
    match text {
        "node" => Ok(Delivery::Node),
        "host" => Ok(Delivery::Host),
        "pod" => Ok(Delivery::Pod),
        _ => Err(format!("must be node, pod or host, is {text:?}")),
    }
}

/// `a=1, b=2`; what has no name is for the one that needs none.
fn by_name<T>(text: &str, read: impl Fn(&str) -> Result<T, String>) -> Result<BTreeMap<String, T>, String> {
    let mut all = BTreeMap::new();
    for part in text.split(',') {
        let (name, value) = part.split_once('=').unwrap_or(("", part));
        let name = name.trim();
        let value =
            read(value.trim()).map_err(|why| if name.is_empty() { why } else { format!("{name}: {why}") })?;
        if all.insert(name.to_owned(), value).is_some() {
            return Err(format!("names {name:?} twice"));
        }
    }
    Ok(all)
}

fn server_id(text: &str) -> Result<String, String> {
    if text.is_empty() { Err("must be a server id, is empty".to_owned()) } else { Ok(text.to_owned()) }
}

/// Ports and ranges with blanks between.
fn ranges(text: &str) -> Result<Vec<RangeInclusive<u16>>, String> {
    if text.is_empty() {
        return Err("must be ports or ranges with blanks between, is empty".to_owned());
    }
    let mut ranges: Vec<_> = text.split_whitespace().map(values::ports).collect::<Result<_, _>>()?;
    ranges.sort_by_key(|range| *range.start());
    Ok(ranges)
}

fn show(range: &RangeInclusive<u16>) -> String {
    format!("{}-{}", range.start(), range.end())
}

/// Kubernetes takes prefixes with host bits, and means the network. What is no prefix stays, to be complained of.
fn network(text: &str) -> String {
    use std::net::IpAddr;
    let masked = || {
        let (address, length) = text.split_once('/')?;
        let length: u32 = length.parse().ok()?;
        Some(match address.parse().ok()? {
            IpAddr::V4(a) => {
                let host = 32_u32.checked_sub(length)?;
                let network = a.to_bits() & u32::MAX.checked_shl(host).unwrap_or(0);
                format!("{}/{length}", std::net::Ipv4Addr::from_bits(network))
            }
            IpAddr::V6(a) => {
                let host = 128_u32.checked_sub(length)?;
                let network = a.to_bits() & u128::MAX.checked_shl(host).unwrap_or(0);
                format!("{}/{length}", std::net::Ipv6Addr::from_bits(network))
            }
        })
    };
    masked().unwrap_or_else(|| text.to_owned())
}
