//! Entries of `pod_ports`: what leads where is there before its VIP, and goes after it.

use std::collections::BTreeMap;

use xdp_lb_common::{
    parse::{TCP, UDP, words},
    translate::PodPort,
};

use crate::{
    model::{self, Decap, Protocol},
    state::MapOp,
    template::map_address,
};

/// The entries: for each port, for its protocol and for the VIP at the pod.
pub(super) fn entries(decap: Option<&Decap>) -> BTreeMap<PodPort, u32> {
    let ports = decap.iter().flat_map(|decap| &decap.translate);
    let keys = |&model::PodPort { vip, protocol, port, pod, target }: &model::PodPort| {
        let [vip, pod] = [vip, pod].map(|address| words(&map_address(address)));
        let protocol = match protocol {
            Protocol::Tcp => TCP,
            Protocol::Udp => UDP,
        };
        [
            (PodPort::of(vip, pod, protocol, port.to_be_bytes()), target.into()),
            (PodPort::any(vip, pod, protocol), 0),
            (PodPort::any(vip, pod, 0), 0),
        ]
    };
    ports.flat_map(keys).collect()
}

/// Those that are new or lead elsewhere.
pub(super) fn puts(wanted: &BTreeMap<PodPort, u32>, live: &BTreeMap<PodPort, u32>) -> Vec<MapOp> {
    let differs = wanted.iter().filter(|(key, target)| live.get(key) != Some(target));
    differs.map(|(&key, &target)| MapOp::PutPodPort { key, target }).collect()
}

/// Those that nobody wants any more.
pub(super) fn drops(wanted: &BTreeMap<PodPort, u32>, live: &BTreeMap<PodPort, u32>) -> Vec<MapOp> {
    live.keys().filter(|key| !wanted.contains_key(key)).map(|&key| MapOp::DropPodPort { key }).collect()
}
