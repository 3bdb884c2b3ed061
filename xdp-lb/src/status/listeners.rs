//! Where services listen, recovered from what packets look up: the live VIP bank and its port pages.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use xdp_lb_common::vip::VIP_BALANCED;

use super::Listener;
use crate::{state::Observed, template::from_map};

/// Ports of one service on one VIP.
#[derive(Default)]
pub(super) struct Ports(BTreeSet<u16>);

impl Ports {
    pub(super) fn listener(&self, vip: IpAddr) -> Listener {
        // Only a service of the whole address takes port 0.
        if self.0.len() == 1 << 16 {
            return Listener { vip, ports: vec!["all".to_owned()] };
        }
        let mut ranges: Vec<(u16, u16)> = Vec::new();
        for &port in &self.0 {
            match ranges.last_mut() {
                Some((_, last)) if last.checked_add(1) == Some(port) => *last = port,
                _ => ranges.push((port, port)),
            }
        }
        let text = |(a, b)| if a == b { format!("{a}") } else { format!("{a}-{b}") };
        Listener { vip, ports: ranges.into_iter().map(text).collect() }
    }
}

/// VIPs of each service.
#[must_use]
pub fn vips(observed: &Observed) -> BTreeMap<u16, BTreeSet<IpAddr>> {
    listeners(observed).into_iter().map(|(id, vips)| (id, vips.into_keys().collect())).collect()
}

/// Where each service listens, as packets find it: by the live VIP bank and its pages.
pub(super) fn listeners(observed: &Observed) -> BTreeMap<u16, BTreeMap<IpAddr, Ports>> {
    let mut found: BTreeMap<u16, BTreeMap<IpAddr, Ports>> = BTreeMap::new();
    for vip in observed.vips.iter().filter(|vip| vip.flags & VIP_BALANCED != 0) {
        let roots = [vip.tcp_root, vip.udp_root].into_iter().filter_map(|root| observed.pages.get(&root));
        for (high, &leaf) in roots.flat_map(|root| (0u16..).zip(&root.values)) {
            let Some(page) = observed.pages.get(&u32::from(leaf)) else { continue };
            for (low, &id) in (0u16..).zip(&page.values).filter(|&(_, &id)| id != 0) {
                let ports = found.entry(id).or_default().entry(from_map(vip.address)).or_default();
                ports.0.insert(high << 8 | low);
            }
        }
    }
    found
}
