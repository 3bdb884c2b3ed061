//! `VipPool`: addresses that Services may have.

#![expect(clippy::duplicated_attributes, reason = "columns of one type")]

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use super::{LabelSelector, conditions};
use crate::config::values;
use crate::kube::ipam::{Pool, Range};

/// What of an entry of `addresses` a schema can check.
const ADDRESSES: &str = "self.all(a, a.contains('/') ? isCIDR(a) && cidr(a) == cidr(a).masked() \
     : a.split('-').size() <= 2 && a.split('-').all(part, isIP(part)))";

/// Addresses that Services of type LoadBalancer may have, and which of them.
#[derive(CustomResource, KubeSchema, Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[kube(
    group = "xdp-lb.io",
    version = "v1alpha1",
    kind = "VipPool",
    status = "VipPoolStatus",
    derive = "PartialEq",
    shortname = "vips",
    category = "xdp-lb",
    doc = "Addresses that Services of type LoadBalancer may have, and which Services.",
    printcolumn(name = "Addresses", type_ = "string", json_path = ".spec.addresses"),
    printcolumn(name = "Assigned", type_ = "integer", json_path = ".status.assigned"),
    printcolumn(name = "Free", type_ = "integer", json_path = ".status.free"),
    printcolumn(name = "Priority", type_ = "integer", json_path = ".spec.priority"),
    printcolumn(name = "Auto", type_ = "boolean", json_path = ".spec.autoAssign"),
    printcolumn(
        name = "Ready",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].status"
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct VipPoolSpec {
    /// Addresses, in the order in which they are given: prefixes (203.0.113.0/28), ranges (203.0.113.32-203.0.113.40) and
    /// single ones, IPv4 and IPv6. All addresses of a prefix are used, the first and the last too.
    #[schemars(length(min = 1, max = 64), inner(length(max = 87)))]
    #[x_kube(validation = Rule::new(ADDRESSES).message(
        "must be addresses as in 203.0.113.0/24, 203.0.113.10-203.0.113.20 or 203.0.113.10, without bits set after a prefix"
    ))]
    pub addresses: Vec<String>,
    /// Pools of higher priority are asked first; those of equal priority by name.
    #[serde(default)]
    pub priority: i32,
    /// Gives addresses to Services that name neither this pool nor an address of it.
    #[serde(default = "yes")]
    pub auto_assign: bool,
    /// Several Services of a namespace may have one address, if they say the same xdp-lb.io/sharing-key and their ports
    /// differ.
    #[serde(default = "yes")]
    pub sharing: bool,
    /// Namespaces whose Services may have addresses. Default: all.
    #[serde(default)]
    pub namespace_selector: LabelSelector,
    /// Services that may have addresses. Default: all.
    #[serde(default)]
    pub service_selector: LabelSelector,
    /// At most so many addresses for each namespace. Default: no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0))]
    pub quota_per_namespace: Option<u32>,
    /// An address that was released is not given to another Service for so long: clients and resolvers may still know it.
    #[serde(default = "release_delay")]
    #[schemars(regex(pattern = r"^([0-9]+h)?([0-9]+m)?([0-9]+s)?$"), length(min = 2, max = 16))]
    pub release_delay: String,
}

fn yes() -> bool {
    true
}

fn release_delay() -> String {
    "60s".to_owned()
}

/// What became of a pool.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct VipPoolStatus {
    /// Addresses that Services have.
    pub assigned: i64,
    /// Addresses that can be given now.
    pub free: i64,
    /// Addresses that were released lately.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub resting: Vec<Resting>,
    /// Ready: the pool's addresses are given to Services.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "conditions")]
    pub conditions: Vec<Condition>,
}

/// An address that was released lately, and is kept for who had it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Resting {
    /// The address.
    pub address: String,
    /// Namespace and name of the Service that had it.
    pub service: String,
    /// When it was released, seconds since 1970.
    pub since: i64,
}

impl VipPool {
    /// The pool, and what in it cannot be read.
    #[must_use]
    pub fn read(&self) -> (Pool, Vec<String>) {
        let spec = &self.spec;
        let mut mistakes = Vec::new();
        let mut ranges: Vec<Range> = Vec::new();
        for (n, text) in spec.addresses.iter().enumerate() {
            match text.parse::<Range>() {
                Ok(range) if ranges.iter().any(|other| other.overlaps(&range)) => {
                    mistakes.push(format!(
                        "spec.addresses[{n}]: {text} has addresses that stand before it already"
                    ));
                }
                Ok(range) => ranges.push(range),
                Err(error) => mistakes.push(format!("spec.addresses[{n}]: {error}")),
            }
        }
        let release_delay = values::release_delay(&spec.release_delay).unwrap_or_else(|why| {
            mistakes.push(format!("spec.releaseDelay: {why}"));
            values::RELEASE_DELAY
        });
        let pool = Pool {
            name: self.metadata.name.clone().unwrap_or_default(),
            ranges,
            priority: spec.priority,
            auto_assign: spec.auto_assign,
            namespaces: (&spec.namespace_selector).into(),
            services: (&spec.service_selector).into(),
            quota: spec.quota_per_namespace.map(|quota| quota as usize),
            sharing: spec.sharing,
            release_delay,
        };
        (pool, mistakes)
    }
}
