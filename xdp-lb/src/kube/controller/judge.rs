//! What an edge node will say of a Service's policy, said where `kubectl describe service` shows it.
//!
//! The same code judges it, with an edge node's file in which nothing is missing; what depends on a node, its tunnels'
//! sources or the endpoints, is in that node's log alone.

use k8s_openapi::api::core::v1 as core;

use crate::config;
use crate::kube::note::Note;
use crate::kube::{Cluster, Settings};
use crate::model::Inherited;

/// An edge node that can do everything.
const FILE: &str = "
version: 1
node: { zone: a }
interfaces: [{ name: eth0 }]
encap: { source_v4: 172.16.0.0/16, source_v6: 'fd00:7864:7000::/64' }
maglev: { seed: 1 }
services: []
";

/// Reasons of notes that hold for every edge node.
const SAID: [&str; 3] = ["ClientAddressHidden", "InvalidPolicy", "UnsupportedProtocol"];

/// Judges policies.
#[derive(Clone, Debug)]
pub struct Judge(Inherited);

impl Judge {
    /// From our own file.
    ///
    /// # Errors
    /// Never, as a test knows.
    pub fn new() -> Result<Self, Vec<config::ConfigError>> {
        Ok(Self(config::parse(FILE)?.desired.inherited))
    }

    /// Notes about a Service that do not depend on a node or on endpoints, as if it had an address.
    pub(super) fn notes(&self, service: &core::Service, settings: &Settings) -> Vec<Note> {
        let mut service = service.clone();
        let ingress = |ip: &str| core::LoadBalancerIngress { ip: Some(ip.to_owned()), ..Default::default() };
        let balancer = core::LoadBalancerStatus { ingress: Some(vec![ingress("192.0.2.1")]) };
        service.status = Some(core::ServiceStatus { load_balancer: Some(balancer), ..Default::default() });
        let mut cluster = Cluster::new(settings.clone());
        let _ = cluster.service(&service);
        let notes = cluster.map(&self.0).notes.into_iter().map(|(_, note)| note);
        let notes = notes.filter(|note| SAID.contains(&note.reason));
        let untimely = |note: Note| {
            let message = note.message.strip_suffix("; not balanced").map(str::to_owned);
            Note { message: message.unwrap_or(note.message), ..note }
        };
        notes.map(untimely).collect()
    }
}
