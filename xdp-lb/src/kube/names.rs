//! Names: of objects, of what we read from them, and of services made from them.

use std::fmt;
use std::hash::Hasher as _;
use std::net::IpAddr;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

/// `loadBalancerClass` of services that are ours.
pub const CLASS: &str = "xdp-lb.io/edge";
/// What all annotations of ours begin with.
pub(super) const OURS: &str = "xdp-lb.io/";
/// On an EndpointSlice: whose it is.
pub(super) const SERVICE_NAME: &str = "kubernetes.io/service-name";
/// On a Node: its zone.
pub(super) const ZONE: &str = "topology.kubernetes.io/zone";
/// On a Node: it takes nothing from load balancers.
pub(super) const EXCLUDE: &str = "node.kubernetes.io/exclude-from-external-load-balancers";

/// Longest name of a service.
const LONGEST: usize = 63;

/// Namespace and name of an object.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Namespace.
    pub namespace: Box<str>,
    /// Name.
    pub name: Box<str>,
}

impl Key {
    /// From words.
    #[must_use]
    pub fn new(namespace: &str, name: &str) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }

    /// An object's own.
    #[must_use]
    pub fn of(meta: &ObjectMeta) -> Self {
        Self::new(meta.namespace.as_deref().unwrap_or_default(), meta.name.as_deref().unwrap_or_default())
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Name of the service for one port and one family of a Service: `default/web/https`, `default/web/https/v6`. What is
/// too long ends with a hash instead, the same on every node.
pub(super) fn service(key: &Key, port: &str, vip: IpAddr) -> String {
    let mut name = key.to_string();
    for part in [port, if vip.is_ipv6() { "v6" } else { "" }] {
        if !part.is_empty() {
            name.push('/');
            name.push_str(part);
        }
    }
    if name.len() <= LONGEST {
        return name;
    }
    let mut fnv = Fnv(0xcbf2_9ce4_8422_2325);
    fnv.write(name.as_bytes());
    // Names in Kubernetes are ASCII.
    let kept: String = name.chars().take(LONGEST - 17).collect();
    format!("{kept}~{:016x}", fnv.finish())
}

/// FNV-1a, whose values are the same in every release.
struct Fnv(u64);

impl std::hash::Hasher for Fnv {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}
