//! VIPs' ports at pods of this node, as the map has them.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::Serialize;
use xdp_lb_common::{parse::UDP, translate};

use super::word;
use crate::{model::Protocol, template::from_map};

/// Where a port of a VIP leads at a pod.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct PodPort {
    /// VIP.
    pub vip: IpAddr,
    /// Protocol.
    #[serde(serialize_with = "word")]
    pub protocol: Protocol,
    /// The VIP's port.
    pub port: u16,
    /// Pod's own address: where tunnels to it end.
    pub pod: IpAddr,
    /// What the pod listens on.
    pub target_port: u16,
}

/// Of the entries of `pod_ports`, without those that say only that there are others.
pub(super) fn ports(entries: &BTreeMap<translate::PodPort, u32>) -> Vec<PodPort> {
    let own = entries.iter().filter(|(key, _)| key.any == 0);
    let mut ports: Vec<PodPort> = own
        .map(|(key, &target)| PodPort {
            vip: from_map(key.vip),
            protocol: if key.protocol == UDP { Protocol::Udp } else { Protocol::Tcp },
            port: u16::from_be_bytes(key.port),
            pod: from_map(key.pod),
            target_port: target as u16,
        })
        .collect();
    ports.sort();
    ports
}

#[cfg(test)]
mod tests {
    use xdp_lb_common::parse::{TCP, words};

    use super::*;
    use crate::template::map_address;

    #[test]
    fn ports_are_shown_once_in_order() {
        let [vip, pod] = ["203.0.113.10", "10.244.1.7"].map(|a| words(&map_address(a.parse().unwrap())));
        let entries = BTreeMap::from([
            (translate::PodPort::of(vip, pod, UDP, 5060_u16.to_be_bytes()), 15060),
            (translate::PodPort::of(vip, pod, TCP, 443_u16.to_be_bytes()), 8443),
            (translate::PodPort::of(vip, pod, TCP, 80_u16.to_be_bytes()), 8080),
            (translate::PodPort::any(vip, pod, TCP), 0),
            (translate::PodPort::any(vip, pod, 0), 0),
        ]);
        let shown: Vec<_> = ports(&entries)
            .into_iter()
            .map(|p| format!("{} {:?} {} {} {}", p.vip, p.protocol, p.port, p.pod, p.target_port))
            .collect();
        assert_eq!(
            shown,
            [
                "203.0.113.10 Tcp 80 10.244.1.7 8080",
                "203.0.113.10 Tcp 443 10.244.1.7 8443",
                "203.0.113.10 Udp 5060 10.244.1.7 15060",
            ]
        );
    }
}
