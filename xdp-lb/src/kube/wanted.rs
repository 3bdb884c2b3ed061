//! A Service of ours, folded: addresses, ports, policy.

use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1 as core;

use super::Settings;
use super::note::Note;
use super::policy::{self, Policy};
use crate::config::import::Complaint;
use crate::model::{Delivery, Protocol};

/// What we keep of a Service.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Wanted {
    /// Seconds since 1970: who is older comes first.
    pub created: i64,
    /// Sorted. Empty: nobody has given it an address yet.
    pub vips: Vec<IpAddr>,
    pub ports: Vec<Port>,
    pub policy: Result<Arc<Policy>, Vec<Complaint>>,
    pub not_ready_too: bool,
    pub notes: Vec<Note>,
}

/// A port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Port {
    pub name: String,
    pub protocol: Protocol,
    pub port: u16,
}

impl Wanted {
    /// `None`: not ours, or on its way out.
    pub fn of(service: &core::Service, settings: &Settings) -> Option<Self> {
        let spec = service.spec.as_ref()?;
        let class = spec.load_balancer_class.as_deref();
        let is_ours = class.map_or(settings.classless, |class| class == settings.class);
        if spec.type_.as_deref() != Some("LoadBalancer")
            || !is_ours
            || service.metadata.deletion_timestamp.is_some()
        {
            return None;
        }
        let mut notes = Vec::new();
        let status = service.status.as_ref().and_then(|status| status.load_balancer.as_ref());
        let ingress = status.into_iter().flat_map(|status| status.ingress.iter().flatten());
        let mut vips: Vec<IpAddr> = ingress.filter_map(|ingress| ingress.ip.as_ref()?.parse().ok()).collect();
        vips.sort_unstable();
        vips.dedup();
        let ports = spec.ports.iter().flatten().filter_map(|port| read(port, &mut notes)).collect();
        let policy = policy::policy(service).map(Arc::new);
        let is_local = spec.external_traffic_policy.as_deref() == Some("Local");
        let delivery = policy.as_ref().map_or(settings.delivery, |policy| policy.delivery(settings));
        // No service proxy is on the way to a pod.
        if !is_local && delivery != Delivery::Pod {
            notes.push(Note::normal(
                "ClientAddressHidden",
                "externalTrafficPolicy is Cluster: the service proxy of the node puts its own address in the client's place and may send \
                 packets on to another node; Local keeps both",
            ));
        }
        Some(Self {
            created: service.metadata.creation_timestamp.as_ref().map_or(0, |time| time.0.as_second()),
            vips,
            ports,
            policy,
            not_ready_too: spec.publish_not_ready_addresses == Some(true),
            notes,
        })
    }
}

fn read(port: &core::ServicePort, notes: &mut Vec<Note>) -> Option<Port> {
    let protocol = match port.protocol.as_deref() {
        None | Some("TCP") => Protocol::Tcp,
        Some("UDP") => Protocol::Udp,
        Some(other) => {
            let message = format!("port {}: {other} is not balanced, TCP and UDP are", port.port);
            notes.push(Note::warning("UnsupportedProtocol", message));
            return None;
        }
    };
    let number = u16::try_from(port.port).ok()?;
    Some(Port { name: port.name.clone().unwrap_or_default(), protocol, port: number })
}
