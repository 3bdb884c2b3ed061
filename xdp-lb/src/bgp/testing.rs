//! Settings for the tests of this module, with everything at its default.

use std::time::Duration;

use super::settings::{Bgp, OnStop, Overrides, Peer, PeerLink, Unattractive, Vip, When};

pub(super) fn bgp(local_as: u32) -> Bgp {
    Bgp {
        local_as,
        router_id: "10.0.0.2".parse().unwrap(),
        restart_time: Some(Duration::from_secs(30)),
        withdraw_grace: Duration::from_secs(5),
        drain_time: Duration::ZERO,
        drain: Unattractive { prepend: 3, med: Some(u32::MAX), graceful_shutdown: true },
        on_stop: OnStop::Withdraw,
        attributes: Overrides::default(),
        aggregates: Vec::new(),
        peers: Vec::new(),
        vips: Vec::new(),
        status_file: "/nowhere".into(),
    }
}

pub(super) fn peer(address: &str, remote_as: u32) -> Peer {
    Peer {
        link: PeerLink {
            address: address.parse().unwrap(),
            port: 179,
            remote_as,
            password: None,
            hold_time: 9,
            send_hold_time: Duration::from_secs(480),
            hops: 1,
            gtsm: false,
            source: None,
            interface: None,
            ipv4: true,
            ipv6: true,
            max_received: 100,
        },
        attributes: Overrides::default(),
        next_hop_v4: None,
        next_hop_v6: None,
        bfd: None,
    }
}

pub(super) fn vip(address: &str, services: &[(&str, When)]) -> Vip {
    Vip {
        address: address.parse().unwrap(),
        join: Default::default(),
        services: services.iter().map(|(name, when)| ((*name).to_owned(), *when)).collect(),
        attributes: Overrides::default(),
    }
}
